"""The tables in which answers are kept, and every statement that is said to them.

What may live here: SQL. Each function takes a connection and does its work in it; whether in a transaction, and what
happens if it fails, is its caller's business.

Values are JSON and can be read with any SQLite shell. The index on ``used`` holds all that ``info`` and eviction ask
for, so that neither has to read the values.
"""

from __future__ import annotations

import random
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CacheError
from .shelf import Row

APPLICATION_ID = 0x62_75_6C_6B  # "bulk"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE entries (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    cost REAL,
    created REAL NOT NULL,
    used REAL NOT NULL,
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    value BLOB NOT NULL
);
CREATE INDEX entries_by_use ON entries (used, size, kind, cost, created);
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

_TRIGGERS = """
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    UPDATE state SET value = value + NEW.size WHERE name = 'size';
    UPDATE state SET value = value + 1 WHERE name = 'count';
END;
CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
    UPDATE state SET value = value - OLD.size WHERE name = 'size';
    UPDATE state SET value = value - 1 WHERE name = 'count';
END;
"""

_READ = "SELECT key, kind, value, cost, created, used, checksum, rowid FROM entries WHERE key=?"
_READ_AFTER = (
    "SELECT key, kind, value, cost, created, used, checksum, rowid FROM entries WHERE rowid > ? ORDER BY rowid LIMIT ?"
)

_EVICTED_AT_ONCE = 1000
"""Entries that one write may evict: a transaction of others must not wait for long."""


@dataclass(frozen=True, slots=True)
class KindSummary:
    """What there is of one kind of answer: how many, how large, and what they cost when they were paid."""

    count: int
    size: int
    cost: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What there is in all; times are seconds since 1970, None where there is nothing."""

    kinds: Mapping[str, KindSummary]
    oldest: float | None
    newest: float | None
    last_used: float | None


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables of a new file; recognise one of ours. If this raises, the connection is to be closed.

    Raises:
        CacheError: the file is a database of something else, or of a newer bulkllm.
    """
    if _is_ours(db):
        return
    db.execute("BEGIN IMMEDIATE")
    if not _is_ours(db):  # several processes may be about to make it
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            raise CacheError(f"{_name(db)} is a database of something else; give the cache another directory")
        for statement in _statements(_SCHEMA + _TRIGGERS):
            db.execute(statement)
        db.executemany(
            "INSERT INTO state VALUES (?, ?)", [("generation", _new_generation()), ("size", 0), ("count", 0)]
        )
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    db.execute("COMMIT")


def read(db: sqlite3.Connection, keys: Iterable[str]) -> dict[str, tuple[Row, int]]:
    """The rows under these keys that are there and sound, each with its place in the file."""
    found: dict[str, tuple[Row, int]] = {}
    for key in keys:
        raw = db.execute(_READ, (key,)).fetchone()
        if raw is not None and (row := _row(raw)) is not None:
            found[key] = row, raw[-1]
    return found


def read_after(db: sqlite3.Connection, place: int, limit: int) -> list[tuple[Row, int]]:
    """The sound rows that were stored next after a place in the file, oldest first."""
    rows = db.execute(_READ_AFTER, (place, limit)).fetchall()
    return [(row, raw[-1]) for raw in rows if (row := _row(raw)) is not None]


