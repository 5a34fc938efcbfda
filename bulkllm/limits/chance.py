"""Whether refusals hang on how fast one goes, or on chance: some providers turn a request away now and then.

Where it was measured between two refusals what is let in, going more slowly than that ends them; by chance they come as
often as before. Taken for a limit, chance would slow a run down more and more. Only arithmetic may live here.
"""

from __future__ import annotations

import math
from typing import Final

# With fewer than so many let in between two refusals, going more slowly was of no use: where it is of use, growing back
# takes longer. Each such lesson speaks for chance and each other one against it; so many more of them decide.
_CLOSE: Final = 80
# (With next to nothing let in between them, the pace is still on its way down to a limit.)
_TOO_CLOSE: Final = 6
_DECIDE: Final = 7

# For so many requests refusals are put down to chance then, and twice as many the next time.
_FORGIVES: Final = 500
_FORGIVES_MOST: Final = 100_000


class Chance:
    """What speaks for chance."""

    __slots__ = ("_as_fast_as", "_assumed_until", "_forgives", "_score")

    def __init__(self) -> None:
        self._score = 0
        self._as_fast_as = math.inf
        self._forgives = _FORGIVES
        self._assumed_until = -1

    def is_assumed(self, number: int, *, often: bool) -> bool:
        """Whether chance was shown to be at work lately, and may be for this refusal too."""
        if often:
            self._assumed_until = -1
        return number <= self._assumed_until

    def lesson(self, went: float, rate: float, sent: int) -> float | None:
        """A refusal after so many were let in at this rate. Once it must be chance: the rate before all of it.

        Args:
            went: let in since the last refusal.
            rate: requests a second that were allowed, infinite without a pace.
            sent: requests so far.
        """
        if went < _TOO_CLOSE:
            return None
        if went >= _CLOSE:
            self._score = max(0, self._score - 1)
            return None
        if not self._score:
            self._as_fast_as = rate
        self._score += 1
        if self._score < _DECIDE:
            return None
        self._score = 0
        self._assumed_until = sent + self._forgives
        self._forgives = min(2 * self._forgives, _FORGIVES_MOST)
        return self._as_fast_as
