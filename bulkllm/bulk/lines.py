"""One line of a results file: written, recognised, read.

What may live here: the format, and nothing that opens a file.

A line is the Batch API's output shape with one more object, ``bulkllm``, at its end::

    {"id":"bulkllm-<key>","custom_id":...,"response":{"status_code":200,"request_id":...,"body":{...}},"error":null,
     "bulkllm":{"columns":{...}, <the usage record's fields>,
                "cost":...,"outcome":"ok","done":true,"key":"...","fingerprint":"...","columns_crc":0,"index":0}}

The last seven fields always stand in this order at the very end. That makes a line that we wrote recognisable, and
what a rerun needs of it readable, without parsing the answer: a million lines are scanned in seconds. A line that
another tool has written anew is parsed instead.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import zlib
from binascii import unhexlify
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .keytable import KEY_BYTES, State

START: Final = b'{"id":"bulkllm-'
BAD_ROW: Final = "RequestFileError"
"""The outcome of a row that could not be read."""

_TAIL = re.compile(
    rb'"cost":(null|[-+0-9.eE]+),"outcome":"([^"\\]*)","done":(true|false),"key":"([0-9a-f]{32})",'
    rb'"fingerprint":"([0-9a-f]{32})","columns_crc":(\d+),"index":(\d+)\}\}\n'
)
_TAIL_START = b'"cost":'
_INDEX_START = b'"index":'

# Legal within JSON strings, but some readers take them for the end of a line.
_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def native(value: Any) -> Any:
    """A number or an array of numpy's as Python's own; all else as it is, and numpy's dates, whose text says more."""
    if type(value).__module__.partition(".")[0] != "numpy" or not hasattr(value, "tolist"):
        return value
    return value if value.dtype.kind in "mM" else value.tolist()


def as_json(value: object) -> object:
    """JSON's stand-in for what JSON does not know."""
    plain = native(value)
    return str(value) if plain is value else plain


_fast = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=as_json).encode
_safe = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=as_json).encode


class Head(NamedTuple):
    """What a rerun needs to know of a line."""

    key: bytes
    fingerprint: bytes
    state: State
    position: int
    columns_crc: int
    outcome: str
    cost: float | None


def encode(value: object, lost: list[str] | None = None) -> bytes:
    """Compact JSON in UTF-8; what JSON or UTF-8 cannot hold is written as near to it as they allow. Never raises.

    Args:
        value: anything.
        lost: is given the types of what could not be written at all: their names stand in its place.
    """
    if value is None:
        return b"null"
    try:
        return _fast(value).encode()
    except UnicodeEncodeError:
        with contextlib.suppress(Exception):
            return _safe(value).encode()
    except Exception:  # noqa: BLE001, S110 - the value is the user's, and so is what its text raises
        pass
    return _safe(_tame(value, 0, [] if lost is None else lost)).encode()


def encode_columns(columns: Mapping[str, Any], lost: list[str] | None = None) -> tuple[bytes, int]:
    """A row's columns as JSON, and a checksum that tells whether they have changed; empty and 0 for none."""
    if not columns:
        return b"", 0
    text = encode(columns, lost)
    return text, zlib.crc32(text)


def result_line(
    *,
    custom_id: str | None,
    head: Head,
    columns: bytes,
    record: Mapping[str, Any],
    body: bytes | None = None,
    request_id: str | None = None,
    error: Mapping[str, Any] | None = None,
) -> bytes:
    """A whole line.

    Args:
        custom_id: the row's own name.
        head: who the row is and how it ended.
        columns: what the row carries along, as `encode_columns` gave it.
        record: the usage record's fields.
        body: the answer as JSON, or None for a row that failed.
        request_id: the provider's name for the request.
        error: what went wrong.
    """
    answer = b"null"
    if body is not None:
        answer = b'{"status_code":200,"request_id":%b,"body":%b}' % (encode(request_id), body)
    about = {name: value for name, value in record.items() if name not in ("cost", "outcome")}
    line = b'{"id":"bulkllm-%b","custom_id":%b,"response":%b,"error":%b,"bulkllm":{%b%b%b' % (
        head.key.hex().encode(),
        encode(custom_id),
        answer,
        encode(error),
        b'"columns":%b,' % columns if columns else b"",
        encode(about)[1:-1] + b"," if about else b"",
        _tail(head),
    )
    if not line.isascii():
        for raw, escaped in _LINE_ENDS:
            line = line.replace(raw, escaped)
    return line


