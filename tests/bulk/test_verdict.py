from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from bulkllm import errors
from bulkllm.accounting import Usage, UsageRecord
from bulkllm.bulk.pools import ALIKE, REFUSALS, Pool, Streak
from bulkllm.bulk.verdict import Verdict, judge
from bulkllm.bulk.waiting import Waiting
from bulkllm.calls.quota import attach_quota


@pytest.mark.parametrize(
    ("name", "status", "more", "passing", "pool_wide"),
    [
        ("Timeout", 408, {}, True, False),
        ("APIConnectionError", None, {}, True, False),
        ("InternalServerError", 500, {}, True, False),
        ("ServiceUnavailableError", 503, {}, True, False),
        ("RateLimitError", 429, {}, True, False),
        ("RateLimitError", 429, {"body": {"error": {"code": "insufficient_quota"}}}, True, True),
        ("AuthenticationError", 401, {}, True, True),
        ("PermissionDeniedError", 403, {}, True, True),
        ("NotFoundError", 404, {}, True, True),
        ("BadRequestError", 400, {"llm_provider": "openai"}, False, False),
        ("BadRequestError", 400, {"llm_provider": ""}, True, True),
        ("ContextWindowExceededError", 400, {"llm_provider": "openai"}, False, False),
        ("BadRequestError", 400, {"body": {"error": {"details": [{"reason": "API_KEY_INVALID"}]}}}, True, True),
        ("BadRequestError", 400, {"body": {"error": {"code": "organization_restricted"}}}, True, True),
        ("BadRequestError", 400, {"body": {"error": {"code": "blocked_api_access"}}}, True, True),
        ("BadRequestError", 400, {"body": {"error": {"code": "model_decommissioned"}}}, True, True),
        ("RateLimitError", 429, {"body": {"error": {"code": "1113"}}}, True, True),
        ("APIError", 403, {"body": {"error": {"metadata": {"flagged_input": "..."}}}}, False, False),
        ("UnprocessableEntityError", 422, {}, False, False),
        ("SomethingNew", None, {}, False, False),
    ],
)
def test_what_a_providers_error_means(
    error: Any, name: str, status: int | None, more: dict[str, Any], passing: bool, pool_wide: bool
) -> None:
    verdict = judge(error(name, status, **more))
    assert verdict.passing is passing
    assert (verdict.cure is not None) is pool_wide
    assert not verdict.ends_run


@pytest.mark.parametrize(
    ("error", "passing", "pool_wide", "ends_run"),
    [
        (errors.LimitTimeout("x"), True, False, False),
        (errors.ImpossibleRequest("x"), False, False, False),
        (errors.RequestFileError("x"), False, False, False),
        (errors.ConfigError("x"), True, True, False),
        (errors.BudgetExceeded("x"), True, False, False),
        (errors.IncompatibleLiteLLM("x"), True, True, True),
    ],
)
def test_what_our_own_errors_mean(error: errors.BulkLLMError, passing: bool, pool_wide: bool, ends_run: bool) -> None:
    verdict = judge(error)
    assert (verdict.passing, verdict.cure is not None, verdict.ends_run) == (passing, pool_wide, ends_run)
    assert verdict.too_large == isinstance(error, errors.BudgetExceeded)


def test_a_missing_package_is_every_rows_trouble(error: Any) -> None:
    disguised = error("APIConnectionError", 500)
    disguised.__cause__ = ModuleNotFoundError("No module named 'mcp'")
    assert "install" in (judge(disguised).cure or "")


@pytest.mark.parametrize(
    ("name", "status", "suspicious"),
    [
        ("BadRequestError", 400, True),
        ("UnprocessableEntityError", 422, True),
        ("APIError", 412, True),
        ("SomethingNew", None, True),
        ("RateLimitError", 429, True),
        ("ContextWindowExceededError", 400, False),
        ("ContentPolicyViolationError", 400, False),
        ("InternalServerError", 500, False),
        ("Timeout", 408, False),
        ("AuthenticationError", 401, False),
    ],
)
def test_what_may_meet_every_row_and_does_not_say_so(error: Any, name: str, status: int, suspicious: bool) -> None:
    verdict = judge(error(name, status, llm_provider="openai"))
    assert (verdict.suspicion is not None) is suspicious
    if suspicious:
        assert not verdict.answered


