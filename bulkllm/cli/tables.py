"""Tables on standard output: drawn by rich on a terminal, and one whole line for each row where it is none.

What may live here: how a table looks. What stands in it is the commands' business.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

_WIDE: Final = 100_000  # a pipe has no width; whoever reads it wants each row on one line

_GAP: Final = 2  # between two columns

Cell = str | int | float | date | None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], spare: Sequence[str] = ()) -> None:
    """Print a table; numbers stand on the right, what is not known is a dash, and empty columns are left out.

    Args:
        columns: their names.
        rows: a cell for each column.
        spare: columns to be left out, the first ones first, where a terminal is too narrow for all.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = (
        Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=_WIDE, color_system=None)
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    kept = [number for number in range(len(columns)) if any(row[number] is not None for row in rows)]
    cells = {number: [shown(row[number]) for row in rows] for number in kept}
    for name in spare:
        if sum(max(len(columns[n]), *map(len, cells[n])) + _GAP for n in kept) <= console.width:
            break
        kept = [number for number in kept if columns[number] != name]
    for number in kept:
        numeric = all(isinstance(row[number], int | float | None) for row in rows)
        table.add_column(columns[number], justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for line in range(len(rows)):
        # As Text, for in a str rich would look for markup, and names come from outside.
        table.add_row(*(Text(cells[number][line]) for number in kept))
    console.print(table)


def shown(value: object) -> str:
    """A value for a person."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "-"
    return str(value)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(value, default=str, ensure_ascii=False) + "\n")
