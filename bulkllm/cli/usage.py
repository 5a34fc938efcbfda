"""``bulkllm usage``: what calls used and cost, out of a results file or of records that a tracker has kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from ..errors import ConfigError
from . import options as shared

if TYPE_CHECKING:
    from ..accounting import Amount, UsageRecord, UsageTracker
    from ..accounting.history import History
    from ..accounting.tracker import By

app = typer.Typer(name="usage", help="Show what calls used and cost.", no_args_is_help=True, rich_markup_mode=None)

_WIDE: Final = 120  # columns where there is no terminal
_SQLITE: Final = b"SQLite format 3\0"


@app.callback()
def usage() -> None:
    """Show what calls used and cost."""


@app.command()
def report(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS.jsonl", help="A results file of `bulkllm run`, or records kept by UsageTracker(sink=...)."
        ),
    ],
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="model, provider, outcome or tag; may be repeated. [default: all but provider]"),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Write one page with plots to this file instead.")
    ] = None,
    as_json: shared.AsJson = False,
) -> None:
    """Show tokens, cost, waiting and latency of a run: by model, outcome and tag, with quantiles and histograms.

    And what the calls' time went on: which limits, retries or the provider itself, and what to raise.
    With --html everything is one page that opens in any browser and needs nothing from outside.
    """
    history, notes, earlier = _read(file)
    if html is not None:
        from ..accounting.page import page

        _write(html, page(history, title=file.name, notes=notes), source=file)
        if not as_json:
            print(f"written to {html}", file=sys.stderr)
            return
    if as_json:
        told = {**history.tracker.to_dict(), "advice": history.tracker.total.advice, "notes": notes}
        sys.stdout.write(json.dumps({**told, "earlier": earlier._asdict()}, allow_nan=False) + "\n")
        return
    _show(history.tracker, _breakdowns(by, history.tracker), notes)


def _read(path: Path) -> tuple[History, list[str], Amount]:
    """What the file tells, what is to be said besides, and what rows had used that were asked again."""
    from ..accounting import Amount
    from ..accounting.history import History
    from ..accounting.report import dollars
    from ..bulk import read_results
    from ..bulk.spent import superseded_in

    history = History(path.name)
    notes = []
    unasked = 0
    earlier = Amount(0.0, 0.0, 0.0)
    records: Iterable[UsageRecord | None]
    if _has_results(path):
        records, earlier = (row.record for row in read_results(path)), superseded_in(path)
    else:
        records = _kept(path)
    for record in records:
        if record is None:
            unasked += 1
        else:
            history.add(record)
    total = history.tracker.total
    charge = f"up to ${total.uncertain_cost:,.4f} more may be charged"
    for count, what in (
        (unasked, "Rows that failed without a call (in no sum): {:,}"),
        (total.unpriced, "Calls of unknown price (not in the cost): {:,}"),
        (total.charge_unknown, f"Calls with attempts that were given up: {{:,}}; {charge}"),
        (total.contradictory, "Answers whose token counts contradict each other: {:,}"),
        (total.estimated, "Calls with estimated tokens, for the provider told none: {:,}"),
    ):
        if count:
            notes.append(what.format(count))
    if any(earlier):
        used = f"{earlier.requests:,.0f} requests, {earlier.tokens:,.0f} tokens, {dollars(earlier.cost)}"
        notes.append(f"Earlier asks of rows that were asked again (in no sum): {used}, as far as known")
    return history, notes, earlier


def _kept(path: Path) -> Iterator[UsageRecord]:
    """What a sink has kept.

    Raises:
        ConfigError: one is no usage record; with its place.
    """
    from ..accounting import read_records

    count = 0
    try:
        for record in read_records(path):
            yield record
            count += 1
    except ConfigError as error:
        if str(error).startswith(str(path)):
            raise
        raise ConfigError(
            f"{path}:{_line(path, count)}: {error}; give a results file of `bulkllm run`, or what "
            "UsageTracker(sink=...) has kept"
        ) from error


def _line(path: Path, count: int) -> int:
    """The line, or in a database the row, that comes after so many records."""
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            return count + 1
        file.seek(0)
        lines = (number for number, text in enumerate(file, 1) if not text.isspace())
        return next(islice(lines, count, None), count + 1)


def _has_results(path: Path) -> bool:
    """Whether it is a results file, and not what a sink has kept."""
    with path.open("rb") as file:
        start = file.readline(1 << 16)
    return start.startswith(b'{"id":"bulkllm-') or b'"bulkllm":' in start or not start


def _breakdowns(by: list[str] | None, tracker: UsageTracker) -> list[By]:
    from ..accounting.tracker import By

    known = get_args(By)
    wrong = [name for name in by or () if name not in known]
    if wrong:
        raise ConfigError(f"--by {wrong[0]}: usage is counted by {', '.join(known)}")
    if by:
        return [name for name in known if name in by]
    return [name for name in ("model", "outcome", "tag") if tracker.groups(name)]


def _show(tracker: UsageTracker, breakdowns: list[By], notes: list[str]) -> None:
    from rich.console import Console

    from ..accounting.histogram import bars, quantile_table, sketches
    from ..accounting.report import time_table

    console = Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=_WIDE)
    for by in breakdowns:
        console.print(tracker.report(by))
    total = tracker.total
    if not total.requests:
        console.print("no calls")
    found = sketches(total)
    if found:
        console.print(quantile_table(total))
    if total.shares:
        console.print(time_table(total))
        for sentence in total.advice:
            console.print(sentence, highlight=False, markup=False)
    fine = "utf" in (console.encoding or "").lower()
    for name, (sketch, text) in found.items():
        console.print(f"\n{name}", style="bold", highlight=False)
        for line in bars(sketch, text, fine=fine):
            console.print(line, highlight=False, markup=False, no_wrap=True, overflow="crop")
    for note in notes:
        console.print(f"\n{note}", highlight=False, markup=False)


def _write(path: Path, text: str, *, source: Path) -> None:
    try:
        if path.exists() and path.samefile(source):
            raise ConfigError(f"--html {path} is the file that is reported on; give another one")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path} cannot be written: {error.strerror}") from error
