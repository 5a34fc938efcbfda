"""Whether and when an attempt is tried again: arithmetic, with the chance taken out of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm import ConfigError, RetryPolicy
from bulkllm.calls.failure import Failure

SERVER = Failure("server", 500)


def policy(**options: Any) -> RetryPolicy:
    return RetryPolicy(rand=lambda: 0.5, **options)


def test_delays_double_up_to_the_longest() -> None:
    delays = [policy(max_attempts=9, base_delay=1.0, max_delay=10.0).decide(SERVER, n, 0.0) for n in range(1, 7)]
    assert delays == [0.75, 1.5, 3.0, 6.0, 7.5, 7.5]


def test_half_of_a_delay_is_chance() -> None:
    assert RetryPolicy(base_delay=8.0, rand=lambda: 0.0).decide(SERVER, 1, 0.0) == 4.0
    assert RetryPolicy(base_delay=8.0, rand=lambda: 1.0).decide(SERVER, 1, 0.0) == 8.0


def test_a_thousandth_attempt_does_not_overflow() -> None:
    assert policy(max_attempts=10_000).decide(SERVER, 5000, 0.0) == 45.0


def test_the_last_attempt_is_the_last() -> None:
    assert policy(max_attempts=3).decide(SERVER, 2, 0.0) is not None
    assert policy(max_attempts=3).decide(SERVER, 3, 0.0) is None
    assert policy(max_attempts=1).decide(SERVER, 1, 0.0) is None


@pytest.mark.parametrize("kind", ["quota", "auth", "not_found", "request"])
def test_what_waiting_does_not_mend_is_not_tried_again(kind: Any) -> None:
    assert policy().decide(Failure(kind, 429, retry_after=0.1), 1, 0.0) is None


@pytest.mark.parametrize("kind", ["rate_limit", "capacity", "server", "timeout", "connection"])
def test_a_providers_own_word_goes_before_the_formula(kind: Any) -> None:
    assert policy().decide(Failure(kind, retry_after=4.0), 1, 0.0) == pytest.approx(4.2)


def test_nobody_comes_back_before_the_provider_said() -> None:
    assert RetryPolicy(rand=lambda: 0.0).decide(Failure("rate_limit", retry_after=4.0), 1, 0.0) == 4.0
    assert policy().decide(Failure("rate_limit", retry_after=0.0), 1, 0.0) == 0.0


def test_a_wait_that_is_too_long_is_not_waited_for() -> None:
    assert policy(max_retry_after=60.0).decide(Failure("rate_limit", retry_after=60.0), 1, 0.0) is not None
    assert policy(max_retry_after=60.0).decide(Failure("rate_limit", retry_after=60.1), 1, 0.0) is None


def test_no_attempt_begins_after_the_longest_time() -> None:
    assert policy(base_delay=4.0, max_elapsed=10.0).decide(SERVER, 1, 7.0) == 3.0
    assert policy(base_delay=4.0, max_elapsed=10.0).decide(SERVER, 1, 7.1) is None


def test_another_number_of_attempts_leaves_the_rest_alone() -> None:
    changed = policy(base_delay=3.0).with_attempts(2)
    assert (changed.max_attempts, changed.base_delay) == (2, 3.0)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 2.5},
        {"max_attempts": "3"},
        {"base_delay": -1},
        {"max_delay": float("nan")},
        {"max_retry_after": "60"},
        {"max_elapsed": -5},
        {"base_delay": None},
    ],
)
def test_a_senseless_policy_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        RetryPolicy(**options)


@given(
    attempt=st.integers(1, 10_000),
    elapsed=st.floats(0, 1e9),
    retry_after=st.none() | st.floats(0, 1e12),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_every_delay_is_bounded(attempt: int, elapsed: float, retry_after: float | None, chance: float) -> None:
    chosen = RetryPolicy(max_attempts=20_000, max_delay=30.0, max_retry_after=100.0, rand=lambda: chance)
    delay = chosen.decide(Failure("rate_limit", retry_after=retry_after), attempt, elapsed)
    if retry_after is None:
        assert delay is not None
        assert 0 < delay <= 30.0
    elif delay is not None:
        assert retry_after <= delay <= 110.0
    else:
        assert retry_after > 100.0
