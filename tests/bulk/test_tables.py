from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bulkllm.bulk import run
from bulkllm.bulk.options import ROW_OPTIONS
from bulkllm.bulk.sources import open_source
from bulkllm.bulk.tables import _WHOLE, Table
from bulkllm.errors import ConfigError, RequestFileError

pd: Any = pytest.importorskip("pandas")  # it comes without types

COLUMNS: dict[str, list[Any]] = {
    "prompt": ["a", "b", "c\0\u2028é"],
    "label": [1, 2, 3],
    "score": [0.5, None, 1.0],
    "temperature": [None, 0.5, None],
    "tags_": [["x"], [], ["y", "z"]],
}


class Dataset:
    """As Hugging Face's datasets are: a slice gives columns."""

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.slices = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: slice) -> dict[str, list[Any]]:
        self.slices += 1
        return {name: values[key] for name, values in self.columns.items()}


def made(kind: str, folder: Path) -> Any:
    if kind == "pandas":
        return pd.DataFrame(COLUMNS)
    if kind == "polars":
        return pl.DataFrame(COLUMNS)
    if kind == "dataset":
        return Dataset(COLUMNS)
    path = folder / "in.parquet"
    pl.DataFrame(COLUMNS).write_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["pandas", "polars", "dataset", "parquet"])
def test_each_kind_of_table(calls: Any, out: Path, tmp_path: Path, kind: str) -> None:
    result = run(made(kind, tmp_path), call=calls, model="openai/m", output=out, progress=False)
    assert [row.text for row in result] == ["re: a", "re: b", "re: c\0\u2028é"]
    assert [row.columns for row in result] == [
        {"label": 1, "score": 0.5, "tags_": ["x"]},
        {"label": 2, "score": None, "tags_": []},
        {"label": 3, "score": 1.0, "tags_": ["y", "z"]},
    ]
    asked = {body["messages"][0]["content"]: body.get("temperature") for body in calls.bodies}
    assert asked == {"a": None, "b": 0.5, "c\0\u2028é": None}
    calls.forget()
    again = run(made("polars", tmp_path), call=calls, model="openai/m", output=out, progress=False)
    assert (again.skipped, calls.asked) == (3, 0)


def test_a_template_over_a_frame_tells_a_missing_column_before_the_first_call(calls: Any) -> None:
    frame = pl.DataFrame({"lang": ["French", "German"], "body": ["one", "two"]})
    with pytest.raises(RequestFileError, match="'text' is undefined; columns: body, lang"):
        run(frame, call=calls, model="m", prompt="Into {{lang}}: {{text}}", progress=False)
    assert calls.asked == 0
    run(frame, call=calls, model="m", prompt="Into {{lang}}: {{body}}", progress=False)
    assert sorted(calls.prompts) == ["Into French: one", "Into German: two"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "parquet"])
def test_a_missing_cell_fills_no_template(calls: Any, tmp_path: Path, kind: str) -> None:
    columns = {"text": ["a", None], "lang": ["fr", "de"], "size": [1.0, None]}
    frame: Any = pd.DataFrame(columns) if kind == "pandas" else pl.DataFrame(columns)
    if kind == "parquet":
        frame.write_parquet(tmp_path / "in.parquet")
        frame = tmp_path / "in.parquet"
    for name in ("text", "size"):
        options: dict[str, Any] = {"call": calls, "model": "m", "prompt": f"{{{{lang}}}} {{{{{name}}}}}"}
        with pytest.raises(RequestFileError, match=f":2: .*cannot be filled: {name} has no value here"):
            run(frame, **options, progress=False)
        assert calls.asked == 0
        result = run(frame, **options, skip_bad=True, progress=False)
        assert [row.ok for row in result] == [True, False]
        calls.forget()
    run(frame, call=calls, model="m", prompt="{{lang}} {{text or '-'}}", progress=False)
    assert sorted(calls.prompts) == ["de -", "fr a"]


