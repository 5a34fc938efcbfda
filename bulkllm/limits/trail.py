"""What went out in the last minute, and how much of it was let in: the notes from which a pace is found.

Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import chain, pairwise
from typing import Final

MINUTE: Final = 60.0

GRAIN: Final = 0.1
"""How exactly it is noted when requests went, in seconds."""

# Notes are kept for somewhat longer than they are asked for.
_KEPT: Final = 1.0

# So long ago is what a window of a minute lets go of next, in seconds.
_SOON: Final = 10.0

# More than so large a share of a minute's requests went within such a span, and it was a burst.
_BURST: Final = 1 / 3


class Mark:
    """A moment: when, how many had been sent before it, and how many of those were let in."""

    __slots__ = ("at", "let_in", "sent")

    def __init__(self, at: float, sent: int, let_in: int) -> None:
        self.at = at
        self.sent = sent
        self.let_in = let_in


class Trail:
    """Requests, numbered from 1 in the order in which they were granted.

    Attributes:
        sent: how many were granted, in all.
        refused: how many of them were refused.
    """

    __slots__ = ("_marks", "refused", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.refused = 0
        self._marks: deque[Mark] = deque()

    @property
    def let_in(self) -> int:
        """Requests that were not refused, those under way among them."""
        return self.sent - self.refused

    def took(self, now: float) -> None:
        """One more is granted."""
        marks = self._marks
        if not marks or now - marks[-1].at >= GRAIN:
            marks.append(Mark(now, self.sent, self.let_in))
            while marks[0].at < now - MINUTE - _KEPT:
                marks.popleft()
        self.sent += 1

    def was_refused(self, number: int) -> None:
        """This one was refused; until now it was taken for one that was let in."""
        self.refused += 1
        for mark in reversed(self._marks):
            if mark.sent < number:
                break
            mark.let_in -= 1

    def sent_by(self, moment: float) -> int:
        """How many had been sent by then, or a little more."""
        return next((mark.sent for mark in self._marks if mark.at > moment), self.sent)

    def before(self, moment: float) -> float:
        """How many of those that had been sent by a moment within the last minute were let in."""
        marks = self._marks
        if not marks or moment < marks[0].at:
            return marks[0].let_in if marks else 0.0
        for mark, after in self.pairs(math.inf):
            if after.at > moment:
                return mark.let_in + min(1.0, (moment - mark.at) / GRAIN) * (after.let_in - mark.let_in)
        return self.let_in

    def pairs(self, now: float) -> pairwise[tuple[Mark, Mark]]:
        """Each moment with the next one, and the last with now."""
        return pairwise(chain(self._marks, (Mark(now, self.sent, self.let_in),)))

    def minute(self, now: float) -> float:
        """How many were let in within the last minute."""
        return self.let_in - self.before(now - MINUTE)

    def free_at(self, now: float) -> float:
        """When the first of what went within the last minute leaves a window of a minute."""
        oldest = next((mark.at for mark in self._marks if mark.at + GRAIN > now - MINUTE), now - MINUTE)
        return oldest + MINUTE

    def leaving(self, now: float) -> float:
        """How many of what went within the last minute will soon have left a window of a minute."""
        return self.before(now - MINUTE + _SOON) - self.before(now - MINUTE)

    def is_burst(self, now: float) -> bool:
        """Whether much of what went within the last minute will leave it at about the same time."""
        return self.leaving(max(now, self.free_at(now))) >= _BURST * self.minute(now)
