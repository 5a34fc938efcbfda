from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from bulkllm.errors import ImpossibleRequest
from bulkllm.limits.core import Core
from bulkllm.limits.lanes import GRANTED, NEW, SETTLED, WAITING, Lane, Ticket
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import profile_for
from bulkllm.limits.spec import RateLimit, Window
from bulkllm.limits.word import Word

A_BIT = 1e-6


class World:
    """The core on a virtual clock: nothing happens but what a test does and what the alarms bring."""

    def __init__(self, *limits: RateLimit) -> None:
        self.core = Core(limits)
        self.now = 1_000.0
        self.log: list[tuple[str, float]] = []
        self._names: dict[Ticket, str] = {}

    def ask(
        self, name: str, model: str = "m", *, tokens: float = 0, priority: float = 0, front: bool = False
    ) -> Ticket:
        ticket = Ticket(self.core.lane(model), (1.0, tokens, tokens, 0.0))
        self._names[ticket] = name
        at_once = self.core.request(ticket, self.now, priority=priority, front=front)
        assert at_once == (ticket.state == GRANTED)
        if at_once and ticket not in self.core.granted:
            self._granted(ticket)
        self._collect()
        return ticket

    def ask_many(self, names: Iterable[str], model: str = "m", *, tokens: float = 0) -> list[Ticket]:
        return [self.ask(name, model, tokens=tokens) for name in names]

    def settle(self, ticket: Ticket, tokens: float | None = None) -> None:
        self.core.settle(ticket, self.now, None if tokens is None else (1.0, tokens, tokens, 0.0))
        self._collect()

    def run(self, until: float = math.inf) -> None:
        """Jump from alarm to alarm, as the alarm's thread would if it were never late."""
        for _ in range(100_000):
            at = self.core.next_alarm()
            if at == math.inf or at > until:
                break
            assert at >= self.now, "an alarm lies in the past and was not seen to"
            self.now = at
            self.core.due(at)
            assert self.core.next_alarm() > self.now, "an alarm that would ring again and again at one moment"
            self._collect()
        else:
            pytest.fail("the alarms do not come to an end")
        if until < math.inf:
            self.now = max(self.now, until)

    def after(self, seconds: float) -> None:
        """Let some time pass, alarms included."""
        self.run(until=self.now + seconds)

    def at(self, name: str) -> float:
        """When a request was granted, in seconds since the beginning; infinity if it was not."""
        return next((at - 1_000.0 for who, at in self.log if who == name), math.inf)

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.log]

    def _collect(self) -> None:
        granted, self.core.granted = self.core.granted, []
        for ticket in granted:
            self._granted(ticket)

    def _granted(self, ticket: Ticket) -> None:
        assert ticket.state == GRANTED
        self.log.append((self._names[ticket], self.now))
        self.core.stamp(ticket, self.now)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


# -- one queue ---------------------------------------------------------------------------------------------------


def test_first_come_first_served_at_the_ideal_times() -> None:
    world = World(RateLimit(rpm=600, burst=1))
    world.ask_many(names("r", 200))
    world.run()
    assert world.order == names("r", 200)
    for index in range(200):
        assert world.at(f"r{index}") == pytest.approx(index * 0.1, abs=A_BIT)


def test_a_burst_first_and_the_rate_after() -> None:
    world = World(RateLimit(rpm=60, burst=5))
    world.ask_many(names("r", 8))
    world.run()
    assert [world.at(f"r{index}") for index in range(8)] == pytest.approx([0, 0, 0, 0, 0, 1, 2, 3], abs=A_BIT)


def test_the_users_burst_may_exceed_a_periods_quota() -> None:
    world = World(RateLimit(rpm=2, period=1.0, burst=6))
    world.ask_many(names("r", 7))
    assert world.order == names("r", 6)


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_burst_bounds_requests_a_minute_and_not_the_days_quota(window: Window) -> None:
    world = World(RateLimit(rpm=600, rpd=1000, burst=2, window=window))
    world.ask_many(names("r", 100))
    world.run()
    assert world.at("r99") == pytest.approx(9.8, abs=A_BIT)


