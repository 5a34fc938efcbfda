"""What ``bulkllm plan`` leaves behind: nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from bulkllm.bulk import run
from bulkllm.caching import Cache
from bulkllm.cli import main
from bulkllm.client import Client
from bulkllm.testing import FakeProvider

Command: TypeAlias = Callable[..., tuple[int, str]]
PROMPTS = [f"Tell me of {number}." for number in range(20)]


@pytest.fixture
def bulkllm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bulkllm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return code if isinstance(code, int) else 0, capsys.readouterr().out

    return command


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Twenty rows, of which the last five ask the same; the cache and the store are the environment's."""
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in [*PROMPTS[:15], *[PROMPTS[15]] * 5]))
    monkeypatch.setenv("BULKLLM_CACHE", "1")
    monkeypatch.setenv("BULKLLM_CACHE_DIR", str(tmp_path / "pc"))
    monkeypatch.setenv("BULKLLM_LIMITS_STORE", str(tmp_path / "pst" / "s.db"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    return str(path)


def test_a_plan_writes_no_file(bulkllm: Command, requests: str, tmp_path: Path) -> None:
    code, told = bulkllm("plan", requests, "-m", "openai/m", "--rpm", "100", "--json")
    found = json.loads(told)
    assert (code, found["to_ask"], found["cache"]["rows"], found["limited"]) == (0, 16, 4, True)
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_a_plan_sees_what_the_cache_saves_and_leaves_it_as_it_is(
    bulkllm: Command, requests: str, tmp_path: Path
) -> None:
    place = tmp_path / "pc"
    with FakeProvider() as server:
        more: dict[str, Any] = {"model": "openai/m", "api_base": server.openai_base, "progress": False}
        with Cache(place) as cache:
            run(PROMPTS[:10], client=Client(cache=cache), **more)
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in place.iterdir()}
        words = ("plan", requests, "-m", "openai/m", "--api-base", server.openai_base, "--rpm", "100", "--json")
        code, told = bulkllm(*words)
    found = json.loads(told)
    assert (code, found["to_ask"], found["cache"]["rows"]) == (0, 6, 14)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in place.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pc", "q.jsonl"]


def test_a_plan_of_changed_rows_takes_the_flag(
    bulkllm: Command, requests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULKLLM_CACHE")
    out = str(tmp_path / "out.jsonl")
    with FakeProvider() as server:
        words = (requests, "-m", "openai/m", "--api-base", server.openai_base, "-o", out)
        assert bulkllm("run", *words, "--no-progress")[0] == 0
        told = bulkllm("plan", *words, "--option", "temperature=0.3", "--sample", "5")[1]
        assert "5 of them were asked in another way before: a run wants --redo-changed" in told
        told = bulkllm("plan", *words, "--option", "temperature=0.3", "--redo-changed")[1]
    assert "20 of them were asked in another way before\n" in told
