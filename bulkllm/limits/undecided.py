"""A limit of which nobody knows whether the provider keeps a bucket or a sliding window: counted both ways at once.

Both let the same requests go until the bucket has refilled beyond the window: what goes then is a *probe*. One goes
alone, and its answer tells: let in, more follow, until enough were let in to be sure of a bucket; refused, it is a
window. Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

from typing import Final

from .bucket import Grain, SlidingWindow, TokenBucket
from .spec import WITH_OUTPUT, Window

# So many probes let in, and it is a bucket. A window that somebody else does not use could not let in even one.
_ENOUGH: Final = 3


EARLIER: Final = 1.0
"""The provider's window may be so many seconds before ours: what fits into ours by then shows nothing."""


class Question:
    """Which of the two a limit is; all its dimensions share one.

    Attributes:
        answer: None until it is known.
        probing: the last amount taken went beyond the window. Whoever took it sees to :meth:`probe`.
    """

    __slots__ = ("_let_in", "_sent", "answer", "probing")

    def __init__(self, answer: Window | None = None) -> None:
        self.answer = answer
        self.probing = False
        self._sent = 0
        self._let_in = 0

    @property
    def may_probe(self) -> bool:
        """Whether one more may go beyond the window: alone at first, then twice as many as were let in."""
        return self._sent <= 2 * self._let_in

    def probe(self) -> None:
        """A request goes beyond the window."""
        self.probing = False
        self._sent += 1

    def let_in(self) -> None:
        """A probe was let in."""
        self._let_in += 1
        if self.answer is None and self._let_in >= _ENOUGH:
            self.answer = "bucket"

    def refused(self) -> None:
        """A probe was refused."""
        if self.answer is None:
            self.answer = "sliding"

    def withdrawn(self) -> None:
        """A probe ended without an answer to the question."""
        self._sent -= 1


class Undecided(SlidingWindow):
    """One dimension of such a limit; once the question is answered, what the answer says."""

    __slots__ = ("bucket", "open", "question")

    def __init__(self, name: str, dimension: int, quota: float, period: float, question: Question) -> None:
        super().__init__(name, dimension, quota, period)
        self.bucket = TokenBucket(name, dimension, quota, period)
        self.question = question
        self.open = 0.0  # output that is reserved, and perhaps counted by the provider only when it is there

    def ready_at(self, amount: float, now: float, after: float = 0.0) -> float:
        """When ``amount`` fits; infinity if that hangs on a probe's answer, or on a request that is not sent yet."""
        answer = self.question.answer
        if answer == "bucket":
            return self.bucket.ready_at(amount, now, after)
        in_window = super().ready_at(amount, now, after)
        if answer == "sliding":
            return in_window
        in_bucket = self.bucket.ready_at(amount, now, after)
        if in_window <= max(in_bucket, now) or (self.question.may_probe and self._is_beyond(amount + after, now)):
            return in_bucket
        return in_window

    def _is_beyond(self, amount: float, now: float) -> bool:
        """Whether a window could not let this in, however little of its output and of what is under way it counts."""
        surely = -self.open if self.dimension in WITH_OUTPUT else amount
        return super().ready_at(surely, now) > now + EARLIER

    def take(self, amount: float, now: float) -> None:
        """Take an amount: pending until it is sent."""
        question = self.question
        if question.answer is None and self._is_beyond(amount, now):
            question.probing = True
        if self.dimension in WITH_OUTPUT:
            self.open += amount
        super().take(amount, now)
        self.bucket.take(amount, now)

    def settled(self, amount: float) -> None:
        """A request that took this much is over."""
        if self.dimension in WITH_OUTPUT:
            self.open = max(0.0, self.open - amount)

    def give_pending(self, amount: float) -> None:
        """Give back what was never sent."""
        super().give_pending(amount)
        self.bucket.give(amount, 0.0)  # giving needs no time

    def give(self, amount: float, grain: Grain, now: float) -> None:
        """Correct what was sent at ``grain`` (negative: it was more)."""
        super().give(amount, grain, now)
        self.bucket.give(amount, now)

    def remaining(self, now: float) -> float:
        """What would fit now; negative in debt."""
        if self.question.answer == "sliding":
            return super().remaining(now)
        return self.bucket.remaining(now)

    def room(self, now: float, early: float = 0.0) -> float:
        """What would fit now if it is a window, and one from which everything leaves so much earlier than from ours."""
        room = super().remaining(now)
        if early:
            for grain in self._grains:
                if grain.stamp + self.period > now + early:
                    break
                room += grain.amount
        return room

    def correct(self, amount: float, now: float) -> None:
        """Somebody else took this much now; or, if negative, this much less was taken than is counted."""
        super().correct(amount, now)
        self.bucket.give(-amount, now)

    def resize(self, quota: float, now: float) -> None:
        """Go on with another quota a period; what was sent stays counted."""
        super().resize(quota, now)
        self.bucket.resize(quota, quota, now)
