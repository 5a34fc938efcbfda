from __future__ import annotations

import gc
import json
import logging
import math
import pickle
import random
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.accounting import Totals, Usage, UsageRecord, UsageTracker
from bulkllm.accounting.tracker import MAX_GROUPS, OTHER, UNKNOWN
from bulkllm.errors import ConfigError

MINI, SONNET = "openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"


def call(model: str = MINI, **fields: Any) -> UsageRecord:
    fields.setdefault("provider", model.partition("/")[0])
    return UsageRecord(model=model, **fields)


def tracker_of(records: list[UsageRecord], name: str | None = None) -> UsageTracker:
    tracker = UsageTracker(name)
    for record in records:
        tracker.record(record)
    return tracker


money = st.floats(1e-12, 1e4)
records = st.builds(
    UsageRecord,
    model=st.sampled_from([MINI, SONNET, "ollama/llama3"]),
    provider=st.sampled_from([None, "openai", "anthropic"]),
    outcome=st.sampled_from(["ok", "ok", "cancelled", "RateLimitError", "Timeout"]),
    usage=st.builds(
        Usage,
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.integers(0, 99),
        reasoning_tokens=st.integers(0, 9),
        rejected_prediction_tokens=st.integers(0, 1),
        contradictory=st.booleans(),
    ),
    cost=st.none() | st.just(0.0) | money,
    cached=st.booleans(),
    saved=st.none() | money,
    latency=st.floats(1e-3, 1e3),
    time_to_first_token=st.none() | st.floats(1e-3, 1e3),
    waited=st.just(0.0) | st.floats(1e-6, 1e3),
    attempts=st.integers(0, 4),
    refused=st.integers(0, 4),
    tags=st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"])),
    estimated=st.booleans(),
    charge_unknown=st.booleans(),
    uncertain_cost=st.none() | st.just(0.0) | money,
    uncertain_tokens=st.integers(0, 10**6),
)


def test_refusals_and_uncertain_charges_add_up() -> None:
    tracker = UsageTracker()
    for refused, uncertain in ((2, 0.25), (0, None), (3, 0.5)):
        lost = {"charge_unknown": True, "uncertain_cost": uncertain, "uncertain_tokens": 40}
        tracker.record(UsageRecord(model=MINI, refused=refused, **lost))  # type: ignore[arg-type]
    total = tracker.total
    assert (total.refused, total.charge_unknown, total.uncertain_cost, total.uncertain_tokens) == (5, 3, 0.75, 120)
    told = total.to_dict()
    assert (told["refused"], told["uncertain_cost"], told["uncertain_tokens"]) == (5, 0.75, 120)
    assert UsageTracker.from_dict(tracker.to_dict()).total == total


def test_a_new_tracker_has_counted_nothing() -> None:
    tracker = UsageTracker()
    assert tracker.total == Totals()
    assert (tracker.total.requests, tracker.total.cost, tracker.total.latency.p50) == (0, 0.0, None)
    assert tracker.by_model == tracker.by_tag == tracker.by_outcome == tracker.by_provider == {}


