"""Anthropic's messages, plain and streamed, with prompt caching. What may live here: this one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from ..schema import fitting
from ..text import (
    TOKENS_PER_CHAT,
    TOKENS_PER_MESSAGE,
    Writer,
    canonical,
    capped,
    count_content,
    count_text,
    digest,
    pieces,
)
from .base import Ask, Event, Prefix, Reply, RequestError, count_field, sse, text_field, to_json


class Messages:
    """``/v1/messages``.

    Blocks marked with ``cache_control`` make a prompt cache as Anthropic's does: the first request writes the
    prefix up to its last mark, a later one that begins alike reads as much of it as it shares. Unlike Anthropic's it
    has no least size and no expiry. A request that insists on a tool (``tool_choice``) gets a call of that tool with
    arguments that fit; other tools are left alone.
    """

    def read(self, body: dict[str, Any]) -> Ask:
        """Read a request."""
        model = text_field(body, "model")
        if body.get("max_tokens") is None:
            raise RequestError("max_tokens: Field required", param="max_tokens")
        messages, system, tools = body.get("messages"), body.get("system"), body.get("tools")
        if not isinstance(messages, list) or not messages:
            raise RequestError("messages: at least one message is required", param="messages")
        for index, message in enumerate(messages):
            if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
                raise RequestError(f"messages.{index}.role: Input should be 'user' or 'assistant'", param="messages")
        prefixes, tokens = _prefixes(model, tools, system, messages)
        return Ask(
            model=model,
            body=body,
            digest=digest("messages", model, system, messages),
            input_tokens=tokens,
            prompt=[system, messages],
            max_tokens=count_field(body, "max_tokens"),
            stream=body.get("stream") is True,
            prefixes=prefixes,
        )

    def reply(self, ask: Ask, writer: Writer, serial: int, created: int, *, empty: bool = False) -> Reply:  # noqa: ARG002 - the shape of an Endpoint
        """Answer it."""
        tool = _wanted_tool(ask.body)
        if tool is not None:
            text, cut = json.dumps(fitting(tool.get("input_schema"), writer.number(ask.digest))), False
            block = {
                "type": "tool_use",
                "id": f"toolu_{serial:08x}",
                "name": tool.get("name"),
                "input": json.loads(text),
            }
        else:
            text, cut = _draft(ask, writer)
            block = {"type": "text", "text": text}
        output = 0 if empty else count_text(text)
        reason = "max_tokens" if cut else "tool_use" if tool is not None else "end_turn"
        usage = {
            "input_tokens": ask.input_tokens - ask.cache_read - ask.cache_write,
            "cache_creation_input_tokens": ask.cache_write,
            "cache_read_input_tokens": ask.cache_read,
            "cache_creation": {"ephemeral_5m_input_tokens": ask.cache_write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output,
            "service_tier": "standard",
        }
        message = {
            "id": f"msg_{serial:08x}",
            "type": "message",
            "role": "assistant",
            "model": ask.model,
            "content": [] if empty else [block],
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }
        if ask.stream:
            return Reply(output, events=tuple(_events(message, None if empty else block, text)))
        return Reply(output, to_json(message).encode())


def _draft(ask: Ask, writer: Writer) -> tuple[str, bool]:
    config = ask.body.get("output_config")
    form = ask.body.get("output_format") or (config.get("format") if isinstance(config, dict) else None)
    if isinstance(form, dict) and form.get("type") == "json_schema":
        return capped(json.dumps(fitting(form.get("schema"), writer.number(ask.digest))), ask.max_tokens)
    return capped(writer.text(ask.body, ask.digest), ask.max_tokens)


def _wanted_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not isinstance(choice, dict) or not isinstance(tools, list):
        return None
    tools = [tool for tool in tools if isinstance(tool, dict)]
    if choice.get("type") == "any":
        return tools[0] if tools else None
    return next(
        (tool for tool in tools if choice.get("type") == "tool" and tool.get("name") == choice.get("name")), None
    )


def _events(message: dict[str, Any], block: dict[str, Any] | None, text: str) -> Iterator[Event]:
    def event(kind: str, tokens: int = 0, **fields: Any) -> Event:
        return Event(sse(to_json({"type": kind, **fields}), kind), tokens)

    usage = message["usage"]
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    yield event("message_start", message=begun)
    if block is not None:
        is_text = block["type"] == "text"
        opened = {**block, "text": ""} if is_text else {**block, "input": {}}
        yield event("content_block_start", index=0, content_block=opened)
        yield event("ping")
        for piece in pieces(text):
            delta = (
                {"type": "text_delta", "text": piece}
                if is_text
                else {"type": "input_json_delta", "partial_json": piece}
            )
            yield event("content_block_delta", 1, index=0, delta=delta)
        yield event("content_block_stop", index=0)
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=ending, usage={"output_tokens": usage["output_tokens"]})
    yield event("message_stop")


def _prefixes(model: str, tools: Any, system: Any, messages: list[Any]) -> tuple[tuple[Prefix, ...], int]:
    """The prompt's beginnings up to its last mark, and the tokens of the whole.

    The order is Anthropic's: tools, then the system prompt, then messages, block by block.
    """
    blocks: list[tuple[str, Any, int]] = []
    if isinstance(tools, list):
        blocks += [("tool", tool, 0) for tool in tools]
    if system:
        blocks += [("system", block, 0) for block in (system if isinstance(system, list) else [system])]
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) and content else [content]
        blocks += [(message["role"], part, 0 if i else TOKENS_PER_MESSAGE) for i, part in enumerate(parts)]
    last = 0
    hashed = blake2b(canonical(model).encode(), digest_size=16)
    tokens = TOKENS_PER_CHAT
    prefixes: list[Prefix] = []
    caching = "cache_control" in canonical([tools, system, messages])
    for place, (role, block, extra) in enumerate(blocks, start=1):
        tokens += extra + count_content(block)
        if caching:
            plain = block
            marked = isinstance(block, dict) and block.get("cache_control") is not None
            if marked:
                plain = {key: value for key, value in block.items() if key != "cache_control"}
                last = place
            hashed.update(canonical([role, plain]).encode())
            prefixes.append(Prefix(hashed.digest(), tokens, marked))
    return tuple(prefixes[:last]), tokens
