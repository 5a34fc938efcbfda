"""The lane through LiteLLM: the only module that calls it, and that knows how its answers look.

What may live here: the mapping of a call to LiteLLM's keywords and of LiteLLM's responses, streams and errors to our
values. Nothing here decides, waits or counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from .. import _litellm, models
from ..accounting import Price, Usage, cost_of, public_endpoint
from ..caching import as_paid, own_call, patch, patch_is_due, stop_resending, was_litellm_cache_hit
from .arguments import CURE
from .call import Call
from .failure import Failure, failure_of
from .fold import StreamFold
from .lane import Answer, Rates, Target
from .unlogged import CALLBACK_OPTIONS, unlogged

logger = logging.getLogger(__name__)


class _NoRetries(int):
    """Zero, but true: LiteLLM's embeddings replace a false ``max_retries`` by their default of two."""

    def __bool__(self) -> bool:
        return True


_NO_RETRIES: Final = _NoRetries(0)

# Of these LiteLLM refuses the keywords for retries, or sends them on as a parameter of the model. They go through its
# own HTTP handler, which needs no keyword to try once.
_KNOW_NO_RETRIES: Final = frozenset({"gradient_ai", "huggingface", "oci"})

# What is charged, and the longest answer in tokens; None where not known.
_Rates = tuple[Rates | None, int | None]

# Which options, besides the name, decide whom LiteLLM takes a model for.
_ROUTING: Final = ("custom_llm_provider", "api_base", "base_url")


