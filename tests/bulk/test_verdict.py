from __future__ import annotations

from typing import Any

import pytest

from bulkllm import errors
from bulkllm.bulk.pools import REFUSALS, Pool
from bulkllm.bulk.verdict import Verdict, judge
from bulkllm.bulk.waiting import Waiting


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
        (errors.BudgetExceeded("x"), True, True, True),
        (errors.IncompatibleLiteLLM("x"), True, True, True),
    ],
)
def test_what_our_own_errors_mean(error: errors.BulkLLMError, passing: bool, pool_wide: bool, ends_run: bool) -> None:
    verdict = judge(error)
    assert (verdict.passing, verdict.cure is not None, verdict.ends_run) == (passing, pool_wide, ends_run)


def test_a_missing_package_is_every_rows_trouble(error: Any) -> None:
    disguised = error("APIConnectionError", 500)
    disguised.__cause__ = ModuleNotFoundError("No module named 'mcp'")
    assert "install" in (judge(disguised).cure or "")


DEAD = Verdict(passing=True, cure="do something")
SOUND = Verdict(passing=False, answered=True)
UNSURE = Verdict(passing=True)


def test_a_pool_is_stopped_by_refusals_in_a_row() -> None:
    pool = Pool(("openai/m", "lab", "sk-secret"), Waiting())
    for _ in range(REFUSALS - 1):
        assert not pool.failed(DEAD, "why")
    assert pool.failed(DEAD, "why")
    assert pool.stopped == "openai/m at lab was stopped: 10 rows in a row were refused (why); do something"
    assert not pool.failed(DEAD, "why")  # only once


@pytest.mark.parametrize(("between", "stops"), [(SOUND, False), (UNSURE, True), (None, False)])
def test_only_a_sign_of_life_begins_the_count_anew(between: Verdict | None, stops: bool) -> None:
    pool = Pool(("openai/m", None, None), Waiting())
    stopped = []
    for number in range(REFUSALS):
        if number == REFUSALS - 1:
            if between is None:
                pool.answered()
            else:
                pool.failed(between, "other")
        stopped.append(pool.failed(DEAD, "why"))
    assert any(stopped) is stops
