"""Rows that were answered without a ``custom_id`` and have one now: they look new, and are not paid again unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import RunResult, plan, run
from bulkllm.errors import ConfigError


def plain(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"p{number}"} for number in range(start, start + count)]


def named(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"custom_id": f"r{number}", "prompt": f"p{number}"} for number in range(start, start + count)]


def bulk(rows: Any, calls: Any, out: Path, **options: Any) -> RunResult:
    return run(rows, call=calls, output=out, **{"model": "openai/m", "progress": False, **options})


MODELS: list[tuple[Any, Any]] = [
    ("openai/m", "openai/m"),
    (["openai/m", "openai/n"], ["openai/m", "openai/n"]),
    ("openai/m", ["openai/m", "openai/n"]),
    (["openai/m", "openai/n"], "openai/n"),
]


@pytest.mark.parametrize(("first", "then"), MODELS)
@pytest.mark.parametrize("streamed", [False, True])
def test_names_that_were_added_stop_the_run_before_it_pays_again(
    calls: Any, out: Path, first: Any, then: Any, streamed: bool
) -> None:
    bulk(plain(50), calls, out, model=first)
    calls.forget()
    rows = named(50)
    with pytest.raises(ConfigError, match=r"had no custom_id, and are done if it is left out.*--redo-changed"):
        bulk(iter(rows) if streamed else rows, calls, out, model=then)
    assert calls.asked == 0
    assert bulk(plain(50), calls, out, model=first).undone == 0
    assert calls.asked == 0
    assert bulk(rows, calls, out, model=then, redo_changed=True).ok == calls.asked > 0


def test_equal_rows_count_as_often_as_they_were_answered(calls: Any, out: Path) -> None:
    bulk([{"prompt": "same"}] * 3 + plain(297), calls, out)
    calls.forget()
    more = [{"custom_id": f"s{number}", "prompt": "same"} for number in range(50)]
    assert bulk(more, calls, out).ok == calls.asked == 50  # three of them were answered: one in a hundred
    with pytest.raises(ConfigError, match="4 of the 350 finished rows"):
        bulk([*more, *named(4)], calls, out)


def test_a_plan_tells_of_them(calls: Any, out: Path) -> None:
    bulk(plain(5), calls, out)
    found = plan(named(7), model="openai/m", output=out)
    assert (found.to_ask, found.changed) == (7, 5)


def test_rows_of_another_input_are_no_change(calls: Any, out: Path) -> None:
    bulk(plain(20), calls, out)
    assert bulk(named(20, start=20), calls, out).ok == 20
    assert bulk([*plain(20), *named(20, start=20), *named(5, start=40)], calls, out).skipped == 40
    both = [*plain(20), {"custom_id": "twice", "prompt": "p0"}]  # the row without a name is there, too
    assert bulk(both, calls, out).ok == 21


def test_a_row_that_was_asked_in_another_way_is_not_missed(calls: Any, out: Path) -> None:
    bulk(plain(20), calls, out)
    assert bulk(named(20), calls, out, temperature=1).ok == 20
