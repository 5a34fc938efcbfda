"""Under which keys a call's answer is kept and looked for. Pure."""

from __future__ import annotations

from ..caching import Cache, embedding_items, item_keys, request_key
from .call import Call


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
        key = request_key(call.operation, call.model, None, call.options, namespace=where, sample=sample)
        return [] if key is None else [key]
    given = call.options.get("input")
    if not isinstance(given, str | list | tuple) or not given:
        return []
    shared = {name: value for name, value in call.options.items() if name != "input"}
    items = embedding_items(given)
    return item_keys(call.operation, call.model, None, shared, items, namespace=where, sample=sample) or []
