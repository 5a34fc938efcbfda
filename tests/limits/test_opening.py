from __future__ import annotations

import pytest

from bulkllm.limits.opening import Opening


def times(opening: Opening, number: int) -> list[float]:
    """When so many go if all of them wait, and none comes back."""
    gone = []
    for under_way in range(number):
        gone.append(opening.ready_at(under_way))
        opening.took(max(0.0, gone[-1]))
    return gone


def test_a_run_starts_with_some_hundred_a_second_and_twice_as_many_each_second() -> None:
    gone = times(Opening(), 4000)
    assert [sum(second <= at < second + 1 for at in gone) for second in range(3)] == [480, 960, 1920]
    assert sum(at < 0.3 for at in gone) == pytest.approx(119, abs=5), "a wave of requests is spread over 0.3 s"


def test_who_asks_for_one_thing_after_the_other_is_not_held_back() -> None:
    opening = Opening()
    for _ in range(1000):
        assert opening.ready_at(7) <= 0.0
        opening.took(0.0)


def test_one_goes_and_then_twice_as_many_in_each_span_in_which_a_refusal_comes_back() -> None:
    opening = Opening()
    opening.heard_after(0.5)
    opening.close(100.0)
    gone = times(opening, 64)
    assert gone[0] == 100.0
    assert [sum(100.0 + 0.5 * lap <= at < 100.5 + 0.5 * lap for at in gone) for lap in range(5)] == [1, 2, 4, 8, 16]


def test_it_is_told_apart_whether_it_only_starts_or_opens_after_a_refusal() -> None:
    opening = Opening()
    assert not opening.is_starting(0)
    for _ in range(60):
        opening.took(0.0)
    assert not opening.is_starting(7), "so few may go at once"
    assert opening.is_starting(60)
    opening.close(0.01)
    assert opening.is_starting(60), "the start holds it up for longer"
    opening.close(5.0)
    assert not opening.is_starting(60)


def test_it_begins_with_one_whenever_that_one_comes() -> None:
    opening = Opening()
    opening.close(100.0)
    opening.took(250.0)
    assert opening.ready_at(0) > 250.0


def test_after_ten_doublings_it_is_wide_open() -> None:
    opening = Opening()
    opening.took(0.0)
    opening.close(100.0)
    opening.took(100.0)
    opening.took(100.0 + 11 * opening.lap)
    assert times(opening, 10_000) == [100.0] * 10_000


def test_an_earlier_end_changes_nothing_and_begins_anew() -> None:
    opening = Opening()
    opening.close(100.0)
    times(opening, 8)
    opening.close(90.0)
    assert opening.ready_at(0) == 100.0


def test_what_was_given_back_tried_nothing() -> None:
    opening = Opening()
    opening.close(100.0)
    opening.took(100.0)
    opening.gave_back()
    assert opening.ready_at(0) == 100.0


@pytest.mark.parametrize(("seconds", "lap"), [(-5.0, 0.09), (0.5, 0.5), (1e9, 2.0)])
def test_however_long_a_refusal_took_the_steps_stay_within_bounds(seconds: float, lap: float) -> None:
    opening = Opening()
    opening.heard_after(seconds)
    assert opening.lap == pytest.approx(lap)
