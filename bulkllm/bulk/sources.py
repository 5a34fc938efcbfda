"""Where rows come from: files, standard input, sequences, iterables. All of it is read lazily.

What may live here: reading, and finding the place of what cannot be read. What a row means is `request`'s business.

There are two kinds. An **indexed** source can be read twice: a file or a sequence. It is scanned before the first
call, so that a bad line or a repeated ``custom_id`` is found before a cent is spent, and a row that waits for its
turn is a number, not an object. A **streamed** source can be read once: standard input, a generator, an async
iterator. It is checked as it arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol, TypeAlias, runtime_checkable

from pydantic_core import from_json

from ..errors import ConfigError, RequestFileError

CURE = "; mend it, or let bad rows fail one by one with skip_bad (--skip-bad)"

_BOM = b"\xef\xbb\xbf"
_ALIEN_STARTS = (
    (b"\xff\xfe", "is UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16; save it as UTF-8"),
    (b"\x1f\x8b", "is compressed with gzip; decompress it first, or pipe it: zcat FILE | bulkllm run -"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; decompress it first"),
    (b"PAR1", "is a Parquet file, which cannot be read yet; write it out as JSONL"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet; save it as JSONL or CSV"),
)


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


@runtime_checkable
class Indexed(Protocol):
    """A source that can be read again, row by row."""

    path: Path | None

    def scan(self) -> Iterator[RawRow]:
        """All rows in order."""

    def read(self, place: int, line: int) -> object:
        """The row at a place that `scan` told; raises RequestFileError where `scan` gave one."""

    def verify(self) -> None:
        """Raise if the source has changed since it was scanned."""

    def close(self) -> None:
        """Let go of files."""


class Streamed(Protocol):
    """A source that can be read once."""

    def rows(self) -> AsyncIterator[RawRow]:
        """All rows as they come."""


Source: TypeAlias = Indexed | Streamed
Requests: TypeAlias = "str | os.PathLike[str] | Iterable[Any] | AsyncIterator[Any]"


def open_source(requests: Requests) -> Source:
    """The source for what a user gave as requests.

    Raises:
        ConfigError: it is nothing that rows can be read from.
        RequestFileError: the file cannot be read.
    """
    if isinstance(requests, str | os.PathLike):
        return _file_source(os.fspath(requests))
    if isinstance(requests, bytes | bytearray | Mapping):
        raise ConfigError(
            f"requests is a single {type(requests).__name__}; give a path or an iterable of rows: [row, ...]"
        )
    if hasattr(requests, "iterrows") or hasattr(requests, "iter_rows"):
        raise ConfigError(
            "data frames cannot be read yet; give frame.to_dict('records') (pandas) or frame.to_dicts() (polars)"
        )
    if isinstance(requests, Sequence):
        return RowSequence(requests)
    if hasattr(requests, "__aiter__"):
        return AsyncStream(requests)
    if isinstance(requests, Iterable):
        return SyncStream(requests)
    raise ConfigError(
        f"requests is a {type(requests).__name__}; give a path or an (async) iterable of prompts, messages or dicts"
    )


def _file_source(name: str) -> Source:
    if name == "-":
        return StandardInput()
    path = Path(name)
    if not path.exists():
        raise RequestFileError("there is no such file; to ask a single prompt give a list: [prompt]", path=path)
    if not path.is_file():
        raise RequestFileError(
            "this is no regular file; to read a pipe give - and send it to standard input", path=path
        )
    if path.suffix.lower() in (".csv", ".tsv"):
        from .tabular import TableFile

        return TableFile(path, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    return JsonlFile(path)


class OpenFile:
    """A request file on disk, watched for changes. The base of the file formats."""

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self._shown = path
        try:
            self._file: BinaryIO = path.open("rb", buffering=1 << 17)
        except OSError as error:
            raise RequestFileError(f"cannot be read: {error.strerror}", path=path) from error
        start = self._file.read(4)
        for alien, problem in _ALIEN_STARTS:
            if start.startswith(alien):
                self.close()
                raise RequestFileError(f"the file {problem}", path=path)
        self._begin = len(_BOM) if start.startswith(_BOM) else 0
        self._stamp = self._now()

    def verify(self) -> None:
        """Raise RequestFileError if the file was written to since it was opened."""
        if self._now() != self._stamp:
            raise RequestFileError(
                "the file was changed while the run was reading it; run the same command again", path=self._shown
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns


class JsonlFile(OpenFile):
    """A file with one JSON object a line."""

    def scan(self) -> Iterator[RawRow]:
        """All rows in order; blank lines do not count as rows."""
        place = self._begin
        self._file.seek(place)
        for line, text in enumerate(self._file, 1):
            if not text.isspace():
                yield raw_row(text, place=place, line=line, path=self._shown)
            place += len(text)

    def read(self, place: int, line: int) -> object:
        """The row at a place."""
        self._file.seek(place)
        return parse_line(self._file.readline(), line=line, path=self._shown)


class RowSequence:
    """A list, or another sequence, of rows."""

    path: Path | None = None

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows
        self._length = len(rows)

    def scan(self) -> Iterator[RawRow]:
        """All rows in order."""
        for place, row in enumerate(self._rows):
            yield RawRow(place, place + 1, row)

    def read(self, place: int, line: int) -> object:  # noqa: ARG002 - a place is all that a sequence needs
        """The row at a position."""
        return self._rows[place]

    def verify(self) -> None:
        """Raise ConfigError if rows were added or removed."""
        if len(self._rows) != self._length:
            raise ConfigError("the list of requests was changed while the run was reading it")

    def close(self) -> None:
        """Nothing to close."""


class SyncStream:
    """Any iterable. It is advanced on the event loop: one that blocks for long is better made an async iterator."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = rows

    async def rows(self) -> AsyncIterator[RawRow]:
        """All rows as they come."""
        rows = iter(self._rows)
        try:
            for number, row in enumerate(rows, 1):
                yield RawRow(0, number, row)
        finally:
            if hasattr(rows, "close"):
                rows.close()


