"""OpenAI's chat completions and the older text completions, plain and streamed.

What may live here: these two shapes, which differ little. Their JSON is put together as text where a benchmark would
notice, for these are what it asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..schema import fitting
from ..text import Writer, capped, count_messages, count_text, digest, digest_of_chat, pieces
from .base import Ask, Event, Reply, RequestError, count_field, sse, text_field, to_json

_MOST_CHOICES = 128
_LOGPROB = -0.1


class ChatCompletions:
    """``/v1/chat/completions``."""

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request."""
        model = text_field(body, "model")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RequestError("'messages' must be a list of at least one message", param="messages")
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise RequestError("each of 'messages' must be an object with a 'role'", param="messages")
        return Ask(
            model=model,
            body=body,
            digest=digest_of_chat("chat", model, messages),
            input_tokens=count_messages(messages),
            prompt=messages,
            max_tokens=count_field(body, "max_completion_tokens", "max_tokens"),
            choices=count_field(body, "n", most=_MOST_CHOICES) or 1,
            stream=body.get("stream") is True,
        )

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:
        """Answer it."""
        drafts = [] if empty else [_draft(ask, writer, index) for index in range(ask.choices)]
        head = {"id": f"chatcmpl-{serial:08x}", "created": created, "model": ask.model, "service_tier": "default"}
        logprobs = ask.body.get("logprobs") is True
        top = ask.body.get("top_logprobs") or 0
        if ask.stream:
            return _streamed(ask, head | {"object": "chat.completion.chunk"}, drafts, _ChatChoices(logprobs, top))
        choices = [
            f'{{"index":{index},"message":{{"role":"assistant","content":{to_json(text)},"refusal":null}},"logprobs":'
            + (to_json({"content": _logprobs(pieces(text), top), "refusal": None}) if logprobs else "null")
            + f',"finish_reason":"{_reason(cut)}"}}'
            for index, (text, cut) in enumerate(drafts)
        ]
        return _whole(ask, head | {"object": "chat.completion"}, choices, drafts)


class TextCompletions:
    """``/v1/completions``."""

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request."""
        model = text_field(body, "model")
        prompts = _prompts(body.get("prompt"))
        tokens = sum(count_text(prompt) if isinstance(prompt, str) else len(prompt) for prompt in prompts)
        return Ask(
            model=model,
            body=body,
            digest=digest("text", model, prompts),
            input_tokens=max(1, tokens),
            prompt=prompts,
            max_tokens=count_field(body, "max_tokens") or 16,  # the API's own default
            choices=len(prompts) * (count_field(body, "n", most=_MOST_CHOICES) or 1),
            stream=body.get("stream") is True,
        )

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:
        """Answer it."""
        drafts = [] if empty else [_draft(ask, writer, index) for index in range(ask.choices)]
        head = {"id": f"cmpl-{serial:08x}", "object": "text_completion", "created": created, "model": ask.model}
        if ask.stream:
            return _streamed(ask, head, drafts, _TextChoices())
        choices = [
            f'{{"index":{index},"text":{to_json(text)},"logprobs":null,"finish_reason":"{_reason(cut)}"}}'
            for index, (text, cut) in enumerate(drafts)
        ]
        return _whole(ask, head, choices, drafts)


class _ChatChoices:
    """How a chunk of a chat says what it says."""

    def __init__(self, logprobs: bool, top: int) -> None:
        self._logprobs, self._top = logprobs, top

    def opening(self, index: int) -> str | None:
        return _choice(index, '{"role":"assistant","content":"","refusal":null}')

    def token(self, index: int, piece: str) -> str:
        logprobs = to_json({"content": _logprobs([piece], self._top)}) if self._logprobs else "null"
        return _choice(index, f'{{"content":{to_json(piece)}}}', logprobs=logprobs)

    def closing(self, index: int, reason: str) -> str:
        return _choice(index, "{}", reason=f'"{reason}"')


class _TextChoices:
    """How a chunk of a text completion says it."""

    def opening(self, index: int) -> str | None:  # noqa: ARG002 - the shape of _ChatChoices
        return None

    def token(self, index: int, piece: str) -> str:
        return f'{{"index":{index},"text":{to_json(piece)},"logprobs":null,"finish_reason":null}}'

    def closing(self, index: int, reason: str) -> str:
        return f'{{"index":{index},"text":"","logprobs":null,"finish_reason":"{reason}"}}'


def _reason(cut: bool) -> str:
    return "length" if cut else "stop"


def _choice(index: int, delta: str, *, logprobs: str = "null", reason: str = "null") -> str:
    return f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}'


def _draft(ask: Ask, writer: Writer, index: int) -> tuple[str, bool]:
    shape = ask.body.get("response_format")
    kind = shape.get("type") if isinstance(shape, dict) else None
    if kind == "json_schema" and isinstance(shape, dict):
        wanted = shape.get("json_schema")
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
        return capped(json.dumps(fitting(schema, writer.number(ask.digest, index))), ask.max_tokens)
    text = writer.text(ask.body, ask.digest, index)
    return capped(json.dumps({"answer": text}) if kind == "json_object" else text, ask.max_tokens)


def _usage(ask: Ask, output: int) -> str:
    return (
        f'{{"prompt_tokens":{ask.input_tokens},"completion_tokens":{output},"total_tokens":{ask.input_tokens + output},'
        '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
        '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}}'
    )


def _opening(head: dict[str, Any]) -> str:
    return "{" + ",".join([f'"{name}":{to_json(value)}' for name, value in head.items()]) + ',"choices":['


def _whole(ask: Ask, head: dict[str, Any], choices: list[str], drafts: list[tuple[str, bool]]) -> Reply:
    output = sum([count_text(text) for text, _ in drafts])
    return Reply(output, f'{_opening(head)}{",".join(choices)}],"usage":{_usage(ask, output)}}}'.encode())


def _streamed(
    ask: Ask, head: dict[str, Any], drafts: list[tuple[str, bool]], choices: _ChatChoices | _TextChoices
) -> Reply:
    options = ask.body.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    opening = _opening(head)
    ending = '],"usage":null}' if with_usage else "]}"
    output = sum(count_text(text) for text, _ in drafts)

    def events() -> Iterator[Event]:
        for index, (text, cut) in enumerate(drafts):
            if (first := choices.opening(index)) is not None:
                yield Event(sse(opening + first + ending), 0)
            for piece in pieces(text):
                yield Event(sse(opening + choices.token(index, piece) + ending), 1)
            yield Event(sse(opening + choices.closing(index, _reason(cut)) + ending), 0)
        if not drafts:
            yield Event(sse(opening + ending), 0)
        if with_usage:
            yield Event(sse(f'{opening}],"usage":{_usage(ask, output)}}}'), 0)
        yield Event(sse("[DONE]"), 0)

    return Reply(output, events=tuple(events()))


def _logprobs(tokens: list[str], top: int) -> list[dict[str, Any]]:
    told = []
    for token in tokens:
        entry = {"token": token, "logprob": _LOGPROB, "bytes": list(token.encode(errors="replace"))}
        others = [{**entry, "token": token * (rank + 1), "logprob": _LOGPROB * (rank + 1)} for rank in range(top)]
        told.append({**entry, "top_logprobs": others})
    return told


def _prompts(prompt: Any) -> list[str] | list[list[int]]:
    """A text, tokens, or a list of either, as a list."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, int) for item in prompt):
            return [prompt]
        if all(isinstance(item, str) for item in prompt) or all(isinstance(item, list) for item in prompt):
            return prompt
    raise RequestError("'prompt' must be a text, a list of texts, or tokens", param="prompt")
