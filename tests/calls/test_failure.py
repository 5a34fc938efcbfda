"""What an error means: by class, status and the provider's own code, and never by its message."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm import Budget, Client, RetryPolicy, _litellm
from bulkllm.calls import record_of_error
from bulkllm.calls.failure import Failure, failure_of

REQUEST = "https://api.example.test/v1"


def raised(make: Callable[[], object]) -> BaseException:
    try:
        make()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


def litellm_error(name: str, status: int | None = None, message: str = "no", **attributes: Any) -> BaseException:
    """One of LiteLLM's own exceptions, made as LiteLLM makes it."""
    kind = getattr(_litellm.load().exceptions, name)
    keywords: dict[str, Any] = {"message": message, "model": "m", "llm_provider": "openai"}
    if name in ("APIError", "PermissionDeniedError", "UnprocessableEntityError"):
        if name == "APIError":
            keywords["status_code"] = status
        else:
            keywords["response"] = response(status or 400)
    error: BaseException = kind(**keywords)
    if status is not None:
        error.status_code = status  # type: ignore[attr-defined]  # all of LiteLLM's have one
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


def response(status: int, headers: dict[str, str] | None = None) -> Any:
    import importlib

    httpx = importlib.import_module("httpx")
    return httpx.Response(status, headers=headers or {}, request=httpx.Request("POST", REQUEST))


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("RateLimitError", None, "rate_limit"),
        ("Timeout", None, "timeout"),
        ("APIConnectionError", None, "connection"),
        ("InternalServerError", None, "server"),
        ("InternalServerError", 529, "capacity"),
        ("ServiceUnavailableError", None, "capacity"),
        ("BadGatewayError", None, "server"),
        ("APIError", 500, "server"),
        ("APIError", 502, "server"),
        ("APIError", 529, "capacity"),
        ("APIError", 418, "request"),
        ("APIError", 429, "rate_limit"),
        ("APIError", 402, "quota"),
        ("AuthenticationError", None, "auth"),
        ("PermissionDeniedError", 403, "auth"),
        ("APIError", 403, "auth"),
        ("APIError", 401, "auth"),
        ("NotFoundError", None, "not_found"),
        ("BadRequestError", None, "request"),
        ("UnprocessableEntityError", 422, "request"),
        ("ContextWindowExceededError", None, "request"),
        ("ContentPolicyViolationError", None, "request"),
        ("UnsupportedParamsError", None, "request"),
        ("APIResponseValidationError", None, "request"),
    ],
)
def test_each_of_litellms_exceptions_has_its_meaning(name: str, status: int | None, kind: str) -> None:
    assert failure_of(litellm_error(name, status)).kind == kind


def test_only_what_may_pass_is_tried_again() -> None:
    retryable = {"rate_limit", "capacity", "server", "timeout", "connection"}
    final = {"quota", "auth", "not_found", "request"}
    assert {kind for kind in retryable | final if Failure(kind).retryable} == retryable  # type: ignore[arg-type]


def test_another_lanes_errors_are_known_by_their_names() -> None:
    class RateLimitError(Exception):
        status_code = 429

    class GatewayRateLimitError(RateLimitError):
        pass

    assert failure_of(GatewayRateLimitError()).kind == "rate_limit"


@pytest.mark.parametrize("error", [ValueError("500 rate limit timeout"), KeyError("429"), RuntimeError("overloaded")])
def test_a_message_decides_nothing(error: Exception) -> None:
    assert failure_of(error) == Failure("request")


# -- money and quotas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}},
        {"error": {"code": None, "type": "insufficient_quota"}},
        {"error": {"code": "billing_hard_limit_reached", "type": "requests"}},
        {"error": {"type": "organization_spend_limit_exceeded"}},
        {"error": {"type": "credit_balance_exhausted"}},
        {"error": {"code": 429, "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}]}},
        {"code": "insufficient_quota"},
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_quota_that_waiting_does_not_bring_back_is_final(body: dict[str, Any], as_text: bool) -> None:
    where: Any = f"RateLimitError: SomeException - {json.dumps(body)}, and more" if as_text else body
    attribute = "message" if as_text else "body"
    failure = failure_of(litellm_error("RateLimitError", **{attribute: where}))
    assert failure.kind == "quota"
    assert not failure.retryable


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}, "auth"),  # Gemini
        ({"error": {"code": "organization_restricted"}}, "auth"),  # Groq
        ({"error": {"code": "blocked_api_access"}}, "quota"),  # Groq
        ({"error": {"code": "Arrearage"}}, "quota"),  # Alibaba
        ({"error": {"code": "model_decommissioned"}}, "not_found"),  # Groq
        ({"type": "invalid_model", "code": "1500"}, "not_found"),  # Mistral
        ({"error": {"message": "API key not valid", "code": "invalid_request_error"}}, "request"),
    ],
)
def test_a_400_may_refuse_more_than_the_request(body: dict[str, Any], kind: str) -> None:
    assert failure_of(litellm_error("BadRequestError", 400, body=body)).kind == kind


