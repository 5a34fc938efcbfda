"""Cohere's ``/v2/chat``, plain. What may live here: this one shape."""

from __future__ import annotations

from typing import Any

from ..text import Writer, capped, count_messages, count_text, digest
from .base import Ask, Reply, RequestError, count_field, text_field, to_json


class CohereChat:
    """``/v2/chat``: one message of text. Streams are refused: their events are not played here."""

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request."""
        model, messages = text_field(body, "model"), body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RequestError("invalid request: messages must be a list of at least one message", param="messages")
        if body.get("stream") is True:
            raise RequestError("FakeProvider does not stream /v2/chat", param="stream")
        return Ask(
            model=model,
            body=body,
            digest=digest("cohere", model, messages),
            input_tokens=count_messages(messages),
            prompt=messages,
            max_tokens=count_field(body, "max_tokens"),
        )

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:  # noqa: ARG002 - the shape of an Endpoint
        """Answer it."""
        text, cut = ("", False) if empty else capped(writer.text(ask.body, ask.digest), ask.max_tokens)
        output = count_text(text) if text else 0
        tokens = {"input_tokens": ask.input_tokens, "output_tokens": output}
        told = {
            "id": f"chat-{serial:08x}",
            "finish_reason": "MAX_TOKENS" if cut else "COMPLETE",
            "message": {"role": "assistant", "content": [] if empty else [{"type": "text", "text": text}]},
            "usage": {"billed_units": tokens, "tokens": tokens},
        }
        return Reply(output, to_json(told).encode())
