"""OpenAI's responses, plain and streamed. What may live here: this one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..schema import fitting
from ..text import Writer, capped, count_content, count_messages, count_text, digest, pieces
from .base import Ask, Event, Reply, RequestError, count_field, sse, text_field, to_json


class Responses:
    """``/v1/responses``: one message of text in reply to ``input`` and ``instructions``."""

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request."""
        model = text_field(body, "model")
        given, instructions = body.get("input"), body.get("instructions")
        if not given or not isinstance(given, str | list):
            raise RequestError("'input' must be a text or a list of items", param="input")
        messages = [given] if isinstance(given, str) else given
        return Ask(
            model=model,
            body=body,
            digest=digest("responses", model, given, instructions),
            input_tokens=count_messages(messages) + count_content(instructions),
            prompt=[instructions, given],
            max_tokens=count_field(body, "max_output_tokens"),
            stream=body.get("stream") is True,
        )

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:
        """Answer it."""
        text, cut = _draft(ask, writer)
        output = 0 if empty else count_text(text)
        base = {
            "id": f"resp_{serial:08x}",
            "object": "response",
            "created_at": created,
            "model": ask.model,
            "error": None,
            "instructions": ask.body.get("instructions"),
            "max_output_tokens": ask.max_tokens,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": ask.body.get("temperature", 1.0),
            "tool_choice": "auto",
            "tools": [],
            "top_p": ask.body.get("top_p", 1.0),
        }
        item = {
            "id": f"msg_{serial:08x}",
            "type": "message",
            "role": "assistant",
            "status": "incomplete" if cut else "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }
        done = {
            **base,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [] if empty else [item],
            "usage": {
                "input_tokens": ask.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": ask.input_tokens + output,
            },
        }
        if not ask.stream:
            return Reply(output, to_json(done).encode())
        begun = {**base, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        return Reply(output, events=tuple(_events(begun, None if empty else item, text, done)))


def _draft(ask: Ask, writer: Writer) -> tuple[str, bool]:
    shape = ask.body.get("text")
    form = shape.get("format") if isinstance(shape, dict) else None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema" and isinstance(form, dict):
        return capped(json.dumps(fitting(form.get("schema"), writer.number(ask.digest))), ask.max_tokens)
    text = writer.text(ask.body, ask.digest)
    return capped(json.dumps({"answer": text}) if kind == "json_object" else text, ask.max_tokens)


def _events(begun: dict[str, Any], item: dict[str, Any] | None, text: str, done: dict[str, Any]) -> Iterator[Event]:
    number = 0

    def event(kind: str, tokens: int = 0, **fields: Any) -> Event:
        nonlocal number
        data = {"type": kind, "sequence_number": number, **fields}
        number += 1
        return Event(sse(to_json(data), kind), tokens)

    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    if item is not None:
        part = item["content"][0]
        place: dict[str, Any] = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        opened = {**item, "status": "in_progress", "content": []}
        yield event("response.output_item.added", output_index=0, item=opened)
        yield event("response.content_part.added", **place, part={**part, "text": ""})
        for piece in pieces(text):
            yield event("response.output_text.delta", 1, **place, delta=piece, logprobs=[])
        yield event("response.output_text.done", **place, text=text, logprobs=[])
        yield event("response.content_part.done", **place, part=part)
        yield event("response.output_item.done", output_index=0, item=item)
    yield event(f"response.{done['status']}", response=done)