def test_a_403_of_a_moderation_is_about_the_prompt() -> None:
    body = {"error": {"code": 403, "metadata": {"flagged_input": "...", "reasons": ["violence"]}}}
    assert failure_of(litellm_error("APIError", 403, body=body)).kind == "request"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "rate_limit_exceeded", "type": "tokens"}},
        {"error": {"message": "insufficient_quota, it seems", "code": "rate_limit_exceeded"}},
        {"error": {"code": 429, "details": [{"violations": [{"quotaId": "GenerateRequestsPerMinutePerProject"}]}]}},
        "{not json",
        None,
    ],
)
def test_any_other_429_passes(body: Any) -> None:
    assert failure_of(litellm_error("RateLimitError", body=body)).kind == "rate_limit"


def test_402_is_final_unless_the_money_is_only_reserved() -> None:
    assert failure_of(litellm_error("APIError", 402, body={"error": {"code": "no_credits"}})).kind == "quota"
    passing = {"error": {"code": 402, "message": "in_flight_budget_exhausted"}}
    assert failure_of(litellm_error("APIError", 402, body=passing)).kind == "rate_limit"


# -- the chain -----------------------------------------------------------------------------------------------


def test_the_providers_own_status_stands_behind_litellms() -> None:
    class AnthropicError(Exception):
        status_code = 529

    def fail() -> None:
        raise litellm_error("InternalServerError") from AnthropicError()

    failure = failure_of(raised(fail))
    assert (failure.kind, failure.status) == ("capacity", 529)


def test_a_missing_package_is_never_tried_again() -> None:
    error = litellm_error("APIConnectionError")
    error.__context__ = ModuleNotFoundError("No module named 'fastapi'")
    failure = failure_of(error)
    assert failure.kind == "request"
    assert not failure.charge_unknown


def throw(error: BaseException) -> None:
    raise error


