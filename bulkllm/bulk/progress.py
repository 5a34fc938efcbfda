"""Telling a person how a run is going, on standard error.

What may live here: the snapshot of a run, and ways to show it. Nothing here prints: what is shown is written to the
stream that was given. rich is imported when there is a terminal to show it on.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from ..errors import ConfigError
from .standing import ModelProgress, tokens_together, waits

_log = logging.getLogger(__name__)

PLAIN_EVERY = 15.0
"""Seconds between two plain lines."""

_WINDOW = 30.0  # seconds over which speeds are told


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a run stands.

    Attributes:
        total: rows of the input, or None while that is not known.
        ok: rows with an answer, earlier runs' among them.
        failed: rows with an error, earlier runs' among them.
        skipped: rows that earlier runs had finished.
        in_flight: rows being asked, or waiting for the limits.
        tokens: used by this run.
        cost: US dollars that this run cost, as far as known.
        unpriced: this run's answers whose cost is not known.
        failures: this run's failed rows, by the error's class.
        elapsed: seconds since the run began.
        rows_per_second: lately.
        tokens_per_minute: lately.
        seconds_left: at that speed, or None where it cannot be told.
        stopped: what was stopped, and why.
        models: how each model stands.
    """

    total: int | None
    ok: int
    failed: int
    skipped: int
    in_flight: int
    tokens: int
    cost: float
    unpriced: int
    failures: Mapping[str, int] = field(default_factory=dict)
    elapsed: float = 0.0
    rows_per_second: float = 0.0
    tokens_per_minute: float = 0.0
    seconds_left: float | None = None
    stopped: str | None = None
    models: Mapping[str, ModelProgress] = field(default_factory=dict)

    @property
    def waits_for(self) -> str | None:
        """What the run waits for, besides answers."""
        return waits(self.models)

    @property
    def tokens_limit(self) -> float | None:
        """Tokens a minute that the limits of all models allow together; None where one has no such limit."""
        return tokens_together(self.models)

    @property
    def done(self) -> int:
        """Rows that are finished."""
        return self.ok + self.failed

    def __str__(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{of} rows"]
        if self.total:
            parts[0] += f" ({100 * self.done // self.total} %)"
        if self.skipped:
            parts.append(f"{self.skipped} done before")
        parts.append(f"{self.failed} failed" if self.failed else "none failed")
        parts.append(f"{self.rows_per_second:.1f} rows/s")
        limit = "" if self.tokens_limit is None else f" of {short(self.tokens_limit)}"
        parts.append(f"{short(self.tokens_per_minute)}{limit} tokens/min")
        parts.append(money(self.cost, self.unpriced))
        if self.seconds_left is not None and self.done != self.total:
            parts.append(f"{span(self.seconds_left)} left")
        if self.waits_for is not None:
            parts.append(f"waits for {self.waits_for}")
        return ", ".join(parts)


class Speed:
    """Speeds over the last half minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.began = clock()
        self._points: deque[tuple[float, int, int]] = deque([(self.began, 0, 0)])

    def measure(self, rows: int, tokens: int) -> tuple[float, float, float]:
        """Seconds since the beginning, rows a second and tokens a minute, given the sums so far."""
        now = self._clock()
        points = self._points
        while len(points) > 1 and now - points[1][0] > _WINDOW:
            points.popleft()
        then, rows_then, tokens_then = points[0]
        points.append((now, rows, tokens))
        passed = now - then
        if passed <= 0:
            return now - self.began, 0.0, 0.0
        return now - self.began, (rows - rows_then) / passed, 60 * (tokens - tokens_then) / passed


class Display(Protocol):
    """Something that shows progress."""

    every: float

    def show(self, progress: Progress) -> None:
        """Show how the run stands; called every `every` seconds."""

    def say(self, text: str) -> None:
        """Tell of something that has just happened."""

    def close(self) -> None:
        """Take away what is not meant to stay; called at the end whatever happened."""

    def end(self, progress: Progress) -> None:
        """Show how the run ended."""


class Silence:
    """Shows nothing."""

    every = 3600.0

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to take away."""

    def end(self, progress: Progress) -> None:
        """Show nothing."""


class Hook(Silence):
    """Hands snapshots to a function of the user's."""

    every = 1.0

    def __init__(self, told: Callable[[Progress], Any]) -> None:
        self._told = told

    def show(self, progress: Progress) -> None:
        """Hand it over."""
        self._told(progress)

    def end(self, progress: Progress) -> None:
        """Hand it over."""
        self._told(progress)


class Unobtrusive:
    """A display of ours that falls silent where it cannot be written to: no run ends for want of a terminal."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self.every = display.every

    def show(self, progress: Progress) -> None:
        """Show how things stand, if that can be."""
        self._try(lambda display: display.show(progress))

    def say(self, text: str) -> None:
        """Say it, if that can be."""
        self._try(lambda display: display.say(text))

    def close(self) -> None:
        """Take away what is not meant to stay."""
        self._try(lambda display: display.close())

    def end(self, progress: Progress) -> None:
        """Show how the run ended, if that can be."""
        self._try(lambda display: display.end(progress))

    def _try(self, what: Callable[[Display], None]) -> None:
        try:
            what(self._display)
        except Exception as error:  # noqa: BLE001 - a broken pipe, a dead terminal: the rows are paid all the same
            _log.info("the progress is not shown any more: %s", error)
            broken, self._display = self._display, Silence()
            with suppress(Exception):
                broken.close()


class PlainLines:
    """A line now and then: for logs, pipes and notebooks."""

    def __init__(
        self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic, every: float = PLAIN_EVERY
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._period = every
        self._next = clock() + every
        self.every = min(1.0, every)

    def show(self, progress: Progress) -> None:
        """Write a line if it is time for one."""
        now = self._clock()
        if now >= self._next:
            self._next = now + self._period
            self.say(str(progress))
            for line in _by_model(progress):
                self.say(line)

    def say(self, text: str) -> None:
        """Write a line."""
        self._stream.write(f"bulkllm: {text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing to take away."""

    def end(self, progress: Progress) -> None:
        """Write the last line, and one for each kind of failure."""
        self.say(f"{progress}, in {span(progress.elapsed)}")
        for line in _by_model(progress):
            self.say(line)
        for code, count in sorted(progress.failures.items(), key=lambda item: -item[1]):
            self.say(f"  {count} x {code}")
        if progress.stopped:
            self.say(progress.stopped)


class Notebook:
    """One line in a notebook's output that is written anew. IPython is there, or this would not be used."""

    every = 1.0

    def __init__(self, display: Callable[..., Any]) -> None:
        self._handle = display({"text/plain": "bulkllm: ..."}, raw=True, display_id=True)

    def show(self, progress: Progress) -> None:
        """Write the line anew."""
        self._write([str(progress), *_by_model(progress)])

    def say(self, text: str) -> None:
        """Write something that has just happened."""
        self._write([text])

    def close(self) -> None:
        """Nothing to take away."""

    def end(self, progress: Progress) -> None:
        """Write how the run ended."""
        failures = [f"  {count} x {code}" for code, count in progress.failures.items()]
        stopped = [progress.stopped] if progress.stopped else []
        self._write([f"{progress}, in {span(progress.elapsed)}", *_by_model(progress), *failures, *stopped])

    def _write(self, lines: list[str]) -> None:
        self._handle.update({"text/plain": "bulkllm: " + "\n".join(lines)}, raw=True)


def _by_model(progress: Progress) -> list[str]:
    """A line for each model, if there are several."""
    return [f"  {name}: {model}" for name, model in progress.models.items()] if len(progress.models) > 1 else []


class Terminal:
    """A bar that stays in its place, drawn by rich."""

    every = 0.25

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream)
        self._plain = PlainLines(stream)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)

    def show(self, progress: Progress) -> None:
        """Draw the bar."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        self._live.start()
        bar = ProgressBar(total=progress.total, completed=progress.done, width=24, pulse=progress.total is None)
        table = Table.grid(padding=(0, 1))
        table.add_row(bar, str(progress))
        for line in _by_model(progress):
            table.add_row("", line)
        if progress.failures:
            table.add_row("", ", ".join(f"{count} x {code}" for code, count in progress.failures.items()))
        self._live.update(table, refresh=True)

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(f"bulkllm: {text}", markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._live.stop()

    def end(self, progress: Progress) -> None:
        """Write the last lines."""
        self._plain.end(progress)


def display_for(progress: object, stream: TextIO | None = None) -> Display:
    """What shows the progress: True for standard error, False for nothing, or a function that is given snapshots.

    Raises:
        ConfigError: it is none of these.
    """
    if progress is False or progress is None:
        return Silence()
    if callable(progress):
        return Hook(progress)
    if progress is not True:
        raise ConfigError(f"progress= is True, False or a function that takes a Progress, not {progress!r}")
    stream = sys.stderr if stream is None else stream
    if stream is None:  # pythonw has no standard error
        return Silence()
    if stream.isatty():
        return Terminal(stream)
    notebook = sys.modules.get("ipykernel") and sys.modules.get("IPython.display")
    return Notebook(notebook.display) if notebook else PlainLines(stream)


def unobtrusive(display: Display) -> Display:
    """A display as a run shows it: only what a function of the user's raises ends the run."""
    return display if isinstance(display, Hook) else Unobtrusive(display)


def short(number: float) -> str:
    """A number in three or four characters: 950, 12k, 3.4M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.1f}{unit}" if scaled < 10 else f"{scaled:.0f}{unit}"  # noqa: PLR2004 - two digits are enough
    return f"{number:.0f}"


def money(cost: float, unpriced: int) -> str:
    """A sum of US dollars, and whether it is the whole of it."""
    if unpriced and not cost:
        return "price unknown"
    known = f"${cost:.4f}" if cost < 1 else f"${cost:,.2f}"
    return f"{known} and {unpriced} rows of unknown price" if unpriced else known


def span(seconds: float) -> str:
    """A time in words: 45 s, 12 min, 3 h 05 min."""
    whole = round(seconds)
    if whole < 90:  # noqa: PLR2004 - a minute and a half reads better in seconds
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"  # noqa: PLR2004
