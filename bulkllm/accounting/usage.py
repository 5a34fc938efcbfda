"""What one call used, in tokens, with one rule of what includes what for all providers.

What may live here: the value :class:`Usage` and the pure function that reads it out of whatever LiteLLM hands
over. Nothing here knows a provider's name. Providers, and LiteLLM's versions, differ in which parts they count
inside the whole; the arithmetic of the totals tells them apart, and where it does not, the numbers are kept as
they were told and flagged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from operator import add, attrgetter, sub
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, or the sum of several.

    The two wholes include all their parts, whichever provider answered; parts that a provider does not report
    are 0. ``sum(usages, Usage())`` adds up.
    """

    input_tokens: int = 0
    """All input, cached or not; includes cache reads, cache writes, audio and images."""
    output_tokens: int = 0
    """All output; includes reasoning, audio, and predictions accepted or rejected."""
    cache_read_tokens: int = 0
    """Part of the input: read from the provider's prompt cache."""
    cache_write_tokens: int = 0
    """Part of the input: written to the provider's prompt cache."""
    reasoning_tokens: int = 0
    """Part of the output: thought, not shown."""
    input_audio_tokens: int = 0
    """Part of the input."""
    input_image_tokens: int = 0
    """Part of the input."""
    output_audio_tokens: int = 0
    """Part of the output."""
    accepted_prediction_tokens: int = 0
    """Part of the output: the caller's predicted text, as it came."""
    rejected_prediction_tokens: int = 0
    """Part of the output: predicted text that did not come but is charged."""
    unexplained_tokens: int = 0
    """In no other field: what the provider's own total says beyond input and output (negative: falls short)."""
    contradictory: bool = False
    """The provider's numbers contradict each other. They stand here as they were told; a sum keeps the flag."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return _combined(add, self, other)

    def __sub__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return _combined(sub, self, other)

    @classmethod
    def from_litellm(cls, raw: object) -> Usage:
        """Read a usage as LiteLLM hands it over.

        Understood are LiteLLM's ``Usage`` object and its dict, the shapes of chat, embeddings, transcription and
        the Responses API, Anthropic's own (where cached tokens stand beside ``input_tokens``), and None. What
        is not a usage at all counts as nothing told: this never raises, for the call has been paid.
        """
        if isinstance(raw, Usage):
            return raw
        if raw is None:
            return cls()
        told = _as_mapping(raw)
        return _plain(told) or _normalised(told)

    def to_dict(self) -> dict[str, Any]:
        """The wholes, their total and every part that is not 0; fit for JSON."""
        told: dict[str, Any] = {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
        }
        for name in (*COUNTS[2:], "contradictory"):
            if value := getattr(self, name):
                told[name] = value
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Usage:
        """The reverse of :meth:`to_dict`; what is missing is 0, names it does not know are passed over.

        Raises:
            ConfigError: a count is not a whole number.
        """
        values: dict[str, Any] = {}
        for name in COUNTS:
            value = told.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"usage: {name} must be a whole number, not {value!r}")
            values[name] = value
        return cls(**values, contradictory=bool(told.get("contradictory", False)))


COUNTS: tuple[str, ...] = tuple(field.name for field in fields(Usage) if field.name != "contradictory")
"""The names of Usage's numbers, in order."""
_counts = attrgetter(*COUNTS)


def _combined(operation: Callable[[int, int], int], one: Usage, other: Usage) -> Usage:
    values: dict[str, Any] = dict(zip(COUNTS, map(operation, _counts(one), _counts(other)), strict=True))
    return Usage(**values, contradictory=one.contradictory or other.contradictory)


# Where each number may stand: (place, name), place being the usage itself or its details of input or output.
# Several names of one number are told at once by some versions; the first that is not 0 is taken.
_SOURCES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "input": (("usage", "prompt_tokens"), ("usage", "input_tokens")),
    "output": (("usage", "completion_tokens"), ("usage", "output_tokens")),
    "total": (("usage", "total_tokens"),),
    "cache_read": (
        ("input", "cached_tokens"),
        ("usage", "cache_read_input_tokens"),
        ("usage", "prompt_cache_hit_tokens"),  # DeepSeek
        ("usage", "cached_tokens"),  # Moonshot
    ),
    "cache_write": (
        ("input", "cache_write_tokens"),
        ("input", "cache_creation_tokens"),
        ("usage", "cache_creation_input_tokens"),
    ),
    "reasoning": (("output", "reasoning_tokens"), ("usage", "reasoning_tokens")),
    "input_audio": (("input", "audio_tokens"),),
    "input_image": (("input", "image_tokens"),),
    "output_audio": (("output", "audio_tokens"),),
    "accepted": (("output", "accepted_prediction_tokens"),),
    "rejected": (("output", "rejected_prediction_tokens"),),
    "tool_use": (
        ("input", "tool_use_tokens"),
    ),  # Gemini: what its tools read; in its total, and charged for some tools only
}
_DETAILS: Mapping[str, tuple[str, ...]] = {
    "input": ("prompt_tokens_details", "input_tokens_details", "input_token_details"),
    "output": ("completion_tokens_details", "output_tokens_details", "output_token_details"),
}
_NAMES = frozenset(chain(*_DETAILS.values(), (name for places in _SOURCES.values() for _, name in places)))

