"""The cache: what goes in comes out, bounded, private, and never breaks a call."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkllm.caching import disk, entries
from bulkllm.caching.shelf import OVERHEAD, Row, Shelf
from bulkllm.caching.store import Cache
from bulkllm.errors import CacheError, ConfigError

VALUE = {"choices": [{"message": {"content": "hi \U0001f600", "tool_calls": None}}], "usage": {"total_tokens": 3}}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Iterator[Cache]:
    with Cache(tmp_path / "c", clock=clock) as cache:
        yield cache


@pytest.fixture(params=["disk", "memory"])
def any_cache(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Cache]:
    with Cache(None if request.param == "memory" else tmp_path, memory=request.param == "memory", clock=clock) as cache:
        yield cache


def path_of(cache: Cache) -> Path:
    assert cache.path is not None
    return cache.path


def shell(cache: Cache, statement: str, *values: Any) -> list[Any]:
    """What somebody else's SQLite says."""
    db = sqlite3.connect(path_of(cache), isolation_level=None)
    try:
        return db.execute(statement, values).fetchall()
    finally:
        db.close()


# What goes in comes out.


def test_an_answer_comes_back_with_what_it_cost(any_cache: Cache, clock: Clock) -> None:
    assert any_cache.get("k") is None
    assert any_cache.put("k", VALUE, cost=0.25, kind="chat")
    clock.now += 5
    entry = any_cache.get("k")
    assert entry is not None
    assert (entry.key, entry.value, entry.cost, entry.kind) == ("k", VALUE, 0.25, "chat")
    assert entry.created_at == 1_000_000.0
    assert any_cache.put("unpriced", VALUE, cost=None, kind="chat")
    unpriced = any_cache.get("unpriced")
    assert unpriced is not None
    assert unpriced.cost is None


async def test_the_same_without_holding_up_the_loop(any_cache: Cache) -> None:
    assert await any_cache.aget("k") is None
    assert await any_cache.aput("k", VALUE, cost=0.25, kind="chat")
    entry = await any_cache.aget("k")
    assert entry is not None
    assert entry.value == VALUE
    assert entry == any_cache.get("k")


async def test_many_at_once(any_cache: Cache) -> None:
    assert any_cache.put_many({"a": ({"v": [1]}, 0.1), "b": ({"v": [2]}, None)}, kind="embedding") == 2
    assert await any_cache.aput_many({"c": ({"v": [3]}, 0.3)}, kind="embedding") == 1
    assert any_cache.put_many({}, kind="embedding") == await any_cache.aput_many({}, kind="embedding") == 0
    wanted = ["b", "missing", "c", "a"]
    for found in (any_cache.get_many(wanted), await any_cache.aget_many(wanted)):
        assert {key: entry.value["v"] for key, entry in found.items()} == {"a": [1], "b": [2], "c": [3]}
    assert any_cache.get_many([]) == {}