def write(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Keep these rows; what was there under their keys goes."""
    db.executemany("DELETE FROM entries WHERE key=?", [(row.key,) for row in rows])
    db.executemany(
        "INSERT INTO entries (key, kind, cost, created, used, size, checksum, value) VALUES (?,?,?,?,?,?,?,?)",
        [
            (row.key, row.kind, row.cost, row.created, row.used, row.size, _checksum(row), row.text)
            for row in {row.key: row for row in rows}.values()
        ],
    )


def remove(db: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Remove what is kept under these keys."""
    db.executemany("DELETE FROM entries WHERE key=?", [(key,) for key in keys])


def note_use(db: sqlite3.Connection, used: Mapping[str, float]) -> None:
    """Write down when entries were used last."""
    db.executemany(
        "UPDATE entries SET used=? WHERE key=? AND used < ?", [(when, key, when) for key, when in used.items()]
    )


def evict(db: sqlite3.Connection, max_bytes: int, oldest: float | None) -> int:
    """Remove what nobody has used since ``oldest``, and the least recently used beyond the bound; a few at a time."""
    removed = 0
    if oldest is not None:
        removed += db.execute(
            "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE used < ? ORDER BY used LIMIT ?)",
            (oldest, _EVICTED_AT_ONCE),
        ).rowcount
    excess = state(db)["size"] - max_bytes
    if excess <= 0:
        return removed
    going = []
    for place, size in db.execute(
        "SELECT rowid, size FROM entries ORDER BY used LIMIT ?", (_EVICTED_AT_ONCE,)
    ).fetchall():
        if excess <= 0:
            break
        going.append((place,))
        excess -= size
    db.executemany("DELETE FROM entries WHERE rowid=?", going)
    return removed + len(going)


def remove_older(db: sqlite3.Connection, oldest: float) -> int:
    """Remove some of what was kept before ``oldest``, however lately it was used; says how many."""
    return db.execute(
        "DELETE FROM entries WHERE rowid IN"
        " (SELECT rowid FROM entries INDEXED BY entries_by_use WHERE created < ? LIMIT ?)",
        (oldest, _EVICTED_AT_ONCE),
    ).rowcount


def clear(db: sqlite3.Connection) -> int:
    """Remove everything and begin a new generation, which tells other processes to forget what they hold in memory."""
    count = state(db)["count"]
    # Without triggers SQLite frees whole pages instead of visiting each row.
    db.execute("DROP TRIGGER entry_added")
    db.execute("DROP TRIGGER entry_removed")
    db.execute("DELETE FROM entries")
    for statement in _statements(_TRIGGERS):
        db.execute(statement)
    db.execute("UPDATE state SET value=0 WHERE name IN ('size', 'count')")
    db.execute("UPDATE state SET value=? WHERE name='generation'", (_new_generation(),))
    return count


def give_back_space(db: sqlite3.Connection) -> None:
    """Make the file as small as what is in it."""
    db.executescript("PRAGMA incremental_vacuum")  # it works page by page, and execute() takes one step only


def state(db: sqlite3.Connection) -> dict[str, int]:
    """``generation``, ``size`` in bytes and ``count`` of all entries, kept up to date by every write."""
    return dict(db.execute("SELECT name, value FROM state"))


def summary(db: sqlite3.Connection) -> Summary:
    """What there is, by kind."""
    rows = db.execute(
        "SELECT kind, count(*), sum(size), total(cost), min(created), max(created), max(used)"
        " FROM entries INDEXED BY entries_by_use GROUP BY kind"
    ).fetchall()
    return Summary(
        kinds={kind: KindSummary(count, size, cost) for kind, count, size, cost, *_ in rows},
        oldest=min((row[4] for row in rows), default=None),
        newest=max((row[5] for row in rows), default=None),
        last_used=max((row[6] for row in rows), default=None),
    )


def _is_ours(db: sqlite3.Connection) -> bool:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID and version > SCHEMA_VERSION:
        raise CacheError(
            f"{_name(db)} was written by a newer bulkllm (its schema is version {version}, this one knows"
            f" {SCHEMA_VERSION}); update bulkllm, or give the cache another directory"
        )
    return bool(application == APPLICATION_ID and version == SCHEMA_VERSION)


def _row(raw: tuple[Any, ...]) -> Row | None:
    """A row as it was written, or None if the disk or somebody else has changed it since."""
    key, kind, text, cost, created, used, checksum, _ = raw
    row = Row(key, kind, text, cost, created, used)
    return row if isinstance(text, bytes) and _checksum(row) == checksum else None


def _checksum(row: Row) -> int:
    head = f"{row.key}\0{row.kind}\0{row.cost!r}\0{row.created!r}\0".encode()
    return zlib.crc32(row.text, zlib.crc32(head))


def _new_generation() -> int:
    return random.SystemRandom().getrandbits(62)


def _statements(script: str) -> list[str]:
    """The statements of a script; ``executescript`` would commit the transaction that they belong to."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


def _name(db: sqlite3.Connection) -> str:
    path: str = db.execute("PRAGMA database_list").fetchone()[2]
    return path
