"""What goes wrong with the file costs a repeated call, never an error and never a wrong answer."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkllm.caching import disk, forks, sqlite_file
from bulkllm.caching.store import Cache
from bulkllm.errors import CacheError

Start = Callable[..., "subprocess.Popen[str]"]

VALUE = {"v": "x" * 500}


def file_in(directory: Path) -> Path:
    return directory / disk.FILE_NAME


def fill(directory: Path, count: int = 50) -> None:
    with Cache(directory) as cache:
        cache.put_many({f"k{i}": ({"v": f"{i}" * 200}, 0.1) for i in range(count)}, kind="chat")


# Damage.


def spoil_header(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"this is no database at all, is it?")


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def zero_the_middle(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\0" * (size - 4096))


def fill_with_noise(file: Path) -> None:
    noise = random.Random(3)  # noqa: S311 - noise
    with file.open("r+b") as opened:
        opened.seek(100)
        opened.write(noise.randbytes(file.stat().st_size - 100))


@pytest.mark.parametrize("spoil", [spoil_header, cut_in_half, zero_the_middle, fill_with_noise])
@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_damaged_file_is_set_aside_and_calls_go_on(
    tmp_path: Path, spoil: Callable[[Path], None], when: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    if when == "before it is opened":
        spoil(file_in(tmp_path))
    with Cache(tmp_path, memory_bytes=0) as cache:
        if when != "before it is opened":
            assert cache.get("k1") is not None
            spoil(file_in(tmp_path))
        for i in range(50):
            entry = cache.get(f"k{i}")
            assert entry is None or entry.value == {"v": f"{i}" * 200}
        assert cache.put("new", VALUE, cost=None, kind="chat")
        entry = cache.get("new")
        assert entry is not None
        assert entry.value == VALUE
        aside = cache.info().damaged
    assert [path.name for path in aside] == [f"{disk.FILE_NAME}.damaged-1"]
    assert stat.S_IMODE(aside[0].stat().st_mode) == 0o600
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"{disk.FILE_NAME}.damaged-1" in warning.getMessage()
    with Cache(tmp_path) as cache:
        assert cache.get("new") is not None


def test_each_damaged_file_gets_a_number_of_its_own(tmp_path: Path) -> None:
    for _ in range(3):
        fill(tmp_path)
        spoil_header(file_in(tmp_path))
    (tmp_path / f"{disk.FILE_NAME}.damaged-1").unlink()
    fill(tmp_path)
    with Cache(tmp_path) as cache:
        assert [path.name[-1] for path in cache.info().damaged] == ["2", "3"]


async def test_damage_seen_by_a_coroutine(tmp_path: Path) -> None:
    fill(tmp_path)
    with Cache(tmp_path) as cache:
        zero_the_middle(file_in(tmp_path))
        assert await asyncio.gather(*(cache.aget(f"k{i}") for i in range(20))) == [None] * 20
        assert await cache.aput("k1", VALUE, cost=None, kind="chat")
        assert await cache.aget("k1") is not None
        assert len(cache.info().damaged) == 1


def test_an_answer_that_was_changed_on_disk_is_not_served(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put("k", {"v": "the right answer"}, cost=0.1, kind="chat")
        cache.put("l", {"v": "left alone"}, cost=0.1, kind="chat")
    file = file_in(tmp_path)
    content = file.read_bytes()
    assert content.count(b"the right answer") == 1
    file.write_bytes(content.replace(b"the right answer", b"the wrong answer"))
    with Cache(tmp_path) as cache:
        assert cache.get("k") is None
        assert cache.get("l") is not None
        assert cache.put("k", {"v": "asked again"}, cost=0.1, kind="chat")
        entry = cache.get("k")
        assert entry is not None
        assert entry.value == {"v": "asked again"}
        assert cache.info().damaged == ()


@pytest.mark.parametrize("column", ["cost", "kind", "created", "value"])
def test_nor_is_one_that_somebody_edited(tmp_path: Path, column: str) -> None:
    with Cache(tmp_path) as cache:
        cache.put("k", VALUE, cost=0.1, kind="chat")
    db = sqlite3.connect(file_in(tmp_path))
    db.execute(f"UPDATE entries SET {column}=?", (9.0 if column in {"cost", "created"} else "{}",))  # noqa: S608 - ours
    db.commit()
    db.close()
    with Cache(tmp_path) as cache:
        assert cache.get("k") is None


# The file goes away, or cannot be used.


def test_a_file_that_is_deleted_while_it_is_used_is_begun_anew(tmp_path: Path) -> None:
    with Cache(tmp_path / "c", memory_bytes=0) as cache:
        cache.put("k", VALUE, cost=None, kind="chat")
        file_in(tmp_path / "c").unlink()
        assert cache.get("k") is None
        assert cache.put("k", VALUE, cost=None, kind="chat")
        assert file_in(tmp_path / "c").exists()
    with Cache(tmp_path / "c") as cache:
        assert cache.get("k") is not None


def test_a_directory_that_is_deleted_costs_repeated_calls_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Cache(tmp_path / "c", memory_bytes=0) as cache:
        cache.put("k", VALUE, cost=None, kind="chat")
        shutil.rmtree(tmp_path / "c")
        assert cache.get("k") is None
        assert not cache.put("k", VALUE, cost=None, kind="chat")
        assert cache.get("k") is None
        with pytest.raises(CacheError, match="cannot be read"):
            cache.info()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2  # one for reading, one for writing
    assert all("calls go on" in warning for warning in warnings)


def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache whose file SQLite refuses to enlarge, as on a full disk."""
    cache = Cache(tmp_path, memory_bytes=0)
    cache.put("k", VALUE, cost=None, kind="chat")
    assert cache._disk is not None
    file = cache._disk.file
    pages = file.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    opened = file._open

    def limited() -> sqlite3.Connection:
        db = opened()
        db.execute(f"PRAGMA max_page_count={pages}")
        return db

    monkeypatch.setattr(file, "_open", limited)
    file.run(lambda db: db.execute(f"PRAGMA max_page_count={pages}"))
    return cache


