from __future__ import annotations

import io
from typing import Any

import pytest

from bulkllm.bulk import Progress
from bulkllm.bulk.progress import Hook, PlainLines, Silence, Speed, Terminal, display_for, money, short, span
from bulkllm.errors import ConfigError
from bulkllm.testing import FakeClock


def progress(**changes: Any) -> Progress:
    told: dict[str, Any] = {
        "total": 200, "ok": 90, "failed": 10, "skipped": 40, "in_flight": 8, "tokens": 5000, "cost": 0.25,
        "unpriced": 0, "rows_per_second": 2.0, "tokens_per_minute": 12_000.0, "seconds_left": 50.0, "elapsed": 30.0,
        "failures": {"Timeout": 3, "BadRequestError": 7},
    }  # fmt: skip
    return Progress(**{**told, **changes})


def test_a_snapshot_reads_as_a_line() -> None:
    assert str(progress()) == (
        "100/200 rows (50 %), 40 done before, 10 failed, 2.0 rows/s, 12k tokens/min, $0.2500, 50 s left"
    )
    assert str(progress(total=None, failed=0, skipped=0, seconds_left=None)) == (
        "90 rows, none failed, 2.0 rows/s, 12k tokens/min, $0.2500"
    )


def test_plain_lines_come_now_and_then() -> None:
    clock, stream = FakeClock(), io.StringIO()
    lines = PlainLines(stream, clock=clock, every=10)
    for _ in range(35):
        clock.advance(1)
        lines.show(progress())
    assert stream.getvalue().count("\n") == 3
    assert stream.getvalue().startswith("bulkllm: 100/200 rows")


def test_the_last_lines_tell_the_failures_and_what_was_stopped() -> None:
    stream = io.StringIO()
    PlainLines(stream, clock=FakeClock()).end(progress(stopped="m was stopped: check the key"))
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("in 30 s")
    assert others == [
        "bulkllm:   7 x BadRequestError",
        "bulkllm:   3 x Timeout",
        "bulkllm: m was stopped: check the key",
    ]


def test_speeds_are_those_of_the_last_half_minute() -> None:
    clock = FakeClock()
    speed = Speed(clock)
    assert speed.measure(0, 0) == (0.0, 0.0, 0.0)
    rows = tokens = 0
    last = (0.0, 0.0, 0.0)
    for second in range(1, 121):
        clock.advance(1)
        rows += 10 if second <= 60 else 2
        tokens += 100
        last = speed.measure(rows, tokens)
    elapsed, per_second, per_minute = last
    assert elapsed == 120
    assert per_second == pytest.approx(2)
    assert per_minute == pytest.approx(6000)


def test_where_progress_goes() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(display_for(False), Silence)
    assert isinstance(display_for(print), Hook)
    assert isinstance(display_for(True, io.StringIO()), PlainLines)
    screen = Screen()
    terminal = display_for(True, screen)
    assert isinstance(terminal, Terminal)
    terminal.show(progress(total=None))
    terminal.say("[bold]a note[/bold]")
    terminal.close()
    terminal.end(progress())
    shown = screen.getvalue()
    assert "90" in shown
    assert "[bold]a note[/bold]" in shown
    assert "100/200 rows" in shown
    with pytest.raises(ConfigError, match="progress="):
        display_for("yes")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1500, "1.5k"), (15_000, "15k"), (2_500_000, "2.5M"), (3e9, "3.0G")]
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")]
)
def test_times_are_words(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("cost", "unpriced", "text"),
    [
        (0.0, 0, "$0.0000"),
        (1234.5, 0, "$1,234.50"),
        (0.0, 3, "price unknown"),
        (0.5, 3, "$0.5000 and 3 rows of unknown price"),
    ],
)
def test_an_unknown_price_is_never_nothing(cost: float, unpriced: int, text: str) -> None:
    assert money(cost, unpriced) == text
