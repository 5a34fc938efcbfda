"""CSV and TSV files: records that cannot be read, and cells that are blank."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.bulk import RunResult, run
from bulkllm.bulk.sources import Indexed, open_source
from bulkllm.errors import RequestFileError


def indexed(path: Path) -> Indexed:
    source = open_source(path)
    assert isinstance(source, Indexed)
    return source


def bulk(content: bytes, calls: Any, folder: Path, suffix: str = ".csv", **options: Any) -> RunResult:
    path = folder / f"in{suffix}"
    path.write_bytes(content)
    return run(path, call=calls, **{"model": "openai/m", "progress": False, **options})


# -- records that cannot be read -----------------------------------------------------------------------------

BAD: list[tuple[bytes, int, int]] = [
    (b'"Summarise this:\ncaf\xe9\nsecond line\nthird line"', 4, 4),
    (b'"Summarise\xff this:\n\n""quoted""\nthird\xff line"', 3, 11),
    (b'"Summarise this,\r\n""\xe9""\r\n"', 4, 3),
    (b'"one\ntwo"\xe9', 4, 5),
    (b"\xe9", 3, 1),
]


@pytest.mark.parametrize(("record", "line", "column"), BAD)
def test_a_record_that_is_not_utf_8_is_passed_over_whole(
    calls: Any, tmp_path: Path, out: Path, record: bytes, line: int, column: int
) -> None:
    content = b"prompt\nfine\n" + record + b'\nalso fine\n"and\nthis"\n'
    result = bulk(content, calls, tmp_path, output=out, skip_bad=True)
    assert [row.text for row in result] == ["re: fine", None, "re: also fine", "re: and\nthis"]
    assert sorted(calls.prompts) == ["also fine", "and\nthis", "fine"]
    (problem,) = [row.error.message for row in result if row.error is not None]
    assert problem.startswith(f"{tmp_path / 'in.csv'}:{line}:{column}: byte 0x")
    assert bulk(content, calls, tmp_path, output=out, skip_bad=True).skipped == 4
    with pytest.raises(RequestFileError, match="is not UTF-8") as caught:
        bulk(content, calls, tmp_path)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.fixture
def short_fields() -> Iterator[None]:
    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)


LONG: list[str] = [
    '"' + "x" * 500 + '\nsecond ""line"", and\nthird line"',
    '"' + "many lines\n" * 50 + '",""',
    'a,"' + "x, " * 500 + '"",\n,""\n"',
    '"",' + "x" * 500,
    '"first\n' + "x" * 500 + '"',
]


@pytest.mark.parametrize("record", LONG)
def test_a_record_with_a_field_that_is_too_long_is_passed_over_whole(
    tmp_path: Path, short_fields: None, record: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text(f'prompt,label\nfine,1\n{record}\nalso fine,2\n"and\nthis",3\n')
    source = indexed(path)
    csv.field_size_limit(100)
    rows = list(source.scan())
    good = [(row.data["prompt"], row.data["label"]) for row in rows if isinstance(row.data, dict)]
    assert good == [("fine", "1"), ("also fine", "2"), ("and\nthis", "3")]
    (bad,) = [row for row in rows if isinstance(row.data, RequestFileError)]
    assert bad.text.decode() == f"{record}\n"
    with pytest.raises(RequestFileError, match="field larger than field limit") as caught:
        source.read(bad.place, bad.line)
    assert (str(caught.value), caught.value.line) == (str(bad.data), 3)
    assert [source.read(row.place, row.line) for row in rows if row is not bad] == [
        row.data for row in rows if row is not bad
    ]
    source.close()


texts = st.text(st.characters(codec="utf-8") | st.sampled_from('",\r\n\0é'), max_size=12).map(lambda text: f"_{text}")


@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_a_bad_byte_costs_its_own_record_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("bad") / "in.csv"
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["prompt"], *([one] for one in prompts)])
    content = text.getvalue().encode()
    path.write_bytes(content)
    source = indexed(path)
    rows = list(source.scan())
    source.close()
    assert [row.data for row in rows] == [{"prompt": one} for one in prompts]
    chosen = data.draw(st.integers(0, len(prompts) - 1))
    within = content.index(b"_", rows[chosen].place) + 1
    path.write_bytes(content[:within] + b"\xff" + content[within:])
    source = indexed(path)
    after = list(source.scan())
    source.close()
    assert [row.data for at, row in enumerate(after) if at != chosen] == [
        {"prompt": one} for at, one in enumerate(prompts) if at != chosen
    ]
    assert isinstance(after[chosen].data, RequestFileError)


# -- blank cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_blank_cell_of_a_name_that_means_something_is_not_given(
    calls: Any, tmp_path: Path, suffix: str, separator: str
) -> None:
    lines = [
        ["custom_id", "prompt", "input", "messages", "system", "model", "temperature", "user", "label"],
        ["a", "one", "", "", "", "", "", "", ""],
        [" ", "two", "  ", " ", " ", "  ", " ", " ", " "],
        ["", "three", "", "", "", "openai/n", "0.5", "u", "x"],
        ["", "", "four", "", "", "", "", "", ""],
    ]
    content = "".join(separator.join(line) + "\n" for line in lines).encode()
    result = bulk(content, calls, tmp_path, suffix, temperature=1)
    assert [row.text for row in result] == ["re: one", "re: two", "re: three", "re: four"]
    assert [row.custom_id for row in result] == ["a", None, None, None]
    assert [row.columns for row in result] == [{"label": ""}, {"label": " "}, {"label": "x"}, {"label": ""}]
    asked = [(body["model"], body["temperature"], body.get("user")) for body in calls.bodies]
    assert sorted(asked, key=str) == [
        ("openai/m", 1, None), ("openai/m", 1, None), ("openai/m", 1, None), ("openai/n", 0.5, "u"),
    ]  # fmt: skip


@pytest.mark.parametrize("cell", ["", "  ", '" \n"'])
def test_a_blank_prompt_is_nothing_to_ask(calls: Any, tmp_path: Path, cell: str) -> None:
    content = f"custom_id,prompt\n1,{cell}\n2,hi\n".encode()
    with pytest.raises(RequestFileError, match=r"in.csv:2: nothing to ask"):
        bulk(content, calls, tmp_path)
    assert calls.asked == 0
    result = bulk(content, calls, tmp_path, skip_bad=True)
    assert [(row.custom_id, row.ok) for row in result] == [("1", False), ("2", True)]
    assert dict(calls.prompts) == {"hi": 1}


def test_with_a_template_prompt_and_input_are_columns_whatever_is_in_them(calls: Any, tmp_path: Path) -> None:
    result = bulk(b"prompt,input,text\n,,a\nx,y,b\n", calls, tmp_path, prompt="{{prompt}}{{input}}{{text}}")
    assert sorted(calls.prompts) == ["a", "xyb"]
    assert next(iter(result)).columns == {"prompt": "", "input": "", "text": "a"}


def test_answers_may_stop_at_a_line_break(calls: Any, tmp_path: Path) -> None:
    bulk(b'prompt,stop\na,"\n"\nb,\n', calls, tmp_path)
    assert {body["messages"][0]["content"]: body.get("stop") for body in calls.bodies} == {"a": "\n", "b": None}
