"""A clock that stands still until it is told to move. What may live here: the clock, nothing that uses it."""

from __future__ import annotations

import asyncio
import threading


class FakeClock:
    """Seconds that pass only when a test says so; hand it in wherever a ``clock`` is asked for.

    Calling it tells the time, as ``time.monotonic()`` does. It may be used from any thread.

    Args:
        start: what the clock shows at first, in seconds.

    Attributes:
        slept: every span that :meth:`sleep` and :meth:`asleep` were asked for, in order.
    """

    def __init__(self, start: float = 0.0) -> None:
        self.slept: list[float] = []
        self._now = start
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """What the clock shows, in seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let time pass and tell the new time.

        Raises:
            ValueError: the span is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        with self._lock:
            self._now += seconds
            return self._now

    def sleep(self, seconds: float) -> None:
        """Stand in for ``time.sleep``: the time passes at once. A span below zero counts as none."""
        self.slept.append(seconds)
        self.advance(max(0.0, seconds))

    async def asleep(self, seconds: float) -> None:
        """Stand in for ``asyncio.sleep``: the time passes at once, and other tasks get their turn."""
        self.sleep(seconds)
        await asyncio.sleep(0)
