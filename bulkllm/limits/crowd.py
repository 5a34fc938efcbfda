"""How many requests may be under way at once, where nobody tells.

Doubled each round trip until something is refused, cut when the provider is overloaded, and let grow again. Only
arithmetic may live here.
"""

from __future__ import annotations

import math
from typing import Final

# How many may be under way before the first answer.
_AT_FIRST: Final = 16

# Who has so many under way without a refusal is not held back any more.
_PLENTY: Final = 2048

# What an overloaded provider is left with.
_CUT: Final = 0.7

# Seconds without a cut after which growth is twice as fast.
_CALM: Final = 2.0


class Crowd:
    """A bound on requests in flight.

    Attributes:
        most: how many may be under way; infinite without a bound.
    """

    __slots__ = ("_cut_at", "_doubling", "most")

    def __init__(self, *, careful: bool) -> None:
        self.most = float(_AT_FIRST) if careful else math.inf
        self._doubling = True
        self._cut_at = -math.inf

    def free(self) -> None:
        """A limit is known now, or a pace: no need to feel one's way."""
        if self._doubling:
            self.most = math.inf

    def reopen(self) -> None:
        """The provider was closed: one request goes first, and then twice as many each round trip."""
        self.most = 1.0
        self._doubling = True

    def let_in(self, in_flight: int, now: float) -> None:
        """A request was let in while so many were under way."""
        if self.most < math.inf and in_flight >= self.most / 2:
            # One more each round trip after a cut, and more the longer there was none.
            self.most += 1.0 if self._doubling else min(1.0, (1.0 + (now - self._cut_at) / _CALM) / self.most)
            if self.most >= _PLENTY:
                self.most = math.inf

    def overloaded(self, sent_at: float, in_flight: int, now: float) -> None:
        """The provider had no capacity for a request; those sent before the last cut tell nothing new."""
        if sent_at > self._cut_at:
            self.most = max(1.0, float(int(_CUT * in_flight)))
            self._doubling = False
            self._cut_at = now
