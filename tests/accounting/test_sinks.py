"""Records that are kept one by one: all of them, at once, by nobody's waiting."""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bulkllm.accounting import JSONLSink, SQLiteSink, Usage, UsageRecord, UsageTracker, read_records
from bulkllm.accounting import sinks as module
from bulkllm.errors import ConfigError


def record(number: int = 0, **more: Any) -> UsageRecord:
    return UsageRecord(
        model="openai/gpt-5-mini",
        provider="openai",
        usage=Usage(100 + number, 20, cache_read_tokens=7, reasoning_tokens=3),
        cost=0.001 * number,
        latency=1.5,
        tags={"number": str(number), "ümläut": "\u2028"},
        **more,
    )


PATHS = pytest.mark.parametrize("name", ["records.jsonl", "records.sqlite"])


@PATHS
def test_what_is_counted_is_kept_and_can_be_read_again(name: str, tmp_path: Path) -> None:
    told = [
        record(number, outcome="Timeout" if number % 7 == 0 else "ok", refused=number % 3, uncertain_tokens=number % 5)
        for number in range(2500)
    ]
    tracker = UsageTracker("kept", sink=tmp_path / name)
    for one in told:
        tracker.record(one)
    tracker.close()
    assert list(read_records(tmp_path / name)) == told
    again = UsageTracker("kept")
    for one in read_records(tmp_path / name):
        again.record(one)
    assert again.to_dict() == tracker.to_dict()


@PATHS
def test_what_stands_in_the_file_stays(name: str, tmp_path: Path) -> None:
    for number in range(3):
        with module.sink_at(tmp_path / name) as sink:
            sink.put(record(number))
    assert [one.tags["number"] for one in read_records(tmp_path / name)] == ["0", "1", "2"]


