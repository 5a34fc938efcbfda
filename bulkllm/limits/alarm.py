"""One live timer: a daemon thread that sleeps until the earliest grant and costs nothing while nobody waits.

A thread and not a timer of the waiters' event loops, because a grant must not hang on any one of them: the loop at
the head of the queue may be blocked, stopped or closed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

# How long the thread outlives the last waiter; starting another costs some 100 µs.
_LINGER: Final = 5.0

# Sleeps are cut at this length, so that a clock that jumped (a laptop that slept) is noticed.
_LONGEST_SLEEP: Final = 60.0


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

    def start(self) -> None:
        """Have the thread running. Not for finalisers: whoever begins to wait calls this."""
        if not self._running:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._running = True

    def end(self) -> None:
        """The thread is about to return."""
        self._running = False

    def forward(self, at: float) -> None:
        """Ring at ``at``, or earlier if that was asked for before. Never blocks; may be called in a finaliser."""
        if at < self._at:
            self._at = at
            self._pokes.put(None)

    def reset(self, at: float) -> None:
        """In the alarm's thread: ring at ``at`` next, whatever was asked for before."""
        self._at = at

    def _run(self) -> None:
        while True:
            at = self._at
            pause = _LINGER if at == math.inf else min(max(at - self._clock(), 0.0), _LONGEST_SLEEP)
            try:
                self._pokes.get(timeout=pause)
            except Empty:
                if at == math.inf and self._may_end():
                    return
            if self._clock() >= self._at:
                self._ring()
