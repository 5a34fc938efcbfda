"""How requests begin to go, at the start and when a pool opens that a refusal had closed: not all of them at once.

All who wait when a pool opens would go at once otherwise, and all be refused if it opened too early. One goes; when its
refusal would have come back, a second; and from then on twice as many in each such span. So a few requests at most pay
for an opening that came too early, and a provider that lets them in is at full speed again after a second.

At the very start the number under way grows by some hundreds a second, and twice as fast each second: a thousand
requests that start at the same moment would hear of a limit too late, and come in waves for the rest of the run. Only
arithmetic may live here.
"""

from __future__ import annotations

import math
from typing import Final

# How long it takes to hear of a refusal, in seconds: before any was seen, and within what bounds it is believed.
_LAP: Final = 0.1
_SHORTEST_LAP: Final = 0.02
_LONGEST_LAP: Final = 2.0

# How slowly a long lap is forgotten.
_FADES: Final = 0.9

# So many doublings, and there is nothing left to hold back.
_DOUBLINGS: Final = 10

# At the start so many may be under way at once, so many more after a second, and as many again before that doubles.
_AT_ONCE: Final = 8
_FIRST_SECOND: Final = 480
_SECOND: Final = 1.0


class Opening:
    """Closed until a moment, and opened step by step from then on.

    Attributes:
        at: when it opens, or began to open.
        lap: seconds after which a refusal would have been heard of.
    """

    __slots__ = ("_began", "_went", "at", "lap")

    def __init__(self) -> None:
        self.at = -math.inf
        self.lap = _LAP
        self._went: int | None = None  # requests since it opened; None when it is wide open
        self._began: float | None = math.inf  # when the first went; None when that is long ago

    def heard_after(self, seconds: float) -> None:
        """A refusal came back so long after its request was sent."""
        self.lap = min(max(seconds, _FADES * self.lap, _SHORTEST_LAP), _LONGEST_LAP)

    def close(self, until: float, *, gently: bool = True) -> None:
        """Let nothing go until then, and begin with one (``gently``) or with as many as may go otherwise."""
        self.at = max(self.at, until)
        self._went = 0 if gently else None

    def ready_at(self, in_flight: int) -> float:
        """When the next one may go, or might have gone, with so many under way."""
        return max(self._reopens_at(), self._starts_at(in_flight))

    def is_starting(self, in_flight: int) -> bool:
        """Whether it is the start that holds the next one up longest, and nothing that a refusal had closed."""
        return self._starts_at(in_flight) > self._reopens_at()

    def _reopens_at(self) -> float:
        return self.at + self.lap * math.log2(1.0 + self._went) if self._went else self.at

    def _starts_at(self, in_flight: int) -> float:
        if self._began is None or in_flight < _AT_ONCE:
            return -math.inf
        return self._began + _SECOND * math.log2(1.0 + (in_flight - _AT_ONCE) / _FIRST_SECOND)

    def took(self, now: float) -> None:
        """One goes."""
        if self._began is not None:
            self._began = min(self._began, now)
            if now - self._began > _DOUBLINGS * _SECOND:
                self._began = None
        if self._went is not None:
            if not self._went:
                self.at = max(self.at, now)
            self._went += 1
            if now - self.at > _DOUBLINGS * self.lap:
                self._went = None

    def gave_back(self) -> None:
        """One that was let go was never sent."""
        if self._went:
            self._went -= 1
