"""The cache of answers, as the rest of bulkllm and its users see it.

What may live here: :class:`Cache` and what it says about itself. It knows keys, kinds and plain data; what a key is
made of is :mod:`.key`'s business, what an answer is :mod:`.answers`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from .. import config
from ..errors import CacheError, ConfigError
from . import forks
from .disk import Disk
from .entries import summary
from .info import CacheInfo, summary_of
from .lane import Lane
from .shelf import Entry, Row, Shelf

_log = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024**3
MEMORY_BYTES = 64 * 1024**2


class Cache:
    """Answers that were paid for, kept so that the same request is not paid twice.

    One object may be used by any number of threads and event loops at once, one file by any number of processes. It can
    be given to a forked child. What goes wrong with the file later on is logged and costs a repeated call, never an
    error: a damaged file is set aside as ``*.damaged-N`` and a new one begun, a full disk or a lock that nobody lets go
    makes every request a miss for a while.

    Args:
        path: the directory to keep it in; else ``BULKLLM_CACHE_DIR``, else the user's cache directory. A directory that
            is made for it gets mode 0700; the file (``bulkllm-cache.sqlite3``) always has 0600.
        namespace: keeps these answers apart from those of other experiments in the same file.
        max_age: seconds after which an answer is not used any more; None for no end.
        max_bytes: bound of all answers together; the least recently used go first.
        memory: keep nothing on disk. What is kept ends with the object.
        memory_bytes: how much of what is on disk is held in memory besides.
        clock: seconds since 1970.

    Raises:
        ConfigError: a bound that makes no sense.
        CacheError: the directory or the file cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        namespace: str = "",
        max_age: float | None = None,
        max_bytes: int = MAX_BYTES,
        memory: bool = False,
        memory_bytes: int = MEMORY_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_age is not None and not max_age > 0:
            raise ConfigError(f"max_age must be a number of seconds above 0, or None for no end; it is {max_age!r}")
        if not max_bytes > 0 or not memory_bytes >= 0:
            raise ConfigError(
                f"max_bytes must be above 0, memory_bytes not below it; they are {max_bytes!r} and {memory_bytes!r}"
            )
        if memory and path is not None:
            raise ConfigError("a cache with memory=True keeps nothing on disk: give either memory=True or path=")
        self.namespace = namespace
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._clock = clock
        self._shelf = Shelf(max_bytes if memory else memory_bytes)
        self._disk: Disk | None = None
        if not memory:
            directory = Path(path).expanduser() if path is not None else config.cache_dir()
            if directory.exists() and not directory.is_dir():
                raise CacheError(f"the cache needs a directory, and {directory} is a file; give a directory as path=")
            self._disk = Disk(directory, self._shelf, max_bytes, max_age, clock)
            self._readers: Lane[Sequence[str], dict[str, Row]] = Lane("bulkllm-cache-read", self._read_batch)
            self._writers: Lane[Sequence[Row], bool] = Lane("bulkllm-cache-write", self._write_batch)
            # At the latest when the interpreter ends, the file is closed and the last uses are written down.
            self._finalizer = weakref.finalize(self, self._disk.close)
            forks.watch(self)

    @property
    def path(self) -> Path | None:
        """The file, or None for a cache in memory."""
        return None if self._disk is None else self._disk.file.path

    def get(self, key: str) -> Entry | None:
        """The answer kept under a key, or None. May wait for the disk: in a coroutine use :meth:`aget`."""
        return self._ready(key) or self.get_many((key,)).get(key)

    async def aget(self, key: str) -> Entry | None:
        """As :meth:`get`, without holding up the event loop."""
        return self._ready(key) or (await self.aget_many((key,))).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As :meth:`get` for several keys; those that are not kept are not in the result."""
        rows, missing = self._at_hand(keys)
        if missing and self._disk is not None:
            rows |= self._disk.read(missing)
        found, flush = self._entries(rows)
        if flush:
            self._write(())
        return found

    async def aget_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As :meth:`get_many`, without holding up the event loop."""
        rows, missing = self._at_hand(keys)
        if missing and self._disk is not None:
            rows |= await self._readers.submit(missing)
        found, flush = self._entries(rows)
        if flush:
            await self._writers.submit(())
        return found

    def costs(self, keys: Sequence[str]) -> dict[str, float | None]:
        """Which of these keys have an answer, and what each cost, None where that is not known. Counts as no use."""
        rows, missing = self._at_hand(keys)
        if missing and self._disk is not None:
            rows |= self._disk.read(missing)
        oldest = -math.inf if self._max_age is None else self._clock() - self._max_age
        return {key: row.cost for key, row in rows.items() if row.created >= oldest}

    def put(self, key: str, value: Mapping[str, Any], *, cost: float | None, kind: str) -> bool:
        """Keep an answer; when this returns True it is in the file, and survives the process.

        Args:
            key: see :func:`bulkllm.caching.key.request_key`.
            value: the answer as plain data.
            cost: what it cost, in USD; None where that is not known.
            kind: what sort of answer it is, to be given back by :meth:`get`.

        Returns:
            False where it is not kept: it cannot be written as JSON without loss, it is larger than the whole bound, or
            the file cannot be written. The log says which.
        """
        return self.put_many({key: (value, cost)}, kind=kind) == 1

    async def aput(self, key: str, value: Mapping[str, Any], *, cost: float | None, kind: str) -> bool:
        """As :meth:`put`, without holding up the event loop. Cancelling it does not stop the write."""
        return await self.aput_many({key: (value, cost)}, kind=kind) == 1

    def put_many(self, answers: Mapping[str, tuple[Mapping[str, Any], float | None]], *, kind: str) -> int:
        """As :meth:`put` for several answers and their costs by key, all at once; says how many are kept."""
        rows = self._rows(answers, kind)
        return len(rows) if rows and self._write(rows) else 0

    async def aput_many(self, answers: Mapping[str, tuple[Mapping[str, Any], float | None]], *, kind: str) -> int:
        """As :meth:`put_many`, without holding up the event loop."""
        rows = self._rows(answers, kind)
        if not rows:
            return 0
        kept = self._write(rows) if self._disk is None else await self._writers.submit(rows)
        return len(rows) if kept else 0

    def forget(self, keys: Sequence[str]) -> None:
        """Forget the answers that are kept under these keys. Another process may use what it has in memory of them."""
        if self._disk is None:
            self._shelf.drop(keys)
        else:
            self._disk.forget(keys)

    async def aforget(self, keys: Sequence[str]) -> None:
        """As :meth:`forget`, without holding up the event loop."""
        if self._disk is None:
            self._shelf.drop(keys)
        else:
            await asyncio.to_thread(self._disk.forget, keys)

    def info(self) -> CacheInfo:
        """What the cache holds.

        Raises:
            CacheError: the file cannot be read.
        """
        damaged: tuple[Path, ...] = ()
        if self._disk is None:
            there = summary_of(self._shelf.rows())
            file_bytes = 0
        else:
            file = self._disk.file
            with self._telling("read"):
                there = file.run(summary)
                file_bytes = file.path.stat().st_size
                damaged = tuple(file.damaged_files())
        return CacheInfo(
            path=self.path,
            entries=sum(kind.count for kind in there.kinds.values()),
            bytes=sum(kind.size for kind in there.kinds.values()),
            file_bytes=file_bytes,
            max_bytes=self._max_bytes,
            max_age=self._max_age,
            worth=sum(kind.cost for kind in there.kinds.values()),
            kinds=MappingProxyType(dict(there.kinds)),
            oldest=there.oldest,
            newest=there.newest,
            last_used=there.last_used,
            damaged=damaged,
        )

    def clear(self) -> int:
        """Forget everything, also in other processes (within a second); says how many answers there were.

        Raises:
            CacheError: the file cannot be written.
        """
        if self._disk is None:
            return self._shelf.clear()
        with self._telling("cleared"):
            return self._disk.clear()

    def prune(self, *, max_age: float | None = None, max_bytes: int | None = None) -> int:
        """Remove what is too old and what is beyond the bound, and give the space back; says how many answers went.

        Args:
            max_age: seconds; the cache's own bound if None.
            max_bytes: the cache's own bound if None.

        Raises:
            CacheError: the file cannot be written.
        """
        age = self._max_age if max_age is None else max_age
        oldest = None if age is None else self._clock() - age
        bound = self._max_bytes if max_bytes is None else max_bytes
        if self._disk is None:
            return self._shelf.prune(bound, oldest)
        with self._telling("pruned"):
            return self._disk.prune(bound, oldest)

    def export(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> int:
        """Write all answers to a file, one JSON object a line: key, kind, cost, created_at, value; says how many.

        The file has mode 0600 and is there as a whole or not at all.

        Raises:
            CacheError: there is such a file already and ``overwrite`` was not said, it cannot be written, or the cache
                cannot be read.
        """
        target = Path(path).expanduser()
        if target.exists() and not overwrite:
            raise CacheError(f"{target} exists; give another name, or say overwrite=True")
        count = 0
        with (
            self._telling(f"exported to {target}"),
            tempfile.NamedTemporaryFile(
                "w", encoding="ascii", dir=target.parent, prefix=f".{target.name}.", delete=False
            ) as file,
        ):
            try:
                for row in self._shelf.rows() if self._disk is None else self._disk.rows():
                    entry = row.entry()
                    line = {name: getattr(entry, name) for name in ("key", "kind", "cost", "created_at", "value")}
                    file.write(json.dumps(line, separators=(",", ":")) + "\n")
                    count += 1
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink()
                raise
        return count

    def close(self) -> None:
        """Finish what is being written and close the file. A closed cache raises CacheError."""
        if self._disk is not None:
            self._readers.close()
            self._writers.close()
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Cache({'memory=True' if self.path is None else repr(str(self.path.parent))})"

    @property
    def mutex(self) -> threading.Lock | None:
        """For :mod:`.forks`."""
        return None if self._disk is None else self._disk.file.mutex

    def renew_in_child(self) -> None:
        """For :mod:`.forks`."""
        self._shelf.renew_lock()
        if self._disk is not None:
            self._disk.renew()
            self._readers.renew()
            self._writers.renew()

    def _ready(self, key: str) -> Entry | None:
        """The short way for what is in memory and needs nothing else to be done."""
        disk = self._disk
        if disk is not None and not disk.memory_is_fresh:
            return None
        row = self._shelf.get(key)
        if row is None or (self._max_age is not None and row.created < self._clock() - self._max_age):
            return None
        if disk is not None:
            disk.note_use(row)
            if disk.has_much_to_note:
                return None
        return row.entry()

    def _at_hand(self, keys: Sequence[str]) -> tuple[dict[str, Row], list[str]]:
        """What is in memory and may be used, and the keys for which the file has to be asked."""
        if self._disk is not None and not self._disk.memory_is_fresh:
            return {}, list(keys)
        rows = {key: row for key in keys if (row := self._shelf.get(key)) is not None}
        return rows, [key for key in keys if key not in rows] if len(rows) < len(keys) else []

    def _entries(self, rows: Mapping[str, Row]) -> tuple[dict[str, Entry], bool]:
        """What the reader gets, and whether it is time to write down when entries were used."""
        limit = None if self._max_age is None else self._clock() - self._max_age
        found: dict[str, Entry] = {}
        for key, row in rows.items():
            if limit is not None and row.created < limit:
                continue
            found[key] = row.entry()
            if self._disk is not None:
                self._disk.note_use(row)
        return found, self._disk is not None and self._disk.has_much_to_note

    def _rows(self, answers: Mapping[str, tuple[Mapping[str, Any], float | None]], kind: str) -> list[Row]:
        now = self._clock()
        made = (self._row(key, value, cost, kind, now) for key, (value, cost) in answers.items())
        return [row for row in made if row is not None]

    def _row(self, key: str, value: Mapping[str, Any], cost: float | None, kind: str, now: float) -> Row | None:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            same = json.loads(text) == value
        except (TypeError, ValueError, RecursionError) as error:
            _log.debug("not cached: the answer cannot be written as JSON (%s)", type(error).__name__)
            return None
        if not same:
            _log.debug("not cached: the answer would not come back from JSON as it is")
            return None
        row = Row(key, kind, text.encode("utf-8", "surrogatepass"), None if cost is None else float(cost), now, now)
        if row.size > self._max_bytes:
            _log.debug("not cached: the answer takes %d bytes, and all of them may take %d", row.size, self._max_bytes)
            return None
        return row

    def _write(self, rows: Sequence[Row]) -> bool:
        kept = self._disk is None or self._disk.write(rows)
        if kept:
            self._shelf.put(rows)
        return kept

    def _read_batch(self, batches: Sequence[Sequence[str]]) -> list[dict[str, Row]]:
        if self._disk is None:
            return [{} for _ in batches]
        rows = self._disk.read([key for keys in batches for key in keys], ahead=True)
        return [{key: rows[key] for key in keys if key in rows} for keys in batches]

    def _write_batch(self, batches: Sequence[Sequence[Row]]) -> list[bool]:
        kept = self._write([row for rows in batches for row in rows])
        return [kept for _ in batches]

    @contextlib.contextmanager
    def _telling(self, verb: str) -> Iterator[None]:
        """A fault of the file as an error, where the caller wants to know and no call depends on it."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise CacheError(f"the cache {self.path} cannot be {verb}: {error}") from error
