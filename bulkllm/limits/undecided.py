"""A limit of which nobody knows whether the provider keeps a bucket or a sliding window: counted both ways at once.

Both let the same requests go until the bucket has refilled beyond the window: what goes then is a *probe*. One goes
alone, and its answer tells: let in, more follow, until enough were let in to be sure of a bucket; refused, it is a
window. Output that is not there yet is counted by one provider and not by another: while much of it is under way, a
window of the second kind lets probes in too. Those show only that it is not counted, and fill the window for those that
tell. Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from .bucket import Grain, SlidingWindow, TokenBucket
from .spec import WITH_OUTPUT, Window

# So many probes let in, and it is a bucket. A window that somebody else does not use could not let in even one.
_ENOUGH: Final = 3

# So much of the output under way may be there before a probe arrives.
_ARRIVES_BEFORE: Final = 0.25

EARLIER: Final = 1.0
"""The provider's window may be so many seconds before ours: what fits into ours by then shows nothing."""


class Shows(IntEnum):
    """What it shows that a request was let in which goes beyond the window as we count it."""

    NOTHING = 0
    """It did not go beyond it."""
    OUTPUT_IS_LATE = 1
    """That a window, if it is one, counts output only when it is there: such a one has room."""
    UNCLEAR = 2
    """Such a window may have room or not."""
    A_BUCKET = 3
    """That there is no window."""


class Question:
    """Which of the two a limit is; all its dimensions share one.

    Attributes:
        answer: None until it is known.
        probing: the last amount taken went beyond the window. Whoever took it sees to :meth:`probe`.
    """

    __slots__ = ("_hints", "_proofs", "answer", "probing")

    def __init__(self, answer: Window | None = None) -> None:
        self.answer = answer
        self.probing = Shows.NOTHING
        self._proofs = _Series()
        self._hints = _Series()

    def may_probe(self, shows: Shows) -> bool:
        """Whether one more may go beyond the window."""
        return self._series(shows).may_grow

    def probe(self) -> Probe:
        """A request goes beyond the window."""
        probe = Probe(self, self.probing)
        self._series(self.probing).sent += 1
        self.probing = Shows.NOTHING
        return probe

    def let_in(self, probe: Probe) -> None:
        """A probe was let in."""
        if probe.shows is Shows.UNCLEAR:
            self.withdrawn(probe)
            return
        self._series(probe.shows).let_in += 1
        if self.answer is None and self._proofs.let_in >= _ENOUGH:
            self.answer = "bucket"

    def refused(self) -> None:
        """A probe was refused."""
        if self.answer is None:
            self.answer = "sliding"

    def withdrawn(self, probe: Probe) -> None:
        """A probe ended without an answer to the question."""
        self._series(probe.shows).sent -= 1

    def _series(self, shows: Shows) -> _Series:
        return self._hints if shows is Shows.OUTPUT_IS_LATE else self._proofs


class _Series:
    """Probes of one kind: one alone at first, then twice as many as were let in."""

    __slots__ = ("let_in", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.let_in = 0

    @property
    def may_grow(self) -> bool:
        """Whether one more may follow."""
        return self.sent <= 2 * self.let_in


class Probe(NamedTuple):
    """A request that goes beyond the window: what it asks, and what it shows if it is let in."""

    question: Question
    shows: Shows


class Undecided(SlidingWindow):
    """One dimension of such a limit; once the question is answered, what the answer says."""

    __slots__ = ("_doubtful", "_foreign", "bucket", "open", "question")

    def __init__(self, name: str, dimension: int, quota: float, period: float, question: Question) -> None:
        super().__init__(name, dimension, quota, period)
        self.bucket = TokenBucket(name, dimension, quota, period)
        self.question = question
        self._foreign = SlidingWindow(name, dimension, quota, period)  # of what is counted, that nobody of ours sent
        self._doubtful = SlidingWindow(name, dimension, quota, period)  # of what failed: not every provider counts it
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
        if in_window <= max(in_bucket, now):
            return in_bucket
        if in_window > now + EARLIER and self.question.may_probe(self._would_show(amount, now)):
            # Twice the output that is under way must not explain a refusal.
            return in_bucket if not self.open else min(in_window, self.bucket.ready_at(amount, now, after + self.open))
        return in_window

    def _would_show(self, amount: float, now: float) -> Shows:
        """What it would show that so much is let in, which goes beyond the window as we count it."""
        doubtful = self.doubtful(now)
        if self.dimension not in WITH_OUTPUT:
            sure = not doubtful or super().ready_at(-doubtful, now) > now + EARLIER
            return Shows.A_BUCKET if sure else Shows.UNCLEAR
        foreign = self._foreign.capacity - self._foreign.remaining(now)
        if super().ready_at(-self.open - foreign - doubtful, now) > now + EARLIER:
            return Shows.A_BUCKET  # even if it counts no output that is under way, no failures, and us alone
        late = super().ready_at(amount - (1.0 - _ARRIVES_BEFORE) * self.open, now)
        return Shows.OUTPUT_IS_LATE if late <= now else Shows.UNCLEAR

    def take(self, amount: float, now: float) -> None:
        """Take an amount: pending until it is sent."""
        question = self.question
        if question.answer is None and super().ready_at(amount, now) > now + EARLIER:
            question.probing = max(question.probing, self._would_show(amount, now))
        if self.dimension in WITH_OUTPUT:
            self.open += amount
        super().take(amount, now)
        self.bucket.take(amount, now)

    def doubt(self, amount: float, now: float) -> None:
        """A request that took this much has failed: it may not be counted."""
        self._doubtful.correct(amount, now)

    def doubtful(self, now: float) -> float:
        """How much of what is in the window may not be counted."""
        return self._doubtful.capacity - self._doubtful.remaining(now)

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
        self.correct_window(amount, now)
        self.bucket.give(-amount, now)

    def correct_window(self, amount: float, now: float) -> None:
        """As :meth:`correct`, if it is a window."""
        super().correct(amount, now)
        self._foreign.correct(amount, now)

    def resize(self, quota: float, now: float) -> None:
        """Go on with another quota a period; what was sent stays counted."""
        super().resize(quota, now)
        self.bucket.resize(quota, quota, now)
