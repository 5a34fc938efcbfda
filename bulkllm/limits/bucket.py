"""Two ways to count one dimension over time: a token bucket and an exact sliding window.

Only arithmetic may live here: no clock (``now`` comes in, in seconds), no lock, no waiting. Both answer the same
three questions: when would an amount fit, take it, and give some of it back or take more when the real usage is
known. Taking more than there is (a request larger than the whole bucket, or usage above its estimate) goes into
debt, which time repays.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

# Floating point must not make a waiter that was told "ready at t" fail to fit at t.
_SLACK: Final = 1e-9

# A sliding window keeps at most about this many entries: amounts sent within period/_GRAIN of each other expire
# together, when the latest of them does. That errs on the safe side by a 4,096th of the period: 15 ms in a minute.
_GRAIN: Final = 4096

# The provider counts a request from when it arrives, and the one that takes its place a period later may be quicker
# on its way. So a request leaves the window later than its sending says, by this share of the period at first
# (0.3 s in a minute); each refusal that nothing else explains doubles that, up to a thirtieth of the period.
_MARGIN: Final = 200
_LARGEST_MARGIN: Final = 30


LARGEST_DEBT: Final = 60
"""Periods. A provider may tell any number of tokens: 4,294,967,295 of them would close a limit for weeks."""


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
            self._empty_at = min(self._empty_at, now + LARGEST_DEBT * self.period)
        else:
            self._empty_at -= amount / self.rate

    def remaining(self, now: float) -> float:
        """What is left now; negative in debt."""
        return min(self.capacity, (now - self._empty_at) * self.rate)

    def set_remaining(self, level: float, now: float) -> None:
        """Have so much left now."""
        self._empty_at = now - min(level, self.capacity) / self.rate

    def resize(self, quota: float, capacity: float, now: float) -> None:
        """Go on with another quota a period, and with what is left as far as it finds room."""
        level = self.remaining(now)
        self.quota = quota
        self.capacity = capacity
        self.refill_at(quota / self.period, now, level)

    def refill_at(self, rate: float, now: float, level: float | None = None) -> None:
        """Refill at another rate from now on, leaving what is left as it is (or as given)."""
        left = self.remaining(now) if level is None else level
        self.rate = rate
        self._span = self.capacity / rate
        self.set_remaining(left, now)

    def full_until(self, moment: float, since: float) -> None:
        """What was taken at ``since``, from a full bucket, was taken no earlier than ``moment``."""
        self._empty_at += moment - since


def take_all(buckets: Sequence[TokenBucket], amounts: Sequence[float], now: float) -> bool:
    """Take its dimension's amount from each bucket if all have it, or else nothing from any.

    As asking each and then taking from each, but in one go: this is most of what an uncontended call costs.
    """
    by = now + _SLACK
    for bucket in buckets:
        start = now - bucket._span
        if start < bucket._empty_at:
            start = bucket._empty_at
        bucket._empty_at = start = start + amounts[bucket.dimension] / bucket.rate
        if start > by:
            for taken in buckets:
                taken._empty_at -= amounts[taken.dimension] / taken.rate
                if taken is bucket:
                    break
            return False
    return True


def give_back_all(buckets: Sequence[TokenBucket], taken: Sequence[float], kept: Sequence[float], now: float) -> None:
    """Give back to each bucket what was taken of it and is not kept (or take more, where more is kept)."""
    for bucket in buckets:
        amount = taken[bucket.dimension] - kept[bucket.dimension]
        if amount > 0:
            bucket._empty_at -= amount / bucket.rate
        elif amount < 0:
            bucket.give(amount, now)


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
        "_widened_at",
        "_width",
        "capacity",
        "dimension",
        "margin",
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
        self.margin = period / _MARGIN
        self._widened_at = -math.inf
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
        if self._unsent:
            return math.inf
        if after:  # it goes now, then
            return now + self.margin + self.period
        # Fractions of tokens may leave a rounding error above the slack: that is no reason to wait for ever.
        return self._grains[-1].stamp + self.period

    def take(self, amount: float, now: float) -> None:  # noqa: ARG002 - the bucket needs to know when
        """Take an amount: pending until it is sent."""
        self._pending += amount
        self._unsent += 1

    def send(self, amount: float, now: float) -> Grain:
        """What was pending was sent: it leaves the window one period from now."""
        SlidingWindow.give_pending(self, amount)
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
        SlidingWindow.give(self, amount, grain, now)
        SlidingWindow.take(self, amount, now)

    def give_pending(self, amount: float) -> None:
        """Give back what was never sent."""
        self._unsent -= 1
        self._pending = self._pending - amount if self._unsent else 0.0

    def give(self, amount: float, grain: Grain, now: float) -> None:
        """Correct what was sent at ``grain`` (negative: it was more); what has left the window is past correcting."""
        self._expire(now)
        if grain.stamp + self.period > now:
            back = min(amount, grain.amount)  # the rest was given back before, by the provider's word
            grain.amount -= back
            self._used -= back

    def count_later(self, amount: float, grain: Grain, now: float) -> None:
        """So much of what was sent at ``grain`` counts from now on only: the provider sees output when it is there."""
        # Not through self: whoever counts both ways has it in the bucket as it is.
        SlidingWindow.give(self, amount, grain, now)
        SlidingWindow.take(self, amount, now)
        SlidingWindow.send(self, amount, now)

    def remaining(self, now: float) -> float:
        """What would fit now; negative in debt."""
        self._expire(now)
        return self.capacity - self._used - self._pending

    def widen(self, sent_at: float, now: float) -> bool:
        """A request was refused although there was room. Says whether that is because it came too early.

        A busy program is late with a burst, and a minute later in time with what takes its place. What was sent
        before the margin was last widened says nothing new.
        """
        if sent_at >= self._widened_at:
            if self.margin >= self.period / _LARGEST_MARGIN:
                return False
            self.margin = min(2 * self.margin, self.period / _LARGEST_MARGIN)
            self._widened_at = now
        return True

    def resize(self, quota: float, now: float) -> None:  # noqa: ARG002 - a bucket needs to know when
        """Go on with another quota a period; what was sent stays counted."""
        self.quota = self.capacity = quota

    def correct(self, amount: float, now: float) -> None:
        """Somebody else took this much now; or, if negative, this much less was taken than is counted."""
        self._expire(now)
        if amount > 0:
            SlidingWindow.take(self, amount, now)
            SlidingWindow.send(self, amount, now)
            return
        for grain in self._grains:  # they stay, empty: whoever was sent then may still be corrected
            if amount >= 0:
                break
            taken = min(-amount, grain.amount)
            grain.amount -= taken
            self._used -= taken
            amount += taken

    def _expire(self, now: float) -> None:
        grains = self._grains
        while grains and grains[0].stamp + self.period <= now:  # the very sum that ready_at gave
            self._used -= grains.popleft().amount
        if not grains:
            self._used = 0.0  # whole again: no rounding error outlives the window


Meter = TokenBucket | SlidingWindow
