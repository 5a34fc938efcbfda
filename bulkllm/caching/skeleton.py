"""Plain chat answers, put together from one of the same shape: what LiteLLM's constructors do in a third of the time.

What may live here: recognising a shape, and copying a response of LiteLLM's with other words in it. Half of what a hit
takes is LiteLLM validating an answer that it made itself. Most answers differ in nothing but their text, their id and
three numbers, so the first of a shape is made by LiteLLM, and the next ones are copies of it.

Nothing is assumed of LiteLLM's classes: when a shape is met first, an answer with other words is made both ways, and
unless both are the same down to pydantic's own notes, that shape is left to LiteLLM for good. Answers with tool calls,
reasoning, log probabilities or several choices are always left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_TOP: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
_NUMBERS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
_TEXT: Final = "content"
_LEAVES: Final = frozenset((*_TOP, *_NUMBERS, _TEXT))
_NOTES: Final = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_MOST_SHAPES: Final = 32
_MISSING: Final = object()

_set = object.__setattr__


class _NoSkeletonError(Exception):
    """A response that holds something which nobody here knows how to copy."""


class Skeletons:
    """The shapes that were met so far. Safe in any thread: a race makes one twice.

    Args:
        make: LiteLLM's class of answers.
        is_answer: whether a response is worth handing out; asked once for a shape.
    """

    def __init__(self, make: Callable[..., Any], is_answer: Callable[[Any], bool]) -> None:
        self._make = make
        self._is_answer = is_answer
        self._known: list[tuple[object, Any]] = []

    def rebuild(self, frozen: dict[str, Any]) -> Any:
        """The response that ``make(**frozen)`` gives; None where that has to be asked.

        Raises:
            TypeError, ValueError, AttributeError: as ``make`` does, of the first answer of a shape.
        """
        shape = _shape(frozen)
        if shape is None:
            return None
        for known, response in self._known:
            if known == shape:
                return None if response is None else _filled(_copy(response), frozen)
        if len(self._known) < _MOST_SHAPES:
            self._known.append((shape, self._learn(frozen)))
        return None

    def _learn(self, frozen: dict[str, Any]) -> Any:
        """A response to be copied, or None if a copy would not be what LiteLLM makes."""
        response = self._make(**frozen)
        other = _with_other_words(frozen)
        try:
            same = _same(_filled(_copy(response), other), self._make(**other))
        except (_NoSkeletonError, AttributeError, KeyError, IndexError, TypeError):
            return None
        return response if same and self._is_answer(response) else None


def _shape(frozen: dict[str, Any]) -> object | None:
    """All of an answer that is not words and numbers; None if it is no plain one."""
    choices, usage = frozen.get("choices"), frozen.get("usage")
    if type(choices) is not list or len(choices) != 1 or type(usage) is not dict:
        return None
    choice = choices[0]
    message = choice.get("message") if type(choice) is dict else None
    if type(message) is not dict or not message.get(_TEXT) or type(message[_TEXT]) is not str:
        return None
    if any(value is not None for name, value in message.items() if name not in ("content", "role")):
        return None
    return (
        {name: value for name, value in frozen.items() if name not in _LEAVES and name not in ("choices", "usage")},
        [type(frozen.get(name, _MISSING)) for name in _TOP],
        {name: value for name, value in choice.items() if name != "message"},
        {name: value for name, value in message.items() if name != _TEXT},
        {name: value for name, value in usage.items() if name not in _LEAVES},
        [type(usage.get(name, _MISSING)) for name in _NUMBERS],
    )


def _with_other_words(frozen: dict[str, Any]) -> dict[str, Any]:
    def other(value: Any) -> Any:
        return value + "x" if isinstance(value, str) else value if value is None else value + 1

    (choice,) = frozen["choices"]
    message = {**choice["message"], _TEXT: other(choice["message"][_TEXT])}
    return {
        **frozen,
        **{name: other(frozen[name]) for name in _TOP if name in frozen},
        "choices": [{**choice, "message": message}],
        "usage": {name: other(value) if name in _NUMBERS else value for name, value in frozen["usage"].items()},
    }


def _filled(response: Any, frozen: dict[str, Any]) -> Any:
    """A copy with the words and numbers of this answer."""
    for name in _TOP:
        if name in frozen:
            _fill(response, name, frozen[name])
    response.__dict__["choices"][0].__dict__["message"].__dict__[_TEXT] = frozen["choices"][0]["message"][_TEXT]
    usage, numbers = response.usage, frozen["usage"]
    for name in _NUMBERS:
        if name in numbers:
            usage.__dict__[name] = numbers[name]
    return response


def _fill(model: Any, name: str, value: Any) -> None:
    if name in model.__dict__:
        model.__dict__[name] = value
    else:
        model.__pydantic_extra__[name] = value


def _copy(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is int or kind is float or kind is bool:
        return value
    if kind is dict:
        return {name: _copy(held) for name, held in value.items()}
    if kind is list:
        return [_copy(held) for held in value]
    try:
        noted, extra, private = value.__pydantic_fields_set__, value.__pydantic_extra__, value.__pydantic_private__
    except AttributeError:
        raise _NoSkeletonError(kind.__name__) from None
    made: Any = object.__new__(kind)
    _set(made, "__dict__", {name: _copy(held) for name, held in value.__dict__.items()})
    _set(made, "__pydantic_fields_set__", noted.copy())
    _set(made, "__pydantic_extra__", None if extra is None else {name: _copy(held) for name, held in extra.items()})
    _set(
        made, "__pydantic_private__", None if private is None else {name: _copy(held) for name, held in private.items()}
    )
    return made


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal in all that pydantic's ``==`` compares and in what it does not."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(held, other[name]) for name, held in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if hasattr(one, "__pydantic_fields_set__"):
        return _same(one.__dict__, other.__dict__) and all(
            _same(getattr(one, note), getattr(other, note)) for note in _NOTES
        )
    return bool(one == other)
