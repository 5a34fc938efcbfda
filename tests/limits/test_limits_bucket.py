from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from bulkllm.limits.bucket import _GRAIN, Grain, SlidingWindow, TokenBucket

# Spans are whole 512ths of a second and amounts whole numbers, so that a comparison fails for the arithmetic's sake
# and not for a last binary digit's.
spans = st.integers(0, 64 * 90).map(lambda ticks: ticks / 64) | st.integers(0, 8).map(lambda ticks: ticks / 512)
amounts = st.integers(1, 40)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine proves nothing
SHADE = 1e-6  # more than the slack that the meters allow themselves, less than anything that these tests tell apart


@dataclass
class SlowBucket:
    """A bucket as one would explain it: a level, refilled at each look."""

    quota: float
    period: float
    capacity: float
    level: float
    at: float

    def look(self, now: float) -> float:
        self.level = min(self.capacity, self.level + (now - self.at) * self.quota / self.period)
        self.at = now
        return self.level

    def take(self, amount: float, now: float) -> None:
        self.level = self.look(now) - amount

    def give(self, amount: float, now: float) -> None:
        self.level = min(self.capacity, self.look(now) + amount)

    def ready_at(self, amount: float, now: float) -> float:
        missing = min(amount, self.capacity) - self.look(now)
        return now + max(0.0, missing) * self.period / self.quota


class BucketLikeTheModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 5_000.0
        self.bucket = TokenBucket("rpm", 0, 60.0, 30.0, capacity=24.0)
        self.model = SlowBucket(60.0, 30.0, 24.0, 24.0, self.now)

    @rule(span=spans)
    def pass_time(self, span: float) -> None:
        self.now += span

    @rule(amount=amounts)
    def take(self, amount: int) -> None:
        self.bucket.take(amount, self.now)
        self.model.take(amount, self.now)

    @rule(amount=amounts)
    def give(self, amount: int) -> None:
        self.bucket.give(amount, self.now)
        self.model.give(amount, self.now)

    @rule(amount=amounts)
    def take_more_by_a_negative_gift(self, amount: int) -> None:
        self.bucket.give(-amount, self.now)
        self.model.take(amount, self.now)

    @rule(amount=amounts)
    def compare_ready_at(self, amount: int) -> None:
        ready = self.bucket.ready_at(amount, self.now)
        expected = self.model.ready_at(amount, self.now)
        assert max(ready, self.now) == pytest.approx(expected, abs=SHADE)
        assert self.bucket.ready_at(amount, max(ready, self.now)) <= max(ready, self.now), "it fits at the time told"
        if ready - SHADE > self.now:
            assert self.bucket.ready_at(amount, ready - SHADE) > ready - SHADE, "and not before"

    @invariant()
    def same_level(self) -> None:
        assert self.bucket.remaining(self.now) == pytest.approx(self.model.look(self.now), abs=SHADE)


BucketLikeTheModel.TestCase.settings = unhurried
TestBucketLikeTheModel = BucketLikeTheModel.TestCase


