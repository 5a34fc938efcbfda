"""What the endpoints have in common, and errors in each provider's shape.

What may live here: the values that go into and come out of an endpoint, and the forms of errors.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from ..limits import Refusal
from ..text import Writer

Family: TypeAlias = Literal["openai", "azure", "anthropic", "google"]

to_json = json.JSONEncoder(separators=(",", ":")).encode


class RequestError(Exception):
    """A request that the provider would refuse as malformed.

    Attributes:
        status: the HTTP status to answer with.
        param: the field that is wrong, or None.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class Prefix(NamedTuple):
    """A prompt's beginning: what stands for it, its tokens, and whether it is marked to be cached."""

    digest: bytes
    tokens: int
    marked: bool


class Ask(NamedTuple):
    """A request, read.

    Attributes:
        model: what was asked.
        body: the request as it came.
        digest: stands for the prompt (model and messages or input, no options).
        input_tokens: the prompt's size, cached parts included.
        prompt: the parts of the body that hold the prompt's text.
        max_tokens: the cap on each choice, None if there is none.
        choices: how many choices are wanted.
        stream: whether as a stream.
        prefixes: for a prompt cache: where the prompt may be cut, shortest first; empty where nothing is marked.
        cache_read: input tokens that came from the prompt cache.
        cache_write: input tokens that went into it.
    """

    model: str
    body: dict[str, Any]
    digest: bytes
    input_tokens: int
    prompt: object
    max_tokens: int | None = None
    choices: int = 1
    stream: bool = False
    prefixes: tuple[Prefix, ...] = ()
    cache_read: int = 0
    cache_write: int = 0

    @property
    def max_output(self) -> int | None:
        """The most that all choices together may hold."""
        return None if self.max_tokens is None else self.max_tokens * self.choices


class Event(NamedTuple):
    """One event of a stream, and how many tokens of output it carries."""

    data: bytes
    tokens: int


class Reply(NamedTuple):
    """A whole answer: a body, or a stream's events."""

    output_tokens: int
    body: bytes = b""
    events: tuple[Event, ...] | None = None


class Endpoint(Protocol):
    """One shape of request and reply."""

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request.

        Raises:
            RequestError: the provider would refuse it.
        """

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:
        """Answer it; ``empty`` asks for a well-formed answer that holds no choice at all."""


def text_field(body: dict[str, Any], name: str) -> str:
    """A field that must be a text that is not empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise RequestError(f"you must provide a {name} parameter", param=name)
    return value


def count_field(body: dict[str, Any], *names: str, most: int | None = None) -> int | None:
    """A number from 1 under the first of some names that is given, or None."""
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most and value > most):
            bound = f" and at most {most}" if most else ""
            raise RequestError(f"Invalid '{name}': integer of at least 1{bound} expected", param=name)
        return value
    return None


def sse(data: str, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data}\n\n".encode()


def error_body(
    family: Family,
    status: int,
    message: str,
    *,
    kind: str | None = None,
    code: str | None = None,
    param: str | None = None,
) -> bytes:
    """An error in the provider's shape."""
    if family == "google":
        return _google_error(status, message)
    if family == "anthropic":
        kind = kind or _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004 - HTTP
        return to_json({"type": "error", "error": {"type": kind, "message": message}}).encode()
    if family == "azure":
        return to_json({"error": {"code": code or str(status), "message": message}}).encode()
    kind = kind or _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004 - HTTP
    error = {"message": message, "type": kind, "param": param, "code": code or _OPENAI_CODES.get(status)}
    return to_json({"error": error}).encode()


def _google_error(status: int, message: str, *details: dict[str, object]) -> bytes:
    name = _GOOGLE_STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")  # noqa: PLR2004 - HTTP
    error: dict[str, object] = {"code": status, "message": message, "status": name}
    if details:
        error["details"] = list(details)
    return to_json({"error": error}).encode()


