from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.bulk.rawrow import RawRow, parse_line, raw_row
from bulkllm.bulk.sources import Indexed, RowSequence, Streamed, open_source
from bulkllm.bulk.streams import AsyncStream, StandardInput, SyncStream
from bulkllm.errors import ConfigError, RequestFileError


def indexed(requests: Any) -> Indexed:
    source = open_source(requests)
    assert isinstance(source, Indexed)
    return source


async def read_all(source: Streamed) -> list[RawRow]:
    return [row async for row in source.rows()]


def errors_of(path: Path) -> list[RequestFileError]:
    source = indexed(path)
    found = [row.data for row in source.scan() if isinstance(row.data, RequestFileError)]
    source.close()
    return found


def test_a_file_is_read_whole_and_again_by_place(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt":"a"}\r\n\r\n{"prompt":"b\xc3\xa9"}\n   \n{"prompt":"c"}')
    source = indexed(str(path))
    rows = list(source.scan())
    assert [row.data for row in rows] == [{"prompt": "a"}, {"prompt": "bé"}, {"prompt": "c"}]
    assert [row.line for row in rows] == [1, 3, 5]
    assert [source.read(row.place, row.line) for row in reversed(rows)] == [row.data for row in reversed(rows)]
    source.verify()
    source.close()


def test_a_file_that_changes_under_the_run_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt":"a"}\n')
    source = indexed(path)
    with path.open("a") as file:
        file.write('{"prompt":"b"}\n')
    with pytest.raises(RequestFileError, match="was changed"):
        source.verify()
    source.close()


@pytest.mark.parametrize(
    ("line", "column", "problem"),
    [
        (b'{"prompt": "a",}', None, "this is no JSON"),
        (b"{'prompt': 'a'}", 2, "double quotes"),
        (b'{"prompt": "a"', None, "cut off"),
        (b'{"prompt": "a\tb"}', 14, "control character"),
        (b'["a"]', None, "found an array"),
        (b'"a"', None, "found a string"),
        (b"null", None, "found null"),
        (b"true", None, "found a boolean"),
        (b"17", None, "found a number"),
        (b"{", None, "pretty-printed"),
        (b"[", None, "pretty-printed"),
        (b'{"temperature": NaN}', None, "NaN is no JSON"),
        (b'{"temperature": -Infinity}', None, "-Infinity is no JSON"),
        (b'{"prompt": "caf\xe9"}', 16, "byte 0xe9 is not UTF-8"),
        (b'{"prompt": "\xed\xa0\xbd"}', 13, "not UTF-8"),
        (b'{"prompt": "a\x00b"}', 14, "NUL bytes"),
        (b"\x00\x00\x00", 1, "NUL bytes"),
        (b'{"seed": ' + b"9" * 5000 + b"}", None, "4300 digits"),
        (b"[" * 100_000, None, "nested too deeply"),
        (b'{"prompt": "a"} {"prompt": "b"}', 17, "extra data"),
        (b"prompt,text", 1, "this is no JSON"),
    ],
)
def test_a_bad_line_tells_its_place_and_the_cure(line: bytes, column: int | None, problem: str) -> None:
    with pytest.raises(RequestFileError, match=problem) as caught:
        parse_line(line, line=7, path=Path("in.jsonl"))
    assert caught.value.line == 7
    assert column is None or caught.value.column == column
    assert "in.jsonl:7" in str(caught.value)
    assert "skip_bad" in str(caught.value)


def test_what_only_looks_odd_passes() -> None:
    line = rb'{"prompt": "NUL \u0000, half \ud83d, big", "seed": 123456789012345678901234567890, "top_p": 1e-400}'
    row = parse_line(line, line=1, path=Path("in.jsonl"))
    assert row == {"prompt": "NUL \0, half \ud83d, big", "seed": 123456789012345678901234567890, "top_p": 0.0}


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_make_anything_but_rows_and_told_errors(lines: list[bytes]) -> None:
    for number, line in enumerate(lines, 1):
        row = raw_row(line, place=0, line=number, path=Path("x"))
        assert row.line == number
        assert isinstance(row.data, dict | RequestFileError)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (gzip.compress(b'{"prompt":"a"}\n'), "compressed with gzip"),
        ('{"prompt":"a"}\n'.encode("utf-16"), "UTF-16"),
        (b"PAR1....", "Parquet"),
        (b"PK\x03\x04....", "zip"),
        (b"\x28\xb5\x2f\xfd....", "zstd"),
    ],
)
def test_files_of_another_kind_are_told(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(RequestFileError, match=problem):
        open_source(path)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n\n")
    source = indexed(path)
    assert list(source.scan()) == []
    source.close()


@pytest.mark.parametrize("requests", [{"prompt": "a"}, b"abc", 5, None])
def test_what_rows_cannot_come_from_is_told(requests: Any) -> None:
    with pytest.raises(ConfigError, match="requests is a"):
        open_source(requests)


def test_a_missing_file_and_a_directory_are_told(tmp_path: Path) -> None:
    with pytest.raises(RequestFileError, match="give a list"):
        open_source("What is the capital of France?")
    with pytest.raises(RequestFileError, match="no regular file"):
        open_source(tmp_path)


@pytest.mark.parametrize("prompt", ["Please summarise this. " * 20, "word " * 100_000, "two\nlines", "a\0b"])
def test_a_prompt_in_the_place_of_a_file_is_told(prompt: str) -> None:
    with pytest.raises(RequestFileError, match="no such file; to ask a single prompt give a list") as caught:
        open_source(prompt)
    assert len(str(caught.value)) < 350


def test_a_path_that_cannot_be_looked_at_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(RequestFileError, match=r"in.jsonl: cannot be read: Permission denied"):
        open_source("in.jsonl")


def test_sequences_are_indexed_and_other_iterables_are_not() -> None:
    assert isinstance(open_source(["a"]), RowSequence)
    assert isinstance(open_source(("a", "b")), RowSequence)
    assert isinstance(open_source(iter(["a"])), SyncStream)
    assert isinstance(open_source(f"{n}" for n in range(3)), SyncStream)

    async def rows() -> AsyncIterator[str]:
        yield "a"

    assert isinstance(open_source(rows()), AsyncStream)


def test_a_list_that_grows_under_the_run_is_noticed() -> None:
    rows = ["a", "b"]
    source = indexed(rows)
    assert [row.data for row in source.scan()] == rows
    rows.append("c")
    with pytest.raises(ConfigError, match="was changed"):
        source.verify()


async def test_streams_are_closed_when_they_are_left() -> None:
    closed = []

    def rows() -> Iterator[str]:
        try:
            yield from "abc"
        finally:
            closed.append("sync")

    async def arows() -> AsyncIterator[str]:
        try:
            for letter in "abc":
                yield letter
        finally:
            closed.append("async")

    for source in (SyncStream(rows()), AsyncStream(arows())):
        reading = source.rows()
        assert (await anext(reading)).data == "a"
        await reading.aclose()  # type: ignore[attr-defined]  # it is an async generator
    assert closed == ["sync", "async"]


async def test_standard_input_gives_what_has_come_already() -> None:
    out, into = os.pipe()
    reading = StandardInput(out).rows()
    os.write(into, b'\xef\xbb\xbf{"prompt":"a"}\n\n{"prompt"')
    assert (await anext(reading)).data == {"prompt": "a"}
    os.write(into, b':"b"}\nno json\n{"prompt":"c"}')
    second = await anext(reading)
    assert (second.data, second.line) == ({"prompt": "b"}, 3)
    third = await anext(reading)
    assert isinstance(third.data, RequestFileError)
    assert third.data.line == 4
    os.close(into)
    assert (await anext(reading)).data == {"prompt": "c"}
    with pytest.raises(StopAsyncIteration):
        await anext(reading)
    os.close(out)


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_is_read_by_its_header(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"in{suffix}"
    lines = [
        ["custom_id", "prompt", "temperature", "model", "tools", "label"],
        ["1", '"two\nlines, and ""quotes"""', "0.5", "openai/m", "", "x"],
        [],
        ["2", "plain", "", "", "", ""],
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(separator.join(line) for line in lines).encode())
    source = indexed(path)
    rows = list(source.scan())
    assert [row.data for row in rows] == [
        {"custom_id": "1", "prompt": 'two\nlines, and "quotes"', "temperature": 0.5, "model": "openai/m", "label": "x"},
        {"custom_id": "2", "prompt": "plain", "label": ""},
    ]
    assert [row.line for row in rows] == [2, 5]
    assert [source.read(row.place, row.line) for row in reversed(rows)] == [row.data for row in reversed(rows)]
    source.close()


def test_bad_records_are_told_and_good_ones_after_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(
        b"prompt,temperature\na,0\nb\nc,1,2\nd,warm\ne\xff,0\n" + b'f"g",0\n"h"i,0\n' + b"x" * 200_000 + b",0\nz,1\n"
    )
    source = indexed(path)
    rows = list(source.scan())
    bad = {row.line: row.data for row in rows if isinstance(row.data, RequestFileError)}
    assert {line: error.line for line, error in bad.items()} == {line: line for line in (3, 4, 5, 6, 8)}
    assert all("in.csv" in str(error) for error in bad.values())
    assert "found 1" in str(bad[3])
    assert "read as JSON" in str(bad[5])
    assert "not UTF-8" in str(bad[6])
    good = [row.data["prompt"][:3] for row in rows if isinstance(row.data, dict)]
    assert good == ["a", 'f"g', "xxx", "z"]
    for row in rows:
        if isinstance(row.data, RequestFileError):
            with pytest.raises(RequestFileError) as caught:
                source.read(row.place, row.line)
            assert str(caught.value) == str(row.data)
            assert row.text
    source.close()


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"", "must name the columns"),
        (b"a,,b\n", "column 2 has no name"),
        (b"a,b,a\n", "two columns"),
        (b'"a\n', "cannot be read"),
    ],
)
def test_a_bad_header_is_told(tmp_path: Path, header: bytes, problem: str) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(header)
    with pytest.raises(RequestFileError, match=problem) as caught:
        open_source(path)
    assert caught.value.line == 1


MALFORMED = st.one_of(
    st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")),
    st.sampled_from(
        [b"{", b"[]", b'{"prompt": }', b"\xff\xfe", b"{'a': 1}", b'{"prompt": "a"', b"\0" * 9, b"nan", b"[" * 999]
    ),
    st.text(max_size=20).map(lambda text: json.dumps([text]).encode()),
)


@given(st.lists(MALFORMED, max_size=12), st.integers(0, 12))
def test_a_good_row_among_malformed_lines_is_found(
    tmp_path_factory: pytest.TempPathFactory, bad: list[bytes], at: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "in.jsonl"
    lines = [b"#", *bad]
    lines.insert(1 + min(at, len(bad)), b'{"prompt":"good"}')
    path.write_bytes(b"\n".join(lines) + b"\n")
    source = indexed(path)
    rows = list(source.scan())
    source.close()
    assert {"prompt": "good"} in [row.data for row in rows]
    assert len(rows) == sum(not line.isspace() and line != b"" for line in path.read_bytes().split(b"\n"))
