"""Results as a table: one flat row each, and what its columns hold.

What may live here: which columns there are, and which type fits a column. Nothing is written here and no frame is
made: `export` and `frames` do that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

from .lines import as_json, encode, native
from .result import ResultRow

Kind: TypeAlias = Literal["empty", "bool", "int", "float", "text", "json"]

FIRST: Final = ("custom_id", "index", "variant")
LAST: Final = (
    "text", "parsed", "embedding", "error", "error_message", "status", "model", "response_model", "input_tokens",
    "output_tokens", "cache_read_tokens", "reasoning_tokens", "cost", "latency", "waited", "attempts", "cached",
)  # fmt: skip
"""Columns of ours; those of the input stand between the two groups."""

OPTIONAL: Final = frozenset({"variant", "parsed", "embedding"})
"""Columns of ours that are there only where some row has them."""

_OURS: Final = frozenset((*FIRST, *LAST))
_PREFIX: Final = "column_"
_TYPES: Final[Mapping[str, Kind]] = {
    "custom_id": "text", "index": "int", "variant": "text", "text": "text", "error": "text", "error_message": "text",
    "status": "int", "model": "text", "response_model": "text", "input_tokens": "int", "output_tokens": "int",
    "cache_read_tokens": "int", "reasoning_tokens": "int", "cost": "float", "latency": "float", "waited": "float",
    "attempts": "int", "cached": "bool",
}  # fmt: skip
_INT64: Final = 1 << 63


def flat(row: ResultRow) -> dict[str, Any]:
    """A result as one flat row: what the row carried along, its answer or its error, tokens, cost and times.

    A column of the input that has the name of one of ours is called ``column_<name>``, and one that is called so
    already gets the prefix once more: whatever other columns there are, no two take each other's place.
    """
    found: dict[str, Any] = {"custom_id": row.custom_id, "index": row.index, "variant": row.variant}
    for name, value in row.columns.items():
        found[_called(name)] = native(value)
    error, record = row.error, row.record
    found["text"] = row.text
    found["parsed"] = row.parsed_json
    found["embedding"] = _embedding(row.body)
    found["error"] = None if error is None else error.code
    found["error_message"] = None if error is None else error.message
    found["status"] = None if error is None else error.status
    for name in LAST[6:]:
        found[name] = None if record is None else getattr(record, name)
    return found


def _called(name: str) -> str:
    bare = name
    while bare.startswith(_PREFIX):
        bare = bare.removeprefix(_PREFIX)
    return _PREFIX + name if bare in _OURS else name if name.isascii() else sound(name)


class Columns:
    """The columns of some flat rows, in order, and what they hold."""

    def __init__(self) -> None:
        self._own: dict[str, Kind] = {}
        self._optional: set[str] = set()

    def see(self, row: Mapping[str, Any]) -> None:
        """Take a row into account."""
        own = self._own
        for name, value in row.items():
            if name in _OURS:
                if name in OPTIONAL and value is not None:
                    self._optional.add(name)
            else:
                own[name] = _wider(own.get(name, "empty"), _kind(value))

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each column holds. A column without any value holds text."""
        names = [*FIRST, *self._own, *LAST]
        found: dict[str, Kind] = {}
        for name in names:
            if name in OPTIONAL and name not in self._optional:
                continue
            kind = _TYPES.get(name, "json") if name in _OURS else self._own[name]
            found[name] = "text" if kind == "empty" else kind
        return found


def columns_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Kind]:
    """The columns of some flat rows."""
    columns = Columns()
    for row in rows:
        columns.see(row)
    return columns.kinds


def cells(row: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Iterator[Any]:
    """A flat row's values in the order and the types of the columns: None, bool, int, float or sound text."""
    for name, kind in kinds.items():
        value = row.get(name)
        if value is None:
            yield None
        elif kind == "json":
            yield sound(_json(value))
        elif kind == "text":
            yield sound(value)
        elif kind == "float":
            yield float(value)
        else:
            yield value


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=as_json)
    except Exception:  # noqa: BLE001 - the value is the user's, and so is what its text raises
        return encode(value).decode()


def sound(text: str) -> str:
    """Text that UTF-8 can hold: half a surrogate pair is written as its escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _embedding(body: Mapping[str, Any] | None) -> object:
    """The vector of an embedding, or the list of them if there are several."""
    data = body.get("data") if body is not None else None
    if not isinstance(data, list):
        return None
    vectors = [item.get("embedding") for item in data if isinstance(item, Mapping)]
    return vectors[0] if len(vectors) == 1 else vectors


def _kind(value: object) -> Kind:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_INT64 <= value < _INT64 else "json"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) else "json"


def _wider(one: Kind, other: Kind) -> Kind:
    if other in {one, "empty"}:
        return one
    if one == "empty":
        return other
    return "float" if {one, other} == {"int", "float"} else "json"
