"""Quantiles of any number of values in constant memory: a log-bucket sketch, pure.

What may live here: the sketch and its arithmetic. The idea is DDSketch's (Masson, Rim and Lee, "DDSketch: a fast
and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019): bucket ``k`` holds the values
in ``(g ** (k - 1), g ** k]`` with ``g = (1 + e) / (1 - e)``, so that one number per bucket stands for all values
in it with a relative error of at most ``e``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

EXACT = 2.0**100
"""Sums are kept as whole multiples of 1/EXACT: exact for every float from 4e-15 up, in any order of adding.

In JSON they are hexadecimal, for other readers of JSON would round such numbers.
"""
LARGEST = 1e200
"""No value may be larger: a time, a cost or a count never is, and its sum would not fit."""
_INFINITE = math.inf
_log, _ceil = math.log, math.ceil


class Quantiles:
    """A mergeable sketch of how values are spread.

    ``quantile(q)`` is within ``relative_error`` of the value of rank ``floor(q * (count - 1))`` among all values
    added; ``count``, ``sum``, ``mean``, ``min`` and ``max`` are exact. Merging gives what one sketch over all
    values would have given.

    At most ``max_buckets`` neighbouring buckets are kept: with the defaults a range of 1 to 6e17, in a few
    hundred kilobytes at worst. Should values span more, the lowest are lumped together, and only quantiles that
    fall among these lose their bound.

    Args:
        relative_error: the bound on the error of a quantile, between 0 and 1.
        max_buckets: how many buckets there may be.
    """

    __slots__ = (
        "_bins",
        "_exact_sum",
        "_high",
        "_log_gamma",
        "_low",
        "_scale",
        "_top",
        "count",
        "max_buckets",
        "relative_error",
        "zeros",
    )
    __hash__ = None  # type: ignore[assignment]  # it changes, and compares by what it holds

    def __init__(self, relative_error: float = 0.01, max_buckets: int = 2048) -> None:
        if not 0.0 < relative_error < 1.0:
            raise ConfigError(f"relative_error must lie between 0 and 1, not {relative_error!r}")
        if max_buckets < 1:
            raise ConfigError(f"max_buckets must be at least 1, not {max_buckets!r}")
        self.relative_error = relative_error
        self.max_buckets = max_buckets
        self._log_gamma = math.log1p(2.0 * relative_error / (1.0 - relative_error))
        self._scale = 1.0 / self._log_gamma
        self._bins: dict[int, int] = {}
        self._top = 0
        self._exact_sum = 0
        self._low = _INFINITE
        self._high = -_INFINITE
        self.count = 0
        self.zeros = 0

    def add(self, value: float, count: int = 1) -> None:
        """Add a value, ``count`` times.

        Raises:
            ConfigError: the value is negative, not a number or above 1e200, or the count is below 1. The sketch
                is as it was.
        """
        if count < 1:
            raise ConfigError(f"count must be at least 1, not {count!r}")
        if 0.0 < value <= LARGEST:
            key = _ceil(_log(value) * self._scale)
            bins = self._bins
            if key in bins:
                bins[key] += count
            else:
                self._open(key, count)
            self._exact_sum += int(value * EXACT) * count
        elif value == 0:
            self.zeros += count
        else:
            raise ConfigError(f"a sketch takes numbers from 0 to {LARGEST:g}, not {value!r}")
        self.count += count
        if value < self._low:
            self._low = value
        if value > self._high:
            self._high = value

    def _open(self, key: int, count: int) -> None:
        """Count into a bucket that there may not be yet, keeping all within ``max_buckets`` of the highest."""
        bins = self._bins
        if not bins or key > self._top:
            self._top = key
            floor = key - self.max_buckets + 1
            if bins and min(bins) < floor:
                lumped = sum(bins.pop(low) for low in [low for low in bins if low < floor])
                bins[floor] = bins.get(floor, 0) + lumped
        key = max(key, self._top - self.max_buckets + 1)
        bins[key] = bins.get(key, 0) + count

    def quantile(self, q: float) -> float | None:
        """The value below which the fraction ``q`` lies, or None where nothing was added.

        Raises:
            ConfigError: ``q`` does not lie between 0 and 1.
        """
        if not 0.0 <= q <= 1.0:
            raise ConfigError(f"a quantile lies between 0 and 1, not {q!r}")
        if not self.count:
            return None
        rank = math.floor(q * (self.count - 1))
        if rank == 0:
            return self._low
        if rank == self.count - 1:
            return self._high
        seen = self.zeros
        if rank < seen:
            return 0.0
        for key in sorted(self._bins):
            seen += self._bins[key]
            if rank < seen:
                # The value with the same relative distance to both ends of the bucket.
                middle = math.exp(key * self._log_gamma) * (1.0 - self.relative_error)
                return min(max(middle, self._low), self._high)
        return self._high

    def histogram(self, bars: int = 24) -> list[tuple[float, float, int]]:
        """How the values are spread: (from, to, how many) for at most so many bars, in order.

        Bars are equally wide on a logarithmic scale, the first one aside if it is for zeros; values within
        ``relative_error`` of an edge may be counted on its other side.

        Raises:
            ConfigError: no bars are asked for.
        """
        if bars < 1:
            raise ConfigError(f"a histogram has at least one bar, not {bars!r}")
        found = [(0.0, 0.0, self.zeros)] if self.zeros else []
        if not self._bins:
            return found
        first, last = min(self._bins), max(self._bins)
        wide = -(-(last - first + 1) // max(1, bars - len(found)))
        counts = [0] * -(-(last - first + 1) // wide)
        for key, count in self._bins.items():
            counts[(key - first) // wide] += count
        edges = [math.exp((first - 1 + wide * place) * self._log_gamma) for place in range(len(counts) + 1)]
        return [*found, *zip(edges, edges[1:], counts, strict=False)]

    @property
    def p50(self) -> float | None:
        """The median, or None where nothing was added."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float | None:
        """95 in 100 values are below it; None where nothing was added."""
        return self.quantile(0.95)

    @property
    def p99(self) -> float | None:
        """99 in 100 values are below it; None where nothing was added."""
        return self.quantile(0.99)

    @property
    def sum(self) -> float:
        """The sum of all values, exact."""
        return self._exact_sum / EXACT

    @property
    def mean(self) -> float | None:
        """The mean of all values, or None where nothing was added."""
        return self.sum / self.count if self.count else None

    @property
    def min(self) -> float | None:
        """The smallest value, or None where nothing was added."""
        return self._low if self.count else None

    @property
    def max(self) -> float | None:
        """The largest value, or None where nothing was added."""
        return self._high if self.count else None

    def merge(self, other: Quantiles) -> None:
        """Add all that another sketch holds.

        Raises:
            ConfigError: the two differ in relative error or number of buckets.
        """
        self._must_match(other)
        for key, count in other._bins.items():
            self._open(key, count)
        self.zeros += other.zeros
        self.count += other.count
        self._exact_sum += other._exact_sum
        self._low = min(self._low, other._low)
        self._high = max(self._high, other._high)

    def since(self, earlier: Quantiles) -> Quantiles:
        """What was added to this sketch after ``earlier`` was copied from it.

        The smallest and the largest value among these are known to ``relative_error`` only.

        Raises:
            ConfigError: ``earlier`` is no earlier state of this sketch.
        """
        self._must_match(earlier)
        aligned = Quantiles(self.relative_error, self.max_buckets)
        if self._bins:
            aligned._open(self._top, 0)  # so that both lumped together the same buckets
        aligned.merge(earlier)
        rest = Quantiles(self.relative_error, self.max_buckets)
        bins = dict(self._bins)
        for key, count in aligned._bins.items():
            bins[key] = bins.get(key, 0) - count
        rest._bins = {key: count for key, count in bins.items() if count}
        rest.zeros = self.zeros - earlier.zeros
        rest.count = self.count - earlier.count
        rest._exact_sum = self._exact_sum - earlier._exact_sum
        if rest.zeros < 0 or any(count < 0 for count in rest._bins.values()):
            raise ConfigError("the earlier sketch holds values that this one lacks")
        if rest.count:
            ends = [math.exp(key * self._log_gamma) * (1.0 - self.relative_error) for key in rest._bins]
            ends = [min(max(end, self._low), self._high) for end in ends] + [0.0] * bool(rest.zeros)
            rest._low, rest._high = min(ends), max(ends)
            rest._top = max(rest._bins, default=0)
        return rest

    def copy(self) -> Quantiles:
        """A sketch of its own with the same content."""
        twin = Quantiles(self.relative_error, self.max_buckets)
        twin.merge(self)
        return twin

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON and for :meth:`from_dict`."""
        return {
            "relative_error": self.relative_error,
            "max_buckets": self.max_buckets,
            "count": self.count,
            "sum": self.sum,
            "exact_sum": f"{self._exact_sum:x}",
            "min": self.min,
            "max": self.max,
            "zeros": self.zeros,
            "buckets": [[key, self._bins[key]] for key in sorted(self._bins)],
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Quantiles:
        """The reverse of :meth:`to_dict`.

        Raises:
            ConfigError: something is missing, or the numbers do not add up.
        """
        try:
            sketch = cls(float(told["relative_error"]), int(told["max_buckets"]))
            for key, count in told["buckets"]:
                sketch._open(int(key), int(count))
            sketch.zeros = int(told["zeros"])
            sketch.count = int(told["count"])
            sketch._exact_sum = int(told["exact_sum"], 16)
            if sketch.count:
                sketch._low, sketch._high = float(told["min"]), float(told["max"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"not a sketch: {type(error).__name__}: {error}") from error
        if sketch.count != sketch.zeros + sum(sketch._bins.values()):
            raise ConfigError("not a sketch: its buckets do not add up to its count")
        return sketch

    def _must_match(self, other: Quantiles) -> None:
        if (self.relative_error, self.max_buckets) != (other.relative_error, other.max_buckets):
            raise ConfigError(
                "sketches can be merged only if they have the same relative_error and max_buckets: "
                f"{self.relative_error}, {self.max_buckets} and {other.relative_error}, {other.max_buckets}"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantiles) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        if not self.count:
            return "Quantiles(count=0)"
        return f"Quantiles(count={self.count}, p50={self.p50:.4g}, p95={self.p95:.4g}, max={self.max:.4g})"
