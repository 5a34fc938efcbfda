from __future__ import annotations

import json
import math
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.accounting import Quantiles
from bulkllm.accounting.sketch import LARGEST
from bulkllm.errors import ConfigError

QS = (0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
SPREADS: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda chance: chance.lognormvariate(0, 1),
    "bimodal": lambda chance: chance.gauss(0.2, 0.01) if chance.random() < 0.5 else chance.gauss(40, 2),
    "constant": lambda chance: 0.125,
    "heavy-tailed": lambda chance: chance.paretovariate(0.6),
    "with zeros": lambda chance: max(0.0, chance.gauss(0, 1)),
}


def seeded(seed: object) -> random.Random:
    return random.Random(str(seed))  # noqa: S311 - the same data each time is what a test wants


def sketch_of(values: list[float], **options: float) -> Quantiles:
    sketch = Quantiles(**options)  # type: ignore[arg-type]  # max_buckets is an int where it is given
    for value in values:
        sketch.add(value)
    return sketch


def assert_within_bound(sketch: Quantiles, values: list[float], error: float) -> None:
    ordered = sorted(values)
    for q in QS:
        exact = ordered[math.floor(q * (len(ordered) - 1))]
        told = sketch.quantile(q)
        assert told is not None
        assert abs(told - exact) <= error * exact * (1 + 1e-9), (q, told, exact)


@pytest.mark.parametrize("error", [0.01, 0.05])
@pytest.mark.parametrize("spread", SPREADS)
def test_every_quantile_is_within_the_stated_bound(spread: str, error: float) -> None:
    chance = seeded(spread)
    values = [SPREADS[spread](chance) for _ in range(20_000)]
    sketch = sketch_of(values, relative_error=error)
    assert_within_bound(sketch, values, error)
    assert (sketch.count, sketch.min, sketch.max) == (len(values), min(values), max(values))
    assert sketch.sum == math.fsum(values)


positive = st.floats(1e-8, 1e8) | st.just(0.0)  # within what 2,048 buckets span


@given(st.lists(positive, min_size=1, max_size=200))
def test_any_values_are_within_the_bound(values: list[float]) -> None:
    assert_within_bound(sketch_of(values), values, 0.01)


@pytest.mark.parametrize("spread", SPREADS)
def test_merging_is_one_sketch_over_all(spread: str) -> None:
    chance = seeded(spread)
    values = [SPREADS[spread](chance) for _ in range(6_000)]
    parts = [sketch_of(values[start::3]) for start in range(3)]
    whole = Quantiles()
    for part in parts:
        whole.merge(part)
    assert whole == sketch_of(values)


@given(st.lists(st.floats(1e-150, 1e150), max_size=60), st.lists(st.floats(1e-150, 1e150), max_size=60))
def test_merging_is_one_sketch_over_all_also_where_the_lowest_were_lumped(
    ours: list[float], theirs: list[float]
) -> None:
    merged, other = sketch_of(ours, max_buckets=8), sketch_of(theirs, max_buckets=8)
    merged.merge(other)
    one = sketch_of(ours + theirs, max_buckets=8)
    assert merged.to_dict()["buckets"] == one.to_dict()["buckets"]
    assert (merged.count, merged.min, merged.max) == (one.count, one.min, one.max)


def test_memory_is_bounded_and_the_upper_quantiles_keep_their_bound() -> None:
    chance = seeded(3)
    values = [10 ** chance.uniform(-100, 100) for _ in range(50_000)]
    sketch = sketch_of(values, max_buckets=100)
    assert len(sketch.to_dict()["buckets"]) <= 100
    top = sorted(values)[-50:]
    assert sketch.quantile(1.0) == top[-1]
    exact = sorted(values)[math.floor(0.9995 * (len(values) - 1))]
    assert sketch.quantile(0.9995) == pytest.approx(exact, rel=0.01)


def test_memory_is_constant() -> None:
    chance = seeded(5)
    sketch = Quantiles()
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(2):
            for _ in range(30_000):
                sketch.add(10 ** chance.uniform(-12, 12))
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(sketch.to_dict()["buckets"]) == 2048
    assert sizes[1] < sizes[0] + 5_000 < 300_000


def test_adding_a_value_several_times_is_adding_it_with_a_count() -> None:
    sketch = Quantiles()
    sketch.add(2.0, 3)
    sketch.add(0.0, 2)
    assert sketch == sketch_of([2.0, 2.0, 2.0, 0.0, 0.0])


