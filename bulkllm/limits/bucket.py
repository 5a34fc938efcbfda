"""Two ways to count one dimension over time: a token bucket and an exact sliding window.

Only arithmetic may live here: no clock (``now`` comes in, in seconds), no lock, no waiting. Both answer the same
three questions: when would an amount fit, take it, and give some of it back or take more when the real usage is
known. Taking more than there is (a request larger than the whole bucket, or usage above its estimate) goes into
debt, which time repays.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

# Floating point must not make a waiter that was told "ready at t" fail to fit at t.
_SLACK: Final = 1e-9

# A sliding window keeps at most about this many entries: amounts sent within period/_GRAIN of each other expire
# together, when the latest of them does. That errs on the safe side by a 4,096th of the period: 15 ms in a minute.
_GRAIN: Final = 4096


class TokenBucket:
    """A bucket of ``capacity`` that refills continuously at ``rate`` a second.

    The level is kept as the moment at which it was (or, in debt, will be) zero: then refilling costs nothing, and
    taking is one addition.
    """

    __slots__ = ("_empty_at", "_span", "capacity", "dimension", "name", "period", "quota", "rate")

    def __init__(
        self, name: str, dimension: int, quota: float, period: float, *, capacity: float | None = None
    ) -> None:
        self.name = name
        self.dimension = dimension
        self.quota = quota
        self.period = period
        self.rate = quota / period
        self.capacity = quota if capacity is None else capacity
        self._span = self.capacity / self.rate
        self._empty_at = -math.inf

    def ready_at(self, amount: float, now: float, after: float = 0.0) -> float:
        """When ``amount`` fits, or the bucket is full if it is more than that; ``now`` or earlier means at once.

        ``after``: suppose that this much is taken before.
        """
        full_from = now - self._span
        start = self._empty_at if self._empty_at > full_from else full_from
        return start + (after + (amount if amount < self.capacity else self.capacity)) / self.rate - _SLACK

    def take(self, amount: float, now: float) -> None:
        """Take an amount, into debt if need be."""
        full_from = now - self._span
        start = self._empty_at if self._empty_at > full_from else full_from
        self._empty_at = start + amount / self.rate

    def give(self, amount: float, now: float) -> None:
        """Give back an amount that was taken (or, if negative, take more)."""
        if amount < 0:
            self.take(-amount, now)
        else:
            self._empty_at -= amount / self.rate

    def remaining(self, now: float) -> float:
        """What is left now; negative in debt."""
        return min(self.capacity, (now - self._empty_at) * self.rate)


class Grain:
    """What was sent at about one moment, and when it leaves the window."""

    __slots__ = ("amount", "began", "stamp")

    def __init__(self, stamp: float) -> None:
        self.began = stamp
        self.stamp = stamp
        self.amount = 0.0


class SlidingWindow:
    """At most ``quota`` within any ``period`` seconds, counted from when each request was sent.

    What is taken counts as pending, which never expires, until :meth:`send` stamps it.
    """

    __slots__ = (
        "_grains",
        "_pending",
        "_unsent",
        "_used",
        "_width",
        "capacity",
        "dimension",
        "name",
        "period",
        "quota",
    )

    def __init__(self, name: str, dimension: int, quota: float, period: float) -> None:
        self.name = name
        self.dimension = dimension
        self.quota = quota
        self.capacity = quota
        self.period = period
        self._pending = 0.0
        self._unsent = 0  # how many make up what is pending
        self._used = 0.0
        self._width = period / _GRAIN
        self._grains: deque[Grain] = deque()

    def ready_at(self, amount: float, now: float, after: float = 0.0) -> float:
        """When ``amount`` fits; infinity if that hangs on a request that is not sent yet.

        ``after``: suppose that this much is taken before, and not sent yet.
        """
        self._expire(now)
        excess = self._used + self._pending + after + min(amount, self.capacity) - self.capacity
        if excess <= _SLACK:
            return now
        for grain in self._grains:
            excess -= grain.amount
            if excess <= _SLACK:
                return grain.stamp + self.period
        # Fractions of tokens may leave a rounding error above the slack: that is no reason to wait for ever.
        return math.inf if self._unsent or after else self._grains[-1].stamp + self.period

    def take(self, amount: float, now: float) -> None:  # noqa: ARG002 - the bucket needs to know when
        """Take an amount: pending until it is sent."""
        self._pending += amount
        self._unsent += 1

    def send(self, amount: float, now: float) -> Grain:
        """What was pending was sent: it leaves the window one period from now."""
        self.give_pending(amount)
        grains = self._grains
        if not grains or now - grains[-1].began >= self._width:
            grains.append(Grain(max(now, grains[-1].stamp) if grains else now))
        grain = grains[-1]
        grain.stamp = max(grain.stamp, now)
        grain.amount += amount
        self._used += amount
        return grain

    def unsend(self, amount: float, grain: Grain, now: float) -> None:
        """What was stamped turns out not to be sent yet: it is pending again."""
        self.give(amount, grain, now)
        self.take(amount, now)

    def give_pending(self, amount: float) -> None:
        """Give back what was never sent."""
        self._unsent -= 1
        self._pending = self._pending - amount if self._unsent else 0.0

    def give(self, amount: float, grain: Grain, now: float) -> None:
        """Correct what was sent at ``grain`` (negative: it was more); what has left the window is past correcting."""
        self._expire(now)
        if grain.stamp + self.period > now:
            grain.amount -= amount
            self._used -= amount

    def remaining(self, now: float) -> float:
        """What would fit now; negative in debt."""
        self._expire(now)
        return self.capacity - self._used - self._pending

    def _expire(self, now: float) -> None:
        grains = self._grains
        while grains and grains[0].stamp + self.period <= now:  # the very sum that ready_at gave
            self._used -= grains.popleft().amount
        if not grains:
            self._used = 0.0  # whole again: no rounding error outlives the window


Meter = TokenBucket | SlidingWindow
