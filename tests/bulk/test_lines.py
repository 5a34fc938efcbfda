from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.bulk.keytable import State
from bulkllm.bulk.lines import Head, encode, encode_columns, head_of, result_line, with_columns, with_index

keys = st.binary(min_size=16, max_size=16)
texts = st.text(st.characters(exclude_categories=()), max_size=30)  # half surrogate pairs too
costs = st.none() | st.floats(min_value=0, max_value=1e6)
heads = st.one_of(
    st.builds(
        Head, keys, keys, st.just(State.OK), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.just("ok"), costs
    ),
    st.builds(
        Head,
        keys,
        keys,
        st.sampled_from([State.FAILED, State.REFUSED]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.sampled_from(["RateLimitError", "BadRequestError", "RequestFileError"]),
        costs,
    ),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
columns = st.dictionaries(texts, values, max_size=3)


def line_of(head: Head, carried: dict[str, Any], text: str, custom_id: str | None) -> bytes:
    answer = {"choices": [{"message": {"content": text}}], "id": "x"}
    return result_line(
        custom_id=custom_id,
        head=head,
        columns=encode_columns(carried)[0],
        record={"model": "m", "usage": {"input_tokens": 1}, "cost": 7.0, "outcome": "never"},
        body=encode(answer) if head.state is State.OK else None,
        request_id="req-1",
        error=None if head.state is State.OK else {"code": head.outcome, "message": text},
    )


@given(heads, columns, texts, st.none() | texts.filter(bool))
def test_a_line_is_read_as_it_was_written(
    head: Head, carried: dict[str, Any], text: str, custom_id: str | None
) -> None:
    line = line_of(head, carried, text, custom_id)
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1  # whatever a reader takes for the end of a line
    assert head_of(line) == head
    row = json.loads(line)
    assert row["custom_id"] == custom_id
    assert row["bulkllm"].get("columns", {}) == carried
    assert row["bulkllm"]["cost"] == head.cost
    assert row["bulkllm"]["outcome"] == head.outcome
    if head.state is State.OK:
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        assert row["response"]["body"]["choices"][0]["message"]["content"] == text
    else:
        assert row["response"] is None
        assert row["error"]["message"] == text


@given(heads, columns, texts)
def test_another_tools_copy_of_a_line_tells_the_same(head: Head, carried: dict[str, Any], text: str) -> None:
    row = json.loads(line_of(head, carried, text, "id"))
    about = row["bulkllm"]
    anew = json.dumps({"bulkllm": dict(sorted(about.items())), **dict(sorted(row.items()))}).encode() + b"\n"
    assert head_of(anew) == head


@given(heads, columns, texts, st.integers(0, 2**32 - 1))
def test_a_line_can_move(head: Head, carried: dict[str, Any], text: str, index: int) -> None:
    line = line_of(head, carried, text, "id")
    moved = with_index(line, index)
    told = head_of(moved)
    assert told is not None
    assert told.position == index
    before, after = json.loads(line), json.loads(moved)
    before["bulkllm"].pop("index")
    after["bulkllm"].pop("index")
    assert before == after
    rewritten = json.dumps(json.loads(line)).encode() + b"\n"
    told = head_of(with_index(rewritten, index))
    assert told is not None
    assert told.position == index


@given(heads, columns, columns, texts)
def test_a_line_can_have_other_columns(head: Head, carried: dict[str, Any], others: dict[str, Any], text: str) -> None:
    line = with_columns(line_of(head, carried, text, "id"), others, 5)
    told = head_of(line)
    assert told is not None
    assert (told.key, told.state, told.position, told.columns_crc) == (
        head.key,
        head.state,
        5,
        encode_columns(others)[1],
    )
    row = json.loads(line)
    assert row["bulkllm"].get("columns", {}) == others
    assert row["bulkllm"]["model"] == "m"
    assert row["custom_id"] == "id"


@given(heads, texts, st.data())
def test_a_torn_or_damaged_line_is_none_of_ours(head: Head, text: str, data: st.DataObject) -> None:
    line = line_of(head, {}, text, "id")
    cut = data.draw(st.integers(0, len(line) - 2))
    assert head_of(line[:cut] + b"\n") is None
    hole = data.draw(st.integers(0, len(line) - 2))
    assert head_of(line[:hole] + b"\0" + line[hole + 1 :]) is None


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"prompt":"hello"}\n',
        b'{"id":"batch_req_1","custom_id":"a","response":{"status_code":200,"body":{}},"error":null}\n',
        b'{"bulkllm":{"key":"zz"}}\n',
        b'{"custom_id":"a","bulkllm":{"key":"00","fingerprint":"00","outcome":"ok","cost":null,"done":true,"index":1}}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_foreign_lines_are_none_of_ours(line: bytes) -> None:
    assert head_of(line) is None


def test_a_text_that_imitates_the_end_of_a_line_does_not_count() -> None:
    head = Head(bytes(16), bytes(16), State.OK, 1, 0, "ok", None)
    forged = '"cost":null,"outcome":"ok","done":true,"key":"' + "f" * 32 + '","index":9}}\n'
    assert head_of(line_of(head, {"x": forged}, forged, forged)) == head


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), {1: "a"}, {(1, 2): 3}, object(), ["\ud83d", float("nan")]])
def test_columns_that_json_has_no_room_for_are_still_written(odd: Any) -> None:
    line = line_of(Head(bytes(16), bytes(16), State.OK, 1, 0, "ok", None), {"odd": odd}, "text", None)
    assert "odd" in json.loads(line)["bulkllm"]["columns"]


def test_columns_nested_without_end_are_cut() -> None:
    deep: list[Any] = []
    deep.append(deep)
    assert json.loads(encode({"deep": deep}))