def _tail(head: Head) -> bytes:
    return b'"cost":%b,"outcome":%b,"done":%b,"key":"%b","fingerprint":"%b","columns_crc":%d,"index":%d}}\n' % (
        b"null" if head.cost is None or not math.isfinite(head.cost) else repr(head.cost).encode(),
        encode(head.outcome),
        b"false" if head.state is State.FAILED else b"true",
        head.key.hex().encode(),
        head.fingerprint.hex().encode(),
        head.columns_crc,
        head.position,
    )


def head_of(line: bytes) -> Head | None:
    """What a rerun needs of a line, or None if the line is not one of ours or is damaged.

    A line that ends as ours do was written whole; that it holds no NUL tells that the file system kept it whole.
    """
    match = _TAIL.fullmatch(line, line.rfind(_TAIL_START)) if line.endswith(b"}}\n") else None
    if match is None:
        return _parsed_head(line)
    if b"\0" in line or not line.startswith(b"{"):
        return None
    cost, outcome, done, key, print_, crc, index = match.groups()
    name = "ok" if outcome == b"ok" else outcome.decode()
    state = _state(name, done=done == b"true")
    price = None if cost == b"null" else float(cost)
    return Head(unhexlify(key), unhexlify(print_), state, int(index), int(crc), name, price)


def with_index(line: bytes, index: int) -> bytes:
    """The line of a row that has moved to another position in the input."""
    start = line.rfind(_INDEX_START)
    if line.endswith(b"}}\n") and _TAIL.fullmatch(line, line.rfind(_TAIL_START)):
        return b"%b%b%d}}\n" % (line[:start], _INDEX_START, index)
    row = json.loads(line)
    row["bulkllm"]["index"] = index
    return encode(row) + b"\n"


def with_columns(line: bytes, columns: Mapping[str, Any], index: int) -> bytes:
    """The line of a row whose columns have changed."""
    head = head_of(line)
    if head is None:
        raise ValueError("not a line of a results file")
    row = json.loads(line)
    about = row["bulkllm"]
    about.pop("columns", None)
    response = row.get("response")
    text, crc = encode_columns(columns)
    return result_line(
        custom_id=row["custom_id"],
        head=Head(head.key, head.fingerprint, head.state, index, crc, head.outcome, head.cost),
        columns=text,
        record={name: value for name, value in about.items() if name not in _TAIL_FIELDS},
        body=None if response is None else encode(response.get("body")),
        request_id=None if response is None else response.get("request_id"),
        error=row.get("error"),
    )


def is_json(line: bytes) -> bool:
    """Whether a line is whole JSON of whatever kind."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


_TAIL_FIELDS = frozenset({"cost", "outcome", "done", "key", "fingerprint", "columns_crc", "index"})


def _parsed_head(line: bytes) -> Head | None:
    try:
        row = json.loads(line)
        about = row["bulkllm"]
        key, print_ = bytes.fromhex(about["key"]), bytes.fromhex(about["fingerprint"])
        outcome, cost = str(about["outcome"]), about["cost"]
        if len(key) != KEY_BYTES or len(print_) != KEY_BYTES or row["custom_id"] == "":
            return None
        return Head(
            key,
            print_,
            _state(outcome, done=about["done"] is True),
            int(about["index"]),
            int(about["columns_crc"]),
            outcome,
            None if cost is None else float(cost),
        )
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError):
        return None


def _state(outcome: str, *, done: bool) -> State:
    if not done:
        return State.FAILED
    return State.OK if outcome == "ok" else State.REFUSED


_DEEPEST = 60


def _tame(value: Any, depth: int, lost: list[str]) -> object:
    """The value with what JSON has no room for put as text (keys, deep nesting, odd things) or null (NaN, infinity)."""
    if depth > _DEEPEST:
        return "..."
    try:
        value = native(value)
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, Mapping):
            return {_text(name, lost): _tame(item, depth + 1, lost) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [_tame(item, depth + 1, lost) for item in value]
        if isinstance(value, float):
            return value if value - value == 0 else None
        if isinstance(value, int):
            int.__repr__(value)  # raises if it has more digits than Python writes
            return value
    except Exception:  # noqa: BLE001 - as above
        return _name(value, lost)
    return _text(value, lost)


def _text(value: object, lost: list[str]) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - as above
        return _name(value, lost)


def _name(value: object, lost: list[str]) -> str:
    name = type(value).__name__
    lost.append(name)
    return f"<{name}>"
