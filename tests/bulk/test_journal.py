from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkllm.bulk.flush import Syncer
from bulkllm.bulk.journal import Journal
from bulkllm.bulk.keytable import KeyTable, State
from bulkllm.bulk.lines import BAD_ROW, Head, encode, result_line, with_columns
from bulkllm.errors import ConfigError, RunLocked


def key_of(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()[:16]


def head_for(name: object, *, outcome: str = "ok", index: int = 0, state: State | None = None) -> Head:
    if state is None:
        state = State.OK if outcome == "ok" else State.FAILED
    return Head(key_of(name), key_of("print"), state, index, 0, outcome, 0.25)


def line_for(head: Head, text: str = "answer") -> bytes:
    ok = head.state is State.OK
    return result_line(
        custom_id=None,
        head=head,
        columns=b"",
        record={},
        body=encode({"text": text}) if ok else None,
        error=None if ok else {"code": head.outcome, "message": text},
    )


class Opened:
    """A journal with helpers; closed by the fixture."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.table = KeyTable()
        self.journal = Journal(path, self.table, **options)

    def put(self, name: object, *, text: str = "answer", outcome: str = "ok", index: int = 0) -> None:
        head = head_for(name, outcome=outcome, index=index)
        self.journal.append(self.slot(head.key), line_for(head, text), head)

    def slot(self, key: bytes) -> int:
        slot = self.table.find(key)
        return self.table.add(key) if slot < 0 else slot

    def state(self, name: object) -> int:
        slot = self.table.find(key_of(name))
        return -1 if slot < 0 else self.table.state[slot]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


@pytest.fixture
def opened(path: Path) -> Iterator[Opened]:
    made = Opened(path)
    yield made
    made.journal.finish()


def texts(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [row["response"]["body"]["text"] if row["error"] is None else row["error"]["code"] for row in rows]


def test_a_row_is_with_the_operating_system_at_once(opened: Opened, path: Path) -> None:
    opened.put("a", text="one")
    assert texts(path) == ["one"]
    opened.put("b", text="two")
    assert texts(path) == ["one", "two"]
    assert json.loads(opened.journal.read(opened.table.find(key_of("a"))))["response"]["body"]["text"] == "one"


def test_what_is_in_the_file_is_known_on_opening(path: Path) -> None:
    first = Opened(path)
    first.put("a", index=5)
    first.put("b", outcome="RateLimitError")
    first.journal.finish()
    second = Opened(path)
    assert (second.state("a"), second.state("b"), second.state("c")) == (State.OK, State.FAILED, -1)
    slot = second.table.find(key_of("a"))
    assert (second.table.index[slot], second.table.fingerprint(slot)) == (5, key_of("print"))
    assert second.journal.cost == 0.5
    second.journal.finish()


def test_the_latest_line_of_a_row_counts_and_the_others_go(path: Path) -> None:
    first = Opened(path)
    for _ in range(3):
        first.put("a", outcome="Timeout")
    first.put("b", text="b")
    first.put("a", text="a at last")
    assert first.journal.superseded == 3
    assert len(texts(path)) == 5
    first.journal.finish()
    assert texts(path) == ["b", "a at last"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["results.jsonl"]


def test_a_file_that_was_never_compacted_is_compacted_on_opening(path: Path) -> None:
    heads = [head_for("a", outcome="Timeout"), head_for("b"), head_for("a")]
    path.write_bytes(b"".join(map(line_for, heads)))
    again = Opened(path)
    assert texts(path) == ["answer", "answer"]
    assert again.journal.superseded == 0
    slot = again.table.find(key_of("a"))
    assert again.journal.read(slot) == line_for(heads[2])
    again.put("c", text="goes on")
    assert texts(path)[-1] == "goes on"
    again.journal.finish()


@pytest.mark.parametrize("cut", [1, 20, 150, 300])
def test_a_torn_last_line_is_set_aside_and_its_row_done_again(
    path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = line_for(head_for("a"), "first")
    torn = line_for(head_for("b"), "second" * 20)[:cut]
    path.write_bytes(whole + torn)
    with caplog.at_level(logging.WARNING):
        again = Opened(path)
    assert "set aside" in caplog.text
    assert (again.state("a"), again.state("b")) == (State.OK, -1)
    again.put("b", text="anew")
    again.journal.finish()
    assert texts(path) == ["first", "anew"]
    assert (path.parent / "results.jsonl.torn").read_bytes() == torn + b"\n"


def test_a_file_with_nothing_but_a_torn_line_is_ours(path: Path) -> None:
    for torn in (b"{", b'{"id":"bul', line_for(head_for("a"))[:60], b"\0" * 4096):
        path.write_bytes(torn)
        again = Opened(path)
        assert len(again.table) == 0
        assert path.read_bytes() == b""
        again.journal.finish()


def test_damaged_lines_in_the_middle_are_set_aside(path: Path) -> None:
    good = [line_for(head_for(name), str(name)) for name in range(4)]
    hole = bytearray(good[1])
    hole[30:80] = bytes(50)
    path.write_bytes(good[0] + hole + b'{"id":"bulkllm-cut off\n' + good[2] + b"\n" + good[3])
    again = Opened(path)
    assert [again.state(name) for name in range(4)] == [State.OK, -1, State.OK, State.OK]
    again.journal.finish()
    assert texts(path) == ["0", "2", "3"]
    aside = (path.parent / "results.jsonl.torn").read_bytes()
    assert bytes(hole) in aside
    assert b"cut off" in aside


def test_a_missing_last_line_break_is_put_back(path: Path) -> None:
    path.write_bytes(line_for(head_for("a"), "a").rstrip(b"\n"))
    again = Opened(path)
    again.put("b", text="b")
    again.journal.finish()
    assert texts(path) == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        b"my notes\n",
        b'{"prompt":"a"}\n',
        b'{"id":"batch_1","custom_id":"a","response":{"status_code":200,"body":{}},"error":null}\n',
        b"[1,2]\n",
        b"{broken\n",
        b"\n\nnotes",
        b'{"id":"bulkllm-x","but":"not ours"}\n',
        line_for(head_for("a")) + b'{"prompt":"a"}\n',
    ],
)
def test_a_file_that_is_not_ours_is_not_touched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no results file"):
        Journal(path, KeyTable())
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["results.jsonl"]


def test_the_input_is_never_the_output(path: Path) -> None:
    path.write_bytes(b"")
    link = path.parent / "link.jsonl"
    link.symlink_to(path)
    hard = path.parent / "hard.jsonl"
    hard.hardlink_to(path)
    for other in (path, link, hard):
        with pytest.raises(ConfigError, match="is the input"):
            Journal(other, KeyTable(), inputs=[path])


def test_places_that_cannot_hold_results_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no directory"):
        Journal(tmp_path / "missing" / "out.jsonl", KeyTable())
    with pytest.raises(ConfigError, match="no regular file"):
        Journal(tmp_path, KeyTable())
    with pytest.raises(ConfigError, match="no regular file"):
        Journal(Path(os.devnull), KeyTable())


def test_two_runs_cannot_write_to_one_file(opened: Opened, path: Path) -> None:
    link = path.parent / "link.jsonl"
    link.symlink_to(path)
    for other in (path, link):
        with pytest.raises(RunLocked):
            Journal(other, KeyTable())


def test_the_lock_holds_through_compaction(opened: Opened, path: Path) -> None:
    opened.put("a", outcome="Timeout")
    opened.put("a")
    opened.journal.compact()
    with pytest.raises(RunLocked):
        Journal(path, KeyTable())
    opened.put("b", text="after")
    assert texts(path) == ["answer", "after"]


def test_compaction_keeps_the_files_mode_and_its_link(path: Path) -> None:
    real = path.parent / "real.jsonl"
    real.write_bytes(line_for(head_for("a", outcome="Timeout")) + line_for(head_for("a")))
    real.chmod(0o640)
    path.symlink_to(real)
    again = Opened(path)
    again.journal.finish()
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert texts(real) == ["answer"]


def test_rows_that_have_moved_get_their_new_index(opened: Opened, path: Path) -> None:
    opened.put("a", index=0)
    opened.put("b", index=1)
    opened.table.index[opened.table.find(key_of("a"))] = 7
    opened.journal.moved = True
    opened.journal.finish()
    assert [json.loads(line)["bulkllm"]["index"] for line in path.read_bytes().splitlines()] == [7, 1]


def test_mended_bad_rows_are_forgotten_only_when_asked(path: Path) -> None:
    bad = head_for("bad", outcome=BAD_ROW, state=State.REFUSED)
    path.write_bytes(line_for(head_for("a")) + line_for(bad))
    for forget, left in ((False, ["answer", BAD_ROW]), (True, ["answer"])):
        again = Opened(path)
        again.journal.finish(forget_bad=forget)
        assert texts(path) == left


def test_a_crash_while_compacting_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = line_for(head_for("a")) * 2
    path.write_bytes(content)
    (path.parent / "results.jsonl.compact").write_bytes(b"half a copy")

    def no_room(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copymode", no_room)
        with pytest.raises(ConfigError, match="No space left"):
            Journal(path, KeyTable())
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["results.jsonl"]


def test_a_disk_too_full_to_compact_keeps_all_lines(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened.put("a", outcome="Timeout")
    opened.put("a", text="a")

    def no_room(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copymode", no_room)
    with caplog.at_level(logging.WARNING):
        opened.journal.finish()
    assert "not compacted" in caplog.text
    assert texts(path) == ["Timeout", "a"]


@pytest.mark.parametrize("room", [0, 10, 100])
def test_a_row_that_does_not_fit_leaves_the_file_as_it_was(
    opened: Opened, path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.put("a", text="fits")
    before = path.read_bytes()
    real = os.write

    def short(fd: int, data: bytes) -> int:
        if room == 0 or len(data) < 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:room])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        with pytest.raises(OSError, match="No space left"):
            opened.put("b", text="x" * (300 - 100))
    assert path.read_bytes() == before
    assert opened.state("b") == State.NEW
    opened.put("b", text="room again")
    assert texts(path) == ["fits", "room again"]


def test_a_write_in_pieces_is_whole(opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:100]))
        opened.put("a", text="long" * 200)
    assert texts(path) == ["long" * 200]


def test_the_disk_is_flushed_soon_and_not_for_each_row() -> None:
    flushed = threading.Semaphore(0)
    syncer = Syncer(-1, sync=lambda fd: flushed.release(), every=60)
    syncer.start()
    for _ in range(1000):
        syncer.wake()
    assert flushed.acquire(timeout=10)
    for _ in range(1000):
        syncer.wake()
    assert not flushed.acquire(timeout=0.05)
    syncer.stop()
    assert not syncer.is_alive()


def test_a_disk_that_cannot_flush_stops_the_writer() -> None:
    failed = threading.Event()

    def broken(fd: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    syncer = Syncer(-1, sync=broken, every=0)
    syncer.start()
    syncer.wake()
    assert failed.wait(10)
    syncer.join(10)
    with pytest.raises(OSError, match="Input/output"):
        syncer.wake()
    syncer.stop()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["ok", "Timeout"])) | st.just("reopen") | st.integers(1, 400),
        max_size=25,
    )
)
def test_whatever_happens_the_last_whole_line_of_each_row_counts(path: Path, steps: list[Any]) -> None:
    """Against a model: rows are written, the file is torn at its end and opened again, in any order."""
    path.unlink(missing_ok=True)
    model: dict[int, tuple[str, str]] = {}
    journal = Opened(path)
    unsure: dict[int, tuple[str, str]] = model
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            name, outcome = step
            before = dict(model)
            journal.put(name, text=f"text {number}", outcome=outcome)
            model[name] = (outcome, f"text {number}")
            unsure = before
        else:
            journal.journal.finish()
            # Tear the last line only if the last step wrote it: compaction may have put another row there.
            wrote = number > 0 and isinstance(steps[number - 1], tuple)
            if isinstance(step, int) and wrote:
                content = path.read_bytes()
                last = content[content[:-1].rfind(b"\n") + 1 :]
                name = steps[number - 1][0]
                if f"text {number - 1}".encode() in last and name not in unsure:
                    path.write_bytes(content[: len(content) - min(step, len(last) - 1)])
                    if step > 1:
                        model = dict(unsure)
            journal = Opened(path)
    journal.journal.finish()
    rows = {row["id"]: row for row in map(json.loads, path.read_bytes().splitlines())}
    assert len(path.read_bytes().splitlines()) == len(model)
    for name, (outcome, text) in model.items():
        row = rows[f"bulkllm-{key_of(name).hex()}"]
        assert row["bulkllm"]["outcome"] == outcome
        told = row["response"]["body"]["text"] if outcome == "ok" else row["error"]["message"]
        assert told == text


# -- something else writes to the file, too --------------------------------------------------------------------

FOREIGN = [
    b"\n", b" ", b"x", b"notes\n", b'{"x":1}', b'{"x": 1}\n', b'{"id":"bulkllm-', b"\0\0",
    line_for(head_for("b"))[:-40],
]  # fmt: skip


def scribble(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("superseded", [False, True])
def test_no_row_is_lost_for_what_something_else_writes(path: Path, foreign: bytes, superseded: bool) -> None:
    made = Opened(path)
    made.put("a", text="a", outcome="Timeout" if superseded else "ok")
    for name in ("b", "c"):
        scribble(path, foreign)
        made.put(name, text=name)
    made.put("a", text="a at last")
    scribble(path, foreign)
    made.journal.finish()
    assert texts(path) == ["b", "c", "a at last"]
    aside = path.with_name("results.jsonl.torn")
    assert (aside.read_bytes().count(foreign.strip()) >= 3) if foreign.strip() else True


@pytest.mark.parametrize("foreign", FOREIGN)
def test_nor_if_the_run_is_killed_then(path: Path, foreign: bytes) -> None:
    made = Opened(path)
    made.put("a", text="a")
    scribble(path, foreign)
    made.put("b", text="b")
    content = path.read_bytes()
    made.journal.finish()
    path.write_bytes(content)
    if foreign == b'{"x": 1}\n':
        with pytest.raises(ConfigError, match="line 2 is no result"):
            Journal(path, KeyTable())
        return
    again = Opened(path)
    assert (again.state("a"), again.state("b")) == (State.OK, State.OK)
    again.put("c", text="c")
    again.journal.finish()
    assert texts(path) == ["a", "b", "c"]


def test_blanks_at_the_end_are_no_part_of_the_next_line(path: Path) -> None:
    path.write_bytes(line_for(head_for("a"), "a") + b"  ")
    again = Opened(path)
    again.put("b", text="b")
    assert texts(path) == ["a", "b"]
    again.journal.finish()


def test_rows_that_something_else_has_written_are_kept_and_the_last_line_counts(path: Path) -> None:
    made = Opened(path)
    made.put("a", text="a", index=3)
    scribble(path, line_for(head_for("other", index=9), "other") + line_for(head_for("a", index=5), "a, rescued"))
    made.put("b", text="b")
    made.journal.finish()
    assert texts(path) == ["other", "a, rescued", "b"]
    assert made.table.index[made.table.find(key_of("a"))] == 3
    assert made.state("other") == State.OK


def test_a_row_is_read_and_no_other_whatever_was_written_between(opened: Opened, path: Path) -> None:
    opened.put("a", text="a")
    scribble(path, b"x")
    for name in ("b", "c"):
        opened.put(name, text=name)
    for name in ("c", "b", "a"):
        line = opened.journal.read(opened.table.find(key_of(name)))
        assert json.loads(line)["response"]["body"]["text"] == name
    opened.put("d", text="d")
    line = opened.journal.read(opened.table.find(key_of("d")))
    assert json.loads(line)["response"]["body"]["text"] == "d"


def test_a_row_whose_line_was_taken_away_is_told(opened: Opened, path: Path) -> None:
    opened.put("a", text="a")
    opened.put("b", text="b")
    os.truncate(path, len(line_for(head_for("a"), "a")))
    with pytest.raises(OSError, match="something else has written to the file"):
        opened.journal.read(opened.table.find(key_of("b")))
    assert (opened.state("a"), opened.state("b")) == (State.OK, State.NEW)


def test_a_row_that_does_not_fit_takes_nothing_of_another_with_it(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scribble(path, b"\n")
    opened.put("a", text="a")
    before = path.read_bytes()
    real = os.write

    def short(fd: int, data: bytes) -> int:
        if len(data) < 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:100])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        with pytest.raises(OSError, match="No space left"):
            opened.put("b", text="x" * 100)
    assert path.read_bytes() == before


def test_a_line_that_was_only_given_other_columns_cost_nothing_once_more(path: Path) -> None:
    """As a kill leaves it, before the file was compacted."""
    first, second = line_for(head_for("a")), line_for(head_for("b"))
    path.write_bytes(first + second + with_columns(first, {"label": 1}, 0))
    again = Opened(path)
    assert again.journal.cost == 0.5
    again.journal.finish()
    assert Opened(path).journal.cost == 0.5
