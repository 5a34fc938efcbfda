"""The rate limiter: the core behind one lock, and the waking of those who wait, in threads and in event loops.

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
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .._waiters import TaskWaiter
from ..errors import ConfigError, QuotaExhausted
from .alarm import Alarm
from .clock import monotonic
from .core import Core
from .discovery import Closing, Discovered, Word
from .lanes import TURNED_AWAY, Lane, Ticket, Waiter
from .learned import LearnedLimits
from .memory import DEFAULT_MEMORY, LimitMemory
from .notices import Notices
from .origin import Origin
from .pool import Amounts
from .reservation import HEARD, PASS_OVER, SENT, SETTLE, STAMP, Reservation, amounts_of
from .sharing import SharedThrough, Sharing, sharing_of
from .spec import RateLimit
from .spent import patience_of
from .status import LimitStatus, status_of

if TYPE_CHECKING:
    from .keeper import Keeper

_News = tuple[int, Ticket, Amounts | None, Word | None]


class RateLimiter:
    """Holds requests back until all limits that match their model let them go.

    One limiter serves threads, tasks of any number of event loops, and plain synchronous code at the same time.

    Args:
        limits: the limits; a single one may stand without a list.
        clock: seconds, monotonic; they go on while the machine sleeps. Tests pass their own.
        learn: whether to learn from what providers answer to a client's calls: limits that nobody configured, what is
            left of them, refusals. What is learned is remembered in the user's state directory.
        memory: where that is remembered instead; None in a limiter that is to forget.
        store: where limits are shared with other processes: a path, a URL such as ``redis://host:6379/0``, a
            :class:`~.stores.Store`, or a :class:`Sharing`, which says more. None shares them with nobody. What is
            learned is not shared.
        **limit: instead of ``limits``, the keywords of one :class:`RateLimit` for all models: ``RateLimiter(rpm=500)``.

    Raises:
        ConfigError: a limit or the store is wrong.
        StoreUnavailable: the store's file cannot be opened or made.
    """

    def __init__(
        self,
        limits: RateLimit | Iterable[RateLimit] | None = None,
        *,
        clock: Callable[[], float] = monotonic,
        learn: bool = True,
        memory: LimitMemory | None = DEFAULT_MEMORY,
        store: SharedThrough | None = None,
        **limit: float | None,
    ) -> None:
        specs = [limits] if isinstance(limits, RateLimit) else list(limits or ())
        if limit:
            specs.append(RateLimit(**limit))  # type: ignore[arg-type]  # RateLimit checks each of them itself
        for spec in specs:
            if not isinstance(spec, RateLimit):
                raise ConfigError(f"RateLimiter takes RateLimit objects, not {spec!r}")
        self.limits = tuple(specs)
        self.learns = learn
        self._memory = memory if learn else None
        self._clock = clock
        sharing = None if store is None else sharing_of(store)
        self._keeper = None if sharing is None or not specs else self._begin_sharing(sharing)
        self._core = self._new_core()
        self._lock = threading.Lock()
        self._news: deque[_News] = deque()
        self._notices = Notices()
        self._alarm = Alarm(clock, self._ring, self._may_end)
        _limiters.add(self)

    # -- what users call -------------------------------------------------------------------------------------

    def reserve(
        self,
        model: str,
        *,
        input_tokens: float = 0,
        output_tokens: float = 0,
        timeout: float | None = None,
        priority: float = 0,
        front: bool = False,
        origin: Origin | None = None,
        wait_for_quota: bool | float = False,
    ) -> Reservation:
        """A reservation to enter: ``with limiter.reserve(...)`` or ``async with limiter.reserve(...)``.

        Nothing is taken before it is entered (or acquired).

        Args:
            model: LiteLLM's name of the model.
            input_tokens: an estimate, or the real number.
            output_tokens: an estimate, or ``max_tokens`` where the provider charges that.
            timeout: seconds to wait at most; None waits as long as it takes.
            priority: each level counts as having arrived a minute earlier.
            front: go before all others, as a retry of a request that the provider refused.
            origin: whose limits the request falls under, if the reservation will be told what the provider answers:
                then limits are learned besides those that were configured.
            wait_for_quota: what to do while the provider says that a quota of a day or longer is spent. With False
                entering raises :exc:`QuotaExhausted` at once, for those who stand in line already too; with True it
                waits until the quota is renewed; a number is for so many seconds at most: if it is known to take
                longer than that, or than the timeout, entering raises at once. What was configured (``rpd=``) is
                waited for in any case: it is ours to keep.

        Raises:
            ConfigError: a number of tokens is negative or not a number.
        """
        amounts = amounts_of(input_tokens, output_tokens)
        patience = 0.0 if wait_for_quota is False else patience_of(wait_for_quota)
        return Reservation(self, model, amounts, timeout, priority, front, origin, patience)

    def reserve_for(
        self,
        model: str,
        origin: Origin,
        amounts: Amounts,
        *,
        timeout: float | None,
        priority: float,
        front: bool,
        patience: float,
    ) -> Reservation:
        """As :meth:`reserve`, for whoever knows already what the provider counts, and how long to wait for a day."""
        return Reservation(self, model, amounts, timeout, priority, front, origin, patience)

    def try_reserve(self, model: str, *, input_tokens: float = 0, output_tokens: float = 0) -> Reservation | None:
        """A reservation that is granted already, or None if it would have to wait or to overtake somebody.

        Raises:
            ImpossibleRequest: it needs more than a limit's whole quota.
        """
        reservation = self.reserve(model, input_tokens=input_tokens, output_tokens=output_tokens)
        core = self._core
        lane = self._lane(model)
        try:
            with self._lock:
                self._take_in()
                now = self._clock()
                ticket = Ticket(lane, reservation._amounts)
                granted = core.try_request(ticket, now)
                if granted:
                    core.stamp(ticket, now)
                    reservation._ticket = ticket
                elif self._keeper is not None:
                    self._keeper.start()
        finally:
            self._after()
        return reservation if granted else None

    def status(self, model: str | None = None) -> LimitStatus:
        """How the limits of a model (or, without one, all limits) stand at this moment."""
        core = self._core
        with self._lock:
            self._take_in()
            now = self._clock()
            core.due(now)
            status = status_of(core, model, now)
        self._after()
        self._notices.say()
        return status

    def close(self) -> None:
        """Give back now what is held of shared limits; otherwise that happens about a second after the last request.

        It may take as long as the store takes to answer, and the limiter may be used again. Limits that are not
        shared need no closing.
        """
        if self._keeper is not None:
            self._keeper.give_back()

    def holds(self, model: str, origin: Origin | None = None) -> bool:
        """Whether any limit holds for a model, or one may be learned. Cheap."""
        return bool(self._lane(model, origin).pools)

    def counts_tokens(self, model: str, origin: Origin | None = None) -> bool:
        """Whether any limit of a model counts tokens, so that an estimate is worth making. Cheap."""
        return self._lane(model, origin).counts_tokens

    def remembered(self, model: str, origin: Origin) -> LearnedLimits | None:
        """What is known of a model's limits from the answers to earlier calls, if it may still be believed."""
        return None if self._memory is None else self._memory.recall(origin, model)

    def exhausted(self, model: str, origin: Origin | None, patience: float = 0.0) -> QuotaExhausted | None:
        """The error for a call now, if a quota of a day or longer is spent and it does not wait so long. Cheap."""
        lane = self._core.known_lanes.get(model if origin is None else (model, origin))
        if lane is None or lane.discovered is None or lane.discovered.closing is None:
            return None
        now = self._clock()
        closing = lane.discovered.spent(now)
        return None if closing is None or closing.until <= now + patience else self._exhausted(model, closing)

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

    def __repr__(self) -> str:
        return f"RateLimiter([{', '.join(repr(limit) for limit in self.limits)}])"

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
                if core.request(
                    ticket,
                    now,
                    priority=reservation.priority,
                    front=reservation.front,
                    patience=reservation._patience,
                ):
                    if lane.buckets is None:
                        core.stamp(ticket, now)
                elif ticket.state != TURNED_AWAY:
                    ticket.waiter = make_waiter()
                    self._alarm.start()
                    self._alarm.forward(core.next_alarm())
                    if self._keeper is not None:
                        self._keeper.start()
        except BaseException:  # impossible, no event loop, no thread to be had: it must not stay in line
            reservation.refund()
            raise
        finally:  # also for the sake of others, who may have posted news while this one held the lock
            if self._news or core.granted:
                self._after()
        waiter = ticket.waiter
        if isinstance(waiter, TaskWaiter):
            self._help_from(waiter.loop)
        if ticket.state == TURNED_AWAY and waiter is None and ticket.closing is not None:
            reservation.refund()
            raise self._exhausted(model, ticket.closing)
        return waiter

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
            for ticket in granted:
                self._wake(ticket)

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


_limiters: weakref.WeakSet[RateLimiter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for limiter in _limiters:
        limiter._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
