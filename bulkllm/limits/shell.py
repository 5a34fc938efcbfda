"""The core behind one lock, and the waking of those who wait, in threads and in event loops.

What holds throughout: the lock guards arithmetic only, for microseconds. Nobody who waits holds it; nothing awaits,
does I/O or calls foreign code under it. Whoever settles never waits for it (a finaliser may be running while the
same thread holds it): news goes into a deque, and whoever holds the lock looks there before and after. Grants are
made by whatever happens next (an arrival, a release, the alarm) on the head's behalf, and waking comes after.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .._waiters import TaskWaiter
from ..errors import QuotaExhausted
from .alarm import Alarm
from .core import Core
from .discovery import Discovered
from .lanes import TURNED_AWAY, Lane, Ticket, Waiter
from .memory import LimitMemory
from .notices import Notices
from .origin import Origin
from .pool import Amounts
from .reservation import HEARD, PASS_OVER, SENT, SETTLE, STAMP, Reservation
from .sharing import Sharing
from .spec import RateLimit
from .word import Closing, Word

if TYPE_CHECKING:
    from .keeper import Keeper

_News = tuple[int, Ticket, Amounts | None, Word | None]


class Shell:
    """What of a limiter its reservations, its alarm and its keeper talk to.

    Args:
        limits: the limits.
        clock: seconds, monotonic.
        memory: where what is learned is remembered; None for nowhere.
        sharing: how the limits are shared with other processes, if they are.
    """

    def __init__(
        self,
        limits: tuple[RateLimit, ...],
        clock: Callable[[], float],
        memory: LimitMemory | None,
        sharing: Sharing | None,
    ) -> None:
        self.limits = limits
        self._memory = memory
        self._clock = clock
        self._keeper = None if sharing is None or not limits else self._begin_sharing(sharing)
        self._core = self._new_core()
        self._lock = threading.Lock()
        self._news: deque[_News] = deque()
        self._notices = Notices()
        self._alarm = Alarm(clock, self._ring, self._may_end)
        _shells.add(self)

    def _exhausted(self, model: str, closing: Closing) -> QuotaExhausted:
        seconds = max(0.0, closing.until - self._clock())
        until = datetime.fromtimestamp(round(time.time() + seconds), UTC)
        return QuotaExhausted(model, closing.quota, until, seconds)

    def _lane(self, model: str, origin: Origin | None = None) -> Lane:
        lane = self._core.known_lanes.get(model if origin is None else (model, origin))
        if lane is None:
            known = None if origin is None or self._memory is None else self._memory.recall(origin, model)
            with self._lock:
                lane = self._core.lane(model, origin, now=self._clock(), known=known)
                if known is not None and lane.discovered is not None:
                    self._notices.remembered(lane.discovered)
            self._after()
            self._notices.say()
        return lane

    # -- what reservations call ------------------------------------------------------------------------------

    def _request(self, reservation: Reservation, make_waiter: Callable[[], Waiter]) -> Waiter | None:
        """Ask for a grant. Returns what will be woken if it must be waited for."""
        core = self._core
        model, origin = reservation.model, reservation.origin
        lane = core.known_lanes.get(model if origin is None else (model, origin))
        if lane is None:
            lane = self._lane(model, origin)
        try:
            with self._lock:
                if self._news:
                    self._take_in()
                now = self._clock()
                ticket = reservation._ticket = Ticket(lane, reservation._amounts)
                if core.grant_at_once(ticket, now):
                    if lane.buckets is None:
                        core.stamp(ticket, now)
                else:
                    self._stand_in_line(ticket, reservation, make_waiter, now)
        except BaseException:  # impossible, no event loop, no thread to be had: it must not stay in line
            reservation.refund()
            raise
        finally:  # also for the sake of others, who may have posted news while this one held the lock
            if self._news or core.granted:
                self._after()
        waiter = ticket.waiter
        if waiter is not None:
            if isinstance(waiter, TaskWaiter):
                self._help_from(waiter.loop)
        elif ticket.state == TURNED_AWAY and ticket.closing is not None:
            reservation.refund()
            raise self._exhausted(model, ticket.closing)
        return waiter

    def _stand_in_line(
        self, ticket: Ticket, reservation: Reservation, make_waiter: Callable[[], Waiter], now: float
    ) -> None:
        """With the lock: let a ticket wait, unless it is turned away or goes at once after all."""
        core = self._core
        priority, front, patience = reservation.priority, reservation.front, reservation._patience
        if core.request(ticket, now, priority=priority, front=front, patience=patience):
            core.stamp(ticket, now)
        elif ticket.state != TURNED_AWAY:
            ticket.waiter = make_waiter()
            self._alarm.start()
            self._alarm.forward(core.next_alarm())
            if self._keeper is not None:
                self._keeper.start()

    def _help_from(self, loop: AbstractEventLoop) -> None:
        """In an event loop's own thread: it runs, and may ring for those who wait."""
        if self._core.waiting:
            self._alarm.help(loop)

    def _resume(self, ticket: Ticket) -> None:
        """Whoever was passed over is back."""
        with self._lock:
            self._take_in()
            self._core.resume(ticket, self._clock())
            self._alarm.start()
            self._alarm.forward(self._core.next_alarm())
            if self._keeper is not None:
                self._keeper.start()
        self._after()

    def _post(self, what: int, ticket: Ticket, actual: Amounts | None = None, word: Word | None = None) -> None:
        """Hand in news without ever waiting; safe in a finaliser."""
        self._news.append((what, ticket, actual, word))
        self._after()
        if word is not None and self._notices.unsaid:  # whoever brings an answer's word is no finaliser
            self._notices.say()

    def _settle(self, ticket: Ticket, actual: Amounts | None, word: Word | None) -> None:
        """Hand in the end of a reservation, as :meth:`_post` does; at once where nothing stands in the way."""
        if word is not None or self._news or not self._lock.acquire(blocking=False):
            self._post(SETTLE, ticket, actual, word)
            return
        core = self._core
        try:
            core.settle(ticket, self._clock(), actual)
            if core.waiting:
                self._alarm.forward(core.next_alarm())
        finally:
            self._lock.release()
        if self._news or core.granted:
            self._after()

    # -- under the lock, and right after it ------------------------------------------------------------------

    def _take_in(self) -> None:
        """With the lock: apply all news."""
        news = self._news
        core = self._core
        now = self._clock()
        while news:
            what, ticket, actual, word = news.popleft()
            if word is not None and self._keeper is not None:
                word = self._keeper.hear(ticket, word)
            if what == SETTLE:
                core.settle(ticket, now, actual, word)
            elif what == SENT:
                core.stamp(ticket, now, really=True)
            elif what == STAMP:
                core.stamp(ticket, now)
            elif what == HEARD:
                if word is not None:
                    core.heard(ticket, now, word)
            else:
                core.pass_over(ticket, now)
            if word is not None and (discovered := ticket.lane.discovered) is not None:
                if discovered.news:
                    self._learned(discovered, now)
                if word.verdict != "let in":
                    self._notices.hindered(discovered, word, now)
        if core.waiting:
            self._alarm.forward(core.next_alarm())

    def _is_closed(self, ticket: Ticket) -> bool:
        """Without the lock: whether nothing goes there for now; a moment's error does no harm."""
        discovered = ticket.lane.discovered
        return discovered is not None and discovered.closed_until > self._clock()

    def _learned(self, discovered: Discovered, now: float) -> None:
        """With the lock: have something remembered, and told. Writing is not done here."""
        discovered.news = False
        self._notices.learned(discovered, now)
        if self._memory is not None:
            self._memory.note(discovered.origin, discovered.name, discovered.knowledge())

    def _after(self) -> None:
        """Without the lock: see to news that came while it was held, and wake those who were granted."""
        core = self._core
        while self._news or core.granted:
            if not self._lock.acquire(blocking=False):
                return  # whoever holds it comes here after letting go
            try:
                self._take_in()
                granted, core.granted = core.granted, []
            finally:
                self._lock.release()
            self._wake_all(granted)

    def _wake_all(self, granted: list[Ticket]) -> None:
        woken = 0
        try:
            for ticket in granted:
                self._wake(ticket)
                woken += 1
        except BaseException:  # interrupted: the others hold grants, and would wait for ever
            with self._lock:
                self._core.granted[:0] = granted[woken:]
            raise

    def _wake(self, ticket: Ticket) -> None:
        waiter = ticket.waiter
        if waiter is not None:
            if waiter.is_away():  # told before it is woken, so that it finds it told
                self._news.append((PASS_OVER, ticket, None, None))
            if not waiter.wake():
                self._news.append((SETTLE, ticket, None, None))

    def _ring(self) -> None:
        """In the alarm's thread: grant what has come free."""
        with self._lock:
            self._take_in()
            self._core.due(self._clock())
            self._alarm.reset(self._core.next_alarm())
        self._after()
        self._notices.say()

    def _may_end(self) -> bool:
        """In the alarm's thread: whether it may end, since nobody waits."""
        with self._lock:
            self._take_in()
            idle = self._core.waiting == 0
            if idle:
                self._alarm.end()
        self._after()
        return idle

    def _begin_sharing(self, sharing: Sharing) -> Keeper:
        from .keeper import Keeper  # the rest of us does without

        return Keeper(self, sharing, self._clock)

    def _new_core(self) -> Core:
        return Core(self.limits if self._keeper is None else self._keeper.leases.pools)

    def _after_fork(self) -> None:
        """In a child process: whoever held the lock or waited stayed in the parent."""
        self._lock = threading.Lock()
        self._news.clear()
        self._notices = Notices()
        self._core.forget_waiters()
        self._keeper = None if self._keeper is None else self._keeper.successor()
        self._core = self._new_core()
        self._alarm = Alarm(self._clock, self._ring, self._may_end)


_shells: weakref.WeakSet[Shell] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for shell in _shells:
        shell._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