def test_a_full_disk_costs_repeated_calls_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk(tmp_path, monkeypatch) as cache:
        for i in range(5):
            assert not cache.put(f"large{i}", {"v": "x" * 100_000}, cost=None, kind="chat")
        assert cache.get("k") is not None  # what is there can still be read
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "full" in warning.getMessage()
    assert len(list(tmp_path.glob("*damaged*"))) == 0


def test_what_failed_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full_disk(tmp_path, monkeypatch) as cache:
        assert not cache.put("large", {"v": "x" * 100_000}, cost=None, kind="chat")
        monkeypatch.undo()
        assert cache._disk is not None
        cache._disk.file.run(lambda db: db.execute("PRAGMA max_page_count=100000"))
        assert not cache.put("small", VALUE, cost=None, kind="chat")  # it sits out
        assert 0 < cache._disk._useless_until["write"] - time.monotonic() <= disk._SIT_OUT
        cache._disk._useless_until["write"] = time.monotonic() - 0.001
        assert cache.put("large", {"v": "x" * 100_000}, cost=None, kind="chat")


def test_a_lock_that_nobody_lets_go_costs_repeated_calls_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Cache(tmp_path, memory_bytes=0) as cache:
        cache.put("k", VALUE, cost=None, kind="chat")
        assert cache._disk is not None
        cache._disk.file.run(lambda db: db.execute("PRAGMA busy_timeout=20").fetchone())
        blocker = sqlite3.connect(file_in(tmp_path), isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert cache.get("k") is None
        assert [cache.get("k") for _ in range(1000)] == [None] * 1000  # without waiting for each
        assert time.monotonic() - began < 10
        blocker.execute("ROLLBACK")
        blocker.close()
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == [logging.WARNING]
    assert len(list(tmp_path.glob("*damaged*"))) == 0


def test_a_damaged_file_that_others_use_is_not_moved_under_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_file, "_ALONE_WITHIN", 0.05)
    fill(tmp_path)
    with Cache(tmp_path, memory_bytes=0) as cache:
        other = os.open(f"{file_in(tmp_path)}.lock", os.O_RDWR)
        sqlite_file._lock_shared(other)
        spoil_header(file_in(tmp_path))
        assert cache.get("k1") is None
        assert len(list(tmp_path.glob("*damaged*"))) == 0
        assert "in use by others" in caplog.text
        os.close(other)
        monkeypatch.setattr(disk, "_SIT_OUT", 0.0)
        assert cache._disk is not None
        cache._disk._useless_until.clear()
        assert cache.put("k1", VALUE, cost=None, kind="chat")
        assert len(list(tmp_path.glob("*damaged*"))) == 1


def test_a_healthy_file_that_another_one_just_made_is_not_set_aside(tmp_path: Path) -> None:
    fill(tmp_path)
    with Cache(tmp_path) as cache:
        assert cache._disk is not None
        file = cache._disk.file
        stale = (0, 12345)  # what was damaged is no longer what lies there
        file._set_aside(stale)
        file._set_aside(None)
        assert cache.get("k1") is not None
    assert len(list(tmp_path.glob("*damaged*"))) == 0


