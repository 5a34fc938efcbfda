"""How long a run takes under its limits: the real limiter on a clock that jumps.

What may live here: the simulation. It knows requests as tokens only; nothing is sent and nothing waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..limits import LimitStatus, RateLimit, RateLimiter, Reservation

_SIMULATED: Final = 20_000  # rows of a model; what comes after goes on at the pace of the second half of them
_STEP: Final = 0.01  # seconds, where nobody can say when there will be room
_DIMENSIONS: Final[Mapping[str, tuple[bool, bool, bool]]] = {
    "rpm": (True, False, False), "rpd": (True, False, False), "tpm": (False, True, True), "tpd": (False, True, True),
    "itpm": (False, True, False), "otpm": (False, False, True),
}  # fmt: skip


@dataclass(slots=True)
class Ask:
    """What a request reserves, and what it uses in the end."""

    input_tokens: float
    output_tokens: float
    used_input: float
    used_output: float
    seconds: float


def seconds_for(limits: Sequence[RateLimit], asks: Mapping[str, Sequence[Ask]], *, in_flight: int) -> float:
    """Seconds until the last request of all models is answered.

    Args:
        limits: as configured; they are full when the run begins.
        asks: the requests of each model, in order.
        in_flight: requests of one model that may be under way at once.

    Raises:
        ImpossibleRequest: one needs more than a limit's whole quota.
    """
    now = 0.0

    def clock() -> float:
        return now

    limiter = RateLimiter(limits, clock=clock)
    counts = {model: min(len(line), _SIMULATED) for model, line in asks.items()}
    started = dict.fromkeys(asks, 0)
    active = dict.fromkeys(asks, 0)
    half: dict[str, float] = {}
    last: dict[str, float] = {}
    under_way: list[tuple[float, int, str, Reservation | None, Ask]] = []
    serial = 0
    while True:
        waits: list[float] = []
        for model, count in counts.items():
            while started[model] < count and active[model] < in_flight:
                ask = asks[model][started[model]]
                reservation: Reservation | None = None
                if limiter.holds(model):
                    reservation = limiter.try_reserve(
                        model, input_tokens=ask.input_tokens, output_tokens=ask.output_tokens
                    )
                    if reservation is None:
                        waits.append(_wait(limiter.status(model), ask))
                        break
                    reservation.mark_sent()
                serial += 1
                heapq.heappush(under_way, (now + ask.seconds, serial, model, reservation, ask))
                started[model] += 1
                active[model] += 1
                if started[model] == count // 2:
                    half[model] = now
                last[model] = now
        if under_way and (not waits or under_way[0][0] <= now + min(waits)):
            now, _, model, reservation, ask = heapq.heappop(under_way)
            active[model] -= 1
            if reservation is not None:
                reservation.reconcile(input_tokens=ask.used_input, output_tokens=ask.used_output)
        elif waits:
            now += min(waits)
        else:
            break
    return max([now, *(now + _beyond(len(asks[m]), counts[m], half.get(m, 0.0), last.get(m, 0.0)) for m in asks)])


def _beyond(rows: int, simulated: int, half: float, last: float) -> float:
    """Seconds for the rows that were not simulated."""
    if rows <= simulated:
        return 0.0
    return (rows - simulated) * (last - half) / (simulated - simulated // 2)


def _wait(status: LimitStatus, ask: Ask) -> float:
    """Seconds until there may be room for a request, as the limits refill."""
    longest = 0.0
    for pool in status.limits:
        for name, quota in pool.quotas.items():
            counted = _DIMENSIONS.get(name.partition(" ")[0])  # "rpm burst" counts requests too
            if counted is None or quota.limit <= 0:
                continue
            request, inputs, outputs = counted
            need = request * 1.0 + inputs * ask.input_tokens + outputs * ask.output_tokens
            longest = max(longest, (min(need, quota.limit) - quota.remaining) * quota.period / quota.limit)
    return longest + 1e-6 if longest > 0 else _STEP
