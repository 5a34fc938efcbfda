from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkllm.accounting import UsageTracker
from bulkllm.bulk import ResultRow, RowError, RunResult, read_results, run
from bulkllm.bulk.result import text_of
from bulkllm.errors import BudgetExceeded, ConfigError


def test_a_file_is_read_without_a_run(calls: Any, error: Any, out: Path) -> None:
    calls.errors = {"b": error("Timeout", 408, "too slow")}
    run(["a", "b", {"custom_id": "c", "prompt": "c"}], call=calls, model="m", output=out, progress=False)
    a, b, c = read_results(str(out))
    assert (a.text, b.text, c.text) == ("re: a", None, "re: c")
    assert b.error == RowError("Timeout", "too slow", 408)
    assert str(b.error) == "Timeout: too slow"
    assert c.custom_id == "c"
    assert a.record is not None
    assert a.record.cost == 0.5
    assert "ok" in repr(a)
    assert "Timeout" in repr(b)


def test_the_latest_line_of_a_row_counts_in_a_file_that_was_not_compacted(calls: Any, error: Any, out: Path) -> None:
    calls.errors = {"a": error("Timeout", 408)}
    run(["a", "b"], call=calls, model="m", output=out, progress=False)
    before = out.read_bytes()
    calls.errors.clear()
    run(["a", "b"], call=calls, model="m", output=out, progress=False)
    out.write_bytes(before + b"".join(line + b"\n" for line in out.read_bytes().splitlines() if b"re: a" in line))
    assert [row.text for row in read_results(out)] == ["re: a", "re: b"]
    with out.open("ab") as file:
        file.write(b'{"id":"bulkllm-torn')
    assert [row.text for row in read_results(out)] == ["re: a", "re: b"]


@pytest.mark.parametrize("content", [b"notes\n", b'{"prompt":"a"}\n', b"[]\n"])
def test_what_is_no_results_file_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no results file"):
        list(read_results(path))
    with pytest.raises(ConfigError, match="no line"):
        ResultRow.from_line(content)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"message": {"content": "a"}}]}, "a"),
        ({"choices": []}, None),
        ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, None),
        (
            {"output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "a"}]}]},
            "a",
        ),
        ({"data": []}, None),
        ({}, None),
        (None, None),
        ("text", None),
    ],
)
def test_the_text_of_an_answer(body: Any, text: str | None) -> None:
    assert text_of(body) == text


def test_a_live_answer_and_the_file_tell_the_same(calls: Any, out: Path) -> None:
    live: list[ResultRow] = []
    run(["a"], call=calls, model="m", output=out, progress=False, on_result=live.append)
    (stored,) = read_results(out)
    assert live[0].body == stored.body
    assert live[0].response == json.loads(out.read_bytes())["response"]["body"]
    assert (live[0].key, live[0].text) == (stored.key, stored.text)


def test_a_result_tells_how_the_run_ended() -> None:
    def result(**changes: Any) -> RunResult:
        told = {"total": 9, "ok": 6, "failed": 1, "skipped": 2, "stopped": None, "interrupted": False}
        return RunResult(**{**told, **changes}, usage=UsageTracker(), spent_before=0.0, output=None)

    assert (result().undone, result().complete) == (2, False)
    assert result(ok=8).complete
    assert not result(ok=8, interrupted=True).complete
    assert "stopped, 9 rows" in repr(result(stopped="why"))
    assert "interrupted, 9 rows: 6 ok, 1 failed, 2 undone" in repr(result(interrupted=True))


# -- rows that are undone ------------------------------------------------------------------------------------


def asked_again(calls: Any, after: int) -> None:
    """No more calls after so many, as if a budget were spent."""

    def spent(request: Any) -> None:
        if calls.asked > after:
            raise BudgetExceeded("spent")

    calls.forget()
    calls.on_call = spent


@pytest.mark.parametrize("model", ["openai/a", ["openai/a", "openai/b"]])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_to_the_old_request_is_none_to_the_new_one(calls: Any, out: Path, model: Any, streamed: bool) -> None:
    def bulk(what: str, **options: Any) -> RunResult:
        rows = [{"custom_id": f"r{number}", "prompt": f"{what}{number}", "label": what} for number in range(9)]
        requests: Any = iter(rows) if streamed else rows
        return run(requests, call=calls, model=model, output=out, progress=False, max_in_flight=1, **options)

    bulk("old")
    asked_again(calls, 5)
    stopped = bulk("new", redo_changed=True)
    assert (stopped.ok, stopped.failed, stopped.stopped is not None) == (5, 0, True)
    assert len(list(stopped)) == 5
    assert all(row.text == f"re: new{row.index}" and row.columns == {"label": "new"} for row in stopped)
    assert stopped.to_polars()["label"].to_list() == ["new"] * 5
    calls.on_call = None
    rest = bulk("new", redo_changed=True)
    assert rest.skipped == 5
    assert all(row.text == f"re: new{row.index}" for row in rest)
    assert len(list(rest)) == rest.ok == rest.total


def test_every_other_row_of_a_run_is_in_its_result(calls: Any, error: Any, out: Path) -> None:
    calls.errors = {"p1": error("BadRequestError", 400), "p2": error("Timeout", 408)}

    def rows(label: str) -> list[Any]:
        named = [{"custom_id": f"r{number}", "prompt": f"p{number}", "label": label} for number in range(4)]
        return [*named, named[0], {"custom_id": "bad", "prompt": 5}, 7, "plain", "plain"]

    options: dict[str, Any] = {"model": ["m", "n"], "output": out, "skip_bad": True, "progress": False}
    first = run(rows("x"), call=calls, **options)
    before = [(row.custom_id, row.index, row.variant, row.ok) for row in first]
    assert len(before) == first.total == 16
    again = run(rows("y"), call=calls, **options)
    assert again.skipped == 14
    assert [(row.custom_id, row.index, row.variant, row.ok) for row in again] == before
    assert {row.columns["label"] for row in again if row.custom_id == "r3"} == {"y"}
