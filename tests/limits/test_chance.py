"""Whether refusals hang on how fast one goes, or on chance."""

from __future__ import annotations

import math

from bulkllm.limits.chance import Chance


def verdict(chance: Chance, went: float, lessons: int, sent: int = 0) -> float | None:
    for _ in range(lessons):
        found = chance.lesson(went, 10.0, sent)
        if found is not None:
            return found
    return None


def test_refusals_that_come_as_often_however_slowly_one_goes_are_chance() -> None:
    chance = Chance()
    assert verdict(chance, 20, 6, sent=140) is None
    assert not chance.is_assumed(141, often=False)
    assert verdict(chance, 20, 1, sent=140) == 10.0
    assert chance.is_assumed(141, often=False)
    assert chance.is_assumed(640, often=False)
    assert not chance.is_assumed(641, often=False)


def test_the_rate_is_the_one_before_all_of_it() -> None:
    chance = Chance()
    rates = [math.inf, 9.0, 8.0, 7.0, 6.0, 5.0]
    assert [chance.lesson(20, rate, 0) for rate in rates] == [None] * 6
    assert chance.lesson(20, 4.0, 0) == math.inf


def test_where_going_more_slowly_is_of_use_it_is_no_chance() -> None:
    chance = Chance()
    for _ in range(50):
        assert chance.lesson(20, 10.0, 0) is None
        assert chance.lesson(150, 10.0, 0) is None


def test_on_its_way_down_to_a_limit_next_to_nothing_is_let_in() -> None:
    assert verdict(Chance(), 2, 100) is None


def test_many_refusals_are_none_by_chance_whatever_was_before() -> None:
    chance = Chance()
    assert verdict(chance, 20, 7) is not None
    assert not chance.is_assumed(1, often=True)
    assert not chance.is_assumed(2, often=False)


def test_it_is_believed_for_twice_as_long_the_next_time() -> None:
    chance = Chance()
    assert verdict(chance, 20, 7, sent=0) is not None
    assert verdict(chance, 20, 7, sent=1000) is not None
    assert chance.is_assumed(2000, often=False)
    assert not chance.is_assumed(2001, often=False)