def judged_while_handling(outside: BaseException, inner: BaseException) -> Failure:
    try:
        throw(outside)
    except BaseException:  # noqa: BLE001 - whatever a user handles
        error = raised(lambda: throw(inner))
        assert error.__context__ is outside
        return failure_of(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "model", ["openai/gpt-4.1-mini", "azure/m", "gemini/gemini-2.5-flash", "perplexity/sonar", "deepinfra/m"]
)
def test_a_key_that_is_missing_is_missed_at_once_and_costs_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM makes a broken server or a lost connection of it; nothing was sent."""
    for name in ("GOOGLE_API_KEY", "AZURE_AD_TOKEN", "OPENAI_API_BASE", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    client = Client(budget=Budget(max_tokens=9999), retry=RetryPolicy(max_attempts=3, base_delay=0.0))
    options: dict[str, Any] = {"api_base": "http://127.0.0.1:9"} if model.startswith("azure") else {}
    error = raised(lambda: client.completion(model, [{"role": "user", "content": "x"}], max_tokens=1000, **options))
    record = record_of_error(error)
    assert record is not None
    assert (record.attempts, record.charge_unknown, record.cost) == (1, False, 0.0)
    assert client.budget is not None
    assert client.budget.spent.tokens == 0
    told = failure_of(error)
    assert (told.kind, told.retryable, told.refused) == ("auth", False, True)


def test_a_value_error_from_elsewhere_is_no_missing_key() -> None:
    """It may come from reading an answer, which was paid."""

    def validate_environment(*, asks: bool) -> None:
        if not asks:
            raise ValueError("no key")
        fetch()

    def fetch() -> None:
        raise ValueError("this is no answer")

    def told(make: Callable[[], object]) -> tuple[str, bool]:
        lost = litellm_error("APIConnectionError", 500)
        lost.__cause__ = raised(make)
        failure = failure_of(lost)
        return failure.kind, failure.charge_unknown

    assert told(lambda: int("x")) == ("connection", True)
    assert told(lambda: validate_environment(asks=True)) == ("connection", True)
    assert told(lambda: validate_environment(asks=False)) == ("auth", False)


def test_what_the_caller_was_handling_is_no_part_of_the_error() -> None:
    outside = ImportError("a package that the caller can do without")
    assert judged_while_handling(outside, litellm_error("InternalServerError")).kind == "server"


def test_a_fallback_is_not_judged_by_the_error_it_is_a_fallback_for() -> None:
    first = litellm_error("RateLimitError", 429, body={"error": {"code": "insufficient_quota"}})
    first.litellm_response_headers = {"retry-after": "99"}  # type: ignore[attr-defined]  # LiteLLM sets it likewise
    failure = judged_while_handling(first, litellm_error("InternalServerError", 500))
    assert (failure.kind, failure.status, failure.retry_after) == ("server", 500, None)


def test_an_error_may_be_judged_while_it_is_handled() -> None:
    judged = None
    try:
        throw(litellm_error("RateLimitError", litellm_response_headers={"retry-after": "3"}))
    except Exception as error:  # noqa: BLE001 - any
        judged = failure_of(error)
    assert judged == Failure("rate_limit", 429, 3.0)


def test_a_chain_that_leads_round_in_a_circle_ends() -> None:
    one, two = litellm_error("InternalServerError"), RuntimeError()
    one.__context__, two.__context__ = two, one
    assert failure_of(one).kind == "server"


# -- whether it may be billed --------------------------------------------------------------------------------


def chained(outer: BaseException, *inner: BaseException) -> BaseException:
    link = outer
    for error in inner:
        link.__cause__ = error
        link = error
    return outer


class APIConnectionError(Exception):
    """As the OpenAI SDK calls it."""


class TransportError(Exception):
    """As httpx calls it."""


class HTTPStatusError(Exception):
    """As httpx calls it."""


class ClientConnectorError(OSError):
    """As aiohttp calls it."""


@pytest.mark.parametrize(
    ("below", "kind", "unknown"),
    [
        ((APIConnectionError(), ConnectionResetError()), "connection", True),
        ((TransportError(),), "connection", True),
        ((json.JSONDecodeError("torn", "{", 1),), "connection", True),
        ((APIConnectionError(), ConnectionRefusedError()), "connection", False),
        ((TransportError(), socket.gaierror()), "connection", False),
        ((TransportError(), ClientConnectorError()), "connection", False),
        ((HTTPStatusError(),), "server", False),
        ((HTTPStatusError(), json.JSONDecodeError("an HTML page", "<", 0)), "server", False),
        ((), "server", False),
    ],
)
def test_a_500_of_litellms_own_is_told_from_the_providers(
    below: tuple[BaseException, ...], kind: str, unknown: bool
) -> None:
    failure = failure_of(chained(litellm_error("InternalServerError"), *below))
    assert (failure.kind, failure.charge_unknown) == (kind, unknown)
    assert failure.retryable


def test_a_timeout_may_be_billed_and_a_refusal_not() -> None:
    assert failure_of(litellm_error("Timeout")).charge_unknown
    for name in ("RateLimitError", "AuthenticationError", "BadRequestError", "ServiceUnavailableError"):
        assert not failure_of(litellm_error(name)).charge_unknown, name


def test_an_answer_that_litellm_did_not_accept_has_been_worked_on() -> None:
    failure = failure_of(litellm_error("APIResponseValidationError"))
    assert failure.charge_unknown
    assert not failure.retryable
    assert not failure.refused


# -- how long to wait ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ({"litellm_response_headers": {"Retry-After": "7"}}, 7.0),
        ({"litellm_response_headers": {"retry-after-ms": "1500", "retry-after": "2"}}, 1.5),
        ({"headers": {"retry-after": "2.5"}}, 2.5),
        ({"response": SimpleNamespace(headers={"Retry-After": "4"})}, 4.0),
        ({"litellm_response_headers": {}, "response": SimpleNamespace(headers={"retry-after": "6"})}, 6.0),
        ({"litellm_response_headers": {"retry-after": "soon"}, "headers": {"retry-after": "8"}}, 8.0),
        ({"litellm_response_headers": "garbage"}, None),
        ({"body": {"error": {"details": [{"@type": "x"}, {"retryDelay": "41.5s"}]}}}, 41.5),
        ({"message": 'VertexException - {"error": {"details": [{"retryDelay": "3s"}]}}'}, 3.0),
        ({"body": {"error": {"details": [{"retryDelay": "soon"}]}}}, None),
        ({}, None),
    ],
)
def test_a_wait_is_found_wherever_litellm_left_it(attributes: dict[str, Any], seconds: float | None) -> None:
    assert failure_of(litellm_error("RateLimitError", **attributes)).retry_after == seconds


def test_a_wait_may_be_a_date() -> None:
    import time

    date = formatdate(time.time() + 100, usegmt=True)
    wait = failure_of(litellm_error("RateLimitError", litellm_response_headers={"retry-after": date})).retry_after
    assert wait is not None
    assert 95 < wait <= 100


def test_a_header_goes_before_the_body_and_the_outermost_error_first() -> None:
    inner = litellm_error("RateLimitError", litellm_response_headers={"retry-after": "1"})
    outer = litellm_error(
        "RateLimitError",
        original_exception=inner,
        body={"error": {"details": [{"retryDelay": "9s"}]}},
    )
    assert failure_of(outer).retry_after == 1.0
    outer.litellm_response_headers = {"retry-after": "2"}  # type: ignore[attr-defined]  # LiteLLM sets it likewise
    assert failure_of(outer).retry_after == 2.0


def test_the_providers_code_is_told() -> None:
    assert (
        failure_of(litellm_error("BadRequestError", body={"error": {"code": "no_such_thing"}})).code == "no_such_thing"
    )
    assert failure_of(litellm_error("BadRequestError", body={"error": {"code": 7, "type": "t"}})).code == "t"
