"""What one call did, used and cost: the value that every call ends as.

What may live here: :class:`UsageRecord`, how it is read out of a response and how it is written to JSON. A record
holds no key, no prompt and no completion, and its endpoint holds no credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from .._litellm import is_loaded
from ..errors import ConfigError
from .cost import cost_of
from .response import hidden_params, number, provider_in, read, text
from .usage import Usage


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One call: what was asked, what answered, what it used and cost, and how long it took.

    It covers all attempts of the call. Times are in seconds, money in US dollars.
    """

    operation: str = "completion"
    """"completion", "embedding" or "responses"."""
    model: str
    """The canonical LiteLLM name, such as "openai/gpt-5-mini"; trackers count by it."""
    requested_model: str = ""
    """The name the caller gave: an alias, a slug or a LiteLLM name."""
    response_model: str | None = None
    """The model that the provider says has answered."""
    provider: str | None = None
    """LiteLLM's name of the provider, such as "openai"."""
    endpoint: str | None = None
    """The base URL asked, without credentials, query and fragment."""
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    """What is known to be charged for the call; None = not known, never a guess. A cache hit costs 0."""
    cost_note: str | None = None
    """Why the cost is not known."""
    saved: float | None = None
    """For a cache hit: what the answer cost when it was paid for. For embeddings that were known in part: that part."""
    cached: bool = False
    """Whether our cache, or LiteLLM's, answered in the provider's place."""
    outcome: str = "ok"
    """"ok", "cancelled", or the name of the error's class."""
    latency: float = 0.0
    """Seconds that the last attempt took; 0 for a cache hit."""
    time_to_first_token: float | None = None
    """For a stream: seconds from sending to the first chunk."""
    waited: float = 0.0
    """Seconds spent waiting for limits and for room in a budget."""
    waits: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Seconds that went on other things than the last attempt, by what: "rpm of openai/*", "closed of openai/gpt-5" and
    the like, and "budget", which add up to ``waited``; "retries"; "identical call". Empty for most calls."""
    attempts: int = 1
    """Requests sent to the provider; 0 for a cache hit and for a call that was never sent."""
    refused: int = 0
    """Those among them that the provider turned away for a limit or for money."""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    started_at: datetime = field(default_factory=_now)
    """When the call began, with its time zone."""
    estimated: bool = False
    """The tokens are an estimate: the provider told none."""
    charge_unknown: bool = False
    """An attempt was sent and then timed out, broke off or was given up: whether it is charged is not known."""
    uncertain_cost: float | None = 0.0
    """What such attempts were expected to cost: it may be charged besides ``cost``. None = not known."""
    uncertain_tokens: int = 0
    """Input and output tokens that such attempts were expected to take: they may be charged besides ``usage``."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            object.__setattr__(self, "endpoint", public_endpoint(self.endpoint))
        if not self.requested_model:
            object.__setattr__(self, "requested_model", self.model)

    @property
    def ok(self) -> bool:
        """Whether the call gave an answer."""
        return self.outcome == "ok"

    @property
    def input_tokens(self) -> int:
        """All input, cached or not."""
        return self.usage.input_tokens

    @property
    def output_tokens(self) -> int:
        """All output, reasoning included."""
        return self.usage.output_tokens

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.usage.total_tokens

    @property
    def cache_read_tokens(self) -> int:
        """Part of the input: read from the provider's prompt cache."""
        return self.usage.cache_read_tokens

    @property
    def cache_write_tokens(self) -> int:
        """Part of the input: written to the provider's prompt cache."""
        return self.usage.cache_write_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Part of the output: thought, not shown."""
        return self.usage.reasoning_tokens

    @classmethod
    def from_response(cls, response: object, *, model: str | None = None) -> UsageRecord:
        """Read a record out of a response of LiteLLM that came from elsewhere.

        What the response does not say (waiting, attempts) is left at its default; ``started_at`` is reckoned
        back from now. LiteLLM is not imported for it: a cost that would have to be worked out is unknown if
        LiteLLM is not there yet.

        Args:
            response: a chat completion, an embedding or a response of the Responses API, as LiteLLM's object or
                as a dict; of a stream the one that its chunks add up to.
            model: the LiteLLM name that was asked for; read from the response if not given.
        """
        hidden = hidden_params(response)
        provider = text(hidden.get("custom_llm_provider"))
        answered = text(hidden.get("provider_response_model")) or text(read(response, "model"))
        asked = model or text(hidden.get("litellm_model_name")) or answered or "unknown"
        canonical = asked if provider is None or asked.startswith(f"{provider}/") else f"{provider}/{asked}"
        usage = Usage.from_litellm(read(response, "usage"))
        hit = hidden.get("cache_hit") is True
        left = number(hidden.get("response_cost"))
        if left or hit or is_loaded():
            cost, note = cost_of(response, model=canonical, provider=provider, usage=usage)
        else:
            cost, note = None, "LiteLLM is not loaded to work the cost out"
        cached = hit and cost == 0
        latency = 0.0 if cached else (number(hidden.get("_response_ms")) or 0.0) / 1000
        return cls(
            operation=_operation(response),
            model=canonical,
            requested_model=model or asked,
            response_model=answered,
            provider=provider or provider_in(canonical),
            endpoint=text(hidden.get("api_base")),
            usage=usage,
            cost=cost,
            cost_note=note,
            saved=left or None if cached else None,
            cached=cached,
            latency=latency,
            attempts=0 if cached else 1,
            started_at=_now() - timedelta(seconds=latency),
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, fit for JSON and for :meth:`from_dict`."""
        told = {name: getattr(self, name) for name in _FIELDS}
        told["usage"] = self.usage.to_dict()
        told["tags"] = dict(self.tags)
        told["waits"] = dict(self.waits)
        told["started_at"] = self.started_at.isoformat()
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> UsageRecord:
        """The reverse of :meth:`to_dict`; fields that are missing have their default, unknown ones are passed over.

        Raises:
            ConfigError: a field has the wrong type, ``model`` is missing, or the time has no zone.
        """
        values = {name: told[name] for name in _FIELDS if name in told}
        if "model" not in values:
            raise ConfigError("usage record: model is missing")
        for name, value in values.items():
            if not isinstance(value, _TYPES[name]) or (isinstance(value, bool) and bool not in _TYPES[name]):
                raise ConfigError(f"usage record: {name} cannot be {value!r}")
        for seconds in values.get("waits", {}).values():
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise ConfigError(f"usage record: waits cannot hold {seconds!r}")
        if "usage" in values:
            values["usage"] = Usage.from_dict(values["usage"])
        if "started_at" in values:
            try:
                values["started_at"] = datetime.fromisoformat(values["started_at"])
            except ValueError as error:
                raise ConfigError(f"usage record: started_at is not a time: {error}") from error
            if values["started_at"].tzinfo is None:
                raise ConfigError("usage record: started_at must have a time zone")
        return cls(**values)