# If the total is not input + output, it is so together with these parts, which then stand beside the wholes...
_BESIDE: tuple[tuple[str, ...], ...] = (
    ("reasoning",),  # xAI before LiteLLM folds it in; Gemini's thoughts in old versions
    ("cache_write",),  # Anthropic and Bedrock in old versions
    ("reasoning", "cache_write"),
    ("cache_read", "cache_write"),  # Anthropic's own counting, by way of OpenAI-shaped proxies
    ("reasoning", "cache_read", "cache_write"),
)


_WHOLES = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def _plain(raw: Mapping[str, Any]) -> Usage | None:
    """The short way for a usage with two wholes, their sum, and nothing else that is not 0; None for any other."""
    whole_input, whole_output, total = raw.get("prompt_tokens"), raw.get("completion_tokens"), raw.get("total_tokens")
    if type(whole_input) is not int or type(whole_output) is not int or type(total) is not int:
        return None
    if whole_input < 0 or whole_output < 0 or whole_input + whole_output != total:
        return None
    for name, value in raw.items():
        if value and name not in _WHOLES and not _is_empty(value):
            return None
    return Usage(whole_input, whole_output)


def _is_empty(details: object) -> bool:
    """Whether details, a dict or one of LiteLLM's objects, say nothing but zeros."""
    told = details if type(details) is dict else getattr(details, "__dict__", None)
    return told is not None and not any(told.values()) and not getattr(details, "__pydantic_extra__", None)


def _normalised(raw: Mapping[str, Any]) -> Usage:
    told, contradictory = _read(raw)
    total = told["total"]
    whole_input, whole_output = told["input"], told["output"]
    unexplained = 0
    if not total:
        if _is_anthropic(raw):
            whole_input += told["cache_read"] + told["cache_write"]
    elif total != whole_input + whole_output:
        beyond = total - whole_input - whole_output
        added = {
            (told["reasoning"] if "reasoning" in parts else 0, sum(told[p] for p in parts if p != "reasoning"))
            for parts in _BESIDE
            if sum(told[p] for p in parts) == beyond
        }
        if len(added) == 1:
            [(to_output, to_input)] = added
            whole_input += to_input
            whole_output += to_output
        elif added or beyond != -told["cache_read"] - told["cache_write"]:
            # ...and in one way only, or nothing is mended. Tool use is in Gemini's total alone; a total that
            # lacks just the cached tokens is how LiteLLM sums up Bedrock's batches.
            unexplained, contradictory = beyond, bool(added) or beyond != told["tool_use"]
    contradictory = (
        contradictory
        or told["cache_read"] + told["cache_write"] > whole_input
        or told["input_audio"] + told["input_image"] > whole_input
        or told["reasoning"] > whole_output
        or told["output_audio"] > whole_output
        or told["accepted"] + told["rejected"] > whole_output
    )
    return Usage(
        whole_input,
        whole_output,
        told["cache_read"],
        told["cache_write"],
        told["reasoning"],
        told["input_audio"],
        told["input_image"],
        told["output_audio"],
        told["accepted"],
        told["rejected"],
        unexplained,
        contradictory,
    )


def _read(raw: Mapping[str, Any]) -> tuple[dict[str, int], bool]:
    """Each number by our own name, and whether two names of one number disagree or one makes no sense."""
    places: dict[str, Mapping[str, Any]] = {"usage": raw}
    for place, names in _DETAILS.items():
        places[place] = _as_mapping(_first(raw.get(name) for name in names))
    told: dict[str, int] = {}
    contradictory = False
    for ours, sources in _SOURCES.items():
        count = 0
        for place, name in sources:
            value = places[place].get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value == 0:
                continue
            if value < 0 or not math.isfinite(value):
                contradictory = True
            elif not count:
                count = int(value)
            elif count != int(value):
                contradictory = True
        told[ours] = count
    return told, contradictory


def _is_anthropic(raw: Mapping[str, Any]) -> bool:
    """Anthropic's own shape: no total, and cached tokens beside the input instead of in details of it."""
    return (
        "input_tokens" in raw
        and raw.get("prompt_tokens") is None
        and ("cache_read_input_tokens" in raw or "cache_creation_input_tokens" in raw)
    )


def _as_mapping(raw: object) -> Mapping[str, Any]:
    if isinstance(raw, Mapping):
        return raw
    # Asking a pydantic object for an attribute which it lacks costs more than all the rest here.
    own = getattr(raw, "__dict__", None)
    if own is None:
        return {name: getattr(raw, name, None) for name in _NAMES}
    extra = getattr(raw, "__pydantic_extra__", None)
    return {**own, **extra} if extra else own


def _first(values: Iterable[object]) -> object:
    return next((value for value in values if value is not None), {})
