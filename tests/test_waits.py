"""What calls wait for, in words: shares of the time, and the advice that follows from them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkllm._waits import (
    BUDGET,
    IDENTICAL,
    OTHER,
    PROVIDER,
    RETRIES,
    advice,
    by_kind,
    described,
    kind_of,
    limit_of,
    lumped,
    reason_of,
    shares_of,
)

REASONS = [
    "rpm of openai/*", "rpm of anthropic/*", "tpm of openai/*", "closed of openai/gpt-5", "in flight of the fives",
"pace of house/m", BUDGET, RETRIES, IDENTICAL, "something new of x",
]  # fmt: skip
waits = st.dictionaries(st.sampled_from(REASONS), st.floats(0, 1e9))


@settings(deadline=None)  # the machine may be busy
@given(waits, st.floats(0, 1e9))
def test_shares_add_up_to_the_whole_and_the_largest_is_first(waits: dict[str, float], provider: float) -> None:
    shares = shares_of({**waits, PROVIDER: provider})
    assert (sum(shares.values()) == pytest.approx(1.0)) if shares else not any([provider, *waits.values()])
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert by_kind(shares).keys() == {kind_of(reason) for reason in shares}
    told = advice(shares)
    assert bool(told) == bool(shares)
    for sentence in told:
        assert sentence.endswith(".")


def test_a_reason_is_a_kind_and_a_limit() -> None:
    assert (kind_of("rpm of openai/*"), limit_of("rpm of openai/*")) == ("rpm", "openai/*")
    assert (kind_of("rpm of a of b"), limit_of("rpm of a of b")) == ("rpm", "a of b")
    assert reason_of("rpm burst", "a of b") == "rpm of a of b"
    assert reason_of("requests per day", "gemini/x") == "rpd of gemini/x"
    assert (kind_of(BUDGET), limit_of(BUDGET)) == (BUDGET, "")
    assert described("itpm of anthropic/*") == "input tokens per minute of anthropic/*"
    assert described("something new of x") == "something new of x"


def test_what_is_lumped_keeps_its_kind() -> None:
    assert lumped("rpm of openai/*") == f"rpm of {OTHER}"
    assert lumped("budget") == "budget"
    assert lumped("something new of x") == lumped("anything") == OTHER
    assert all(lumped(lumped(reason)) == lumped(reason) for reason in REASONS)


def test_where_the_limits_hold_up_they_are_named_and_what_to_raise() -> None:
    told = advice(shares_of({"rpm of openai/*": 70.0, RETRIES: 15.0, "closed of openai/gpt-5": 1.0, PROVIDER: 14.0}))
    assert len(told) == 2
    assert told[0].startswith("Most of the time (70%) went on waiting for requests per minute of openai/*: raise rpm ")
    assert "ask" in told[0]
    assert "a further account" in told[0]
    assert told[1].startswith("15% of the time went on retries: ")


def test_many_limits_of_one_kind_are_one_thing() -> None:
    """Each alone is less than what the provider took; together they are what bounds the run."""
    (told,) = advice(shares_of({f"rpm of m{number}": 10.0 + number for number in range(5)} | {PROVIDER: 30.0}))
    assert told.startswith("Most of the time (67%) went on waiting for requests per minute of m4, m3, m2 and 2 more: ")
    (two,) = advice(shares_of({"tpm of a": 2.0, "tpm of b": 1.0}))
    assert "tokens per minute of a and b: " in two


def test_where_nothing_holds_up_more_may_be_under_way() -> None:
    (told,) = advice(shares_of({"rpm of openai/*": 1.0, PROVIDER: 99.0}))
    assert told.startswith("Most of the time (99%) went on the provider's answers: ")
    assert "max_in_flight" in told


def test_less_than_half_is_only_the_largest_part() -> None:
    told = advice(shares_of({"tpm of a": 40.0, "rpm of a": 30.0, PROVIDER: 30.0}))
    assert told[0].startswith("The largest part of the time (40%) went on waiting for tokens per minute of a: ")
    assert told[1].startswith("30% of the time went on waiting for requests per minute of a: ")
    assert not any("provider's answers" in sentence for sentence in told)  # there is something to be raised first


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_has_advice(reason: str) -> None:
    (told,) = advice(shares_of({reason: 3.0}))
    assert told.startswith("Most of the time (100%) went on ")
    assert limit_of(reason) in told


def test_where_there_was_no_time_there_is_nothing_to_say() -> None:
    assert shares_of({}) == shares_of({"rpm of a": 0.0}) == {}
    assert advice({}) == []
