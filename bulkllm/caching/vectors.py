"""Embeddings, kept one by one: a batch that is partly known asks only for the rest.

What may live here: taking an embedding's input and answer apart into items and putting them together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _litellm
from .shelf import Entry

VECTOR = "vector"
"""The kind of an entry that is one item of an embedding."""


def embedding_items(given: Any) -> list[Any]:
    """The items of an embedding's ``input``: each is a text or a list of tokens, and gets a vector of its own."""
    if isinstance(given, str):
        return [given]
    items = list(given)
    return [items] if items and all(isinstance(item, int) for item in items) else items


def is_vector(entry: Entry) -> bool:
    """Whether an entry is what :func:`split_embedding` makes; an older or newer bulkllm may have made it."""
    value = entry.value
    return entry.kind == VECTOR and bool(value.get("embedding")) and isinstance(value.get("prompt_tokens"), int)


def split_embedding(
    response: Any, items: Sequence[Any], cost: float | None
) -> list[tuple[dict[str, Any], float | None]]:
    """An answer taken apart: for each item of the input what is kept of it, and its share of the cost.

    The provider reports tokens for the batch only. They are shared out in proportion to the items' lengths, whole
    numbers that add up to what was reported, and the cost goes with them.

    Returns:
        One pair for each item, in the input's order; an empty list if the answer does not hold one vector for each,
        for then nobody can say which belongs to which.
    """
    found: dict[int, dict[str, Any]] = {}
    for place, vector in enumerate(response.data or ()):
        plain = vector if isinstance(vector, dict) else vector.model_dump()
        index = plain.get("index")
        found[place if index is None else int(index)] = plain
    if sorted(found) != list(range(len(items))) or not all(plain.get("embedding") for plain in found.values()):
        return []
    tokens = _shares(int(getattr(response.usage, "prompt_tokens", 0) or 0), [len(item) for item in items])
    total = sum(tokens)
    return [
        (
            {"model": response.model, "embedding": _own(found[place]["embedding"]), "prompt_tokens": tokens[place]},
            None if cost is None else cost * (tokens[place] / total if total else 1 / len(items)),
        )
        for place in range(len(items))
    ]


def join_embedding(parts: Sequence[dict[str, Any]]) -> Any:
    """One ``litellm.EmbeddingResponse`` from what was kept of each item, in the input's order.

    Its usage is the sum over the items: what the whole batch takes, no matter who paid for which part of it.
    """
    litellm = _litellm.load()
    tokens = sum(part["prompt_tokens"] for part in parts)
    return litellm.EmbeddingResponse(
        model=parts[0]["model"] if parts else None,
        object="list",
        data=[
            {"object": "embedding", "index": index, "embedding": _own(part["embedding"])}
            for index, part in enumerate(parts)
        ],
        usage=litellm.Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens),
    )


def _own(vector: Any) -> Any:
    """The same numbers in a list of its own, for callers may change theirs; in base64 it is a text."""
    return list(vector) if isinstance(vector, list) else vector


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to the weights, which add up to the total."""
    everything = sum(weights)
    if not everything:
        weights, everything = [1] * len(weights), len(weights)
    shares: list[int] = []
    given = counted = 0
    for weight in weights:
        counted += weight
        upto = total * counted // everything
        shares.append(upto - given)
        given = upto
    return shares
