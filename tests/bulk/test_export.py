from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bulkllm.bulk import RunResult, run
from bulkllm.bulk.export import export
from bulkllm.errors import ConfigError

pd: Any = pytest.importorskip("pandas")  # it comes without types


@pytest.fixture
def result(calls: Any, error: Any, out: Path) -> RunResult:
    """Finished in another order than that of the input; columns of every kind; one row failed."""
    calls.errors = {"p1": error("BadRequestError", 400, "no")}
    rows: list[dict[str, Any]] = [
        {"prompt": "p0", "custom_id": "a", "count": 1, "mixed": 1, "x": 1, "yes": True, "model_name": "é\0\ud83d"},
        {"prompt": "p1", "custom_id": "b", "count": 2, "mixed": "two", "x": 2.5},
        {
            "prompt": "p2",
            "custom_id": "c",
            "count": None,
            "mixed": None,
            "x": None,
            "text": "theirs",
            "deep": {"k": [1]},
        },
        {"prompt": "p3", "custom_id": "d", "count": 1 << 40, "yes": False},
    ]
    run([rows[3]], call=calls, model="openai/m", output=out, progress=False)
    return run(rows, call=calls, model="openai/m", output=out, progress=False, max_in_flight=1, redo_changed=True)


@pytest.fixture
def as_finished(result: RunResult, out: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in out.read_bytes().splitlines()]


