"""CSV and TSV files with a header line.

What may live here: reading tables as rows. A cell is text; the cell of an option that is not text (``temperature``)
is read as JSON. A blank cell of a name that means something counts as not given; in a column it is a text as any other.
Record by record the place in the file is known, so a table is an indexed source like any other.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from ..errors import RequestFileError
from .options import ROW_OPTIONS, TEXT_OPTIONS
from .rawrow import CURE, RawRow
from .shapes import Cells
from .sources import OpenFile

_JSON_COLUMNS = (ROW_OPTIONS - TEXT_OPTIONS) | {"messages"}
_MEANT: Final = ROW_OPTIONS | {"custom_id", "messages", "system"}
_FIELD_LIMIT = 1 << 26
_WITHIN: Final = re.compile(r'([^"])[^"]+([^"])')
"""What can be left out of a line, and records still end where they did: only what stands beside a quote matters."""


class TableFile(OpenFile):
    """A CSV or TSV file whose first line names the columns."""

    def __init__(self, path: Path, *, delimiter: str) -> None:
        super().__init__(path)
        self._delimiter = delimiter
        # Python refuses fields of more than 128 KiB, and documents are longer. The setting is the process's own;
        # raising it takes nothing from anybody.
        csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
        try:
            lines = _Lines(self._file, self._begin, 0, path)
            self._header = self._read_header(lines)
        except RequestFileError:
            self.close()
            raise
        self._data, self._data_line = lines.place, lines.line

    def scan(self) -> Iterator[RawRow]:
        """All records in order; blank lines do not count."""
        lines = _Lines(self._file, self._data, self._data_line, self._shown)
        reader = self._reader(lines)
        while True:
            place, line = lines.place, lines.line + 1
            try:
                record = self._record(reader, lines, line)
                if record is None:
                    return
                if record:
                    yield RawRow(place, line, self._row(record, line))
            except RequestFileError as error:
                yield RawRow(place, line, error, self._text(place, lines.place))

    def read(self, place: int, line: int) -> object:
        """The record at a place."""
        lines = _Lines(self._file, place, line - 1, self._shown)
        return self._row(self._record(self._reader(lines), lines, line) or [], line)

    def _record(self, reader: Iterator[list[str]], lines: _Lines, line: int) -> list[str] | None:
        """The next record, or None at the end.

        Raises:
            RequestFileError: it is none; the lines go on after all of it.
        """
        place = lines.begin()
        try:
            record = next(reader, None)
        except csv.Error as error:
            problem = lines.problem or RequestFileError(
                f"this is no record: {error}{CURE}", path=self._shown, line=line
            )
            self._pass_over(lines, place, line)
            raise problem from None
        if lines.problem is not None:
            raise lines.problem
        return record

    def _pass_over(self, lines: _Lines, place: int, line: int) -> None:
        """Go to the end of a record that the reader gave up, perhaps in the middle of it as its field was too long."""
        lines.go_to(place, line - 1)
        with contextlib.suppress(csv.Error):  # where it ends is not to be told, if not there
            next(self._reader(lines.shortened()), None)

    def _text(self, place: int, end: int) -> bytes:
        """What a bad record is known by."""
        self._file.seek(place)
        text = self._file.read(min(end - place, _FIELD_LIMIT))
        self._file.seek(end)
        return text

    def _reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _read_header(self, lines: _Lines) -> list[str]:
        path = self._shown
        try:
            header = next(self._reader(lines), [])
        except csv.Error as error:
            raise RequestFileError(f"the header line cannot be read: {error}", path=path, line=1) from error
        if lines.problem is not None:
            raise lines.problem
        if not header:
            raise RequestFileError("the first line must name the columns", path=path, line=1)
        for number, name in enumerate(header, 1):
            if not name.strip():
                raise RequestFileError(f"column {number} has no name in the header line", path=path, line=1)
            if name in header[: number - 1]:
                raise RequestFileError(f"two columns are named {name!r}", path=path, line=1)
        return header

    def _row(self, record: list[str], line: int) -> dict[str, Any]:
        if len(record) != len(self._header):
            raise RequestFileError(
                f"expected {len(self._header)} fields as in the header, found {len(record)}"
                f" (a field that holds the separator, a quote or a line break stands in double quotes){CURE}",
                path=self._shown,
                line=line,
            )
        row = Cells()
        for name, cell in zip(self._header, record, strict=True):
            if name in _MEANT and _is_blank(name, cell):
                continue
            row[name] = self._value(name, cell, line) if name in _JSON_COLUMNS else cell
        return row

    def _value(self, name: str, cell: str, line: int) -> object:
        try:
            return json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise RequestFileError(
                f"column {name!r} is an option: its cell is read as JSON (a number, true, a list): {error}{CURE}",
                path=self._shown,
                line=line,
            ) from error


def _is_blank(name: str, cell: str) -> bool:
    """Whether a cell gives nothing; answers may be told to stop at a line break."""
    return not (cell if name == "stop" else cell.strip())


class _Lines:
    """A file's lines as text, counting where each begins.

    Attributes:
        place: where the next line begins.
        line: the number of the last one.
        problem: the first thing in them that is no text. The lines go on, so that a record is read to its end.
    """

    def __init__(self, file: BinaryIO, place: int, line: int, path: Path) -> None:
        self._file = file
        self._path = path
        self.problem: RequestFileError | None = None
        self.go_to(place, line)

    def go_to(self, place: int, line: int) -> None:
        """Go on at another place, after so many lines."""
        self._file.seek(place)
        self.place = place
        self.line = line

    def begin(self) -> int:
        """Begin another record, and tell where."""
        self.problem = None
        return self.place

    def shortened(self) -> Iterator[str]:
        """The lines of one record without most of its text."""
        yield _WITHIN.sub(r"\1\2", next(self, ""))
        for text in self:  # within a quoted field, for else the record would have ended
            yield _WITHIN.sub(r"\1\2", text) if '"' in text else ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self._file.readline()
        if not text:
            raise StopIteration
        self.place += len(text)
        self.line += 1
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            self.problem = self.problem or RequestFileError(
                f"byte 0x{text[error.start]:02x} is not UTF-8; save the file as UTF-8{CURE}",
                path=self._path,
                line=self.line,
                column=error.start + 1,
            )
            return text.decode(errors="surrogateescape")
