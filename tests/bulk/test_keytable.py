from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.bulk import keytable
from bulkllm.bulk.keytable import KEY_BYTES, KeyTable, State


def key_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:KEY_BYTES]


@given(st.lists(st.integers(0, 200), max_size=400))
def test_a_table_is_a_dict(numbers: list[int]) -> None:
    table, model = KeyTable(), dict[bytes, int]()
    for number in numbers:
        key = key_of(number)
        assert table.find(key) == model.get(key, -1)
        if key not in model:
            model[key] = table.add(key)
            table.index[model[key]] = number
            table.set_fingerprint(model[key], key_of(number + 1000))
    assert len(table) == len(model)
    for number in set(numbers):
        slot = table.find(key_of(number))
        assert table.key(slot) == key_of(number)
        assert table.index[slot] == number
        assert table.fingerprint(slot) == key_of(number + 1000)
        assert table.state[slot] == State.NEW


def test_keys_that_begin_alike_are_told_apart() -> None:
    table = KeyTable()
    keys = [bytes(8) + number.to_bytes(8, "big") for number in range(50)]
    slots = [table.add(key) for key in keys]
    assert [table.find(key) for key in keys] == slots
    assert table.find(bytes(8) + (99).to_bytes(8, "big")) == -1


class CountedArray(array):  # type: ignore[type-arg]  # generic in stubs only
    """An array that counts how often somebody looks into it."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        CountedArray.looks += 1
        return super().__getitem__(at)


@pytest.mark.parametrize(
    "make",
    [
        key_of,
        lambda number: number.to_bytes(KEY_BYTES, "big"),
        lambda number: number.to_bytes(KEY_BYTES, "little"),
        lambda number: (number << 40).to_bytes(KEY_BYTES, "little"),
        lambda number: bytes(8) + number.to_bytes(8, "big"),
    ],
    ids=["digests", "big", "little", "strides", "alike"],
)
def test_whatever_the_keys_a_few_looks_find_one(make: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys out of a results file need not be digests; with all in one heap each look-up would pass all others."""
    monkeypatch.setattr(keytable, "array", CountedArray)
    table = KeyTable()
    rows = 5000
    CountedArray.looks = 0
    for number in range(rows):
        key = make(number)
        assert table.find(key) == -1
        table.add(key)
    assert CountedArray.looks < 12 * rows  # found to be missing, entered, and entered anew at each growth
    CountedArray.looks = 0
    assert all(table.find(make(number)) == number for number in range(rows))
    assert CountedArray.looks < 4 * rows


def test_all_is_found_again_after_growing() -> None:
    table = KeyTable()
    slots = {number: table.add(key_of(number)) for number in range(5000)}
    assert all(table.find(key_of(number)) == slot for number, slot in slots.items())
    assert all(table.find(key_of(number)) == -1 for number in range(5000, 6000))


def test_a_row_takes_some_dozen_bytes() -> None:
    table = KeyTable()
    rows = 20_000
    for number in range(rows):
        table.add(key_of(number))
    columns = [getattr(table, name) for name in KeyTable.__slots__]
    size = sum(sys.getsizeof(column) for column in columns if isinstance(column, bytearray | array))
    assert size / rows < 90
