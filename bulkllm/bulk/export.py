"""A results file written out for other tools: CSV, Parquet, or JSONL with one flat row a line.

What may live here: the formats. A file is read twice, once for its columns and once for its rows, so that memory
stays flat; what is written takes its place when it is whole.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeAlias, get_args

from ..errors import ConfigError
from .extras import extra
from .flat import Kind, cells, columns_of, flat
from .frames import polars_schema
from .result import read_results

Format: TypeAlias = Literal["csv", "parquet", "jsonl"]
Rows: TypeAlias = Callable[[], Iterator[dict[str, Any]]]

STANDARD_OUTPUT: Final = "-"


def export(
    results: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: Format,  # noqa: A002 - the name of the option
    ordered: bool = False,
    overwrite: bool = False,
) -> int:
    """Write a results file out as a table, one flat row a result.

    Args:
        results: the results file of a run.
        target: the file to be written; ``-`` is standard output (not for Parquet). It is UTF-8 in any case.
        format: ``csv``, ``parquet`` (needs polars) or ``jsonl``. In CSV and Parquet what is neither number nor text
            is JSON text, and so is a column whose values are of several kinds.
        ordered: in the order of the input, instead of that in which the rows were finished.
        overwrite: replace a file that exists.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: an argument is wrong, the file is no results file, or polars is not installed.
    """
    results = Path(results)
    if format not in get_args(Format):
        raise ConfigError(f"format={format!r} is none of {', '.join(get_args(Format))}")
    if not results.is_file():
        raise ConfigError(f"{results}: there is no such results file")

    def rows() -> Iterator[dict[str, Any]]:
        return (flat(row) for row in read_results(results, ordered=ordered))

    if os.fspath(target) == STANDARD_OUTPUT:
        if format == "parquet":
            raise ConfigError("a Parquet file cannot be written to standard output; give a file")
        with _standard_output() as file:
            return _write_text(rows, file, format)
    path = Path(target)
    if path.exists():
        if path.samefile(results):
            raise ConfigError(f"{path} is the results file that is being exported; give another file")
        if not overwrite:
            raise ConfigError(f"{path} exists already; give another file, or overwrite it with overwrite (--overwrite)")
    spare: Path | None = None
    try:
        spare = _spare(path)
        if format == "parquet":
            count = _write_parquet(rows, spare)
        else:
            with spare.open("w", encoding="utf-8", newline="") as file:
                count = _write_text(rows, file, format)
        spare.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if spare is not None:
            with contextlib.suppress(OSError):
                spare.unlink(missing_ok=True)
    return count


def _spare(path: Path) -> Path:
    """A new, empty file beside another, with the permissions that this one has, or would have if it were made."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    os.close(fd)
    spare = Path(name)
    if not path.exists():
        spare.unlink()
        spare.touch(exist_ok=False)
    else:
        with contextlib.suppress(OSError):  # a file system without permissions
            spare.chmod(stat.S_IMODE(path.stat().st_mode))
    return spare


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Standard output as a file of ours would be, whatever the locale; one that has no bytes beneath is as it is."""
    beneath = getattr(sys.stdout, "buffer", None)
    if beneath is None:
        yield sys.stdout
        return
    sys.stdout.flush()
    file = io.TextIOWrapper(beneath, encoding="utf-8", newline="")
    try:
        yield file
    finally:
        file.detach()


def _write_text(rows: Rows, file: TextIO, format: Format) -> int:  # noqa: A002 - as above
    if format == "jsonl":
        return _write_lines((_without_empty_options(row) for row in rows()), file)
    kinds = columns_of(rows())
    writer = csv.writer(file, lineterminator="\r\n")  # and so both are quoted where they stand in a text
    writer.writerow(list(kinds))
    count = 0
    for count, row in enumerate(rows(), 1):  # noqa: B007 - the last one is the number of rows
        writer.writerow(_csv(cells(row, kinds)))
    return count


def _write_lines(rows: Iterator[Mapping[str, Any]], file: TextIO) -> int:
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last one is the number of rows
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)
        try:
            file.write(text + "\n")
        except UnicodeEncodeError:  # half a surrogate pair, or an output that knows less than Unicode
            file.write(json.dumps(row, separators=(",", ":"), default=str) + "\n")
    return count


def _without_empty_options(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None or name not in ("variant", "embedding")}


def _csv(values: Iterator[Any]) -> Iterator[Any]:
    """Cells as CSV has them: a truth value as JSON writes it, and an empty text told from nothing by nobody."""
    for value in values:
        yield ("true" if value else "false") if isinstance(value, bool) else value


def _write_parquet(rows: Rows, path: Path) -> int:
    """By way of a file of lines with one type a column, which polars reads and writes piece by piece."""
    polars = extra("polars", "a Parquet file")
    kinds: dict[str, Kind] = columns_of(rows())
    fd, name = tempfile.mkstemp(dir=path.parent, suffix=".jsonl")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            count = _write_lines(({**dict(zip(kinds, cells(row, kinds), strict=True))} for row in rows()), file)
        if count:
            polars.scan_ndjson(name, schema=polars_schema(kinds)).sink_parquet(path)
        else:
            polars.DataFrame(schema=polars_schema(kinds)).write_parquet(path)
    finally:
        Path(name).unlink()
    return count
