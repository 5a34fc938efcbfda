"""Answers whose row holds what cannot be written: they are paid, so they are kept whatever else is in their row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, computed_field, field_serializer

from bulkllm.bulk import BulkRequest, read_results, run
from bulkllm.bulk.lines import encode, encode_columns

np: Any = pytest.importorskip("numpy")
pytest.importorskip("pandas")


class Silent:
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("detached")

    __repr__ = __str__


class Part(BaseModel):
    n: int

    @computed_field  # type: ignore[prop-decorator]  # as pydantic's own documentation has it
    @property
    def inverse(self) -> float:
        return 1 / self.n


class Computed(BaseModel):
    n: int
    parts: list[Part] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean(self) -> float:
        return self.n / len(self.parts)


class Sealed(BaseModel):
    n: int

    @field_serializer("n")
    def _sealed(self, value: int) -> int:
        raise KeyError(value)


class Always:
    """Gives one answer to whatever it is asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked = 0

    async def __call__(self, request: BulkRequest) -> tuple[Any, None]:
        self.asked += 1
        return {"choices": [{"message": {"content": self.text}}]}, None


@pytest.mark.parametrize(
    ("form", "text", "kept"),
    [
        (Computed, '{"n": 2}', {"n": 2, "parts": []}),
        (Computed, '{"n": 2, "parts": [{"n": 0}]}', {"n": 2, "parts": [{"n": 0}]}),
        (Sealed, '{"n": 2}', None),
    ],
)
def test_an_answer_is_kept_whatever_its_parsed_object_raises(
    out: Path, caplog: pytest.LogCaptureFixture, form: Any, text: str, kept: Any
) -> None:
    rows, call = ["p0", "p1", "p2"], Always(text)
    options: dict[str, Any] = {"call": call, "model": "m", "response_format": form, "progress": False}
    with caplog.at_level(logging.WARNING, "bulkllm"):
        assert run(rows, output=out, **options).ok == 3
        assert run(rows, output=out, **options).skipped == 3
    assert call.asked == 3
    assert [(row.text, row.parsed) for row in read_results(out)] == [(text, kept)] * 3
    (told,) = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert form.__name__ in told
    in_memory = run(rows, **options)
    assert [row.parsed_json for row in in_memory] == [kept] * 3
    assert list(in_memory.to_pandas()["text"]) == [text] * 3
    assert in_memory.to_polars()["text"].to_list() == [text] * 3


ODD: list[tuple[Any, Any]] = [
    (10**5000, "<int>"),
    (Silent(), "<Silent>"),
    ([1, Silent()], [1, "<Silent>"]),
    ({"a": Silent(), 10**5000: float("nan")}, {"a": "<Silent>", "<int>": None}),
    (np.array([Silent(), 1], dtype=object), ["<Silent>", 1]),
]


@pytest.mark.parametrize(("odd", "kept"), ODD, ids=["int", "object", "list", "dict", "array"])
def test_an_answer_is_kept_whatever_its_columns_hold(
    calls: Any, out: Path, caplog: pytest.LogCaptureFixture, odd: Any, kept: Any
) -> None:
    rows = [{"prompt": f"p{number}", "odd": odd, "label": number} for number in range(3)]
    with caplog.at_level(logging.WARNING, "bulkllm"):
        result = run(rows, call=calls, model="m", output=out, progress=False)
    assert (result.ok, calls.asked) == (3, 3)
    assert [row.columns for row in result] == [{"odd": kept, "label": number} for number in range(3)]
    assert len([record for record in caplog.records if "cannot be written" in record.getMessage()]) == 1
    assert run(rows, call=calls, model="m", output=out, progress=False).skipped == 3
    assert calls.asked == 3
    in_memory = run(rows, call=calls, model="m", progress=False)
    assert list(in_memory.to_pandas()["label"]) == [0, 1, 2]
    assert json.loads(in_memory.to_polars()["odd"][0]) == kept


def test_a_bad_row_that_has_no_text_fails_and_ends_no_run(calls: Any, out: Path) -> None:
    rows = [{"prompt": 5, "odd": Silent()}, {"prompt": 5, "odd": 10**5000}, {"prompt": "fine"}]
    result = run(rows, call=calls, model="m", output=out, skip_bad=True, progress=False)
    assert (result.ok, result.failed) == (1, 2)


def test_an_answer_of_the_callers_own_class_is_kept(out: Path) -> None:
    async def call(request: object) -> tuple[Computed, None]:
        return Computed(n=2), None

    assert run(["p"], call=call, model="m", output=out, progress=False).ok == 1
    (row,) = read_results(out)
    assert row.body == {"n": 2, "parts": []}
    (row,) = run(["p"], call=call, model="m", progress=False)
    assert row.body == {"n": 2, "parts": []}


NUMPY: list[tuple[Any, Any]] = [
    (np.int64(1), 1),
    (np.bool_(False), False),
    (np.float32(0.5), 0.5),
    (np.float32("nan"), None),
    (np.array([1, 2]), [1, 2]),
    (np.array([[0.5], [float("nan")]]), [[0.5], [None]]),
    (np.str_("a"), "a"),
    (np.datetime64("2026-01-02T03:04:05", "ns"), "2026-01-02T03:04:05.000000000"),
]


@pytest.mark.parametrize(("value", "kept"), NUMPY, ids=range(len(NUMPY)))
def test_numbers_and_arrays_of_numpys_are_written_as_pythons(calls: Any, out: Path, value: Any, kept: Any) -> None:
    assert json.loads(encode({"x": value})) == {"x": kept}
    assert encode_columns({"x": value}) == encode_columns({"x": kept})
    (row,) = run([{"prompt": "p", "x": value}], call=calls, model="m", output=out, progress=False)
    assert row.columns == {"x": kept}


def test_frames_of_rows_in_memory_have_numpys_numbers_as_numbers(calls: Any) -> None:
    rows = [{"prompt": f"p{n}", "label": np.int64(n), "spam": np.bool_(n), "odd": np.array([n])} for n in range(2)]
    frame = run(rows, call=calls, model="m", progress=False).to_polars()
    assert (frame["label"].to_list(), frame["spam"].to_list()) == ([0, 1], [False, True])
    assert frame["odd"].to_list() == ["[0]", "[1]"]
