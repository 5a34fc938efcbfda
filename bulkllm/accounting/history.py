"""Records along time, in constant memory: what was spent when, and how many calls worked and how many waited.

What may live here: the sums for each stretch of time. How they are drawn is :mod:`.page`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from .record import UsageRecord
from .response import number
from .tracker import UsageTracker

_MOST: Final = 160  # stretches; when there are more, each two become one


@dataclass(slots=True)
class Stretch:
    """What happened between one moment and the next.

    Attributes:
        start: seconds since 1970.
        seconds: how long it is.
        ok: calls that ended well in it, those from a cache aside.
        cached: calls that a cache answered.
        failed: calls that failed or were given up.
        cost: US dollars, where known, of the calls that ended in it.
        tokens: input and output of these calls.
        working: seconds that calls were under way in it; divided by its length, how many at once.
        waiting: seconds that calls waited in it for limits and budgets, or lost to attempts that failed.
    """

    start: float
    seconds: float
    ok: int = 0
    cached: int = 0
    failed: int = 0
    cost: float = 0.0
    tokens: int = 0
    working: float = 0.0
    waiting: float = 0.0

    def take(self, other: Stretch) -> None:
        """Add another's sums."""
        self.ok += other.ok
        self.cached += other.cached
        self.failed += other.failed
        self.cost += other.cost
        self.tokens += other.tokens
        self.working += other.working
        self.waiting += other.waiting


class History:
    """Counts records in a tracker and along time. The width of a stretch grows with the time that is covered.

    Attributes:
        tracker: what was counted in all.
    """

    def __init__(self, name: str | None = None) -> None:
        self.tracker = UsageTracker(name)
        self._width = 1.0 / 16
        self._stretches: dict[int, Stretch] = {}

    def add(self, record: UsageRecord) -> None:
        """Count a record."""
        self.tracker.record(record)
        began = record.started_at.timestamp()
        waited, worked = max(number(record.waited) or 0.0, _all(record.waits)), number(record.latency) or 0.0
        ended = began + waited + worked
        self._widen(began, ended)
        last = self._at(ended)
        if record.cached:
            last.cached += 1
        elif record.ok:
            last.ok += 1
        else:
            last.failed += 1
        last.cost += record.cost or 0.0
        last.tokens += 0 if record.cached else record.total_tokens
        for stretch, seconds in self._spread(began, began + waited):
            stretch.waiting += seconds
        for stretch, seconds in self._spread(began + waited, ended):
            stretch.working += seconds

    @property
    def began(self) -> datetime | None:
        """When the first call began."""
        return datetime.fromtimestamp(min(self._stretches) * self._width, UTC) if self._stretches else None

    def stretches(self, most: int = _MOST) -> list[Stretch]:
        """All of them in order, those in which nothing happened too.

        Args:
            most: two become one until there are no more than that.
        """
        if not self._stretches:
            return []
        first, last = min(self._stretches), max(self._stretches)
        if last - first + 1 > most:
            coarser = History()
            coarser._width = 2 * self._width
            for stretch in self._stretches.values():
                coarser._at(stretch.start).take(stretch)
            return coarser.stretches(most)
        return [self._stretches.get(key) or Stretch(key * self._width, self._width) for key in range(first, last + 1)]

    def _at(self, moment: float) -> Stretch:
        key = int(moment // self._width)
        found = self._stretches.get(key)
        if found is None:
            found = self._stretches[key] = Stretch(key * self._width, self._width)
        return found

    def _spread(self, begin: float, end: float) -> Iterator[tuple[Stretch, float]]:
        while begin < end:
            stretch = self._at(begin)
            edge = min(end, stretch.start + stretch.seconds)
            if edge <= begin:  # too near for binary fractions of seconds since 1970
                return
            yield stretch, edge - begin
            begin = edge

    def _widen(self, begin: float, end: float) -> None:
        """Have stretches so wide that all of them are few."""
        keys = self._stretches
        first = min(min(keys) * self._width, begin) if keys else begin
        last = max((max(keys) + 1) * self._width, end) if keys else end
        while (last - first) / self._width > _MOST:
            self._width *= 2
            narrow, self._stretches = self._stretches, {}
            for stretch in narrow.values():
                self._at(stretch.start).take(stretch)


def _all(waits: Mapping[str, float]) -> float:
    return sum(number(seconds) or 0.0 for seconds in waits.values())