def test_all_dimensions_are_taken_at_once_or_none() -> None:
    world = World(RateLimit(rpm=60, itpm=600, otpm=60))
    lane = world.core.lane("m")
    first = Ticket(lane, (1.0, 660.0, 600.0, 60.0))
    assert world.core.request(first, world.now)
    second = Ticket(lane, (1.0, 310.0, 300.0, 10.0))
    third = Ticket(lane, (1.0, 0.0, 0.0, 0.0))
    assert not world.core.request(second, world.now)
    assert not world.core.request(third, world.now), "it stands behind the second in all dimensions"
    left = {meter.name: meter.remaining(world.now) for meter in world.core.pools[0].meters}
    assert left == {"rpm": 59.0, "itpm": 0.0, "otpm": 0.0}, "a ticket that waits holds nothing"
    assert world.core.next_alarm() == pytest.approx(1_030.0, abs=A_BIT), "the slowest of its dimensions"


def test_the_tightest_of_several_limits_on_one_model_counts() -> None:
    world = World(RateLimit("*", rpm=6000, burst=1), RateLimit("gpt-*", rpm=60, burst=1), RateLimit("gpt-5", rpm=30))
    world.ask_many(names("r", 34), "openai/gpt-5")
    world.run()
    assert world.at("r29") == pytest.approx(29.0, abs=A_BIT)
    assert world.at("r33") == pytest.approx(33.0, abs=A_BIT), "the burst of 30 has refilled meanwhile"
    assert all(pool.in_flight == 34 for pool in world.core.pools)


def test_max_in_flight_waits_for_an_event_and_not_for_a_time() -> None:
    world = World(RateLimit(max_in_flight=2))
    first, second, *_ = world.ask_many(names("r", 4))
    world.run()
    assert world.order == ["r0", "r1"]
    assert world.core.next_alarm() == math.inf
    world.settle(second, tokens=0)
    assert world.order == ["r0", "r1", "r2"]
    world.settle(second, tokens=0)
    assert world.order == ["r0", "r1", "r2"], "settling twice changes nothing"
    world.settle(first)
    assert world.order == ["r0", "r1", "r2", "r3"]


def test_the_days_quota_ends_the_day() -> None:
    world = World(RateLimit(rpm=600, rpd=20, tpd=1_000_000))
    world.ask_many(names("r", 21))
    world.run()
    assert world.at("r19") == 0.0
    assert world.at("r20") == pytest.approx(86_400 / 20, abs=A_BIT)
    sliding = World(RateLimit(rpm=600, rpd=20, window="sliding"))
    sliding.ask_many(names("r", 21))
    sliding.run()
    assert sliding.at("r20") == pytest.approx(86_400, abs=A_BIT)


def test_a_request_larger_than_the_bucket_runs_when_it_is_full_and_leaves_a_debt() -> None:
    world = World(RateLimit(rpm=0.5, period=1.0))  # one request is two seconds' worth and the bucket holds one
    world.ask_many(names("r", 3))
    world.run()
    assert [world.at(f"r{index}") for index in range(3)] == pytest.approx([0, 2, 4], abs=A_BIT)


def test_what_no_wait_can_ever_serve_is_refused_and_leaves_no_trace() -> None:
    world = World(RateLimit(tpm=1000, name="mine"), RateLimit(tpd=5000))
    with pytest.raises(ImpossibleRequest, match=r"needs 1001 of tpm, but limit 'mine' gives 1000 in all"):
        world.ask("large", tokens=1001)
    with pytest.raises(ImpossibleRequest):
        world.core.try_request(Ticket(world.core.lane("m"), (1.0, 1001.0, 0.0, 0.0)), world.now)
    assert world.core.waiting == world.core.in_flight == 0
    world.ask("fits", tokens=1000)
    assert world.at("fits") == 0.0


def test_usage_above_the_estimate_is_a_debt_for_the_next() -> None:
    world = World(RateLimit(tpm=600))
    first = world.ask("first", tokens=100)
    world.settle(first, tokens=900)  # 300 too many: half a minute
    world.ask("next", tokens=60)
    world.run()
    assert world.at("next") == pytest.approx(36.0, abs=A_BIT)


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_refund_wakes_whoever_waits_for_it(window: Window) -> None:
    world = World(RateLimit(tpm=600, window=window))
    first = world.ask("first", tokens=600)
    world.ask("second", tokens=300)
    assert world.order == ["first"]
    world.settle(first, tokens=290)
    assert world.order == ["first", "second"]


