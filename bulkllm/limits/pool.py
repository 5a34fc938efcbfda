"""The state of one limit. Only arithmetic may live here, as in :mod:`.bucket`."""

from __future__ import annotations

import math

from .bucket import Meter, SlidingWindow, TokenBucket
from .spec import RateLimit

Amounts = tuple[float, float, float, float]
"""What a request takes of each dimension: requests, tokens in all, input tokens, output tokens."""


class Pool:
    """The state of one limit."""

    __slots__ = ("in_flight", "max_in_flight", "meters", "spec", "windows")

    def __init__(self, spec: RateLimit) -> None:
        self.spec = spec
        self.in_flight = 0
        self.max_in_flight = math.inf if spec.max_in_flight is None else spec.max_in_flight
        self.meters = _meters(spec)
        self.windows = tuple(meter for meter in self.meters if isinstance(meter, SlidingWindow))

    def ready_at(self, amounts: Amounts, now: float) -> float:
        """When this pool could let the amounts in: ``now`` or earlier is at once, infinity hangs on an event."""
        if self.in_flight >= self.max_in_flight:
            return math.inf
        ready = -math.inf
        for meter in self.meters:
            at = meter.ready_at(amounts[meter.dimension], now)
            if at > ready:
                ready = at
        return ready

    def delays(self, first: Amounts, second: Amounts, until: float, now: float) -> bool:
        """Whether the second could go only after ``until`` in this pool if the first went now."""
        return self.in_flight + 1 >= self.max_in_flight or any(
            meter.ready_at(second[meter.dimension], now, first[meter.dimension]) > until for meter in self.meters
        )


def _meters(spec: RateLimit) -> tuple[Meter, ...]:
    meters: list[Meter] = []
    for name, dimension, amount, period in spec.quotas:
        if spec.window == "sliding":
            meters.append(SlidingWindow(name, dimension, amount, period))
            if name == "rpm" and spec.burst is not None and spec.burst < amount:
                meters.append(TokenBucket(f"{name} burst", dimension, amount, period, capacity=spec.burst))
        else:
            capacity = spec.burst if name == "rpm" else None  # a day's quota is not doled out over the day
            meters.append(TokenBucket(name, dimension, amount, period, capacity=capacity))
    return tuple(meters)
