"""Tables that are held by somebody else as rows: data frames, datasets, Parquet files.

What may live here: reading them a slice at a time, so that neither a row nor the whole of them has to become Python
objects at once. They can be read twice, so a table is an indexed source like any other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..errors import ConfigError, RequestFileError
from .extras import extra
from .options import ROW_OPTIONS
from .rawrow import RawRow

Slice: TypeAlias = Callable[[int, int], list[dict[str, Any]]]

_WHOLE: Final = frozenset({
    "cache_sample", "custom_id", "dimensions", "max_completion_tokens", "max_output_tokens", "max_retries",
    "max_tokens", "min_tokens", "n", "num_ctx", "num_retries", "seed", "top_k", "top_logprobs",
})  # fmt: skip
"""Names whose numbers are whole. In a frame of pandas' a column of them that has gaps is one of floats."""

_EXACT: Final = 1 << 53  # whole numbers beyond which a float may be another one
_ROWS: Final = 1024  # of a slice
_KEPT: Final = 8  # slices: rows of several pools are read again from several places


class Table:
    """A table whose rows are read in slices.

    Args:
        length: rows.
        read: gives the rows from one number (included) to another (excluded).
        path: the file, if it is one.
    """

    def __init__(self, length: int, read: Slice, path: Path | None = None) -> None:
        self.path = path
        self._length = length
        self._read = read
        self._slices: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()
        self._stamp = self._now()

    def scan(self) -> Iterator[RawRow]:
        """All rows in order."""
        for place in range(self._length):
            yield RawRow(place, place + 1, self.read(place, place + 1))

    def read(self, place: int, line: int) -> object:  # noqa: ARG002 - a place is all that a table needs
        """The row at a position."""
        number, within = divmod(place, _ROWS)
        rows = self._slices.get(number)
        if rows is None:
            begin = number * _ROWS
            rows = [_plain_row(row) for row in self._read(begin, min(begin + _ROWS, self._length))]
            self._slices[number] = rows
            if len(self._slices) > _KEPT:
                self._slices.popitem(last=False)
        return rows[within]

    def verify(self) -> None:
        """Raise RequestFileError if the file was written to since it was opened."""
        if self._now() != self._stamp:
            raise RequestFileError(
                "the file was changed while the run was reading it; run the same command again", path=self.path
            )

    def close(self) -> None:
        """Let go of the rows."""
        self._slices.clear()

    def _now(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        state = self.path.stat()
        return state.st_size, state.st_mtime_ns


def parquet(path: Path) -> Table:
    """A Parquet file.

    Raises:
        ConfigError: polars, which reads it, is not installed.
        RequestFileError: it is none.
    """
    polars = extra("polars", "a Parquet file")
    troubles = (OSError, polars.exceptions.PolarsError, polars.exceptions.PanicException)
    try:
        lazy = polars.scan_parquet(path, glob=False)
        length = lazy.select(polars.len()).collect().item()
    except troubles as error:
        raise RequestFileError(f"cannot be read as Parquet: {error}", path=path) from error

    def read(begin: int, end: int) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = lazy.slice(begin, end - begin).collect().to_dicts()
        except troubles as error:
            raise RequestFileError(
                f"rows {begin + 1} to {end} cannot be read as Parquet, the file is damaged: {error}; write it anew",
                path=path,
            ) from error
        return rows

    return Table(length, read, path)


def table_of(requests: Any) -> Table | None:
    """The table that an object is, or None: a pandas or polars frame, or a dataset as Hugging Face makes them.

    Raises:
        ConfigError: it is one whose rows cannot be read by number.
    """
    if hasattr(requests, "iloc") and hasattr(requests, "columns"):
        return Table(len(requests), lambda begin, end: requests.iloc[begin:end].to_dict("records"))
    if hasattr(requests, "iter_rows") and hasattr(requests, "to_dicts"):
        return Table(requests.height, lambda begin, end: requests.slice(begin, end - begin).to_dicts())
    if hasattr(requests, "collect_schema") and hasattr(requests, "collect"):
        raise ConfigError("this is a lazy frame; give requests=frame.collect()")
    if hasattr(requests, "column_names") and hasattr(requests, "__getitem__") and hasattr(requests, "__len__"):
        return Table(len(requests), lambda begin, end: _from_columns(requests[begin:end]))
    if isinstance(requests, Mapping) and requests and all(hasattr(part, "column_names") for part in requests.values()):
        splits = ", ".join(map(repr, requests))
        raise ConfigError(f"this is a dataset with several splits; give one of them: dataset[...] with {splits}")
    return None


def _from_columns(columns: Any) -> list[dict[str, Any]]:
    """A slice of a dataset is its columns; whatever gives rows instead is taken too."""
    if not isinstance(columns, Mapping):
        return [dict(row) for row in columns]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain_row(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """A row in Python's own types. In a frame an option that a row does not have is a missing value."""
    plain = {name: _whole(_plain(value)) if name in _WHOLE else _plain(value) for name, value in row.items()}
    return {name: value for name, value in plain.items() if value is not None or name not in ROW_OPTIONS}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT else value


def _plain(value: Any) -> Any:
    """A missing value as None, and numpy's numbers and arrays as Python's."""
    kind = type(value)
    if kind is str or kind is int or value is None:
        return value
    if kind is float:
        return None if value != value else value  # noqa: PLR0124 - what is not equal to itself is NaN
    if kind is dict:
        return {name: _plain(item) for name, item in value.items()}
    if kind is list:
        return [_plain(item) for item in value]
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return _plain(value.tolist())
    if kind.__name__ in {"NAType", "NaTType"}:
        return None
    return value