def test_a_sliding_window_waits_until_what_is_pending_was_sent() -> None:
    world = World(RateLimit(rpm=1, window="sliding"))
    ticket = Ticket(world.core.lane("m"), (1.0, 0.0, 0.0, 0.0))
    assert world.core.request(ticket, world.now)  # granted, not stamped: its owner has not woken yet
    world.ask("next")
    world.after(100)
    assert world.order == []
    assert world.core.next_alarm() == math.inf, "nobody can tell when that will be"
    world.core.stamp(ticket, world.now)
    world.run()
    assert world.at("next") == pytest.approx(160.0, abs=A_BIT)


def test_the_latest_stamp_holds() -> None:
    world = World(RateLimit(rpm=2, window="sliding"))
    first = world.ask("first")
    world.after(10)
    world.core.stamp(first, world.now)
    world.after(10)
    world.core.stamp(first, world.now)
    world.ask_many(["second", "third"])
    world.run()
    assert world.at("second") == 20.0, "the first counts once"
    assert world.at("third") == pytest.approx(80.0, abs=A_BIT)


def test_a_call_that_ended_and_was_never_stamped_counts_from_its_end() -> None:
    world = World(RateLimit(rpm=1, window="sliding"))
    ticket = Ticket(world.core.lane("m"), (1.0, 0.0, 0.0, 0.0))
    world.core.request(ticket, world.now)
    world.after(50)
    world.settle(ticket, tokens=0)
    world.ask("next")
    world.run()
    assert world.at("next") == pytest.approx(110.0, abs=A_BIT)


# -- leaving the queue -------------------------------------------------------------------------------------------


def test_whoever_leaves_the_middle_of_the_queue_takes_nobodys_turn() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    tickets = world.ask_many(names("r", 9))
    for index in (1, 4, 5, 8):
        world.settle(tickets[index])
    assert world.core.waiting == 4
    world.run()
    assert world.order == ["r0", "r2", "r3", "r6", "r7"]
    assert world.at("r7") == pytest.approx(4.0, abs=A_BIT)


def test_when_the_head_leaves_the_next_is_seen_to_at_once() -> None:
    world = World(RateLimit(tpm=600))
    world.ask("first", tokens=590)
    large = world.ask("large", tokens=600)
    world.ask("small", tokens=10)
    assert world.order == ["first"], "the large one is not overtaken"
    world.settle(large)
    assert world.order == ["first", "small"]


def test_whoever_comes_after_a_queue_dissolved_is_seen_to() -> None:
    world = World(RateLimit(tpm=600))
    world.ask("drain", tokens=600)
    gone = world.ask("gone", tokens=10)
    world.settle(gone)
    world.after(2)  # its alarm has rung for nobody
    world.ask("next", tokens=100)
    world.run()
    assert world.at("next") == pytest.approx(10.0, abs=A_BIT)


def test_those_who_left_are_swept_out_of_the_queue() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    world.ask("first")
    tickets = world.ask_many(names("r", 2_000))
    for ticket in tickets[1:]:
        world.settle(ticket)
    assert len(world.core.lane("m").queue) < 20
    assert world.core.waiting == 1


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    world = World(RateLimit(tpm=600))
    world.ask("drain", tokens=600)
    world.ask_many(names("a", 3), tokens=10)
    world.ask("large", tokens=600)
    world.ask_many(names("b", 50), tokens=10)
    world.run()
    assert world.at("large") == pytest.approx(63.0, abs=A_BIT)
    assert world.order[4:6] == ["large", "b0"]


def test_whoever_is_passed_over_lets_the_next_go_and_keeps_its_place() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    world.ask("first")
    away, _, last = world.ask_many(["away", "b", "c"])
    world.after(1)
    assert world.order == ["first", "away"]
    world.core.pass_over(away, world.now)
    world._collect()
    assert world.order == ["first", "away", "b"], "at the very moment"
    assert away.state == NEW
    world.core.resume(away, world.now)
    world.core.resume(away, world.now)
    world.run()
    assert world.order == ["first", "away", "b", "away", "c"]
    assert last.state == GRANTED
    world.core.settle(away, world.now, None)
    assert world.core.in_flight == 3