def test_csv(result: RunResult, out: Path, tmp_path: Path, as_finished: list[str]) -> None:
    target = tmp_path / "out.csv"
    assert export(out, target, format="csv", ordered=True) == 4
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["custom_id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["text"] for row in rows] == ["re: p0", "", "re: p2", "re: p3"]
    assert [row["count"] for row in rows] == ["1", "2", "", str(1 << 40)]
    assert [row["mixed"] for row in rows] == ["1", '"two"', "", ""]
    assert [row["yes"] for row in rows] == ["true", "", "", "false"]
    assert rows[0]["model_name"] == "é\0\\ud83d"
    assert rows[2]["column_text"] == "theirs"
    assert json.loads(rows[2]["deep"]) == {"k": [1]}
    assert (rows[1]["error"], rows[1]["error_message"], rows[1]["status"]) == ("BadRequestError", "no", "400")
    assert [row["cost"] for row in rows] == ["0.5", "", "0.5", "0.5"]
    assert "variant" not in rows[0]
    export(out, target, format="csv", overwrite=True)
    with target.open(newline="", encoding="utf-8") as file:
        assert [row["custom_id"] for row in csv.DictReader(file)] == as_finished != ["a", "b", "c", "d"]


@pytest.mark.parametrize("text", ["one\rtwo", "one\r\ntwo", "one\ntwo", "\r", 'a "word", and\r'])
def test_line_breaks_of_any_kind_stay_in_their_cell(calls: Any, out: Path, tmp_path: Path, text: str) -> None:
    rows = [{"prompt": text, "label": text}, {"prompt": "plain", "label": "x"}]
    run(rows, call=calls, model="m", output=out, progress=False)
    target = tmp_path / "out.csv"
    export(out, target, format="csv", ordered=True)
    with target.open(newline="", encoding="utf-8") as file:
        told = list(csv.DictReader(file))
    assert [(row["label"], row["text"]) for row in told] == [(text, f"re: {text}"), ("x", "re: plain")]
    frame = pd.read_csv(target)
    assert (list(frame["label"]), list(frame["text"])) == ([text, "x"], [f"re: {text}", "re: plain"])
    assert pl.read_csv(target)["text"].to_list() == [f"re: {text}", "re: plain"]


def test_no_column_takes_anothers_place(calls: Any, out: Path, tmp_path: Path) -> None:
    columns = {"text": "answer", "column_text": "source", "column_column_text": "draft", "column_x": "x", "cost": 1}
    rows = [{"prompt": "a", **columns}, {"prompt": "b", **dict(reversed(columns.items()))}, {"prompt": "c", "text": ""}]
    result = run(rows, call=calls, model="m", output=out, progress=False)
    told = {
        "column_text": "answer", "column_column_text": "source", "column_column_column_text": "draft", "column_x": "x",
        "column_cost": 1,
    }  # fmt: skip
    frames = (result.to_polars(), run(rows, call=calls, model="m", progress=False).to_polars())
    for frame in frames:
        first, second, third = frame.select("text", *told).to_dicts()
        assert first == {"text": "re: a", **told}
        assert second == {"text": "re: b", **told}
        assert third == {"text": "re: c", **dict.fromkeys(told), "column_text": ""}
    assert set(told) < set(result.to_pandas().columns)
    for kind in ("csv", "jsonl"):
        assert export(out, tmp_path / kind, format=kind, ordered=True) == 3
    with (tmp_path / "csv").open(newline="") as file:
        (row, _, _) = csv.DictReader(file)
    assert {name: row[name] for name in told} == {**told, "column_cost": "1"}
    lines = [json.loads(line) for line in (tmp_path / "jsonl").read_text().splitlines()]
    assert {name: lines[1][name] for name in told} == told


def test_a_columns_name_may_be_any_text(calls: Any, out: Path, tmp_path: Path) -> None:
    result = run([{"prompt": "a", "\ud83d": 1, "é": 2}], call=calls, model="m", output=out, progress=False)
    assert {"\\ud83d", "é"} < set(result.to_pandas().columns)
    assert {"\\ud83d", "é"} < set(result.to_polars().columns)
    for kind in ("csv", "parquet", "jsonl"):
        assert export(out, tmp_path / kind, format=kind) == 1


def test_parquet(result: RunResult, out: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    assert export(out, target, format="parquet", ordered=True) == 4
    frame = pl.read_parquet(target)
    assert frame["custom_id"].to_list() == ["a", "b", "c", "d"]
    assert frame.schema["count"] == pl.Int64
    assert frame["count"].to_list() == [1, 2, None, 1 << 40]
    assert frame.schema["x"] == pl.Float64
    assert frame["x"].to_list() == [1.0, 2.5, None, None]
    assert frame["mixed"].to_list() == ["1", '"two"', None, None]
    assert frame["yes"].to_list() == [True, None, None, False]
    assert frame["text"].to_list() == ["re: p0", None, "re: p2", "re: p3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "results.jsonl"]
    assert frame.equals(result.to_polars())


def test_lines(result: RunResult, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(out, "-", format="jsonl", ordered=True) == 4
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["custom_id"] for row in rows] == ["a", "b", "c", "d"]
    assert rows[0]["model_name"] == "é\0\ud83d"
    assert rows[2]["deep"] == {"k": [1]}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_standard_output_is_utf_8_whatever_the_locale(
    result: RunResult, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    beneath = io.BytesIO()
    output = io.TextIOWrapper(beneath, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    output.write("before\n")
    assert export(out, "-", format=kind, ordered=True) == 4
    output.write("after\n")
    output.flush()
    export(out, tmp_path / "told", format=kind, ordered=True)
    assert beneath.getvalue() == b"before\n" + (tmp_path / "told").read_bytes() + b"after\n"
    assert "é" in beneath.getvalue().decode() or kind == "jsonl"


def test_an_output_without_bytes_is_written_to_as_it_is(
    result: RunResult, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO(newline="")
    monkeypatch.setattr(sys, "stdout", output)
    assert export(out, "-", format="csv", ordered=True) == 4
    output.seek(0)
    assert [row["custom_id"] for row in csv.DictReader(output)] == list("abcd")


def test_pandas(result: RunResult) -> None:
    frame = result.to_pandas()
    assert list(frame["custom_id"]) == ["a", "b", "c", "d"]
    assert str(frame["count"].dtype) == "Int64"
    assert frame["count"][3] == 1 << 40
    assert frame["mixed"][1] == "two"
    assert frame["deep"][2] == {"k": [1]}
    assert frame["cost"].sum() == 1.5
    assert pd.isna(frame["yes"][1])


def test_rows_in_memory_and_no_rows_make_frames_too(calls: Any) -> None:
    frame = run(["p0", "p1"], call=calls, model="m", progress=False).to_polars()
    assert frame["text"].to_list() == ["re: p0", "re: p1"]
    empty = run([], call=calls, model="m", progress=False)
    assert (len(empty.to_pandas()), empty.to_polars().height) == (0, 0)
    assert "text" in empty.to_pandas().columns


def test_only_rows_of_this_runs_input_are_in_its_frame(calls: Any, out: Path) -> None:
    run(["p0", "p1", "p2"], call=calls, model="m", output=out, progress=False)
    assert run(["p2"], call=calls, model="m", output=out, progress=False).to_polars()["text"].to_list() == ["re: p2"]


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_a_package_that_is_not_there_is_named(
    result: RunResult, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        getattr(result, f"to_{name}")()
    if name == "polars":
        with pytest.raises(ConfigError, match="a Parquet file needs polars"):
            export(out, tmp_path / "x.parquet", format="parquet")
        assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_nothing_is_overwritten_unasked(result: RunResult, out: Path, tmp_path: Path) -> None:
    before = out.read_bytes()
    taken = tmp_path / "taken.csv"
    taken.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(out, taken, format="csv")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is the results file that is being exported; give another file"):
            export(out, out, format="csv", overwrite=overwrite)
    with pytest.raises(ConfigError, match="is none of csv, parquet, jsonl"):
        export(out, taken, format="xml")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ConfigError, match="there is no such results file"):
        export(tmp_path / "none.jsonl", taken, format="csv")
    with pytest.raises(ConfigError, match="cannot be written to standard output"):
        export(out, "-", format="parquet")
    assert (out.read_bytes(), taken.read_text()) == (before, "mine")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_no_file_beside_the_target_is_touched(result: RunResult, out: Path, tmp_path: Path, kind: Any) -> None:
    results = out.rename(tmp_path / "a.part")
    before = results.read_bytes()
    assert export(results, tmp_path / "a", format=kind) == 4
    assert results.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.part"]
    results.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_target_has_the_permissions_that_it_had_or_would_have(
    result: RunResult, out: Path, tmp_path: Path, kind: Any
) -> None:
    ordinary, target = tmp_path / "ordinary", tmp_path / "target"
    ordinary.touch()
    export(out, target, format=kind)
    assert target.stat().st_mode == ordinary.stat().st_mode
    target.chmod(0o604)
    export(out, target, format=kind, overwrite=True)
    assert target.stat().st_mode & 0o777 == 0o604


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or path.suffix == ".part"]
