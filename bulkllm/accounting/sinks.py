"""Where each record is kept, for those who want more than sums: a JSONL file or an SQLite database.

What may live here: writing records down in a thread of its own, and reading them again. Handing a record in never
waits, not in an event loop and not in a finaliser; all that was handed in is written when the sink is closed, at the
latest when the program ends.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Protocol, Self

from ..errors import ConfigError
from .record import UsageRecord

_log = logging.getLogger(__name__)

_BATCH: Final = 1000  # records written at once at most
_PATIENCE: Final = 1.0  # seconds before what could not be written is tried again
_LAST: Final = -1000  # multiprocessing's own finalisers lie between -5 and 100
_SQLITE: Final = b"SQLite format 3\0"
_SUFFIXES: Final = (".sqlite", ".sqlite3", ".db")


class Sink(Protocol):
    """Takes records. It must neither wait nor raise, for it is called wherever a call ends, in finalisers too."""

    def put(self, record: UsageRecord) -> None:
        """Take a record."""

    def close(self) -> None:
        """Write what is left."""


class _Writer:
    """Hands batches of records to a thread that writes them.

    Args:
        path: the file; what is in it already stays.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._last_error: Exception | None = None
        try:
            self._check()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot write usage records to {self.path}: {error}") from error
        self._start()
        _open_sinks.add(self)

    def put(self, record: UsageRecord) -> None:
        """Take a record; it is written soon. Never waits; safe in a finaliser."""
        self._queue.put(record)  # a SimpleQueue's put is re-entrant, unlike all else that wakes a thread

    def flush(self) -> None:
        """Wait until all that was handed in so far is written.

        Raises:
            OSError: it cannot be written.
        """
        done = threading.Event()
        self._queue.put(done)
        while not done.wait(0.05):
            if not self._thread.is_alive():
                break
        self._complain()

    def close(self) -> None:
        """Write what is left and let go of the file. What is handed in afterwards is lost, and logged.

        Raises:
            OSError: some records cannot be written.
        """
        _open_sinks.discard(self)
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._complain()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the writing thread ----------------------------------------------------------------------------------

    def _check(self) -> None:
        """Whether the file can be written to."""
        raise NotImplementedError

    def _open(self) -> Callable[[Sequence[UsageRecord]], None]:
        """Open the file; what writes a batch to it, whole or not at all. A None in a batch's place closes it."""
        raise NotImplementedError

    def _start(self) -> None:
        self._queue: SimpleQueue[UsageRecord | threading.Event | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="bulkllm-usage-sink", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        write: Callable[[Sequence[UsageRecord]], None] | None = None
        waiting: list[UsageRecord] = []
        asked: list[threading.Event] = []
        over = False
        while not over or waiting:
            over = self._collect(waiting, asked, block=not waiting) or over
            try:
                write = write or self._open()
                while waiting:
                    batch = waiting[:_BATCH]
                    write(batch)
                    del waiting[: len(batch)]
                self._last_error = None
            except (OSError, sqlite3.Error) as error:
                self._failed(error, len(waiting))
                if over:
                    break
                if not asked:
                    time.sleep(_PATIENCE)
            for event in asked:
                event.set()
            asked.clear()
        if write is not None:
            with suppress(OSError, sqlite3.Error):
                write(())

    def _collect(self, waiting: list[UsageRecord], asked: list[threading.Event], *, block: bool) -> bool:
        """Take what has come, waiting for it if there is nothing to do; whether it was the last."""
        while True:
            try:
                news = self._queue.get(block=block)
            except Empty:
                return False
            if news is None:
                return True
            if isinstance(news, threading.Event):
                asked.append(news)
            else:
                waiting.append(news)
            block = False

    def _failed(self, error: Exception, count: int) -> None:
        if self._last_error is None:
            _log.warning("%d usage records cannot be written to %s yet: %s", count, self.path, error)
        self._last_error = error

    def _complain(self) -> None:
        if self._last_error is not None:
            raise OSError(f"usage records could not be written to {self.path}: {self._last_error}")


class JSONLSink(_Writer):
    """Appends each record to a file as one line of JSON, as :meth:`UsageRecord.to_dict` tells it.

    Args:
        path: the file; what is in it already stays.

    Raises:
        ConfigError: it cannot be written to.
    """

    def _check(self) -> None:
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash left half a line: what follows is to be read all the same
                    file.write(b"\n")

    def _open(self) -> Callable[[Sequence[UsageRecord]], None]:
        file = self.path.open("ab", buffering=0)

        def write(records: Sequence[UsageRecord]) -> None:
            if not records:
                file.close()
                return
            data = "".join(json.dumps(record.to_dict(), ensure_ascii=False) + "\n" for record in records)
            whole = memoryview(data.encode("utf-8", "replace"))
            begin, done = file.seek(0, os.SEEK_END), 0
            try:
                while done < len(whole):
                    done += file.write(whole[done:])
            except OSError:
                if file.seek(0, os.SEEK_END) == begin + done:  # nobody else has appended since
                    file.truncate(begin)
                raise

        return write


_COLUMNS: Final = (
    "started_at", "operation", "model", "requested_model", "response_model", "provider", "endpoint", "outcome",
    "cached", "attempts", "refused", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
    "reasoning_tokens", "cost", "cost_note", "saved", "uncertain_cost", "latency", "time_to_first_token", "waited",
    "estimated", "charge_unknown", "uncertain_tokens",
)  # fmt: skip
_JSON_COLUMNS: Final = ("usage", "tags", "waits")


class SQLiteSink(_Writer):
    """Inserts each record into the table ``usage_records`` of a database; several processes may share it.

    Args:
        path: the database; it is made if there is none.

    Raises:
        ConfigError: it cannot be written to.
    """

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
        columns = ", ".join((*_COLUMNS, *_JSON_COLUMNS))
        connection.execute(f"CREATE TABLE IF NOT EXISTS usage_records (id INTEGER PRIMARY KEY, {columns})")
        there = _columns_of(connection)
        for name in (*_COLUMNS, *_JSON_COLUMNS):
            if name not in there:  # an earlier version has made it
                with suppress(sqlite3.OperationalError):  # another process was quicker
                    connection.execute(f"ALTER TABLE usage_records ADD COLUMN {name}")
        return connection

    def _check(self) -> None:
        with closing(self._connect()):
            return

    def _open(self) -> Callable[[Sequence[UsageRecord]], None]:
        connection = self._connect()
        names = (*_COLUMNS, *_JSON_COLUMNS)
        places = ", ".join("?" * len(names))
        insert = f"INSERT INTO usage_records ({', '.join(names)}) VALUES ({places})"  # noqa: S608 - our own names

        def write(records: Sequence[UsageRecord]) -> None:
            if not records:
                connection.close()
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(insert, map(_row, records))
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise

        return write


def _row(record: UsageRecord) -> tuple[Any, ...]:
    told = record.to_dict()
    values = [told[name] if name in told else getattr(record, name) for name in _COLUMNS]
    return (*values, *(json.dumps(told[name]) for name in _JSON_COLUMNS))


def sink_at(path: str | os.PathLike[str]) -> _Writer:
    """The sink for a path: SQLite for ``.sqlite``, ``.sqlite3`` and ``.db``, otherwise JSONL."""
    return SQLiteSink(path) if Path(path).suffix.lower() in _SUFFIXES else JSONLSink(path)


def read_records(path: str | os.PathLike[str]) -> Iterator[UsageRecord]:
    """The records that a sink has written, in the order of writing.

    Raises:
        ConfigError: the file is none of a sink's.
    """
    with Path(path).open("rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            yield from _read_sqlite(path)
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                told = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):  # being written, or cut off by a crash
                    return
                raise ConfigError(f"{path}:{number}: no JSON: {error}") from error
            if not isinstance(told, dict):
                raise ConfigError(f"{path}:{number}: no usage record")
            yield UsageRecord.from_dict(told)


def _columns_of(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in connection.execute("PRAGMA table_info(usage_records)")}


def _read_sqlite(path: str | os.PathLike[str]) -> Iterator[UsageRecord]:
    with closing(sqlite3.connect(path)) as connection:
        try:
            there = _columns_of(connection)
            names = [name for name in (*_COLUMNS, *_JSON_COLUMNS) if name in there and name not in _TOKENS]
            query = f"SELECT {', '.join(names) or '*'} FROM usage_records ORDER BY id"  # noqa: S608 - our own names
            rows = connection.execute(query)
        except sqlite3.Error as error:
            raise ConfigError(f"{path} holds no usage records: {error}") from error
        for row in rows:
            told = dict(zip(names, row, strict=True))
            for name in told.keys() & _JSON_COLUMNS:
                told[name] = json.loads(told[name] or "{}")  # nothing in rows from before there was such a column
            for name in told.keys() & _FLAGS:
                told[name] = bool(told[name])
            told["uncertain_tokens"] = told.get("uncertain_tokens") or 0  # likewise
            yield UsageRecord.from_dict(told)


_TOKENS: Final = frozenset(name for name in _COLUMNS if name.endswith("_tokens")) - {"uncertain_tokens"}
_FLAGS: Final = frozenset(("cached", "estimated", "charge_unknown"))

_open_sinks: weakref.WeakSet[_Writer] = weakref.WeakSet()


def _close_all() -> None:
    for sink in list(_open_sinks):
        try:
            sink.close()
        except OSError as error:
            _log.error("%s", error)


def _flush_all() -> None:
    for sink in list(_open_sinks):
        try:
            sink.flush()
        except OSError as error:
            _log.error("%s", error)


def _after_fork() -> None:
    """A child has the sinks and not their threads; what was waiting is the parent's to write."""
    for sink in list(_open_sinks):
        sink._start()
    _tell_multiprocessing()


def _tell_multiprocessing() -> None:
    """Have multiprocessing, where the program uses it, flush the sinks as a child ends: some children skip atexit."""
    global _told  # noqa: PLW0603 - children inherit what multiprocessing was told
    util = sys.modules.get("multiprocessing.util")
    if util is None or _told:
        return
    _told = True
    util.register_after_fork(_flush_all, _flush_at_the_end)
    if sys.modules["multiprocessing.process"].parent_process() is not None:  # it is in such a child already
        _flush_at_the_end(_flush_all)


def _flush_at_the_end(flush: Callable[[], None]) -> None:
    """In a child of multiprocessing: flush when everything else of its has ended."""
    sys.modules["multiprocessing.util"].Finalize(None, flush, exitpriority=_LAST)


_told = False
_tell_multiprocessing()
atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