def test_an_export_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "c")
    with Cache(tmp_path / "c") as cache:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CacheError, match="No space left"):
            cache.export(tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


# Several processes.

WORKER = """
    import json, random, sys
    from bulkllm.caching.store import Cache
    seed, directory, rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    pick = random.Random(seed)
    wrong = 0
    with Cache(directory, memory_bytes=20_000) as cache:
        print("ready", flush=True)
        for i in range(rounds):
            key = f"k{pick.randrange(400)}"
            entry = cache.get(key)
            if entry is None:
                cache.put(key, {"key": key, "text": key * 50}, cost=0.5, kind="chat")
            elif entry.value != {"key": key, "text": key * 50} or entry.cost != 0.5:
                wrong += 1
    print(json.dumps({"wrong": wrong}), flush=True)
"""


def test_processes_write_and_read_one_file_and_some_are_killed(tmp_path: Path, start: Start) -> None:
    steady = [start(WORKER, seed, tmp_path, 600) for seed in range(3)]
    for round_ in range(4):
        victim = start(WORKER, 100 + round_, tmp_path, 1_000_000)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        time.sleep(0.05 * (round_ + 1))  # somewhere in the middle of its work
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
        assert victim.stderr is not None
        assert victim.stderr.read() == ""
    for process in steady:
        out, err = process.communicate(timeout=100)
        assert err == ""
        assert process.returncode == 0
        assert json.loads(out.splitlines()[-1]) == {"wrong": 0}
    with Cache(tmp_path) as cache:
        info = cache.info()
        assert info.damaged == ()
        assert 300 < info.entries <= 400
        assert cache._disk is not None
        assert cache._disk.file.run(lambda db: db.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]
        for key, entry in cache.get_many([f"k{i}" for i in range(400)]).items():
            assert entry.value == {"key": key, "text": key * 50}


def test_what_was_put_survives_a_kill_right_after(tmp_path: Path, start: Start) -> None:
    code = """
        import os, signal, sys
        from bulkllm.caching.store import Cache
        cache = Cache(sys.argv[1])
        assert cache.put("k", {"v": 1}, cost=None, kind="chat")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = start(code, tmp_path)
    assert process.wait() == -signal.SIGKILL
    with Cache(tmp_path) as cache:
        entry = cache.get("k")
    assert entry is not None
    assert entry.value == {"v": 1}


def test_damage_is_set_aside_once_by_many_processes(tmp_path: Path, start: Start) -> None:
    fill(tmp_path, 400)
    code = """
        import sys
        from bulkllm.caching.store import Cache
        cache = Cache(sys.argv[1], memory_bytes=0)
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(100):
            cache.get(f"k{i}")
            assert cache.put(f"{sys.argv[2]}-{i}", {"v": i}, cost=None, kind="chat")
        cache.close()
    """
    processes = [start(code, tmp_path, name) for name in "abc"]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    zero_the_middle(file_in(tmp_path))
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    with Cache(tmp_path) as cache:
        assert len(cache.info().damaged) == 1
        assert cache.info().entries == 300


# Forks.


def in_child(work: Callable[[], bool]) -> bool:
    """Whether a forked child found everything as it should be."""
    pid = os.fork()
    if pid == 0:
        code = 1
        signal.alarm(30)  # a child that hangs must not outlive the test
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_uses_a_connection_of_its_own(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        asyncio.run(cache.aput("k", VALUE, cost=None, kind="chat"))  # starts the parent's threads
        assert cache._disk is not None
        inherited = cache._disk.file._db

        def child() -> bool:
            assert cache._disk is not None
            found = cache.get("k") is not None and asyncio.run(cache.aget("k")) is not None
            kept = cache.put("from-child", VALUE, cost=None, kind="chat")
            akept = asyncio.run(cache.aput("from-child-too", VALUE, cost=None, kind="chat"))
            own = cache._disk.file._db is not inherited
            cache.close()
            return found and kept and akept and own

        for _ in range(3):
            assert in_child(child)
        assert cache.put("from-parent", VALUE, cost=None, kind="chat")
        assert sorted(cache.get_many(["k", "from-child", "from-child-too", "from-parent"])) == [
            "from-child",
            "from-child-too",
            "from-parent",
            "k",
        ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forks_while_threads_write(tmp_path: Path) -> None:
    stop = threading.Event()
    with Cache(tmp_path, memory_bytes=0) as cache:

        def write(name: str) -> None:
            for i in range(10_000):
                if stop.is_set():
                    return
                cache.put(f"{name}{i % 50}", {"v": f"{name}{i % 50}" * 100}, cost=None, kind="chat")

        def child() -> bool:
            entry = cache.get("a0")
            return (entry is None or entry.value == {"v": "a0" * 100}) and cache.put("c", VALUE, cost=None, kind="chat")

        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        try:
            assert all(in_child(child) for _ in range(10))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert cache._disk is not None
        assert cache._disk.file.run(lambda db: db.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]
        assert cache.info().damaged == ()


def test_a_fork_waits_for_whoever_is_at_the_file(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        mutex = cache.mutex
        assert mutex is not None
        forks._before()
        try:
            assert mutex.locked()
        finally:
            forks._in_parent()
        assert not mutex.locked()


def test_a_finaliser_does_not_wait_for_the_thread_it_runs_in(tmp_path: Path) -> None:
    """The garbage collector may drop a cache while this very thread is at its file."""
    cache = Cache(tmp_path)
    cache.put("k", VALUE, cost=None, kind="chat")
    assert cache._disk is not None
    file = cache._disk.file
    drop: Any = cache._finalizer

    def work(db: sqlite3.Connection) -> Any:
        drop()
        return db.execute("SELECT count(*) FROM entries").fetchone()

    assert file.run(work) == (1,)
    assert file._db is None
    with pytest.raises(CacheError, match="closed"):
        cache.get("l")
