"""The store in a file: processes, breakage, forks."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from bulkllm.errors import ConfigError, StoreUnavailable
from bulkllm.limits.clock import monotonic
from bulkllm.limits.stores import Claim, Lease, Meter, Report, Spending, open_store
from bulkllm.limits.stores.memory import MemoryStore
from bulkllm.limits.stores.sqlite import FILE_NAME, SQLiteStore, look_at

RPM = Meter("rpm", "bucket", 60, whole=True)

MakeCrew = Callable[[str, Literal["bucket", "sliding"], int], Any]  # conftest's


def claim(owner: str, want: float = 0, *, keep: float = 0, ttl: float = 60.0, spent: float = 0) -> Claim:
    reports = (Report(1, (Spending("rpm", spent, 0.0),)),) if spent else ()
    return Claim(owner, (RPM,), ttl, want={"rpm": want}, keep={"rpm": keep}, reports=reports)


def contents(directory: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "limits.sqlite3"


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_four_processes_keep_the_limit_and_use_it(
    crew: MakeCrew, path: Path, kind: Literal["bucket", "sliding"]
) -> None:
    four = crew(str(path), kind, 200)
    four.start(4, seconds=2)
    four.finish()
    began = four.spent()[0][0]
    assert four.overdrawn() == pytest.approx(0, abs=1e-3)
    assert four.total(began, began + 1.5) >= 0.95 * four.possible(1.5)
    assert all(four.spent(which) for which in range(4))


@pytest.mark.soak
def test_one_that_is_killed_is_missed_for_no_longer_than_its_lease(crew: MakeCrew, path: Path) -> None:
    four = crew(str(path), "bucket", 200)
    four.start(4, seconds=3)
    four.wait_for(lambda: all(four.spent(which) for which in range(4)))
    four.running[0].kill()
    killed = time.time()
    four.finish()
    assert four.spent(0)[-1][0] <= killed
    assert four.total(killed + 1, killed + 2) >= 0.95 * four.quota
    assert four.overdrawn() <= 20, "what it spent and did not say is at most one lease"
    assert not [amount for held in SQLiteStore(path).look("group").held.values() for amount in held.values()]


def test_threads_share_one_store(path: Path) -> None:
    store = SQLiteStore(path)
    granted: list[float] = []

    def work(number: int) -> None:
        granted.extend(store.lease("g", claim(f"{number}", 1)).granted.get("rpm", 0) for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert granted == [1.0] * 80
    assert store.look("g").left == {"rpm": 56}


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_is_the_user_s_own_and_in_the_state_directory(tmp_path: Path) -> None:
    store = open_store()
    assert isinstance(store, SQLiteStore)
    assert store.path == Path(os.environ["BULKLLM_STATE_DIR"]) / FILE_NAME
    store.lease("g", claim("a", 1))
    for name in (FILE_NAME, f"{FILE_NAME}.lock"):
        assert stat.S_IMODE((store.path.parent / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_the_journal_is_never_a_write_ahead_log(path: Path) -> None:
    SQLiteStore(path).lease("g", claim("a", 1))
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() != ("wal",)
    db.close()
    assert not path.with_name(path.name + "-wal").exists()


@pytest.mark.parametrize("harm", ["garbage", "header", "page", "cut"])
def test_a_damaged_file_is_set_aside_and_what_is_remembered_stays(
    path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SQLiteStore(path)
    store.lease("g", claim("a", 50))
    store.lease("g", claim("a", spent=50))
    store.disconnect()
    content = bytearray(path.read_bytes())
    if harm == "garbage":
        content = bytearray(os.urandom(len(content)))
    elif harm == "header":
        content[:16] = b"SQLite format 9\0"
    elif harm == "page":
        content[100:2000] = os.urandom(1900)
    else:
        del content[5000:]
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="lost its state"):
        store.lease("g", claim("b", 20))
    assert 10 <= store.look("g").left["rpm"] <= 20, "it is not as though nothing had happened"
    assert path.with_name(path.name + ".damaged-1").exists()
    assert "damaged" in caplog.text
    assert SQLiteStore(path).look("g").left["rpm"] <= 20


def test_a_file_that_is_damaged_while_it_is_in_use_goes_on_working(path: Path) -> None:
    now = [time.time()]
    store = SQLiteStore(path, clock=lambda: now[0])

    def lease(asked: Claim) -> Lease:
        try:
            return store.lease("g", asked)
        except StoreUnavailable as error:
            now[0] += error.retry_after or math.nan
            return store.lease("g", asked)

    for number in range(20):
        lease(claim("a", 1, keep=number))
        content = bytearray(path.read_bytes())
        place = 200 * number
        content[place : place + 100] = os.urandom(100)
        path.write_bytes(content)
    assert lease(claim("b", 1)).granted == {"rpm": 1}
    assert store.look("g").held["a"] == {"rpm": 20}


def test_a_damaged_row_is_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SQLiteStore(path)
    store.lease("g", claim("a", 50))
    store.lease("other", claim("a", 10))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE groups SET state = '{\"epoch\": 1' WHERE name = 'g'")
    db.close()
    assert store.look("g").left["rpm"] == pytest.approx(10, abs=1)
    assert SQLiteStore(path).look("g").left == {}, "nobody else remembers"
    assert "damaged" in caplog.text
    assert store.look("other").left == {"rpm": 50}


def test_a_file_that_is_removed_comes_back_with_what_is_remembered(path: Path) -> None:
    first, second = SQLiteStore(path), SQLiteStore(path)
    first.lease("g", claim("a", 10))
    second.lease("g", claim("b", 20))
    path.unlink()
    assert first.look("g").left["rpm"] == 60 - 10, "this is what it knew"
    for store, owner, held in ((first, "a", 10), (second, "b", 20)):
        with pytest.raises(StoreUnavailable, match="lost its state"):
            store.lease("g", claim(owner, 5, keep=held))
    assert first.look("g").left["rpm"] == 60 - 30


def test_what_is_so_old_that_it_does_not_matter_is_not_brought_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLiteStore(path)
    store.lease("g", claim("a", 10, ttl=5))
    path.unlink()
    later = monotonic() + 10
    monkeypatch.setattr("bulkllm.limits.stores.sqlite.monotonic", lambda: later)
    assert store.look("g").held == {}


def test_another_program_s_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE precious (thing)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="no store of limits"):
        SQLiteStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"x", b'{"id": "1", "answer": "paid"}\n' * 200, b"SQLite format 2\0" + bytes(9000)]
)
def test_a_file_that_is_something_else_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match="is no store of limits; give another path"):
            SQLiteStore(path)
    with pytest.raises(ConfigError, match="is no store of limits; give another path"):
        look_at(path, "g")
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_takes_the_place_of_a_store_in_use_is_left_alone(path: Path) -> None:
    store = SQLiteStore(path)
    store.lease("g", claim("a", 10))
    results = path.with_name("results.jsonl")
    results.write_bytes(b"{}\n" * 2000)
    results.replace(path)
    with pytest.raises(ConfigError, match="is no store of limits"):
        store.look("g")
    assert path.read_bytes() == b"{}\n" * 2000
    assert not list(path.parent.glob("*.damaged*"))


def test_nothing_that_was_set_aside_is_overwritten(path: Path) -> None:
    path.parent.mkdir()
    path.with_name(path.name + ".damaged-2").write_text("somebody's", encoding="utf-8")
    for number in range(3):
        path.write_bytes(b"SQLite format 3\0" + bytes([number]) * 5000)
        SQLiteStore(path).lease("g", claim("a", 1))
    aside = {name.name.rpartition("-")[2]: name.read_bytes()[16:] for name in path.parent.glob("*.damaged-?")}
    assert aside == {"1": bytes(5000), "2": b"", "3": b"\1" * 5000, "4": b"\2" * 5000}


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert look_at(path, "g").left == {}
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert SQLiteStore(path).lease("g", claim("a", 10)).granted == {"rpm": 10}


def test_who_only_looks_sees_the_same_and_makes_and_changes_nothing(path: Path) -> None:
    store = SQLiteStore(path)
    store.lease("g", claim("a", 10))
    store.close("g", "openai/*", 3600.0)
    store.disconnect()
    path.with_name(path.name + ".lock").unlink()
    before = contents(path.parent)
    path.chmod(0o400)
    path.parent.chmod(0o500)
    seen = look_at(path, "g")
    path.parent.chmod(0o700)
    assert (seen.left, seen.held) == ({"rpm": 50}, {"a": {"rpm": 10}})
    assert seen.closed["openai/*"] == pytest.approx(3600, abs=60)
    assert look_at(path, "elsewhere").left == {}
    assert contents(path.parent) == before


def test_looking_waits_its_turn_and_mends_nothing(path: Path) -> None:
    store = SQLiteStore(path)
    store.lease("g", claim("a", 10))
    with store._alone(), pytest.raises(StoreUnavailable, match="in use by other processes"):
        look_at(path, "g", patience=0.0)
    store.disconnect()
    path.write_bytes(path.read_bytes()[:100] + b"\1" * 9000)
    before = contents(path.parent)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        look_at(path, "g")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        look_at(path.with_name("nowhere"), "g")
    assert contents(path.parent) == before


def test_looking_at_another_program_s_database_makes_no_file_beside_it(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE precious (thing)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is a database, but no store of limits"):
        look_at(path, "g")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="another path"):
        SQLiteStore(tmp_path / "file" / "limits.sqlite3")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        SQLiteStore(tmp_path)


def test_a_store_that_others_do_not_let_go_of_is_unavailable(path: Path) -> None:
    store = SQLiteStore(path, patience=0.05)
    blocker = SQLiteStore(path)
    with blocker._alone(), pytest.raises(StoreUnavailable, match="in use by other processes"):
        store.look("g")
    store.look("g")


def test_a_state_that_nobody_wants_any_more_is_swept_out(path: Path) -> None:
    now = [1_795_000_000.0]
    store = SQLiteStore(path, clock=lambda: now[0])
    for number in range(50):
        store.lease(f"g{number}", claim("a", 10))
    now[0] += 5000
    for _ in range(1001):
        store.lease("g", claim("a"))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM groups").fetchall() == [("g",)]
    db.close()


def test_a_store_can_be_used_again_after_it_was_disconnected(path: Path) -> None:
    with SQLiteStore(path) as store:
        store.lease("g", claim("a", 10))
    assert store.lease("g", claim("a", 10, keep=10)).left == {"rpm": 40}


def test_a_fork_hurts_neither_side(path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys, threading
        from bulkllm.limits.stores import Claim, Meter, open_store

        store = open_store(sys.argv[1])
        meter = Meter("rpm", "bucket", 1e6, whole=True)

        def lease(owner, times):
            for number in range(times):
                store.lease("g", Claim(owner, (meter,), 600.0, want={"rpm": 1.0}, keep={"rpm": float(number)}))

        busy = threading.Thread(target=lease, args=("thread", 600))
        busy.start()
        children = []
        for number in range(8):
            child = os.fork()
            if not child:
                try:
                    lease(f"child {number}", 50)
                finally:
                    os._exit(0 if sys.exc_info()[0] is None else 1)
            children.append(child)
        lease("parent", 50)
        busy.join()
        codes = [os.waitpid(child, 0)[1] for child in children]
        held = {owner: held["rpm"] for owner, held in store.look("g").held.items()}
        assert codes == [0] * 8, codes
        assert held == {"thread": 600, "parent": 50, **{f"child {n}": 50 for n in range(8)}}, held
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    assert not list(path.parent.glob("*.damaged*"))


# -- finding the store -------------------------------------------------------------------------------------------------


def test_a_store_is_named_by_a_path_or_a_url(tmp_path: Path) -> None:
    for where in (tmp_path / "a.db", str(tmp_path / "b.db"), f"sqlite://{tmp_path}/c%20d.db"):
        store = open_store(where)
        assert isinstance(store, SQLiteStore)
        assert store.path.parent == tmp_path
        assert open_store(store) is store
    assert (tmp_path / "c d.db").exists()
    assert isinstance(open_store("memory://"), MemoryStore)
    default = open_store("sqlite://")
    assert isinstance(default, SQLiteStore)
    assert default.path.name == FILE_NAME


@pytest.mark.parametrize("where", ["", "postgres://host/db", "sqlite://host/path", "redis://"])
def test_a_store_that_cannot_be_meant_is_refused(where: str) -> None:
    with pytest.raises(ConfigError):
        open_store(where)


def test_a_relative_path_is_the_same_file_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("s.db")
    store.lease("g", claim("a", 10))
    monkeypatch.chdir(elsewhere)
    store.disconnect()
    assert store.look("g").left == {"rpm": 50}
    assert list(elsewhere.iterdir()) == []