_FIELDS: tuple[str, ...] = tuple(entry.name for entry in fields(UsageRecord))
_TEXT, _MAYBE_TEXT = (str,), (str, type(None))
_SECONDS, _MAYBE_NUMBER = (int, float), (int, float, type(None))
# What each field is in JSON.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "operation": _TEXT,
    "model": _TEXT,
    "requested_model": _TEXT,
    "response_model": _MAYBE_TEXT,
    "provider": _MAYBE_TEXT,
    "endpoint": _MAYBE_TEXT,
    "usage": (Mapping,),
    "cost": _MAYBE_NUMBER,
    "cost_note": _MAYBE_TEXT,
    "saved": _MAYBE_NUMBER,
    "cached": (bool,),
    "outcome": _TEXT,
    "latency": _SECONDS,
    "time_to_first_token": _MAYBE_NUMBER,
    "waited": _SECONDS,
    "waits": (Mapping,),
    "attempts": (int,),
    "refused": (int,),
    "tags": (Mapping,),
    "started_at": _TEXT,
    "estimated": (bool,),
    "charge_unknown": (bool,),
    "uncertain_cost": _MAYBE_NUMBER,
    "uncertain_tokens": (int,),
}


@lru_cache(maxsize=128)
def public_endpoint(url: str) -> str | None:
    """A base URL without credentials, query and fragment; None where nothing is left or it is no URL."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
    except ValueError:
        return None
    host = parts.netloc.rpartition("@")[2]
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    return f"{scheme}{host}{parts.path}".rstrip("/") or None if host else None


def _operation(response: object) -> str:
    kind = read(response, "object")
    if kind == "list" or type(response).__name__ == "EmbeddingResponse":
        return "embedding"
    if kind == "response" or type(response).__name__ == "ResponsesAPIResponse":
        return "responses"
    return "completion"
