"""Answers on disk: what :class:`~bulkllm.caching.store.Cache` asks of the file, with nothing that breaks a call.

What may live here: reading, writing and counting entries in the file; batching of writes and of access times; what
happens if the file cannot be used. Every method may wait for the disk: none may be called on an event loop.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import CacheError
from . import entries
from .shelf import Row, Shelf
from .sqlite_file import SQLiteFile

_log = logging.getLogger(__name__)

FILE_NAME = "bulkllm-cache.sqlite3"

MEMORY_IS_TRUSTED = 1.0
"""Seconds for which what is in memory is used without a look whether another process has cleared the cache."""

_USE_IS_NOTED_AFTER = 3600.0
"""Seconds after which a further use of an entry is written down: a read must not cost a write each time."""

_USES_AT_ONCE = 1000
_SIT_OUT = 10.0
_AHEAD = 64
"""Rows read ahead where a program asks again in the order in which it once asked."""

Result = TypeVar("Result")


class _Job:
    """What one caller wants written, and whether it was."""

    __slots__ = ("done", "kept", "rows")

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.done = False
        self.kept = False


class Disk:
    """The entries in one file. See the module for what its methods promise.

    Args:
        directory: where the file is.
        shelf: takes what was read, and is cleared when another process has cleared the cache.
        max_bytes: bound of all entries together.
        max_age: seconds after which an entry is as good as gone; None for no end.
        clock: seconds since 1970.
    """

    def __init__(
        self, directory: Path, shelf: Shelf, max_bytes: int, max_age: float | None, clock: Callable[[], float]
    ) -> None:
        self.file = SQLiteFile(directory / FILE_NAME, entries.prepare)
        self._shelf = shelf
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._generation: int | None = None
        self._checked = -MEMORY_IS_TRUSTED
        self._jobs: deque[_Job] = deque()
        self._turn = threading.Lock()  # held by the one who writes for all who wait
        self._uses: deque[tuple[str, float]] = deque()
        self._last_place = -1
        self._useless_until: dict[str, float] = {}
        self._complaints: set[tuple[str, str]] = set()

    @property
    def memory_is_fresh(self) -> bool:
        """Whether what is on the shelf may be used without asking the file."""
        return time.monotonic() - self._checked < MEMORY_IS_TRUSTED

    def read(self, keys: Sequence[str], *, ahead: bool = False) -> dict[str, Row]:
        """The rows under these keys, which then are on the shelf too; nothing where the file cannot be read.

        Args:
            keys: which.
            ahead: read on where this read continues the last one: the next keys are probably the next rows.
        """
        check = not self.memory_is_fresh

        def look(db: sqlite3.Connection) -> tuple[dict[str, tuple[Row, int]], list[tuple[Row, int]], int | None]:
            several = check or ahead or len(keys) > 1
            if several:
                db.execute("BEGIN")  # one lock for all statements
            generation = entries.state(db)["generation"] if check else None
            found = entries.read(db, keys)
            more = self._read_on(db, found, len(keys)) if ahead and found else []
            if several:
                db.execute("COMMIT")
            return found, more, generation

        seen = self._try("read", lambda: self.file.run(look))
        if seen is None:
            return {}
        found, more, generation = seen
        if check:
            if generation != self._generation:
                self._shelf.clear()
                self._generation = generation
            self._checked = time.monotonic()
        self._shelf.put(row for row, _ in itertools.chain(found.values(), more))
        return {key: row for key, (row, _) in found.items()}

    def write(self, rows: Sequence[Row]) -> bool:
        """Keep these rows; says whether they are in the file now.

        Whoever comes while another one is writing waits for that, and then one of those who wait writes for all.
        """
        job = _Job(rows)
        self._jobs.append(job)
        with self._turn:
            if not job.done:
                jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
                kept = self._try("write", lambda: self._commit([row for one in jobs for row in one.rows]))
                for one in jobs:
                    one.kept = kept is not None
                    one.done = True
        return job.kept

    def forget(self, keys: Sequence[str]) -> None:
        """Remove what is kept under these keys, here and from the file, if that can be written."""
        self._try("write", lambda: self._in_turn(lambda: self.file.change(lambda db: entries.remove(db, keys))))
        self._shelf.drop(keys)

    def note_use(self, row: Row) -> None:
        """Remember that an entry was used now, to write it down some time."""
        now = self._clock()
        if now - row.used >= _USE_IS_NOTED_AFTER:
            row.used = now
            self._uses.append((row.key, now))

    @property
    def has_much_to_note(self) -> bool:
        """Whether it is time to write down when entries were used."""
        return len(self._uses) >= _USES_AT_ONCE

    def prune(self, max_bytes: int, oldest: float | None) -> int:
        """Remove what is too old and what is beyond the bound, give the space back; says how many entries went."""

        def step(db: sqlite3.Connection) -> int:
            removed = 0 if oldest is None else entries.remove_older(db, oldest)
            return removed + entries.evict(db, max_bytes, oldest)

        total = 0
        while removed := self._in_turn(lambda: self.file.change(step)):
            total += removed
        if total:
            self._shelf.clear()
            self._in_turn(lambda: self.file.run(entries.give_back_space))
        return total

    def clear(self) -> int:
        """Remove everything, here and from the memory of other processes; says how many entries there were."""
        count = self._in_turn(lambda: self.file.change(entries.clear))
        self._in_turn(lambda: self.file.run(entries.give_back_space))
        self._uses.clear()
        self._shelf.clear()
        return count

    def rows(self) -> Iterator[Row]:
        """All rows, in the order in which they were stored; other processes can write in between."""
        place = 0
        while batch := self.file.run(lambda db: entries.read_after(db, place, 200)):  # noqa: B023 - used at once
            place = batch[-1][1]
            yield from (row for row, _ in batch)

    def close(self) -> None:
        """Write down what is still to be noted, and close the file."""
        # Not waited for: this may be a finaliser, in the very thread that is writing.
        if self._uses and self._turn.acquire(blocking=False):
            try:
                self._try("write", lambda: self._commit(()))
            finally:
                self._turn.release()
        self.file.close()

    def renew(self) -> None:
        """In a child process: nothing of the parent's threads and connections is of use here."""
        self._turn = threading.Lock()
        self._jobs = deque()
        self._uses = deque()
        self.file.renew_in_child()

    def _read_on(self, db: sqlite3.Connection, found: dict[str, tuple[Row, int]], asked: int) -> list[tuple[Row, int]]:
        places = [place for _, place in found.values()]
        follows = 0 < min(places) - self._last_place <= asked + _AHEAD
        more = entries.read_after(db, max(places), _AHEAD) if follows else []
        self._last_place = more[-1][1] if more else max(places)
        return more

    def _commit(self, rows: Sequence[Row]) -> bool:
        uses = dict(self._uses.popleft() for _ in range(len(self._uses)))
        oldest = None if self._max_age is None else self._clock() - self._max_age

        def work(db: sqlite3.Connection) -> None:
            entries.write(db, rows)
            if uses:
                entries.note_use(db, uses)
            entries.evict(db, self._max_bytes, oldest)

        self.file.change(work)
        return True

    def _in_turn(self, work: Callable[[], Result]) -> Result:
        with self._turn:
            return work()

    def _try(self, verb: str, work: Callable[[], Result]) -> Result | None:
        """What ``work`` returns; None where the file cannot be used now, which is logged the first time."""
        if time.monotonic() < self._useless_until.get(verb, 0.0):
            return None
        try:
            return work()
        except (sqlite3.Error, OSError, CacheError) as error:
            if self.file.closed:
                raise
            self._useless_until[verb] = time.monotonic() + _SIT_OUT
            reason = getattr(error, "sqlite_errorname", None) or type(error).__name__
            level = logging.DEBUG if (verb, reason) in self._complaints else logging.WARNING
            self._complaints.add((verb, reason))
            _log.log(
                level,
                "the cache %s cannot be used (%s failed: %s, %s); calls go on without it, it is tried again in %.0f s",
                self.file.path,
                verb,
                reason,
                error,
                _SIT_OUT,
            )
            return None
