from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.errors import ConfigError
from bulkllm.testing.limits import Charge, ChargeRule, Pool, ProviderLimits, Window, charge_for
from bulkllm.testing.meters import BucketMeter, SlidingMeter

ONE = charge_for("max_tokens", 1, 1)


def admitted_at(limits: ProviderLimits, times: list[float]) -> list[float]:
    pool = Pool(limits, 0.0)
    return [now for now in times if pool.admit(ONE, now) is None]


def test_a_bucket_holds_one_period_and_refills_continuously() -> None:
    limits = ProviderLimits(rpm=60)
    assert len(admitted_at(limits, [0.0] * 100)) == 60
    assert admitted_at(limits, [0.0] * 60 + [0.5, 0.99, 1.0, 1.0, 2.0]) == [0.0] * 60 + [1.0, 2.0]


def test_a_bucket_of_burst_requests_is_smaller_but_refills_as_fast() -> None:
    assert admitted_at(ProviderLimits(rpm=60, burst=2), [0.0, 0.0, 0.0, 0.9, 1.0, 10.0, 10.0, 10.0]) == [
        0.0,
        0.0,
        1.0,
        10.0,
        10.0,
    ]


def test_a_sliding_window_counts_exactly_the_last_period() -> None:
    limits = ProviderLimits(rpm=2, window="sliding")
    # The one of time 0 counts until just before 60, the one of time 30 until just before 90.
    assert admitted_at(limits, [0.0, 30.0, 59.999, 60.0, 60.0, 89.9, 90.0]) == [0.0, 30.0, 60.0, 90.0]


@pytest.mark.parametrize("window", ["bucket", "sliding"])
@given(data=st.data())
def test_no_window_ever_lets_in_more_than_it_may(window: Window, data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.floats(0, 5), min_size=1, max_size=80))
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    let_in = admitted_at(ProviderLimits(rpm=5, period=10.0, window=window), times)
    for start in let_in:
        within = sum(start <= at < start + 10.0 for at in let_in)
        # A bucket may let in its capacity and what is refilled meanwhile; a sliding window never more than its quota.
        assert within <= (5 if window == "sliding" else 10)


@pytest.mark.parametrize("meter", [BucketMeter(10, 10.0, 60.0, 0.0), SlidingMeter(10, 60.0)])
def test_the_wait_told_is_exactly_enough(meter: BucketMeter | SlidingMeter) -> None:
    meter.take(6, 0.0)
    meter.take(4, 20.0)
    wait = meter.wait_for(5, 25.0)
    assert wait > 0
    assert meter.wait_for(11, 25.0) == math.inf
    resets_at = 25.0 + meter.resets_in(25.0)
    assert meter.wait_for(5, 25.0 + wait - 0.01) > 0
    assert meter.wait_for(5, 25.0 + wait) == 0
    assert meter.available(resets_at - 0.1) < 10
    assert meter.available(resets_at) == pytest.approx(10)


def test_day_limits_are_counted_over_1440_periods() -> None:
    pool = Pool(ProviderLimits(rpd=2, period=1.0, window="sliding"), 0.0)
    assert [pool.admit(ONE, now) is None for now in (0.0, 1.0, 2.0, 1439.0, 1440.0)] == [True, True, False, False, True]
    refusal = pool.admit(ONE, 1440.5)
    assert refusal is not None
    assert (refusal.dimension, refusal.limit, refusal.used) == ("requests_per_day", 2, 2)


def test_all_limits_take_at_once_or_none_does() -> None:
    pool = Pool(ProviderLimits(rpm=10, tpm=100), 0.0)
    big = charge_for("max_tokens", 80, 10)
    assert pool.admit(big, 0.0) is None
    refusal = pool.admit(big, 0.0)
    assert refusal is not None
    assert (refusal.dimension, refusal.limit, refusal.used, refusal.requested) == ("tokens", 100, 80, 80)
    assert refusal.wait == pytest.approx(60 / 100 * 60)
    assert pool.meters["requests"].available(0.0) == 9


