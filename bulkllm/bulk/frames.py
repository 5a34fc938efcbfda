"""Results as a data frame.

What may live here: making frames out of flat rows; `flat` knows the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from .extras import extra
from .flat import Kind, cells, columns_of, flat, sound
from .result import ResultRow

# Types that can hold a missing value without becoming another type.
_PANDAS: Final[Mapping[Kind, str]] = {"bool": "boolean", "int": "Int64", "float": "float64"}


def to_pandas(rows: Iterable[ResultRow]) -> Any:
    """A pandas DataFrame; what is neither number nor text stays the object that it is."""
    pandas = extra("pandas", "a pandas frame")
    table = [flat(row) for row in rows]
    kinds = columns_of(table)
    series = {}
    for name, kind in kinds.items():
        values = [row.get(name) for row in table]
        if kind == "text":
            values = [None if value is None else sound(value) for value in values]
        series[name] = pandas.Series(values, dtype=_PANDAS.get(kind, "object"), name=name)
    return pandas.DataFrame(series, columns=list(kinds))


def to_polars(rows: Iterable[ResultRow]) -> Any:
    """A polars DataFrame; what is neither number nor text is JSON text."""
    polars = extra("polars", "a polars frame")
    table = [flat(row) for row in rows]
    kinds = columns_of(table)
    return polars.DataFrame([list(cells(row, kinds)) for row in table], schema=polars_schema(kinds), orient="row")


def polars_schema(kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The columns' types in polars."""
    polars = extra("polars", "a polars frame")
    types = {"bool": polars.Boolean, "int": polars.Int64, "float": polars.Float64}
    return {name: types.get(kind, polars.String) for name, kind in kinds.items()}
