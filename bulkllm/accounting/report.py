"""What a tracker has counted, for people to read.

What may live here: how a tracker is shown as a rich table and as a small HTML table. rich is imported inside; the
HTML stands alone and everything in it that came from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .._waits import described
from .totals import Totals

if TYPE_CHECKING:
    from .tracker import By, UsageTracker

_HOUR = 3600
_MOST_REASONS = 12  # lines of a table of what time went on


def table(tracker: UsageTracker, by: By = "model") -> Any:
    """A rich table: a row for each group, and the total. Columns that would hold only zeros are left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, groups, total = _lines(tracker, by)
    # Names come from outside: as Text, for in a str rich would look for markup.
    shown = Table(title=Text(_title(tracker)), show_footer=len(groups) != 1, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column(by, footer="total", overflow="fold", min_width=10)
    for name, figure in zip(header, total, strict=True):
        shown.add_column(name, footer=figure, justify="right", no_wrap=True)
    for name, figures in groups.items():
        shown.add_row(Text(name), *figures)
    return shown


def html(tracker: UsageTracker, by: By = "model") -> str:
    """The same as a small HTML table."""
    header, groups, total = _lines(tracker, by)
    lines = [_row("th", by, header)]
    lines += [_row("td", name, figures) for name, figures in groups.items()]
    if len(groups) != 1:
        lines.append(_row("th", "total", total))
    return f"<table><caption>{escape(_title(tracker))}</caption>{''.join(lines)}</table>"


def time_table(totals: Totals) -> Any:
    """A rich table: what the calls' time went on, the largest share first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title="where the calls' time went", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("on", overflow="fold", min_width=10)
    shown.add_column("time", justify="right", no_wrap=True)
    shown.add_column("share", justify="right", no_wrap=True)
    for what, time, share in time_lines(totals):
        shown.add_row(Text(what), time, f"{share:.1%}")
    return shown


def time_lines(totals: Totals) -> list[tuple[str, str, float]]:
    """What the calls' time went on, how long, and which share of it; the smallest ones added up as one."""
    shares, spent = totals.shares, totals._time()
    names = list(shares)
    lines = [(described(name), seconds(spent[name]), shares[name]) for name in names[:_MOST_REASONS]]
    rest = names[_MOST_REASONS:]
    if rest:
        others = sum(spent[name] for name in rest)
        lines.append((f"{len(rest):,} others", seconds(others), sum(shares[name] for name in rest)))
    return lines


def _row(cell: str, name: str, figures: Sequence[str]) -> str:
    return (
        f'<tr><{cell} style="text-align:left">{escape(name)}</{cell}>'
        + "".join(f'<{cell} style="text-align:right;white-space:pre">{escape(text)}</{cell}>' for text in figures)
        + "</tr>"
    )


def _title(tracker: UsageTracker) -> str:
    return f"usage of {tracker.name}" if tracker.name else "usage"


def _lines(tracker: UsageTracker, by: By) -> tuple[Sequence[str], Mapping[str, Sequence[str]], Sequence[str]]:
    """The header, the groups by name and the total, without the columns that say nothing."""
    now = tracker.snapshot()  # so that the rows add up to the total
    groups, total = now.groups(by), now.total
    kept = [name for name, (figure, nothing) in _COLUMNS.items() if figure(total) != nothing]

    def line(totals: Totals) -> list[str]:
        return [_COLUMNS[name][0](totals) for name in kept]

    return kept, {name: line(groups[name]) for name in sorted(groups)}, line(total)


def _requests(totals: Totals) -> str:
    lines = [f"{totals.requests:,}"]
    if totals.ok != totals.requests:
        lines.append(f"{totals.ok:,} ok")
    parts = (("failed", totals.failed), ("cancelled", totals.cancelled), ("cached", totals.cached))
    lines += [f"{count:,} {name}" for name, count in parts if count]
    return "\n".join(lines)


def _cost(totals: Totals) -> str:
    if totals.unpriced and totals.unpriced == totals.requests:
        return f"unknown\n{totals.unpriced:,} unpriced"
    return dollars(totals.cost) + (f"\n+{totals.unpriced:,} unpriced" if totals.unpriced else "")


def _latency(totals: Totals) -> str:
    latency = totals.latency
    return f"p50 {seconds(latency.p50)}\np95 {seconds(latency.p95)}" if latency.count else "-"


# Each column's text (several lines, so that a long name has room on a narrow terminal), and the text in the total
# with which it says nothing.
_COLUMNS: Mapping[str, tuple[Callable[[Totals], str], str | None]] = {
    "requests": (_requests, None),
    "tokens": (lambda totals: f"{totals.input_tokens:,} in\n{totals.output_tokens:,} out", None),
    "cost": (_cost, None),
    "latency": (_latency, "-"),
    "waited": (lambda totals: seconds(totals.waited), "0 s"),
}


def dollars(amount: float) -> str:
    """To the cent, and below a dollar to two figures that count."""
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.{max(2, 1 - math.floor(math.log10(amount)))}f}"


def seconds(duration: float | None) -> str:
    """Milliseconds below a second, seconds below an hour, then hours."""
    if duration is None:
        return "-"
    if duration == 0:
        return "0 s"
    if duration < 1:
        return f"{duration * 1000:.3g} ms"
    if duration < _HOUR:
        return f"{duration:,.1f} s"
    return f"{duration / _HOUR:,.1f} h"
