"""A row as it was found, and a line of a JSONL file as a row.

What may live here: parsing one line, and telling what is wrong with it, where, and what to do. What a row means is
`request`'s business. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic_core import from_json

from ..errors import RequestFileError

CURE = "; mend it, or let bad rows fail one by one with skip_bad (--skip-bad)"
BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class RawRow:
    """A row as it was found.

    Attributes:
        place: where an indexed source finds it again.
        line: its 1-based line, or row number where there are no lines.
        data: what was parsed, or the error that says why nothing was.
        text: the raw bytes of what could not be parsed, else empty.
    """

    place: int
    line: int
    data: object
    text: bytes = b""


def raw_row(text: bytes, *, place: int, line: int, path: Path) -> RawRow:
    """A line as a row, or as the error that it is."""
    try:
        return RawRow(place, line, parse_line(text, line=line, path=path))
    except RequestFileError as error:
        return RawRow(place, line, error, text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; write null, or leave the value out")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode


def parse_line(text: bytes, *, line: int, path: Path) -> dict[str, Any]:
    """One line of a JSONL file.

    Raises:
        RequestFileError: it is no JSON object; with the place and the cure.
    """
    column: int | None = None
    row: Any
    try:
        row = from_json(text, allow_inf_nan=False)  # several times as fast as the standard library's
        if isinstance(row, dict):
            return row
    except ValueError:  # it tells no good place, and refuses half surrogate pairs, which are for others to judge
        pass
    try:
        row = _decode(text.decode())
    except UnicodeDecodeError as error:
        column = len(text[: error.start].decode()) + 1
        problem = f"byte 0x{text[error.start]:02x} is not UTF-8; save the file as UTF-8"
    except json.JSONDecodeError as error:
        column = error.colno
        problem = _json_problem(text, error)
    except RecursionError:
        problem = "the JSON is nested too deeply"
    except ValueError as error:
        problem = str(error)
    else:
        if isinstance(row, dict):
            return row
        problem = f'expected a JSON object such as {{"prompt": "..."}}, found {_kind(row)}'
    raise RequestFileError(problem + CURE, path=path, line=line, column=column)


def _json_problem(text: bytes, error: json.JSONDecodeError) -> str:
    bare = text.strip()
    if b"\0" in text:
        return "the line holds NUL bytes: the file is damaged, or is not text"
    if bare in (b"{", b"["):
        return "expected one whole JSON object on a line; a file of pretty-printed JSON becomes one with: jq -c ."
    what = error.msg[0].lower() + error.msg[1:]
    if "control character" in what:
        what += " (a line break or a tab within a string is written \\n or \\t)"
    elif bare.startswith(b"{'"):
        what += " (names and strings stand in double quotes)"
    elif bare.startswith(b"{") and not bare.endswith(b"}"):
        what += " (the line seems cut off)"
    return f"this is no JSON: {what}"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {str: "a string", list: "an array", bool: "a boolean", int: "a number", float: "a number"}
    return names[type(value)]
