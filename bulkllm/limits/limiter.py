"""The rate limiter: the core behind one lock, and the waking of those who wait, in threads and in event loops.

What holds throughout: the lock guards arithmetic only, for microseconds. Nobody who waits holds it; nothing awaits,
does I/O or calls foreign code under it. Whoever settles never waits for it (a finaliser may be running while the
same thread holds it): news goes into a deque, and whoever holds the lock looks there before and after. Grants are
made by whatever happens next (an arrival, a release, the alarm) on the head's behalf, and waking comes after.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self, cast

from ..errors import ConfigError, LimitTimeout
from .alarm import Alarm
from .core import GRANTED, Amounts, Core, Lane, Ticket, Waiter
from .spec import RateLimit
from .status import LimitStatus, PoolStatus, QuotaStatus

# What may be told of a ticket through the deque.
_SETTLE: Final = 0
_STAMP: Final = 1
_PASS_OVER: Final = 2

_News = tuple[int, Ticket, Amounts | None]


class RateLimiter:
    """Holds requests back until all limits that match their model let them go.

    One limiter serves threads, tasks of any number of event loops, and plain synchronous code at the same time.

    Args:
        limits: the limits; a single one may stand without a list.
        clock: seconds, monotonic. Tests pass their own.
        **limit: instead of ``limits``, the keywords of one :class:`RateLimit` for all models: ``RateLimiter(rpm=500)``.

    Raises:
        ConfigError: a limit is wrong.
    """

    def __init__(
        self,
        limits: RateLimit | Iterable[RateLimit] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        **limit: float | None,
    ) -> None:
        specs = [limits] if isinstance(limits, RateLimit) else list(limits or ())
        if limit:
            specs.append(RateLimit(**limit))  # type: ignore[arg-type]  # RateLimit checks each of them itself
        for spec in specs:
            if not isinstance(spec, RateLimit):
                raise ConfigError(f"RateLimiter takes RateLimit objects, not {spec!r}")
        self.limits = tuple(specs)
        self._clock = clock
        self._core = Core(specs)
        self._lock = threading.Lock()
        self._news: deque[_News] = deque()
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

        Raises:
            ConfigError: a number of tokens is negative or not a number.
        """
        return Reservation(self, model, _amounts(input_tokens, output_tokens), timeout, priority, front)

    def try_reserve(self, model: str, *, input_tokens: float = 0, output_tokens: float = 0) -> Reservation | None:
        """A reservation that is granted already, or None if it would have to wait or to overtake somebody.

        Raises:
            ImpossibleRequest: it needs more than a limit's whole quota.
        """
        reservation = self.reserve(model, input_tokens=input_tokens, output_tokens=output_tokens)
        core = self._core
        try:
            with self._lock:
                self._take_in()
                now = self._clock()
                ticket = Ticket(core.lane(model), reservation._amounts)
                granted = core.try_request(ticket, now)
                if granted:
                    core.stamp(ticket, now)
                    reservation._ticket = ticket
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
            lane = core if model is None else core.lane(model)
            waiting, in_flight = lane.waiting, lane.in_flight
            states = tuple(
                PoolStatus(
                    limit=pool.spec,
                    quotas={m.name: QuotaStatus(m.quota, m.remaining(now), m.period) for m in pool.meters},
                    in_flight=pool.in_flight,
                    waiting=core.waiting_for(pool),
                )
                for pool in lane.pools
            )
        self._after()
        return LimitStatus(model, states, waiting, in_flight)

    def holds(self, model: str) -> bool:
        """Whether any limit holds for a model. Cheap."""
        return bool(self._lane(model).pools)

    def counts_tokens(self, model: str) -> bool:
        """Whether any limit of a model counts tokens, so that an estimate is worth making. Cheap."""
        return self._lane(model).counts_tokens

    def _lane(self, model: str) -> Lane:
        lane = self._core.known_lane(model)
        if lane is None:
            with self._lock:
                lane = self._core.lane(model)
            self._after()
        return lane

    def __repr__(self) -> str:
        return f"RateLimiter([{', '.join(repr(limit) for limit in self.limits)}])"

    # -- what reservations call ------------------------------------------------------------------------------

    def _request(self, reservation: Reservation, make_waiter: Callable[[], Waiter]) -> Waiter | None:
        """Ask for a grant. Returns what will be woken if it must be waited for."""
        core = self._core
        try:
            with self._lock:
                if self._news:
                    self._take_in()
                now = self._clock()
                ticket = reservation._ticket = Ticket(core.lane(reservation.model), reservation._amounts)
                if core.request(ticket, now, priority=reservation.priority, front=reservation.front):
                    core.stamp(ticket, now)
                else:
                    ticket.waiter = make_waiter()
                    self._alarm.start()
                    self._alarm.forward(core.next_alarm())
        except BaseException:  # impossible, no event loop, no thread to be had: it must not stay in line
            reservation.refund()
            raise
        finally:  # also for the sake of others, who may have posted news while this one held the lock
            if self._news or core.granted:
                self._after()
        return ticket.waiter

    def _resume(self, ticket: Ticket) -> None:
        """Whoever was passed over is back."""
        with self._lock:
            self._take_in()
            self._core.resume(ticket, self._clock())
            self._alarm.start()
            self._alarm.forward(self._core.next_alarm())
        self._after()

    def _post(self, what: int, ticket: Ticket, actual: Amounts | None = None) -> None:
        """Hand in news without ever waiting; safe in a finaliser."""
        self._news.append((what, ticket, actual))
        self._after()

    # -- under the lock, and right after it ------------------------------------------------------------------

    def _take_in(self) -> None:
        """With the lock: apply all news."""
        news = self._news
        core = self._core
        now = self._clock()
        while news:
            what, ticket, actual = news.popleft()
            if what == _SETTLE:
                core.settle(ticket, now, actual)
            elif what == _STAMP:
                core.stamp(ticket, now)
            else:
                core.pass_over(ticket, now)
        if core.waiting:
            self._alarm.forward(core.next_alarm())

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
                self._news.append((_PASS_OVER, ticket, None))
            if not waiter.wake():
                self._news.append((_SETTLE, ticket, None))

    def _ring(self) -> None:
        """In the alarm's thread: grant what has come free."""
        with self._lock:
            self._take_in()
            self._core.due(self._clock())
            self._alarm.reset(self._core.next_alarm())
        self._after()

    def _may_end(self) -> bool:
        """In the alarm's thread: whether it may end, since nobody waits."""
        with self._lock:
            self._take_in()
            idle = self._core.waiting == 0
            if idle:
                self._alarm.end()
        self._after()
        return idle

    def _after_fork(self) -> None:
        """In a child process: whoever held the lock or waited stayed in the parent."""
        self._lock = threading.Lock()
        self._news.clear()
        self._core.forget_waiters()
        self._core = Core(self.limits)
        self._alarm = Alarm(self._clock, self._ring, self._may_end)