def test_each_call_is_counted_as_what_it_was() -> None:
    tracker = tracker_of(
        [
            call(usage=Usage(100, 50, 20, 10, 5), cost=0.5, latency=2.0, waited=1.5, attempts=2),
            call(cached=True, cost=0.0, saved=0.25, attempts=0, usage=Usage(100, 50)),
            call(cost=None, usage=Usage(7, 3), estimated=True, latency=4.0, time_to_first_token=0.5),
            call(SONNET, outcome="RateLimitError", cost=0.0, attempts=4, latency=0.1),
            call(SONNET, outcome="cancelled", cost=None, charge_unknown=True, latency=9.0),
        ]
    )
    total = tracker.total
    assert (total.requests, total.ok, total.failed, total.cancelled) == (5, 3, 1, 1)
    assert (total.cached, total.unpriced, total.estimated, total.charge_unknown) == (1, 2, 1, 1)
    assert (total.attempts, total.cost, total.saved, total.waited) == (8, 0.5, 0.25, 1.5)
    assert (total.input_tokens, total.output_tokens, total.total_tokens) == (207, 103, 310)
    assert (total.cache_read_tokens, total.cache_write_tokens, total.reasoning_tokens) == (20, 10, 5)
    assert total.usage == Usage(207, 103, 20, 10, 5)
    # A cached call has no latency; the failed and the cancelled one do.
    assert (total.latency.count, total.latency.min, total.latency.max) == (4, 0.1, 9.0)
    assert (total.time_to_first_token.count, total.time_to_first_token.p50) == (1, 0.5)
    assert (total.input_per_call.count, total.input_per_call.max) == (2, 100)
    assert (total.output_per_call.count, total.output_per_call.max) == (2, 50)
    assert (total.cost_per_call.count, total.cost_per_call.p50) == (1, 0.5)
    assert set(tracker.by_model) == {MINI, SONNET}
    assert (tracker.by_model[MINI].requests, tracker.by_model[SONNET].requests) == (3, 2)
    assert tracker.by_model[SONNET].latency.p95 == pytest.approx(0.1, rel=0.011)
    assert {name: group.requests for name, group in tracker.by_outcome.items()} == {
        "ok": 3,
        "RateLimitError": 1,
        "cancelled": 1,
    }
    assert {name: group.attempts for name, group in tracker.by_provider.items()} == {"openai": 3, "anthropic": 5}


def test_a_call_that_was_never_sent_has_no_latency() -> None:
    total = tracker_of([call(outcome="LimitTimeout", attempts=0, waited=30.0)]).total
    assert (total.failed, total.latency.count, total.waited) == (1, 0, 30.0)


def test_tags_are_counted_by_name_and_value() -> None:
    tracker = tracker_of(
        [
            call(tags={"experiment": "a", "split": "test"}, cost=1.0),
            call(tags={"experiment": "b"}, cost=2.0),
            call(cost=4.0),
        ]
    )
    assert {name: group.cost for name, group in tracker.by_tag.items()} == {
        "experiment=a": 1.0,
        "split=test": 1.0,
        "experiment=b": 2.0,
    }
    assert tracker.total.cost == 7.0


def test_a_call_without_a_provider_is_counted_as_unknown() -> None:
    assert set(tracker_of([call(provider=None)]).by_provider) == {UNKNOWN}


def test_every_token_part_is_summed() -> None:
    usage = Usage(*range(100, 111), contradictory=True)  # type: ignore[misc]  # eleven numbers
    total = tracker_of([call(usage=usage), call(usage=usage), call()]).total
    assert total.usage == usage + usage
    assert total.contradictory == 2


def test_what_was_read_does_not_change_any_more() -> None:
    tracker = tracker_of([call(cost=1.0)])
    total, by_model, by_tag = tracker.total, tracker.by_model, tracker.by_tag
    tracker.record(call(cost=1.0, tags={"a": "b"}))
    assert (total.requests, total.latency.count, by_model[MINI].requests, len(by_tag)) == (1, 1, 1, 0)


@pytest.fixture
def quick_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


# Exact sums


def test_a_million_small_costs_add_up_to_the_last_digit() -> None:
    total = Totals()
    for _ in range(200_000):
        total._add(call_of_a_tenth)
    assert total.cost == 20_000.0
    assert total.waited == 20_000.0
    plain = 0.0
    for _ in range(200_000):
        plain += 0.1
    assert plain != 20_000.0, "nothing had to be compensated: the test shows nothing"


call_of_a_tenth = call(cost=0.1, waited=0.1)


@given(st.lists(money, max_size=100), st.randoms())
def test_the_sum_of_costs_is_exact_in_any_order(costs: list[float], chance: random.Random) -> None:
    forwards = tracker_of([call(cost=cost, waited=cost, latency=cost) for cost in costs]).total
    chance.shuffle(costs)
    shuffled = tracker_of([call(cost=cost, waited=cost, latency=cost) for cost in costs]).total
    assert forwards.cost == shuffled.cost == pytest.approx(math.fsum(costs), rel=1e-15)
    assert forwards == shuffled


# Combining