def test_it_is_there_for_the_next_process(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put("k", VALUE, cost=0.25, kind="chat")
    with Cache(tmp_path) as cache:
        entry = cache.get("k")
    assert entry is not None
    assert (entry.value, entry.cost) == (VALUE, 0.25)


def test_the_later_answer_counts(any_cache: Cache) -> None:
    any_cache.put("k", {"v": 1}, cost=1.0, kind="chat")
    any_cache.put("k", {"v": 2}, cost=2.0, kind="chat")
    entry = any_cache.get("k")
    assert entry is not None
    assert entry.value == {"v": 2}
    assert any_cache.info().entries == 1
    assert any_cache.info().worth == 2.0


async def test_what_will_not_do_is_forgotten(any_cache: Cache) -> None:
    any_cache.put_many(dict.fromkeys("abc", (VALUE, 1.0)), kind="chat")
    any_cache.forget(["a", "missing"])
    await any_cache.aforget(["b"])
    assert list(any_cache.get_many("abc")) == ["c"]
    assert (any_cache.info().entries, any_cache.info().worth) == (1, 1.0)
    any_cache.put("a", {"v": 2}, cost=2.0, kind="chat")
    entry = await any_cache.aget("a")
    assert entry is not None
    assert entry.value == {"v": 2}


def test_and_stays_so_for_the_next_process(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put_many(dict.fromkeys("ab", (VALUE, 1.0)), kind="chat")
        cache.forget(["a"])
    with Cache(tmp_path) as cache:
        assert list(cache.get_many("ab")) == ["b"]


def test_a_reader_cannot_change_what_is_kept(any_cache: Cache) -> None:
    value = {"list": [1]}
    any_cache.put("k", value, cost=None, kind="chat")
    value["list"].append(2)
    for _ in range(2):
        entry = any_cache.get("k")
        assert entry is not None
        assert entry.value == {"list": [1]}
        entry.value["list"].append(3)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    ),
    st.none() | st.floats(0, 1e6),
)
def test_any_json_comes_back_exactly(value: dict[str, Any], cost: float | None) -> None:
    with Cache(memory=True) as cache:
        assert cache.put("k", value, cost=cost, kind="chat")
        entry = cache.get("k")
    assert entry is not None
    assert (entry.value, entry.cost) == (value, cost)
    assert json.dumps(entry.value) == json.dumps(value)  # 1 is still no 1.0


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"\udfff": 1}, {"a": "\0"}, {"a": "x" * 100_000}])
def test_odd_texts_survive_the_disk(cache: Cache, value: dict[str, Any]) -> None:
    assert cache.put("k", value, cost=None, kind="chat")
    with Cache(path_of(cache).parent) as other:
        entry = other.get("k")
    assert entry is not None
    assert entry.value == value


@pytest.mark.parametrize(
    "value", [{"a": float("nan")}, {"a": object()}, {1: "a"}, {"a": b"x"}, {"a": (1, 2)}, {"a": {1, 2}}]
)
def test_what_would_not_come_back_as_it_was_is_not_kept(
    any_cache: Cache, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "bulkllm.caching")
    assert not any_cache.put("k", value, cost=None, kind="chat")
    assert any_cache.get("k") is None
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


# Where it is, and who may read it.


