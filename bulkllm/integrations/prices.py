"""A second opinion on prices: LiteLLM's map against genai-prices' data, both as they are installed.

What may live here: asking both what the same tokens cost, and telling where they disagree. Nothing is corrected:
which of the two is right, the provider's own price list says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .. import _litellm
from ..errors import ConfigError

try:
    import genai_prices
except ImportError as error:
    raise ConfigError(
        "bulkllm.integrations.prices needs genai-prices; install it with: pip install genai-prices"
    ) from error

# genai-prices' names of the providers that LiteLLM calls otherwise. Those that are in neither column are not compared:
# resellers' prices are found under too many names.
_PROVIDERS: Final = {
    "anthropic": "anthropic",
    "azure": "azure",
    "bedrock": "aws",
    "cerebras": "cerebras",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "groq": "groq",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "novita": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "together_ai": "together",
    "xai": "x-ai",
}
# One call of each kind: what LiteLLM and genai-prices call its price, and its tokens: few enough for the lowest tier.
_KINDS: Final = (
    ("input", "input_cost_per_token", "input_mtok", {"input_tokens": 1000}),
    ("output", "output_cost_per_token", "output_mtok", {"output_tokens": 1000}),
    (
        "cache read", "cache_read_input_token_cost", "cache_read_mtok",
        {"input_tokens": 1000, "cache_read_tokens": 1000},
    ),
    (
        "cache write", "cache_creation_input_token_cost", "cache_write_mtok",
        {"input_tokens": 1000, "cache_write_tokens": 1000},
    ),
)  # fmt: skip
_MODES: Final = ("chat", "completion", "responses", "embedding")
_MODEL_FIELDS: Final = ("input_cost_per_token", "output_cost_per_token")


@dataclass(frozen=True, slots=True)
class PriceDifference:
    """Two opinions on one price.

    Attributes:
        model: LiteLLM's name.
        kind: ``input``, ``output``, ``cache read`` or ``cache write``.
        litellm: US dollars for a million tokens, as LiteLLM has it.
        genai_prices: the same, as genai-prices has it.
        genai_model: which of its models genai-prices takes it for.
    """

    model: str
    kind: str
    litellm: float
    genai_prices: float
    genai_model: str

    @property
    def share(self) -> float:
        """How far they are apart, as a share of the larger."""
        larger = max(self.litellm, self.genai_prices)
        return abs(self.litellm - self.genai_prices) / larger if larger else 0.0

    def __str__(self) -> str:
        return (
            f"{self.model}: {self.kind} ${self.litellm:g} by LiteLLM, ${self.genai_prices:g} by genai-prices "
            f"({self.genai_model}), {self.share:.0%} apart"
        )


@dataclass(frozen=True, slots=True)
class PriceCheck:
    """What a comparison has found.

    Attributes:
        compared: models whose prices both know.
        unknown: models that genai-prices does not know.
        differences: prices that are further apart than was asked about, the furthest first.
    """

    compared: int
    unknown: int
    differences: tuple[PriceDifference, ...]


def compare_prices(
    models: Iterable[str] | None = None, *, tolerance: float = 0.01, at: datetime | None = None
) -> PriceCheck:
    """Compare LiteLLM's prices with genai-prices'.

    Args:
        models: LiteLLM names, with their provider; all of LiteLLM's map that genai-prices may know unless given.
        tolerance: the share of the larger price up to which the two agree.
        at: the moment whose prices are meant; now unless given.

    Raises:
        ConfigError: a model is not in LiteLLM's map.
        IncompatibleLiteLLM: LiteLLM cannot be imported.
    """
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance={tolerance!r} must be a share from 0 to below 1")
    moment = datetime.now(UTC) if at is None else at
    compared = unknown = 0
    found: list[PriceDifference] = []
    for name, entry in _entries(models):
        pairs = list(_pairs(name, entry, moment))
        if not pairs:
            unknown += 1
            continue
        compared += 1
        found += [pair for pair in pairs if pair.share > tolerance]
    found.sort(key=lambda one: (-one.share, one.model, one.kind))
    return PriceCheck(compared, unknown, tuple(found))


def _entries(models: Iterable[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    prices: dict[str, dict[str, Any]] = _litellm.load().model_cost
    if models is None:
        for name, entry in prices.items():
            provider = entry.get("litellm_provider")
            if provider in _PROVIDERS and entry.get("mode") in _MODES and any(entry.get(f) for f in _MODEL_FIELDS):
                yield name, entry
        return
    for name in models:
        found = prices.get(name) or prices.get(name.partition("/")[2])
        if found is None:
            raise ConfigError(f"LiteLLM's map has no model {name!r}")
        yield name, found


def _pairs(name: str, entry: dict[str, Any], moment: datetime) -> Iterator[PriceDifference]:
    provider = str(entry.get("litellm_provider"))
    bare = name.removeprefix(f"{provider}/")
    for kind, field, their_field, tokens in _KINDS:
        price = entry.get(field)
        if not isinstance(price, int | float):
            continue
        try:
            # The difference of two calls, for there are prices by the call besides.
            few, many = (
                genai_prices.calc_price(
                    genai_prices.Usage(**{name: count * times for name, count in tokens.items()}),
                    model_ref=bare,
                    provider_id=_PROVIDERS.get(provider, provider),
                    genai_request_timestamp=moment,
                )
                for times in (1, 2)
            )
        except (LookupError, ValueError):  # it knows no such model, or not what these tokens cost
            continue
        theirs = float(many.total_price - few.total_price) * 1000
        # Where it knows no price of that kind, it takes the plain one, or 0.
        if theirs and getattr(few.model_price, their_field, None) is not None:
            yield PriceDifference(name, kind, price * 1e6, theirs, few.model.id)
