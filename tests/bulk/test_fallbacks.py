from __future__ import annotations

import contextlib
import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkllm.accounting import Usage, UsageRecord
from bulkllm.bulk import BulkRequest, RunResult, run
from bulkllm.bulk.fallbacks import Fallbacks, alternatives
from bulkllm.calls import RetryPolicy
from bulkllm.errors import ConfigError, QuotaExhausted, RowFailed
from bulkllm.models import LLMConfig
from bulkllm.testing import FakeProvider, Fault
from tests.bulk.conftest import ProviderError


class Models:
    """Stands in for a client; some models fail."""

    def __init__(self, calls: Any, failing: dict[str, Any]) -> None:
        self._calls = calls
        self.failing = failing
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, request: BulkRequest) -> Any:
        assert request.body["model"] == request.model
        self.asked.append(request.model)
        self.bodies.append(dict(request.body))
        if request.model in self.failing:
            raise self.failing[request.model]
        return await self._calls(request)


def bulk(models: Any, rows: Any = ("hi",), **options: Any) -> RunResult:
    return run(list(rows), call=models, model="openai/a", progress=False, max_in_flight=1, **options)


def test_models_are_asked_in_order_until_one_answers(calls: Any, error: Any, out: Path) -> None:
    models = Models(
        calls, {"openai/a": error("InternalServerError", 500), "openai/b": error("ContextWindowExceededError", 400)}
    )
    result = bulk(models, output=out, fallbacks=["openai/b", "xai/c", "xai/d"])
    (row,) = result
    assert models.asked == ["openai/a", "openai/b", "xai/c"]
    assert row.record is not None
    assert (row.ok, row.record.model) == (True, "xai/c")
    assert bulk(models, output=out).skipped == 1  # what it would be asked of is still the first


def test_if_nobody_answers_the_last_error_is_the_rows(calls: Any, error: Any) -> None:
    models = Models(calls, {"openai/a": error("Timeout", 408), "openai/b": error("RateLimitError", 429)})
    (row,) = bulk(models, fallbacks=["openai/b"])
    assert row.error is not None
    assert row.error.code == "RateLimitError"


def test_another_provider_is_not_told_key_and_address(calls: Any, error: Any) -> None:
    models = Models(calls, {name: error("Timeout", 408) for name in ("openai/a", "openai/b", "xai/c", "openai/e")})
    preset = LLMConfig(slug="theirs", model="openai/e", extra={"api_base": "http://e"})
    own = {"model": "xai/d", "api_key": "sk-d"}
    bulk(models, api_base="http://a", api_key="sk-a", temperature=0, fallbacks=["openai/b", "xai/c", preset, own])
    told = [(body.get("api_base"), body.get("api_key"), body["temperature"]) for body in models.bodies]
    assert told == [
        ("http://a", "sk-a", 0), ("http://a", "sk-a", 0), (None, None, 0), ("http://e", None, 0), (None, "sk-d", 0),
    ]  # fmt: skip


def test_a_model_that_refuses_everybody_is_passed_over(calls: Any, error: Any) -> None:
    models = Models(calls, {"openai/a": error("AuthenticationError", 401)})
    result = bulk(models, [f"p{number}" for number in range(40)], fallbacks=["openai/b"])
    assert (result.ok, result.stopped) == (40, None)
    assert (models.asked.count("openai/a"), models.asked.count("openai/b")) == (10, 40)


def test_when_all_refuse_the_run_stops(calls: Any, error: Any) -> None:
    models = Models(calls, {name: error("AuthenticationError", 401) for name in ("openai/a", "openai/b")})
    result = bulk(models, [f"p{number}" for number in range(100)], fallbacks=["openai/b"])
    assert result.stopped is not None
    assert "check the API key" in result.stopped
    assert result.undone > 80


@pytest.mark.parametrize("fallbacks", ["openai/b", {"openai/a": ["openai/b"]}, [5], [{}]])
def test_fallbacks_that_make_no_sense_are_refused(calls: Any, fallbacks: Any) -> None:
    with pytest.raises(ConfigError, match="fallbacks="):
        bulk(calls, fallbacks=fallbacks)


def test_litellms_own_fallbacks_are_no_second_layer(calls: Any) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "fallbacks": ["openai/z"]}
    result = bulk(calls, [{"url": "/v1/chat/completions", "body": body}], skip_bad=True)
    (row,) = result
    assert row.error is not None
    assert "give fallbacks to the run" in row.error.message
    assert calls.asked == 0


def test_it_works_through_litellm() -> None:
    with FakeProvider(faults=[Fault("status", status=503, model="bad")]) as server:
        result = run(
            [f"p{number}" for number in range(5)], model="openai/bad", api_base=server.openai_base, api_key="sk-x",
            fallbacks=["openai/good"], retry=RetryPolicy(max_attempts=2, base_delay=0.01), progress=False,
        )  # fmt: skip
        report = server.report()
    assert result.ok == 5
    assert [row.record and row.record.attempts for row in result] == [3] * 5
    assert (report.models["bad"].requests, report.models["good"].requests) == (10, 5)


