from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from bulkllm.bulk import run
from bulkllm.bulk.collector import collector_at_rest

FEW = 1_000  # of the interpreter's own are frozen


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_it_was() -> Any:
    assert gc.get_freeze_count() < FEW
    before, thresholds = list(gc.callbacks), gc.get_threshold()
    yield
    assert gc.get_freeze_count() < FEW
    assert gc.callbacks == before
    assert gc.get_threshold() == thresholds


def test_what_has_lived_through_a_full_collection_is_left_alone_until_the_end() -> None:
    old = Cycle()
    seen = weakref.ref(old)
    with collector_at_rest():
        gc.collect(1)
        assert gc.get_freeze_count() < FEW
        gc.collect()
        assert gc.get_freeze_count() > 10 * FEW
        new = Cycle()
        made = weakref.ref(new)
        del old, new
        gc.collect()
        assert made() is None  # what is made anew is collected
        assert seen() is not None
    assert gc.get_freeze_count() < FEW
    gc.collect()
    assert seen() is None


def test_the_young_are_looked_through_less_often_until_the_last_of_several_ends() -> None:
    young, *others = gc.get_threshold()
    with collector_at_rest():
        with collector_at_rest():
            pass
        assert gc.get_threshold()[0] > young
        assert list(gc.get_threshold()[1:]) == others
        assert gc.isenabled()


@pytest.mark.parametrize("young", [0, 1_000_000])
def test_a_threshold_of_the_programs_own_stays(young: int) -> None:
    default = gc.get_threshold()
    try:
        gc.set_threshold(young, *default[1:])
        with collector_at_rest():
            assert gc.get_threshold() == (young, *default[1:])
        assert gc.get_threshold() == (young, *default[1:])
    finally:
        gc.set_threshold(*default)


def test_a_threshold_that_the_program_sets_meanwhile_stays() -> None:
    default = gc.get_threshold()
    try:
        with collector_at_rest():
            gc.set_threshold(5_000, 5, 5)
        assert gc.get_threshold() == (5_000, 5, 5)
    finally:
        gc.set_threshold(*default)


def test_the_last_of_several_gives_it_back() -> None:
    with collector_at_rest():
        with collector_at_rest():
            gc.collect()
        assert gc.get_freeze_count() > 10 * FEW
    assert gc.get_freeze_count() < FEW


def test_what_the_program_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with collector_at_rest():
            gc.collect()
            assert gc.get_freeze_count() <= count
        # Some of it may have gone by itself meanwhile, in other tests' threads.
        assert 0.9 * count < gc.get_freeze_count() <= count
    finally:
        gc.unfreeze()


def test_an_error_gives_it_back_too() -> None:
    def broken() -> None:
        gc.collect()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), collector_at_rest():
        broken()


def test_a_run_leaves_what_was_there_alone() -> None:
    frozen: list[int] = []
    young: list[int] = []

    async def call(request: Any) -> Any:
        if request.index == 5:
            gc.collect()
        frozen.append(gc.get_freeze_count())
        young.append(gc.get_threshold()[0])
        return {}, None

    assert run([f"p{number}" for number in range(10)], call=call, model="m", progress=False, max_in_flight=1).ok == 10
    assert max(frozen[:5]) < FEW
    assert min(frozen[5:]) > 10 * FEW
    assert min(young) > gc.get_threshold()[0]
