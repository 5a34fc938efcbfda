"""A key, a quota or a model that is refused in the middle of a run, as each provider says so, through LiteLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import RunResult, run
from bulkllm.bulk.pools import ALIKE, REFUSALS
from bulkllm.testing import FakeProvider, Fault

KEY = "sk-fake-abcdefghijklmnop"
GOOD, FLIGHT, ROWS = 30, 16, 600


def bulk(server: FakeProvider, provider: str, output: Path, **options: Any) -> RunResult:
    rows = [{"prompt": f"Tell me of {number}.", "label": number} for number in range(ROWS)]
    return run(
        rows, model=f"{provider}/fake-model", api_key=KEY, api_base=server.base_of(provider), endpoint="fake",
        output=output, max_in_flight=FLIGHT, progress=False, **options,
    )  # fmt: skip


def google(message: str, reason: str) -> dict[str, Any]:
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
    return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": [detail]}}


def openai(message: str, code: str | int | None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("provider", "status", "body", "cure"),
    [
        ("openai", 401, openai("Your API key has expired.", "invalid_api_key"), "API key"),
        ("openai", 403, "<html><h1>403 Forbidden</h1></html>", "API key"),
        ("openai", 400, openai("Billing hard limit has been reached", "billing_hard_limit_reached"), "quota"),
        ("anthropic", 401, {"type": "error", "error": {"type": "authentication_error", "message": "no"}}, "API key"),
        ("gemini", 400, google("API key not valid. Please pass a valid API key.", "API_KEY_INVALID"), "API key"),
        ("gemini", 400, google("API key expired. Please renew the API key.", "API_KEY_INVALID"), "API key"),
        ("groq", 401, openai("Expired API Key", "expired_api_key"), "API key"),
        ("groq", 400, openai("Organization has been restricted.", "organization_restricted"), "API key"),
        ("groq", 400, openai("The spend limit is reached.", "blocked_api_access"), "quota"),
        ("deepseek", 402, openai("Insufficient Balance", "invalid_request_error", "unknown_error"), "quota"),
        ("mistral", 401, {"detail": "Unauthorized"}, "API key"),
        ("openrouter", 401, {"error": {"message": "User not found.", "code": 401}}, "API key"),
    ],
)
def test_what_is_refused_to_everybody_stops_the_run(
    out: Path, provider: str, status: int, body: Any, cure: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    with FakeProvider(faults=[Fault("status", status=status, body=text, after=GOOD)]) as server:
        result = bulk(server, provider, out)
        asked = server.report().requests
    assert result.stopped is not None
    assert cure in result.stopped
    assert KEY not in result.stopped
    assert result.ok == GOOD
    assert result.ok + result.failed == asked <= GOOD + REFUSALS + 2 * FLIGHT
    with FakeProvider() as server:
        again = bulk(server, provider, out, limit=GOOD + 40)
        assert (again.ok, again.failed, again.skipped) == (GOOD + 40, 0, GOOD)
        assert server.report().requests == 40


@pytest.mark.parametrize(
    ("provider", "status", "body"),
    [
        ("xai", 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: sk***"}),
        ("anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "no credit left"}}),
    ],
)
def test_what_does_not_say_whom_it_refuses_stops_the_run_after_many(
    out: Path, provider: str, status: int, body: Any
) -> None:
    """Status and code are those of a row's own fault, and only the text speaks of the key or of money."""
    fault = Fault("status", status=status, body=json.dumps(body), after=GOOD)
    with FakeProvider(faults=[fault]) as server:
        result = bulk(server, provider, out)
    assert result.stopped is not None
    assert "rows in a row were refused in the same words" in result.stopped
    assert result.ok == GOOD
    assert ALIKE <= result.failed <= ALIKE + 3 * FLIGHT
    with FakeProvider() as server:
        again = bulk(server, provider, out, limit=200)
        assert again.failed == 200 - again.ok > 0
        whole = bulk(server, provider, out, limit=200, retry_failed=True)
        assert (whole.ok, whole.failed) == (200, 0)
        assert server.report().requests == 200 - GOOD
