"""What is left of one meter, as all who share it know it together. Pure: moments come in, in the store's seconds.

The shared bucket or window is told of spending after the fact, with the moment at which it happened; what is held
and not spent yet is the :mod:`.ledger`'s business. Both kinds remember what was spent when, in slices of their
period: a window in order to know what leaves it, a bucket so that a provider's word about the recent past can be
compared with what was spent since. Whatever a slice holds is taken to be spent at its end, which errs on the safe
side by a 128th of a period.
"""

from __future__ import annotations

import math
from typing import Any, Final

from .base import Kind, Meter

Definition = tuple[Kind, float, float, float, bool]
"""Kind, quota, period, size and whether it is whole."""

# Slices a period is cut into. A bucket needs its own only for comparing.
SLICES: Final = {"bucket": 64, "sliding": 128, "slots": 1}


class Gauge:
    """The state of one meter.

    Attributes:
        level: a bucket's content at the moment ``at``.
        spent: what was spent by slice; slice n ends at n times the width. A window keeps two periods, so that it
            knows too what it looked like a while ago.
        told: the moment of which the newest correction spoke.
        known: up to this moment, what was spent is in the level or the window already, reported or not.
        top: the highest standing that anybody has among those who share the meter.
    """

    __slots__ = (
        "at",
        "capacity",
        "definition",
        "kind",
        "known",
        "level",
        "period",
        "quota",
        "spent",
        "told",
        "top",
        "whole",
        "width",
    )

    def __init__(self, definition: Definition, now: float) -> None:
        self._define(definition)
        self.level = self.capacity
        self.at = now
        self.spent: dict[int, float] = {}
        self.told = -math.inf
        self.known = -math.inf
        self.top = 0.0

    def _define(self, definition: Definition) -> None:
        self.definition = definition
        self.kind, self.quota, self.period, self.capacity, self.whole = definition
        self.width = self.period / SLICES[self.kind]

    def adopt(self, definition: Definition, now: float) -> None:
        """Go on by this definition."""
        if definition == self.definition:
            return
        left, width, kind = self.left(now), self.width, self.kind
        self._define(definition)
        if width != self.width:
            # There and back again must change nothing, however often processes disagree.
            nearest = math.floor if self.width < width else math.ceil
            resliced: dict[int, float] = {}
            for number, amount in self.spent.items():
                mine = nearest(number * width / self.width)
                resliced[mine] = resliced.get(mine, 0.0) + amount
            self.spent = resliced
        if self.kind == "bucket":
            self.level = min(self.capacity, left if kind == "bucket" else self.quota - self._used(now))
            self.at = now

    def left(self, now: float) -> float:
        """What would be left if nobody held anything; negative in debt."""
        if self.kind == "bucket":
            return min(self.capacity, self.level + (now - self.at) * self.quota / self.period)
        return self.capacity - self._used(now)

    def spend(self, amount: float, stamp: float) -> None:
        """Book what was spent at a moment (negative: it was less than was booked for that moment)."""
        if self.kind == "slots" or stamp <= self.known:
            return
        number = math.ceil(stamp / self.width)
        if self.kind == "bucket":
            if stamp > self.at:  # nothing was booked since: the bucket can be taken back to that moment
                self.level = self.left(stamp)
                self.at = stamp
            self.level = min(self.capacity, self.level - amount)
        self.spent[number] = max(0.0, self.spent.get(number, 0.0) + amount)

    def correct(self, at_least: float | None, at_most: float | None, stamp: float, now: float) -> bool:
        """Move what is left into what a provider said of a moment; says whether this was news."""
        if stamp <= self.told or stamp < now - self.period:
            return False
        self.told = stamp
        if self.kind == "bucket":
            moved = self._correct_bucket(at_least, at_most, stamp, now)
        else:
            moved = self._correct_window(at_least, at_most, stamp)
        if moved:
            self.known = stamp
        return True

    def _correct_bucket(self, at_least: float | None, at_most: float | None, stamp: float, now: float) -> bool:
        # A slice that the moment cuts counts as spent before it for the one bound and after it for the other.
        surely = sum(a for n, a in self.spent.items() if (n - 1) * self.width >= stamp)
        perhaps = sum(a for n, a in self.spent.items() if n * self.width > stamp)
        refilled = (now - stamp) * self.quota / self.period
        level = before = self.left(now)
        if at_least is not None:
            level = max(level, min(self.capacity, at_least + refilled) - perhaps)
        if at_most is not None:
            level = min(level, self.capacity, at_most + refilled - surely)
        self.level = level
        self.at = now
        return level != before

    def _correct_window(self, at_least: float | None, at_most: float | None, stamp: float) -> bool:
        began = stamp - self.period
        if at_most is not None:
            perhaps = sum(a for n, a in self.spent.items() if began < n * self.width < stamp + self.width)
            foreign = self.capacity - at_most - perhaps
            if foreign > 0:
                number = math.ceil(stamp / self.width)
                self.spent[number] = self.spent.get(number, 0.0) + foreign
                return True
        if at_least is not None:
            inside = sorted(n for n in self.spent if (n - 1) * self.width >= began and n * self.width <= stamp)
            surplus = sum(self.spent[n] for n in inside) - (self.capacity - at_least)
            if surplus > 0:
                for number in inside:  # what is to leave the window first
                    less = min(surplus, self.spent[number])
                    self.spent[number] -= less
                    surplus -= less
                return True
        return False

    def wait(self, missing: float, now: float) -> float:
        """Seconds until there is this much more; infinity if that is not a matter of time."""
        if missing <= 0:
            return 0.0
        if self.kind == "bucket":
            return missing * self.period / self.quota
        if self.kind == "sliding":
            for number in sorted(self.spent):
                leaves = number * self.width + self.period
                if leaves > now:
                    missing -= self.spent[number]
                    if missing <= self.slack:
                        return leaves - now
        return math.inf

    @property
    def slack(self) -> float:
        """What rounding may get wrong."""
        return 1e-9 * max(1.0, self.capacity * 1e-3)

    def as_new_in(self, now: float) -> float:
        """Seconds until nothing is to be remembered any more."""
        if self.kind == "bucket":
            return max(0.0, (self.capacity - self.level) * self.period / self.quota - (now - self.at))
        return max((number * self.width + 2 * self.period - now for number in self.spent), default=0.0)

    def is_idle(self, now: float) -> bool:
        """Whether a new one would be the same."""
        return self.as_new_in(now) <= 0 and self.told < now - self.period

    def forget(self, now: float) -> None:
        """Drop slices that are of no use any more."""
        oldest = now - (2 if self.kind == "sliding" else 1) * self.period
        self.spent = {n: amount for n, amount in self.spent.items() if n * self.width > oldest and amount > 0}

    def inherit(self, earlier: Gauge, shift: float, now: float) -> None:
        """Take over what was missing from an earlier state of the same meter, whose clock was ``shift`` behind."""
        if self.kind == "bucket":
            was_bucket = earlier.kind == "bucket"
            self.level = self.left(now) - (
                earlier.capacity - earlier.level if was_bucket else sum(earlier.spent.values())
            )
            self.at = now
        for number, amount in earlier.spent.items():
            same = shift == 0 and earlier.width == self.width
            mine = number if same else math.ceil((number * earlier.width + shift) / self.width)
            self.spent[mine] = self.spent.get(mine, 0.0) + amount
        self.top = max(self.top, earlier.top)
        self.told = max(self.told, earlier.told + shift)
        self.known = max(self.known, earlier.known + shift)

    def _used(self, now: float) -> float:
        began = now - self.period
        return sum(amount for number, amount in self.spent.items() if number * self.width > began)

    def dump(self) -> list[Any]:
        """As plain data."""
        times = [None if moment == -math.inf else moment for moment in (self.told, self.known)]
        return [self.definition, self.level, self.at, self.top, *times, list(self.spent.items())]

    @classmethod
    def load(cls, data: list[Any]) -> Gauge:
        """What :meth:`dump` gave."""
        definition, level, at, top, told, known, spent = data
        gauge = cls(tuple(definition), at)
        gauge.level = level
        gauge.top = top
        gauge.told = -math.inf if told is None else told
        gauge.known = -math.inf if known is None else known
        gauge.spent = dict(spent)
        return gauge


def definition_of(meter: Meter) -> Definition:
    """What of a meter's definition matters here."""
    return (meter.kind, float(meter.quota), float(meter.period), meter.size, meter.whole)
