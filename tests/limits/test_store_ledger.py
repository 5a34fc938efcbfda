"""What every store does with a claim, with a clock that stands still unless told otherwise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkllm.errors import ConfigError
from bulkllm.limits.stores import Claim, Lease, Meter, Report, Spending, Store
from bulkllm.limits.stores.memory import MemoryStore
from bulkllm.limits.stores.redis import RedisStore
from bulkllm.limits.stores.sqlite import SQLiteStore

RPM = Meter("rpm", "bucket", 60, whole=True)
TPM = Meter("tpm", "bucket", 6000)
WINDOW = Meter("tpm", "sliding", 6000)
SLOTS = Meter("in flight", "slots", 10)

_numbers = itertools.count()


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """One group of one store, and claims in few words."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.group = f"group {next(_numbers)}"
        self.meters: tuple[Meter, ...] = (RPM,)
        self.ttl = 5.0
        self._serials = itertools.count(1)

    def claim(
        self,
        owner: str,
        want: float | dict[str, float] | None = None,
        *,
        least: float | dict[str, float] | None = None,
        keep: float | dict[str, float] | None = None,
        spent: list[tuple[str, float, float]] | None = None,
        leaving: bool = False,
    ) -> Lease:
        key = self.meters[0].key

        def amounts(given: float | dict[str, float] | None) -> dict[str, float]:
            return {} if given is None else given if isinstance(given, dict) else {key: given}

        reports = (Report(next(self._serials), tuple(Spending(*each) for each in spent)),) if spent else ()
        claim = Claim(
            owner,
            self.meters,
            self.ttl,
            want=amounts(want),
            least=amounts(least),
            keep=amounts(keep),
            reports=reports,
            leaving=leaving,
        )
        return self.store.lease(self.group, claim)

    def left(self) -> float:
        return self.store.look(self.group).left.get(self.meters[0].key, self.meters[0].size)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds


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
    return lambda clock: RedisStore(url, clock=clock)


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
    desk.claim("a", 58)
    lease = desk.claim("b", 10, least=3)
    assert lease.granted == {}
    assert lease.retry_after == pytest.approx(1.0)
    desk.wait(lease.retry_after)
    assert desk.claim("b", 10, least=3, keep=0).granted == {"rpm": 3}


def test_all_meters_are_granted_at_once_or_none(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.claim("a", {"tpm": 5500})
    refused = desk.claim("b", {"rpm": 1, "tpm": 900}, least={"rpm": 1, "tpm": 900})
    assert refused.granted == {}
    assert refused.held_up == ("tpm",)
    assert refused.retry_after == pytest.approx(4.0)
    assert refused.left["rpm"] == 60


def test_no_more_of_one_meter_is_granted_than_goes_with_the_other(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.claim("a", {"tpm": 4200})
    lease = desk.claim("b", {"rpm": 10, "tpm": 9000}, least={"rpm": 1, "tpm": 900})
    assert lease.granted == {"rpm": 2, "tpm": 1800}


def test_fractions_of_requests_are_not_granted(desk: Desk) -> None:
    desk.claim("a", 59)
    desk.wait(0.7)
    assert desk.claim("b", 5).granted == {"rpm": 1}
    assert desk.left() == pytest.approx(0.7)
    desk.wait(0.2)
    assert desk.claim("c", 5).granted == {}


def test_fractions_of_tokens_are(desk: Desk) -> None:
    desk.meters = (Meter("tpm", "bucket", 90),)
    desk.claim("a", 90)
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
    desk.claim("a", 100)
    lease = desk.claim("b", 9000, least=9000)
    assert lease.granted == {}
    assert lease.retry_after == pytest.approx(1.0)
    desk.claim("a", keep=0)
    assert desk.claim("b", 9000, least=9000).granted == {"tpm": 9000}
    assert desk.left() == -3000
    assert desk.claim("a", 1).retry_after == pytest.approx(30, abs=0.02)


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
    assert view.left == {"rpm": 56, "in flight": 10}


def test_meters_that_an_owner_no_longer_knows_are_not_held_by_it(desk: Desk) -> None:
    desk.meters = (RPM, TPM)
    desk.claim("a", {"rpm": 10, "tpm": 100})
    desk.meters = (RPM,)
    desk.claim("a", keep=10)
    assert desk.store.look(desk.group).held == {"a": {"rpm": 10}}


# -- fairness ----------------------------------------------------------------------------------------------------------


def test_what_is_short_is_shared_among_those_who_ask(desk: Desk) -> None:
    for owner in "abc":
        desk.claim(owner, 1)
    assert desk.claim("a", 1000).granted["rpm"] >= 55, "a moment ago the others wanted little"
    desk.claim("a", 1000, keep=0)
    desk.claim("b", 1000, keep=1)
    desk.claim("c", 1000, keep=1)
    for owner in "abc":
        desk.claim(owner, 1000, keep=0, spent=[("rpm", 0, 0)])
    desk.wait(30)
    parts = [desk.claim(owner, 1000, keep=0).granted.get("rpm", 0) for owner in "abc"]
    assert parts[0] <= 30
    assert sum(parts) >= 57


def test_a_greedy_owner_leaves_a_share_for_those_who_were_there_a_moment_ago(desk: Desk) -> None:
    desk.claim("modest", 5)
    desk.claim("modest", 5, spent=[("rpm", 5, 0.0)])
    lease = desk.claim("greedy", 1000)
    assert lease.granted == {"rpm": 45}
    assert lease.rivals == 1
    assert desk.claim("modest", 5, keep=5).granted == {"rpm": 5}


def test_a_share_that_nobody_comes_for_is_free_again(desk: Desk) -> None:
    desk.claim("modest", 5)
    desk.wait(2.1)
    assert desk.claim("greedy", 1000).granted == {"rpm": 55}


def test_those_who_wait_get_the_same_over_time(desk: Desk) -> None:
    had = dict.fromkeys("abcd", 0.0)
    for _ in range(600):
        desk.wait(0.1)
        for owner, often in zip("abcd", (1, 1, 2, 5), strict=True):
            if round(desk.clock.now * 10) % often == 0:
                granted = desk.claim(owner, 30, keep=0).granted.get("rpm", 0.0)
                if granted:
                    desk.claim(owner, 30, keep=0, spent=[("rpm", granted, 0.0)])
                had[owner] += granted
    burst = max(had.values()) - min(had.values())
    assert sum(had.values()) >= 115
    assert burst <= 60, "whoever came first had what was there; from then on all had the same"
    more = dict.fromkeys("abcd", 0.0)
    for _ in range(1200):
        desk.wait(0.1)
        for owner, often in zip("abcd", (1, 1, 2, 5), strict=True):
            if round(desk.clock.now * 10) % often == 0:
                granted = desk.claim(owner, 30, keep=0).granted.get("rpm", 0.0)
                if granted:
                    desk.claim(owner, 30, keep=0, spent=[("rpm", granted, 0.0)])
                more[owner] += granted
    assert sum(more.values()) >= 118
    assert max(more.values()) - min(more.values()) <= 4
