"""Under which keys a call's answer is kept and looked for."""

from __future__ import annotations

from typing import Final

from .. import _litellm
from ..caching import Cache, embedding_items, item_keys, request_key
from ..limits.origin import base_in_environment
from .call import Call

_ADDRESSES: Final = ("api_base", "base_url", "client")


def keys_of(call: Call, cache: Cache, *, namespace: str | None = None, sample: int = 0) -> list[str]:
    """One key, or for embeddings one for each item of the input; none where the answer cannot be kept.

    Args:
        call: what is to be asked.
        cache: where its answer would be kept.
        namespace: keeps answers apart from others; the cache's own if None.
        sample: tells several answers to one prompt apart.
    """
    where = cache.namespace if namespace is None else namespace
    if call.operation != "embedding":
        key = request_key(call.operation, call.model, _endpoint(call), call.options, namespace=where, sample=sample)
        return [] if key is None else [key]
    given = call.options.get("input")
    if not isinstance(given, str | list | tuple) or not given:
        return []
    shared = {name: value for name, value in call.options.items() if name != "input"}
    items = embedding_items(given)
    return item_keys(call.operation, call.model, _endpoint(call), shared, items, namespace=where, sample=sample) or []


def _endpoint(call: Call) -> str | None:
    """Where a call goes that does not say so itself, by LiteLLM's setting or the environment; None for any other."""
    if any(call.options.get(name) is not None for name in _ADDRESSES):
        return None
    setting = _litellm.load().api_base if _litellm.is_loaded() else None
    return setting or base_in_environment(call.provider) or None
