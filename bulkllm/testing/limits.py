"""What a provider's limits do to the requests that arrive.

What may live here: arithmetic over counters. Every function takes the time from its caller; nothing here reads a
clock, locks, logs or knows HTTP. The provider's own rules are meant, not those of a client that keeps clear of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from ..errors import ConfigError
from .meters import BucketMeter, Meter, SlidingMeter

Window: TypeAlias = Literal["bucket", "sliding"]
ChargeRule: TypeAlias = Literal["max_tokens", "prompt+max_tokens", "actual"]
CHARGE_RULES: tuple[ChargeRule, ...] = ("max_tokens", "prompt+max_tokens", "actual")

# A limit per minute and one per day are told apart by this factor, so that a shrunk period shrinks the day too.
PERIODS_PER_DAY = 1440


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """What a provider allows on one model, or on one pool of models. None means no such limit.

    Attributes:
        rpm: requests per period.
        tpm: tokens per period, input and output together.
        itpm: input tokens per period.
        otpm: output tokens per period.
        rpd: requests per day; a day is 1,440 periods.
        tpd: tokens per day.
        max_in_flight: requests that may be worked on at the same time.
        burst: how many requests a full bucket holds; one period's quota unless said otherwise.
        window: ``"bucket"``, refilled continuously, or ``"sliding"``, exactly the last period.
        period: what stands for a minute, in seconds.

    Raises:
        ConfigError: a value that no provider could mean.
    """

    rpm: int | None = None
    tpm: int | None = None
    itpm: int | None = None
    otpm: int | None = None
    rpd: int | None = None
    tpd: int | None = None
    max_in_flight: int | None = None
    burst: int | None = None
    window: Window = "bucket"
    period: float = 60.0

    def __post_init__(self) -> None:
        for name in ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "max_in_flight", "burst"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value >= 1):
                raise ConfigError(f"{name}={value!r}: give a number from 1, or None for no limit")
        if self.window not in ("bucket", "sliding"):
            raise ConfigError(f"window={self.window!r}: it is 'bucket' or 'sliding'")
        if self.window == "sliding" and self.burst is not None:
            raise ConfigError("burst= is the size of a bucket; a sliding window has none: leave burst out")
        if not 0 < self.period < math.inf:
            raise ConfigError(f"period={self.period!r}: give seconds above 0 (60 is a minute)")


class Charge(NamedTuple):
    """What one request takes from each kind of limit when it arrives.

    ``late_tokens`` and ``late_output`` say that the output is counted into ``tokens`` and ``output_tokens`` as it
    is produced, for it was not paid for on arrival.
    """

    input_tokens: int
    tokens: int
    output_tokens: int
    late_tokens: bool
    late_output: bool


def charge_for(rule: ChargeRule, input_tokens: int, max_output: int | None) -> Charge:
    """What a request with so many input tokens and so large an output cap is charged on arrival.

    ``"max_tokens"`` is OpenAI's rule: the larger of the cap and the prompt's estimate, whatever is then produced.
    ``"prompt+max_tokens"`` is Azure's: their sum. ``"actual"`` is Anthropic's: the input now, the output as it
    is produced. Without a cap nobody knows the output beforehand, so it is counted when it is there.
    """
    if rule == "actual" or max_output is None:
        return Charge(input_tokens, input_tokens, 0, late_tokens=rule != "max_tokens", late_output=True)
    tokens = max(input_tokens, max_output) if rule == "max_tokens" else input_tokens + max_output
    return Charge(input_tokens, tokens, max_output, late_tokens=False, late_output=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was turned away: the limit that holds it up longest.

    Attributes:
        dimension: ``requests``, ``tokens``, ``input_tokens``, ``output_tokens``, ``requests_per_day``,
            ``tokens_per_day`` or ``in_flight``.
        limit: the quota.
        used: how much of it is taken.
        requested: how much the request wanted.
        wait: seconds until it would have been let in, None where nobody knows, infinite where never.
    """

    dimension: str
    limit: int
    used: int
    requested: int
    wait: float | None


class Pool:
    """The counters that one model, or several that share their limits, are measured by."""

    def __init__(self, limits: ProviderLimits, now: float) -> None:
        self.in_flight = 0
        self.limits = limits
        self.meters: dict[str, Meter] = {}
        self.change(limits, now)

    def change(self, limits: ProviderLimits, now: float) -> None:
        """Go on under other limits. What was taken stays taken, unless the kind of window changes."""
        same_window = limits.window == self.limits.window
        meters: dict[str, Meter] = {}
        for dimension, quota, capacity, period in _quotas(limits):
            old = self.meters.get(dimension) if same_window else None
            if old is not None:
                old.resize(quota, capacity, period, now)
                meters[dimension] = old
            elif limits.window == "bucket":
                meters[dimension] = BucketMeter(quota, capacity, period, now)
            else:
                meters[dimension] = SlidingMeter(quota, period)
        self.limits, self.meters = limits, meters

    def admit(self, charge: Charge, now: float, *, count_refused: bool = False) -> Refusal | None:
        """Let a request in, taking from all limits at once, or take nothing and say why not.

        Args:
            charge: what it takes.
            now: the time.
            count_refused: a refused request takes its one request all the same, though never into debt.
        """
        amounts = {
            "requests": 1,
            "requests_per_day": 1,
            "tokens": charge.tokens,
            "tokens_per_day": charge.tokens,
            "input_tokens": charge.input_tokens,
            "output_tokens": charge.output_tokens,
        }
        refusal = None
        for dimension, meter in self.meters.items():
            # Output that is counted later takes nothing now, but nobody gets in while the meter is in debt.
            amount = max(1, amounts[dimension])
            wait = meter.wait_for(amount, now)
            if wait > 0.0 and (refusal is None or refusal.wait is None or wait > refusal.wait):
                used = max(0, math.ceil(meter.quota - meter.available(now)))
                refusal = Refusal(dimension, meter.quota, used, amount, wait)
        most = self.limits.max_in_flight
        if refusal is None and most is not None and self.in_flight >= most:
            refusal = Refusal("in_flight", most, self.in_flight, 1, None)
        if refusal is not None:
            if count_refused:
                for dimension in ("requests", "requests_per_day"):
                    if (counted := self.meters.get(dimension)) is not None:
                        counted.take(min(1.0, max(0.0, counted.available(now))), now)
            return refusal
        for dimension, meter in self.meters.items():
            if amounts[dimension]:
                meter.take(amounts[dimension], now)
        self.in_flight += 1
        return None

    def produced(self, charge: Charge, tokens: int, now: float) -> None:
        """Count output that was not paid for on arrival."""
        late = ("tokens", "tokens_per_day") if charge.late_tokens else ()
        for dimension in (*late, *(("output_tokens",) if charge.late_output else ())):
            if (meter := self.meters.get(dimension)) is not None:
                meter.take(tokens, now)


def _quotas(limits: ProviderLimits) -> Iterator[tuple[str, int, float, float]]:
    """Each limit that is set: its dimension, quota, bucket size and period."""
    day = limits.period * PERIODS_PER_DAY
    for dimension, quota, period in (
        ("requests", limits.rpm, limits.period),
        ("tokens", limits.tpm, limits.period),
        ("input_tokens", limits.itpm, limits.period),
        ("output_tokens", limits.otpm, limits.period),
        ("requests_per_day", limits.rpd, day),
        ("tokens_per_day", limits.tpd, day),
    ):
        if quota is not None:
            burst = limits.burst if dimension == "requests" else None
            yield dimension, quota, float(burst or quota), period
