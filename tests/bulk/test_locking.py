from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bulkllm.bulk import locking
from bulkllm.bulk.locking import FileLock
from bulkllm.errors import RunLocked


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lock = FileLock(path)
    with pytest.raises(RunLocked, match="another run"):
        FileLock(path)
    lock.release()
    lock.release()
    FileLock(path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_removed_under_it_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first = FileLock(path)
    (tmp_path / "results.jsonl.lock").unlink()
    second = FileLock(path)  # nobody can hold a file that is not there
    with pytest.raises(RunLocked):
        FileLock(path)
    first.release()
    second.release()


def test_a_lock_on_a_file_that_its_owner_has_just_removed_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run ends between our opening the file and our locking it."""
    path = tmp_path / "results.jsonl"
    real = locking._lock
    times = 0

    def lock(fd: int) -> None:
        nonlocal times
        times += 1
        if times == 1:
            (tmp_path / "results.jsonl.lock").unlink()
        real(fd)

    monkeypatch.setattr(locking, "_lock", lock)
    mine = FileLock(path)
    with pytest.raises(RunLocked):
        FileLock(path)
    mine.release()


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    program = (
        "import sys; from pathlib import Path; from bulkllm.bulk.locking import FileLock;"
        "lock = FileLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(RunLocked):
            FileLock(path)
        owner.kill()
    FileLock(path).release()