def test_argument_before_environment_before_the_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULKLLM_CACHE_DIR", str(tmp_path / "from-environment"))
    with Cache(tmp_path / "given") as cache:
        assert path_of(cache).parent == tmp_path / "given"
    with Cache() as cache:
        assert path_of(cache).parent == tmp_path / "from-environment"
    monkeypatch.delenv("BULKLLM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with Cache() as cache:
        assert tmp_path in path_of(cache).parents
        assert path_of(cache).parent.name == "bulkllm"


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    with Cache(tmp_path / "deep" / "cache") as cache:
        cache.put("k", VALUE, cost=None, kind="chat")
        assert stat.S_IMODE((tmp_path / "deep" / "cache").stat().st_mode) == 0o700
        for file in (tmp_path / "deep" / "cache").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert cache.export(tmp_path / "out.jsonl") == 1
    assert stat.S_IMODE((tmp_path / "out.jsonl").stat().st_mode) == 0o600


def test_a_directory_of_the_user_s_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Cache(tmp_path) as cache:
        assert stat.S_IMODE(path_of(cache).stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_the_journal_is_no_write_ahead_log(cache: Cache) -> None:
    cache.put("k", VALUE, cost=None, kind="chat")
    assert shell(cache, "PRAGMA journal_mode") == [("delete",)]  # the default of whoever opens it: not in the file
    assert shell(cache, "PRAGMA user_version") == [(entries.SCHEMA_VERSION,)]
    assert {file.suffix for file in path_of(cache).parent.iterdir()} <= {".sqlite3", ".lock", ".sqlite3-journal"}


def test_a_file_that_somebody_made_a_write_ahead_log_is_turned_back(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put("k", VALUE, cost=None, kind="chat")
        assert shell(cache, "PRAGMA journal_mode=WAL") == [("wal",)]
    with Cache(tmp_path) as cache:
        assert cache.get("k") is not None
        assert shell(cache, "PRAGMA journal_mode") != [("wal",)]


def test_the_value_is_json_that_any_shell_can_read(cache: Cache) -> None:
    cache.put("k", VALUE, cost=None, kind="chat")
    ((text,),) = shell(cache, "SELECT CAST(value AS TEXT) FROM entries")
    assert json.loads(text) == VALUE


# What cannot be.


@pytest.mark.parametrize(
    "arguments",
    [{"max_age": 0}, {"max_age": -1.0}, {"max_age": float("nan")}, {"max_bytes": 0}, {"memory_bytes": -1}],
)
def test_bounds_that_make_no_sense(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Cache(tmp_path, **arguments)


def test_memory_and_a_path_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="memory=True"):
        Cache(tmp_path, memory=True)


def test_a_file_in_place_of_the_directory_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text("precious")
    with pytest.raises(CacheError, match="give a directory"):
        Cache(file)
    assert file.read_text() == "precious"


def test_a_directory_that_cannot_be_made_is_told_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="BULKLLM_CACHE_DIR"):
        Cache(tmp_path / "file" / "below")


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / disk.FILE_NAME
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE precious (x)")
    db.commit()
    db.close()
    before = file.read_bytes()
    with pytest.raises(CacheError, match="something else"):
        Cache(tmp_path)
    assert file.read_bytes() == before


def test_a_file_of_a_newer_bulkllm_is_left_alone(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put("k", VALUE, cost=None, kind="chat")
        shell(cache, f"PRAGMA user_version={entries.SCHEMA_VERSION + 1}")
    with pytest.raises(CacheError, match="newer bulkllm"):
        Cache(tmp_path)
    assert len(list(tmp_path.glob("*damaged*"))) == 0


async def test_a_closed_cache_says_so(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.close()
    cache.close()
    with pytest.raises(CacheError, match="closed"):
        cache.get("k")
    with pytest.raises(CacheError, match="closed"):
        await cache.aget("k")
    with pytest.raises(CacheError, match="closed"):
        cache.put("k", VALUE, cost=None, kind="chat")


# Bounds.


def test_an_old_answer_is_not_used_and_goes_when_something_is_written(tmp_path: Path, clock: Clock) -> None:
    with Cache(tmp_path, max_age=60, clock=clock) as cache:
        cache.put("k", VALUE, cost=None, kind="chat")
        clock.now += 60
        assert cache.get("k") is not None
        clock.now += 1
        assert cache.get("k") is None
        assert cache.info().entries == 1
        cache.put("other", VALUE, cost=None, kind="chat")
        assert cache.info().entries == 1
        cache.put("k", {"v": "new"}, cost=None, kind="chat")
        entry = cache.get("k")
    assert entry is not None
    assert entry.value == {"v": "new"}


def test_the_least_recently_used_go_first(tmp_path: Path, clock: Clock) -> None:
    size = len(json.dumps(VALUE, ensure_ascii=False, separators=(",", ":")).encode()) + OVERHEAD
    with Cache(tmp_path, max_bytes=3 * size, clock=clock) as cache:
        for key in "abc":
            cache.put(key, VALUE, cost=None, kind="chat")
            clock.now += 7200
        assert cache.get("a") is not None  # used again, which is noted with the next write
        clock.now += 7200
        cache.put("d", VALUE, cost=None, kind="chat")
        assert cache.info().bytes <= 3 * size
    with Cache(tmp_path, clock=clock) as cache:
        assert sorted(cache.get_many(list("abcd"))) == ["a", "c", "d"]


def test_what_is_larger_than_the_bound_is_not_kept_and_drives_nothing_out(any_cache: Cache, tmp_path: Path) -> None:
    with Cache(tmp_path / "small", max_bytes=2000) as small:
        assert small.put("k", VALUE, cost=None, kind="chat")
        assert not small.put("large", {"x": "y" * 2000}, cost=None, kind="chat")
        assert small.get("k") is not None


def test_reading_writes_nothing_until_much_is_to_be_noted(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_USES_AT_ONCE", 3)
    with Cache(tmp_path, clock=clock) as cache:
        cache.put_many(dict.fromkeys("abc", (VALUE, None)), kind="chat")
        clock.now += 1800
        cache.get_many(list("abc"))
        assert cache.info().last_used == 1_000_000.0  # within the hour nothing is noted
        clock.now += 1801
        before = path_of(cache).stat().st_mtime_ns
        cache.get("a")
        cache.get("b")
        cache.get("a")
        assert path_of(cache).stat().st_mtime_ns == before
        cache.get("c")  # the third that is to be noted
        assert cache.info().last_used == clock.now
        assert shell(cache, "SELECT count(*) FROM entries WHERE used=?", clock.now) == [(3,)]


def test_the_last_uses_are_noted_at_the_end(tmp_path: Path, clock: Clock) -> None:
    with Cache(tmp_path, clock=clock) as cache:
        cache.put("a", VALUE, cost=None, kind="chat")
        clock.now += 4000
        cache.get("a")
    with Cache(tmp_path, clock=clock) as cache:
        assert cache.info().last_used == clock.now


# Looking after it.


def test_info(any_cache: Cache, clock: Clock) -> None:
    empty = any_cache.info()
    assert (empty.entries, empty.bytes, empty.worth, empty.oldest, empty.newest) == (0, 0, 0.0, None, None)
    any_cache.put("a", {"v": 1}, cost=0.5, kind="chat")
    clock.now += 10
    any_cache.put("b", {"v": 2}, cost=None, kind="chat")
    any_cache.put("c", {"v": [3]}, cost=0.25, kind="embedding")
    info = any_cache.info()
    assert (info.entries, info.worth, info.oldest, info.newest) == (3, 0.75, 1_000_000.0, 1_000_010.0)
    assert {kind: (of.count, of.cost) for kind, of in info.kinds.items()} == {"chat": (2, 0.5), "embedding": (1, 0.25)}
    assert info.bytes == sum(of.size for of in info.kinds.values()) == 3 * OVERHEAD + 7 + 7 + 9
    assert info.path == any_cache.path
    assert (info.file_bytes > 0) == (any_cache.path is not None)
    assert info.damaged == ()


def test_the_running_totals_are_right(cache: Cache) -> None:
    cache.put_many({f"k{i}": ({"v": "x" * i}, None) for i in range(50)}, kind="chat")
    cache.put_many({f"k{i}": ({"v": "y" * 3 * i}, None) for i in range(0, 50, 2)}, kind="chat")
    cache.prune(max_bytes=cache.info().bytes // 2)
    ((size, count),) = shell(cache, "SELECT sum(size), count(*) FROM entries")
    assert dict(shell(cache, "SELECT name, value FROM state WHERE name != 'generation'")) == {
        "size": size,
        "count": count,
    }
    assert count < 50


def test_clear(any_cache: Cache) -> None:
    any_cache.put_many({f"k{i}": ({"v": "x" * 1000}, None) for i in range(200)}, kind="chat")
    before = any_cache.info().file_bytes
    assert any_cache.clear() == 200
    assert any_cache.get("k1") is None
    assert any_cache.info().entries == 0
    assert any_cache.info().file_bytes <= before / 4
    assert any_cache.clear() == 0
    assert any_cache.put("k1", VALUE, cost=None, kind="chat")
    assert any_cache.info().entries == 1


def test_prune(any_cache: Cache, clock: Clock) -> None:
    for key in "abcd":
        any_cache.put(key, {"v": "x" * 10_000}, cost=None, kind="chat")
        clock.now += 100
    before = any_cache.info()
    assert any_cache.prune() == 0
    assert any_cache.prune(max_age=250) == 2
    assert sorted(any_cache.get_many(list("abcd"))) == ["c", "d"]
    assert any_cache.prune(max_bytes=before.bytes // 4) == 1
    assert sorted(any_cache.get_many(list("abcd"))) == ["d"]
    assert any_cache.info().file_bytes <= before.file_bytes / 1.5


def test_pruning_goes_on_until_the_bound_is_kept(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_EVICTED_AT_ONCE", 7)
    cache.put_many({f"k{i}": ({"v": i}, None) for i in range(50)}, kind="chat")
    assert cache.prune(max_bytes=1) == 50
    cache.put_many({f"k{i}": ({"v": i}, None) for i in range(50)}, kind="chat")
    assert cache.prune(max_age=-1.0) == 50


def test_export(any_cache: Cache, tmp_path: Path) -> None:
    any_cache.put("a", VALUE, cost=0.5, kind="chat")
    any_cache.put("b", {"v": "\ud800"}, cost=None, kind="text")
    out = tmp_path / "out" / "all.jsonl"
    out.parent.mkdir()
    assert any_cache.export(out) == 2
    lines = [json.loads(line) for line in out.read_text("ascii").splitlines()]
    assert lines[0] == {"key": "a", "kind": "chat", "cost": 0.5, "created_at": 1_000_000.0, "value": VALUE}
    assert lines[1]["value"] == {"v": "\ud800"}
    with pytest.raises(CacheError, match="overwrite=True"):
        any_cache.export(out)
    assert any_cache.clear() == 2
    assert any_cache.export(out, overwrite=True) == 0
    assert out.read_text() == ""
    with pytest.raises(CacheError, match="exported"):
        any_cache.export(tmp_path / "nowhere" / "all.jsonl")
    assert [file.name for file in out.parent.iterdir()] == ["all.jsonl"]


def test_export_of_more_than_a_page(cache: Cache, tmp_path: Path) -> None:
    cache.put_many({f"{i:04}": ({"v": i}, None) for i in range(450)}, kind="chat")
    assert cache.export(tmp_path / "all.jsonl") == 450
    keys = [json.loads(line)["key"] for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert keys == [f"{i:04}" for i in range(450)]


# The shelf in front.


def test_what_was_read_is_read_from_memory_the_next_time(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("k", VALUE, cost=None, kind="chat")
    assert cache.get("k") is not None
    monkeypatch.setattr(disk, "MEMORY_IS_TRUSTED", 60.0)  # the next time may be a while later
    shell(cache, "DELETE FROM entries")
    assert cache.get("k") is not None


def test_another_process_clears_what_this_one_holds_in_memory(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("k", VALUE, cost=None, kind="chat")
    cache.put("l", VALUE, cost=None, kind="chat")
    assert cache.get("k") is not None
    with Cache(path_of(cache).parent) as other:
        assert other.clear() == 2
    monkeypatch.setattr(disk, "MEMORY_IS_TRUSTED", 0.0)  # a second later
    assert cache.get("k") is None
    monkeypatch.undo()
    assert cache.get("l") is None  # one look clears it all


def test_a_shelf_lets_go_of_the_least_recently_used() -> None:
    def row(key: str, text: bytes = b"x" * 100) -> Row:
        return Row(key, "chat", text, None, 0.0, 0.0)

    shelf = Shelf(3 * row("a").size)
    shelf.put([row("a"), row("b"), row("c")])
    assert shelf.get("a") is not None
    shelf.put([row("d")])
    assert [one.key for one in shelf.rows()] == ["c", "a", "d"]
    shelf.put([row("c", b"x" * 200)])
    assert [one.key for one in shelf.rows()] == ["d", "c"]
    shelf.put([row("e", b"x" * 1000)])
    assert [one.key for one in shelf.rows()] == ["d", "c"]
    assert shelf.clear() == 2
    shelf.put([row("a"), row("b"), row("c")])
    assert len(shelf.rows()) == 3


async def test_a_program_that_asks_in_the_old_order_is_read_ahead(tmp_path: Path) -> None:
    keys = [f"{i:04}" for i in range(300)]
    with Cache(tmp_path) as cache:
        cache.put_many({key: ({"v": key}, None) for key in keys}, kind="chat")
    with Cache(tmp_path) as cache:
        reads = 0
        assert cache._disk is not None
        read = cache._disk.read

        def counting(*args: Any, **options: Any) -> dict[str, Row]:
            nonlocal reads
            reads += 1
            return read(*args, **options)

        cache._disk.read = counting  # type: ignore[method-assign]  # counted, not changed
        for key in keys:
            entry = await cache.aget(key)
            assert entry is not None
            assert entry.value == {"v": key}
        assert reads <= 20
        reads = 0
    with Cache(tmp_path) as cache:
        for key in keys[::-7]:
            assert await cache.aget(key) is not None
        assert cache._shelf.get("0001") is None  # a program that asks otherwise is not


# Threads and loops.


def test_writers_in_many_threads_share_their_commits(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = 0
    assert cache._disk is not None
    commit, jobs = cache._disk._commit, cache._disk._jobs

    def counting(rows: Any) -> bool:
        nonlocal commits
        commits += 1
        end = time.monotonic() + 10
        while commits == 1 and len(rows) + len(jobs) < 40 and time.monotonic() < end:
            time.sleep(0.001)  # until all the others are there
        return commit(rows)

    monkeypatch.setattr(cache._disk, "_commit", counting)
    threads = [
        threading.Thread(target=lambda i=i: cache.put(f"k{i}", {"v": i}, cost=None, kind="chat")) for i in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.info().entries == 40
    assert commits < 20


def test_threads_and_loops_at_once(cache: Cache) -> None:
    wrong: list[str] = []

    def sync(number: int) -> None:
        for i in range(60):
            key = f"{number}-{i}"
            cache.put(key, {"v": key}, cost=None, kind="chat")
            entry = cache.get(f"{(number + 1) % 4}-{i}")
            if entry is not None and entry.value != {"v": entry.key}:
                wrong.append(entry.key)

    async def many(number: int) -> None:
        async def one(i: int) -> None:
            key = f"{number}-{i}"
            await cache.aput(key, {"v": key}, cost=None, kind="chat")
            entry = await cache.aget(key)
            if entry is None or entry.value != {"v": key}:
                wrong.append(key)

        await asyncio.gather(*(one(i) for i in range(60)))

    threads = [threading.Thread(target=sync, args=(number,)) for number in range(2)]
    threads += [threading.Thread(target=lambda n=n: asyncio.run(many(n))) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.info().entries == 240


async def test_a_locked_file_holds_up_nobody_s_loop(cache: Cache) -> None:
    cache.put("k", VALUE, cost=None, kind="chat")
    assert cache._disk is not None
    cache._shelf.clear()
    blocker = sqlite3.connect(path_of(cache), isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN EXCLUSIVE")
    reading = asyncio.create_task(cache.aget("k"))
    writing = asyncio.create_task(cache.aput("l", VALUE, cost=None, kind="chat"))
    ticks = 0
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 0.1 or (ticks <= 100 and passed < 8):
        await asyncio.sleep(0)
        ticks += 1
    assert ticks > 100
    assert not reading.done()
    assert not writing.done()
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await reading is not None
    assert await writing


async def test_a_cancelled_write_is_still_written(cache: Cache) -> None:
    task = asyncio.create_task(cache.aput("k", VALUE, cost=None, kind="chat"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.aput("l", VALUE, cost=None, kind="chat")  # the lane works on
    assert await cache.aget("k") is not None


async def test_a_fault_in_the_lane_reaches_those_who_wait(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError

    assert cache._disk is not None
    monkeypatch.setattr(cache._disk, "read", broken)
    with pytest.raises(MemoryError):
        await cache.aget("k")
    monkeypatch.undo()
    assert await cache.aget("k") is None


def test_a_cache_that_is_dropped_leaves_nothing_behind(tmp_path: Path) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("bulkllm-cache")]

    async def use() -> None:
        cache = Cache(tmp_path)
        await cache.aput("k", VALUE, cost=None, kind="chat")
        assert threads()

    asyncio.run(use())
    end = time.monotonic() + 5
    while threads() and time.monotonic() < end:
        gc.collect()  # once may be while the thread is still at its last item
        time.sleep(0.01)
    assert threads() == []


def test_secrets_of_a_request_are_nowhere_in_the_files(tmp_path: Path) -> None:
    from bulkllm.caching import request_key

    secrets = ["sk-very-secret-key", "Bearer very-secret", "user:very-secret@", "very-secret-cookie", "very-secret-aws"]
    params = {
        "messages": [{"role": "user", "content": "a very-private prompt"}],
        "api_key": secrets[0],
        "extra_headers": {"Authorization": secrets[1], "Cookie": secrets[3], "x-team": "very-secret-team"},
        "aws_secret_access_key": secrets[4],
        "api_base": "https://user:very-secret@x.example/v1",
    }
    key = request_key("completion", "m", None, params)
    assert key is not None
    with Cache(tmp_path, namespace="very-secret-namespace") as cache:
        cache.put(key, VALUE, cost=0.1, kind="chat")
        assert cache.get(key) is not None
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key.encode() in content
    assert b"very-secret" not in content
    assert b"very-private" not in content
