"""``bulkllm run`` when the provider says that the quota of the day is spent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from bulkllm.cli import main
from bulkllm.testing import FakeProvider

Command: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bulkllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": f"Tell me of {n}."}) + "\n" for n in range(20)))

    def command(server: FakeProvider, *words: str) -> tuple[int, str, str]:
        asked = ["run", "in.jsonl", "-m", "openai/m", "-o", "out.jsonl", "--api-base", server.openai_base, *words]
        monkeypatch.setattr(sys, "argv", ["bulkllm", *asked, "--max-in-flight", "2", "--no-progress"])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return code if isinstance(code, int) else 0, *capsys.readouterr()

    return command


def test_the_run_stops_with_3_and_says_until_when_and_what_to_do(bulkllm: Command) -> None:
    with FakeProvider(rpd=5) as server:
        code, told, problem = bulkllm(server)
        assert code == 3
        assert "20: 5 ok, 0 failed, 15 not done" in told
        assert "stopped: openai/m" in problem
        assert "the quota of requests per day is spent for openai/m: nothing goes before 20" in problem
        assert "run the same again after that" in problem
        assert "--wait-for-quota" in problem
        server.set_limits(rpd=None)
        assert bulkllm(server)[0] == 0
        assert server.report().successes == 20


def test_a_run_that_waits_ends_with_0(bulkllm: Command) -> None:
    with FakeProvider(rpd=10, period=0.0003) as server:  # one comes back every 43 ms
        assert bulkllm(server, "--wait-for-quota")[0] == 0
        assert server.report().successes == 20


def test_the_command_line_goes_before_the_environment(bulkllm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULKLLM_WAIT_FOR_QUOTA", "yes")
    with FakeProvider(rpd=5) as server:
        assert bulkllm(server, "--no-wait-for-quota")[0] == 3