def test_the_refusal_names_the_limit_that_holds_up_longest() -> None:
    pool = Pool(ProviderLimits(rpm=1, otpm=10), 0.0)
    pool.admit(charge_for("max_tokens", 1, 10), 0.0)
    refusal = pool.admit(charge_for("max_tokens", 1, 1), 0.0)
    assert refusal is not None
    assert refusal.dimension == "requests"
    too_large = pool.admit(charge_for("max_tokens", 1, 11), 0.0)
    assert too_large is not None
    assert (too_large.dimension, too_large.wait) == ("output_tokens", math.inf)


@pytest.mark.parametrize(
    ("rule", "cap", "charged"),
    [
        ("max_tokens", 50, Charge(30, 50, 50, late_tokens=False, late_output=False)),
        ("max_tokens", 10, Charge(30, 30, 10, late_tokens=False, late_output=False)),
        ("max_tokens", None, Charge(30, 30, 0, late_tokens=False, late_output=True)),
        ("prompt+max_tokens", 50, Charge(30, 80, 50, late_tokens=False, late_output=False)),
        ("prompt+max_tokens", None, Charge(30, 30, 0, late_tokens=True, late_output=True)),
        ("actual", 50, Charge(30, 30, 0, late_tokens=True, late_output=True)),
    ],
)
def test_each_provider_charges_by_its_own_rule(rule: ChargeRule, cap: int | None, charged: Charge) -> None:
    assert charge_for(rule, 30, cap) == charged


def test_real_output_goes_into_debt_and_debt_refuses() -> None:
    pool = Pool(ProviderLimits(otpm=60), 0.0)
    charge = charge_for("actual", 5, 1000)
    assert pool.admit(charge, 0.0) is None
    pool.produced(charge, 90, 0.0)
    assert pool.meters["output_tokens"].available(0.0) == -30
    refusal = pool.admit(charge, 0.0)
    assert refusal is not None
    assert (refusal.dimension, refusal.used) == ("output_tokens", 90)
    assert refusal.wait == pytest.approx(31)
    assert pool.admit(charge, 31.0) is None


def test_refused_requests_count_only_if_the_provider_says_so() -> None:
    limits = ProviderLimits(rpm=2, window="sliding")
    patient, strict = Pool(limits, 0.0), Pool(limits, 0.0)
    for pool, counted in ((patient, False), (strict, True)):
        pool.admit(charge_for("actual", 1, 1), 0.0, count_refused=counted)
        pool.change(ProviderLimits(rpm=2, itpm=5, window="sliding"), 0.0)
        assert pool.admit(charge_for("actual", 6, 1), 0.0, count_refused=counted) is not None
    assert patient.meters["requests"].available(0.0) == 1
    assert strict.meters["requests"].available(0.0) == 0


def test_in_flight_is_a_counter_and_nobody_knows_how_long_it_takes() -> None:
    pool = Pool(ProviderLimits(max_in_flight=1), 0.0)
    assert pool.admit(ONE, 0.0) is None
    refusal = pool.admit(ONE, 0.0)
    assert refusal is not None
    assert (refusal.dimension, refusal.limit, refusal.wait) == ("in_flight", 1, None)
    pool.in_flight -= 1
    assert pool.admit(ONE, 0.0) is None


def test_changed_limits_remember_what_was_used() -> None:
    pool = Pool(ProviderLimits(rpm=10, window="sliding"), 0.0)
    for _ in range(6):
        pool.admit(ONE, 0.0)
    pool.change(ProviderLimits(rpm=8, window="sliding"), 0.0)
    assert pool.meters["requests"].available(0.0) == 2
    pool.change(ProviderLimits(rpm=4, window="sliding"), 0.0)
    assert pool.meters["requests"].available(0.0) == -2
    bucket = Pool(ProviderLimits(rpm=60), 0.0)
    bucket.change(ProviderLimits(rpm=6), 0.0)
    assert bucket.meters["requests"].available(0.0) == 6
    bucket.change(ProviderLimits(rpm=600), 0.0)
    assert bucket.meters["requests"].available(0.1) == pytest.approx(7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rpm": 0}, "rpm=0: give a number from 1"),
        ({"tpm": "many"}, "tpm='many'"),
        ({"window": "minute"}, "window='minute'"),
        ({"period": 0}, "period=0"),
        ({"window": "sliding", "burst": 3}, "leave burst out"),
    ],
)
def test_impossible_limits_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ProviderLimits(**options)  # type: ignore[arg-type]  # wrong on purpose