@given(st.lists(records, max_size=30), st.lists(st.integers(0, 2), min_size=30, max_size=30))
def test_merging_trackers_is_one_tracker_over_all(calls: list[UsageRecord], dealt: list[int]) -> None:
    parts = [UsageTracker() for _ in range(3)]
    for record, hand in zip(calls, dealt, strict=False):
        parts[hand].record(record)
    merged = UsageTracker()
    for part in parts:
        merged.merge(part)
    one = tracker_of(calls)
    assert merged.total == one.total
    assert (merged.by_model, merged.by_provider) == (one.by_model, one.by_provider)
    assert (merged.by_outcome, merged.by_tag) == (one.by_outcome, one.by_tag)
    for groups in (one.by_model, one.by_provider, one.by_outcome):
        whole = Totals()
        for group in groups.values():
            whole._merge(group)
        assert whole == one.total


@given(st.lists(records, max_size=20), st.lists(records, max_size=20))
def test_a_diff_counts_what_came_after_the_snapshot(before: list[UsageRecord], after: list[UsageRecord]) -> None:
    tracker = tracker_of(before)
    earlier = tracker.snapshot()
    for record in after:
        tracker.record(record)
    diff, fresh = tracker.diff(earlier), tracker_of(after)
    assert summed(diff.total) == summed(fresh.total)
    assert {name: summed(group) for name, group in diff.by_model.items()} == {
        name: summed(group) for name, group in fresh.by_model.items()
    }
    assert set(diff.by_tag) == set(fresh.by_tag)
    assert diff.total.latency.p50 == (
        pytest.approx(fresh.total.latency.p50, rel=0.021) if fresh.total.latency.count else None
    )


def summed(totals: Totals) -> dict[str, Any]:
    return {name: value for name, value in totals.to_dict().items() if not isinstance(value, dict)}


def test_a_snapshot_is_of_its_own() -> None:
    tracker = tracker_of([call()], "mine")
    twin = tracker.snapshot()
    tracker.record(call())
    twin.record(call(SONNET))
    assert twin.name == "mine"
    assert (set(tracker.by_model), tracker.total.requests) == ({MINI}, 2)
    assert (set(twin.by_model), twin.total.requests) == ({MINI, SONNET}, 2)


def test_merging_leaves_the_other_as_it_was() -> None:
    mine, other = tracker_of([call()]), tracker_of([call()])
    mine.merge(other)
    mine.record(call())
    assert (mine.total.requests, other.total.requests) == (3, 1)


def test_merging_takes_the_others_lock_so_that_it_reads_no_half_counted_call() -> None:
    mine, other = tracker_of([call()]), tracker_of([call()])
    thread = threading.Thread(target=mine.merge, args=(other,))
    with other._mailbox:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(20)
    assert mine.total.requests == 2


def test_two_trackers_merged_into_each_other_at_once_do_not_deadlock(quick_switches: None) -> None:
    one, two, done = UsageTracker(), UsageTracker(), threading.Barrier(3)

    def merge(mine: UsageTracker, other: UsageTracker) -> None:
        for _ in range(50):
            mine.merge(other)
        done.wait(20)

    for pair in ((one, two), (two, one)):
        threading.Thread(target=merge, args=pair, daemon=True).start()
    done.wait(20)
    assert one.total.requests == 0


def test_a_tracker_is_not_merged_into_itself() -> None:
    tracker = UsageTracker()
    with pytest.raises(ConfigError, match="twice"):
        tracker.merge(tracker)


@pytest.mark.parametrize("earlier", [[call(SONNET)], [call(), call()], [call(tags={"a": "b"})]])
def test_a_diff_takes_an_earlier_state_only(earlier: list[UsageRecord]) -> None:
    with pytest.raises(ConfigError, match=r"earlier|lacks"):
        tracker_of([call()]).diff(tracker_of(earlier))


# Handing on


@given(st.lists(records, max_size=15))
def test_json_goes_both_ways_and_the_tracker_goes_on(calls: list[UsageRecord]) -> None:
    tracker = tracker_of(calls, "mine")
    back = UsageTracker.from_dict(json.loads(tracker.to_json()))
    assert back.name == "mine"
    assert back.to_dict() == tracker.to_dict()
    back.record(call(SONNET))
    assert back.total.requests == len(calls) + 1


def test_a_tracker_can_be_sent_to_another_process() -> None:
    tracker = tracker_of([call(cost=0.5, tags={"a": "b"})], "mine")
    back = pickle.loads(pickle.dumps(tracker))  # noqa: S301 - our own bytes
    assert back.to_dict() == tracker.to_dict()


