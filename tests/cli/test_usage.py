"""``bulkllm usage report``: of a results file and of kept records, for people, for machines, as a page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from bulkllm import Usage, UsageRecord, run
from bulkllm.accounting import JSONLSink, SQLiteSink
from bulkllm.bulk.keytable import State
from bulkllm.bulk.lines import Head, result_line
from bulkllm.cli import main
from bulkllm.testing import FakeProvider


def records() -> list[UsageRecord]:
    common = {"provider": "openai", "usage": Usage(100, 20), "latency": 1.5}
    told = [
        UsageRecord(model="openai/gpt-5-mini", cost=0.01, tags={"experiment": "a"}, **common),  # type: ignore[arg-type]
        UsageRecord(model="openai/house", cost=None, tags={"experiment": "b"}, **common),  # type: ignore[arg-type]
        UsageRecord(
            model="openai/gpt-5-mini", cost=None, outcome="Timeout", charge_unknown=True, uncertain_cost=0.25,
            refused=1, attempts=3, latency=9.0, waits={"rpm of openai/*": 30.0, "retries": 3.0},
        ),
    ]  # fmt: skip
    return told * 5


def results(path: Path) -> Path:
    with path.open("wb") as file:
        for number, record in enumerate(records()):
            head = Head(number.to_bytes(16, "big"), b"p" * 16, State.OK, number, 0, record.outcome, record.cost)
            error = None if record.ok else {"code": record.outcome, "message": "late"}
            body = b'{"choices":[]}' if record.ok else None
            line = result_line(custom_id=None, head=head, columns=b"", record=record.to_dict(), body=body, error=error)
            file.write(line)
        head = Head(b"x" * 16, b"p" * 16, State.REFUSED, 99, 0, "RequestFileError", None)
        error = {"code": "RequestFileError", "message": "no prompt"}
        file.write(result_line(custom_id=None, head=head, columns=b"", record={}, error=error))
    return path


def kept(path: Path) -> Path:
    with SQLiteSink(path) if path.suffix == ".db" else JSONLSink(path) as sink:
        for record in records():
            sink.put(record)
    return path


def bulkllm(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bulkllm", "usage", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_a_report_of_a_results_file_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bulkllm(monkeypatch, results(tmp_path / "results.jsonl")) == 0
    said = capsys.readouterr().out
    for expected in (
        "openai/gpt-5-mini",
        "openai/house",
        "Timeout",
        "experiment=a",
        "p95",
        "latency",
        "█",
        "output tokens",
    ):
        assert expected in said
    assert "Rows that failed without a call (in no sum): 1" in said
    assert "Calls of unknown price (not in the cost): 10" in said
    assert "up to $1.2500 more may be charged" in said
    assert re.search(r"requests per minute of openai/\* +150.0 s +66.7%", said)
    assert re.search(r"the provider's answers +60.0 s +26.7%", said)
    assert "Most of the time (67%) went on waiting for requests per minute of openai/*: raise rpm if" in said


@pytest.mark.parametrize("make", [results, kept], ids=["results", "records"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.db"])
def test_machines_are_told_the_same_of_each_kind_of_file(
    make: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = (results if make is results else kept)(tmp_path / name)
    assert bulkllm(monkeypatch, path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"]["requests"] == 15
    assert told["total"]["cost"] == pytest.approx(0.05)
    assert (told["total"]["refused"], told["total"]["attempts"]) == (5, 25)
    assert set(told["by_outcome"]) == {"ok", "Timeout"}
    assert told["total"]["waits"] == {"rpm of openai/*": 150.0, "retries": 15.0}
    assert told["by_outcome"]["ok"]["shares"] == {"provider": 1.0}
    assert len(told["advice"]) == 1


def test_one_breakdown_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kept(tmp_path / "x.jsonl")
    assert bulkllm(monkeypatch, path, "--by", "tag") == 0
    said = capsys.readouterr().out
    assert "experiment=a" in said
    assert "Timeout" not in said
    assert bulkllm(monkeypatch, path, "--by", "colour") == 2
    assert "not" not in capsys.readouterr().out


def test_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = results(tmp_path / "results.jsonl"), tmp_path / "page.html"
    assert bulkllm(monkeypatch, path, "--html", page) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "results.jsonl" in text
    assert "Most of the time (67%) went on waiting for requests per minute of openai/*" in text
    assert "Rows that failed without a call (in no sum): 1" in text
    assert capsys.readouterr().out == ""


def test_the_file_itself_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results(tmp_path / "results.jsonl")
    before = path.read_bytes()
    assert bulkllm(monkeypatch, path, "--html", path) == 2
    assert path.read_bytes() == before
    assert bulkllm(monkeypatch, path, "--html", tmp_path / "none" / "x.html") == 2


def test_what_is_no_such_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.jsonl").write_text('{"prompt": "hello"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    assert bulkllm(monkeypatch, tmp_path / "other.jsonl") == 2
    assert bulkllm(monkeypatch, tmp_path / "none.jsonl") == 2
    assert "there is no such file" in capsys.readouterr().err
    assert bulkllm(monkeypatch, tmp_path / "empty.jsonl") == 0
    assert "no calls" in capsys.readouterr().out


def test_what_is_no_usage_record_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = tmp_path / "in.jsonl"
    requests.write_text('\n{"prompt": "a"}\n')
    assert bulkllm(monkeypatch, requests) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {requests}:2: usage record: model is missing; give a results file of `bulkllm run`")
    with kept(requests).open("a") as file:
        file.write('\n{"model": 3}\n')
    requests.write_text(requests.read_text().partition('{"prompt": "a"}\n')[2])
    assert bulkllm(monkeypatch, requests) == 2
    assert f"{requests}:17: usage record: model cannot be 3" in capsys.readouterr().err
    assert bulkllm(monkeypatch, tmp_path) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"


def test_a_run_in_which_nothing_was_sent_is_shown_all_the_same() -> None:
    from bulkllm import UsageTracker
    from bulkllm.cli.show import usage_lines

    tracker = UsageTracker()
    tracker.record(UsageRecord(model="m", cost=0.0, outcome="BudgetExceeded", attempts=0))
    assert [line.split()[0] for line in usage_lines(tracker.total)] == ["tokens", "cost", "limits"]
    for record in records():
        tracker.record(record)
    lines = usage_lines(tracker.total)
    assert "retries   10, 5 of all attempts refused for a limit" in lines
    assert lines[4].startswith("time      Most of the time (67%) went on waiting for requests per minute of openai/*: ")
    assert "uncertain attempts of 5 calls were given up: up to $1.2500 more may be charged" in lines


def test_what_earlier_asks_of_a_row_had_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.jsonl"
    paid, tokens = 0.0, 0
    with FakeProvider() as server:
        for temperature in (0.1, 0.2, 0.3):
            result = run(
                ["a", {"custom_id": "b", "prompt": "b"}], output=out, progress=False, model="openai/gpt-4.1-mini",
                temperature=temperature, redo_changed=True, api_base=server.openai_base, api_key="any",
            )  # fmt: skip
            paid += result.usage.total.cost
            tokens += result.usage.total.total_tokens
    assert bulkllm(monkeypatch, out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    earlier = told["earlier"]
    assert earlier["requests"] == 4
    assert earlier["cost"] + told["total"]["cost"] == pytest.approx(paid)
    assert earlier["tokens"] + told["total"]["total_tokens"] == tokens
    assert len(told["notes"]) == 1
    assert bulkllm(monkeypatch, out) == 0
    said = capsys.readouterr().out
    assert f"Earlier asks of rows that were asked again (in no sum): {earlier['requests']:.0f} requests, " in said
