"""``bulkllm cache``: each command through the command line, on a cache with answers in it."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from bulkllm import Cache
from bulkllm.cli import main
from bulkllm.config import cache_dir


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["bulkllm", "cache", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return command


def fill(directory: Path | None = None, *, then: float = 0.0) -> Path:
    with Cache(directory, clock=lambda: 1_000_000.0 + then) as made:
        for number in range(3):
            made.put(f"{then:.0f}-{number}", {"text": f"answer {number}"}, cost=0.25, kind="chat")
        made.put(f"{then:.0f}-v", {"embedding": [0.5]}, cost=None, kind="vector")
        assert made.path is not None
        return made.path


def test_info_says_what_there_is_and_what_it_was_worth(cache: Command) -> None:
    path = fill()
    done = cache("info")
    assert done.code == 0
    assert str(path) in done.out
    assert "answers    4" in done.out
    assert "worth      $0.7500" in done.out
    assert "chat     3" in done.out
    told = json.loads(cache("info", "--json").out)
    assert (told["path"], told["entries"], told["worth"]) == (str(path), 4, 0.75)
    assert told["kinds"]["vector"]["entries"] == 1
    assert told["oldest"] == "1970-01-12T13:46:40+00:00"


@pytest.mark.parametrize("words", [("info",), ("clear", "--yes"), ("prune", "--max-age", "1d")])
def test_looking_for_a_cache_makes_none(cache: Command, words: tuple[str, ...]) -> None:
    done = cache(*words)
    assert (done.code, done.err) == (0, "")
    assert "there is none" in done.out
    told = json.loads(cache(*words, "--json").out)
    assert told["entries"] == 0
    assert not cache_dir().exists()


def test_another_directory_and_the_environment(cache: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "there")
    assert json.loads(cache("info", "--directory", str(tmp_path / "there"), "--json").out)["entries"] == 4
    monkeypatch.setenv("BULKLLM_CACHE_DIR", str(tmp_path / "there"))
    monkeypatch.setenv("BULKLLM_CACHE_MAX_BYTES", "123456")
    told = json.loads(cache("info", "--json").out)
    assert (told["entries"], told["max_bytes"]) == (4, 123456)


def test_clear_forgets_everything_but_never_unasked(cache: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fill()
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    done = cache("clear")
    assert done.code == 2
    assert "--yes" in done.err
    terminal = io.StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    done = cache("clear")
    assert done.code != 0
    assert "4 answers, worth $0.7500" in done.err + done.out
    assert json.loads(cache("info", "--json").out)["entries"] == 4
    done = cache("clear", "--yes")
    assert (done.code, done.out) == (0, "4 answers forgotten\n")
    assert json.loads(cache("clear", "--yes", "--json").out) == {"removed": 0}


def test_prune_forgets_what_is_old_or_too_much(cache: Command) -> None:
    fill(then=0.0)
    now = time.time() - 1_000_000.0
    fill(then=now - 3600.0)
    assert json.loads(cache("prune", "--json").out) == {"removed": 0, "left": 8}, "the bounds of the cache itself"
    assert json.loads(cache("prune", "--max-age", "2h", "--json").out) == {"removed": 4, "left": 4}
    assert cache("prune", "--max-age", "30d").out.startswith("0 answers forgotten, 4 left in ")
    assert json.loads(cache("prune", "--max-bytes", "0.5K", "--json").out) == {"removed": 2, "left": 2}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(("--max-age", "old"), "such as 30d"), (("--max-age", "-1d"), "such as 30d"), (("--max-bytes", "2X"), "as 2G")],
)
def test_prune_says_how_ages_and_sizes_are_written(cache: Command, words: tuple[str, ...], complaint: str) -> None:
    fill()
    done = cache("prune", *words)
    assert done.code == 2
    assert complaint in done.err


def test_export_writes_each_answer_on_a_line_and_replaces_nothing_unasked(cache: Command, tmp_path: Path) -> None:
    fill()
    target = tmp_path / "answers.jsonl"
    assert cache("export", str(target)).out == f"4 answers written to {target}\n"
    rows = [json.loads(line) for line in target.read_text("ascii").splitlines()]
    assert rows[0] == {
        "key": "0-0", "kind": "chat", "cost": 0.25, "created_at": 1_000_000.0, "value": {"text": "answer 0"},
    }  # fmt: skip
    done = cache("export", str(target))
    assert done.code == 2
    assert "exists" in done.err
    assert json.loads(cache("export", str(target), "--overwrite", "--json").out) == {"written": 4}


def test_export_of_no_cache_is_an_error(cache: Command, tmp_path: Path) -> None:
    done = cache("export", str(tmp_path / "answers.jsonl"))
    assert done.code == 2
    assert "there is no cache" in done.err
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_file_that_is_no_cache_is_named(cache: Command) -> None:
    cache_dir().mkdir(parents=True)
    db = sqlite3.connect(cache_dir() / "bulkllm-cache.sqlite3")
    db.execute("CREATE TABLE other (x)")
    db.commit()
    db.close()
    done = cache("info")
    assert done.code == 2
    assert "database of something else" in done.err