@unhurried
@given(
    quota=st.integers(1, 500),
    period=st.integers(1, 120),
    burst=st.floats(1, 200),
    asked=st.lists(st.tuples(spans, st.floats(0.25, 60)), min_size=2, max_size=40),
)
def test_a_bucket_grants_no_more_than_capacity_and_refill_in_any_interval(
    quota: int, period: int, burst: float, asked: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket("tpm", 1, quota, period, capacity=burst)
    now = 100.0
    grants: list[tuple[float, float]] = []
    for pause, wanted in asked:
        amount = min(wanted, burst)
        now = max(now + pause, bucket.ready_at(amount, now + pause))
        bucket.take(amount, now)
        grants.append((now, amount))
    for first, (began, _) in enumerate(grants):
        granted = 0.0
        for at, amount in grants[first:]:
            granted += amount
            assert granted <= burst + (at - began) * quota / period + quota / period * SHADE + 1e-6


@unhurried
@given(clock=st.floats(0, 1e9), amount=st.integers(1, 7), quota=st.integers(1, 10_000), period=st.floats(0.05, 1e5))
def test_what_fits_is_let_in_at_once_whatever_the_clock_shows(
    clock: float, amount: int, quota: int, period: float
) -> None:
    fresh = TokenBucket("rpm", 0, quota, period, capacity=float(amount))
    assert fresh.ready_at(amount, clock) <= clock
    fresh.take(amount, clock)
    later = clock + 2 * period * max(1.0, amount / quota)
    assert fresh.ready_at(amount, later) <= later, "full again, as a host that has been up for a year sees it too"


def test_an_oversize_request_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    bucket = TokenBucket("tpm", 1, 10.0, 10.0)
    bucket.take(4, 0.0)
    assert bucket.ready_at(25, 0.0) == pytest.approx(4.0)
    bucket.take(25, 4.0)
    assert bucket.remaining(4.0) == pytest.approx(-15.0)
    assert bucket.ready_at(1, 4.0) == pytest.approx(20.0)


def test_what_was_taken_while_full_is_not_given_back_twice() -> None:
    bucket = TokenBucket("rpm", 0, 10.0, 10.0)
    bucket.take(10, 0.0)
    bucket.give(10, 60.0)  # it had refilled long before
    assert bucket.remaining(60.0) == 10.0
    bucket.take(10, 60.0)
    assert bucket.remaining(60.0) == pytest.approx(0.0)


# -- the sliding window ------------------------------------------------------------------------------------------

QUOTA = 40.0
PERIOD = 64.0
WIDTH = PERIOD / _GRAIN


@dataclass(eq=False)
class Sent:
    """One request of the model: when it was sent, None while it is pending, and what the window gave for it."""

    amount: float
    stamp: float | None = None
    counts: float = 0.0
    grain: Grain | None = None


@dataclass
class SlowWindow:
    """A window as one would explain it: a list of what was sent when, summed at each look."""

    sent: list[Sent] = field(default_factory=list)

    def used(self, now: float, lag: float = 0.0) -> float:
        return sum(one.counts for one in self.sent if one.stamp is None or one.stamp + PERIOD + lag > now)


class WindowLikeTheModel(RuleBasedStateMachine):
    pending = Bundle("pending")
    stamped = Bundle("stamped")

    def __init__(self) -> None:
        super().__init__()
        self.now = 2_000.0
        self.window = SlidingWindow("rpm", 0, QUOTA, PERIOD)
        self.model = SlowWindow()

    @rule(span=spans)
    def pass_time(self, span: float) -> None:
        self.now += span

    @rule(target=pending, amount=amounts)
    def take(self, amount: int) -> Sent:
        one = Sent(amount, counts=amount)
        self.window.take(amount, self.now)
        self.model.sent.append(one)
        return one

    @rule(target=stamped, one=consumes(pending))
    def send(self, one: Sent) -> Sent:
        one.stamp = self.now
        one.grain = self.window.send(one.amount, self.now)
        return one

    @rule(one=consumes(pending))
    def give_what_was_never_sent(self, one: Sent) -> None:
        self.window.give_pending(one.amount)
        self.model.sent.remove(one)

    @rule(target=pending, one=consumes(stamped))
    def unsend(self, one: Sent) -> Sent:
        assert one.grain is not None
        self.window.unsend(one.amount, one.grain, self.now)
        one.stamp = one.grain = None
        one.counts = one.amount
        return one

    @rule(one=consumes(stamped), actual=st.integers(0, 60))
    def correct(self, one: Sent, actual: int) -> None:
        assert one.grain is not None
        self.window.give(one.amount - actual, one.grain, self.now)
        one.counts = actual

    @rule(amount=amounts)
    def compare_ready_at(self, amount: int) -> None:
        ready = self.window.ready_at(amount, self.now)
        assert ready >= self.now
        due = sorted(one.stamp + PERIOD for one in self.model.sent if one.stamp is not None)
        exact = next((t for t in [self.now, *due] if t >= self.now and self.fits(amount, t)), math.inf)
        if ready == math.inf:
            assert exact == math.inf, "only what is pending may hang on an event"
        else:
            assert exact <= ready <= exact + WIDTH, "never early, and late by a grain at most"

    def fits(self, amount: float, at: float) -> bool:
        return self.model.used(at) + min(amount, QUOTA) <= QUOTA

    @precondition(lambda self: self.window.ready_at(1, self.now) < math.inf)
    @rule(amount=amounts)
    def it_fits_at_the_time_told_and_not_before(self, amount: int) -> None:
        ready = self.window.ready_at(amount, self.now)
        if ready == math.inf:
            return
        if ready > self.now:
            before = max(self.now, ready - WIDTH / 4)
            assert self.window.ready_at(amount, before) == ready
        self.now = ready
        assert self.window.ready_at(amount, self.now) <= self.now

    @invariant()
    def remaining_is_right_but_for_a_grain(self) -> None:
        left = self.window.remaining(self.now)
        assert QUOTA - self.model.used(self.now, WIDTH) <= left <= QUOTA - self.model.used(self.now)


WindowLikeTheModel.TestCase.settings = unhurried
TestWindowLikeTheModel = WindowLikeTheModel.TestCase


@unhurried
@given(
    asked=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 3), st.integers(1, 40)), min_size=2, max_size=60),
)
def test_no_trailing_period_holds_more_than_the_quota(asked: list[tuple[float, float, int]]) -> None:
    window = SlidingWindow("tpm", 1, QUOTA, PERIOD)
    now = 77.0
    stamps: list[tuple[float, int]] = []
    for pause, delay, amount in asked:
        now = window.ready_at(amount, now + pause)
        assert now < math.inf, "nothing is pending"
        window.take(amount, now)
        now += delay  # granted, and sent a little later
        window.send(amount, now)
        stamps.append((now, amount))
    for at, _ in stamps:
        assert sum(amount for stamp, amount in stamps if stamp <= at < stamp + PERIOD) <= QUOTA