def test_the_dict_is_for_readers() -> None:
    told = tracker_of([call(cost=0.5, latency=2.0, tags={"a": "b"})]).to_dict()
    assert told["total"]["requests"] == 1
    assert told["by_model"][MINI]["cost"] == 0.5
    assert told["by_tag"]["a=b"]["latency"]["p95"] == 2.0
    assert told["by_outcome"]["ok"]["total_tokens"] == 0
    assert told["by_provider"]["openai"]["attempts"] == 1


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"version": 2},
        {"version": 1},
        {"version": 1, "state": {"cells": [["m"]], "tags": {}}},
        {
            "version": 1,
            "state": {"cells": [["m", "p", "ok", {"cost": "dear", "saved": "0", "waited": "0"}]], "tags": {}},
        },
        {"version": 1, "state": {"cells": [], "tags": []}},
    ],
)
def test_what_is_no_tracker_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"not a usage tracker|not the totals"):
        UsageTracker.from_dict(broken)


def test_there_are_four_breakdowns() -> None:
    with pytest.raises(ConfigError, match="colour"):
        UsageTracker().groups("colour")  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_frame_has_a_row_a_group(package: str) -> None:
    pytest.importorskip(package)
    tracker = tracker_of([call(cost=0.5, latency=2.0), call(SONNET, cost=None), call(SONNET, cached=True, attempts=0)])
    frame = getattr(tracker, f"to_{package}")()
    rows = frame.to_dict("records") if package == "pandas" else frame.to_dicts()
    by_name = {row["model"]: row for row in rows}
    assert set(by_name) == {MINI, SONNET}
    assert by_name[MINI]["cost"] == 0.5
    assert by_name[MINI]["latency_p95"] == 2.0
    assert (by_name[SONNET]["requests"], by_name[SONNET]["unpriced"]) == (2, 2)
    assert len(getattr(tracker, f"to_{package}")(by="tag")) == 0


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        getattr(UsageTracker(), f"to_{package}")()


# Constant memory, and what cannot be counted


def test_too_many_tags_are_lumped_together_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    tracker = UsageTracker("mine")
    with caplog.at_level(logging.WARNING):
        for number in range(MAX_GROUPS + 50):
            tracker.record(call(tags={"row": str(number), "of": "one"}, cost=1.0))
    by_tag = tracker.by_tag
    assert len(by_tag) == MAX_GROUPS + 1
    assert by_tag["of=one"].requests == MAX_GROUPS + 50
    assert by_tag[OTHER].cost == 51.0
    assert len(caplog.records) == 1
    assert "mine" in caplog.text
    assert tracker.total.requests == MAX_GROUPS + 50


def test_a_call_is_counted_once_among_the_other_tags() -> None:
    tracker = tracker_of([call(tags={"row": str(number)}) for number in range(MAX_GROUPS)])
    tracker.record(call(tags={"x": "1", "y": "2"}))
    assert tracker.by_tag[OTHER].requests == 1


def test_too_many_models_are_lumped_together_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    tracker = UsageTracker()
    with caplog.at_level(logging.WARNING):
        for number in range(MAX_GROUPS + 30):
            outcome = ("ok", "cancelled", f"Error{number}")[number % 3]
            tracker.record(call(f"acme/m{number}", outcome=outcome))
    assert len(caplog.records) == 1
    assert len(tracker._cells) <= MAX_GROUPS + 3
    total = tracker.total
    assert (total.requests, total.ok + total.failed + total.cancelled) == (MAX_GROUPS + 30,) * 2
    assert tracker.by_outcome["ok"].requests == total.ok
    assert tracker.by_model[OTHER].requests == 30


def test_memory_is_flat_however_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = UsageTracker()
    made = [call(cost=1.07**step, latency=1.05**step, usage=Usage(step, step)) for step in range(300)]
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(3):
            for _ in range(20):
                for record in made:
                    tracker.record(record)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert tracker.total.requests == 18_000
    assert sizes[2] - sizes[0] < 10_000


