"""What a provider's error means: read from LiteLLM's exceptions, by class, status and the provider's own error code.

Pure, and without LiteLLM: classes are told by their names along the inheritance, which LiteLLM has kept stable, so
that another lane may raise errors of its own with the same names. Never decided by a substring of a message; which
quota is spent some providers say in words only: those are handed on to their profile.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from traceback import walk_tb
from typing import Any, Final, Literal

from ..limits.headers import duration, retry_after

Kind = Literal["rate_limit", "quota", "capacity", "server", "timeout", "connection", "auth", "not_found", "request"]

# Error codes (or types) with which a provider says that waiting will not help: money or a fixed quota is used up.
# Some say so with 429, some with 400. Sources: the providers' error references, June to November 2026.
_FINAL_CODES: Final = frozenset({
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_exhausted",
    "enforced_spend_limit_reached",
    "blocked_api_access",  # Groq: its spend limit, with 400
    "exceeded_current_quota_error",  # Moonshot
    "Arrearage",  # Alibaba, with 400
    "1113",  # Z.AI
})  # fmt: skip
_FINAL_PARTS: Final = ("spend_limit", "PerDay")

# With these it is the key that is refused, or whose it is: Gemini and Groq answer 400 where others say 401.
_AUTH_CODES: Final = frozenset({
    "API_KEY_INVALID", "invalid_api_key", "expired_api_key", "wrong_api_key", "account_deactivated",
    "organization_restricted",
})  # fmt: skip

# And with these a model that is not there, to which some answer 400.
_NO_MODEL_CODES: Final = frozenset({"model_not_found", "model_decommissioned", "invalid_model"})

# OpenRouter answers 403 to a prompt that its moderation turns away, and adds this to the error.
_FLAGGED: Final = "flagged_input"

# 402 is final, but for this one: money that is reserved by calls in flight comes back.
_PASSING_402: Final = "in_flight_budget_exhausted"

# Errors of the layers below LiteLLM which mean that no whole answer came, by their names: those of the OpenAI SDK,
# of httpx, and of whoever reads a body that stops half way. LiteLLM makes a 500 of most of them.
_BROKEN_OFF: Final = frozenset({"APIConnectionError", "TransportError", "JSONDecodeError"})
_ANSWERED: Final = "HTTPStatusError"

# With these LiteLLM turns away an answer that has come, for its content: asking again is not for us to decide.
_NOT_ACCEPTED: Final = "APIResponseValidationError"

# With these nothing was sent: there was nobody to send it to.
_NOT_REACHED: Final = (ConnectionRefusedError, socket.gaierror)

# Where LiteLLM looks for the key and finds none, it raises a plain ValueError, and makes a connection error of it. The
# OpenAI SDK raises its base class then; LiteLLM has another class of that name.
_LOOKS_FOR_THE_KEY: Final = frozenset({"validate_environment", "_get_token_and_url"})
_SDK_WITHOUT_KEY: Final = ("openai", "OpenAIError")

_SUCCESS: Final = range(200, 300)
_AUTH: Final = frozenset({401, 403})
_CAPACITY_STATUS: Final = frozenset({503, 529})
_BAD_REQUEST: Final = 400
_TOO_MANY: Final = 429
_PAYMENT: Final = 402
_SERVER: Final = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt.

    Attributes:
        kind: ``rate_limit`` (refused for now), ``quota`` (refused until money or a day comes), ``capacity`` (the
            provider is overloaded), ``server`` (it broke), ``timeout``, ``connection`` (no whole answer came),
            ``auth``, ``not_found``, ``request`` (nothing that trying again would mend).
        status: the provider's HTTP status, where there was an answer.
        retry_after: seconds that the provider asks to wait, if it does.
        code: the provider's own code for the error, if it gives one.
        codes: all that it gives: codes, types, and the names of the quotas that the request broke.
        message: what it says in words.
        charge_unknown: the provider may have worked, and bill, although no answer came.
        headers: of the answer, with names in lower case, where there was one.
    """

    kind: Kind
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None
    charge_unknown: bool = False
    codes: tuple[str, ...] = field(default=(), compare=False)
    message: str = field(default="", repr=False, compare=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in {"rate_limit", "capacity", "server", "timeout", "connection"}

    @property
    def refused(self) -> bool:
        """Whether the provider turned the request away without working on it."""
        return self.kind in {"rate_limit", "quota", "auth", "not_found", "request"} and not self.charge_unknown


def failure_of(error: BaseException) -> Failure:
    """What an exception of a lane means."""
    names = {cls.__name__ for cls in type(error).__mro__}
    chain = list(_chain(error))
    status = _status(chain)
    payload = _payload(chain)
    code, codes = _code(payload), _codes(payload)
    kind = _kind(names, status, code, codes, payload)
    if (kind == "server" or status in _SUCCESS) and _broke_off(chain):
        kind = "connection"
    unknown = _NOT_ACCEPTED in names or (
        kind in {"timeout", "connection"} and not any(_not_reached(link) for link in chain)
    )
    if any(map(_has_no_key, chain)):
        kind, unknown = "auth", False
    if any(isinstance(link, ImportError) for link in chain):
        kind, unknown = "request", False  # LiteLLM dresses a missing package up as a connection error; it stays missing
    headers = _headers(chain)
    message = payload.get("message")
    return Failure(
        kind,
        status,
        _wait(headers, payload),
        code,
        unknown,
        codes,
        message if isinstance(message, str) else "",
        headers[0] if headers else {},
    )


def _broke_off(chain: list[BaseException]) -> bool:
    below = {cls.__name__ for link in chain[1:] for cls in type(link).__mro__}
    return bool(below & _BROKEN_OFF) and _ANSWERED not in below


def _has_no_key(link: BaseException) -> bool:
    """Whether nothing was sent, for want of a key."""
    cls = type(link)
    if (cls.__module__.partition(".")[0], cls.__name__) == _SDK_WITHOUT_KEY:
        return True
    if cls is not ValueError:
        return False
    frames = [frame.f_code.co_name for frame, _ in walk_tb(link.__traceback__)]
    return not _LOOKS_FOR_THE_KEY.isdisjoint(frames[-1:])


def _not_reached(link: BaseException) -> bool:
    return isinstance(link, _NOT_REACHED) or any(cls.__name__ == "ClientConnectorError" for cls in type(link).__mro__)


def _kind(
    names: set[str], status: int | None, code: str | None, codes: tuple[str, ...], payload: Mapping[str, Any]
) -> Kind:
    if _NOT_ACCEPTED in names:
        return "request"
    if _under(payload, _FLAGGED) is not None:
        return "request"
    if "AuthenticationError" in names or "PermissionDeniedError" in names or status in _AUTH:
        return "auth"
    if "NotFoundError" in names:
        return "not_found"
    if status == _BAD_REQUEST and (kind := _kind_of_400(codes)) is not None:
        return kind
    if status == _PAYMENT:
        passing = code == _PASSING_402 or payload.get("message") == _PASSING_402
        return "rate_limit" if passing else "quota"
    if "RateLimitError" in names or status == _TOO_MANY:
        return "quota" if _is_final(codes) else "rate_limit"
    if "Timeout" in names or "APITimeoutError" in names:
        return "timeout"
    if status in _CAPACITY_STATUS or "ServiceUnavailableError" in names:
        return "capacity"
    if "APIConnectionError" in names:
        return "connection"
    if status is not None and status >= _SERVER and names & {
        "APIError", "InternalServerError", "BadGatewayError", "APIStatusError",
    }:  # fmt: skip
        return "server"
    return "request"


def _kind_of_400(codes: tuple[str, ...]) -> Kind | None:
    """What is refused, if the provider names a reason for which it would refuse any other request too."""
    if not _AUTH_CODES.isdisjoint(codes):
        return "auth"
    if not _NO_MODEL_CODES.isdisjoint(codes):
        return "not_found"
    return "quota" if _is_final(codes) else None


def _is_final(codes: tuple[str, ...]) -> bool:
    return any(code in _FINAL_CODES or any(part in code for part in _FINAL_PARTS) for code in codes)


def _codes(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """All names that the provider gives to what went wrong: Google's and OpenRouter's lie deeper."""
    details = _dicts(payload.get("details"))
    named = [payload.get("code"), payload.get("type"), payload.get("status"), _under(payload, "limit_source")]
    named += [violation.get("quotaId") for detail in details for violation in _dicts(detail.get("violations"))]
    named += [name for detail in details for name in (detail.get("reason"), _under(detail, "quota_limit"))]
    return tuple(name for name in named if isinstance(name, str))


def _under(payload: Mapping[str, Any], name: str) -> object:
    metadata = payload.get("metadata")
    return metadata.get(name) if isinstance(metadata, Mapping) else None


def _headers(chain: list[BaseException]) -> list[dict[str, str]]:
    """The headers of the answer, wherever they were kept; the fullest first."""
    places = (
        headers
        for link in chain
        for headers in (
            getattr(link, "litellm_response_headers", None),
            getattr(link, "headers", None),
            getattr(getattr(link, "response", None), "headers", None),
        )
        if headers
    )
    return sorted((_lower(headers) for headers in places), key=len, reverse=True)


def _wait(found: list[dict[str, str]], payload: Mapping[str, Any]) -> float | None:
    for headers in found:
        seconds = retry_after(headers, time.time())
        if seconds is not None:
            return seconds
    for detail in _dicts(payload.get("details")):
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            return duration(delay)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made from, outermost first.

    Whoever calls from an ``except`` block has the error that is handled there hung on the end, as the context: say, the
    429 of the provider that this call is the fallback for. That one is no part of it.
    """
    outside = sys.exception()
    seen: set[int] = set() if outside is None or outside is error else {id(outside)}
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        original = getattr(link, "original_exception", None)
        link = original if isinstance(original, BaseException) else link.__cause__ or link.__context__


def _status(chain: list[BaseException]) -> int | None:
    """The provider's own status: LiteLLM's class may have mapped it (a 529 becomes an InternalServerError of 500)."""
    statuses = [status for link in chain if isinstance(status := getattr(link, "status_code", None), int)]
    return statuses[-1] if statuses else None


def _payload(chain: list[BaseException]) -> Mapping[str, Any]:
    """The provider's error object, from whichever link kept the body."""
    for link in reversed(chain):
        for body in (getattr(link, "body", None), getattr(link, "message", None)):
            found = _error_object(body)
            if found:
                return found
    return {}


def _error_object(body: object) -> Mapping[str, Any]:
    if isinstance(body, str):
        start = body.find("{")
        if start < 0:
            return {}
        try:
            body, _ = json.JSONDecoder().raw_decode(body, start)
        except ValueError:
            return {}
    if not isinstance(body, Mapping):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, Mapping) else body


def _code(payload: Mapping[str, Any]) -> str | None:
    for key in ("code", "type", "status"):
        value = payload.get(key)
        if isinstance(value, str):
            return value
    return None


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _lower(headers: Any) -> dict[str, str]:
    try:
        return {str(name).lower(): str(value) for name, value in dict(headers).items()}
    except (TypeError, ValueError):
        return {}
