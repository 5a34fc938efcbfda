"""The last of a bucket that a provider tells of is spent slowly, for somebody else may have taken some of it.

What the provider says is left is as old as the answer that said it. Who runs into the bottom at full speed sends dozens
of requests before the first refusal comes back; who goes at twice the speed at which the bucket refills, for its last
seconds, is told in time, and has taken no less in the end. Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

import math
from typing import Final

from .bucket import TokenBucket
from .undecided import Undecided

# So many seconds of a quota are spent slowly, though no more than a share of a small bucket, and so much faster than it
# refills.
_LAST: Final = 2.0
_SHARE: Final = 0.1
_FASTER: Final = 2.0

# So many seconds' worth may go at once while it brakes.
_AT_ONCE: Final = 0.1


class Brake:
    """Bounds how fast the last of a bucket goes.

    Args:
        meter: the bucket; or a limit that may be one, and is not held back once it is none.
    """

    __slots__ = ("_meter", "_slow")

    def __init__(self, meter: TokenBucket | Undecided) -> None:
        self._meter = meter
        speed = _FASTER * meter.quota
        capacity = max(1.0, speed / meter.period * _AT_ONCE)
        self._slow = TokenBucket(meter.name, meter.dimension, speed, meter.period, capacity=capacity)

    @property
    def dimension(self) -> int:
        """Which of a request's amounts it counts."""
        return self._slow.dimension

    def ready_at(self, amount: float, now: float, after: float = 0.0) -> float:
        """When ``amount`` may go, or might have gone, for all that the brake does."""
        return self._slow.ready_at(amount, now, after) if self._brakes(now, amount + after) else -math.inf

    def take(self, amount: float, now: float) -> None:
        """It goes."""
        if self._brakes(now, amount):
            self._slow.take(amount, now)

    def _brakes(self, now: float, amount: float) -> bool:
        meter = self._meter
        if isinstance(meter, Undecided):
            if meter.question.answer == "sliding":
                return False
            meter = meter.bucket
        last = min(_LAST * meter.quota / meter.period, _SHARE * meter.capacity)
        return meter.remaining(now) - amount < last
