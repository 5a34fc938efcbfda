"""Where rows come from: files, standard input, tables, sequences, iterables. All of it is read lazily.

What may live here: reading, and finding the place of what cannot be read. What a row means is `request`'s business.

There are two kinds. An **indexed** source can be read twice: a file, a table, a sequence. It is scanned before the
first call, so that a bad line or a repeated ``custom_id`` is found before a cent is spent, and a row that waits for its
turn is a number, not an object. A **streamed** source can be read once: standard input, a generator, an async
iterator. It is checked as it arrives.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, runtime_checkable

from ..errors import ConfigError, RequestFileError
from .rawrow import BOM, RawRow, parse_line, raw_row
from .streams import AsyncStream, StandardInput, SyncStream

_ALIEN_STARTS = (
    (b"\xff\xfe", "is UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16; save it as UTF-8"),
    (b"\x1f\x8b", "is compressed with gzip; decompress it first, or pipe it: zcat FILE | bulkllm run -"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; decompress it first"),
    (b"PAR1", "is a Parquet file; give it a name that ends in .parquet"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet; save it as JSONL or CSV"),
)

_SHOWN = 255  # characters of a name that is no file's; a prompt may be long


@runtime_checkable
class Indexed(Protocol):
    """A source that can be read again, row by row.

    Attributes:
        path: the file, or None.
    """

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
Requests: TypeAlias = "str | os.PathLike[str] | Iterable[Any] | AsyncIterable[Any]"


def files_of(source: Source) -> list[Path]:
    """The files that a source reads, which must not be written to."""
    if isinstance(source, StandardInput):
        return [Path("/dev/stdin")]  # where there is such a thing it tells which file was sent in
    return [source.path] if isinstance(source, Indexed) and source.path is not None else []


def open_source(requests: Requests) -> Source:
    """The source for what a user gave as requests.

    Raises:
        ConfigError: it is nothing that rows can be read from.
        RequestFileError: the file cannot be read.
    """
    if isinstance(requests, str | os.PathLike):
        return _file_source(os.fspath(requests))
    from .tables import table_of

    table = table_of(requests)
    if table is not None:
        return table
    if isinstance(requests, bytes | bytearray | Mapping):
        raise ConfigError(
            f"requests is a single {type(requests).__name__}; give a path or an iterable of rows: [row, ...]"
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
    try:
        there = path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise RequestFileError(f"cannot be read: {error.strerror}", path=path) from error
        there = False
    if not there:
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        raise RequestFileError("there is no such file; to ask a single prompt give a list: [prompt]", path=shown)
    if not path.is_file():
        raise RequestFileError(
            "this is no regular file; to read a pipe give - and send it to standard input", path=path
        )
    if path.suffix.lower() in (".parquet", ".pq"):
        from .tables import parquet

        return parquet(path)
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
        self._begin = len(BOM) if start.startswith(BOM) else 0
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
