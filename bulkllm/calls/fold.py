"""What a stream's chunks add up to, as far as the books need it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ..accounting import Usage

# An answer that was cut off is counted by its chunks (providers send about one token in each) or by its characters,
# whichever is more.
_CHARACTERS_PER_TOKEN: Final = 4


class StreamFold:
    """Adds chunks up to what the books need. Pure.

    Attributes:
        usage: the latest that the provider told.
        told: the same, as LiteLLM handed it over.
        whole: the whole response, where the last event brings it (the Responses API).
        model: the model that answers.
        contents: chunks that carried something.
        characters: of all that came.
    """

    __slots__ = ("characters", "contents", "model", "told", "usage", "whole")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.told: Any = None
        self.whole: Any = None
        self.model: str | None = None
        self.contents = 0
        self.characters = 0

    def add(self, chunk: Any) -> tuple[bool, bool]:
        """Take a chunk in.

        Returns:
            Whether it carries content, and whether it carries nothing but usage.
        """
        kind = getattr(chunk, "type", None)
        if isinstance(kind, str):
            return self._add_event(kind, chunk)
        model = getattr(chunk, "model", None)
        if model:
            self.model = model
        told = getattr(chunk, "usage", None)
        if told is not None:
            self.told = told
            self.usage = Usage.from_litellm(told)
        size = 0
        finished = False
        for choice in getattr(chunk, "choices", None) or ():
            finished = finished or getattr(choice, "finish_reason", None) is not None
            size += _delta_size(getattr(choice, "delta", None))
        if size:
            self.contents += 1
            self.characters += size
        return size > 0, told is not None and not size and not finished

    def _add_event(self, kind: str, event: Any) -> tuple[bool, bool]:
        """An event of the Responses API."""
        response = getattr(event, "response", None)
        if response is not None:
            self.model = getattr(response, "model", None) or self.model
            told = getattr(response, "usage", None)
            if told is not None:
                self.told = told
                self.usage = Usage.from_litellm(told)
                self.whole = response
        delta = getattr(event, "delta", None)
        if not kind.endswith(".delta") or not isinstance(delta, str):
            return False, False
        self.contents += 1
        self.characters += len(delta)
        return True, False

    def estimated(self, input_tokens: float) -> Usage:
        """What an answer that was cut off probably used, where the provider did not come to tell."""
        told = self.usage or Usage(input_tokens=round(input_tokens))  # Anthropic tells the input at the start
        output = max(self.contents, self.characters // _CHARACTERS_PER_TOKEN, told.output_tokens)
        return replace(told, output_tokens=output)


def guessed_usage(response: Any, input_tokens: float) -> Usage:
    """What a whole answer probably used, where the provider did not tell."""
    size = sum(_delta_size(getattr(choice, "message", None)) for choice in getattr(response, "choices", None) or ())
    return Usage(input_tokens=round(input_tokens), output_tokens=-(-size // _CHARACTERS_PER_TOKEN))


def _delta_size(delta: Any) -> int:
    """Characters of a delta, or of a message, which has the same fields."""
    if delta is None:
        return 0
    size = 0
    for part in (getattr(delta, "content", None), getattr(delta, "reasoning_content", None)):
        if isinstance(part, str):
            size += len(part)
    for tool in getattr(delta, "tool_calls", None) or ():
        function = getattr(tool, "function", None)
        size += len(getattr(function, "arguments", None) or "") + len(getattr(function, "name", None) or "")
    return size
