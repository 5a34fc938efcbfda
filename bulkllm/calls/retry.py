"""Whether and when a failed attempt is tried again: a pure decision."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from ..errors import ConfigError
from .failure import Failure


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The one retry layer; those hidden in LiteLLM and the providers' SDKs are switched off.

    Attributes:
        max_attempts: requests sent for one call at most, the first included. 1 never tries again. Those that were
            refused because the quota of a day was spent do not count, if the call waits for that.
        base_delay: seconds before the second attempt; doubled with each further one.
        max_delay: seconds that such a delay grows to.
        max_retry_after: seconds that a provider's own ``retry-after`` is obeyed up to; what is longer is not waited
            for and the error is raised; if it is more than ten minutes too, then other calls to that model do not wait
            for it either, but as ``Client(wait_for_quota=...)`` says.
        max_elapsed: seconds since the call began after which no attempt is started any more; None for no end.
        rand: gives numbers from [0, 1) for the jitter.

    Raises:
        ConfigError: a number is out of range.
    """

    max_attempts: int = 6
    base_delay: float = 0.5
    max_delay: float = 60.0
    max_retry_after: float = 600.0
    max_elapsed: float | None = None
    rand: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        attempts = cast("object", self.max_attempts)  # users without a type checker too
        if not isinstance(attempts, int) or attempts < 1:
            raise ConfigError(f"RetryPolicy(max_attempts={self.max_attempts!r}) must be 1 or more, the first included")
        for name in ("base_delay", "max_delay", "max_retry_after", "max_elapsed"):
            value = getattr(self, name)
            if not (name == "max_elapsed" and value is None) and not (isinstance(value, int | float) and value >= 0):
                raise ConfigError(f"RetryPolicy({name}={value!r}) must be a number of seconds, 0 or more")

    def with_attempts(self, max_attempts: int) -> RetryPolicy:
        """The same policy with another number of attempts."""
        return replace(self, max_attempts=max_attempts)

    def decide(self, failure: Failure, attempt: int, elapsed: float) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        A provider's ``retry-after`` is obeyed, with up to a tenth more, so that not all who were refused come back
        at the same moment; otherwise the delay grows exponentially, half of it random.

        Args:
            failure: what went wrong.
            attempt: requests sent so far, 1 or more.
            elapsed: seconds since the call began.
        """
        if not failure.retryable or attempt >= self.max_attempts:
            return None
        if failure.retry_after is not None:
            if failure.retry_after > self.max_retry_after:
                return None
            delay = failure.retry_after * (1 + self.rand() / 10)
        else:
            full = min(self.max_delay, self.base_delay * 2.0 ** min(attempt - 1, 60))
            delay = full * (1 + self.rand()) / 2
        if self.max_elapsed is not None and elapsed + delay > self.max_elapsed:
            return None
        return delay
