"""How a response is read: by attribute or by key, for LiteLLM's objects and for their dicts alike.

What may live here: small pure readers which never raise, whatever a response lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol


class Hidden(Protocol):
    """LiteLLM's notes on a response: a dict, or an object with ``get``."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """The note of that name."""


def read(thing: object, name: str) -> Any:
    """The attribute or the key of that name, or None."""
    if isinstance(thing, Mapping):
        return thing.get(name)
    return getattr(thing, name, None)


def hidden_params(response: object) -> Hidden:
    """The ``_hidden_params`` of a response, or nothing."""
    hidden = read(response, "_hidden_params")
    return hidden if callable(getattr(hidden, "get", None)) else {}


def text(value: object) -> str | None:
    """The value if it is a string with something in it."""
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """The value if it is a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def provider_in(model: str) -> str | None:
    """The provider that a LiteLLM name such as "openai/gpt-5-mini" begins with, or None."""
    provider, slash, _ = model.partition("/")
    return provider if slash else None
