"""Telling LiteLLM what the layers know and its map does not.

What may live here: which facts LiteLLM is told, and in what shape, so that its calculator is right and never makes a
zero of an unknown price.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .layers import for_litellm

if TYPE_CHECKING:
    from .index import Index

_logger = logging.getLogger(__name__)


def news(index: Index, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What LiteLLM does not know yet about some entries, in the shape that ``register_model`` takes."""
    batch = {key: _news(index, key) for key in keys}
    return {key: fields for key, fields in batch.items() if fields}


def _news(index: Index, key: str) -> dict[str, Any]:
    known = index.catalogue.get(key, {})
    told: dict[str, Any] = {}
    for _, statement in index.overlays.get(key, ()):
        told.update(for_litellm(statement.fields))
    entry = {**known, **told}
    if any("cost" in field for field in told) and _half_priced(entry):  # LiteLLM would take the missing half for 0
        _logger.warning(
            "%s has a price for input or for output and none for the other, so the price does not count; "
            "give both, 0 for what is free",
            key,
        )
        told = {field: value for field, value in told.items() if "cost" not in field}
        entry = {**known, **told}
    if entry.get("input_cost_per_token") is None and entry.get("output_cost_per_token") is None:
        if not known:  # LiteLLM prices a model that it knows without a price at 0, one that it does not know at nothing
            _logger.debug("%s has no price, so LiteLLM is not told of it", key)
            return {}
    elif "input_cost_per_token" in told:  # LiteLLM takes a missing price of cached input for 0
        for cached in ("cache_read_input_token_cost", "cache_creation_input_token_cost"):
            if entry.get(cached) is None:
                told[cached] = told["input_cost_per_token"]
    fields = {field: value for field, value in told.items() if known.get(field) != value}
    if fields and not known:
        fields.setdefault("litellm_provider", key.split("/", 1)[0] if "/" in key else "openai")
        fields.setdefault("mode", "chat")
    return fields


def _half_priced(entry: Mapping[str, Any]) -> bool:
    """Whether a model that talks has a price for what it reads or for what it writes, and not for both."""
    priced = [entry.get(field) is not None for field in ("input_cost_per_token", "output_cost_per_token")]
    return entry.get("mode", "chat") in ("chat", "responses", "completion") and any(priced) and not all(priced)
