"""Quantiles and histograms for a terminal.

What may live here: how a sketch is shown in lines of text. rich is imported inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from .report import dollars, seconds
from .sketch import Quantiles
from .totals import Totals

_QUANTILES: Final = (0.05, 0.5, 0.95, 0.99)
_BARS: Final = 12
_WIDTH: Final = 40
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


def sketches(totals: Totals) -> Mapping[str, tuple[Quantiles, Callable[[float], str]]]:
    """What is known of how calls are spread, by its name, with how a value of it is written."""
    found: dict[str, tuple[Quantiles, Callable[[float], str]]] = {
        "latency": (totals.latency, seconds),
        "time to first token": (totals.time_to_first_token, seconds),
        "input tokens": (totals.input_per_call, _tokens),
        "output tokens": (totals.output_per_call, _tokens),
        "cost": (totals.cost_per_call, dollars),
    }
    return {name: entry for name, entry in found.items() if entry[0].count}


def quantile_table(totals: Totals) -> Any:
    """A rich table: a row for each thing that is spread."""
    from rich import box
    from rich.table import Table

    table = Table(title="one call", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in ("calls", "lowest", *(f"p{100 * q:g}" for q in _QUANTILES), "highest", "average"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, (sketch, text) in sketches(totals).items():
        figures = [sketch.min, *(sketch.quantile(q) for q in _QUANTILES), sketch.max, sketch.mean]
        table.add_row(name, f"{sketch.count:,}", *(text(figure or 0.0) for figure in figures))
    return table


def bars(sketch: Quantiles, text: Callable[[float], str], *, fine: bool = True) -> list[str]:
    """A histogram, a line for each bar: from where to where, the bar, how many.

    Args:
        sketch: what is shown.
        text: how a value is written.
        fine: draw with eighths of a block; otherwise with ``#``, which every terminal has.
    """
    found = sketch.histogram(_BARS)
    most = max((count for _, _, count in found), default=0)
    ranges = [text(low) if low == high else f"{text(low)} to {text(high)}" for low, high, _ in found]
    wide = max(map(len, ranges), default=0)
    return [
        f"{told:>{wide}} {_bar(count / most, fine=fine):<{_WIDTH}} {count:,}"
        for told, (_, _, count) in zip(ranges, found, strict=True)
    ]


def _bar(share: float, *, fine: bool) -> str:
    eighths = round(share * _WIDTH * 8)
    if not eighths:
        return ("▏" if fine else ".") if share else ""
    if not fine:
        return "#" * max(1, eighths // 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def _tokens(number: float) -> str:
    return f"{number:,.0f}"
