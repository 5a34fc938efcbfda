"""Who a row is, and whether its request has changed.

What may live here: canonical JSON and the two digests made of it. Pure, standard library only.

A row's **key** says which row it is: its ``custom_id``, or the hash of its own body (without secrets) and its number
among equal bodies. Its **fingerprint** says what was asked: everything that can change the answer, the run's options
and the endpoint included. Same key and other fingerprint: the row was changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from ..errors import ConfigError
from .keytable import KEY_BYTES
from .options import what_counts

_ROLE_AND_CONTENT = 2
_LONG = 128  # characters of JSON beyond which a value stands in the fingerprint as its hash


def _plain(value: object) -> object:
    """JSON's stand-in for what JSON does not know: pydantic models and their classes, and bytes."""
    schema = getattr(value, "model_json_schema", None)
    if isinstance(value, type) and schema is not None:
        return {"class": value.__name__, "schema": schema()}
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump()
    if isinstance(value, bytes | bytearray):
        return {"sha256": sha256(value).hexdigest()}
    raise ConfigError(
        f"a request holds a {type(value).__qualname__}, which has no stable form as JSON, so a resumed run could not"
        " tell whether the request changed; give plain values (text, numbers, lists, dicts) or pydantic models"
    )


_encode = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain
).encode
_quoted = json.encoder.encode_basestring  # what the encoder itself does with a text, after it has seen that it is one


def token(value: object) -> str:
    """A value's part of a fingerprint: its canonical JSON, or the hash of that if it is long.

    Raises:
        ConfigError: the value has no stable JSON form.
        ValueError: it holds NaN, infinity, half a surrogate pair, or itself.
    """
    text = _plain_messages(value) or _encode(value)
    if len(text) <= _LONG and text.isascii():
        return text
    return "#" + sha256(text.encode()).hexdigest()


def _plain_messages(value: object) -> str | None:
    """The canonical JSON of messages that are a role and a text each, as most are: four times as fast put together."""
    if not isinstance(value, list):
        return None
    parts: list[str] = []
    for message in value:
        if type(message) is not dict or len(message) != _ROLE_AND_CONTENT:
            return None
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or type(content) is not str:
            return None
        parts.append(f'{{"content":{_quoted(content)},"role":{_quoted(role)}}}')
    return f"[{','.join(parts)}]"


def tokens(options: Mapping[str, Any]) -> dict[str, str]:
    """The tokens of those options that can change an answer; the endpoint and secrets are not among them."""
    counting = ((name, what_counts(name, value)) for name, value in options.items())
    return {name: token(value) for name, value in counting if value is not None}


def key_of_id(custom_id: str) -> bytes:
    """The key of a row that has a ``custom_id``."""
    return sha256(b"id\0" + custom_id.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def key_of_body(operation: str, body: Mapping[str, str]) -> bytes:
    """The key of the first row with a body (given as tokens) and without a ``custom_id``."""
    return _digest(["body", operation], body)


def key_of_bad(custom_id: str) -> bytes:
    """The key of a row that cannot be understood and has a ``custom_id``: not that of the good row of this name."""
    return sha256(b"bad\0" + custom_id.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def key_of_line(line: bytes) -> bytes:
    """The key of a line that cannot be read as a row."""
    return sha256(b"line\0" + line).digest()[:KEY_BYTES]


def nth_key(first: bytes, occurrence: int) -> bytes:
    """The key of the n-th row (from 0) among rows whose bodies are equal."""
    if occurrence == 0:
        return first
    return sha256(b"nth\0" + first + occurrence.to_bytes(8, "big")).digest()[:KEY_BYTES]


def key_of_variant(first: bytes, variant: str) -> bytes:
    """The key of a row as one of several models is asked for it; ``first`` is the row's own key."""
    return sha256(b"variant\0" + first + variant.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def fingerprint(operation: str, endpoint: str | None, options: Mapping[str, str]) -> bytes:
    """The first 16 bytes of the SHA-256 of all that can change an answer (options given as tokens)."""
    return _digest(["request", operation, endpoint or ""], options)


def _digest(head: list[str], body: Mapping[str, str]) -> bytes:
    for name in sorted(body):
        head += (name, body[name])
    return sha256("\0".join(head).encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]
