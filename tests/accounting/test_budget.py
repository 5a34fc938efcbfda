"""A budget: never overdrawn, first come first served, and nobody waits for what cannot come."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Callable

import pytest

from bulkllm.accounting import Amount, Budget, Hold, UsageRecord, UsageTracker, active_budgets, in_order
from bulkllm.errors import BudgetExceeded, ConfigError, LimitTimeout


def in_child(check: Callable[[], bool]) -> bool:
    """What a forked child finds; one that hangs is ended."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        found = False
        try:
            found = check()
        finally:
            os._exit(0 if found else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_estimate_is_held_and_the_real_cost_spent() -> None:
    budget = Budget(1.00)
    with budget.hold(cost=0.40) as hold:
        assert budget.held.cost == pytest.approx(0.40)
        hold.settle(cost=0.10)
    assert budget.held.cost == pytest.approx(0.0)
    assert budget.spent == pytest.approx((0.10, 0.0, 1.0))


def test_an_unknown_charge_counts_as_estimated() -> None:
    budget = Budget(1.00, max_tokens=1000)
    with budget.hold(cost=0.40, tokens=100):
        pass
    assert budget.spent == Amount(0.40, 100, 1)


def test_a_call_that_was_not_made_costs_nothing() -> None:
    budget = Budget(max_requests=1)
    hold = budget.hold().acquire()
    hold.refund()
    hold.settle(cost=5)  # too late: nothing changes
    assert budget.spent == Amount(0, 0, 0)


def test_what_leaves_no_room_is_refused_before_it_is_made() -> None:
    budget = Budget(1.00)
    budget.add(cost=0.95)
    with pytest.raises(BudgetExceeded, match=r"\$0.95 of \$1 is spent, the call may take \$0.1"):
        budget.hold(cost=0.10).acquire()
    with budget.hold(cost=0.05) as hold:
        hold.settle(cost=0.05)
    assert budget.held.cost == pytest.approx(0)


async def test_a_call_waits_while_money_that_is_held_could_come_free() -> None:
    budget = Budget(1.00)
    first = budget.hold(cost=0.90).acquire()
    second = asyncio.create_task(budget.hold(cost=0.50).aacquire())
    third = asyncio.create_task(budget.hold(cost=0.05).aacquire())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not second.done()
    assert not third.done(), "it overtook the one before it"
    first.settle(cost=0.10)
    (await second).settle(cost=0.50)
    (await third).settle(cost=0.05)
    assert budget.spent.cost == pytest.approx(0.65)


async def test_whoever_waits_is_refused_when_the_money_is_gone_for_good() -> None:
    budget = Budget(1.00)
    first = budget.hold(cost=0.90).acquire()
    waiting = asyncio.create_task(budget.hold(cost=0.50).aacquire())
    small = asyncio.create_task(budget.hold(cost=0.05).aacquire())
    await asyncio.sleep(0)
    first.settle(cost=0.80)
    with pytest.raises(BudgetExceeded):
        await waiting
    (await small).settle(cost=0.05)


async def test_a_cancelled_wait_holds_nothing_and_nobody_up() -> None:
    budget = Budget(max_requests=1)
    first = budget.hold().acquire()
    waiting = [asyncio.create_task(budget.hold().aacquire()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    first.refund()
    (await waiting[1]).refund()
    (await waiting[2]).refund()
    assert budget.held == Amount(0, 0, 0)


def test_a_loop_that_closed_while_it_waited_holds_nobody_up() -> None:
    budget = Budget(max_requests=1)
    first = budget.hold().acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(budget.hold().aacquire())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    done = threading.Event()

    def after() -> None:
        budget.hold().acquire().refund()
        done.set()

    thread = threading.Thread(target=after)
    thread.start()
    first.refund()
    assert done.wait(10)
    thread.join()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be lost
    del task
    gc.collect()
    assert budget.held == Amount(0, 0, 0)


def test_a_dropped_hold_counts_as_spent() -> None:
    budget = Budget(1.00)
    hold: Hold | None = budget.hold(cost=0.30).acquire()
    assert hold is not None
    hold = None
    gc.collect()
    assert budget.spent.cost == pytest.approx(0.30)


def test_many_threads_never_hold_or_spend_more_than_there_is() -> None:
    budget = Budget(1.00)
    refused = []
    over = []

    def work(seed: int) -> None:
        numbers = random.Random(seed)  # noqa: S311 - a test's dice
        for _ in range(300):
            try:
                with budget.hold(cost=0.05) as hold:
                    with budget._mailbox:  # both at one moment
                        taken = budget._taken()[0]
                    if taken > 1.00 + 1e-9:
                        over.append(seed)
                    hold.settle(cost=numbers.random() * 0.002)
            except BudgetExceeded:
                refused.append(seed)
                return

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert over == []
    assert refused, "2.4 dollars went into a budget of 1"
    assert 0.95 <= budget.spent.cost <= 1.00
    assert budget.held.cost == pytest.approx(0)


@pytest.mark.parametrize("wrong", [{}, {"max_cost": 0}, {"max_tokens": -1}, {"max_requests": True}])
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Budget"):
        Budget(**wrong)  # type: ignore[arg-type]  # that is the point


def test_repr_tells_the_limits() -> None:
    assert repr(Budget(5, max_requests=10)) == "Budget(max_cost=5, max_requests=10)"


# -- scopes, sources and what is likely ----------------------------------------------------------------------


def test_scopes_nest_and_end() -> None:
    outer, inner = Budget(1.00), Budget(max_requests=5)
    with outer:
        with inner, outer:
            assert active_budgets() == (outer, inner)
        assert active_budgets() == (outer,)
    assert active_budgets() == ()
    assert in_order(inner, outer, inner) == (outer, inner)


async def test_two_tasks_may_be_inside_one_budget_and_leave_in_any_order() -> None:
    budget = Budget(1.00)
    inside, leave = asyncio.Event(), asyncio.Event()

    async def stay() -> tuple[Budget, ...]:
        async with budget:
            inside.set()
            await leave.wait()
        return active_budgets()

    task = asyncio.create_task(stay())
    await inside.wait()
    assert active_budgets() == ()
    with budget:
        leave.set()
        assert await task == ()
        assert active_budgets() == (budget,)


def test_what_a_source_has_used_counts_once_and_grows() -> None:
    budget = Budget(10.00)
    budget.carry("a", Amount(1.00, 100, 10))
    budget.carry("a", Amount(1.00, 100, 10))
    budget.carry("b", Amount(2.00, 0, 1))
    assert budget.spent == pytest.approx((3.00, 100, 11))
    budget.add(cost=0.50)
    budget.carry("a", Amount(1.50, 100, 10), counted=True)
    budget.carry("a", Amount(1.75, 100, 10))
    assert budget.spent == pytest.approx((3.75, 100, 11))
    budget.carry("a", Amount(0.10, 0, 0))  # a file that was begun anew: what was spent stays spent
    budget.carry("a", Amount(1.75, 100, 10))
    assert budget.spent == pytest.approx((3.75, 100, 11))


def test_what_remains_is_neither_spent_nor_held() -> None:
    budget = Budget(1.00)
    budget.add(cost=0.25)
    with budget.hold(cost=0.50):
        assert budget.remaining == pytest.approx((0.25, float("inf"), float("inf")))
    budget.add(cost=5.00)
    assert budget.remaining.cost == 0.0


def test_what_is_likely_goes_alone_where_the_most_does_not_fit() -> None:
    budget = Budget(1.00)
    first = budget.hold(cost=50.00, likely=Amount(0.10)).acquire()
    with pytest.raises(LimitTimeout, match="more is held by calls under way"):
        budget.hold(cost=0.01).acquire(timeout=0)
    first.settle()
    assert budget.spent == Amount(0.10, 0, 1)
    both = [budget.hold(cost=0.40, likely=Amount(0.01)).acquire() for _ in range(2)]
    for hold in both:
        hold.settle(cost=0.42)
    with pytest.raises(BudgetExceeded, match=r"the call may take \$0.1"):
        budget.hold(cost=50.00, likely=Amount(0.10)).acquire()


@pytest.mark.parametrize("in_task", [False, True], ids=["thread", "task"])
def test_a_wait_that_is_over_holds_nothing(in_task: bool) -> None:
    budget = Budget(max_requests=1)
    first = budget.hold().acquire()

    def wait() -> None:
        if in_task:
            asyncio.run(budget.hold().aacquire(timeout=0.01))
        else:
            budget.hold().acquire(timeout=0.01)

    with pytest.raises(LimitTimeout, match=r"within 0\.01 s"):
        wait()
    first.refund()
    budget.hold().acquire(timeout=0.01).refund()
    assert not any((*budget.held, *budget.spent))


def test_roundings_do_not_add_up() -> None:
    budget = Budget(1.00)
    for _ in range(1000):
        holds = [budget.hold(cost=cost).acquire() for cost in (0.1, 0.2, 0.3)]
        for hold in holds:
            hold.refund()
    assert budget.held.cost == 0.0
    with budget.hold(cost=1.00):
        assert budget.held.cost == 1.00


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_what_is_spent_and_nothing_of_what_is_under_way() -> None:
    budget = Budget(1.00)
    with budget.hold(cost=0.30):
        pass
    held = budget.hold(cost=0.60).acquire()

    def waiting_in_line() -> None:
        with pytest.raises(BudgetExceeded):
            budget.hold(cost=0.50).acquire()

    thread = threading.Thread(target=waiting_in_line)
    thread.start()
    while not budget._queue:
        thread.join(0.005)

    def the_childs() -> bool:
        begins = not any(budget.held) and budget.spent.cost == pytest.approx(0.30)
        with budget.hold(cost=0.65):  # while the parent's call is under way, and nobody is before it
            alone = budget.held.cost == pytest.approx(0.65)
            held.settle(cost=0.60)
        return begins and alone and not any(budget.held) and budget.spent == pytest.approx((0.95, 0, 2))

    assert in_child(the_childs)
    assert budget.held.cost == pytest.approx(0.60)
    held.settle(cost=0.60)
    thread.join(20)
    assert budget.spent == pytest.approx((0.90, 0, 2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_another_thread_has_the_books_reads_its_own() -> None:
    budget, tracker = Budget(1.00), UsageTracker()
    inside, over = threading.Event(), threading.Event()

    def read() -> None:
        with budget._mailbox, tracker._mailbox:
            inside.set()
            over.wait(60)

    thread = threading.Thread(target=read)
    thread.start()
    assert inside.wait(20)
    budget.add(cost=0.10)  # the parent's to take in
    tracker.record(UsageRecord(model="openai/m"))

    def the_childs() -> bool:
        budget.add(cost=0.20)
        tracker.record(UsageRecord(model="openai/m"))
        return budget.spent.cost == pytest.approx(0.20) and tracker.total.requests == 1

    try:
        assert in_child(the_childs)
    finally:
        over.set()
        thread.join()
    assert budget.spent.cost == pytest.approx(0.10)
    assert tracker.total.requests == 1