@PATHS
def test_many_threads_lose_nothing(name: str, tmp_path: Path) -> None:
    with module.sink_at(tmp_path / name) as sink:
        trackers = [UsageTracker(sink=sink) for _ in range(4)]

        def work(tracker: UsageTracker) -> None:
            for number in range(500):
                tracker.record(record(number))

        threads = [threading.Thread(target=work, args=(tracker,)) for tracker in trackers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        trackers[0].close()  # not its own: nothing is closed
        sink.put(record(1))
    assert len(list(read_records(tmp_path / name))) == 2001


def test_columns_of_the_database_are_for_sql(tmp_path: Path) -> None:
    with SQLiteSink(tmp_path / "x.db") as sink:
        for number in range(10):
            sink.put(record(number))
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        found = database.execute(
            "SELECT model, sum(input_tokens), sum(cost), max(json_extract(tags, '$.number')) FROM usage_records"
        ).fetchall()
    assert found == [("openai/gpt-5-mini", 1045, pytest.approx(0.045), "9")]


def test_handing_in_does_not_wait_for_a_database_that_somebody_else_holds(tmp_path: Path) -> None:
    path = tmp_path / "held.sqlite"
    sink = SQLiteSink(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for number in range(3000):
            sink.put(record(number))
        assert sink._thread.is_alive()
        other.execute("ROLLBACK")
    sink.close()
    assert len(list(read_records(path))) == 3000


def test_flush_waits_for_what_was_handed_in_before(tmp_path: Path) -> None:
    with JSONLSink(tmp_path / "x.jsonl") as sink:
        for number in range(100):
            sink.put(record(number))
        sink.flush()
        assert len(list(read_records(tmp_path / "x.jsonl"))) == 100


def test_a_finaliser_may_hand_in(tmp_path: Path) -> None:
    tracker = UsageTracker(sink=tmp_path / "x.jsonl")

    class Dropped:
        def __del__(self) -> None:
            tracker.record(record())

    for _ in range(50):
        dropped = Dropped()
        dropped.circle = dropped  # type: ignore[attr-defined]  # a cycle, for the collector
        del dropped
    gc.collect()
    tracker.close()
    assert len(list(read_records(tmp_path / "x.jsonl"))) == 50


def test_a_full_disk_is_told_at_the_end_and_what_is_written_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.001)
    full = threading.Event()
    refused = threading.Event()

    class Full(JSONLSink):
        def _open(self) -> Any:
            write = super()._open()

            def maybe(records: Any) -> None:
                if full.is_set() and records:
                    refused.set()
                    raise OSError(errno.ENOSPC, "No space left on device")
                write(records)

            return maybe

    sink = Full(tmp_path / "x.jsonl")
    sink.put(record(1))
    sink.flush()
    full.set()
    sink.put(record(2))
    assert refused.wait(10)
    with pytest.raises(OSError, match="No space left"):
        sink.flush()
    full.clear()
    sink.put(record(3))
    sink.close()
    assert [one.tags["number"] for one in read_records(tmp_path / "x.jsonl")] == ["1", "2", "3"]
    assert caplog.text.count("cannot be written") == 1
    full.set()
    lost = Full(tmp_path / "x.jsonl")
    lost.put(record(4))
    with pytest.raises(OSError, match="could not be written"):
        lost.close()


def test_half_a_line_of_a_crash_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with JSONLSink(path) as sink:
        sink.put(record(1))
    with path.open("ab") as file:
        file.write(b'{"model": "openai/g')
    assert len(list(read_records(path))) == 1, "half a line at the end is being written"
    with JSONLSink(path) as sink:
        sink.put(record(2))
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["tags"]["number"] == "2"


def test_the_end_of_the_program_is_a_close(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from bulkllm.accounting import UsageRecord, UsageTracker\n"
        "tracker = UsageTracker(sink=sys.argv[1])\n"
        "for _ in range(5000): tracker.record(UsageRecord(model='m'))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "x.jsonl")], check=True, timeout=60)
    assert len(list(read_records(tmp_path / "x.jsonl"))) == 5000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_writes_too_and_nothing_twice(tmp_path: Path) -> None:
    sink = JSONLSink(tmp_path / "x.jsonl")
    sink.put(record(1))
    child = os.fork()
    if child == 0:
        sink.put(record(2))
        sink.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    sink.close()
    assert sorted(one.tags["number"] for one in read_records(tmp_path / "x.jsonl")) == ["1", "2"]


CHILDREN = """
import multiprocessing
import sys

made_in, method, path = sys.argv[1:]

if made_in != "a child that imports it":
    from bulkllm.accounting import UsageRecord, UsageTracker


def work(tracker):
    from bulkllm.accounting import UsageRecord, UsageTracker

    tracker = tracker or UsageTracker(sink=path)
    for _ in range(5000):
        tracker.record(UsageRecord(model="m"))


def nested(tracker):
    work(tracker)
    child = multiprocessing.get_context(method).Process(target=work, args=(tracker,))
    child.start()
    child.join()


if __name__ == "__main__":
    tracker = UsageTracker(sink=path) if made_in == "the parent" else None
    children = [multiprocessing.get_context(method).Process(target=nested, args=(tracker,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(child.exitcode for child in children))
"""


@pytest.mark.parametrize(
    ("made_in", "method"),
    [
        ("the parent", "fork"),
        ("a child", "fork"),
        ("a child that imports it", "fork"),
        ("a child", "forkserver"),
        ("a child that imports it", "forkserver"),
        ("a child", "spawn"),
    ],
)
def test_the_end_of_a_child_of_multiprocessing_loses_nothing(made_in: str, method: str, tmp_path: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    program = tmp_path / "program.py"
    program.write_text(CHILDREN)
    path = tmp_path / "x.jsonl"
    subprocess.run([sys.executable, str(program), made_in, method, str(path)], check=True, timeout=120)
    assert len(list(read_records(path))) == 4 * 5000


def test_multiprocessing_is_not_imported_for_those_who_do_without_it() -> None:
    program = "import sys, bulkllm.accounting; sys.exit('multiprocessing.util' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("name", ["none/x.jsonl", "none/x.db"])
def test_a_place_that_cannot_be_written_to_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write usage records"):
        UsageTracker(sink=tmp_path / name)


def test_what_is_no_sinks_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[1]\n")
    (tmp_path / "b.jsonl").write_text("hello\n")
    with closing(sqlite3.connect(tmp_path / "c.db")) as database:
        database.execute("CREATE TABLE other (x)")
    for name, problem in (("a.jsonl", ":1: no usage record"), ("b.jsonl", ":1: no JSON"), ("c.db", "no usage records")):
        with pytest.raises(ConfigError, match=problem):
            list(read_records(tmp_path / name))


def test_handing_in_is_quick_whatever_the_disk_does(tmp_path: Path) -> None:
    free = threading.Event()

    class Stuck(JSONLSink):
        def _open(self) -> Any:
            assert free.wait(30)
            return super()._open()

    sink = Stuck(tmp_path / "x.jsonl")
    for number in range(100):
        sink.put(record(number))
    assert not list(read_records(tmp_path / "x.jsonl")), "it was written while the file was not open yet"
    free.set()
    sink.close()
    assert len(list(read_records(tmp_path / "x.jsonl"))) == 100
