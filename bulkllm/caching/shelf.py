"""What was read or written lately, in memory.

What may live here: one entry as it is kept, and a bounded shelf of such entries. An entry never changes: under one key
there is one answer, so a copy in memory is as good as the one on disk, however many processes write to that. What a
reader gets is parsed anew each time, so nobody can change what is on the shelf.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OVERHEAD = 200
"""Bytes that an entry takes besides its value: key, times, a place in the index."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer that was kept.

    Attributes:
        key: see :func:`bulkllm.caching.key.request_key`.
        kind: what sort of answer it is; :func:`~bulkllm.caching.answers.thaw_response` wants to know.
        value: the answer as plain data. It is the reader's own: changing it changes nothing.
        cost: what it cost when it was paid, in USD; None where that is not known.
        created_at: when it was kept, in seconds since 1970.
    """

    key: str
    kind: str
    value: dict[str, Any] = field(repr=False)
    cost: float | None
    created_at: float


@dataclass(slots=True)
class Row:
    """An entry as it is stored: its value as JSON, and when it was last used."""

    key: str
    kind: str
    text: bytes = field(repr=False)
    cost: float | None
    created: float
    used: float

    @property
    def size(self) -> int:
        """Bytes that it takes, in memory or on disk, near enough."""
        return len(self.text) + OVERHEAD

    def entry(self) -> Entry:
        """What the reader gets."""
        value = json.loads(self.text.decode("utf-8", "surrogatepass"))
        return Entry(self.key, self.kind, value, self.cost, self.created)


class Shelf:
    """The most recently used rows, up to a number of bytes. Safe in any thread; the lock guards arithmetic only."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Row | None:
        """The row under a key, which is now the most recently used one."""
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def put(self, rows: Iterable[Row]) -> None:
        """Take rows in, and let go of the least recently used ones beyond the bound."""
        with self._lock:
            for row in rows:
                self._drop(row.key)
                if row.size <= self._max_bytes:
                    self._rows[row.key] = row
                    self._bytes += row.size
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._rows)))

    def drop(self, keys: Iterable[str]) -> None:
        """Forget what is there under these keys."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def clear(self) -> int:
        """Forget everything; says how many rows there were."""
        with self._lock:
            count = len(self._rows)
            self._rows.clear()
            self._bytes = 0
            return count

    def prune(self, max_bytes: int, oldest: float | None) -> int:
        """Forget what was kept before ``oldest`` and what is beyond a bound; says how many rows that were."""
        with self._lock:
            before = len(self._rows)
            for key in [key for key, row in self._rows.items() if oldest is not None and row.created < oldest]:
                self._drop(key)
            while self._bytes > max_bytes:
                self._drop(next(iter(self._rows)))
            return before - len(self._rows)

    def rows(self) -> list[Row]:
        """All rows, the least recently used first."""
        with self._lock:
            return list(self._rows.values())

    def renew_lock(self) -> None:
        """Take a new lock, after a fork: a thread that is no more may have held the old one."""
        self._lock = threading.Lock()

    def _drop(self, key: str) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._bytes -= row.size