def test_whoever_leaves_while_passed_over_stays_out() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    world.ask("first")
    away = world.ask("away")
    world.after(1)
    world.core.pass_over(away, world.now)
    world.settle(away)
    world.core.resume(away, world.now)
    assert away.state == SETTLED
    assert world.core.waiting == 0
    assert world.core.in_flight == 1


def test_after_a_fork_nobody_is_left_in_line() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    _, waiting = world.ask_many(["first", "second"])
    world.core.forget_waiters()
    world.settle(waiting)  # a copy of its coroutine is collected in the child
    assert world.core.waiting == 0
    assert world.core.next_alarm() == math.inf


# -- trying ------------------------------------------------------------------------------------------------------


def test_trying_overtakes_nobody_and_waits_for_nothing() -> None:
    world = World(RateLimit(rpm=60, tpm=600))
    lane = world.core.lane("m")
    assert world.core.try_request(Ticket(lane, (1.0, 500.0, 0.0, 0.0)), world.now)
    assert not world.core.try_request(Ticket(lane, (1.0, 200.0, 0.0, 0.0)), world.now)
    world.ask("waits", tokens=200)
    small = Ticket(lane, (1.0, 1.0, 0.0, 0.0))
    assert not world.core.try_request(small, world.now)
    assert small.state == SETTLED
    world.run()
    assert world.at("waits") == pytest.approx(10.0, abs=A_BIT), "those who tried cost it nothing"
    assert world.core.waiting == 0
    assert world.core.in_flight == 2


def test_trying_succeeds_where_the_queue_waits_for_another_limit() -> None:
    world = World(RateLimit("slow", rpm=1, burst=1), RateLimit("*", rpm=600))
    world.ask_many(["a", "b"], "slow")
    assert world.core.try_request(Ticket(world.core.lane("fast"), (1.0, 0.0, 0.0, 0.0)), world.now)
    assert not world.core.try_request(Ticket(world.core.lane("slow"), (1.0, 0.0, 0.0, 0.0)), world.now)


# -- priorities --------------------------------------------------------------------------------------------------


def test_a_priority_goes_before_those_who_came_within_the_last_minute() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    world.ask_many(names("r", 4))
    world.ask("urgent", priority=1)
    world.ask("later", priority=-1)
    world.ask("last")
    world.run()
    assert world.order == ["r0", "urgent", "r1", "r2", "r3", "last", "later"]


def test_no_stream_of_priorities_starves_a_row() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    world.ask("first")
    world.ask("row")
    for index in range(300):  # as many as the limit lets through, all before the row
        world.ask(f"urgent{index}", priority=1)
        world.after(1)
    assert 59 <= world.at("row") <= 62, "a level is worth a minute, and no more"


def test_a_retry_goes_to_the_front() -> None:
    world = World(RateLimit(rpm=60, burst=1))
    world.ask_many(names("r", 3))
    world.ask("urgent", priority=5)
    world.ask("retry", front=True)
    world.ask("retry too", front=True)
    world.run()
    assert world.order == ["r0", "retry", "retry too", "urgent", "r1", "r2"]


# -- limits that overlap -----------------------------------------------------------------------------------------

SLOW = RateLimit("openai/gpt-5*", rpm=60, burst=1)
FAST = RateLimit("openai/*", rpm=600, burst=1)


def test_neither_of_two_overlapping_limits_idles_for_the_others_queue() -> None:
    world = World(SLOW, FAST)
    world.ask_many(names("slow", 60), "openai/gpt-5-mini")
    world.ask_many(names("fast", 540), "openai/o3")
    world.run()
    assert [name for name in world.order if name.startswith("slow")] == names("slow", 60)
    assert [name for name in world.order if name.startswith("fast")] == names("fast", 540)
    assert world.at("slow59") == pytest.approx(59.0, abs=0.11), "its own limit is never idle"
    last = max(at for _, at in world.log) - 1_000.0
    assert last == pytest.approx(59.9, abs=0.11), "and neither is the wide one: 600 at ten a second"


def test_a_queue_for_the_wide_limit_does_not_starve_the_narrow_one() -> None:
    world = World(SLOW, FAST)
    world.ask_many(names("fast", 300), "openai/o3")
    world.ask_many(names("slow", 5), "openai/gpt-5-mini")
    world.run()
    assert world.at("slow0") == pytest.approx(30.0, abs=0.11), "in its turn"
    assert world.at("slow4") == pytest.approx(34.0, abs=0.11)