def _google_refusal(model: str, name: str, quota: int, wait: float | None) -> bytes:
    """The 429 of a limit as Gemini's API words it; of a day's quota it does not say when it comes back."""
    quota_id, metric = _GOOGLE_QUOTAS[name]
    message = (
        "You exceeded your current quota, please check your plan and billing details.\n"
        f"* Quota exceeded for metric: {_GOOGLE_METRICS}{metric}, limit: {quota}, model: {model}"
    )
    violation = {
        "quotaMetric": f"{_GOOGLE_METRICS}{metric}",
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": str(quota),
    }
    details: list[dict[str, object]] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}
    ]
    if wait is not None and "PerDay" not in quota_id:
        message += f"\nPlease retry in {wait:.9f}s."
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait:.9f}s"})
    return _google_error(429, message, *details)


def refusal_body(family: Family, model: str, refusal: Refusal) -> bytes:
    """The 429 of a limit, in the provider's words as far as clients may read them."""
    name = refusal.dimension.replace("_", " ")
    wait = refusal.wait if refusal.wait is not None and math.isfinite(refusal.wait) else None
    if refusal.dimension == "in_flight":
        message = f"Too many concurrent requests to {model}: at most {refusal.limit} may be in flight."
        return error_body(family, 429, message, code="rate_limit_exceeded" if family == "openai" else None)
    if family == "google":
        return _google_refusal(model, refusal.dimension, refusal.limit, wait)
    if family == "anthropic":
        per = "" if "per day" in name else " per minute"
        message = f"This request would exceed the rate limit of {refusal.limit:,} {name}{per} (model: {model})."
        return error_body(family, 429, message)
    if family == "azure":
        hint = f" Please retry after {math.ceil(wait)} seconds." if wait is not None else ""
        message = f"Requests to the deployment {model} have exceeded its {name} rate limit.{hint}"
        return error_body(family, 429, message)
    if wait is None:
        message = (
            f"Request too large for {model} on {_OPENAI_NAMES[refusal.dimension]}: "
            f"Limit {refusal.limit}, Requested {refusal.requested}."
        )
    else:
        message = (
            f"Rate limit reached for {model} on {_OPENAI_NAMES[refusal.dimension]}: Limit {refusal.limit}, "
            f"Used {refusal.used}, Requested {refusal.requested}. Please try again in {wait:.3f}s."
        )
    kind = "requests" if "requests" in refusal.dimension else "tokens"
    return error_body(family, 429, message, kind=kind, code="rate_limit_exceeded")


def quota_error(family: Family) -> tuple[int, bytes]:
    """The error of an account without money."""
    if family == "anthropic":
        message = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
        return 400, error_body(family, 400, message)
    if family == "google":  # no billing account: what is free is nothing
        return 429, _google_refusal("this model", "requests_per_day", 0, None)
    message = "You exceeded your current quota, please check your plan and billing details."
    return 429, error_body(family, 429, message, kind="insufficient_quota", code="insufficient_quota")


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES = {403: "permission_error", 408: "timeout", 429: "rate_limit_exceeded"}
_OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_OPENAI_NAMES = {
    "requests": "requests per min (RPM)",
    "tokens": "tokens per min (TPM)",
    "input_tokens": "input tokens per min (ITPM)",
    "output_tokens": "output tokens per min (OTPM)",
    "requests_per_day": "requests per day (RPD)",
    "tokens_per_day": "tokens per day (TPD)",
}
_GOOGLE_STATUSES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_GOOGLE_METRICS = "generativelanguage.googleapis.com/generate_content_free_tier_"
# The name of the quota, and of what it counts.
_GOOGLE_QUOTAS = {
    "requests": ("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "requests"),
    "requests_per_day": ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "requests"),
    "tokens": ("GenerateContentTokensPerModelPerMinute-FreeTier", "token_count"),
    "tokens_per_day": ("GenerateContentTokensPerModelPerDay-FreeTier", "token_count"),
    "input_tokens": ("GenerateContentInputTokensPerModelPerMinute-FreeTier", "input_token_count"),
    "output_tokens": ("GenerateContentOutputTokensPerModelPerMinute-FreeTier", "output_token_count"),
}