def test_a_days_quota_that_is_spent_ends_the_pool_and_leaves_the_row_undone() -> None:
    verdict = judge(errors.QuotaExhausted("gemini/m", "requests per day", datetime(2026, 11, 26, 8, tzinfo=UTC), 60.0))
    assert (verdict.ends_pool, verdict.ends_run, verdict.passing) == (True, False, True)
    pool = Pool(("gemini/m", None, None), Waiting())
    assert pool.failed(verdict, "some text", 1)
    assert pool.stopped is not None
    assert pool.stopped.startswith(
        "gemini/m was stopped: the quota of requests per day is spent for gemini/m: nothing goes before "
        "2026-11-26T08:00:00Z; run the same again after that"
    )


def test_a_refusal_of_the_providers_that_tells_of_it_does_the_same(error: Any) -> None:
    refusal = error("RateLimitError", 429)
    assert not judge(refusal).ends_pool
    told = errors.QuotaExhausted("gemini/m", "requests per day", datetime(2026, 11, 26, 8, tzinfo=UTC), 60.0)
    attach_quota(refusal, told)
    assert judge(refusal) == judge(told)


DEAD = Verdict(passing=True, cure="do something")
SOUND = Verdict(passing=False, answered=True)
UNSURE = Verdict(passing=True)
SUSPICIOUS = Verdict(passing=False, suspicion="look")


def test_a_pool_is_stopped_by_refusals_in_a_row() -> None:
    pool = Pool(("openai/m", "lab", "sk-secret"), Waiting())
    for number in range(REFUSALS - 1):
        assert not pool.failed(DEAD, "why", number)
    assert pool.failed(DEAD, "why", REFUSALS)
    assert pool.stopped == "openai/m at lab was stopped: 10 rows in a row were refused (why); do something"
    assert not pool.failed(DEAD, "why", REFUSALS + 1)  # only once


@pytest.mark.parametrize(
    ("between", "stops"), [(SOUND, False), (UNSURE, True), (SUSPICIOUS, True), ("answer", False), ("cached", True)]
)
def test_only_a_sign_of_life_begins_the_count_anew(between: Any, stops: bool) -> None:
    pool = Pool(("openai/m", None, None), Waiting())
    stopped = []
    for number in range(REFUSALS):
        if number == REFUSALS - 1:
            if isinstance(between, Verdict):
                pool.failed(between, "other", number)
            else:
                pool.answered(UsageRecord(model="openai/m", usage=Usage(), cached=between == "cached"))
        stopped.append(pool.failed(DEAD, "why", number))
    assert any(stopped) is stops


# -- refusals that do not say whom they mean -----------------------------------------------------------------


def test_a_pool_is_stopped_by_many_rows_that_are_refused_in_the_same_words() -> None:
    pool = Pool(("openai/m", None, None), Waiting())
    numbers = list(range(1, ALIKE + 1))
    random.Random(1).shuffle(numbers)  # noqa: S311 - as they end, in whatever order
    stopped = [pool.failed(SUSPICIOUS, f"BadRequestError: no credit (request_{number}a)", number) for number in numbers]
    assert stopped == [False] * (ALIKE - 1) + [True]
    assert pool.stopped is not None
    assert "100 rows in a row were refused in the same words (BadRequestError: no credit" in pool.stopped
    assert pool.stopped.endswith("; look")


@pytest.mark.parametrize("every", [2, 50, ALIKE])
def test_rows_that_are_still_being_asked_may_be_answered_yet(every: int) -> None:
    """Refusals come first, however many rows in between are going to be answered."""
    pool = Pool(("openai/m", None, None), Waiting())
    assert not any(pool.failed(SUSPICIOUS, "no", number) for number in range(20_000) if number % every)


def test_rows_that_are_refused_in_words_of_their_own_are_the_rows_fault() -> None:
    pool = Pool(("openai/m", None, None), Waiting())
    words = ["no image at example.com", "no image at example.org"]
    assert not any(pool.failed(SUSPICIOUS, words[number // 70 % 2], number) for number in range(2000))


def test_what_is_remembered_of_refusals_is_bounded() -> None:
    streak = Streak()
    for number in range(0, 50_000, 2):
        assert streak.add(number, "no") == 1
    assert sys.getsizeof(streak._lengths) < 400_000
    assert [streak.add(number, "no") for number in (50_000, 50_001, 50_002)] == [1, 2, 3]