@pytest.mark.parametrize("value", [-1.0, -1e-300, math.nan, math.inf, -math.inf, 2 * LARGEST])
def test_what_cannot_be_counted_is_refused_and_changes_nothing(value: float) -> None:
    sketch = sketch_of([1.0])
    with pytest.raises(ConfigError, match="from 0 to"):
        sketch.add(value)
    assert sketch == sketch_of([1.0])


@pytest.mark.parametrize("value", [5e-324, 1e-300, LARGEST, 1, True])
def test_the_ends_of_the_range_are_counted(value: float) -> None:
    assert sketch_of([value]).p50 == value


def test_the_edge_of_a_bucket_is_within_the_bound() -> None:
    gamma = 1.01 / 0.99
    for power in range(-400, 400):
        value = gamma**power
        for shifted in (math.nextafter(value, 0), value, math.nextafter(value, math.inf)):
            sketch = sketch_of([shifted / 2, shifted, shifted * 2])
            assert sketch.p50 == pytest.approx(shifted, rel=0.01 + 1e-9)


def test_an_empty_sketch_has_no_quantiles() -> None:
    empty = Quantiles()
    assert (empty.p50, empty.p95, empty.p99, empty.mean, empty.min, empty.max) == (None,) * 6
    assert (empty.count, empty.sum) == (0, 0.0)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_lies_between_0_and_1(q: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        sketch_of([1.0]).quantile(q)


@pytest.mark.parametrize(("error", "buckets"), [(0.0, 10), (1.0, 10), (math.nan, 10), (0.01, 0)])
def test_impossible_settings_are_refused(error: float, buckets: int) -> None:
    with pytest.raises(ConfigError):
        Quantiles(error, buckets)


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="count"):
        Quantiles().add(1.0, 0)


@pytest.mark.parametrize("other", [Quantiles(0.02), Quantiles(max_buckets=7)])
def test_sketches_of_different_kind_do_not_merge(other: Quantiles) -> None:
    with pytest.raises(ConfigError, match="relative_error"):
        Quantiles().merge(other)


@given(st.lists(positive, max_size=50))
def test_json_goes_both_ways(values: list[float]) -> None:
    sketch = sketch_of(values)
    back = Quantiles.from_dict(json.loads(json.dumps(sketch.to_dict())))
    assert back == sketch
    back.add(3.0)
    sketch.add(3.0)
    assert back == sketch


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {**sketch_of([1.0]).to_dict(), "count": 2},
        {**sketch_of([1.0]).to_dict(), "buckets": [["a", 1]]},
        {**sketch_of([1.0]).to_dict(), "buckets": None},
        {**sketch_of([1.0]).to_dict(), "exact_sum": "dear"},
    ],
)
def test_what_is_no_sketch_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not a sketch"):
        Quantiles.from_dict(broken)


@given(st.lists(positive, max_size=60), st.lists(positive, max_size=60))
def test_what_was_added_since_is_what_was_added(before: list[float], after: list[float]) -> None:
    sketch = sketch_of(before)
    earlier = sketch.copy()
    for value in after:
        sketch.add(value)
    since = sketch.since(earlier)
    expected = sketch_of(after)
    assert since.to_dict()["buckets"] == expected.to_dict()["buckets"]
    assert (since.count, since.zeros) == (expected.count, expected.zeros)
    assert since.sum == pytest.approx(expected.sum, rel=1e-9)
    for q in (0.0, 0.3, 0.5, 1.0):
        assert since.quantile(q) == (pytest.approx(expected.quantile(q), rel=0.021) if after else None)


def test_since_lumps_as_the_later_one_did() -> None:
    sketch = sketch_of([1.0, 1.1, 1.2], max_buckets=3)
    earlier = sketch.copy()
    sketch.add(1e6)
    since = sketch.since(earlier)
    assert since.count == 1
    assert since.p50 == pytest.approx(1e6, rel=0.01)


def test_since_takes_an_earlier_state_only() -> None:
    with pytest.raises(ConfigError, match="lacks"):
        sketch_of([1.0]).since(sketch_of([2.0]))


def test_a_copy_is_its_own() -> None:
    sketch = sketch_of([1.0])
    twin = sketch.copy()
    twin.add(2.0)
    assert (sketch.count, twin.count) == (1, 2)
