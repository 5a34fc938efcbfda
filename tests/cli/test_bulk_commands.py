"""``bulkllm plan`` and ``bulkllm results``; what they say. What they reckon and write is tested with the API."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from bulkllm.bulk import run
from bulkllm.bulk.reckoning import known_of
from bulkllm.cli import main
from bulkllm.cli.options import limits
from bulkllm.errors import ConfigError
from bulkllm.testing import FakeProvider

Command: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bulkllm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bulkllm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return code if isinstance(code, int) else 0, *capsys.readouterr()

    return command


@pytest.fixture
def requests(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Tell me of {n}.", "label": n}) + "\n" for n in range(40)))
    return str(path)


def test_how_a_provider_counts_is_left_open_unless_it_is_said() -> None:
    assert [limit.window for limit in limits(rpm=60, tpm=None)] == [None]
    assert [limit.window for limit in limits(rpm=60, tpm=None, window="sliding")] == ["sliding"]


def test_a_plan(bulkllm: Command, requests: str, tmp_path: Path) -> None:
    models = ("-m", "openai/gpt-4.1-mini", "-m", "openai/nobody-knows")
    code, told, _ = bulkllm("plan", requests, *models, "--rpm", "60", "--burst", "1")
    assert code == 0
    assert "rows      80: 80 to be asked" in told
    assert "cost      price unknown" in told
    assert "no bound) out" in told
    assert "openai/gpt-4.1-mini: 40 rows" in told
    assert "run a sample" in told
    assert "time      " in told
    priced = ("-m", "openai/gpt-4.1-mini", "--max-tokens", "9")
    code, told, _ = bulkllm("plan", requests, *priced, "--limit", "10", "--budget", "5")
    assert "rows      10: 10 to be asked" in told
    assert "budget    $5.0000 left ($0.0000 spent): enough for all rows" in told
    assert "rows      7: 7 to be asked" in bulkllm("plan", requests, *priced, "--sample", "7", "--budget", "0.00001")[1]
    code, told, _ = bulkllm("plan", requests, *priced, "--fallback", "x", "--timeout", "9", "--no-progress", "--json")
    assert json.loads(told)["output_tokens"]["high"] == 360
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_results_file_that_a_plan_cannot_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\); give the results file of a run"):
        known_of(tmp_path)


def test_deployments_from_a_file(
    bulkllm: Command, requests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE_KEY", "sk-one-secret")
    out, places = tmp_path / "results.jsonl", tmp_path / "places.toml"
    with FakeProvider(keys=["sk-one-secret"]) as one, FakeProvider(keys=["sk-one-secret"]) as other:
        places.write_text("".join(
            f'[[deployment]]\napi_base = "{server.openai_base}"\napi_key_env = "ONE_KEY"\nrpm = 6000\nburst = 20\n'
            for server in (one, other)
        ))  # fmt: skip
        words = (requests, "-m", "openai/m", "-o", str(out), "--deployments", str(places), "--no-progress")
        code, told, said = bulkllm("plan", *words)
        assert (code, "rows      40: 40 to be asked" in told) == (0, True)
        code, told, said = bulkllm("run", *words)
        assert (code, "40: 40 ok" in told) == (0, True)
        assert min(one.report().requests, other.report().requests) > 5
        assert "secret" not in out.read_text() + told + said
    places.write_text("[[deployment]]\nrmp = 3\n")
    code, _, said = bulkllm("run", *words)
    assert (code, "places.toml, deployment 1: there is no 'rmp'" in " ".join(said.split())) == (2, True)


def test_two_models_a_fallback_a_sample_and_an_export(bulkllm: Command, requests: str, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    with FakeProvider(models=["a", "b"]) as server:
        options = ("--api-base", server.openai_base, "--option", "api_key=sk-x", "-o", str(out), "--no-progress")
        both = ("run", requests, "-m", "openai/a", "-m", "openai/gone", "--fallback", "openai/b", *options)
        code, told, _ = bulkllm(*both, "--sample", "10")
        assert (code, "10: 10 ok" in told) == (0, True)
        code, told, _ = bulkllm(*both)
        assert (code, "80: 80 ok" in told, "10 were done in earlier runs" in told) == (0, True, True)
    code, _, said = bulkllm("results", "export", str(out), "--ordered")
    assert (code, "80 rows in" in said) == (0, True)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == sorted([*range(40), *range(40)])
    assert {(row["variant"], row["model"]) for row in rows} == {("openai/a", "openai/a"), ("openai/gone", "openai/b")}
    code, _, said = bulkllm("results", "export", str(out))
    assert (code, "exists already" in said) == (2, True)


def test_rows_left_undone_are_no_success(bulkllm: Command, requests: str, tmp_path: Path) -> None:
    with FakeProvider(keys=["sk-good"]) as server:
        code, _, said = bulkllm(
            "run", requests, "-m", "openai/a", "--api-base", server.openai_base, "--option", "api_key=sk-bad", "-o",
            str(tmp_path / "out.jsonl"), "--no-progress", "--max-in-flight", "1",
        )  # fmt: skip
    assert (code, "check the API key" in said) == (3, True)


def test_a_results_file_of_a_run_in_code_is_exported_too(bulkllm: Command, tmp_path: Path) -> None:
    async def call(request: object) -> tuple[dict[str, object], None]:
        return {"choices": [{"message": {"content": "hello"}}]}, None

    out = tmp_path / "r.jsonl"
    run(["a"], call=call, model="m", output=out, progress=False)
    code, told, _ = bulkllm("results", "export", str(out), "--format", "jsonl", "--output", "-")
    assert (code, json.loads(told)["text"]) == (0, "hello")


def test_an_export_to_an_output_that_is_not_utf_8(
    bulkllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(request: object) -> tuple[dict[str, object], None]:
        return {"choices": [{"message": {"content": "καλημέρα"}}]}, None

    out = tmp_path / "r.jsonl"
    run(["a"], call=call, model="m", output=out, progress=False)
    beneath = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(beneath, encoding="latin-1"))
    code, _, said = bulkllm("results", "export", str(out), "-o", "-")
    assert (code, "1 rows in -" in said) == (0, True)
    (row,) = csv.DictReader(io.StringIO(beneath.getvalue().decode(), newline=""))
    assert row["text"] == "καλημέρα"
