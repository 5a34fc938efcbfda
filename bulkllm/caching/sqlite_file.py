"""One SQLite file that several threads and processes share, and that mends itself.

What may live here: opening, locking, setting aside, closing. What is in the file is :mod:`.entries`' business.

The journal is a rollback journal, never a write-ahead log. SQLite before 3.51.3 can corrupt a WAL file that several
connections write to, the mode is written into the file, and a cache directory is shared by whatever Pythons a machine
has: one new SQLite would expose all older ones. Nor does a write-ahead log work on a network file system, where home
directories of clusters live. The price is a commit of a millisecond (on an idle disk) instead of 0.05, beside calls
that take seconds, and shared by all who write at the same time.

A file may be replaced while others use it (damaged, set aside, made anew). SQLite does not notice, and a connection to
the old file could play the new file's journal back into it. So every use of the database holds a shared lock on a
second file, ``.lock``, compares the inode first, and only who holds that lock alone may move the database.

A process has one connection, and its threads take turns. SQLite would let them read at once, but a connection that
finds the file locked by another one sleeps and looks again: beside a busy writer, such a reader was seen to wait for
3 s, and in turns for 0.1 s at most.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from ..errors import CacheError

_log = logging.getLogger(__name__)

_ALONE_WITHIN = 5.0
"""Seconds to wait until nobody else uses the file, before it may be set aside."""

_Identity = tuple[int, int] | None
"""Which file lies at a path: device and inode; None if there is none."""

Result = TypeVar("Result")

_inherited: list[object] = []
"""Connections that a child process has inherited. SQLite forbids to use them there, and even to close them."""


class SQLiteFile:
    """A database file. All methods may be called from any thread; all of them may wait for the disk.

    Args:
        path: the file; its directory is made with mode 0700 if it is not there, the file with mode 0600.
        prepare: called with each new connection: checks what the file is, and makes the tables of a new one.
        patience: seconds to wait for a lock that another process holds.

    Raises:
        CacheError: the file cannot be opened.
    """

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None], *, patience: float = 10.0) -> None:
        self.path = path
        self.closed = False
        self.mutex = threading.Lock()  # held while the connection is used; a fork waits for it
        self._lock_path = path.with_name(path.name + ".lock")
        self._prepare = prepare
        self._patience = patience
        self._db: sqlite3.Connection | None = None
        self._opened_on: _Identity = None
        self._lock: int | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run(lambda _: None)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(
                f"the cache {path} cannot be opened ({error}); give another directory as path= or in BULKLLM_CACHE_DIR"
            ) from error

    def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``work`` returns, given a connection that nobody else uses meanwhile.

        If the file turns out to be damaged it is set aside, a new one made, and the work done once more.

        Raises:
            sqlite3.Error, OSError: it could not be done. Nothing of it is in the file.
            CacheError: the file was closed, or it is not one of ours.
        """
        try:
            with self.mutex:
                return self._run(work)
        finally:
            if self.closed:  # meanwhile, by somebody who could not wait
                self.close()

    def change(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """As :meth:`run`, in a transaction that is committed when this returns."""

        def in_transaction(db: sqlite3.Connection) -> Result:
            db.execute("BEGIN IMMEDIATE")
            result = work(db)
            db.execute("COMMIT")
            return result

        return self.run(in_transaction)

    def close(self) -> None:
        """Close the connection, or have it closed by whoever is using it. Never waits."""
        self.closed = True
        if self.mutex.acquire(blocking=False):
            self._disconnect()
            self.mutex.release()

    def renew_in_child(self) -> None:
        """In a child process: leave the parent's connection alone, and open a new one when it is needed."""
        _inherited.append((self._db, self._lock))
        self._db = self._lock = None
        self.mutex = threading.Lock()

    def damaged_files(self) -> list[Path]:
        """What was set aside so far."""
        return sorted(self.path.parent.glob(f"{self.path.name}.damaged-*[0-9]"))

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self.closed:
            raise CacheError(f"the cache {self.path} was closed")
        with self._in_use() as file:
            try:
                return self._with_connection(file, work)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
        self._set_aside(file)
        with self._in_use() as file:
            return self._with_connection(file, work)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[_Identity]:
        """Which file is there, with the assurance that it stays there meanwhile."""
        if self._lock is None:
            self._lock = self._open_lock()
        _lock_shared(self._lock)
        try:
            yield _identity(self.path)
        finally:
            _unlock(self._lock)

    def _with_connection(self, file: _Identity, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._db is not None and self._opened_on != file:  # the file was replaced since
            self._db.close()
            self._db = None
        if self._db is None:
            self._db = self._open()
            self._opened_on = _identity(self.path)
        try:
            return work(self._db)
        except BaseException:
            self._db.close()  # a transaction that was open is rolled back with it
            self._db = None
            raise

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        if self._lock is not None:
            os.close(self._lock)
        self._db = self._lock = None

    def _open(self) -> sqlite3.Connection:
        # modeof: SQLite gives a database that it makes, and its journals, the mode of the lock file. (Opening and
        # closing the database by ourselves would drop the locks of every connection in this process.)
        uri = f"file:{quote(str(self.path))}?modeof={quote(str(self._lock_path))}"
        db = sqlite3.connect(uri, uri=True, timeout=self._patience, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # means something for a new file only
            _use_rollback_journal(db)
            db.execute("PRAGMA synchronous=NORMAL")
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _open_lock(self) -> int:
        return os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)

    def _set_aside(self, damaged: _Identity) -> None:
        """Move the damaged file and its journal out of the way, unless somebody else did so meanwhile."""
        lock = self._open_lock()
        try:
            end = time.monotonic() + _ALONE_WITHIN
            while not _lock_alone(lock):
                if time.monotonic() > end:
                    raise sqlite3.OperationalError("it is damaged, and in use by others")
                time.sleep(0.02)
            if damaged is None or _identity(self.path) != damaged:
                return
            number = 1 + len(self.damaged_files())
            while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
                number += 1
            self.path.rename(aside)
            for suffix in ("-journal", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
            _log.warning("the cache %s was damaged: set aside as %s, and a new one started", self.path, aside.name)
        finally:
            os.close(lock)


def _use_rollback_journal(db: sqlite3.Connection) -> None:
    (mode,) = db.execute("PRAGMA journal_mode=TRUNCATE").fetchone()
    if mode != "truncate":
        raise sqlite3.OperationalError(f"its journal mode cannot be changed from {mode!r}")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file's content is to blame; a full disk or a lock is not damage."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


if sys.platform == "win32":  # Windows does not let anybody move a file that is in use

    def _lock_shared(_: int) -> None:
        pass

    def _lock_alone(_: int) -> bool:
        return True

    def _unlock(_: int) -> None:
        pass

else:
    import fcntl

    def _lock_shared(lock: int) -> None:
        fcntl.flock(lock, fcntl.LOCK_SH)

    def _lock_alone(lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(lock: int) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)
