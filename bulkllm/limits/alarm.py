"""One live timer: a daemon thread that sleeps until the earliest grant and costs nothing while nobody waits.

A thread and not a timer of the waiters' event loops, because a grant must not hang on any one of them: the loop at
the head of the queue may be blocked, stopped or closed. But waking a thread for each grant, which then wakes the loop,
costs several times what a timer of the loop's own costs. So a loop whose tasks wait helps out: it rings on time, and
the thread only where the loop has not done so a moment later.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

# How long the thread outlives the last waiter; starting another costs some 100 µs.
_LINGER: Final = 5.0

# Sleeps are cut at this length, so that a clock that jumped (a laptop that slept) is noticed.
_LONGEST_SLEEP: Final = 60.0

# How late a helping event loop may be before the thread rings in its place, and relies on it no more.
_GRACE: Final = 0.02

# A helping loop rings at most this often: where hundreds go a second, those of a hundredth go at once. They are booked
# at the moments they were due (see LATENESS in the core), so that nothing of the rate is lost.
_APART: Final = 0.01


class Alarm:
    """Calls back at a moment that may be moved forward at any time.

    Its methods are called under the limiter's lock, which makes ``at`` and ``thread`` consistent.

    Args:
        clock: seconds, the clock that moments are given in.
        ring: called in the alarm's thread, without the lock, when the moment has come; it sets the next one.
        may_end: called in the alarm's thread, without the lock, when nothing has happened for a while; it calls
            :meth:`end` if nobody waits, and says whether it did.
        name: the thread's.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        ring: Callable[[], None],
        may_end: Callable[[], bool],
        *,
        name: str = "bulkllm-limiter",
    ) -> None:
        self._name = name
        self._clock = clock
        self._ring = ring
        self._may_end = may_end
        # A SimpleQueue, because its put may be called from a finaliser, and a thread can sleep on its get.
        self._pokes: SimpleQueue[None] = SimpleQueue()
        self._running = False
        self._at = math.inf
        self._helper: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._helped_at = math.inf  # when the helper rings, or a little later
        self._rang_at = -math.inf

    def start(self) -> None:
        """Have the thread running. Not for finalisers: whoever begins to wait calls this."""
        if not self._running:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._running = True

    def end(self) -> None:
        """The thread is about to return."""
        self._running = False
        self._helper = None

    def forward(self, at: float) -> None:
        """Ring at ``at``, or earlier if that was asked for before. Never blocks; may be called in a finaliser."""
        if at < self._at:
            self._at = at
            self._pokes.put(None)

    def reset(self, at: float) -> None:
        """In the alarm's thread: ring at ``at`` next, whatever was asked for before."""
        self._at = at

    def help(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop's own thread, without the lock: have it ring, if no other one does."""
        if self._helper is None:
            self._helper, self._timer, self._helped_at = loop, None, math.inf
        if self._helper is loop and self._at < self._helped_at:
            self._ring_in(loop)

    def _ring_in(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._helped_at = at = self._at
        delay = max(at, self._rang_at + _APART) - self._clock()
        self._timer = loop.call_later(max(delay, 0.0), self._ring_from, loop, at)

    def _ring_from(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._helper is not loop or at != self._helped_at:
            return  # the timer of one that was too late: another has taken its place
        self._timer, self._helped_at = None, math.inf
        self._rang_at = self._clock()
        self._ring()
        if self._at < math.inf:
            self._ring_in(loop)
        else:
            self._helper = None  # the next to wait may be in another one

    def _run(self) -> None:
        while True:
            at = self._at
            pause = _LINGER if at == math.inf else min(max(at + self._grace() - self._clock(), 0.0), _LONGEST_SLEEP)
            try:
                self._pokes.get(timeout=pause)
            except Empty:
                if at == math.inf and self._may_end():
                    return
            grace = self._grace()
            if self._clock() >= self._at + grace:
                if grace:  # the helper is blocked, stopped or closed
                    self._helper, self._helped_at = None, math.inf
                self._ring()

    def _grace(self) -> float:
        """How long after the moment the thread is to ring."""
        return _GRACE if self._helped_at <= self._at < math.inf else 0.0