def test_a_limit_is_free_for_others_as_soon_as_it_lets_go_of_the_head() -> None:
    world = World(RateLimit("a*", rpm=60, burst=1), RateLimit("*b", rpm=6, burst=1))
    world.ask_many(["first", "both"], "ab")
    world.ask_many(["only0", "only1", "only2"], "a")
    world.run()
    assert [world.at(f"only{index}") for index in range(3)] == pytest.approx([1, 2, 3], abs=A_BIT)
    assert world.at("both") == pytest.approx(10.0, abs=A_BIT)


def test_a_limit_is_free_for_others_while_the_head_waits_for_an_event_elsewhere() -> None:
    world = World(RateLimit("a*", rpm=60, burst=1), RateLimit("*b", max_in_flight=1))
    world.ask_many(["first", "both"], "ab")
    world.ask("only", "a")
    world.run()
    assert world.at("only") == pytest.approx(1.0, abs=A_BIT)
    assert world.at("both") == math.inf


def test_a_limit_is_free_for_others_while_the_head_stands_behind_somebody_elsewhere() -> None:
    world = World(RateLimit("a*", tpm=600), RateLimit("*b", tpm=600))
    world.ask("drain a", "a", tokens=600)
    world.ask("drain b", "b", tokens=600)
    world.ask("large", "a", tokens=600)
    world.ask("both", "ab", tokens=50)
    world.ask("only", "b", tokens=100)
    world.run()
    assert world.at("only") == pytest.approx(10.0, abs=A_BIT)
    assert world.at("large") == pytest.approx(60.0, abs=A_BIT)
    assert world.at("both") == pytest.approx(65.0, abs=A_BIT)


def test_in_each_limit_nobody_overtakes_whom_it_holds_up() -> None:
    world = World(RateLimit("a*", tpm=600), RateLimit("*b", tpm=600))
    world.ask("drain", "a", tokens=600)
    world.ask("both", "ab", tokens=300)
    world.ask("small", "a", tokens=1)
    world.ask("other", "b", tokens=1)
    assert world.order == ["drain", "other"], "held up by the one limit, it holds up only there"
    world.run()
    assert world.order == ["drain", "other", "both", "small"]


def test_those_who_pass_a_waiter_by_stop_when_the_limit_holds_it_up_again() -> None:
    world = World(RateLimit("a*", tpm=600), RateLimit("*b", max_in_flight=1))
    world.ask("running", "b")
    drain = world.ask("drain", "a", tokens=600)
    world.ask("both", "ab", tokens=300)
    world.ask_many(names("small", 6), "a", tokens=100)
    world.settle(drain)  # now only the other limit holds it up
    assert world.order == ["running", "drain", "small0", "small1", "small2", "small3"]
    world.run()
    assert [world.at("small4"), world.at("small5")] == pytest.approx([10.0, 20.0], abs=A_BIT)


def keep_busy(world: World, model: str, tokens: float, until: float, asked_for: list[int]) -> None:
    """Keep two requests in line for a model, as a queue without end would."""
    while world.core.lane(model).waiting < 2 and world.now < until:
        asked_for[0] += 1
        world.ask(f"{model}{asked_for[0]}", model, tokens=tokens)


@pytest.mark.parametrize("tokens", [90.0, 100.0])
def test_whoever_needs_two_busy_limits_gets_them_in_the_end(tokens: float) -> None:
    # Each limit alone refills enough for the large request, and is drained again by its own queue while the other
    # refills: out of step, so that the two are never full at the same moment by themselves.
    world = World(RateLimit("a*", tpm=100, period=10.0), RateLimit("*b", tpm=100, period=10.0))
    world.ask("drain a", "a", tokens=100)
    world.after(5)
    world.ask("drain b", "b", tokens=100)
    world.ask("both", "ab", tokens=tokens)
    count = [0]
    while world.at("both") == math.inf and world.now < 1_500:
        keep_busy(world, "a", 20.0, math.inf, count)
        keep_busy(world, "b", 20.0, math.inf, count)
        world.run(until=world.core.next_alarm())
    assert world.at("both") < 60.0
    assert any(name.startswith("a") for name in world.order), "the others went on meanwhile"


