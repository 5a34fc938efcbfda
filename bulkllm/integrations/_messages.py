"""Prompts and answers in the shape that the GenAI semantic conventions give them: a role, and parts.

What may live here: that shape, without OpenTelemetry. It is made only where a user has asked for prompts and answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

_MESSAGE_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_CUT_OFF: Final = {"max_output_tokens": "length"}


def input_messages(asked: Any) -> list[dict[str, Any]]:
    """What was asked, in the conventions' shape: a role and parts. What is given may be changed afterwards."""
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
            "parts": [{"type": "tool_call_response", "id": told.get("tool_call_id"), "result": deepcopy(content)}],
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
        "arguments": deepcopy(function.get("arguments")),
    }


def output_messages(response: Any, streamed: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """What was answered, in the conventions' shape.

    Args:
        response: the whole response; None where only the chunks of a stream are known.
        streamed: of each choice of such a stream the text, and why it ended, if that is known.
    """
    if response is None:
        return [_answer([_part(text)], reason) for text, reason in streamed if text]
    found = [
        _answer(_message(getattr(choice, "message", None))["parts"], getattr(choice, "finish_reason", None))
        for choice in getattr(response, "choices", None) or ()
    ]
    for item in getattr(response, "output", None) or ():
        if getattr(item, "type", None) == "message":
            parts = [_part(getattr(part, "text", "")) for part in getattr(item, "content", None) or ()]
            found.append(_answer(parts, _end_of(response)))
    return found


def _answer(parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    told = {} if reason is None else {"finish_reason": reason}
    return {"role": "assistant", "parts": parts, **told}


def finish_reasons(response: Any) -> list[str | None]:
    """Why each choice of a whole response ended; one for a response of the Responses API."""
    choices = getattr(response, "choices", None)
    if choices is None and getattr(response, "output", None) is not None:
        return [_end_of(response)]
    return [getattr(choice, "finish_reason", None) for choice in choices or ()]


def _end_of(response: Any) -> str | None:
    """Why a response of the Responses API ended, by the conventions' names; None while it goes on."""
    status = getattr(response, "status", None)
    if status == "incomplete":
        details = getattr(response, "incomplete_details", None)
        reason = details.get("reason") if isinstance(details, Mapping) else getattr(details, "reason", None)
        return _CUT_OFF.get(reason, reason) if isinstance(reason, str) else "error"
    return {"completed": "stop", "failed": "error", "cancelled": "error"}.get(str(status))
