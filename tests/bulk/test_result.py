from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkllm.accounting import UsageTracker
from bulkllm.bulk import ResultRow, RowError, RunResult, read_results, run
from bulkllm.bulk.result import text_of
from bulkllm.errors import ConfigError


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