def test_whoever_lost_a_turn_here_and_there_is_not_overtaken_any_more() -> None:
    world = World(RateLimit("a*", tpm=100, period=10.0), RateLimit("*b", tpm=100, period=10.0))
    world.ask("drain", "a", tokens=100)
    both = world.ask("both", "ab", tokens=100)
    world.ask("b0", "b", tokens=100)  # allowed: only the first limit holds it up
    assert world.order == ["drain", "b0"]
    assert not both.strict
    world.after(5)
    assert not both.strict
    world.ask_many(["b1", "a1"], "b", tokens=1)
    world.run()
    assert world.order[2] == "both"


def test_whoever_needs_two_crowded_limits_gets_a_place_in_both() -> None:
    world = World(RateLimit("a*", max_in_flight=1), RateLimit("*b", max_in_flight=1))
    running = {"a": world.ask("a first", "a"), "b": world.ask("b first", "b")}
    both = world.ask("both", "ab")
    for turn in range(50):  # their calls end in turn, so that never are both limits free by themselves
        model = "ab"[turn % 2]
        following = world.ask(f"{model}{turn}", model)
        world.settle(running[model], tokens=0)
        if both.state == GRANTED:
            break
        running[model] = following
        assert following.state == GRANTED or world.core.lane(model).waiting
    assert both.state == GRANTED


def test_whoever_lost_its_turn_holds_a_limit_only_as_long_as_that_helps_it() -> None:
    world = World(RateLimit("a*", rpm=600, burst=1), RateLimit("*b", rpm=0.6, burst=1))
    world.ask("a first", "a")
    both = world.ask("both", "ab")
    world.ask("b first", "b")  # the next of these is due in 100 seconds
    world.ask_many(names("a", 2_000), "a")
    world.run()
    assert both.strict
    assert world.at("both") == pytest.approx(100.0, abs=A_BIT)
    before = sum(at < 1_100 for name, at in world.log if name.startswith("a"))
    assert before >= 999, "ten a second, but for the one that would have delayed it"


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_narrow_limit_in_debt_does_not_idle_the_wide_one(window: Window) -> None:
    world = World(
        RateLimit("openai/gpt-5*", tpm=600, window=window), RateLimit("openai/*", rpm=600, burst=1, window=window)
    )
    running = world.ask("running", "openai/gpt-5", tokens=10)
    world.ask("head", "openai/gpt-5", tokens=10)  # held up by the wide limit, for a tenth of a second
    world.ask_many(names("other", 500), "openai/o3")
    world.after(0.05)
    world.settle(running, tokens=1200)  # now the narrow one holds it up, for a minute
    world.run()
    assert 59.0 <= world.at("head") <= 61.1
    assert world.at("other290") < 30.0


def test_a_new_model_that_connects_two_queues_keeps_its_place_in_both() -> None:
    world = World(RateLimit("a*", tpm=60), RateLimit("*b", tpm=60))
    world.ask("x", "a", tokens=60)
    world.ask("y", "b", tokens=60)
    world.ask("b0", "b", tokens=1)  # its group has an alarm of its own
    world.ask("both", "ab", tokens=30)  # the first of its model: now there is one group
    world.ask_many(names("late", 100), "b", tokens=1)
    world.run()
    assert world.at("b0") == pytest.approx(1.0, abs=A_BIT)
    assert world.at("both") == pytest.approx(31.0, abs=A_BIT)
    assert world.order[3:5] == ["both", "late0"]


def test_queues_that_share_nothing_do_not_wait_for_each_other() -> None:
    world = World(RateLimit("a", rpm=60, burst=1), RateLimit("b", rpm=6000, burst=1))
    world.ask_many(names("a", 3), "a")
    world.ask_many(names("b", 3), "b")
    assert world.core.lane("a").group is not world.core.lane("b").group
    assert world.ask("free", "no limit at all").state == GRANTED
    world.run()
    assert world.at("b2") == pytest.approx(0.02, abs=A_BIT)


# -- late alarms -------------------------------------------------------------------------------------------------


def test_time_lost_by_a_late_alarm_is_not_lost_to_the_rate() -> None:
    world = World(RateLimit(rpm=60, period=1.0, burst=1))
    world.ask_many(names("r", 61))
    while world.core.waiting:
        world.now = world.core.next_alarm() + 0.004  # a thread wakes a little late, each time
        world.core.due(world.now)
        world._collect()
    assert world.now - 1_000.0 == pytest.approx(1.0, abs=0.005)


