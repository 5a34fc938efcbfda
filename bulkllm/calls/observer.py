"""Who else is told of calls, besides trackers: tracing, say. Nothing in here makes or counts a call."""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from ..accounting import UsageRecord
from .call import Call

logger: Final = logging.getLogger(__name__)


class Watch(Protocol):
    """Follows one call. Its methods must not wait: the last one may be called in a finaliser.

    What they raise is logged, and the call goes on.
    """

    def chunk(self, chunk: Any) -> None:
        """A chunk of a stream has come."""

    def ended(self, record: UsageRecord, response: Any) -> None:
        """The call is over; the response is None for a stream and where there is none."""


class Observer(Protocol):
    """Is told of each call of a client."""

    def began(self, call: Call) -> Watch:
        """A call begins, in its caller's context."""


class Watches:
    """The watches of one call, whose errors are nobody's but theirs."""

    __slots__ = ("_watches",)

    def __init__(self, observers: tuple[Observer, ...], call: Call) -> None:
        self._watches: list[Watch] = []
        for observer in observers:
            try:
                self._watches.append(observer.began(call))
            except Exception:  # the call is its caller's, whatever an observer makes of it
                logger.exception("%r did not begin to observe a call", observer)

    def chunk(self, chunk: Any) -> None:
        """Hand a chunk on."""
        for watch in self._watches:
            try:
                watch.chunk(chunk)
            except Exception:
                logger.exception("%r could not take a chunk", watch)

    def ended(self, record: UsageRecord, response: Any) -> None:
        """Tell that the call is over."""
        for watch in self._watches:
            try:
                watch.ended(record, response)
            except Exception:  # the call may be paid
                logger.exception("%r could not take a call's end", watch)


NOBODY: Final = Watches((), None)  # type: ignore[arg-type]  # no observer asks for the call
