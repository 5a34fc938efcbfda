"""Gemini's ``generateContent``, plain and streamed. What may live here: this one shape."""

from __future__ import annotations

import json
from typing import Any

from ..schema import fitting
from ..text import Writer, capped, count_content, count_text, digest, pieces
from .base import Ask, Event, Reply, RequestError, count_field, sse, text_field, to_json


class GenerateContent:
    """``models/<model>:generateContent``: one candidate in reply to ``contents`` and ``systemInstruction``.

    The model stands in the path, and whether to stream too: the route puts both into the body.
    """

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request."""
        model = text_field(body, "model")
        contents, system = body.get("contents"), body.get("systemInstruction") or body.get("system_instruction")
        if not isinstance(contents, list) or not contents or not all(isinstance(part, dict) for part in contents):
            raise RequestError("contents is not specified", param="contents")
        config = body.get("generationConfig")
        said = [part.get("parts") for part in contents]
        return Ask(
            model=model,
            body=body,
            digest=digest("google", model, system, contents),
            input_tokens=max(1, sum(map(count_content, said)) + count_content(system)),
            prompt=[system, said],
            max_tokens=count_field(config if isinstance(config, dict) else {}, "maxOutputTokens", "max_output_tokens"),
            stream=body.get("stream") is True,
        )

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:  # noqa: ARG002 - the shape of an Endpoint
        """Answer it."""
        text, cut = ("", False) if empty else _draft(ask, writer)
        output = count_text(text) if text else 0
        usage = {
            "promptTokenCount": ask.input_tokens,
            "candidatesTokenCount": output,
            "totalTokenCount": ask.input_tokens + output,
        }
        head = {"usageMetadata": usage, "modelVersion": ask.model, "responseId": f"resp-{serial:08x}"}
        reason = "MAX_TOKENS" if cut else "STOP"
        if not ask.stream:
            return Reply(output, to_json({"candidates": [] if empty else [_candidate(text, reason)], **head}).encode())
        parts = pieces(text)
        last = len(parts) - 1
        told = (
            {"candidates": [_candidate(part, reason if i == last else None)], **head} for i, part in enumerate(parts)
        )
        events = [Event(sse(to_json(event)), 1) for event in told] or [
            Event(sse(to_json({"candidates": [], **head})), 0)
        ]
        return Reply(output, events=tuple(events))


def _candidate(text: str, reason: str | None) -> dict[str, Any]:
    told = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
    return told if reason is None else told | {"finishReason": reason}


def _draft(ask: Ask, writer: Writer) -> tuple[str, bool]:
    config = ask.body.get("generationConfig")
    schema = (config.get("responseSchema") or config.get("responseJsonSchema")) if isinstance(config, dict) else None
    if isinstance(schema, dict):
        return capped(json.dumps(fitting(schema, writer.number(ask.digest))), ask.max_tokens)
    return capped(writer.text(ask.body, ask.digest), ask.max_tokens)