def test_a_machine_that_slept_makes_no_more_of_it_than_the_stated_margin() -> None:
    world = World(RateLimit(rpm=100, period=1.0, burst=1))
    world.ask_many(names("r", 100))
    world.now += 30.0
    world.core.due(world.now)
    world._collect()
    assert world.order == names("r", 7), "one at the beginning, a full bucket of one, and five hundredths of a second"


def test_whoever_did_not_wait_gets_nothing_for_lateness() -> None:
    world = World(RateLimit("slow", rpm=1, burst=1), RateLimit("*", rpm=100, period=1.0, burst=1))
    world.ask_many(["s0", "s1"], "slow")
    world.after(10)
    world.ask_many(names("r", 9), "fast")
    assert world.order == ["s0", "r0"]


def test_waiters_are_counted_for_each_limit() -> None:
    world = World(SLOW, FAST)
    world.ask_many(names("slow", 3), "openai/gpt-5")
    world.ask_many(names("fast", 4), "openai/o3")
    slow, fast = world.core.pools
    assert (world.core.waiting_for(slow), world.core.waiting_for(fast), world.core.waiting) == (2, 6, 6)
    assert world.core.lane("openai/gpt-5").in_flight == 1
    waiting = [ticket for ticket in world._names if ticket.state == WAITING]
    for ticket in waiting:
        world.settle(ticket)
    assert (world.core.waiting_for(slow), world.core.waiting_for(fast), world.core.waiting) == (0, 0, 0)


def test_a_window_that_requests_come_too_early_for_widens_each_time_and_is_blamed_alone() -> None:
    """A busy client is late with a burst, and a minute later in time with what takes its place."""
    core = Core([RateLimit("*", rpm=10, window="sliding")])
    origin = Origin("openai", "http://127.0.0.1/v1", "0" * 12, profile_for("openai", "http://127.0.0.1/v1"))
    lane = core.lane("openai/m", origin, now=0.0)
    (window,) = core.pools[0].windows
    first = window.margin
    for minute in range(3):
        now = minute * 65.0
        for number in range(10):
            ticket = Ticket(lane, (1.0, 0.0, 0.0, 0.0))
            assert core.request(ticket, now)
            core.stamp(ticket, now, really=True)
            now += 0.2
            word = Word("let in") if number < 9 else Word("refused", (), 0.1)
            core.settle(ticket, now, (1.0, 0.0, 0.0, 0.0), word)
        assert window.margin == min(first * 2 ** (minute + 1), 2.0)
    assert lane.discovered is not None
    assert lane.discovered.pace.rate == math.inf


def learning(*limits: RateLimit, provider: str = "openai", base: str = "http://127.0.0.1/v1") -> tuple[Core, Lane]:
    core = Core(limits)
    return core, core.lane("m", Origin(provider, base, "0" * 12, profile_for(provider, base)), now=0.0)


def test_a_request_that_takes_nothing_of_a_full_bucket_leaves_it_as_it_is() -> None:
    """Each that is late in going out would have put it into debt by its lag: a thousand embeddings, for minutes."""
    core, lane = learning(RateLimit("*", rpm=6000, otpm=60_000, window="bucket"))
    early = Ticket(lane, (1.0, 10.0, 10.0, 0.0))
    assert core.request(early, 0.0)
    core.stamp(early, 0.0, really=True)
    tickets = [Ticket(lane, (1.0, 10.0, 10.0, 0.0)) for _ in range(1000)]
    for ticket in tickets:
        assert core.request(ticket, 20.0)
    for number, ticket in enumerate(tickets):
        core.stamp(ticket, 20.0 + 0.003 * number, really=True)
    otpm = next(meter for pool in lane.pools for meter in pool.live if meter.name == "otpm")
    assert otpm.remaining(23.0) == 60_000