def test_the_first_failed_row_may_end_the_run(calls: Any, error: Any, out: Path) -> None:
    calls.errors = {"p3": error("BadRequestError", 400, "no")}
    rows = [{"prompt": f"p{number}", "custom_id": f"r{number}"} for number in range(50)]
    with pytest.raises(RowFailed, match=r"row 4 \(r3\) failed: BadRequestError: no") as caught:
        bulk(calls, rows, output=out, on_error="raise")
    assert (caught.value.index, caught.value.code) == (3, "BadRequestError")
    assert calls.asked < 8
    assert len(out.read_bytes().splitlines()) == calls.asked


def test_a_sample_is_the_same_again_and_part_of_a_larger_one(calls: Any, out: Path) -> None:
    rows = [f"p{number}" for number in range(200)]
    small = bulk(calls, rows, output=out, sample=10)
    assert (small.total, small.ok, calls.asked, len(list(small))) == (10, 10, 10, 10)
    indexes = [row.index for row in small]
    assert max(indexes) - min(indexes) > 60
    assert bulk(calls, rows, output=out, sample=10).skipped == 10
    larger = bulk(calls, rows, output=out, sample=30)
    assert (larger.total, larger.skipped, calls.asked) == (30, 10, 30)
    assert bulk(calls, rows, output=out).skipped == 30
    assert calls.asked == 200
    with pytest.raises(ConfigError, match="cannot be sampled"):
        run(iter(rows), call=calls, model="m", sample=3)


def test_an_empty_account_of_a_fallback_does_not_stop_the_model_itself(calls: Any, error: Any, out: Path) -> None:
    """A row that only its own model refused must not speak for all others."""
    spent = QuotaExhausted("xai/c", "requests per day", datetime(2030, 1, 1, tzinfo=UTC), 3600.0)
    models = Models(calls, {"xai/c": spent})
    calls.errors = {"p3": error("InternalServerError", 500)}
    result = bulk(models, [f"p{number}" for number in range(40)], output=out, fallbacks=["xai/c"])
    assert (result.ok, result.failed, result.undone, result.stopped) == (39, 1, 0, None)
    (failed,) = [row for row in result if row.error is not None]
    assert failed.error is not None
    assert failed.error.code == "InternalServerError"


def test_what_a_wrong_answer_of_the_first_has_cost_is_counted(calls: Any) -> None:
    async def ask(request: BulkRequest) -> Any:
        record = UsageRecord(model=request.model, usage=Usage(3, 2), cost=0.5)
        text = "no number" if request.model == "openai/a" else "7"
        return {"choices": [{"message": {"content": text}}]}, record

    result = run(
        ["n?"], call=ask, model="openai/a", progress=False, fallbacks=["openai/b"], reasks=1,
        response_format={"type": "integer"},
    )  # fmt: skip
    (row,) = result
    assert row.record is not None
    assert (row.parsed, row.record.cost, row.record.total_tokens) == (7, 1.5, 15)


def test_keys_in_rows_have_their_luck_apart(calls: Any, error: Any) -> None:
    async def ask(request: BulkRequest) -> Any:
        asked.append((request.model, request.body.get("api_key")))
        if request.body.get("api_key") == "sk-dead":
            raise error("AuthenticationError", 401)
        return await calls(request)

    asked: list[Any] = []
    rows = [{"prompt": f"p{number}", "api_key": "sk-dead" if number < 15 else "sk-good"} for number in range(30)]
    result = run(rows, call=ask, model="openai/a", progress=False, max_in_flight=1, fallbacks=["xai/c"])
    assert result.ok == 30
    assert asked.count(("openai/a", "sk-dead")) == 10
    assert asked.count(("openai/a", "sk-good")) == 15


@pytest.mark.parametrize("second", ["AuthenticationError", "RateLimitError"])
async def test_the_error_is_as_it_was_raised_and_is_not_kept(second: str, calls: Any, error: Any) -> None:
    """It has the cause and the context that LiteLLM gave it, whichever of the errors it is, and no frame holds it."""
    cause = ValueError("why")

    async def ask(request: BulkRequest) -> Any:
        raise error("InternalServerError" if request.model == "openai/a" else second, 500) from cause

    async def told() -> None:
        with pytest.raises(ProviderError) as caught:
            await fallbacks(request)
        problem = caught.value
        assert type(problem).__name__ == ("InternalServerError" if second == "AuthenticationError" else second)
        assert problem.__cause__ is cause
        assert problem.__context__ is None

    fallbacks = Fallbacks(ask, alternatives(["openai/b"]))
    request = BulkRequest(0, None, b"", b"", "completion", "openai/a", None, {"model": "openai/a"}, {}, None)
    await told()
    with contextlib.suppress(Exception):
        await fallbacks(request)
    gc.collect()
    gc.disable()
    try:
        before = len([one for one in gc.get_objects() if isinstance(one, BaseException)])
        with contextlib.suppress(Exception):
            await fallbacks(request)
        assert len([one for one in gc.get_objects() if isinstance(one, BaseException)]) == before
    finally:
        gc.enable()
