"""How fast to go where nobody tells a limit: faster until refused, then just below what was let in.

As long as nothing is refused there is no pace at all. At the first refusal it is what a minute has let in so far, for
most providers count minutes. From then on it grows, slowly at first and faster the longer nothing is refused, and each
refusal sets it a little below what was really let in: between two refusals, when a bucket went from empty to empty, and
in the last minute. Where a refusal lasts longer than any bucket of that pace would take, the provider counts a window,
and so does the pace from then on. Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from typing import Final

from .bucket import SlidingWindow, TokenBucket
from .spec import REQUESTS

_MINUTE: Final = 60.0

# After a refusal: just below what was measured.
_STEP_BACK: Final = 0.95
# If there was too little to measure.
_BACK_OFF: Final = 0.9
_ENOUGH: Final = 10
_FEW: Final = 3

# So few requests before the first refusal are no minute's quota: the pace at which they went is to blame.
_NO_QUOTA: Final = 100
_FIRST_BACK_OFF: Final = 0.7

# Growth with each request that goes, at first; it doubles with each so many seconds without a refusal, up to so much
# a second. With a tenth given up at each refusal, about two requests in a hundred are refused.
_GROWTH: Final = 0.002
_DOUBLES_IN: Final = 12.0
_LARGEST_GROWTH: Final = 0.5
_GROWS_EVERY: Final = 0.25

# Requests that may go at once after a pause, in seconds of the pace.
_BURST: Final = 0.5

_SLOWEST: Final = 0.5

# A bucket has refilled by so many requests, and still nothing goes: it is none.
_MUST_BE_A_WINDOW: Final = 5.0

# What is left of a window's quota after a refusal.
_STEP_BACK_IN_WINDOW: Final = 0.98

# How much a window's quota grows after the first minute without a refusal; twice as much after the next.
_GROWTH_OF_WINDOW: Final = 0.01


class _Mark:
    """A moment: when, how many had been sent before it, and how many of those were let in."""

    __slots__ = ("at", "let_in", "sent")

    def __init__(self, at: float, sent: int, let_in: int) -> None:
        self.at = at
        self.sent = sent
        self.let_in = let_in


class Pace:
    """Requests that may go, found by trying.

    Attributes:
        meter: what lets them go; None as long as there is no limit.
        sent: requests that were granted, in all.
        refused: how many of them were refused.
    """

    __slots__ = ("_began", "_event", "_grown_at", "_marks", "meter", "refused", "sent")

    def __init__(self, now: float) -> None:
        self.meter: TokenBucket | SlidingWindow | None = None
        self.sent = 0
        self.refused = 0
        self._began = now
        self._marks: deque[_Mark] = deque()  # each second's first moment, for a minute
        self._event: _Mark | None = None  # the last refusal that taught something
        self._grown_at = now

    @property
    def rate(self) -> float:
        """Requests a second; infinite without a limit."""
        return math.inf if self.meter is None else self.meter.quota / _MINUTE

    @property
    def let_in(self) -> int:
        """Requests that were not refused, those under way among them."""
        return self.sent - self.refused

    def took(self, now: float) -> None:
        """A request is granted."""
        if not self._marks or now - self._marks[-1].at >= 1.0:
            self._marks.append(_Mark(now, self.sent, self.let_in))
            while self._marks[0].at < now - _MINUTE - 2.0:
                self._marks.popleft()
        self.sent += 1
        meter = self.meter
        if meter is not None:
            meter.take(1.0, now)
            if isinstance(meter, SlidingWindow):
                meter.send(1.0, now + meter.margin)
            if now - self._grown_at >= (_MINUTE if isinstance(meter, SlidingWindow) else _GROWS_EVERY):
                self._grow(meter, now)

    def gave_back(self, now: float) -> None:
        """A granted request was never sent."""
        self.sent -= 1
        if isinstance(self.meter, TokenBucket):
            self.meter.give(1.0, now)

    def count_refused(self, number: int) -> None:
        """The request of this number was refused; until now it was taken for one that was let in."""
        self.refused += 1
        for mark in reversed(self._marks):
            if mark.sent < number:
                break
            mark.let_in -= 1
        if self._event is not None and number <= self._event.sent:
            self._event.let_in -= 1

    def refuse(self, number: int, now: float, retry_after: float | None = None) -> bool:
        """The request of this number was refused. Says whether this was news: one burst is one lesson."""
        self.count_refused(number)
        event = self._event
        if event is not None and number <= event.sent:
            return False
        if event is not None and self.let_in - event.let_in < _FEW:  # nothing goes yet: the pace is not to blame
            if isinstance(self.meter, TokenBucket) and self.rate * (now - event.at) > _MUST_BE_A_WINDOW:
                if self._last_minute(event.at) >= _NO_QUOTA:
                    self._count_a_window(event.at)
                else:
                    self.set_rate(self.rate / 2, now)
                    event.at = now
            return True
        if isinstance(self.meter, SlidingWindow):
            self._event = _Mark(now, self.sent, self.let_in)
            self._grown_at = now
            self.meter.resize(max(1.0, _STEP_BACK_IN_WINDOW * min(self.meter.quota, self._last_minute(now))), now)
            return True
        rate = self._measured(now)
        before = self.rate
        if rate is None:
            rate = before * _BACK_OFF if before < math.inf else self._first_guess(now)
        elif before < math.inf:
            rate = min(before, rate * _STEP_BACK)
        self._event = _Mark(now, self.sent, self.let_in)
        self._grown_at = now
        self.set_rate(rate, now)
        if before == math.inf and retry_after is not None and self.rate * retry_after > _MUST_BE_A_WINDOW:
            self._count_a_window(now)
        return True

    def set_rate(self, rate: float, now: float) -> None:
        """Go at this pace from now on, with nothing saved up."""
        rate = max(rate, _SLOWEST)
        self.meter = TokenBucket("pace", REQUESTS, rate * _MINUTE, _MINUTE, capacity=max(1.0, rate * _BURST))
        self.meter.set_remaining(0.0, now)

    def _count_a_window(self, now: float) -> None:
        """Let go what the first minute let in, within any minute."""
        quota = max(1.0, float(self._last_minute(now)))
        self.meter = window = SlidingWindow("pace", REQUESTS, quota, _MINUTE)
        for mark, after in pairwise([*self._marks, _Mark(now, self.sent, self.let_in)]):
            window.take(after.let_in - mark.let_in, mark.at)
            window.send(after.let_in - mark.let_in, mark.at + 1.0)

    def _first_guess(self, now: float) -> float:
        """Most providers count minutes, and have let in what a minute has; but not if that is only a handful."""
        count = self._last_minute(now)
        if count < _NO_QUOTA:
            return max(count, 1) / max(now - self._began, 1e-3) * _FIRST_BACK_OFF
        return count / _MINUTE

    def _measured(self, now: float) -> float | None:
        """What was let in a second, as far as that can be told."""
        found = []
        if self._event is not None:
            since, before = self._event.at, self._event.let_in
            if self.let_in - before >= _ENOUGH:
                found.append((self.let_in - before) / (now - since))
        if now - self._began >= _MINUTE:
            found.append(self._last_minute(now) / _MINUTE)
        return min(found, default=None)

    def _last_minute(self, now: float) -> int:
        """How many were let in within the last minute, or a little more: rather too many than too few."""
        before = 0
        for mark in self._marks:
            if mark.at > now - _MINUTE - 1.0:
                before = mark.let_in
                break
        return self.let_in - before if self._marks else 0

    def _grow(self, meter: TokenBucket | SlidingWindow, now: float) -> None:
        if meter.remaining(now) >= 1.0:
            return  # nobody is held up by it
        elapsed, self._grown_at = min(now - self._grown_at, 1.0), now
        calm = now - (self._event.at if self._event else self._began)
        if isinstance(meter, SlidingWindow):
            growth = min(_LARGEST_GROWTH, _GROWTH_OF_WINDOW * 2.0 ** min(calm / _MINUTE, 30.0))
            meter.resize(meter.quota * (1.0 + growth), now)
        else:
            a_second = _GROWTH * meter.quota / _MINUTE * 2.0 ** min(calm / _DOUBLES_IN, 30.0)
            growth = min(_LARGEST_GROWTH, a_second)
            quota = meter.quota * (1.0 + growth * elapsed)
            meter.resize(quota, max(1.0, quota / _MINUTE * _BURST), now)
