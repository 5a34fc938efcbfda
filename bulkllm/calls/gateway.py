"""The lane through LiteLLM: the only module that calls it, and that knows how its answers look.

What may live here: the mapping of a call to LiteLLM's keywords and of LiteLLM's responses, streams and errors to our
values. Nothing here decides, waits or counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from .. import _litellm, models
from ..accounting import Usage, cost_of, public_endpoint
from .call import Call
from .failure import Failure, failure_of
from .fold import StreamFold
from .lane import Answer, Target

logger = logging.getLogger(__name__)


class _NoRetries(int):
    """Zero, but true: LiteLLM's embeddings replace a false ``max_retries`` by their default of two."""

    def __bool__(self) -> bool:
        return True


_NO_RETRIES: Final = _NoRetries(0)

# Which options, besides the name, decide whom LiteLLM takes a model for.
_ROUTING: Final = ("custom_llm_provider", "api_base", "base_url")


class LiteLLMLane:
    """Carries calls through LiteLLM, with LiteLLM's own retries and those of the SDKs below it switched off."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, object, object, object], Target] = {}
        self._prices: dict[str, tuple[int, tuple[float, float] | None]] = {}
        self._loaded: Any = None

    def load(self) -> None:
        """Import LiteLLM, if nobody has."""
        self._loaded = _litellm.load()

    def target(self, model: str, options: Mapping[str, Any]) -> Target:
        """Whom LiteLLM takes a model for; a name that it does not know is kept as it is."""
        provider, base, other_base = (options.get(name) for name in _ROUTING)
        key = (model, provider, base, other_base)
        known = self._targets.get(key)
        if known is None:
            known = self._targets[key] = self._look_up(model, provider, base or other_base)
        return known

    def _look_up(self, model: str, provider: Any, base: Any) -> Target:
        litellm = _litellm.load()
        try:
            bare, provider, _, _ = litellm.get_llm_provider(model=model, custom_llm_provider=provider, api_base=base)
        except litellm.exceptions.BadRequestError:  # the call itself will tell its caller
            return Target(model, "")
        return Target(f"{provider}/{bare}", str(provider))

    def price(self, call: Call) -> tuple[float, float] | None:
        """What LiteLLM's map says of the model: its plain prices, without tiers."""
        state = models.registry().introduce(call.model)
        known = self._prices.get(call.model)
        if known is None or known[0] != state:
            known = self._prices[call.model] = state, self._look_up_price(call.model)
        return known[1]

    def _look_up_price(self, model: str) -> tuple[float, float] | None:
        try:
            info = self._loaded.get_model_info(model)
        except Exception as error:
            if type(error).__name__ not in {"ModelNotMappedError", "Exception"}:  # a bare Exception in older versions
                raise
            return None
        prices = info.get("input_cost_per_token"), info.get("output_cost_per_token")
        return None if None in prices else (float(prices[0]), float(prices[1]))

    # -- sending ---------------------------------------------------------------------------------------------

    def send(self, call: Call) -> Any:
        """One attempt, blocking."""
        return getattr(self._ready(call), call.operation)(**self._keywords(call))

    async def asend(self, call: Call) -> Any:
        """One attempt, in a task."""
        return await getattr(self._ready(call), "a" + call.operation)(**self._keywords(call))

    def _ready(self, call: Call) -> Any:
        litellm = self._loaded
        models.registry().introduce(call.model)  # its calculator is to have the user's prices and the refreshed ones
        if call.operation == "embedding" and litellm.DEFAULT_MAX_RETRIES:
            # The embeddings of Mistral, Fireworks and others never hear of our max_retries: LiteLLM takes its default.
            litellm.DEFAULT_MAX_RETRIES = 0
        if litellm.num_retries:
            # The user's setting for all of LiteLLM would be a second retry layer below ours, in the synchronous
            # functions even against an explicit 0. LiteLLM itself clears it at the first error.
            logger.warning("litellm.num_retries is cleared: retries are bulkllm's, see RetryPolicy(max_attempts=...)")
            litellm.num_retries = None
        return litellm

    def _keywords(self, call: Call) -> dict[str, Any]:
        keywords = dict(call.options)
        keywords["num_retries"] = 0
        keywords["max_retries"] = _NO_RETRIES
        if call.timeout is not None:
            keywords.setdefault("timeout", call.timeout)  # an httpx.Timeout of the caller's stays
        if call.adds_usage_chunk:
            keywords["stream_options"] = {**(keywords.get("stream_options") or {}), "include_usage": True}
        return keywords

    # -- reading ---------------------------------------------------------------------------------------------

    def failure(self, error: BaseException) -> Failure:
        """What one of LiteLLM's exceptions means."""
        return failure_of(error)

    def timed_out(self, call: Call) -> Exception:
        """LiteLLM's own Timeout, for the wall clock that LiteLLM does not watch."""
        error: Exception = self._loaded.exceptions.Timeout(
            message=f"no whole answer within {call.timeout:g} s of wall clock",
            model=call.model,
            llm_provider=call.provider,
        )
        return error

    def answer(self, call: Call, response: Any) -> Answer:
        """Read a whole response. Never raises: the call is paid."""
        hidden = getattr(response, "_hidden_params", None)
        usage = _told(getattr(response, "usage", None))
        cost, note = self._cost(call, response, usage)
        return Answer(
            usage=usage,
            cost=cost,
            cost_note=note,
            model=getattr(response, "model", None),
            endpoint=_endpoint(call, hidden),
            # For a list of embeddings LiteLLM speaks of a hit if one of them was cached; the others were paid for.
            from_cache=_get(hidden, "cache_hit") is True and cost is not None,
        )

    def streamed_answer(self, call: Call, fold: StreamFold, stream: Any) -> Answer:
        """Read what a stream added up to. Never raises: the call is paid."""
        hidden = getattr(stream, "_hidden_params", None)
        cost: float | None = None
        note: str | None = "the provider told no usage"
        usage = fold.usage if _told_by_provider(stream) else None
        if usage is not None:
            whole = fold.whole
            if whole is None:
                whole = self._loaded.types.utils.ModelResponse(model=fold.model or call.model, usage=fold.told)
            cost, note = self._cost(call, whole, usage)
        return Answer(
            usage=usage,
            cost=cost,
            cost_note=note,
            model=fold.model,
            endpoint=_endpoint(call, hidden),
            from_cache=_get(hidden, "cache_hit") is True
            or getattr(stream, "custom_llm_provider", None) == "cached_response",
        )

    def _cost(self, call: Call, response: Any, usage: Usage | None) -> tuple[float | None, str | None]:
        try:
            return cost_of(response, model=call.model, provider=call.provider or None, usage=usage)
        except Exception:  # the call is paid: a calculator that breaks must not take the answer away
            logger.exception("LiteLLM's cost calculator broke for model %s: the cost is unknown", call.model)
            return None, "LiteLLM's cost calculator broke"


def _told(usage: Any) -> Usage | None:
    """What the provider told: where it told nothing, LiteLLM hands over zeros."""
    if usage is None:
        return None
    read = Usage.from_litellm(usage)
    return read if read.total_tokens else None


def _told_by_provider(stream: Any) -> bool:
    """Whether a usage at the end of a stream is the provider's: where it told none, LiteLLM counts the text itself."""
    chunks = getattr(stream, "chunks", None)
    return not isinstance(chunks, list) or any(_told(getattr(chunk, "usage", None)) for chunk in reversed(chunks))


def _get(hidden: Any, name: str) -> Any:
    return hidden.get(name) if hasattr(hidden, "get") else getattr(hidden, name, None)


def _endpoint(call: Call, hidden: Any) -> str | None:
    told = _get(hidden, "api_base") or call.options.get("api_base") or call.options.get("base_url")
    return public_endpoint(str(told)) if told else None
