"""How one limit counts: as a token bucket, or exactly over the last period.

What may live here: counters as arithmetic. Every function takes the time from its caller.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

# Sums of floats miss whole numbers by a hair; a request must not be refused for that.
_HAIR = 1e-9


class Meter(Protocol):
    """One limit's counter."""

    quota: int

    def available(self, now: float) -> float:
        """What could be taken now; below zero in debt."""

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` could be taken if nobody else came; infinite if it never could."""

    def take(self, amount: float, now: float) -> None:
        """Count ``amount``, if need be into debt."""

    def resets_in(self, now: float) -> float:
        """Seconds until nothing of what was taken counts any more."""

    def resize(self, quota: int, capacity: float, period: float, now: float) -> None:
        """Go on with another quota, remembering what was taken."""


class BucketMeter:
    """A token bucket: full at first, refilled continuously at ``quota`` per ``period`` up to ``capacity``."""

    __slots__ = ("_at", "_capacity", "_level", "_rate", "quota")

    def __init__(self, quota: int, capacity: float, period: float, now: float) -> None:
        self.quota = quota
        self._capacity = self._level = capacity
        self._rate = quota / period
        self._at = now

    def available(self, now: float) -> float:
        """What the bucket holds; below zero in debt."""
        if now > self._at:
            self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
            self._at = now
        return self._level

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until the bucket holds ``amount``; infinite if it is larger than the bucket."""
        if amount > self._capacity + _HAIR:
            return math.inf
        missing = amount - self.available(now)
        return missing / self._rate if missing > _HAIR else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take ``amount`` out, if need be into debt."""
        self._level = self.available(now) - amount

    def resets_in(self, now: float) -> float:
        """Seconds until the bucket is full again."""
        return max(0.0, self._capacity - self.available(now)) / self._rate

    def resize(self, quota: int, capacity: float, period: float, now: float) -> None:
        """Refill at another rate; what a smaller bucket cannot hold is lost, a larger one fills up over time."""
        self._level = min(self.available(now), capacity)
        self.quota, self._capacity, self._rate = quota, capacity, quota / period


class SlidingMeter:
    """Exactly what was taken in the last ``period``; what was taken at ``t`` is free again at ``t + period``."""

    __slots__ = ("_period", "_taken", "_total", "quota")

    def __init__(self, quota: int, period: float) -> None:
        self.quota = quota
        self._period = period
        self._taken: deque[tuple[float, float]] = deque()
        self._total = 0.0

    def available(self, now: float) -> float:
        """What the window has room for; below zero in debt."""
        taken = self._taken
        while taken and taken[0][0] + self._period <= now:
            self._total -= taken.popleft()[1]
        if not taken:
            self._total = 0.0
        return self.quota - self._total

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until enough of what was taken has left the window; infinite if it never has room."""
        if amount > self.quota + _HAIR:
            return math.inf
        missing = amount - self.available(now)
        if missing <= _HAIR:
            return 0.0
        for at, freed in self._taken:
            missing -= freed
            if missing <= _HAIR:
                return at + self._period - now
        return self._period

    def take(self, amount: float, now: float) -> None:
        """Count ``amount`` from now on, if need be into debt."""
        self.available(now)
        self._taken.append((now, amount))
        self._total += amount

    def resets_in(self, now: float) -> float:
        """Seconds until the window is empty."""
        self.available(now)
        return self._taken[-1][0] + self._period - now if self._taken else 0.0

    def resize(self, quota: int, capacity: float, period: float, now: float) -> None:  # noqa: ARG002 - Meter's shape
        """Judge the same past by another quota and period."""
        self.quota, self._period = quota, period