class Reservation:
    """A claim on the quota of one request, to be used with ``with`` or ``async with``.

    Entering waits until all limits let the request go. Leaving settles it: what :meth:`reconcile` said counts;
    without it the estimate does; leaving by an exception gives everything back, unless :meth:`mark_sent` was called:
    a request that was sent stays counted. Settling never waits and never awaits; once settled, further calls
    change nothing. A reservation that is dropped is settled by the garbage collector.
    """

    __slots__ = (
        "__weakref__",
        "_amounts",
        "_limiter",
        "_sent",
        "_ticket",
        "_timeout",
        "front",
        "model",
        "priority",
        "waited",
    )

    def __init__(
        self,
        limiter: RateLimiter,
        model: str,
        amounts: Amounts,
        timeout: float | None,
        priority: float,
        front: bool,
    ) -> None:
        self.model = model
        self.priority = priority
        self.front = front
        self.waited = 0.0
        self._limiter = limiter
        self._amounts = amounts
        self._timeout = timeout
        self._ticket: Ticket | None = None
        self._sent = False

    # -- getting it ------------------------------------------------------------------------------------------

    def acquire(self) -> Self:
        """Wait in this thread until the request may go.

        Raises:
            LimitTimeout: it may not within the timeout; nothing is held.
            ImpossibleRequest: it never may.
        """
        if self._ticket is None:
            waiter = self._limiter._request(self, _ThreadWaiter)
            if waiter is not None:
                self._wait_in_thread(cast("_ThreadWaiter", waiter))
        return self

    async def aacquire(self) -> Self:
        """Wait in this task until the request may go. Raises as :meth:`acquire` does."""
        if self._ticket is None:
            waiter = self._limiter._request(self, _TaskWaiter)
            if waiter is not None:
                await self._wait_in_task(cast(_TaskWaiter, waiter))
        return self

    def _wait_in_thread(self, waiter: _ThreadWaiter) -> None:
        began = time.monotonic()
        longest = -1 if self._timeout is None else min(max(self._timeout, 0.0), threading.TIMEOUT_MAX)
        try:
            waiter.gate.acquire(timeout=longest)
        except BaseException:  # interrupted: whatever happened meanwhile, nothing is held
            self.refund()
            raise
        self._begin(time.monotonic() - began)

    async def _wait_in_task(self, waiter: _TaskWaiter) -> None:
        began = time.monotonic()
        timer = None if self._timeout is None else waiter.loop.call_later(self._timeout, waiter.resolve)
        try:
            await waiter.future
            while waiter.away and (ticket := self._ticket) is not None:
                if timer is not None and timer.when() <= waiter.loop.time():
                    break  # its time ran out while its loop stood still: the timer will not ring again
                waiter.renew()
                self._limiter._resume(ticket)
                await waiter.future
        except BaseException:  # cancelled or closed: whatever happened meanwhile, nothing is held
            self.refund()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        self._begin(time.monotonic() - began)

    def _begin(self, waited: float) -> None:
        """The caller goes on: with a grant, or because its time is over."""
        self.waited = waited
        ticket = self._ticket
        if ticket is None or ticket.state != GRANTED:
            self.refund()
            raise LimitTimeout(
                f"no quota for {self.model} within {self._timeout:g} s; raise the limit or the timeout, or ask for less"
            )
        if ticket.lane.windows:
            self._limiter._post(_STAMP, ticket)

    # -- using it up -----------------------------------------------------------------------------------------

    def mark_sent(self) -> None:
        """Say that the request goes out now. From here on it stays counted, whatever becomes of it."""
        self._sent = True
        ticket = self._ticket
        if ticket is not None and ticket.lane.windows:
            self._limiter._post(_STAMP, ticket)

    def reconcile(self, *, input_tokens: float | None = None, output_tokens: float | None = None) -> None:
        """Settle with what the request really used; what is not given counts as estimated. May go into debt.

        Raises:
            ConfigError: a number of tokens is negative or not a number; nothing is settled.
        """
        _, _, estimated_input, estimated_output = self._amounts
        used_input = estimated_input if input_tokens is None else input_tokens
        used_output = estimated_output if output_tokens is None else output_tokens
        self._settle(_amounts(used_input, used_output))

    def release(self, *, keep_tokens: bool = True) -> None:
        """Settle a request that was sent and failed: it stays counted, its tokens if ``keep_tokens``."""
        self._settle(self._amounts if keep_tokens else (1.0, 0.0, 0.0, 0.0))

    def refund(self) -> None:
        """Settle a request that was never sent: everything is given back."""
        self._settle(None)

    def _settle(self, actual: Amounts | None) -> None:
        ticket = self._ticket
        if ticket is not None:
            self._ticket = None
            self._sent = False  # it may be entered again
            self._limiter._post(_SETTLE, ticket, actual)

    # -- as a context ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._sent:
            self.release()
        else:
            self.refund()

    async def __aenter__(self) -> Self:
        await self.aacquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __del__(self) -> None:
        if self._ticket is not None:
            self._settle(self._amounts if self._sent else None)


