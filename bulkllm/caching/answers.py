"""What of an answer is kept, and how it comes back.

What may live here: answers to plain data and back. An answer is kept whole, as LiteLLM's own classes dump it. What is
no answer (an error, nothing at all, half a stream) is not kept: asking again may well give one. ``_hidden_params`` are
not kept either: they hold headers of one particular call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from .. import _litellm
from .skeleton import Skeletons

_log = logging.getLogger(__name__)

CHAT = "chat"
TEXT = "text"
EMBEDDING = "embedding"
RESPONSES = "responses"


def kind_of(response: Any) -> str | None:
    """Which kind of answer this is: "chat", "text", "embedding" or "responses"; None for anything else."""
    for kind, cls in _classes().items():
        if isinstance(response, cls):
            return kind
    return None


def freeze_response(response: Any) -> dict[str, Any] | None:
    """An answer as plain data, or None where there is nothing worth keeping.

    None comes for what is no ModelResponse, EmbeddingResponse, TextCompletionResponse or ResponsesAPIResponse, for an
    answer that carries an error, for an empty one (a choice without text, tool call, refusal, image or sound; reasoning
    alone is not an answer) and for an unfinished one (no finish reason; a Responses answer that is not ``completed``,
    unless its token limit ended it). An answer that was cut at ``max_tokens`` is the answer to that request.
    """
    kind = kind_of(response)
    if kind is None or not _WORTH_KEEPING[kind](response):
        return None
    # By alias, since OpenAI's classes have fields whose names Python keeps for itself (``async``, ``schema``).
    frozen: dict[str, Any] = response.model_dump(warnings=False, by_alias=kind == RESPONSES)
    return frozen


def thaw_response(kind: str, frozen: dict[str, Any]) -> Any:
    """The answer that :func:`freeze_response` was given, as an object of LiteLLM's class.

    None where this LiteLLM or this bulkllm cannot read what another one wrote: the request is then a miss, and asking
    again puts something readable in its place.
    """
    cls = _classes().get(kind)
    if cls is None:
        _log.debug("a kept answer is of the unknown kind %r: not used", kind)
        return None
    try:
        response = _skeletons().rebuild(frozen) if kind == CHAT else None
        if response is not None:
            return response
        response = cls(**frozen)
        if _WORTH_KEEPING[kind](response):  # LiteLLM makes an empty answer of many a thing that is none
            return response
        reason = "it would be empty"
    except (TypeError, ValueError, AttributeError) as error:  # pydantic's are among these; their text holds the answer
        reason = type(error).__name__
    _log.debug("a kept answer does not fit %s of this LiteLLM (%s): not used", cls.__name__, reason)
    return None


@cache
def _classes() -> dict[str, Any]:
    litellm = _litellm.load()
    return {
        CHAT: litellm.ModelResponse,
        EMBEDDING: litellm.EmbeddingResponse,
        TEXT: litellm.TextCompletionResponse,
        RESPONSES: litellm.types.llms.openai.ResponsesAPIResponse,
    }


@cache
def _skeletons() -> Skeletons:
    return Skeletons(_classes()[CHAT], _chat_is_answer)


def _chat_is_answer(response: Any) -> bool:
    return _without_error(response) and _all(response.choices, _choice_is_answer)


def _choice_is_answer(choice: Any) -> bool:
    message = getattr(choice, "message", None)
    if message is None or not _finished(choice) or not _without_error(choice):
        return False
    if message.content:
        return True
    # Unset fields of a message are deleted from it, so they are not there to be asked for.
    return any(getattr(message, part, None) for part in ("tool_calls", "function_call", "refusal", "images", "audio"))


def _text_is_answer(response: Any) -> bool:
    return _without_error(response) and _all(response.choices, lambda choice: bool(choice.text) and _finished(choice))


def _embedding_is_answer(response: Any) -> bool:
    return _all(response.data, lambda item: bool(item["embedding"]))


def _responses_is_answer(response: Any) -> bool:
    if response.error:
        return False
    if response.status != "completed":
        details = response.incomplete_details
        reason = details.get("reason") if isinstance(details, dict) else getattr(details, "reason", None)
        if response.status != "incomplete" or reason != "max_output_tokens":
            return False
    return any(_output_is_answer(item if isinstance(item, dict) else item.model_dump()) for item in response.output)


def _output_is_answer(item: dict[str, Any]) -> bool:
    if item.get("type") == "message":
        return any(part.get("text") or part.get("refusal") for part in item.get("content") or ())
    return item.get("type") != "reasoning"


def _finished(choice: Any) -> bool:
    return getattr(choice, "finish_reason", None) not in (None, "", "error")


def _without_error(part: Any) -> bool:
    # OpenRouter and others put it beside the answer. (Asking pydantic for an attribute that is not there takes 10 µs.)
    return not (part.model_extra or {}).get("error")


def _all(parts: Iterable[Any] | None, good: Callable[[Any], bool]) -> bool:
    found = list(parts or ())
    return bool(found) and all(good(part) for part in found)


_WORTH_KEEPING: dict[str, Callable[[Any], bool]] = {
    CHAT: _chat_is_answer,
    TEXT: _text_is_answer,
    EMBEDDING: _embedding_is_answer,
    RESPONSES: _responses_is_answer,
}
