"""CSV and TSV files with a header line.

What may live here: reading tables as rows. A cell is text; the cell of an option that is not text (``temperature``)
is read as JSON, and an empty one counts as not given, as does a blank ``system``. Record by record the place in the
file is known, so a table is an indexed source like any other.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RequestFileError
from .options import ROW_OPTIONS, TEXT_OPTIONS
from .rawrow import CURE, RawRow
from .sources import OpenFile

_JSON_COLUMNS = (ROW_OPTIONS - TEXT_OPTIONS) | {"messages"}
_FIELD_LIMIT = 1 << 26


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
                record = next(reader, None)
                if record is None:
                    return
                if record:
                    yield RawRow(place, line, self._row(record, line))
            except (csv.Error, RequestFileError) as error:
                yield RawRow(place, line, self._error(error, line), self._text(place, lines.place))

    def read(self, place: int, line: int) -> object:
        """The record at a place."""
        reader = self._reader(_Lines(self._file, place, line - 1, self._shown))
        try:
            return self._row(next(reader), line)
        except (csv.Error, RequestFileError) as error:
            raise self._error(error, line) from None

    def _text(self, place: int, end: int) -> bytes:
        self._file.seek(place)
        return self._file.read(end - place)  # and the file stands where reading goes on

    def _reader(self, lines: _Lines) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _error(self, error: Exception, line: int) -> RequestFileError:
        if isinstance(error, RequestFileError):
            return error
        return RequestFileError(f"this is no record: {error}{CURE}", path=self._shown, line=line)

    def _read_header(self, lines: _Lines) -> list[str]:
        path = self._shown
        try:
            header = next(self._reader(lines), [])
        except csv.Error as error:
            raise RequestFileError(f"the header line cannot be read: {error}", path=path, line=1) from error
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
        row: dict[str, Any] = {}
        for name, cell in zip(self._header, record, strict=True):
            if name == "system":
                if cell.strip():
                    row[name] = cell
            elif name not in ROW_OPTIONS and name != "messages":
                row[name] = cell
            elif cell:
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


class _Lines:
    """A file's lines as text, counting where each begins."""

    def __init__(self, file: BinaryIO, place: int, line: int, path: Path) -> None:
        file.seek(place)
        self._file = file
        self._path = path
        self.place = place
        self.line = line

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
            raise RequestFileError(
                f"byte 0x{text[error.start]:02x} is not UTF-8; save the file as UTF-8{CURE}",
                path=self._path,
                line=self.line,
                column=error.start + 1,
            ) from None
