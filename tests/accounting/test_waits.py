"""What calls waited for, added up: exact, bounded, and the same whichever way it is handed on."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkllm.accounting import JSONLSink, SQLiteSink, Totals, UsageRecord, UsageTracker, read_records
from bulkllm.accounting.totals import MAX_REASONS
from bulkllm.accounting.tracker import rows
from bulkllm.errors import ConfigError

MINI = "openai/gpt-5-mini"
RPM, TPM = "rpm of openai/*", "tpm of openai/*"


def counted(*records: UsageRecord) -> UsageTracker:
    tracker = UsageTracker()
    for record in records:
        tracker.record(record)
    return tracker


def waited(model: str, **more: float) -> UsageRecord:
    return UsageRecord(model=model, provider="openai", cost=0.0, latency=1.0, waits=more)


def test_waits_are_added_up_by_what_for_and_by_model() -> None:
    tracker = counted(
        waited("a", **{RPM: 2.0, "retries": 1.0}), waited("a", **{RPM: 3.0}), waited("b", **{TPM: 4.0}), waited("b")
    )
    assert tracker.total.waits == {RPM: 5.0, TPM: 4.0, "retries": 1.0}
    assert tracker.by_model["a"].waits == {RPM: 5.0, "retries": 1.0}
    assert tracker.by_model["b"].waits == {TPM: 4.0}
    shares = tracker.total.shares
    assert list(shares) == [RPM, "provider", TPM, "retries"]
    assert shares[RPM] == pytest.approx(5 / 14)
    assert tracker.total.advice[0].startswith("The largest part of the time (36%) went on waiting for requests per ")
    assert UsageTracker().total.shares == {}
    assert UsageTracker().total.advice == []


def test_a_slow_start_is_no_refusal_and_nothing_is_to_be_raised() -> None:
    (told,) = counted(waited("a", **{"start of a": 9.0})).total.advice
    assert told.startswith("Most of the time (90%) went on waiting for the start, when few go at once ")
    assert "nothing is to be raised" in told
    assert "429" not in told


def test_waiting_that_no_record_explains_is_for_limits_all_the_same() -> None:
    """Records of an earlier version say how long they waited, and not what for."""
    old = UsageRecord(model="m", cost=0.0, latency=1.0, waited=4.0)
    new = UsageRecord(model="m", cost=0.0, latency=1.0, waited=2.001, waits={RPM: 2.0, "retries": 2.0})
    tracker = counted(old, new)
    assert tracker.total.shares == pytest.approx({"limits": 0.4, RPM: 0.2, "provider": 0.2, "retries": 0.2}, abs=1e-3)
    assert "limits" not in counted(new).total.shares, "what taking a free place takes is no waiting"
    assert tracker.total.advice[0].startswith("The largest part of the time (40%) went on waiting for limits: ")


def test_a_cache_hit_that_waited_for_another_call_took_no_time_of_the_provider() -> None:
    record = UsageRecord(model="m", cached=True, attempts=0, cost=0.0, waits={"identical call": 2.0})
    assert counted(record).total.shares == {"identical call": 1.0}


reasons = st.builds("{} of {}".format, st.sampled_from(["rpm", "tpm", "closed", "odd"]), st.integers(0, 40).map(str))
records = st.lists(
    st.builds(
        lambda model, waits: UsageRecord(model=model, cost=0.0, waits=waits),
        st.sampled_from("abc"),
        st.dictionaries(reasons, st.floats(0, 1e6), max_size=4),
    ),
    max_size=60,
)


def kinds(totals: Totals) -> dict[str, float]:
    found: dict[str, float] = {}
    for reason, amount in totals._waits.items():
        kind = reason.partition(" ")[0].replace("(other)", "odd")
        found[kind] = found.get(kind, 0) + amount
    return {kind: amount for kind, amount in found.items() if amount}


@settings(deadline=None)  # the machine may be busy
@given(records, st.integers(0, 60))
def test_however_they_are_merged_no_second_is_lost_and_its_kind_is_kept(made: list[UsageRecord], cut: int) -> None:
    whole, first, second = counted(*made), counted(*made[:cut]), counted(*made[cut:])
    first.merge(second)
    again = UsageTracker.from_dict(json.loads(json.dumps(first.to_dict())))
    expected: dict[str, int] = {}
    for record in made:
        for reason, seconds in record.waits.items():
            kind = reason.partition(" ")[0]
            expected[kind] = expected.get(kind, 0) + int(seconds * 2.0**100)
    for tracker in (whole, first, again):
        assert kinds(tracker.total) == {kind: amount for kind, amount in expected.items() if amount}


@settings(deadline=None)  # the machine may be busy
@given(records, st.integers(0, 60))
def test_what_came_since_is_told_apart(made: list[UsageRecord], cut: int) -> None:
    tracker = counted(*made[:cut])
    before = tracker.snapshot()
    for record in made[cut:]:
        tracker.record(record)
    assert kinds(tracker.diff(before).total) == kinds(counted(*made[cut:]).total)


def test_reasons_without_end_are_counted_by_kind() -> None:
    tracker = counted(*(waited("m", **{f"rpm of m{number}": 3.0}) for number in range(1000)))
    waits = tracker.total.waits
    assert len(waits) == MAX_REASONS + 1
    assert waits["rpm of (other)"] == 3.0 * (1000 - MAX_REASONS)
    assert tracker.total.shares.keys() == {*waits, "provider"}
    told = "Most of the time (75%) went on waiting for requests per minute of m0, m1, m10, many more: "
    assert tracker.total.advice[0].startswith(told)


def test_memory_stays_flat_over_a_million_waits() -> None:
    made = [
        waited(f"m{number % 7}", **{f"rpm of limit {number}": 0.25, f"closed of m{number}": 0.5})
        for number in range(2000)
    ]
    tracker = counted(*made)
    sizes = []
    tracemalloc.start()
    for _ in range(3):
        for _ in range(3):
            for record in made:
                tracker.record(record)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[2] - sizes[0] < 20_000
    assert len(tracker.total._waits) <= MAX_REASONS + 2
    assert sum(tracker.total.waits.values()) == 0.75 * 2000 * 10


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, "much", None])
def test_an_impossible_wait_counts_as_none(seconds: object) -> None:
    tracker = counted(UsageRecord(model="m", cost=0.5, waits={RPM: seconds, TPM: 2.0}))  # type: ignore[dict-item]
    assert tracker.total.waits == {RPM: 0.0, TPM: 2.0}
    assert tracker.total.cost == 0.5


def test_waits_with_impossible_names_do_not_stop_the_counting() -> None:
    assert counted(UsageRecord(model="m", waits={7: 2.0})).total.waits == {"7": 2.0}  # type: ignore[dict-item]


def test_waits_survive_json_and_a_wrong_one_is_refused() -> None:
    record = waited("m", **{RPM: 2.5})
    assert UsageRecord.from_dict(record.to_dict()) == record
    assert UsageRecord.from_dict({"model": "m"}).waits == {}  # a record of an earlier version
    with pytest.raises(ConfigError, match="waits cannot hold 'long'"):
        UsageRecord.from_dict({"model": "m", "waits": {RPM: "long"}})
    told = counted(record).to_dict()
    told["state"]["cells"][0][3]["waits"] = [1]
    with pytest.raises(ConfigError, match="totals"):
        UsageTracker.from_dict(told)


def test_a_reader_of_the_sums_finds_seconds_and_shares() -> None:
    told = counted(waited("m", **{RPM: 3.0})).to_dict()
    assert told["total"]["waits"] == told["by_model"]["m"]["waits"] == {RPM: 3.0}
    assert told["total"]["shares"] == {RPM: 0.75, "provider": 0.25}


def test_flat_rows_tell_waits_by_kind_in_the_same_columns() -> None:
    tracker = counted(waited("a", **{RPM: 2.0, "rpm of a": 1.0}), waited("b", **{"in flight of b": 4.0}))
    one, two = rows(tracker.by_model, "model")
    assert one.keys() == two.keys()
    assert (one["waits_rpm"], one["waits_in_flight"]) == (3.0, 0.0)
    assert (two["waits_rpm"], two["waits_in_flight"]) == (0.0, 4.0)
    assert not [name for name in one if "openai" in name or name.startswith("shares")]


@pytest.mark.parametrize("kind", [JSONLSink, SQLiteSink])
def test_sinks_keep_them(kind: type[JSONLSink | SQLiteSink], tmp_path: Path) -> None:
    made = [waited("m", **{RPM: 2.5}), waited("m")]
    with kind(tmp_path / "kept.db") as sink:
        for record in made:
            sink.put(record)
    assert list(read_records(tmp_path / "kept.db")) == made


def test_a_database_of_an_earlier_version_is_read_and_gets_the_column(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "kept.db"
    with SQLiteSink(path) as sink:
        sink.put(waited("old"))
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE usage_records DROP COLUMN waits")
    connection.close()
    assert [(record.model, record.waits) for record in read_records(path)] == [("old", {})]
    with SQLiteSink(path) as sink:
        sink.put(waited("new", **{RPM: 2.0}))
    assert [(record.model, record.waits) for record in read_records(path)] == [("old", {}), ("new", {RPM: 2.0})]


def test_so_does_one_from_before_lost_tokens_were_told(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "kept.db"
    with SQLiteSink(path) as sink:
        sink.put(UsageRecord(model="old", uncertain_tokens=7))
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE usage_records DROP COLUMN uncertain_tokens")
    connection.close()
    assert [record.uncertain_tokens for record in read_records(path)] == [0]
    with SQLiteSink(path) as sink:
        sink.put(UsageRecord(model="new", uncertain_tokens=7))
    assert [(record.model, record.uncertain_tokens) for record in read_records(path)] == [("old", 0), ("new", 7)]
