from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from bulkllm.accounting import Usage, UsageRecord, UsageTracker
from bulkllm.accounting.report import dollars, seconds
from bulkllm.errors import ConfigError


def counted(name: str | None = "eval-7") -> UsageTracker:
    tracker = UsageTracker(name)
    for cost in (0.25, 1.0, None):
        usage = Usage(1000, 200)
        tracker.record(
            UsageRecord(
                model="openai/gpt-5-mini", cost=cost, usage=usage, latency=2.0, waited=60.0, tags={"split": "test"}
            )
        )
    tracker.record(UsageRecord(model="acme/unpriced", usage=Usage(5, 5), latency=0.25))
    tracker.record(UsageRecord(model="openai/gpt-5-mini", cost=0.0, cached=True, attempts=0))
    tracker.record(UsageRecord(model="openai/gpt-5-mini", cost=0.0, outcome="RateLimitError", latency=0.01))
    tracker.record(UsageRecord(model="openai/gpt-5-mini", outcome="cancelled", latency=2.0))
    return tracker


def printed(renderable: object, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return out.getvalue()


HEADER = ["requests", "tokens", "cost", "latency", "waited"]
MINI = [
    "6\n4 ok\n1 failed\n1 cancelled\n1 cached",
    "3,000 in\n600 out",
    "$1.25\n+2 unpriced",
    "p50 2.0 s\np95 2.0 s",
    "180.0 s",
]
UNPRICED = ["1", "5 in\n5 out", "unknown\n1 unpriced", "p50 250 ms\np95 250 ms", "0 s"]
TOTAL = [
    "7\n5 ok\n1 failed\n1 cancelled\n1 cached",
    "3,005 in\n605 out",
    "$1.25\n+3 unpriced",
    "p50 2.0 s\np95 2.0 s",
    "180.0 s",
]


def lines_of(name: str, cells: list[str]) -> list[list[str]]:
    """The lines of a row, each as what it says in order."""
    columns = [cell.split("\n") for cell in (name, *cells)]
    return [[column[line] for column in columns if line < len(column)] for line in range(max(map(len, columns)))]


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_has_a_row_a_model_and_the_total(width: int) -> None:
    lines = [re.split(r"\s{2,}", line.strip()) for line in printed(counted().report(), width).splitlines()]
    told = [line for line in lines[1:] if len(line[0]) > 1 and "─" not in line[0]]
    assert told == [
        ["model", *HEADER],
        *lines_of("acme/unpriced", UNPRICED),
        *lines_of("openai/gpt-5-mini", MINI),
        *lines_of("total", TOTAL),
    ]


def test_columns_that_would_hold_only_zeros_are_left_out() -> None:
    tracker = UsageTracker()
    tracker.record(UsageRecord(model="m", cost=0.5, latency=1.0))
    text = printed(tracker.report())
    assert "requests" in text
    assert "p95 1.0 s" in text
    assert not re.findall(r"\b(ok|failed|cancelled|cached|waited|total|unpriced)\b", text)


def test_the_table_is_named_and_can_be_by_something_else() -> None:
    assert "usage of eval-7" in printed(counted().report()).splitlines()[0]
    assert re.search(r"split=test +3 ", printed(counted().report(by="tag")))
    with pytest.raises(ConfigError, match="colour"):
        counted().report(by="colour")  # type: ignore[arg-type]  # the point of the test


def test_an_empty_tracker_has_a_table_too() -> None:
    assert re.search(r"total +0 +0 in", printed(UsageTracker().report()))
    assert "<td" not in UsageTracker()._repr_html_()


def test_names_are_shown_as_they_are_and_not_as_markup() -> None:
    tracker = UsageTracker("[red]x[/]")
    tracker.record(UsageRecord(model="acme/[bold]m"))
    assert "acme/[bold]m" in printed(tracker.report())
    assert "[red]x[/]" in printed(tracker.report()).splitlines()[0]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1].append(data)


def test_the_html_says_the_same_and_stands_alone() -> None:
    reader = Reader()
    reader.feed(counted()._repr_html_())
    assert not reader.open
    assert set(reader.tags) == {"table", "caption", "tr", "th", "td"}
    assert {row[0]: row[1:] for row in reader.rows} == {
        "model": HEADER,
        "openai/gpt-5-mini": MINI,
        "acme/unpriced": UNPRICED,
        "total": TOTAL,
    }


def test_the_html_escapes_what_came_from_outside() -> None:
    tracker = UsageTracker("<script>alert(1)</script>")
    tracker.record(UsageRecord(model='acme/"><img src=x>'))
    reader = Reader()
    reader.feed(tracker._repr_html_())
    assert set(reader.tags) == {"table", "caption", "tr", "th", "td"}
    assert reader.rows[1][0] == 'acme/"><img src=x>'


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0.0, "$0.00"),
        (1234.5, "$1,234.50"),
        (1.0, "$1.00"),
        (0.99, "$0.99"),
        (0.10, "$0.10"),
        (0.0123, "$0.012"),
        (0.000045, "$0.000045"),
        (1.36e-5, "$0.000014"),
    ],
)
def test_money_is_shown_to_the_cent_or_to_two_figures(amount: float, text: str) -> None:
    assert dollars(amount) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [(None, "-"), (0.0, "0 s"), (0.0123, "12.3 ms"), (0.25, "250 ms"), (2.04, "2.0 s"), (3599.0, "3,599.0 s")],
)
def test_times_are_shown_in_their_own_unit(duration: float | None, text: str) -> None:
    assert seconds(duration) == text
    assert seconds(7200.0) == "2.0 h"
