"""The state of one limit. Only arithmetic may live here, as in :mod:`.bucket`."""

from __future__ import annotations

import math
from typing import Final

from .bucket import Meter, SlidingWindow, TokenBucket
from .spec import DAY, INPUT_TOKENS, OUTPUT_TOKENS, REQUESTS, TOTAL_TOKENS, RateLimit, Window
from .undecided import Question, Undecided

WHOLE: Final = 60.0
"""A profile's ``burst`` of a minute: a continuous bucket is kept, and a whole period's quota may go at once."""

DIMENSIONS: Final = {
    "rpm": REQUESTS,
    "tpm": TOTAL_TOKENS,
    "itpm": INPUT_TOKENS,
    "otpm": OUTPUT_TOKENS,
    "rpd": REQUESTS,
    "tpd": TOTAL_TOKENS,
}
"""Which of a request's amounts each quota counts."""

Amounts = tuple[float, float, float, float]
"""What a request takes of each dimension: requests, tokens in all, input tokens, output tokens."""


class Pool:
    """The state of one limit.

    Args:
        spec: the limit, if it was configured.
        name: what it is called; the limit's own name unless given.
    """

    __slots__ = ("in_flight", "in_use", "max_in_flight", "meters", "name", "question", "spec", "windows")

    def __init__(self, spec: RateLimit | None, name: str = "") -> None:
        self.spec = spec
        self.name = spec.name if spec is not None else name
        self.in_flight = 0
        self.in_use = False  # a lane counts with its meters
        self.max_in_flight = math.inf
        self.question = Question("bucket")
        self.meters: tuple[Meter, ...] = ()
        if spec is not None:
            self.question = Question(spec.window)
            self.meters = _meters(spec, self.question)
            if spec.max_in_flight is not None:
                self.max_in_flight = spec.max_in_flight
        self.windows = tuple(meter for meter in self.meters if isinstance(meter, SlidingWindow))

    @property
    def live(self) -> tuple[Meter, ...]:
        """All that bounds this pool over time."""
        return self.meters

    @property
    def window(self) -> Window | None:
        """How it counts; None while that is not known."""
        return self.question.answer

    def suit(self, window: Window | None, burst: float, now: float) -> None:
        """Take over how a provider counts, where the user did not say; before the first request only.

        Args:
            window: None leaves the question open.
            burst: seconds of a quota of requests that may start at once; :data:`WHOLE` or more for all of it.
            now: seconds.
        """
        spec = self.spec
        if spec is None:
            return
        if window is not None and self.question.answer is None:
            self.question.answer = window
            if not self.in_use:
                self.meters = _meters(spec, self.question)  # nobody counts with them yet: plain meters will do
                self.windows = tuple(meter for meter in self.meters if isinstance(meter, SlidingWindow))
        if spec.burst is None and burst < WHOLE:
            for meter in self.meters:
                if meter.name != "rpm" or burst >= meter.period:
                    continue
                size = max(1.0, meter.quota * burst / meter.period)
                if isinstance(meter, TokenBucket):
                    meter.resize(meter.quota, min(size, meter.capacity), now)
                elif not self.in_use and size < meter.quota:
                    more = _burst_of(meter.name, meter.dimension, meter.quota, meter.period, size)
                    self.meters = (*self.meters, more)

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

    def bottleneck(self, amounts: Amounts, now: float) -> str:
        """What of it holds a request up longest."""
        if self.in_flight >= self.max_in_flight or not self.meters:
            return "in flight"
        if len(self.meters) == 1:
            return self.meters[0].name
        return max(self.meters, key=lambda meter: meter.ready_at(amounts[meter.dimension], now)).name

    def delays(self, first: Amounts, second: Amounts, until: float, now: float) -> bool:
        """Whether the second could go only after ``until`` in this pool if the first went now."""
        return self.in_flight + 1 >= self.max_in_flight or any(
            meter.ready_at(second[meter.dimension], now, first[meter.dimension]) > until for meter in self.meters
        )


def _meters(spec: RateLimit, question: Question) -> tuple[Meter, ...]:
    meters: list[Meter] = []
    for name, dimension, amount, period in spec.quotas:
        burst = spec.burst if name == "rpm" else None  # a day's quota is not doled out over the day
        if question.answer == "bucket" or (question.answer is None and period >= DAY):
            meters.append(TokenBucket(name, dimension, amount, period, capacity=burst))
            continue
        if question.answer == "sliding":
            meters.append(SlidingWindow(name, dimension, amount, period))
        else:
            meters.append(Undecided(name, dimension, amount, period, question))
        if burst is not None and burst < amount:
            meters.append(_burst_of(name, dimension, amount, period, burst))
    return tuple(meters)


def _burst_of(name: str, dimension: int, quota: float, period: float, size: float) -> TokenBucket:
    """What bounds how many may start at once beside a meter that does not."""
    return TokenBucket(f"{name} burst", dimension, quota, period, capacity=size)
