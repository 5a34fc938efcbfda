"""State that any thread may change and that a finaliser may change too.

The garbage collector may run a finaliser at any allocation, also while the same thread holds a lock; a finaliser
that waits for that lock then waits for ever. So whoever only has news (a settled reservation, a finished call)
posts it and goes: posting appends to a deque, which is atomic, and *tries* the lock. Whoever holds the lock
looks into the deque again after letting go, so that no news is left lying. Nobody who posts ever waits.

Whoever needs an answer (a reservation, a total) takes the lock with ``with mailbox:`` and finds all news applied.

A forked child has locks of its own, for the parent's may have been held by a thread that stayed there, and so did the
news that nobody had taken in yet.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

News = TypeVar("News")


class Mailbox(Generic[News]):
    """A lock over some state, and a letter box for those who must not wait for it.

    Args:
        apply: takes one piece of news into the state. It is called with the lock held, by whichever thread
            holds it, and must neither block nor raise.
    """

    __slots__ = ("__weakref__", "_apply", "_lock", "_news")

    def __init__(self, apply: Callable[[News], None]) -> None:
        self._apply = apply
        self._begin()
        _mailboxes.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._news: deque[News] = deque()

    def post(self, news: News) -> None:
        """Hand in news without ever waiting; safe in a finaliser."""
        self._news.append(news)
        self._deliver()

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._take_in()
        except BaseException:  # Ctrl-C may strike anywhere; nobody else would let go
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        self._deliver()

    def _take_in(self) -> None:
        news = self._news
        while news:
            self._apply(news.popleft())

    def _deliver(self) -> None:
        while self._news and self._lock.acquire(blocking=False):
            try:
                self._take_in()
            finally:
                self._lock.release()


_mailboxes: weakref.WeakSet[Mailbox[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for mailbox in list(_mailboxes):
        mailbox._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
