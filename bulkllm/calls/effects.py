"""What a flow may ask of the world, and how a thread and a task do it.

A flow yields one of these and is sent the result, or has the exception thrown into it. This is the only place where
the synchronous and the asynchronous world differ.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ..accounting import Hold
from ..caching import Cache, Entry, Follower, Outcome
from ..errors import CacheError
from ..limits import Reservation
from .call import Call
from .closing import close_source
from .counting import TokenCounter
from .lane import Lane
from .starting import passed, starting, turn
from .wallclock import OutOfTimeError, run_within

_log = logging.getLogger(__name__)


class Effect(Protocol):
    """Something to be done for a flow."""

    def perform(self) -> Any:
        """Do it, blocking."""

    async def aperform(self) -> Any:
        """Do it in a task."""


@dataclass(frozen=True, slots=True)
class Load:
    """Have the lane import what it needs."""

    lane: Lane

    def perform(self) -> None:
        self.lane.load()

    async def aperform(self) -> None:
        self.lane.load()  # two seconds, once; in a thread it would hold the interpreter just as long


@dataclass(frozen=True, slots=True)
class Count:
    """Count a call's input by the model's tokenizer; None where that cannot be done."""

    counter: TokenCounter
    call: Call

    def perform(self) -> int | None:
        return self.counter.count(self.call)

    async def aperform(self) -> int | None:
        return await asyncio.to_thread(self.counter.count, self.call)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Look for a kept answer."""

    cache: Cache
    key: str

    def perform(self) -> Entry | None:
        return self.cache.get(self.key)

    async def aperform(self) -> Entry | None:
        return await self.cache.aget(self.key)


@dataclass(frozen=True, slots=True)
class LookupMany:
    """Look for several kept answers; those that are not kept are not in the result."""

    cache: Cache
    keys: Sequence[str]

    def perform(self) -> dict[str, Entry]:
        return self.cache.get_many(self.keys)

    async def aperform(self) -> dict[str, Entry]:
        return await self.cache.aget_many(self.keys)


@dataclass(frozen=True, slots=True)
class Store:
    """Keep answers, with what each cost, by key; they are kept when this is done.

    They were paid, so a cache that was closed meanwhile does not keep them from their caller.
    """

    cache: Cache
    answers: Mapping[str, tuple[Mapping[str, Any], float | None]] = field(repr=False)
    kind: str

    def perform(self) -> None:
        try:
            self.cache.put_many(self.answers, kind=self.kind)
        except CacheError as error:
            _log.warning("an answer is not kept: %s", error)

    async def aperform(self) -> None:
        try:
            await self.cache.aput_many(self.answers, kind=self.kind)
        except CacheError as error:
            _log.warning("an answer is not kept: %s", error)


@dataclass(frozen=True, slots=True)
class Follow:
    """Wait for an identical call that is under way, for so many seconds at most; None if it is not done by then."""

    follower: Follower[Any]
    seconds: float | None = None

    def perform(self) -> Outcome[Any] | None:
        return self.follower.result(self.seconds)

    async def aperform(self) -> Outcome[Any] | None:
        scope = asyncio.timeout(self.seconds)
        try:
            async with scope:
                return await self.follower.aresult()
        except TimeoutError:
            if scope.expired():
                return None
            raise


@dataclass(frozen=True, slots=True)
class HoldBudget:
    """Wait until a budget has room for the call, for so many seconds at most."""

    hold: Hold
    seconds: float | None = None

    def perform(self) -> None:
        self.hold.acquire(self.seconds)

    async def aperform(self) -> None:
        await self.hold.aacquire(self.seconds)


@dataclass(frozen=True, slots=True)
class Reserve:
    """Wait until the limits let the call go."""

    reservation: Reservation

    def perform(self) -> None:
        self.reservation.acquire()

    async def aperform(self) -> None:
        await self.reservation.aacquire()


@dataclass(frozen=True, slots=True)
class Start:
    """Let the calls start that came before in this event loop; the seconds that took. A thread need not wait.

    What follows is :class:`Send`, or :meth:`forgo`.
    """

    def perform(self) -> float:
        return 0.0

    async def aperform(self) -> float:
        return await turn()

    def forgo(self) -> None:
        """The call is not sent after all."""
        passed()


START: Final = Start()


@dataclass(frozen=True, slots=True)
class Send:
    """Make one attempt, within so many seconds of wall clock."""

    lane: Lane
    call: Call
    seconds: float | None

    def perform(self) -> Any:
        try:
            return run_within(self.seconds, lambda: self.lane.send(self.call), discard=close_source)
        except OutOfTimeError:
            raise self.lane.timed_out(self.call) from None

    async def aperform(self) -> Any:
        scope = asyncio.timeout(self.seconds)
        try:
            async with scope:
                return await starting(self.lane.asend(self.call))
        except TimeoutError:
            if scope.expired():
                raise self.lane.timed_out(self.call) from None
            raise


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait before the next attempt."""

    seconds: float

    def perform(self) -> None:
        time.sleep(self.seconds)

    async def aperform(self) -> None:
        await asyncio.sleep(self.seconds)
