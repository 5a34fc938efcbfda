"""What was learned of limits, from one run to the next: read once, written in the background and at the end.

What may live here: when to read and write. The file is :mod:`.learned`'s.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from ..errors import ConfigError
from .discovery import Knowledge
from .learned import LearnedLimits, LearnedQuota, learned_path, load, save
from .origin import Origin

logger = logging.getLogger(__name__)

# Limits change when an account moves up a tier; what is older than this is learned anew.
_BELIEVED_FOR: Final = timedelta(days=7)

# Seconds that news is collected before it is written.
_COLLECT: Final = 2.0

_Key = tuple[str, str]


class LimitMemory:
    """Remembers what limiters learn. All methods may be called from any thread, :meth:`note` in a finaliser too.

    Args:
        path: the file; the one in the user's state directory unless given.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[_Key, LearnedLimits] = {}
        self._read_from: Path | None = None
        self._notes: deque[LearnedLimits] = deque()
        self._unwritten: dict[_Key, LearnedLimits] = {}
        self._bell: SimpleQueue[None] = SimpleQueue()  # its put takes no lock that a finaliser could wait for
        self._writer: threading.Thread | None = None
        self._at_exit = False
        _memories.add(self)

    def recall(self, origin: Origin, model: str) -> LearnedLimits | None:
        """What is known of a model's limits, if it may still be believed. Reads the file the first time."""
        with self._lock:
            path = self._where()
            if path != self._read_from:
                self._read_from = path
                self._unwritten.clear()
                self._notes.clear()
                self._entries = {(entry.scope, entry.model): entry for entry in load(path)}
            if self._writer is None or not self._writer.is_alive():
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self.flush)
                self._writer = threading.Thread(target=self._write, name="bulkllm-memory", daemon=True)
                self._writer.start()
            self._take_in()
            key = (origin.scope, model)
            found = self._unwritten.get(key) or self._entries.get(key)
        return found if found is not None and found.holds_at(datetime.now(UTC)) else None

    def note(self, origin: Origin, model: str, knowledge: Knowledge) -> None:
        """Have something remembered; it is written a little later, in a thread of its own."""
        now = datetime.now(UTC)
        self._notes.append(
            LearnedLimits(
                scope=origin.scope,
                endpoint=origin.endpoint,
                provider=origin.provider,
                model=model,
                quotas={name: LearnedQuota(*quota) for name, quota in knowledge.quotas.items()},
                window=knowledge.window,
                rate=knowledge.rate,
                learned_at=now,
                expires_at=now + _BELIEVED_FOR,
            )
        )
        self._bell.put(None)

    def flush(self) -> None:
        """Write what is new, beside what other processes have written meanwhile."""
        with self._lock:
            self._take_in()
            news, self._unwritten = self._unwritten, {}
            if not news:
                return
            path = self._where()
            now = datetime.now(UTC)
            entries = {(entry.scope, entry.model): entry for entry in load(path)} | news
            self._entries = {key: entry for key, entry in entries.items() if entry.holds_at(now)}
            try:
                save(path, self._entries.values())
            except ConfigError as error:
                logger.warning("limits that were learned are not remembered: %s", error)

    def _take_in(self) -> None:
        while self._notes:
            entry = self._notes.popleft()
            self._unwritten[entry.scope, entry.model] = entry

    def _write(self) -> None:
        while True:
            self._bell.get()
            time.sleep(_COLLECT)  # news comes in crowds
            with suppress(Empty):
                while True:
                    self._bell.get_nowait()
            self.flush()

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._writer = None
        self._bell = SimpleQueue()

    def _where(self) -> Path:
        return learned_path() if self._path is None else self._path


# A forked child has a lock and a thread of its own: the parent's may have been in the middle of writing.
_memories: weakref.WeakSet[LimitMemory] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for memory in list(_memories):
        memory._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


DEFAULT_MEMORY: Final = LimitMemory()
"""The memory in the user's state directory."""
