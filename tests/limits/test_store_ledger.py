"""What every store does with a claim, with a clock that stands still unless told otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from bulkllm.errors import ConfigError
from bulkllm.limits.stores import Claim, Meter, Report, Spending, Store, View
from bulkllm.limits.stores.gauge import Gauge
from bulkllm.limits.stores.memory import MemoryStore
from bulkllm.limits.stores.redis import RedisStore
from bulkllm.limits.stores.sqlite import SQLiteStore
from tests.limits.desk import RPM, Clock, Desk

TPM = Meter("tpm", "bucket", 6000)
WINDOW = Meter("tpm", "sliding", 6000)
SLOTS = Meter("in flight", "slots", 10)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "valkey"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Clock], Store]:
    if request.param == "memory":
        return lambda clock: MemoryStore(clock=clock)
    if request.param == "sqlite":
        return lambda clock: SQLiteStore(tmp_path / "limits.sqlite3", clock=clock)
    url: str = request.getfixturevalue("valkey")
    return lambda clock: RedisStore(url, timeout=30.0, clock=clock)


@pytest.fixture
def desk(make_store: Callable[[Clock], Store], clock: Clock) -> Desk:
    return Desk(make_store(clock), clock)


# -- granting ----------------------------------------------------------------------------------------------------------


def test_what_is_granted_is_taken_from_what_is_left(desk: Desk) -> None:
    lease = desk.claim("a", 10)
    assert lease.granted == {"rpm": 10}
    assert lease.left == {"rpm": 50}
    assert lease.retry_after == 0
    assert lease.held_up == ()
    assert desk.left() == 50


def test_there_is_as_much_as_there_is(desk: Desk) -> None:
    lease = desk.claim("a", 100)
    assert lease.granted == {"rpm": 60}
    assert lease.held_up == ("rpm",)
    assert lease.retry_after == pytest.approx(1.0), "the next whole one"


def test_less_than_the_least_is_nothing(desk: Desk) -> None:
    desk.use_up(rpm=58)
    lease = desk.claim("b", 10, least=3)
    assert lease.granted == {}
    assert lease.retry_after == pytest.approx(1.0)
    desk.wait(lease.retry_after)
    assert desk.claim("b", 10, least=3).granted == {"rpm": 3}


def test_a_bucket_that_is_full_but_for_what_others_hold_is_looked_at_again_soon(desk: Desk) -> None:
    desk.meters = (Meter("rpm", "bucket", 1, capacity=5, whole=True),)
    desk.claim("a", 5)
    assert desk.claim("b", 1).retry_after == pytest.approx(0.1), "time alone brings nothing, what a says may"
    desk.claim("a", spent=[("rpm", 5, 0.0)])
    assert desk.claim("b", 1).retry_after == pytest.approx(60)


def test_all_meters_are_granted_at_once_or_none(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.use_up(tpm=5500)
    refused = desk.claim("b", {"rpm": 1, "tpm": 900}, least={"rpm": 1, "tpm": 900})
    assert refused.granted == {}
    assert refused.held_up == ("tpm",)
    assert refused.retry_after == pytest.approx(4.0)
    assert refused.left["rpm"] == 60


def test_no_more_of_one_meter_is_granted_than_goes_with_the_other(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.use_up(tpm=4200)
    lease = desk.claim("b", {"rpm": 10, "tpm": 9000}, least={"rpm": 1, "tpm": 900})
    assert lease.granted == {"rpm": 2, "tpm": 1800}


def test_fractions_of_requests_are_not_granted(desk: Desk) -> None:
    desk.use_up(rpm=59)
    desk.wait(0.7)
    assert desk.claim("b", 5).granted == {"rpm": 1}
    assert desk.left() == pytest.approx(0.7)
    desk.wait(0.2)
    assert desk.claim("c", 5).granted == {}


def test_fractions_of_tokens_are(desk: Desk) -> None:
    desk.meters = (Meter("tpm", "bucket", 90),)
    desk.use_up(tpm=90)
    desk.wait(0.5)
    assert desk.claim("b", 5).granted == {"tpm": pytest.approx(0.75)}


def test_a_bucket_refills_up_to_its_capacity(desk: Desk) -> None:
    desk.meters = (Meter("rpm", "bucket", 60, capacity=10),)
    desk.claim("a", 10)
    desk.claim("a", spent=[("rpm", 10, 0.0)])
    desk.wait(4)
    assert desk.left() == pytest.approx(4)
    desk.wait(1000)
    assert desk.left() == 10


def test_a_bucket_does_not_refill_beyond_its_capacity_while_quota_is_held(desk: Desk) -> None:
    desk.meters = (Meter("rpm", "bucket", 60, capacity=10),)
    desk.claim("a", 10)
    desk.wait(4)
    assert desk.left() == 0, "it could all be spent at this very moment"


def test_quota_that_is_spent_at_once_costs_the_bucket_nothing_until_it_is_reported(desk: Desk) -> None:
    desk.meters = (Meter("rpm", "bucket", 60, capacity=10),)
    desk.claim("a", 10)
    desk.wait(4)
    desk.claim("a", spent=[("rpm", 10, 4.0)])
    assert desk.left() == pytest.approx(4), "as though it had been known at that moment"


def test_a_window_counts_from_when_it_was_spent(desk: Desk) -> None:
    desk.meters = (WINDOW,)
    desk.claim("a", 6000)
    desk.wait(3)
    lease = desk.claim("a", 1, spent=[("tpm", 6000, 2.0)])
    assert lease.granted == {}
    assert 58 <= lease.retry_after <= 58 + 60 / 128
    desk.wait(57.99)
    assert desk.left() == 0
    desk.wait(60 / 128 + 0.02)
    assert desk.left() == 6000


def test_a_window_does_not_move_while_quota_is_held(desk: Desk) -> None:
    desk.meters = (WINDOW,)
    desk.ttl = 1000.0
    desk.claim("a", 6000)
    desk.wait(70)
    assert desk.left() == 0
    desk.claim("a", keep=0)
    assert desk.left() == 6000


def test_something_larger_than_the_bucket_runs_when_it_is_full_and_into_debt(desk: Desk) -> None:
    desk.meters = (TPM,)
    desk.use_up(tpm=100)
    lease = desk.claim("b", 9000, least=9000)
    assert lease.granted == {}
    assert lease.retry_after == pytest.approx(1.0)
    desk.claim("a", 1)
    desk.wait(2)
    assert desk.claim("b", 9000, least=9000).granted == {}, "as long as anybody holds anything"
    desk.claim("a", keep=0)
    assert desk.claim("b", 9000, least=9000).granted == {"tpm": 9000}
    assert desk.left() == -3000
    desk.claim("b", spent=[("tpm", 9000, 0.0)])
    assert desk.claim("c", 1).retry_after == pytest.approx(30, abs=0.02)


def test_slots_are_held_until_they_are_given_back(desk: Desk) -> None:
    desk.meters = (SLOTS,)
    assert desk.claim("a", 6).granted == {"in flight": 6}
    desk.wait(4)
    desk.claim("a", keep=6)
    desk.wait(4)
    assert desk.claim("b", 6).granted == {"in flight": 4}
    desk.claim("a", keep=1)
    assert desk.claim("b", 6, keep=4).granted == {"in flight": 5}


def test_whoever_asks_for_slots_that_do_not_exist_gets_those_that_do(desk: Desk) -> None:
    desk.meters = (SLOTS,)
    assert desk.claim("a", 30, least=20).granted == {"in flight": 10}


def test_nothing_wanted_nothing_granted(desk: Desk) -> None:
    lease = desk.claim("a", 0)
    assert (lease.granted, lease.retry_after, lease.held_up) == ({}, 0, ())
    assert lease.left == {"rpm": 60}


def test_those_who_wait_are_told_when_it_is_their_turn(desk: Desk) -> None:
    desk.use_up(rpm=60)
    told = []
    for owner in "abcd":
        told.append(desk.claim(owner, 1, least=1).retry_after)
        desk.wait(0.001)
    assert told == pytest.approx([1, 2, 3, 3], abs=0.01), "or soon after it would be without the others"


def test_whoever_has_its_share_is_not_told_to_come_for_that_of_the_others(desk: Desk) -> None:
    desk.claim("modest", 5)
    lease = desk.claim("greedy", 1000)
    assert lease.left == {"rpm": 5}
    assert lease.retry_after == pytest.approx(1.0)


def test_no_more_tokens_than_go_with_whole_requests(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.use_up(rpm=58)
    desk.wait(0.5)
    assert desk.claim("b", {"rpm": 10, "tpm": 9000}).granted == {"rpm": 2, "tpm": 1800}


# -- giving back, reporting, dying -------------------------------------------------------------------------------------


def test_what_is_neither_kept_nor_spent_is_given_back(desk: Desk) -> None:
    desk.claim("a", 10)
    desk.claim("a", keep=2, spent=[("rpm", 3, 0.0)])
    assert desk.left() == 55
    assert desk.store.look(desk.group).held == {"a": {"rpm": 2}}


def test_a_report_is_booked_once_however_often_it_comes(desk: Desk) -> None:
    desk.claim("a", 10)
    report = Report(1, (Spending("rpm", 3, 0.0),))
    for _ in range(3):
        desk.store.lease(desk.group, Claim("a", desk.meters, 5.0, keep={"rpm": 7}, reports=(report,)))
    assert desk.left() == 50
    more = (report, Report(2, (Spending("rpm", 1, 0.0),)))
    desk.store.lease(desk.group, Claim("a", desk.meters, 5.0, keep={"rpm": 6}, reports=more))
    desk.store.lease(desk.group, Claim("a", desk.meters, 5.0))
    assert desk.left() == 56


def test_what_was_granted_unheard_of_goes_back_with_the_next_claim(desk: Desk) -> None:
    desk.claim("a", 10)
    desk.claim("a", 20, keep=10)  # the answer is lost
    assert desk.left() == 30
    desk.claim("a", keep=10)
    assert desk.left() == 50


@pytest.mark.parametrize("meter", [RPM, WINDOW, SLOTS], ids=lambda meter: meter.kind)
def test_what_a_dead_owner_held_is_left_for_others_when_its_ttl_is_over(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 10)
    desk.wait(4.99)
    assert desk.left() == meter.size - 10
    desk.wait(0.02)
    assert desk.left() == meter.size
    assert desk.store.look(desk.group).held == {}


@pytest.mark.parametrize("meter", [RPM, WINDOW, SLOTS], ids=lambda meter: meter.kind)
def test_every_claim_renews(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 10)
    for _ in range(3):
        desk.wait(4)
        desk.claim("a", keep=10)
        assert desk.left() == meter.size - 10


def test_of_a_dead_owner_only_what_it_reported_stays_spent(desk: Desk) -> None:
    desk.meters = (WINDOW,)
    desk.claim("a", 1000)
    desk.claim("a", keep=600, spent=[("tpm", 400, 0.0)])
    desk.wait(6)
    assert desk.left() == 5600


def test_the_late_report_of_one_who_was_taken_for_dead_is_booked(desk: Desk) -> None:
    desk.meters = (WINDOW,)
    desk.claim("a", 4000)
    desk.wait(6)
    desk.claim("b", 6000)
    desk.claim("a", spent=[("tpm", 4000, 3.0)])
    assert desk.left() == -4000


def test_an_estimate_that_was_too_high_comes_back(desk: Desk) -> None:
    for meter in (TPM, WINDOW):
        desk.meters = (meter,)
        desk.group += meter.kind
        desk.claim("a", 1000)
        desk.claim("a", spent=[("tpm", 1000, 0.0)])
        desk.wait(2)
        before = desk.left()
        desk.claim("a", spent=[("tpm", -300, 2.0)])
        assert desk.left() == pytest.approx(before + 300)


def test_a_correction_of_what_has_left_the_window_changes_nothing(desk: Desk) -> None:
    desk.meters = (WINDOW,)
    desk.claim("a", 1000)
    desk.claim("a", spent=[("tpm", 1000, 0.0)])
    desk.wait(130)
    desk.claim("a", spent=[("tpm", -300, 130.0)])
    assert desk.left() == 6000


def test_whoever_leaves_holds_nothing_and_is_forgotten(desk: Desk) -> None:
    desk.meters = (RPM, SLOTS)
    desk.claim("a", {"rpm": 10, "in flight": 3})
    desk.claim("a", spent=[("rpm", 4, 0.0)], leaving=True)
    view = desk.store.look(desk.group)
    assert view.held == {}
    assert view.left == {"rpm": 56}, "of the slots there is nothing to remember"


def test_meters_that_an_owner_no_longer_knows_are_not_held_by_it(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.claim("a", {"rpm": 10, "tpm": 100})
    desk.meters = (RPM,)
    desk.claim("a", keep=10)
    assert desk.store.look(desk.group).held == {"a": {"rpm": 10}}


# -- fairness ----------------------------------------------------------------------------------------------------------


class Worker:
    """An owner which spends at once what it is granted, and says so when it comes again."""

    def __init__(self, desk: Desk, owner: str, *, every: float, want: float, least: float = 0.0) -> None:
        self.desk = desk
        self.owner = owner
        self.every = every
        self.want = want
        self.least = least
        self.next_at = desk.clock.now
        self.total = 0.0
        self.pending: list[tuple[float, float]] = []

    def turn(self) -> None:
        key = self.desk.meters[0].key
        now = self.desk.clock.now
        spent = [(key, amount, now - at) for at, amount in self.pending]
        lease = self.desk.claim(self.owner, self.want, least=self.least, keep=0, spent=spent)
        got = lease.granted.get(key, 0.0)
        self.pending = [(now, got)] if got else []
        self.total += got
        self.next_at = now + self.every


def work(workers: list[Worker], seconds: float) -> list[float]:
    """What each of them had in that time."""
    clock = workers[0].desk.clock
    before = [worker.total for worker in workers]
    end = clock.now + seconds
    while True:
        first = min(workers, key=lambda worker: worker.next_at)
        if first.next_at >= end:
            break
        clock.now = max(clock.now, first.next_at)
        first.turn()
    clock.now = end
    return [worker.total - earlier for worker, earlier in zip(workers, before, strict=True)]


@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_those_who_cannot_have_enough_have_the_same_however_often_they_ask(
    desk: Desk, kind: Literal["bucket", "sliding"]
) -> None:
    desk.meters = (Meter("rpm", kind, 600, period=10, whole=True),)
    workers = [Worker(desk, f"{every}", every=every, want=200) for every in (0.1, 0.15, 0.3, 0.6)]
    work(workers, 10)
    had = work(workers, 20)
    assert sum(had) >= 0.98 * 1200
    assert max(had) - min(had) <= 60


def test_whoever_wants_less_than_its_share_gets_all_of_it(desk: Desk) -> None:
    greedy = Worker(desk, "greedy", every=0.1, want=1000)
    modest = Worker(desk, "modest", every=1.0, want=0.25, least=0.25)
    desk.meters = (Meter("tpm", "bucket", 60),)
    work([greedy, modest], 10)
    had = work([greedy, modest], 100)
    assert had[1] == pytest.approx(25, abs=1)
    assert had[0] == pytest.approx(75, abs=2)


def test_one_who_comes_later_gets_its_share_soon(desk: Desk) -> None:
    old = Worker(desk, "old", every=0.5, want=100)
    work([old], 300)
    new = Worker(desk, "new", every=0.1, want=100)
    had = work([old, new], 10)
    assert had == [pytest.approx(5, abs=2), pytest.approx(5, abs=2)], "and the old one does not starve for it"


def test_a_large_request_is_not_starved_by_small_ones(desk: Desk) -> None:
    desk.meters = (TPM,)
    small = [Worker(desk, f"small {number}", every=0.5, want=50, least=10) for number in range(3)]
    work(small, 60)
    large = Worker(desk, "large", every=0.5, want=4000, least=4000)
    had = work([*small, large], 180)
    assert had[3] == 4000
    assert min(had[:3]) >= 3900, "it had no more than the others"
    assert sum(had) >= 0.98 * 18_000 - 2000


def test_an_owner_that_is_held_up_by_one_meter_does_not_idle_another(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.claim("a", {"tpm": 6000})
    desk.claim("a", keep={"tpm": 6000})
    assert desk.claim("b", {"rpm": 30, "tpm": 3000}, least={"rpm": 1, "tpm": 100}).held_up == ("tpm",)
    assert desk.claim("c", {"rpm": 60}).granted == {"rpm": 60}


def test_a_turn_is_kept_for_whoever_was_held_up_by_this_meter_before_it_was_by_another(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.use_up(rpm=60)
    assert desk.claim("a", {"rpm": 1, "tpm": 4000}, least={"rpm": 1, "tpm": 4000}).held_up == ("rpm",)
    desk.use_up(tpm=6000)
    desk.wait(1.5)
    assert desk.claim("a", {"rpm": 1, "tpm": 4000}, least={"rpm": 1, "tpm": 4000}).held_up == ("tpm",)
    assert desk.claim("b", {"rpm": 1}).granted == {}
    desk.wait(10)
    assert desk.claim("b", {"rpm": 1}).granted == {"rpm": 1}, "but not for long"


def test_nobody_takes_what_one_before_it_needs_because_somebody_else_is_after_it(desk: Desk) -> None:
    desk.meters = (TPM,)
    desk.claim("late", 100)
    desk.claim("late", keep=0, spent=[("tpm", 100, 0.0)])
    desk.use_up(tpm=5300)
    assert desk.left() == 600
    desk.claim("first", 700, least=700)
    desk.wait(0.001)
    desk.claim("late", 650, least=650)
    desk.wait(0.001)
    assert desk.claim("second", 300, least=300).granted == {}


def test_what_was_given_back_does_not_count_against_one(desk: Desk) -> None:
    desk.meters = (TPM,)
    for _ in range(10):
        desk.claim("a", 300)
        desk.claim("a", 0, spent=[("tpm", 30, 0.0)])
        desk.claim("b", 30)
        desk.claim("b", 0, spent=[("tpm", 30, 0.0)])
    desk.use_up(tpm=5400)
    for owner in "ab":
        assert desk.claim(owner, 1000, least=1000).granted == {}
    desk.wait(2)
    had = [desk.claim(owner, 1000, least=1).granted.get("tpm", 0.0) for owner in "ab"]
    assert had == [pytest.approx(100, abs=1), pytest.approx(100, abs=1)]


def test_a_greedy_owner_leaves_a_share_for_those_who_were_there_a_moment_ago(desk: Desk) -> None:
    desk.claim("modest", 5)
    desk.claim("modest", 5, keep=0, spent=[("rpm", 5, 0.0)])
    lease = desk.claim("greedy", 1000)
    assert lease.granted == {"rpm": 45}
    assert lease.rivals == 1
    assert desk.claim("modest", 5, keep=5).granted["rpm"] >= 3


def test_a_share_that_nobody_comes_for_is_free_again(desk: Desk) -> None:
    desk.claim("modest", 5)
    desk.wait(2.1)
    assert desk.claim("greedy", 1000).granted == {"rpm": 55}


def test_a_share_is_free_at_once_where_its_owner_says_that_it_wants_no_more(desk: Desk) -> None:
    desk.claim("modest", 5)
    desk.claim("modest", 0, keep=5)
    assert desk.claim("greedy", 1000).granted == {"rpm": 55}


@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_one_request_a_minute_goes_round(desk: Desk, kind: Literal["bucket", "sliding"]) -> None:
    desk.meters = (Meter("rpm", kind, 1, whole=True),)
    workers = [Worker(desk, name, every=2.0, want=10) for name in "abcd"]
    had = work(workers, 11 * 63)
    assert had == [3, 3, 3, 3]


def test_a_day_s_quota_is_shared_too(desk: Desk) -> None:
    desk.meters = (Meter("rpd", "bucket", 50, period=86_400, whole=True),)
    workers = [Worker(desk, name, every=4.5, want=1) for name in "abc"]
    first = work(workers, 3600)
    assert sum(first) == 52
    assert max(first) - min(first) <= 2


def test_slots_go_to_those_who_have_fewer(desk: Desk) -> None:
    desk.meters = (SLOTS,)
    assert desk.claim("a", 20).granted == {"in flight": 10}
    waiting = desk.claim("b", 20)
    assert waiting.granted == {}
    assert 0 < waiting.retry_after < 1
    lease = desk.claim("a", 20, keep=10)
    assert lease.excess == {"in flight": 5}
    assert desk.claim("a", 20, keep=8).granted == {}, "two have come free, and they are not for the one who had ten"
    assert desk.claim("b", 20).granted == {"in flight": 2}


def test_slots_go_round_where_there_are_fewer_than_owners(desk: Desk) -> None:
    desk.meters = (Meter("in flight", "slots", 1),)
    had = dict.fromkeys("abc", 0)
    holder = "a"
    desk.claim("a", 1)
    for _ in range(9):
        had[holder] += 1
        desk.wait(0.1)
        for owner in "abc":
            if owner != holder:
                assert desk.claim(owner, 5).granted == {}
        desk.wait(0.1)
        assert desk.claim(holder, 5, keep=1).excess == {"in flight": 1}
        assert desk.claim(holder, 5, keep=0).granted == {}, "others have waited for longer"
        holder = next(owner for owner in "abc" if desk.claim(owner, 5).granted)
    assert had == {"a": 3, "b": 3, "c": 3}


def test_nobody_is_asked_for_slots_that_nobody_waits_for(desk: Desk) -> None:
    desk.meters = (SLOTS,)
    desk.claim("a", 10)
    assert desk.claim("b", 0).excess == {}
    assert desk.claim("a", 0, keep=10).excess == {}
    assert desk.claim("b", 4).granted == {}
    assert desk.claim("a", 0, keep=3).excess == {}, "there are enough for both"
    desk.claim("a", 3, keep=3)
    desk.claim("b", 4)
    assert desk.claim("a", 0, keep=6).excess == {}, "the other has all that it wanted"


# -- closing -----------------------------------------------------------------------------------------------------------


def test_a_closed_pool_grants_nothing_to_anybody_until_it_opens(desk: Desk) -> None:
    desk.meters = (Meter("rpm", "bucket", 60, pool="gpt"), Meter("rpm", "bucket", 60, pool="claude"))
    assert desk.store.close(desk.group, "gpt", 20) == pytest.approx(20)
    refused = desk.claim("a", {"gpt/rpm": 1})
    assert refused.granted == {}
    assert refused.closed_for == refused.retry_after == pytest.approx(20)
    assert desk.claim("b", {"claude/rpm": 1}).granted == {"claude/rpm": 1}
    desk.wait(19.9)
    assert desk.store.closed_for(desk.group, "gpt") == pytest.approx(0.1)
    desk.wait(0.2)
    assert desk.store.closed_for(desk.group, "gpt") == 0
    assert desk.claim("a", {"gpt/rpm": 1}).granted == {"gpt/rpm": 1}


def test_the_later_of_two_closings_stands_unless_it_is_replaced(desk: Desk) -> None:
    desk.store.close(desk.group, "gpt", 20)
    assert desk.store.close(desk.group, "gpt", 5) == pytest.approx(20)
    assert desk.store.close(desk.group, "gpt", 5, replace=True) == pytest.approx(5)
    assert desk.store.close(desk.group, "gpt", 0, replace=True) == 0
    assert desk.store.closed_for(desk.group, "gpt") == 0


def test_reports_and_renewals_go_through_while_a_pool_is_closed(desk: Desk) -> None:
    desk.claim("a", 10)
    desk.store.close(desk.group, "", 60)
    desk.wait(4)
    desk.claim("a", 5, keep=6, spent=[("rpm", 4, 0.0)])
    desk.wait(4)
    assert desk.store.look(desk.group).held == {"a": {"rpm": 6}}


# -- corrections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_a_provider_s_word_sets_what_is_left(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 0)
    assert desk.store.correct(desk.group, meter, at_least=2000, at_most=2000)
    assert desk.left() == 2000
    desk.wait(1)
    assert desk.store.correct(desk.group, meter, at_least=5000, at_most=5000)
    assert desk.left() == 5000


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_a_word_that_may_only_lower_does_not_raise(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 1000)
    desk.claim("a", spent=[("tpm", 1000, 0.0)])
    desk.wait(1)
    before = desk.left()
    desk.store.correct(desk.group, meter, at_most=5900)
    assert desk.left() == before
    desk.wait(1)
    desk.store.correct(desk.group, meter, at_most=300)
    assert desk.left() == 300


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_a_rounded_word_moves_nothing_that_fits_it(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 1000)
    desk.claim("a", spent=[("tpm", 1000, 0.0)])
    desk.wait(1)
    before = desk.left()
    desk.store.correct(desk.group, meter, at_least=4500, at_most=5500)
    assert desk.left() == before


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_an_older_word_does_not_undo_a_newer_one(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 0)
    assert desk.store.correct(desk.group, meter, at_most=1000, ago=1.0)
    before = desk.left()
    assert not desk.store.correct(desk.group, meter, at_least=6000, at_most=6000, ago=1.5)
    assert not desk.store.correct(desk.group, meter, at_least=6000, at_most=6000, ago=1.0), "nor does one as old"
    assert desk.left() == before
    assert not desk.store.correct(desk.group, meter, at_most=1, ago=1e6)


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_what_was_spent_since_is_taken_off_the_provider_s_number(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 3000)
    desk.wait(4)
    desk.claim("a", spent=[("tpm", 1000, 1.0)], keep=2000)
    desk.store.correct(desk.group, meter, at_least=4000, at_most=4000, ago=2.5)
    refilled = 250 if meter.kind == "bucket" else 0
    assert desk.left() == pytest.approx(4000 - 1000 + refilled - 2000)


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_what_was_spent_before_and_is_reported_later_is_in_the_provider_s_number(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 3000)
    desk.wait(2)
    desk.store.correct(desk.group, meter, at_least=2500, at_most=2500, ago=0.5)
    refilled = 50 if meter.kind == "bucket" else 0
    assert desk.left() == pytest.approx(2500 + refilled - 3000)
    desk.claim("a", spent=[("tpm", 3000, 1.0)])
    assert desk.left() == pytest.approx(2500 + refilled)


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_what_was_spent_since_is_not_raised_away(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 3000)
    desk.wait(4)
    desk.claim("a", spent=[("tpm", 3000, 1.0)])
    before = desk.left()
    desk.store.correct(desk.group, meter, at_least=3500, ago=2.5)
    assert desk.left() == pytest.approx(before), "3500 less 3000 is less than there is"
    desk.wait(0.1)
    before = desk.left()
    desk.store.correct(desk.group, meter, at_least=before + 2000, ago=0.0)
    assert desk.left() == pytest.approx(before + 2000)


def test_a_word_about_a_window_of_a_while_ago_is_compared_with_that_window(desk: Desk) -> None:
    desk.meters = (WINDOW,)
    desk.claim("a", 1000)
    desk.claim("a", spent=[("tpm", 1000, 0.0)])
    desk.wait(100)
    desk.claim("a", 0)
    assert desk.store.correct(desk.group, WINDOW, at_most=5000, ago=50.0)
    assert desk.left() == 6000, "the thousand were its own"
    assert desk.store.correct(desk.group, WINDOW, at_most=3000, ago=40.5)
    assert desk.left() == 4000, "two thousand were somebody else's; its own thousand have left the window since"


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_what_was_spent_at_about_that_moment_is_not_counted_as_somebody_else_s(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 3000)
    desk.claim("a", spent=[("tpm", 3000, 0.0)])
    desk.wait(0.01)
    before = desk.left()
    desk.store.correct(desk.group, meter, at_most=3001, ago=0.005)
    assert desk.left() == before


@pytest.mark.parametrize("meter", [TPM, WINDOW], ids=lambda meter: meter.kind)
def test_a_word_that_is_older_than_a_period_is_no_news(desk: Desk, meter: Meter) -> None:
    desk.meters = (meter,)
    desk.claim("a", 0)
    assert not desk.store.correct(desk.group, meter, at_most=1000, ago=61.0)
    assert desk.left() == 6000
    assert desk.store.correct(desk.group, meter, at_most=1000, ago=59.0)


def test_what_somebody_else_spent_leaves_the_window_a_period_later(desk: Desk) -> None:
    desk.meters = (WINDOW,)
    desk.claim("a", 0)
    desk.store.correct(desk.group, WINDOW, at_most=100)
    desk.wait(59)
    assert desk.left() == 100
    desk.wait(2)
    assert desk.left() == 6000


# -- definitions -------------------------------------------------------------------------------------------------------


def test_a_limit_that_changes_keeps_what_was_counted(desk: Desk) -> None:
    desk.claim("a", 40)
    desk.claim("a", spent=[("rpm", 40, 0.0)])
    desk.meters = (Meter("rpm", "bucket", 30, whole=True),)
    desk.claim("a", 0)
    assert desk.left() == 20
    desk.wait(4)
    assert desk.left() == pytest.approx(22)
    desk.meters = (Meter("rpm", "bucket", 600, whole=True),)
    desk.claim("a", 0)
    desk.wait(1)
    assert desk.left() == pytest.approx(32)


def test_a_bucket_that_turns_out_to_be_a_window_knows_what_was_spent(desk: Desk) -> None:
    desk.meters = (TPM,)
    desk.claim("a", 4000)
    desk.claim("a", spent=[("tpm", 4000, 0.0)])
    desk.wait(30)
    assert desk.left() == 5000
    desk.meters = (WINDOW,)
    desk.claim("a", 0)
    assert desk.left() == 2000
    desk.meters = (TPM,)
    desk.claim("a", 0)
    assert desk.left() == 2000
    desk.wait(29)
    desk.meters = (WINDOW,)
    desk.claim("a", 0)
    assert desk.left() == 2000
    desk.wait(3)
    assert desk.left() == 6000


# -- clocks, groups, sizes ---------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_by_a_little_stands_still(desk: Desk) -> None:
    desk.claim("a", 60)
    desk.claim("a", spent=[("rpm", 60, 0.0)])
    desk.wait(10)
    desk.claim("a", 0)
    desk.wait(-0.8)
    desk.claim("a", 0)
    assert desk.left() == pytest.approx(10)
    desk.wait(1)
    assert desk.left() == pytest.approx(10.2)


def test_a_clock_that_is_set_back_by_much_counts_on_from_where_it_was(desk: Desk) -> None:
    desk.claim("a", 60)
    desk.claim("a", spent=[("rpm", 60, 0.0)], keep=0)
    desk.store.close(desk.group, "other", 50)
    desk.wait(10)
    desk.claim("a", 0)
    desk.wait(-100_000)
    desk.claim("a", 0)
    assert desk.left() == pytest.approx(10)
    desk.wait(5)
    assert desk.left() == pytest.approx(15)
    assert desk.store.closed_for(desk.group, "other") == pytest.approx(35)


def test_groups_do_not_disturb_each_other(desk: Desk) -> None:
    names = ["a", "b", "{a}", "a}", "a b", "ä/\"'\n", "*"]
    for number, name in enumerate(names):
        desk.group = name
        desk.claim("x", number)
        desk.store.close(name, "other", 10 + number)
    for number, name in enumerate(names):
        view = desk.store.look(name)
        assert view.left.get("rpm", 60) == 60 - number
        assert view.closed == {"other": pytest.approx(10 + number)}


@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_large_numbers_are_counted_to_the_token(desk: Desk, kind: Literal["bucket", "sliding"]) -> None:
    desk.meters = (Meter("tpm", kind, 1e9),)
    for number in range(200):
        desk.claim("a", 4_999_999, spent=[("tpm", 4_999_999, 0.0)] if number else None, keep=0)
    desk.claim("a", keep=0, spent=[("tpm", 4_999_999, 0.0)])
    assert desk.left() == pytest.approx(200, abs=1e-4)
    assert desk.claim("a", 1000).granted == {"tpm": pytest.approx(200, abs=1e-4)}


def test_less_than_one_request_a_period(desk: Desk) -> None:
    desk.meters = (Meter("rpm", "bucket", 0.5, whole=True),)
    assert desk.claim("a", 1).granted == {"rpm": 1}
    desk.claim("a", spent=[("rpm", 1, 0.0)])
    assert desk.left() == -0.5
    assert desk.claim("a", 1).retry_after == pytest.approx(120)


def test_looking_changes_nothing_and_makes_nothing(desk: Desk) -> None:
    assert desk.store.look(desk.group) == View({}, {}, {})
    desk.claim("a", 10)
    assert desk.store.look(desk.group) == desk.store.look(desk.group)


# -- nonsense ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"owner": ""}, "owner"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": math.inf}, "ttl"),
        ({"want": {"rpm": -1}}, "want"),
        ({"want": {"tpm": 1}}, "want"),
        ({"least": {"rpm": math.nan}}, "least"),
        ({"keep": {"rpm": math.inf}}, "keep"),
        ({"reports": (Report(1, (Spending("rpm", math.nan, 0.0),)),)}, "report"),
        ({"reports": (Report(1, (Spending("rpm", 1.0, -1.0),)),)}, "report"),
        ({"reports": (Report(1, (Spending("tpm", 1.0, 0.0),)),)}, "report"),
        ({"meters": (RPM, RPM)}, "two meters"),
    ],
)
def test_a_claim_that_cannot_be_is_refused(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Claim(**{"owner": "a", "meters": (RPM,), "ttl": 5.0, **fields})


@pytest.mark.parametrize(
    "fields", [{"quota": 0}, {"quota": math.nan}, {"period": -1}, {"capacity": 0}, {"kind": "jug"}]
)
def test_a_meter_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Meter"):
        Meter(**{"name": "rpm", "kind": "bucket", "quota": 60, **fields})


def test_a_correction_or_closing_that_cannot_be_is_refused(desk: Desk) -> None:
    for bounds in ({}, {"at_least": 2.0, "at_most": 1.0}, {"at_most": math.nan}, {"at_most": 1.0, "ago": -1.0}):
        with pytest.raises(ConfigError, match="correction"):
            desk.store.correct(desk.group, TPM, **bounds)
    with pytest.raises(ConfigError, match="in flight"):
        desk.store.correct(desk.group, SLOTS, at_most=1.0)
    for seconds in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="closed"):
            desk.store.close(desk.group, "gpt", seconds)


def test_processes_that_disagree_how_a_limit_counts_do_not_push_its_spending_into_the_future() -> None:
    bucket = ("bucket", 60.0, 60.0, 60.0, True)
    window = ("sliding", 60.0, 60.3, 60.0, True)
    gauge = Gauge(bucket, 0.0)  # type: ignore[arg-type]  # as the ledger writes it
    gauge.spend(60.0, 10.0)
    for _ in range(100):
        gauge.adopt(window, 10.0)  # type: ignore[arg-type]  # likewise
        gauge.adopt(bucket, 10.0)  # type: ignore[arg-type]  # likewise
    gauge.adopt(window, 10.0)  # type: ignore[arg-type]  # likewise
    assert gauge.left(11.0) == 0.0
    assert gauge.left(73.0) == 60.0
