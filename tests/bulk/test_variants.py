"""Several models over one input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import RunResult, run
from bulkllm.errors import ConfigError, RequestFileError
from bulkllm.models import LLMConfig

ROWS: list[Any] = [{"prompt": f"p{number}", "label": number} for number in range(5)]
NAMED: list[Any] = [{"custom_id": f"r{number}", **row} for number, row in enumerate(ROWS)]


def bulk(rows: Any, calls: Any, model: Any, out: Path | None = None, **options: Any) -> RunResult:
    return run(rows, call=calls, model=model, output=out, progress=False, **options)


@pytest.mark.parametrize("rows", [ROWS, NAMED])
@pytest.mark.parametrize("streamed", [False, True])
def test_each_row_is_asked_of_each_model(calls: Any, out: Path, rows: list[Any], streamed: bool) -> None:
    result = bulk(iter(rows) if streamed else rows, calls, ["openai/a", "openai/b"], out)
    assert (result.total, result.ok, calls.asked) == (10, 10, 10)
    assert [(row.index, row.variant) for row in result][:4] == [
        (0, "openai/a"), (0, "openai/b"), (1, "openai/a"), (1, "openai/b"),
    ]  # fmt: skip
    assert [row.record and row.record.model for row in result][:2] == ["openai/a", "openai/b"]
    calls.forget()
    assert bulk(rows, calls, ["openai/a", "openai/b"], out).skipped == 10
    assert calls.asked == 0


@pytest.mark.parametrize("rows", [ROWS, NAMED])
def test_models_may_be_added_and_asked_alone_and_nothing_is_paid_twice(calls: Any, out: Path, rows: list[Any]) -> None:
    assert bulk(rows, calls, "openai/a", out).ok == 5
    both = bulk(rows, calls, ["openai/a", "openai/b"], out)
    assert (both.total, both.skipped, calls.asked) == (10, 5, 10)
    for model in ("openai/a", "openai/b", ["openai/b"], ["openai/b", "openai/a"]):
        assert bulk(rows, calls, model, out).skipped in (5, 10)
    assert calls.asked == 10
    three = bulk(rows, calls, ["openai/c", "openai/a", "openai/b"], out)
    assert (three.total, three.skipped, calls.asked) == (15, 10, 15)
    swapped = bulk(rows, calls, ["openai/a", "openai/d"], out)
    assert (swapped.total, swapped.skipped, calls.asked) == (10, 5, 20)


@pytest.mark.parametrize("rows", [ROWS, NAMED])
def test_a_changed_request_is_seen_with_several_models_too(calls: Any, out: Path, rows: list[Any]) -> None:
    bulk(rows, calls, ["openai/a", "openai/b"], out)
    with pytest.raises(ConfigError, match="asked in another way"):
        bulk([{**row, "prompt": row["prompt"] + "!"} for row in rows], calls, ["openai/a", "openai/b"], out)
    with pytest.raises(ConfigError, match="asked in another way"):
        bulk(rows, calls, ["openai/a", "openai/b"], out, temperature=1)
    assert calls.asked == 10


@pytest.mark.parametrize("rows", [ROWS, NAMED])
@pytest.mark.parametrize(
    ("first", "then"), [("openai/a", ["openai/a", "openai/b"]), (["openai/a", "openai/b"], "openai/a")]
)
def test_a_changed_request_is_seen_when_a_model_is_added_or_left_out_too(
    calls: Any, out: Path, rows: list[Any], first: Any, then: Any
) -> None:
    bulk(rows, calls, first, out)
    asked = calls.asked
    with pytest.raises(ConfigError, match="asked in another way"):
        bulk(rows, calls, then, out, temperature=1)
    assert calls.asked == asked
    assert bulk(rows, calls, then, out, temperature=1, redo_changed=True).ok == 5 * (1 if then == "openai/a" else 2)


def test_equal_rows_are_told_apart_with_several_models_too(calls: Any, out: Path) -> None:
    assert bulk(["same", "same"], calls, ["openai/a", "openai/b"], out).ok == 4
    assert bulk(["same", "same", "same"], calls, ["openai/a", "openai/b"], out).skipped == 4
    assert calls.asked == 6
    assert bulk(["same", "same", "same"], calls, "openai/b", out).skipped == 3


def test_a_row_that_names_its_model_is_asked_of_that_alone(calls: Any, out: Path) -> None:
    result = bulk([*ROWS, {"prompt": "own", "model": "openai/x"}], calls, ["openai/a", "openai/b"], out, limit=6)
    assert (result.total, result.ok) == (11, 11)
    assert [row.variant for row in result][-1] is None
    assert calls.prompts["own"] == 1


def test_presets_of_one_model_are_told_apart_by_their_names(calls: Any, out: Path) -> None:
    presets = [
        LLMConfig(slug="cold", model="openai/a", temperature=0.0, system_prompt="Be cold."),
        LLMConfig(slug="warm", model="openai/a", temperature=1.0),
    ]
    result = bulk(["hi"], calls, presets, out)
    assert [row.variant for row in result] == ["cold", "warm"]
    assert sorted((body["temperature"], len(body["messages"])) for body in calls.bodies) == [(0.0, 2), (1.0, 1)]
    assert [json.loads(line)["bulkllm"]["variant"] for line in out.read_text().splitlines()] == ["cold", "warm"]


def test_a_bad_row_fails_once_and_a_repeated_id_is_refused_once_for_all_models(calls: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt"\n{"prompt": "b"}\n')
    result = bulk(path, calls, ["openai/a", "openai/b"], skip_bad=True)
    assert (result.total, result.ok, result.failed) == (5, 4, 1)
    with pytest.raises(RequestFileError, match="was there before"):
        bulk([NAMED[0], NAMED[0]], calls, ["openai/a", "openai/b"])


def test_models_that_come_and_go_are_no_change_of_the_rows(calls: Any, out: Path) -> None:
    bulk(NAMED, calls, "openai/a", out)
    bulk(NAMED, calls, ["openai/a", "openai/b"], out)
    assert bulk(NAMED, calls, ["openai/b", "openai/c"], out).ok == 10
    bulk(NAMED, calls, ["openai/a", "openai/b"], out, temperature=1, redo_changed=True)
    assert bulk(NAMED, calls, ["openai/a", "openai/b", "openai/d"], out, temperature=1).ok == 15