class AsyncStream:
    """Any async iterable."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    async def rows(self) -> AsyncIterator[RawRow]:
        """All rows as they come."""
        rows = aiter(self._rows)
        number = 0
        try:
            async for row in rows:
                number += 1
                yield RawRow(0, number, row)
        finally:
            if hasattr(rows, "aclose"):
                await rows.aclose()


class StandardInput:
    """JSONL from standard input, which may be slow to come.

    Args:
        fd: another file descriptor to read instead.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = sys.stdin.fileno() if fd is None else fd

    async def rows(self) -> AsyncIterator[RawRow]:
        """All rows as they come."""
        line = 0
        rest = b""
        while True:
            chunk = await self._read()
            *lines, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
            for text in lines:
                line += 1
                body = text.removeprefix(_BOM) if line == 1 else text
                if body and not body.isspace():
                    yield raw_row(body, place=0, line=line, path=Path("-"))
            if not chunk:
                return

    async def _read(self) -> bytes:
        """What has come, or empty bytes at the end.

        Not with the loop's own threads: the end of the loop would wait for a read that nobody answers. Not through
        sys.stdin: its lock, held by a thread at the end of the process, is a fatal error.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Future[bytes] = loop.create_future()

        def tell(chunk: bytes, error: OSError | None) -> None:
            if came.cancelled():
                return
            if error is None:
                came.set_result(chunk)
            else:
                came.set_exception(error)

        def read() -> None:
            chunk, problem = b"", None
            try:
                chunk = os.read(self._fd, 1 << 16)
            except OSError as error:
                problem = error
            with contextlib.suppress(RuntimeError):  # the loop has gone in the meantime
                loop.call_soon_threadsafe(tell, chunk, problem)

        threading.Thread(target=read, name="bulkllm-stdin", daemon=True).start()
        return await came


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