def test_what_is_pending_never_expires() -> None:
    window = SlidingWindow("rpm", 0, 2.0, 10.0)
    window.take(2, 0.0)
    assert window.ready_at(1, 1_000_000.0) == math.inf
    window.send(2, 1_000_000.0)
    assert window.ready_at(1, 1_000_001.0) == 1_000_010.0


def test_a_correction_after_expiry_is_ignored() -> None:
    window = SlidingWindow("tpm", 1, 100.0, 10.0)
    window.take(60, 0.0)
    grain = window.send(60, 0.0)
    window.take(30, 20.0)
    window.send(30, 20.0)
    window.give(60, grain, 20.0)
    window.give(-500, grain, 20.0)
    assert window.remaining(20.0) == 70.0


def test_usage_above_the_estimate_is_a_debt_until_it_leaves_the_window() -> None:
    window = SlidingWindow("tpm", 1, 100.0, 10.0)
    window.take(60, 0.0)
    grain = window.send(60, 0.0)
    window.give(-90, grain, 1.0)
    assert window.remaining(1.0) == -50.0
    assert window.ready_at(1, 1.0) == 10.0


def test_a_request_that_is_stamped_again_after_its_first_stamp_expired_counts_anew() -> None:
    window = SlidingWindow("rpm", 0, 1.0, 10.0)
    window.take(1, 0.0)
    grain = window.send(1, 0.0)
    window.unsend(1, grain, 25.0)
    window.send(1, 25.0)
    assert window.remaining(25.0) == 0.0
    assert window.ready_at(1, 25.0) == 35.0


def test_grains_stay_bounded_and_lose_nothing() -> None:
    window = SlidingWindow("rpm", 0, 1e9, 60.0)
    now = 0.0
    for step in range(60_000):  # two minutes at 500 a second
        now = step / 500
        window.ready_at(1, now)
        window.take(1, now)
        window.send(1, now)
    assert len(window._grains) <= _GRAIN + 1
    assert 30_000 <= 1e9 - window.remaining(now) <= 30_000 + 500 * 60 / _GRAIN + 1


@unhurried
@given(st.lists(st.floats(0.001, 5e6), min_size=1, max_size=60))
def test_fractions_of_tokens_leave_nothing_behind(taken: list[float]) -> None:
    window = SlidingWindow("tpm", 1, 1e9, 60.0)
    for amount in taken:
        window.take(amount, 0.0)
    for index, amount in enumerate(reversed(taken)):
        if index % 3:
            window.send(amount, 1.0 + index / 16)
        else:
            window.give_pending(amount)
    assert window.ready_at(1e9, 10.0) < math.inf, "nothing is pending, so time alone must be enough"
    assert window.ready_at(1e9, 100.0) == 100.0
    assert window.remaining(100.0) == 1e9


def test_a_window_widens_once_for_all_that_were_sent_before_it_knew_and_up_to_a_bound() -> None:
    window = SlidingWindow("rpm", 0, 600, 60.0)
    first = window.margin
    assert window.widen(sent_at=100.0, now=100.1)
    assert window.margin == 2 * first
    assert window.widen(sent_at=100.05, now=100.2)  # no news
    assert window.margin == 2 * first
    now = 101.0
    while window.widen(sent_at=now, now=now):
        now += 1.0
    assert window.margin == 2.0
    assert not window.widen(sent_at=now + 1, now=now + 1), "what comes so much too early does so for another reason"
