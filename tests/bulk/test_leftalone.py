from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from bulkllm.bulk import run
from bulkllm.bulk.leftalone import long_lived_left_alone


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_frozen() -> Any:
    assert gc.get_freeze_count() == 0
    before = list(gc.callbacks)
    yield
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == before


def test_what_has_lived_through_a_full_collection_is_left_alone_until_the_end() -> None:
    old = Cycle()
    seen = weakref.ref(old)
    with long_lived_left_alone():
        gc.collect(1)
        assert gc.get_freeze_count() == 0
        gc.collect()
        assert gc.get_freeze_count() > 1000
        new = Cycle()
        made = weakref.ref(new)
        del old, new
        gc.collect()
        assert made() is None  # what is made anew is collected
        assert seen() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert seen() is None


def test_the_last_of_several_gives_it_back() -> None:
    with long_lived_left_alone():
        with long_lived_left_alone():
            gc.collect()
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_what_the_program_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with long_lived_left_alone():
            gc.collect()
            assert gc.get_freeze_count() == count
        assert gc.get_freeze_count() == count
    finally:
        gc.unfreeze()


def test_an_error_gives_it_back_too() -> None:
    def broken() -> None:
        gc.collect()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), long_lived_left_alone():
        broken()


def test_a_run_leaves_what_was_there_alone() -> None:
    frozen: list[int] = []

    async def call(request: Any) -> Any:
        if request.index == 5:
            gc.collect()
        frozen.append(gc.get_freeze_count())
        return {}, None

    assert run([f"p{number}" for number in range(10)], call=call, model="m", progress=False, max_in_flight=1).ok == 10
    assert frozen[:5] == [0] * 5
    assert min(frozen[5:]) > 1000