class LiteLLMLane:
    """Carries calls through LiteLLM, with LiteLLM's own retries and those of the SDKs below it switched off.

    Args:
        prices: what endpoints of one's own charge, by canonical name or glob.
    """

    def __init__(self, prices: Mapping[str, Price] | None = None) -> None:
        self._own_prices = dict(prices or {})
        self._targets: dict[tuple[str, object, object, object], Target] = {}
        self._known_rates: dict[str, tuple[int, _Rates]] = {}
        self._loaded: Any = None

    def load(self) -> None:
        """Import LiteLLM, if nobody has."""
        self._loaded = _litellm.load()

    def target(self, model: str, options: Mapping[str, Any]) -> Target:
        """Whom LiteLLM takes a model for; a name that it does not know is kept as it is."""
        provider, base, other_base = (options.get(name) for name in _ROUTING)
        model = _litellm.load().model_alias_map.get(model, model)
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

    def price(self, call: Call) -> Rates | None:
        """The price that the user has set, or else what LiteLLM's map says: the plain prices, without tiers."""
        own = self._own_price(call.model)
        if own is not None:
            return Rates(own.input_per_token, own.output_per_token, own.per_request)
        return self._rates(call)[0]

    def longest_answer(self, call: Call) -> int | None:
        """What LiteLLM's map says of the model."""
        return self._rates(call)[1]

    def _own_price(self, model: str) -> Price | None:
        """The price under the model's very name, or under the first pattern that it matches."""
        own = self._own_prices
        if not own:
            return None
        return own.get(model) or next((price for name, price in own.items() if fnmatchcase(model, name)), None)

    def _rates(self, call: Call) -> _Rates:
        state = models.registry().introduce(call.model)
        known = self._known_rates.get(call.model)
        if known is None or known[0] != state:
            try:
                rates = self._look_up_rates(call.model)
            except Exception:  # it is asked after calls that were paid, too
                logger.exception("LiteLLM's map cannot be read for %s: its price is unknown", call.model)
                rates = None, None
            known = self._known_rates[call.model] = state, rates
        return known[1]

    def _look_up_rates(self, model: str) -> _Rates:
        try:
            info = self._loaded.get_model_info(model)
        except Exception as error:
            if type(error).__name__ not in {"ModelNotMappedError", "Exception"}:  # a bare Exception in older versions
                raise
            return None, None
        # Its own answer says 0 where it knows no price, so the entry is asked that it was made from.
        entry = self._loaded.model_cost.get(info.get("key"), info)
        tiers = [entry, *(entry.get("tiered_pricing") or ())]
        prices = [
            [tier[field] for tier in tiers if tier.get(field) is not None]
            for field in ("input_cost_per_token", "output_cost_per_token")
        ]
        longest = info.get("max_output_tokens")
        price = Rates(float(max(prices[0])), float(max(prices[1], default=0.0))) if prices[0] else None
        return price, longest if isinstance(longest, int) and longest > 0 else None

    # -- sending ---------------------------------------------------------------------------------------------

    def send(self, call: Call) -> Any:
        """One attempt, blocking."""
        if patch_is_due(self._loaded):
            patch()
        stop_resending()
        with own_call(), unlogged(self._loaded, call.options):
            return getattr(self._ready(call), call.operation)(**self._keywords(call))

    async def asend(self, call: Call) -> Any:
        """One attempt, in a task."""
        if patch_is_due(self._loaded):
            await asyncio.to_thread(patch)
        stop_resending()
        with own_call(), unlogged(self._loaded, call.options):
            return await getattr(self._ready(call), "a" + call.operation)(**self._keywords(call))

    def _ready(self, call: Call) -> Any:
        litellm = self._loaded
        models.registry().introduce(call.model)  # its calculator is to have the user's prices and the refreshed ones
        if litellm.num_retries:
            # The user's setting for all of LiteLLM would be a second retry layer below ours, in the synchronous
            # functions even against an explicit 0. LiteLLM itself clears it at the first error.
            logger.warning("litellm.num_retries is cleared: retries are bulkllm's, see RetryPolicy(max_attempts=...)")
            litellm.num_retries = None
        if litellm.model_fallbacks:
            logger.warning("litellm.model_fallbacks is cleared: LiteLLM would ask them past limits and books; %s", CURE)
            litellm.model_fallbacks = None
        return litellm

    def _keywords(self, call: Call) -> dict[str, Any]:
        keywords = dict(call.options)
        if call.provider not in _KNOW_NO_RETRIES:
            keywords["num_retries"] = 0
            keywords["max_retries"] = _NO_RETRIES
        for name in CALLBACK_OPTIONS:
            if isinstance(listed := keywords.get(name), list):
                keywords[name] = listed.copy()  # LiteLLM takes coroutines out: the next attempt is to find them, too
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

    def headers(self, response: Any) -> Mapping[str, str] | None:
        """The provider's headers. LiteLLM keeps each under a prefix of its own, a stream's on its wrapper."""
        found = _get(getattr(response, "_hidden_params", None), "additional_headers")
        return _Prefixed(found) if isinstance(found, dict) and found else None

    def answer(self, call: Call, response: Any) -> Answer:
        """Read a whole response. Never raises: the call is paid."""
        hidden = getattr(response, "_hidden_params", None)
        hit = was_litellm_cache_hit(response)
        paid = as_paid(response, hit=hit)
        usage = _told(getattr(paid, "usage", None))
        cost, note = self._cost(call, paid, usage)
        return Answer(
            usage=usage,
            cost=cost,
            cost_note=note,
            model=getattr(response, "model", None),
            endpoint=_endpoint(call, hidden),
            from_cache=hit,
        )

    def streamed_answer(self, call: Call, fold: StreamFold, stream: Any) -> Answer:
        """Read what a stream added up to. Never raises: the call is paid."""
        hidden = getattr(stream, "_hidden_params", None)
        cost: float | None = None
        note: str | None = "the provider told no usage"
        usage = fold.usage if _told_by_provider(stream) else None
        if usage is not None:
            cost, note = self._cost(call, self._whole(call, fold), usage)
        return Answer(
            usage=usage,
            cost=cost,
            cost_note=note,
            model=fold.model,
            endpoint=_endpoint(call, hidden),
            from_cache=self.from_cache(stream),
        )

    def from_cache(self, stream: Any) -> bool:
        """Whether a stream comes from LiteLLM's own cache."""
        return was_litellm_cache_hit(stream)

    def _whole(self, call: Call, fold: StreamFold) -> Any:
        """A response with what a stream told: the calculator reads nothing else."""
        if fold.whole is not None:
            return as_paid(fold.whole, hit=was_litellm_cache_hit(fold.whole))
        try:
            return self._loaded.types.utils.ModelResponse(model=fold.model or call.model, usage=fold.told)
        except Exception:  # the call is paid
            logger.exception("LiteLLM makes no response of a stream's usage for %s", call.model)
            return {"model": fold.model or call.model, "usage": fold.told}

    def _cost(self, call: Call, response: Any, usage: Usage | None) -> tuple[float | None, str | None]:
        try:
            return cost_of(
                response,
                model=call.model,
                provider=call.provider or None,
                usage=usage,
                price=self._own_price(call.model),
            )
        except Exception:  # the call is paid: a calculator that breaks must not take the answer away
            logger.exception("LiteLLM's cost calculator broke for model %s: the cost is unknown", call.model)
            return None, "LiteLLM's cost calculator broke"


class _Prefixed(dict[str, str]):
    """Headers as LiteLLM keeps them, by their own names."""

    def get(self, name: str, default: Any = None) -> Any:
        """A header by its own name."""
        return super().get(f"llm_provider-{name}", default)


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