def test_whoever_may_be_a_bucket_or_a_window_never_waits_longer_than_for_a_window() -> None:
    core, lane = learning(RateLimit("*", tpm=60_000), provider="gemini", base="")
    for number in range(10):
        now = 0.01 * number
        ticket = Ticket(lane, (1.0, 6000.0, 1000.0, 5000.0))
        while not core.request(ticket, now) and ticket.state == WAITING:
            now = core.next_alarm()
            core.due(now)
        assert now < 1.0
        core.stamp(ticket, now, really=True)
    waiting = Ticket(lane, (1.0, 6000.0, 1000.0, 5000.0))
    assert not core.request(waiting, 1.0)
    assert core.next_alarm() <= 61.0
    while waiting.state == WAITING and (at := core.next_alarm()) <= 61.0:
        core.due(at)
    assert waiting.state == GRANTED


def test_a_window_that_was_learned_wakes_those_who_wait_when_what_was_pending_is_sent() -> None:
    core, lane = learning(provider="together_ai", base="")
    told = [name for name in lane.discovered.origin.profile.headers if name.dimension == "rpm"]  # type: ignore[union-attr]
    lane.discovered.question.answer = "sliding"  # type: ignore[union-attr]
    lane.discovered.know("rpm", 1.0, 1.0)  # type: ignore[union-attr]
    assert told
    tickets = [Ticket(lane, (1.0, 0.0, 0.0, 0.0)) for _ in range(4)]
    gone: list[float] = []
    now = 0.0
    for ticket in tickets:
        if core.request(ticket, now):
            core.stamp(ticket, now, really=True)
            gone.append(now)
    while len(gone) < 4 and (now := core.next_alarm()) < 100.0:
        core.due(now)
        granted, core.granted = core.granted, []
        for ticket in granted:
            core.stamp(ticket, now, really=True)
            gone.append(now)
    assert len(gone) == 4, "nobody waits for an answer that takes a minute"
    assert gone[-1] <= 4.0


def test_a_window_that_is_empty_is_not_kept_for_a_head_that_waits_for_something_else() -> None:
    """a's model is closed for five minutes: until then b may use what comes free again in one."""
    limit = RateLimit(["a", "b"], tpm=10_000, window="sliding")
    core = Core([limit])
    a, b = (
        core.lane(name, Origin(name, "", "0" * 12, profile_for("openai", "http://127.0.0.1/v1")), now=0.0)
        for name in "ab"
    )
    one = Ticket(a, (1.0, 6000.0, 6000.0, 0.0))
    assert core.request(one, 0.0)
    core.stamp(one, 0.0, really=True)
    head = Ticket(a, (1.0, 6000.0, 6000.0, 0.0))
    assert not core.request(head, 1.0)
    core.settle(one, 2.0, one.amounts, Word("refused", (), 300.0))
    now = 62.0
    core.due(now)
    assert head.state == WAITING
    other = Ticket(b, (1.0, 6000.0, 6000.0, 0.0))
    assert core.request(other, now)


def test_a_bucket_of_tokens_that_is_ahead_of_the_providers_falls_behind_with_a_refusal() -> None:
    """Its tokens come back, for they were not counted; but two requests' worth was never there."""
    core, lane = learning(RateLimit("*", tpm=60_000, window="bucket"))
    (tpm,) = lane.pools[0].live
    first, second = (Ticket(lane, (1.0, 60_000.0 - 100.0 * part, 0.0, 0.0)) for part in (1, 599))
    for ticket, now in ((first, 0.0), (second, 0.3)):
        assert core.request(ticket, now)
        core.stamp(ticket, now, really=True)
    core.settle(second, 0.31, (1.0, 0.0, 0.0, 0.0), Word("refused", (), 0.1))
    assert tpm.remaining(0.31) == pytest.approx(100 + 10 - 2 * 100)


@pytest.mark.parametrize(("burst", "lead"), [(None, 0.3), (20, 0.001), (1, 0.00005)])
def test_a_full_bucket_begins_to_refill_a_little_later_than_its_first_request_goes_out(
    burst: int | None, lead: float
) -> None:
    """That one connects; those that find the bucket next to empty later are quicker on their way."""
    core, lane = learning(RateLimit("*", rpm=6000, burst=burst, window="bucket"))
    (rpm,) = lane.pools[0].live
    for now in (0.0, 100.0, 200.0):  # each time that it was full
        first = Ticket(lane, (1.0, 0.0, 0.0, 0.0))
        assert core.request(first, now)
        core.stamp(first, now + 0.02, really=True)
        assert rpm.remaining(now + 0.02 + lead) == pytest.approx(rpm.capacity - 1)
