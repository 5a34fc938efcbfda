"""A fork in the middle of a write must hurt neither side.

What may live here: who wants to know of forks, and the three hooks. A child inherits the parent's connections, locks
and queues, but not its threads. Connections must not be used there (SQLite says so), a lock may be held by a thread
that is no more, and a transaction that was open at the moment of the fork could be rolled back by the child's copy of
the connection while the parent commits it. So a fork waits, for a while, until nobody is at the file.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

_PATIENCE = 5.0

_lock = threading.Lock()
_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[threading.Lock] = []
_hooked = False


class Forkable(Protocol):
    """What wants to know of forks."""

    @property
    def mutex(self) -> threading.Lock | None:
        """Held by whoever is at the file."""

    def renew_in_child(self) -> None:
        """Leave everything of the parent's alone."""


def watch(forkable: Forkable) -> None:
    """Tell this object of forks, for as long as it lives."""
    global _hooked  # noqa: PLW0603 - hooks are set once for a process, and not at import
    with _lock:
        _watched.add(forkable)
        if not _hooked and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
            _hooked = True


def _before() -> None:
    _lock.acquire()
    for forkable in list(_watched):
        lock = forkable.mutex
        if lock is not None and lock.acquire(timeout=_PATIENCE):
            _held.append(lock)


def _in_parent() -> None:
    while _held:
        _held.pop().release()
    _lock.release()


def _in_child() -> None:
    _held.clear()
    for forkable in list(_watched):
        forkable.renew_in_child()
    _lock.release()
