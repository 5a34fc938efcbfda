"""Prompts and answers in the shape that the GenAI semantic conventions give them: a role, and parts.

What may live here: that shape, without OpenTelemetry. It is made only where a user has asked for prompts and answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MESSAGE_ROLES: Final = ("system", "developer", "user", "assistant", "tool")


def input_messages(asked: Any) -> list[dict[str, Any]]:
    """What was asked, in the conventions' shape: a role and parts."""
    given = asked if isinstance(asked, list) else [asked]
    return [_message(one) for one in given]


def _message(one: Any) -> dict[str, Any]:
    if isinstance(one, str):
        return {"role": "user", "parts": [_part(one)]}
    told = one if isinstance(one, Mapping) else getattr(one, "__dict__", {})
    role = told.get("role")
    content = told.get("content", told.get("text"))
    if role == "tool":
        return {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": told.get("tool_call_id"), "result": content}],
        }
    parts = [_part(part) for part in (content if isinstance(content, list) else [content]) if part is not None]
    parts += [_tool_call(call) for call in told.get("tool_calls") or ()]
    return {"role": role if role in _MESSAGE_ROLES else "user", "parts": parts}


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "content": part}
    if isinstance(part, Mapping):
        if "text" in part:
            return {"type": "text", "content": part["text"]}
        return {"type": str(part.get("type", "unknown"))}  # pictures and sound are too large for an attribute
    return {"type": "text", "content": str(part)}


def _tool_call(call: Any) -> dict[str, Any]:
    told = call if isinstance(call, Mapping) else getattr(call, "__dict__", {})
    function = told.get("function")
    function = function if isinstance(function, Mapping) else getattr(function, "__dict__", {})
    return {
        "type": "tool_call",
        "id": told.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }


def output_messages(response: Any, streamed: str) -> list[dict[str, Any]]:
    if streamed:
        return [{"role": "assistant", "parts": [_part(streamed)], "finish_reason": "stop"}]
    found = []
    for choice in getattr(response, "choices", None) or ():
        message = _message(getattr(choice, "message", None))
        found.append({**message, "role": "assistant", "finish_reason": getattr(choice, "finish_reason", None)})
    for item in getattr(response, "output", None) or ():
        if getattr(item, "type", None) == "message":
            parts = [_part(getattr(part, "text", "")) for part in getattr(item, "content", None) or ()]
            found.append({"role": "assistant", "parts": parts, "finish_reason": "stop"})
    return found
