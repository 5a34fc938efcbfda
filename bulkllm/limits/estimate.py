"""Token estimates cheap enough for every call: characters, calibrated by what came back.

No tokenizer runs here. A model starts with four characters to a token and a guess at the length of an answer; each
answer corrects both. What is estimated only decides how much quota is reserved before a call: usage is what the
provider says.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

# English prose and code lie between 3.5 and 4.5 characters a token, JSON around 4, Chinese at 1.5.
_CHARACTERS_PER_TOKEN: Final = 4.0

# What a message costs besides its text (OpenAI's chat format: three tokens a message and three for the answer).
_TOKENS_PER_MESSAGE: Final = 4.0

# An answer's length before any was seen, where the request does not bound it.
_FIRST_OUTPUT: Final = 512.0

# How many calls the running averages look back upon.
_MEMORY: Final = 50.0

# Answers are as long as nearly all of the last ones, looked at anew after every few.
_NEARLY_ALL: Final = 0.95
_LENGTHS: Final = 128
_LENGTHS_EVERY: Final = 16

# Images and other parts that are not text count as this many characters.
_CHARACTERS_PER_PART: Final = 3000

_MAX_TOKENS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request will probably take.

    Attributes:
        input_tokens: of the prompt.
        output_tokens: of the answer: the request's own bound if it has one.
        characters: of the prompt, for :meth:`TokenEstimator.learn`.
        bounded: the answer cannot be longer than that.
        likely_output: what nearly all answers of the model stay below, once enough were seen; never more than the
            request's own bound.
    """

    input_tokens: float
    output_tokens: float
    characters: int
    bounded: bool = False
    likely_output: float = 0.0

    def counted(self, input_tokens: int | None) -> Estimate:
        """The same with its input counted; as it is where that could not be done."""
        return self if input_tokens is None else replace(self, input_tokens=float(input_tokens))


class Size(NamedTuple):
    """What an estimate is made of, so that a request need not be kept to be estimated again.

    Attributes:
        characters: of the prompt.
        messages: that it consists of.
        bound: tokens of the answer at most, of all answers together; None where the request does not say.
        vectors: what is asked for are embeddings, which have no output.
    """

    characters: int
    messages: int
    bound: float | None
    vectors: bool


class TokenEstimator:
    """Estimates by model. Its numbers are running averages, so a race between threads costs at most one sample."""

    def __init__(self) -> None:
        self._models: dict[str, _Calibration] = {}

    def estimate(self, operation: str, model: str, options: Mapping[str, Any]) -> Estimate:
        """Estimate a request by LiteLLM's keywords for this function of its."""
        return self.estimate_of(model, size_of(operation, options))

    def estimate_of(self, model: str, size: Size) -> Estimate:
        """Estimate a request by its size."""
        calibration = self._models.get(model) or _FRESH
        characters, messages, bound, vectors = size
        input_tokens = characters / calibration.characters_per_token + messages * _TOKENS_PER_MESSAGE
        output_tokens = 0.0 if vectors else calibration.output_tokens if bound is None else bound
        likely = calibration.likely(output_tokens, bounded=bound is not None or vectors)
        return Estimate(input_tokens, output_tokens, characters, bound is not None, likely)

    def learn(self, model: str, characters: int, input_tokens: int, output_tokens: int) -> None:
        """Take the real usage of a call of so many characters into account."""
        calibration = self._models.get(model)
        if calibration is None:
            calibration = self._models[model] = _Calibration()
        calibration.learn(characters, input_tokens, output_tokens)


class _Calibration:
    __slots__ = ("_lengths", "_number", "characters_per_token", "most_outputs", "output_tokens", "weight")

    def __init__(self) -> None:
        self.characters_per_token = _CHARACTERS_PER_TOKEN
        self.output_tokens = _FIRST_OUTPUT
        self.weight = 0.0
        self.most_outputs = math.inf
        self._lengths: deque[int] = deque(maxlen=_LENGTHS)
        self._number = 0

    def likely(self, output_tokens: float, *, bounded: bool) -> float:
        """What nearly all answers stay below, if enough were seen; at most so many where the request bounds them."""
        if bounded or self.most_outputs == math.inf:
            return min(output_tokens, self.most_outputs)
        return self.most_outputs

    def learn(self, characters: int, input_tokens: int, output_tokens: int) -> None:
        self.weight = min(self.weight + 1, _MEMORY)
        share = 1 / self.weight
        if characters and input_tokens:
            seen = characters / max(1.0, input_tokens - _TOKENS_PER_MESSAGE)
            # Bounded, so that a provider which reports nonsense cannot make estimates vanish.
            self.characters_per_token += share * (min(max(seen, 0.5), 10.0) - self.characters_per_token)
        self.output_tokens += share * (output_tokens - self.output_tokens)
        self._lengths.append(output_tokens)
        self._number += 1
        if self._number % _LENGTHS_EVERY == 0:
            ordered = sorted(self._lengths.copy())  # another thread may append meanwhile
            self.most_outputs = float(ordered[int(_NEARLY_ALL * (len(ordered) - 1))])


_FRESH: Final = _Calibration()


def _bound(options: Mapping[str, Any]) -> float | None:
    for name in _MAX_TOKENS:
        value = options.get(name)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None


def _answers(options: Mapping[str, Any]) -> int:
    """How many answers are asked for. What makes no sense is LiteLLM's to refuse."""
    number = options.get("n")
    return number if isinstance(number, int) and number > 0 else 1


def _content(message: object) -> object:
    """A message's content. An answer that goes on in a conversation is one of LiteLLM's objects, not a dict."""
    return message.get("content") if isinstance(message, Mapping) else getattr(message, "content", None)


def size_of(operation: str, options: Mapping[str, Any]) -> Size:
    """The size of a request by LiteLLM's keywords for this function of its."""
    characters, messages = _size(operation, options)
    bound = _bound(options)
    return Size(characters, messages, None if bound is None else bound * _answers(options), operation == "embedding")


def _size(operation: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """Characters and messages of a request."""
    messages = options.get("messages")
    given = options.get("input")
    if isinstance(messages, list | tuple):
        characters = sum(_characters(_content(message)) for message in messages)
        count = len(messages)
    else:
        characters = _characters(given)
        count = len(given) if operation == "responses" and isinstance(given, list) else 1
    instructions = options.get("instructions")
    if isinstance(instructions, str):
        characters += len(instructions)
    tools = options.get("tools")
    if tools:
        characters += len(str(tools))
    return characters, count


def _characters(content: object) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(_characters(part) for part in content)
    if isinstance(content, Mapping):
        text = content.get("text", content.get("content"))
        return _characters(text) if isinstance(text, str | list) else _CHARACTERS_PER_PART
    return round(_CHARACTERS_PER_TOKEN) if isinstance(content, int) else 0  # an embedding's input may be tokens already
