"""The parts of a row: what each must be, and what is said if it is not.

What may live here: questions about one part, which are pure. What a row is made of, `request` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestFileError
from .options import CACHE_SAMPLE

# Asking for the concrete type first: the abstract one's check costs as much as the rest of a small row.
OBJECT = (dict, Mapping)


def with_system(messages: list[Any], own: object, default: str | None) -> list[Any]:
    """Messages with a system message before them: the row's own, the one that they begin with, or the default."""
    first = messages[0]
    role = first.get("role") if isinstance(first, OBJECT) else getattr(first, "role", None)
    has_one = role in ("system", "developer")
    if own is not None:
        if not isinstance(own, str):
            raise RequestFileError(f'"system" must be text, not {type(own).__name__}')
        if has_one:
            raise RequestFileError('the row has a "system" and its "messages" begin with one too; keep one of them')
    system = own if own is not None else None if has_one else default
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def wrong_sample(options: Mapping[str, Any]) -> str | None:
    """What is wrong with the cache's sample, if anything is."""
    sample = options.get(CACHE_SAMPLE)
    if sample is None:
        return None
    if "sample" in options:
        return f'"sample" and "{CACHE_SAMPLE}" mean the same thing; keep "{CACHE_SAMPLE}"'
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        return f'"{CACHE_SAMPLE}" must be a whole number, 0 or more: which of several answers it is to be'
    return None


def custom_id_of(raw: Mapping[Any, Any]) -> str | None:
    """A row's own name."""
    custom_id = raw.get("custom_id")
    if isinstance(custom_id, int) and not isinstance(custom_id, bool):
        custom_id = str(custom_id)
    if custom_id is None or (isinstance(custom_id, str) and custom_id):
        return custom_id
    raise RequestFileError(f'"custom_id" must be text that is not empty, not {custom_id!r:.80}')


def checked_messages(messages: object) -> list[Any]:
    """A conversation, if it is one."""
    if not isinstance(messages, (list, Sequence)) or isinstance(messages, (str, bytes)) or not messages:
        raise RequestFileError('"messages" must be a list of at least one {"role": ..., "content": ...}')
    for message in messages:
        role = message.get("role") if isinstance(message, OBJECT) else getattr(message, "role", None)
        if not isinstance(role, str):
            raise RequestFileError('each of the "messages" must be an object with a "role" such as "user"')
    return list(messages)