def _amounts(input_tokens: float, output_tokens: float) -> Amounts:
    total = input_tokens + output_tokens
    if not (input_tokens >= 0 and output_tokens >= 0 and total < math.inf):  # this way round NaN does not pass
        raise ConfigError(
            f"tokens must be numbers of 0 or more: input_tokens={input_tokens}, output_tokens={output_tokens}"
        )
    return (1.0, total, input_tokens, output_tokens)


class _ThreadWaiter:
    """Wakes a thread: a raw lock, for releasing it is safe in a finaliser."""

    __slots__ = ("gate",)

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()

    def is_away(self) -> bool:
        return False

    def wake(self) -> bool:
        self.gate.release()
        return True


class _TaskWaiter:
    """Wakes a task of any event loop, from any thread."""

    __slots__ = ("away", "future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.renew()

    def renew(self) -> None:
        """Be ready to be woken (again)."""
        self.away = False
        self.future: asyncio.Future[None] = self.loop.create_future()

    def is_away(self) -> bool:
        self.away = not self.loop.is_running()
        return self.away

    def wake(self) -> bool:
        try:
            self.loop.call_soon_threadsafe(self.resolve)
        except RuntimeError:  # closed
            return False
        return True

    def resolve(self) -> None:
        """In the loop's own thread: let the task go on."""
        if not self.future.done():
            self.future.set_result(None)


_limiters: weakref.WeakSet[RateLimiter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for limiter in _limiters:
        limiter._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
