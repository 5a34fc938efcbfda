"""The page and the terminal's histograms: true, whole, and nothing in them that came from outside unescaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.accounting import Quantiles, Totals, Usage, UsageRecord, UsageTracker
from bulkllm.accounting import history as module
from bulkllm.accounting.histogram import bars, quantile_table, sketches
from bulkllm.accounting.history import History
from bulkllm.accounting.page import page
from bulkllm.accounting.report import seconds
from bulkllm.accounting.svg import nice, short
from bulkllm.errors import ConfigError

START = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
VOID = {"meta", "rect", "line", "polygon", "polyline", "circle"}


def call(at: float = 0.0, **more: object) -> UsageRecord:
    fields: dict[str, object] = {
        "model": "openai/gpt-5-mini",
        "provider": "openai",
        "usage": Usage(900, 120),
        "cost": 0.01,
        "latency": 2.0,
        "waited": 1.0,
        "started_at": START + timedelta(seconds=at),
    }
    return UsageRecord(**{**fields, **more})  # type: ignore[arg-type]  # the fields are the class's


class Whole(HTMLParser):
    """Complains of tags that do not fit, and keeps the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.labels: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.labels += [value or "" for name, value in attrs if name == "aria-label"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def shown(records: Sequence[UsageRecord], **more: str) -> str:
    history = History("x")
    for record in records:
        history.add(record)
    return page(history, title=more.get("title", "results.jsonl"))


@pytest.mark.parametrize(
    "records",
    [
        [],
        [call()],
        [call(latency=0.0, waited=0.0, attempts=0, cached=True, cost=0.0, saved=0.02)],
        [call(cost=None, usage=Usage(), outcome="Timeout", charge_unknown=True, uncertain_cost=0.5)],
        [call(number, latency=2.0) for number in range(50)],
        [call(number * 86_400) for number in range(90)],
        [call(0.001 * number, latency=0.0001, waited=0.0, usage=Usage(0, 3)) for number in range(30)],
        [call(time_to_first_token=0.1, latency=1e6), call(latency=1e-6)],
    ],
    ids=["none", "one", "cached", "failed", "alike", "a season", "a moment", "extremes"],
)
def test_a_page_is_whole_and_needs_nothing_from_outside(records: Sequence[UsageRecord]) -> None:
    text = shown(records)
    whole = Whole(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(whole.tags)
    assert not re.search(r"https?:|url\(|@import|src=", text)
    assert "nan" not in text.lower().replace("finan", "")
    assert "inf" not in re.sub(r"[a-z-]*inf[a-z]+", "", text.lower())
    assert f"{len(records):,}" in "".join(whole.text)


def test_every_plot_says_what_it_shows() -> None:
    whole = Whole(shown([call(number, time_to_first_token=0.2) for number in range(50)]))
    plots = [label for label in whole.labels if label != "In short"]
    assert len(plots) == 9
    assert any(label.startswith("Latency. Median 2.0 s") for label in plots)
    assert any(label.startswith("Cost over time. It rises to $0.50") for label in plots)
    assert "prefers-color-scheme:dark" in shown([])


def test_names_from_outside_are_shown_and_never_obeyed() -> None:
    bad = '<script>alert("x")</script>&"\''
    text = shown([call(model=bad, tags={bad: bad}, outcome=bad, provider=bad), call()], title=bad)
    assert "script" not in Whole(text).tags
    assert "<script" not in text
    assert bad in "".join(Whole(text).text)


def test_money_that_is_not_known_is_not_shown_as_nothing() -> None:
    text = "".join(Whole(shown([call(cost=None)])).text)
    assert "unknown" in text
    assert "$0.00" not in text


@given(
    st.lists(
        st.tuples(st.floats(0, 1e7), st.floats(0, 5000), st.floats(0, 5000), st.sampled_from(["ok", "Timeout"])),
        min_size=1,
        max_size=40,
    )
)
def test_along_time_nothing_is_lost_and_stretches_stay_few(calls: list[tuple[float, float, float, str]]) -> None:
    history = History()
    for at, latency, waited, outcome in calls:
        history.add(call(at, latency=latency, waited=waited, outcome=outcome))
    assert sum(one.ok + one.failed for one in history.stretches(5)) == len(calls)
    assert len(history.stretches(5)) <= 5
    found = history.stretches()
    assert len(found) <= module._MOST
    assert all(after.start == before.start + before.seconds for before, after in pairwise(found))
    assert sum(one.ok + one.failed for one in found) == len(calls)
    assert sum(one.cost for one in found) == pytest.approx(0.01 * len(calls))
    assert sum(one.working for one in found) == pytest.approx(sum(call[1] for call in calls), abs=1e-3)
    assert sum(one.waiting for one in found) == pytest.approx(sum(call[2] for call in calls), abs=1e-3)
    assert history.began is not None
    assert history.began <= START + timedelta(seconds=min(call[0] for call in calls))


def test_working_and_waiting_stand_where_they_were() -> None:
    history = History()
    history.add(call(0.0, waited=8.0, latency=0.0))
    history.add(call(0.0, waited=8.0, latency=8.0))
    stretches = history.stretches()
    half = START.timestamp() + 8
    assert all((one.waiting, one.working) == (2 * one.seconds, 0) for one in stretches if one.start < half)
    assert all((one.waiting, one.working) == (0, one.seconds) for one in stretches if half <= one.start < half + 8)


# -- histograms ----------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e9)), max_size=200), st.integers(2, 40))
def test_a_histogram_counts_each_value_once_in_its_place(values: list[float], most: int) -> None:
    sketch = Quantiles()
    for value in values:
        sketch.add(value)
    found = sketch.histogram(most)
    assert len(found) <= most
    assert sum(count for _, _, count in found) == len(values)
    for (_, before, _), (after, _, _) in pairwise([bar for bar in found if bar[1]]):
        assert before == after
    for low, high, count in found:
        inside = sum(low * 0.97 <= value <= high * 1.03 for value in values)
        assert count <= inside


def test_a_histogram_needs_a_bar() -> None:
    with pytest.raises(ConfigError, match="at least one bar"):
        Quantiles().histogram(0)
    assert Quantiles().histogram() == []


@pytest.mark.parametrize("fine", [True, False])
def test_bars_are_as_long_as_their_counts(fine: bool) -> None:
    sketch = Quantiles()
    sketch.add(1.0, 400)
    sketch.add(100.0, 200)
    sketch.add(10_000.0, 1)
    lines = bars(sketch, seconds, fine=fine)
    full = "█" if fine else "#"
    assert [line.count(full) for line in lines if line.endswith(("400", " 200"))] == [40, 20]
    assert lines[-1].endswith(" 1")
    assert lines[-1].count("▏" if fine else ".") >= 1


def test_the_table_of_quantiles_has_what_there_is() -> None:
    tracker = UsageTracker()
    tracker.record(call())
    assert set(sketches(tracker.total)) == {"latency", "input tokens", "output tokens", "cost"}
    assert quantile_table(tracker.total).row_count == 4
    assert sketches(Totals()) == {}


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (950, "950"), (12_345, "12.3 k"), (3.4e6, "3.4 M")])
def test_counts_are_short(number: float, text: str) -> None:
    assert short(number) == text


@given(st.floats(1e-9, 1e12))
def test_a_nice_step_is_a_little_more(number: float) -> None:
    assert number * 0.999 <= nice(number) <= number * 2.6


def test_the_page_says_where_the_time_went_and_what_to_raise() -> None:
    waits = {"rpm of <openai>": 5.0, "retries": 1.0}
    seen = Whole(shown([call(at, waits=waits) for at in range(4)]))
    text = " ".join(seen.text)
    assert "Where the time went" in text
    assert "requests per minute of <openai> 20.0 s 62.5%" in text
    assert "the provider's answers 8.0 s 25.0%" in text
    assert "Most of the time (62%) went on waiting for requests per minute of <openai>" in text
    many = shown([call(waits={f"rpm of m{number}": 30.0 - number for number in range(20)})])
    assert "9 others" in " ".join(Whole(many).text)
