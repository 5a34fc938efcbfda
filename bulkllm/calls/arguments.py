"""What callers write that is ours, looked through: each function takes it as it was given, and raises ConfigError."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ..accounting import Price
from ..errors import ConfigError
from .call import Operation
from .retry import RetryPolicy

# Retrying is one layer, and ours: LiteLLM's keywords for it mean our policy here.
_RETRY_KEYWORDS: Final = ("num_retries", "max_retries")
_FOREIGN_RETRIES: Final = ("retry_policy", "retry_strategy")

# And so is asking other models: LiteLLM would do it past the limits and the books.
_FOREIGN_FALLBACKS: Final = (
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "context_window_fallback_dict",
)
CURE: Final = "ask the other model in an except clause, or give fallbacks=[...] to a bulk run"

# Of these LiteLLM refuses stream_options.
_REFUSE_STREAM_OPTIONS: Final = frozenset({"bytez", "oci"})


def retry_of(policy: RetryPolicy, options: dict[str, Any]) -> RetryPolicy:
    """The policy of one call: LiteLLM's keywords are taken out of its options, and change the attempts.

    Raises:
        ConfigError: they are wrong, or others among the options would be a layer of LiteLLM's below ours.
    """
    for name in _FOREIGN_RETRIES:
        if options.get(name) is not None:
            raise ConfigError(f"{name}= would be a second retry layer; use Client(retry=RetryPolicy(...)) instead")
    for name in _FOREIGN_FALLBACKS:
        if options.get(name):
            raise ConfigError(f"{name}= would be a second layer, LiteLLM's, past limits and books; {CURE}")
    retries = [options.pop(name, None) for name in _RETRY_KEYWORDS]
    wanted = next((number for number in retries if number is not None), None)
    if wanted is None:
        return policy
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 0:
        raise ConfigError(f"num_retries={wanted!r} must be a whole number, 0 or more")
    return policy.with_attempts(wanted + 1)


def prices_of(prices: Mapping[str, Price] | None) -> Mapping[str, Price] | None:
    """Prices by name or glob."""
    given: Mapping[str, object] = prices or {}
    wrong = next((name for name, price in given.items() if not isinstance(price, Price)), None)
    if wrong is not None:
        raise ConfigError(f"prices= takes a mapping of names to Price(...); that of {wrong!r} is none")
    return prices


def from_config(operation: Operation, config: Any, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A preset in place of a name: what the call says itself goes before it."""
    if not hasattr(config, "with_options"):
        raise ConfigError(f"model must be a LiteLLM name or an LLMConfig, not {type(config).__name__}")
    if operation != "completion" and config.only_for_completion:
        fields = ", ".join(config.only_for_completion)
        raise ConfigError(f"preset {config.slug!r} sets {fields}, which {operation} cannot be given through a preset")
    merged = config.with_options(options)
    if config.system_prompt is not None:
        merged["messages"] = config.with_system_prompt(merged["messages"])
    return merged.pop("model"), merged


def tags_of(tags: Any) -> Mapping[str, str]:
    """What a call's usage is counted under besides."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise ConfigError(f'tags= takes a mapping such as {{"experiment": "a"}}, not {type(tags).__name__}')
    return {str(name): str(value) for name, value in tags.items()}


def leaves_usage_to_us(provider: str, options: Mapping[str, Any]) -> bool:
    """Whether a stream can be asked for its usage, and the caller has not spoken of that, one way or the other."""
    return provider not in _REFUSE_STREAM_OPTIONS and "include_usage" not in (options.get("stream_options") or {})


def seconds_of(name: str, value: Any) -> float:
    """A time that an argument names: above 0, and not for ever."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{name}={value!r} must be a positive number of seconds")
    return seconds


def priority_of(value: Any) -> float:
    """How urgent a call is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"priority={value!r} must be a number; 0 is usual, and more goes earlier")
    return value
