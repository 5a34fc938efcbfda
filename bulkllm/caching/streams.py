"""Streams and kept answers: a finished stream is kept as one answer, a kept answer is handed over as a stream.

What may live here: from the chunks of a stream to what is kept, and from a whole answer to chunks. Iterating, sync or
async, is the caller's business.

A streamed call and a plain one have the same key, so what is kept of a stream must be what the plain call would have
brought. LiteLLM's own tools fall short of that both ways: its replay of a cached answer loses reasoning, thinking
blocks and log probabilities, and ``stream_chunk_builder`` loses log probabilities, the refusal and all choices but one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from .. import _litellm
from .answers import CHAT, RESPONSES, freeze_response

_log = logging.getLogger(__name__)

_PIECES = (
    ("reasoning_content", "thinking_blocks", "reasoning_items", "provider_specific_fields"),
    ("content", "refusal", "images", "audio", "annotations"),
    ("tool_calls", "function_call"),
)
"""The order in which the parts of a message come in a stream; each line is a chunk of its own."""


def replay_chunks(response: Any) -> list[Any]:
    """The chunks (``litellm.ModelResponseStream``) of a stream that amounts to this ModelResponse.

    For each choice: its role, its reasoning, its content with the log probabilities, its tool calls, its finish reason.
    The last chunk carries the usage, as with ``stream_options={"include_usage": True}``, and no content; whoever did
    not ask for it should not be shown it. A response without usage ends without such a chunk.
    """
    whole = response.model_dump(warnings=False)
    chunks = [_chunk(whole, step) for place, choice in enumerate(whole["choices"]) for step in _steps(place, choice)]
    if whole.get("usage") is not None:
        chunks.append(_chunk(whole, {"index": 0, "delta": {}}, usage=whole["usage"]))
    return chunks


def replay_events(response: Any) -> list[Any]:
    """The events of a stream that amounts to this ResponsesAPIResponse.

    ``response.created``; for each item of the output its ``output_item.added``, its text, refusal or arguments as one
    delta and one done, its ``output_item.done``; last ``response.completed`` (or ``response.incomplete``) with it all.
    """
    types = _litellm.load().types.llms.openai
    kind = types.ResponsesAPIStreamEvents
    started = response.model_copy(update={"status": "in_progress", "output": [], "usage": None})
    events = [types.ResponseCreatedEvent(type=kind.RESPONSE_CREATED, response=started)]
    for place, item in enumerate(response.output):
        plain = item if isinstance(item, dict) else item.model_dump(warnings=False)
        whole = types.BaseLiteLLMOpenAIResponseObject(**plain)
        events.append(types.OutputItemAddedEvent(type=kind.OUTPUT_ITEM_ADDED, output_index=place, item=whole))
        events += _item_events(types, place, plain)
        events.append(types.OutputItemDoneEvent(type=kind.OUTPUT_ITEM_DONE, output_index=place, item=whole))
    if response.status == "incomplete":
        events.append(types.ResponseIncompleteEvent(type=kind.RESPONSE_INCOMPLETE, response=response))
    else:
        events.append(types.ResponseCompletedEvent(type=kind.RESPONSE_COMPLETED, response=response))
    return events


def freeze_stream(chunks: Sequence[Any]) -> dict[str, Any] | None:
    """What is kept of a stream of chat chunks that was read to its end, or None where it must not be kept.

    Pass every chunk that came, the usage chunk too: without one LiteLLM estimates the usage, and the estimate is what
    is kept. None comes for a stream without a finish reason, one of several choices, and whatever
    :func:`~bulkllm.caching.answers.freeze_response` would not keep.
    """
    choices = [choice for chunk in chunks for choice in getattr(chunk, "choices", None) or ()]
    finished = any(getattr(choice, "finish_reason", None) for choice in choices)
    if not finished or any(getattr(choice, "index", 0) for choice in choices):
        return None
    frozen = freeze_response(_litellm.load().stream_chunk_builder(list(chunks)))
    if frozen is None:
        return None
    logprobs = _joined_logprobs([choice.logprobs for choice in choices if getattr(choice, "logprobs", None)])
    if logprobs is not None:
        frozen["choices"][0]["logprobs"] = logprobs
    refusal = "".join(getattr(choice.delta, "refusal", None) or "" for choice in choices)
    if refusal:
        frozen["choices"][0]["message"]["refusal"] = refusal
    return frozen


class StreamPieces:
    """What a stream has brought so far, to be kept in the end. Nothing that is wrong with it is raised: it was paid.

    The chunks are the caller's, who may change them; so what they hold is noted when they come.
    """

    def __init__(self) -> None:
        self._chunks: list[tuple[type[Any], dict[str, Any]]] = []
        self._whole: dict[str, Any] | None = None
        self._broken = False

    def add(self, chunk: Any) -> None:
        """One more chunk of a chat, or event of a Responses answer, whose last brings it all."""
        if self._broken:
            return
        try:
            if hasattr(chunk, "choices"):
                self._chunks.append((type(chunk), chunk.model_dump(warnings=False)))
            else:
                self._whole = freeze_response(getattr(chunk, "response", None))
        except (TypeError, ValueError, AttributeError) as error:
            self._give_up(error)

    def freeze(self) -> tuple[str, dict[str, Any]] | None:
        """The kind and what is kept of it, or None where it must not be kept."""
        if self._whole is not None:
            return RESPONSES, self._whole
        frozen: dict[str, Any] | None = None
        try:
            if self._chunks and not self._broken:
                frozen = freeze_stream([made(**plain) for made, plain in self._chunks])
        except Exception as error:  # noqa: BLE001 - LiteLLM makes a bare exception of all that it cannot put together
            self._give_up(error)
        return None if frozen is None else (CHAT, frozen)

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        _log.debug("not cached: the pieces of this stream cannot be put together (%s)", type(error).__name__)


def _steps(place: int, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    index = choice.get("index", place)
    message = choice["message"]
    opening = None if message.get("content") is None else ""
    yield {"index": index, "delta": {"role": message.get("role") or "assistant", "content": opening}}
    for names in _PIECES:
        delta = {name: message[name] for name in names if message.get(name)}
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{**call, "index": number} for number, call in enumerate(delta["tool_calls"])]
        if not delta:
            continue
        step = {"index": index, "delta": delta}
        if "content" in delta and choice.get("logprobs"):
            step["logprobs"] = choice["logprobs"]
        yield step
    yield {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}


def _chunk(whole: dict[str, Any], choice: dict[str, Any], **more: Any) -> Any:
    names = ("id", "created", "model", "system_fingerprint")
    head = {name: whole[name] for name in names if whole.get(name) is not None}
    return _litellm.load().ModelResponseStream(choices=[choice], **head, **more)


def _item_events(types: Any, place: int, item: dict[str, Any]) -> Iterator[Any]:
    kind = types.ResponsesAPIStreamEvents
    where = {"item_id": str(item.get("id") or ""), "output_index": place}
    if item.get("type") == "function_call":
        given = str(item.get("arguments") or "")
        yield types.FunctionCallArgumentsDeltaEvent(type=kind.FUNCTION_CALL_ARGUMENTS_DELTA, delta=given, **where)
        yield types.FunctionCallArgumentsDoneEvent(type=kind.FUNCTION_CALL_ARGUMENTS_DONE, arguments=given, **where)
    if item.get("type") != "message":
        return
    for number, part in enumerate(item.get("content") or ()):
        at = {**where, "content_index": number}
        added = types.BaseLiteLLMOpenAIResponseObject(**part)
        yield types.ContentPartAddedEvent(type=kind.CONTENT_PART_ADDED, part=added, **at)
        if part.get("type") == "output_text":
            text = str(part.get("text") or "")
            yield types.OutputTextDeltaEvent(type=kind.OUTPUT_TEXT_DELTA, delta=text, **at)
            yield types.OutputTextDoneEvent(type=kind.OUTPUT_TEXT_DONE, text=text, **at)
        elif part.get("type") == "refusal":
            refusal = str(part.get("refusal") or "")
            yield types.RefusalDeltaEvent(type=kind.REFUSAL_DELTA, delta=refusal, **at)
            yield types.RefusalDoneEvent(type=kind.REFUSAL_DONE, refusal=refusal, **at)


def _joined_logprobs(pieces: Sequence[Any]) -> dict[str, Any] | None:
    """One piece for the whole answer from those of its chunks: the lists of tokens one after the other."""
    joined: dict[str, Any] = {}
    for piece in pieces:
        for name, tokens in (piece if isinstance(piece, dict) else piece.model_dump(warnings=False)).items():
            if isinstance(tokens, list):
                joined[name] = [*(joined.get(name) or ()), *tokens]
            else:
                joined.setdefault(name, tokens)
    return joined or None