def test_whole_numbers_of_a_column_with_gaps_are_whole(calls: Any, out: Path) -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "custom_id": [7, None], "temperature": [1, None], "label": [2, None]})
    whole = sorted(_WHOLE - {"custom_id"})
    for name in whole:
        frame[name] = [3, None]
    assert {str(frame[name].dtype) for name in (*whole, "custom_id", "label")} == {"float64"}
    result = run(frame, call=calls, model="m", output=out, progress=False)
    assert [row.custom_id for row in result] == ["7", None]
    asked = next(body for body in calls.bodies if len(body) > 2)
    names = [*(name for name in whole if name != "cache_sample"), "sample"]
    assert [repr(asked[name]) for name in (*names, "temperature")] == ["3"] * len(names) + ["1.0"]
    assert [row.columns for row in result] == [{"label": 2.0}, {"label": None}]
    assert _WHOLE.issubset(ROW_OPTIONS | {"custom_id"})
    rows = [{"custom_id": 7, "prompt": "a", "temperature": 1.0, **dict.fromkeys(whole, 3)}, {"prompt": "b"}]
    assert run(rows, call=calls, model="m", output=out, progress=False).skipped == 2


@pytest.mark.parametrize("number", [1.5, 2.0**60, float("inf")])
def test_a_custom_id_that_is_no_whole_number_is_refused_as_before(calls: Any, number: float) -> None:
    with pytest.raises(RequestFileError, match='"custom_id" must be text'):
        run(pd.DataFrame({"prompt": ["a"], "custom_id": [number]}), call=calls, model="m", progress=False)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_damaged_parquet_file_is_told_with_its_rows(tmp_path: Path, calls: Any, skip_bad: bool) -> None:
    path = tmp_path / "in.parquet"
    pl.DataFrame({"prompt": [f"hello {number}" for number in range(20_000)]}).write_parquet(
        path, compression="uncompressed"
    )
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(RequestFileError, match=r"in.parquet: rows 1 to 1024 cannot be read .*; write it anew"):
        run(path, call=calls, model="m", skip_bad=skip_bad, progress=False)
    assert calls.asked == 0


def test_a_large_table_is_read_in_slices_from_wherever_rows_are_wanted() -> None:
    data: Any = Dataset({"prompt": [f"p{number}" for number in range(20_000)]})
    source = open_source(data)
    assert isinstance(source, Table)
    assert [row.data for row in source.scan()] == [{"prompt": f"p{number}"} for number in range(20_000)]
    assert data.slices == 20
    places = [start + step for step in range(1024) for start in (0, 5000, 10_000, 15_000)]
    for place in places:
        assert source.read(place, 0) == {"prompt": f"p{place}"}
    assert data.slices < 30
    for place in random.Random(1).sample(range(20_000), 50):  # noqa: S311 - a seed for a test
        assert source.read(place, 0) == {"prompt": f"p{place}"}
    source.close()


def test_odd_values_become_pythons_own() -> None:
    frame = pd.DataFrame({"prompt": ["a"], "when": [pd.Timestamp("2026-01-02")], "no": [pd.NaT], "na": [pd.NA]})
    frame["many"] = [pd.Series([1.0, float("nan")]).to_numpy()]
    source = open_source(frame)
    assert isinstance(source, Table)
    row = source.read(0, 1)
    assert row == {"prompt": "a", "when": pd.Timestamp("2026-01-02"), "no": None, "na": None, "many": [1.0, None]}


def test_what_cannot_be_read_by_number_is_told() -> None:
    with pytest.raises(ConfigError, match=r"frame.collect\(\)"):
        open_source(pl.LazyFrame(COLUMNS))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ConfigError, match=r"one of them: .*'train', 'test'"):
        open_source({"train": Dataset(COLUMNS), "test": Dataset(COLUMNS)})


def test_a_parquet_file_that_is_none_or_changes_is_told(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(RequestFileError, match="cannot be read as Parquet"):
        open_source(path)
    pl.DataFrame({"prompt": [f"p{number}" for number in range(50)]}).write_parquet(path)

    async def change(request: Any) -> Any:
        await asyncio.sleep(0)
        if calls.asked == 5:
            pl.DataFrame({"prompt": ["q"]}).write_parquet(path)
        return await calls(request)

    with pytest.raises(RequestFileError, match="was changed"):
        run(path, call=change, model="m", max_in_flight=1, progress=False)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigError, match="a Parquet file needs polars"):
        open_source(path)