IMPOSSIBLE: list[dict[str, Any]] = [
    {"latency": math.nan},
    {"latency": -1.0},
    {"waited": math.inf},
    {"time_to_first_token": -0.5},
    {"saved": math.nan, "cached": True},
    {"attempts": -3},
    {"usage": Usage(-5, 3)},
    {"usage": Usage(5, -3)},
    {"waited": None},
    {"latency": "2"},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_numbers_do_not_raise_and_spoil_nothing(
    wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = UsageTracker()
    with caplog.at_level(logging.WARNING):
        tracker.record(call(**{"cost": 0.5, **wrong}))
        tracker.record(call(cost=0.5, latency=1.0))
    total = tracker.total
    assert (total.requests, total.cost) == (2, 1.0)
    assert 0 <= total.waited < math.inf
    assert "impossible" in caplog.text
    assert json.loads(tracker.to_json())["total"]["requests"] == 2


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1.0, Decimal("0.5"), "0.5", 1e300])
def test_an_impossible_cost_is_unknown(cost: Any) -> None:
    total = tracker_of([call(cost=cost)]).total
    assert (total.requests, total.unpriced, total.cost) == (1, 1, 0.0)


@pytest.mark.parametrize("wrong", [None, 7, call(usage=None), call(tags=5), call(outcome=[])])
def test_what_is_no_record_is_logged_and_not_counted(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    tracker = UsageTracker()
    with caplog.at_level(logging.WARNING):
        tracker.record(wrong)
    tracker.record(call())
    assert "not counted" in caplog.text
    assert tracker.total.requests == 1


# Threads and finalisers


def test_threads_hammering_one_tracker_add_up(quick_switches: None) -> None:
    tracker, stop = UsageTracker(), threading.Event()
    record = call(cost=0.1, usage=Usage(3, 2), tags={"a": "b"}, latency=1.0, waited=0.25)

    def hammer() -> None:
        for _ in range(2_000):
            tracker.record(record)

    def read() -> None:
        while not stop.is_set():
            total = tracker.total
            assert total.input_tokens == 3 * total.requests
            assert total.latency.count == total.requests

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    total = tracker.total
    assert (total.requests, total.output_tokens, total.latency.count) == (16_000, 32_000, 16_000)
    assert (total.cost, total.waited) == (1600.0, 4000.0)
    assert tracker.by_tag["a=b"] == total


class Dropped:
    """Something with a reference cycle that records when the garbage collector finds it."""

    def __init__(self, tracker: UsageTracker, record: UsageRecord) -> None:
        self.tracker, self.record, self.me = tracker, record, self

    def __del__(self) -> None:
        self.tracker.record(self.record)


def test_a_finaliser_may_record_while_its_own_thread_holds_the_tracker() -> None:
    tracker = UsageTracker()
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            Dropped(tracker, call(cost=0.5))
        done = threading.Event()

        def hold_and_collect() -> None:
            with tracker._mailbox:
                assert not tracker._cells
                gc.collect()
                assert not tracker._cells  # posted, not waited for
            done.set()

        thread = threading.Thread(target=hold_and_collect, daemon=True)
        thread.start()
        assert done.wait(20), "deadlock"
    finally:
        gc.enable()
    assert (tracker.total.requests, tracker.total.cost) == (50, 25.0)


def test_the_garbage_collector_at_its_worst_moment_loses_nothing() -> None:
    """Collections at nearly every allocation, so that finalisers run in the middle of counting and of reading."""
    tracker = UsageTracker()
    done = threading.Event()

    def work() -> None:
        for number in range(300):
            Dropped(tracker, call(tags={"row": str(number % 7)}))
            tracker.record(call(f"acme/m{number % 40}"))
            if number % 20 == 0:
                assert tracker.total.requests >= number
        done.set()

    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert done.wait(60), "deadlock"
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert tracker.total.requests == 600


def test_recording_does_not_wait_for_a_reader() -> None:
    tracker = UsageTracker()
    with tracker._mailbox:
        thread = threading.Thread(target=tracker.record, args=(call(),))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert tracker.total.requests == 1


def test_a_trackers_name_shows() -> None:
    assert repr(UsageTracker("mine")) == "UsageTracker('mine')"
    assert "requests=1" in repr(tracker_of([call()]).total)
