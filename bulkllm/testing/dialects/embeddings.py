"""OpenAI's embeddings. What may live here: this one shape."""

from __future__ import annotations

import base64
import math
import random
import struct
from typing import Any

from ..text import Writer, count_text, digest
from .base import Ask, Reply, RequestError, count_field, text_field, to_json

_MOST_DIMENSIONS = 8192


class Embeddings:
    """``/v1/embeddings``: unit vectors that depend on the seed, the model and the text, and on nothing else.

    Args:
        dimensions: of a vector, where the request does not say.
    """

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request."""
        model = text_field(body, "model")
        inputs = _inputs(body.get("input"))
        if body.get("encoding_format") not in (None, "float", "base64"):
            raise RequestError("'encoding_format' must be 'float' or 'base64'", param="encoding_format")
        count_field(body, "dimensions", most=_MOST_DIMENSIONS)
        return Ask(
            model=model,
            body=body,
            digest=digest("embedding", model, inputs),
            input_tokens=sum(max(1, count_text(item) if isinstance(item, str) else len(item)) for item in inputs),
            prompt=inputs,
            max_tokens=None,
        )

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:  # noqa: ARG002 - the shape of an Endpoint
        """Answer it."""
        dimensions = ask.body.get("dimensions") or self._dimensions
        as_text = ask.body.get("encoding_format") == "base64"
        data = []
        for index, item in enumerate([] if empty else _inputs(ask.body.get("input"))):
            vector = _vector(writer.number(digest("vector", ask.model, item)), dimensions)
            packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if as_text else None
            data.append({"object": "embedding", "index": index, "embedding": packed or vector})
        usage = {"prompt_tokens": ask.input_tokens, "total_tokens": ask.input_tokens}
        return Reply(0, to_json({"object": "list", "data": data, "model": ask.model, "usage": usage}).encode())


def _vector(seed: int, dimensions: int) -> list[float]:
    dice = random.Random(seed)  # noqa: S311 - a made-up vector is no secret
    raw = [dice.gauss() for _ in range(dimensions)]
    length = math.hypot(*raw)
    return [round(value / length, 7) for value in raw]


def _inputs(given: Any) -> list[str] | list[list[int]]:
    if isinstance(given, str) and given:
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(item, int) for item in given):
            return [given]
        if all(isinstance(item, str) for item in given) or all(isinstance(item, list) for item in given):
            return given
    raise RequestError("'input' must be a text, a list of texts, or tokens", param="input")
