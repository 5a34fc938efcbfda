"""A store in an SQLite file: the processes of one machine share limits, and there is nothing to install.

What may live here: the file, its locks, and what happens if it breaks or the process forks. A group is one row, and a
step is one short transaction.

Whoever uses the database holds the file ``.lock`` beside it alone, for a fraction of a millisecond: then nobody is in
the database while it is replaced, and nobody has to find out by SQLite's busy handler, which sleeps for up to 100 ms at
a time, that it is free. The lock dies with its owner.

The journal is a rollback journal (TRUNCATE), never a write-ahead log: SQLite before 3.51.3 can corrupt a WAL file which
several connections write to, the mode is written into the file, and the file is shared by whatever Pythons a machine
has. Nothing waits for the disk (synchronous=OFF): what is in here is worthless after a power cut, and the journal
alone keeps the file whole if a process is killed. If it breaks all the same it is set aside and a new one is made. A
file that is something else, such as a run's results, is left as it is.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from ... import config
from ...errors import ConfigError, StoreUnavailable
from ..clock import monotonic
from .base import View
from .kept import LedgerStore
from .ledger import Ledger
from .revival import lacks, take_up

_log = logging.getLogger(__name__)

FILE_NAME: Final = "shared-limits-2.sqlite3"  # the number is that of the form

_MAGIC: Final = b"SQLite format 3\0"  # each file of SQLite's begins so
_APPLICATION: Final = 0x62756C6C  # "bull" in the file's header: it is one of ours
_VERSION: Final = 2
_STALE: Final = 3600.0  # a row is removed this long after it ceased to matter
_SWEEP_EVERY: Final = 1000  # steps
_NAP: Final = 0.0005
_FORK_PATIENCE: Final = 5.0
_UNSUPPORTED: Final = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}

Result = TypeVar("Result")


class _Memory(NamedTuple):
    """A state as this process left it."""

    epoch: str
    written: int
    text: str
    at: float
    matters_for: float


class SQLiteStore(LedgerStore):
    """Limits that the processes of one machine share.

    A wall clock that is set back stands still for the store until it has caught up, or (by more than a second) goes
    on from where it was; one that is set forward lets leases end early and buckets fill, once.

    Args:
        path: the file; made if it is not there, with mode 0600. By default it is in the user's state directory.
        patience: seconds to wait for other processes before the store counts as unavailable.
        clock: seconds, the same for all processes. Tests pass their own.

    Raises:
        ConfigError: the file is there and is something else.
        StoreUnavailable: the file cannot be opened or made.
    """

    def __init__(
        self, path: str | Path | None = None, *, patience: float = 5.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = file_of(path)
        self._patience = patience
        self._clock = clock
        self._mutex = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._opened_on: tuple[int, int] | None = None
        self._lock = -1
        self._steps = 0
        self._memories: dict[str, _Memory] = {}
        _watch(self)
        self._run(lambda _: None)

    def disconnect(self) -> None:
        """See :meth:`.base.Store.disconnect`. The next use opens the file again."""
        with self._mutex:
            self._close_database()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def __del__(self) -> None:
        if getattr(self, "_db", None) is not None:  # nobody else can be using it any more
            self._close_database()
        if getattr(self, "_lock", -1) >= 0:
            os.close(self._lock)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.path)!r})"

    # -- one step --------------------------------------------------------------------------------------------

    def _with_ledger(self, group: str, work: Callable[[Ledger, float], Result], *, change: bool = True) -> Result:
        return self._run(lambda db: self._step(db, group, work, change=change))

    def _step(
        self, db: sqlite3.Connection, group: str, work: Callable[[Ledger, float], Result], *, change: bool
    ) -> Result:
        db.execute("BEGIN IMMEDIATE")
        clock = self._clock()  # after the lock was had, so that the clock is read in the order of the steps
        row = db.execute("SELECT state FROM groups WHERE name = ?", (group,)).fetchone()
        ledger = _read(row, self.path, group)
        memory = self._memories.get(group)
        if memory is not None and lacks(ledger, memory.epoch, memory.written):
            elapsed = monotonic() - memory.at
            if elapsed < memory.matters_for:
                take_up(ledger, Ledger.load(json.loads(memory.text)), elapsed, clock)
        result = work(ledger, clock)
        written: _Memory | None = None
        if change:
            ledger.tidy()
            text = json.dumps(ledger.dump(), separators=(",", ":"), allow_nan=False)
            matters_for = ledger.as_new_in()
            due = clock + matters_for
            db.execute("INSERT OR REPLACE INTO groups (name, state, due) VALUES (?, ?, ?)", (group, text, due))
            self._steps += 1
            if self._steps % _SWEEP_EVERY == 1:
                db.execute("DELETE FROM groups WHERE due < ?", (clock - _STALE,))
            written = _Memory(ledger.epoch, ledger.written, text, monotonic(), matters_for)
        db.execute("COMMIT")
        if written is not None:
            self._memories[group] = written
        return result

    # -- the file --------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``work`` returns, given the database while nobody else uses it; twice if it was damaged."""
        if not self._mutex.acquire(timeout=self._patience):
            raise StoreUnavailable(f"the store {self.path} was in use by this process for {self._patience:g} s")
        try:
            with self._alone():
                try:
                    return self._with_database(work)
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    self._set_aside(error)
                return self._with_database(work)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(
                f"the store {self.path} cannot be used ({error}); see that its directory can be written to, or give "
                f"another path"
            ) from error
        finally:
            self._mutex.release()

    def _with_database(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._db is not None and self._opened_on != _identity(self.path):  # replaced or removed since
            self._close_database()
        if self._db is None:
            self._db = self._open()
            self._opened_on = _identity(self.path)
        try:
            return work(self._db)
        except BaseException:
            self._close_database()  # a transaction that was open is rolled back with it
            raise

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(self.path, timeout=self._patience, isolation_level=None, check_same_thread=False)
        try:
            self._claim_file(db)
            db.execute("PRAGMA journal_mode=TRUNCATE")
            db.execute("PRAGMA synchronous=OFF")
            db.execute(
                "CREATE TABLE IF NOT EXISTS groups (name TEXT PRIMARY KEY, state TEXT NOT NULL, due REAL NOT NULL)"
            )
        except BaseException:
            db.close()
            raise
        return db

    def _claim_file(self, db: sqlite3.Connection) -> None:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if (application, version) == (_APPLICATION, _VERSION):
            return
        (objects,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application or version or objects:
            raise _another_database(self.path)
        db.execute(f"PRAGMA application_id={_APPLICATION}")
        db.execute(f"PRAGMA user_version={_VERSION}")

    def _close_database(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Move a store that is damaged out of the way, under a name that is free.

        Raises:
            ConfigError: it is no file of SQLite's, nor one that was a store when this one opened it.
        """
        if _is_something_else(self.path) and _identity(self.path) != self._opened_on:
            raise _something_else(self.path)
        names = (self.path.with_name(f"{self.path.name}.damaged-{number}") for number in itertools.count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        self.path.rename(aside)
        for suffix in ("-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).replace(aside.with_name(aside.name + suffix))
        _log.warning("the store %s was damaged (%s): set aside as %s, a new one started", self.path, error, aside.name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock file, which is not made beside a file that is something else."""
        if self._lock < 0:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_path = _lock_of(self.path)
            if not lock_path.exists() and _is_something_else(self.path):
                raise _something_else(self.path)
            self._lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        with _holding(self._lock, self._patience):
            yield

    def _renew_in_child(self) -> None:
        """In a forked child: what the parent opened is the parent's. SQLite forbids even to close it here."""
        _inherited.append(self._db)
        self._db = None
        self._mutex = threading.Lock()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def file_of(path: str | Path | None) -> Path:
    """The file that is meant: absolute, so that it stays the same one wherever the process goes."""
    return (Path(path).expanduser() if path is not None else config.state_dir() / FILE_NAME).absolute()


def look_at(
    path: str | Path | None, group: str, *, patience: float = 5.0, clock: Callable[[], float] = time.time
) -> View:
    """How a group stands in a store's file, for whoever only looks: no file is made, renamed or written.

    Args:
        path: the file; by default it is in the user's state directory.
        group: whose limits. One that nobody has used is empty, and so is an empty file.
        patience: seconds to wait for processes that use the store.
        clock: as :class:`SQLiteStore` has it.

    Raises:
        ConfigError: the file is something else.
        StoreUnavailable: the file is not there, is damaged, or cannot be read.
    """
    path = file_of(path)
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                lock = os.open(_lock_of(path), os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
                stack.callback(os.close, lock)
                stack.enter_context(_holding(lock, patience))
            if not path.stat().st_size:
                return Ledger().look(clock())
            if _is_something_else(path):
                raise _something_else(path)
            if not _has_our_header(path):  # SQLite is not asked: it would make files beside another's database
                raise _another_database(path)
            db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=patience)
            stack.callback(db.close)
            row = db.execute("SELECT state FROM groups WHERE name = ?", (group,)).fetchone()
            return _read(row, path, group).look(clock())
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(
            f"the store {path} cannot be read ({error}); if it is damaged, the next program that uses it mends it"
        ) from error


def _read(row: tuple[str] | None, path: Path, group: str) -> Ledger:
    if row is None:
        return Ledger()
    try:
        return Ledger.load(json.loads(row[0]))
    except (ValueError, KeyError, TypeError):
        _log.warning("what %s says about the limits of %s is damaged: it starts anew", path, group)
        return Ledger()


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


@contextlib.contextmanager
def _holding(lock: int, patience: float) -> Iterator[None]:
    """Hold an open lock file. Whoever waits for it looks again every half a millisecond."""
    end = time.monotonic() + patience
    while not _lock(lock):
        if time.monotonic() > end:
            raise OSError(errno.EBUSY, f"in use by other processes for {patience:g} s")
        time.sleep(_NAP)
    try:
        yield
    finally:
        _unlock(lock)


def _is_something_else(path: Path) -> bool:
    """Whether there is a file, with something in it that SQLite has not written.

    To be asked by whoever holds the lock, or where there is none: a process that closes the file loses SQLite's locks.
    """
    return path.is_file() and _header(path, len(_MAGIC)) not in (b"", _MAGIC)


def _has_our_header(path: Path) -> bool:
    header = _header(path, 72)
    found = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")  # as SQLite documents them
    return found == (_APPLICATION, _VERSION)


def _header(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _something_else(path: Path) -> ConfigError:
    return ConfigError(f"{path} is no store of limits; give another path")


def _another_database(path: Path) -> ConfigError:
    return ConfigError(f"{path} is a database, but no store of limits of this version; give another path")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file's content is to blame; a full disk or a lock is not damage."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


# -- forks -----------------------------------------------------------------------------------------------------------
# A fork waits until nobody is in the database: a transaction that was open at that moment could be rolled back by the
# child's copy of the connection while the parent commits it.

_inherited: list[object] = []
_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_forking = threading.Lock()
_held: list[threading.Lock] = []
_hooked = False


def _watch(store: SQLiteStore) -> None:
    global _hooked  # noqa: PLW0603 - hooks are set once for a process, and not at import
    with _forking:
        _stores.add(store)
        if not _hooked and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
            _hooked = True


def _before_fork() -> None:
    _forking.acquire()
    _held.extend(store._mutex for store in list(_stores) if store._mutex.acquire(timeout=_FORK_PATIENCE))


def _after_fork() -> None:
    while _held:
        _held.pop().release()
    _forking.release()


def _after_fork_in_child() -> None:
    _held.clear()
    for store in list(_stores):
        store._renew_in_child()
    _forking.release()


# -- locks -----------------------------------------------------------------------------------------------------------

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # a file system without locks: SQLite's own have to do
            if error.errno not in _UNSUPPORTED:
                raise
        return True

    def _unlock(fd: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
