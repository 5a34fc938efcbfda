"""Identical requests in flight share one call.

What may live here: who asks and who waits, by key. Nothing about requests or answers.

The first to claim a key leads and asks; whoever claims it before the leader is done follows and waits, in a thread or
in a task of any event loop. The lock is held for arithmetic and wake-ups only, and a leader that is dropped by the
garbage collector tells its followers without waiting for it (see :mod:`bulkllm._mailbox`).

A leader that has to wait for its own follower would wait for ever: a synchronous call in the thread whose event loop
runs the leader, or a second call by whoever leads already (an unread stream, say). Such a follower is told to go alone.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from .._mailbox import Mailbox

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Answer]):
    """What a follower is told.

    Attributes:
        state: "answered": here is the leader's result. "failed": the leader's call ended with an error. "abandoned":
            the leader gave up without either (cancelled, dropped): claim again, one of the followers will lead.
            "alone": waiting would never end; make the call without a claim.
        result: the leader's, where there is one. All followers get the same object.
        error: the leader's, where there is one. To raise it in several threads is allowed. Claiming again after a
            failure makes one follower lead and the others wait for it, one failure after the other.
    """

    state: Literal["answered", "failed", "abandoned", "alone"]
    result: Answer | None = None
    error: BaseException | None = None


class _Flight(Generic[Answer]):
    """One call that is being made: by whom, who waits for it, and how it ended."""

    __slots__ = ("key", "loop", "outcome", "task", "thread", "wake_ups")

    def __init__(self, key: str) -> None:
        self.key = key
        self.loop = _running_loop()
        self.task = None if self.loop is None else asyncio.current_task(self.loop)
        self.thread = threading.get_ident()
        self.outcome: Outcome[Answer] | None = None
        self.wake_ups: list[Callable[[], object]] = []

    def is_led_here(self) -> bool:
        """Whether the leader is this very task, or this very thread outside any event loop."""
        if self.loop is not None:
            return self.task is not None and self.loop is _running_loop() and self.task is asyncio.current_task()
        return self.thread == threading.get_ident()


class Leader(Generic[Answer]):
    """The one who makes the call, and owes the followers an end. The first of settle, fail and abandon counts.

    Leaving it as a context manager by an exception is a failure; by a cancellation or without an end it is giving up,
    and so is dropping it.
    """

    __slots__ = ("_end", "_flight")

    def __init__(self, flight: _Flight[Answer], end: Callable[[tuple[_Flight[Answer], Outcome[Answer]]], None]) -> None:
        self._flight = flight
        self._end = end

    @property
    def followers(self) -> int:
        """How many are waiting."""
        return len(self._flight.wake_ups)

    def settle(self, result: Answer) -> None:
        """The call is done: every follower gets this result."""
        self._finish(Outcome("answered", result=result))

    def fail(self, error: BaseException) -> None:
        """The call has failed: every follower is told of this error."""
        self._finish(Outcome("failed", error=error))

    def abandon(self) -> None:
        """There will be no answer from here: the followers claim again."""
        self._finish(Outcome("abandoned"))

    def _finish(self, outcome: Outcome[Answer]) -> None:
        if self._flight.outcome is None:
            self._end((self._flight, outcome))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.fail(error)
        else:
            self.abandon()

    def __del__(self) -> None:
        self.abandon()


class Follower(Generic[Answer]):
    """One who waits for the leader of the same key."""

    __slots__ = ("_flight", "_mailbox")

    def __init__(self, flight: _Flight[Answer], mailbox: Mailbox[Any]) -> None:
        self._flight = flight
        self._mailbox = mailbox

    def result(self, timeout: float | None = None) -> Outcome[Answer] | None:
        """Wait in this thread, for so many seconds at most; None if the leader is not done by then."""
        flight = self._flight
        # Blocking the leader's loop, or the leader itself.
        if (flight.loop is not None and flight.loop is _running_loop()) or flight.is_led_here():
            return flight.outcome or Outcome("alone")
        # A bare lock, for an Event has a lock of its own, which a finaliser in this thread might have to wait for.
        wake_up = threading.Lock()
        wake_up.acquire()
        if self._call(wake_up.release):
            wake_up.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        return flight.outcome

    async def aresult(self) -> Outcome[Answer]:
        """Wait in this task; ``asyncio.timeout`` and cancellation end it."""
        flight = self._flight
        loop = asyncio.get_running_loop()
        if flight.is_led_here():
            return flight.outcome or Outcome("alone")
        done = loop.create_future()
        if self._call(partial(_tell, loop, done)):
            await done
        assert flight.outcome is not None  # noqa: S101 - nobody is woken up before it is there
        return flight.outcome

    def _call(self, wake_up: Callable[[], object]) -> bool:
        """Have ``wake_up`` called at the end; False if this is the end already."""
        with self._mailbox:
            if self._flight.outcome is not None:
                return False
            self._flight.wake_ups.append(wake_up)
            return True


class SingleFlight(Generic[Answer]):
    """The calls that are being made, by key. One object for all threads and event loops that are to share calls.

    Attributes:
        ended: how many calls have ended. Whoever looks for an answer, does not find it and then leads should look again
            if this has changed since before the first look: the answer may have come in between.
    """

    def __init__(self) -> None:
        self.ended = 0
        self._begin()

    def claim(self, key: str) -> Leader[Answer] | Follower[Answer]:
        """Lead the call for this key, or follow who leads it already. Never waits."""
        if os.getpid() != self._process:
            self._begin()  # after a fork: those who lead in the parent will never report here
        with self._mailbox:
            flight = self._flights.get(key)
            if flight is not None:
                return Follower(flight, self._mailbox)
            flight = _Flight[Answer](key)
            leader = Leader(flight, self._mailbox.post)  # before the entry: an entry without a leader would never go
            self._flights[key] = flight
            return leader

    def __len__(self) -> int:
        """How many calls are being made."""
        with self._mailbox:
            return len(self._flights)

    def _begin(self) -> None:
        self._process = os.getpid()
        self._flights: dict[str, _Flight[Answer]] = {}
        self._mailbox: Mailbox[tuple[_Flight[Answer], Outcome[Answer]]] = Mailbox(self._end)

    def _end(self, news: tuple[_Flight[Answer], Outcome[Answer]]) -> None:
        flight, outcome = news
        if flight.outcome is not None:
            return
        flight.outcome = outcome
        self.ended += 1
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        for wake_up in flight.wake_ups:
            wake_up()
        flight.wake_ups.clear()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_finish, done)
    except RuntimeError:  # the loop was closed: nobody waits there any more
        return


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
