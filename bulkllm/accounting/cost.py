"""What a call cost, in US dollars, or None and the reason why that is not known.

What may live here: asking LiteLLM's calculator, judging its answers, and prices that users set. LiteLLM answers
0.0 not only for what is free: also for models it has no price for (some providers' unknown models, entries
without prices), for a stream that is not read yet and for answers without usage. So a 0 counts only where a price
stands behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._litellm import load
from ..errors import ConfigError
from .response import hidden_params, number, provider_in, read, text
from .usage import Usage

_NO_USAGE = "the provider told no usage"
_PARTLY_CACHED = "LiteLLM's cache answered some or all of the inputs, and does not tell which were paid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an own endpoint charges, in US dollars per token.

    Cache reads and writes cost what other input does unless said otherwise. Reasoning is output.

    Raises:
        ConfigError: a price is negative or not a number.
    """

    input_per_token: float
    output_per_token: float = 0.0
    cache_read_per_token: float | None = None
    cache_write_per_token: float | None = None
    per_request: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if number(value) is None and not (value is None and name.startswith("cache_")):
                raise ConfigError(f"Price: {name} must be a number of dollars from 0 up, not {value!r}")

    def cost(self, usage: Usage) -> float:
        """What one request with that usage costs."""
        plain = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
        read_price, write_price = self.cache_read_per_token, self.cache_write_per_token
        return (
            self.per_request
            + plain * self.input_per_token
            + usage.cache_read_tokens * (self.input_per_token if read_price is None else read_price)
            + usage.cache_write_tokens * (self.input_per_token if write_price is None else write_price)
            + usage.output_tokens * self.output_per_token
        )


def cost_of(
    response: object,
    *,
    model: str,
    provider: str | None = None,
    usage: Usage | None = None,
    price: Price | None = None,
    batch: bool = False,
) -> tuple[float | None, str | None]:
    """What one answered call cost: of a function, plain or asynchronous, of a stream, or of a batch.

    In this order: the price given here; what LiteLLM has worked out already; what the provider itself says it
    charged; LiteLLM's calculator. LiteLLM must be there for the last of these and for judging a 0.

    Args:
        response: LiteLLM's response, whole: of a stream the one that its chunks add up to.
        model: the LiteLLM name that was asked for, with its provider, such as "openai/gpt-5-mini".
        provider: LiteLLM's name of the provider; taken from the response or the model's name if not given.
        usage: the response's usage, if it is known already.
        price: what an own endpoint charges.
        batch: it was answered by the provider's Batch API, whose prices are others: those that LiteLLM has for it, or
            else half of the plain ones. What LiteLLM or the provider has worked out already is then not looked at.

    Returns:
        The cost and None, or None and the reason why it is not known.

    Raises:
        IncompatibleLiteLLM: LiteLLM cannot be imported.
        Exception: LiteLLM's calculator broke. That it knows no model or no price does not raise.
    """
    used = Usage.from_litellm(read(response, "usage")) if usage is None else usage
    hidden = hidden_params(response)
    if hidden.get("cache_hit") is True:
        return _cost_of_hit(response)
    if price is not None:
        return (price.cost(used), None) if used.total_tokens or price.per_request else (None, _NO_USAGE)

    if batch:
        return _cost_in_batch(response, model, provider or provider_in(model), used)
    worked_out = number(hidden.get("response_cost"))
    if worked_out:
        return worked_out, None
    stated = number(read(read(response, "usage"), "cost"))
    if stated:
        return stated, None
    unpriced = f"LiteLLM has no price for {model!r}; give one as Price(...)"
    provider = provider or text(hidden.get("custom_llm_provider")) or provider_in(model)
    litellm = load()
    rates = _rates(litellm.model_cost, model, provider, text(read(response, "model")))
    if rates and not any(rates):
        return 0.0, None
    if not rates and worked_out is None and isinstance(hidden, Mapping) and "response_cost" in hidden:
        # LiteLLM has tried and failed, and again would cost a tenth of what the whole call does. (Where there
        # are rates it may not have tried: up to 1.97 it notes None on every stream.)
        return None, unpriced if used.total_tokens else _NO_USAGE
    if not used.total_tokens:
        return None, _NO_USAGE
    try:
        # Without a provider's name LiteLLM goes looking for it, and logs in to some providers on the way.
        computed = number(
            litellm.completion_cost(completion_response=response, model=model, custom_llm_provider=provider)
        )
    except Exception as error:
        if _means_unknown(error, litellm):
            return None, unpriced
        raise
    return (computed, None) if computed else (None, unpriced)


def _cost_in_batch(response: object, model: str, provider: str | None, used: Usage) -> tuple[float | None, str | None]:
    if not used.total_tokens:
        return None, _NO_USAGE
    litellm = load()
    rates = _rates(litellm.model_cost, model, provider, text(read(response, "model")))
    if not rates:  # its calculator would say 0
        return None, f"LiteLLM has no price for {model!r}; give one as Price(...)"
    raw = read(response, "usage")
    told = litellm.Usage(**raw) if isinstance(raw, Mapping) else raw
    cost = number(
        sum(litellm.cost_calculator.batch_cost_calculator(usage=told, model=model, custom_llm_provider=provider))
    )
    return (cost, None) if cost or not any(rates) else (None, f"LiteLLM has no batch price for {model!r}")


def _cost_of_hit(response: object) -> tuple[float | None, str | None]:
    """A hit in LiteLLM's own cache is free; but a list of embeddings counts as one if any of them was cached."""
    data = read(response, "data")
    if isinstance(data, list) and len(data) > 1:
        return None, _PARTLY_CACHED
    return 0.0, None


def _rates(
    prices: Mapping[str, Mapping[str, Any]], model: str, provider: str | None, response_model: str | None
) -> list[Any]:
    """What LiteLLM's price list asks for a model, of whatever kind; empty if it has no entry or no price."""
    for name in _names(model, provider, response_model):
        entry = prices.get(name)
        if entry is not None and _sold_by(entry, provider):
            return [value for field, value in entry.items() if "cost_per" in field or field == "tiered_pricing"]
    return []


def _names(model: str, provider: str | None, response_model: str | None) -> Iterator[str]:
    """The names under which LiteLLM's price list may know the model, the surest first."""
    yield model
    if provider is not None:
        yield model.removeprefix(f"{provider}/")
        yield f"{provider}/{model}"
        if response_model is not None:
            yield f"{provider}/{response_model}"
    if response_model is not None:
        yield response_model


def _sold_by(entry: Mapping[str, Any], provider: str | None) -> bool:
    """An entry may be another seller's model of the same name. Vertex's entries say "vertex_ai-..."."""
    return provider is None or str(entry.get("litellm_provider", "")).startswith(provider)


def _means_unknown(error: Exception, litellm: Any) -> bool:
    """Whether LiteLLM's calculator says with this that it does not know the model or the provider."""
    not_mapped = getattr(litellm.exceptions, "ModelNotMappedError", None)
    if not_mapped is not None and isinstance(error, not_mapped):
        return True
    if isinstance(error, litellm.exceptions.BadRequestError):
        return True  # from its look-up of the provider
    # Before ModelNotMappedError (first seen in 1.105.3, not in 1.101.6) it was a bare Exception, told apart
    # from others by nothing but its text.
    return type(error) is Exception and "isn't mapped yet" in str(error)
