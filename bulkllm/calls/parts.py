"""What a flow works with: one value, owned by a client."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..accounting import Budget, UsageTracker
from ..limits import RateLimiter
from ..limits.estimate import TokenEstimator
from .counting import TokenCounter
from .lane import Lane
from .spending import AnswerLengths


@dataclass(frozen=True, slots=True)
class Parts:
    """What a flow works with.

    Attributes:
        lane: carries calls.
        limiter: holds them back.
        estimator: guesses tokens before, learns after.
        counter: counts tokens before, where they are not to be guessed.
        lengths: how long answers can get, for budgets.
        budget: what its calls may use in all, if that is bounded.
        trackers: count every call, besides the scopes that are active when it begins.
        clock: seconds, monotonic.
    """

    lane: Lane
    limiter: RateLimiter
    estimator: TokenEstimator = field(default_factory=TokenEstimator)
    counter: TokenCounter | None = None
    lengths: AnswerLengths = field(default_factory=AnswerLengths)
    budget: Budget | None = None
    trackers: tuple[UsageTracker, ...] = ()
    clock: Callable[[], float] = time.monotonic
