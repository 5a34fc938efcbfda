"""One dimension as a provider tells of it: a meter that is kept true by what the provider says.

A provider says how much is left when it lets a request in. We compare that with what we believed was left when that
request was sent, so that neither what went out since nor what came back since is mistaken for anything. The
difference corrects the meter, little by little where answers come often (they arrive out of order, and numbers are
rounded), and at once where they are rare. Where a request is refused although something should have been left, somebody
else spends too: the bucket then refills more slowly for a while. Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from .bucket import SlidingWindow, TokenBucket
from .claim import Claim, Slot
from .pool import Amounts
from .spec import DAY, OUTPUT_TOKENS, REQUESTS, WITH_OUTPUT, Window
from .trail import GRAIN, Trail
from .undecided import EARLIER, Question, Shows, Undecided

# Answers that come within this many seconds of each other count together as one correction.
_SETTLES_IN: Final = 1.0

# What leaves the provider's window a moment before it leaves ours is no news: more room there is believed slowly.
_SETTLES_IN_WINDOW: Final = 10.0

# How much of a quota somebody else can be taken to use all the time, and for how long without a word of it.
_LARGEST_DRIFT: Final = 0.9
_DRIFT_LASTS: Final = 60.0

# Whoever is refused although there should have been something left is not alone: so much of the quota is left to the
# others, twice as much each time if it comes again soon; it is forgotten slowly.
_YIELD: Final = 0.1
_LARGEST_YIELD: Final = 0.3
_SOON: Final = 20.0
_SOME_LEFT: Final = 2.0
_FORGOTTEN_IN: Final = 120.0

# So many roundings more than a window could have left, and it is a bucket.
_SURELY: Final = 2.0

_INSTANT: Final = 1e-3

# What is sent within so many seconds may arrive in any order at least: new connections, the provider's own queues.
SHUFFLED: Final = 0.25
_SLOT: Final = 0.025


class Tracked:
    """A meter, and what the provider says of it.

    Args:
        name: ``rpm``, ``tpm`` and so on.
        dimension: which of a ticket's amounts it counts.
        quota: what ``period`` seconds give.
        period: seconds.
        question: whether it is a bucket or a sliding window, if that is not known yet; all its meters share it.
        rounding: how far a told number may be off.
    """

    __slots__ = (
        "_corrections",
        "_drift",
        "_heard_at",
        "_open",
        "_room_corrections",
        "_slots",
        "_step",
        "_told_of",
        "_top",
        "_unsent",
        "_yielded_at",
        "dimension",
        "meter",
        "name",
        "question",
        "rounding",
        "shuffled",
    )

    def __init__(
        self, name: str, dimension: int, quota: float, period: float, question: Question, rounding: float = 1.0
    ) -> None:
        self.name = name
        self.dimension = dimension
        self.rounding = rounding
        self.shuffled = SHUFFLED  # what is sent within so many seconds may arrive in any order
        self.question = question
        self.meter = _meter(name, dimension, quota, period, question)
        self._open = 0.0  # tokens that are reserved and perhaps not counted by the provider yet
        self._corrections = 0.0
        self._room_corrections = 0.0
        self._drift = 0.0  # what somebody else uses, a second
        self._told_of = -math.inf  # when the latest request was sent whose answer was heard
        self._heard_at = -math.inf
        self._top = -math.inf  # the most that was ever told to be left
        self._slots: deque[Slot] = deque()
        self._unsent = 0.0
        self._step = _YIELD
        self._yielded_at = -math.inf

    @property
    def drift(self) -> float:
        """What somebody else seems to use, a second."""
        return self._drift

    @property
    def fresh(self) -> bool:
        """Whether nothing was told of it yet."""
        return self._heard_at == -math.inf

    def begin(self, remaining: float, trail: Trail, under_way: float, now: float) -> None:
        """The first word of it, by an answer to a request that was sent before anything was known.

        Args:
            remaining: what was told to be left.
            trail: what has gone out, of which this meter does not know.
            under_way: how many of those may have gone out since that answer, as far as this meter counts them.
            now: seconds.
        """
        self._heard_at = now
        meter = self.meter
        sent = trail.sent - under_way
        if isinstance(meter, SlidingWindow) and self.dimension == REQUESTS:
            for mark, after in trail.pairs(now):
                meter.take(after.let_in - mark.let_in, mark.at)
                SlidingWindow.send(meter, after.let_in - mark.let_in, mark.at + GRAIN + meter.margin)
            if isinstance(meter, Undecided):
                meter.question.probing = Shows.NOTHING  # they are no probes
        bucket = self._bucket()
        if bucket is not None and self.dimension == REQUESTS and remaining + sent + self.rounding < bucket.quota:
            # It was full when we began, with less than a period's quota; if somebody else had used it, it will be more.
            bucket.resize(bucket.quota, max(1.0, remaining + sent), now)
            self._top = remaining
        missing = meter.remaining(now) - (remaining - under_way)
        if missing <= 0:
            return
        if isinstance(meter, Undecided) and bucket is not None:
            bucket.take(missing, now)  # a small bucket has as little left: that does not fill a window
        else:
            self._correct(-missing, now)

    def take(self, amount: float, now: float) -> Claim:
        """A request is granted."""
        self.meter.take(amount, now)
        self._unsent += amount
        if self.dimension != REQUESTS:
            self._open += amount
        if self._drift and now - self._heard_at > _DRIFT_LASTS:
            self._drift_to(0.0, now)
        return Claim(self, amount)

    def send(self, claim: Claim, now: float, *, really: bool) -> None:
        """It goes out now; the latest word holds. ``really``: its owner says so, and does not only suppose it."""
        meter = self.meter
        if isinstance(meter, SlidingWindow):
            if claim.grain is not None:
                meter.unsend(claim.amount, claim.grain, now)
            claim.grain = meter.send(claim.amount, now + meter.margin if really else now)
        claim.sent_at = now
        if isinstance(meter, Undecided):
            claim.level, claim.room = meter.bucket.remaining(now), meter.room(now)
            claim.most_room = meter.room(now, EARLIER) if meter.question.answer is None else claim.room
        else:
            claim.level = meter.remaining(now)
        claim.open = self._open
        claim.base, claim.room_base = self._corrections, self._room_corrections
        if claim.slot is None:
            self._unsent -= claim.amount
        else:
            claim.slot.amount -= claim.amount
        claim.slot = self._slot(now)
        claim.before = self._unsent + sum(slot.amount for slot in self._slots)
        claim.slot.amount += claim.amount

    def _slot(self, now: float) -> Slot:
        slots = self._slots
        if not slots or now - slots[-1].began >= _SLOT:
            fresh = Slot(now)
            if slots:
                slots[-1].next = fresh
            slots.append(fresh)
            while slots[0].began < now - self.shuffled - _SLOT:
                past = slots.popleft()
                until = past.began + self.shuffled + _SLOT
                past.past(sum(slot.amount for slot in slots if slot.began <= until))
        return slots[-1]

    def give_back(self, claim: Claim, amounts: Amounts | None, now: float, *, late: bool) -> None:
        """It is over, and took these amounts in the end; None gives back all of it.

        ``late``: the provider has counted the output now, and not when the request arrived.
        """
        meter = self.meter
        actual = None if amounts is None else amounts[self.dimension]
        if claim.slot is None:
            self._unsent -= claim.amount
        if self.dimension != REQUESTS:
            self._open = max(0.0, self._open - claim.amount)
        surplus = claim.amount if actual is None else claim.amount - actual
        if isinstance(meter, TokenBucket):
            if surplus:
                meter.give(surplus, now)
            return
        if isinstance(meter, Undecided):
            meter.settled(claim.amount)
        if claim.grain is None:
            if actual is None:
                meter.give_pending(claim.amount)
                return
            claim.grain = meter.send(claim.amount, now)
        if surplus:
            meter.give(surplus, claim.grain, now)
        if late and amounts is not None and self.dimension in WITH_OUTPUT:
            meter.count_later(amounts[OUTPUT_TOKENS], claim.grain, now)

    def told(self, claim: Claim, remaining: float, now: float, *, under_way: float, for_sure: bool = False) -> None:
        """The provider says what was left when it let this request in, or (``for_sure``) refused it.

        Args:
            claim: what it took.
            remaining: what was left.
            now: seconds.
            under_way: requests that were under way when it was sent, itself among them.
            for_sure: it was refused.
        """
        if claim.sent_at < self._told_of:
            return  # later requests have told more
        meter = self.meter
        corrected = self._room_corrections - claim.room_base
        in_window = self._off(claim, remaining, claim.room + corrected)
        counts_both = isinstance(meter, Undecided) and meter.question.answer is None
        late = under_way if self.dimension == REQUESTS else claim.before + claim.open
        if isinstance(meter, Undecided):
            late += meter.doubtful(now)
        beyond = remaining - (claim.most_room + corrected) - late
        if counts_both and beyond > _SURELY * self.rounding and self.dimension not in WITH_OUTPUT:
            # More is left than a window could have, whoever else uses it, and if all that may have come later has.
            self.question.answer = "bucket"
            counts_both = False
        if isinstance(meter, Undecided) and meter.question.answer == "sliding":
            off = in_window
        else:
            off = self._off(claim, remaining, claim.level + self._corrections - claim.base)
        since = max(_INSTANT, claim.sent_at - self._told_of)
        slow = off > 0 and self._bucket() is None
        share = 1.0 if for_sure else 1.0 - math.exp(-since / (_SETTLES_IN_WINDOW if slow else _SETTLES_IN))
        self._told_of = claim.sent_at
        self._heard_at = now
        ceiling = self._ceiling(remaining, off, now)
        if for_sure:
            self._yield(claim, now)
        elif self._drift and remaining >= _SOME_LEFT * self.rounding:
            self._drift_to(self._drift * math.exp(-since / _FORGOTTEN_IN), now)
        if counts_both and off < 0:
            # Only what neither a bucket nor a window accounts for was taken by somebody else.
            off = min(0.0, max(off, in_window))
            self._correct_window(share * off, now)
        if off and not ceiling:
            self._correct(share * off, now)

    def _off(self, claim: Claim, remaining: float, believed: float) -> float:
        """By how much less, or more, was left than was believed.

        What was sent at about the same time may have come before or after, and tokens that are reserved may be counted
        by the provider already, or only once they are produced.
        """
        return min(0.0, remaining + self.rounding + claim.after() - believed) or max(
            0.0, remaining - believed - claim.before - claim.open
        )

    def _yield(self, claim: Claim, now: float) -> None:
        """Somebody else took what should have been left. One burst is one lesson."""
        if claim.sent_at < self._yielded_at:
            return
        soon = now - self._yielded_at < _SOON
        self._step = min(_LARGEST_YIELD, 2 * self._step) if soon else _YIELD
        self._yielded_at = now
        self._drift_to(self._drift + self._step * self.meter.quota / self.meter.period, now)

    def _ceiling(self, remaining: float, off: float, now: float) -> bool:
        """Whether the provider's bucket was full with less than we thought: it is smaller than a period's quota."""
        bucket = self._bucket()
        at_top = remaining >= self._top
        self._top = max(self._top, remaining)
        if bucket is None:
            return False
        if remaining > bucket.capacity:
            bucket.resize(bucket.quota, min(bucket.quota, remaining), now)
            self._drift_to(self._drift, now)
        if off < 0 and at_top:
            before = bucket.remaining(now)
            bucket.resize(bucket.quota, max(1.0, remaining + self.rounding), now)
            bucket.set_remaining(max(0.0, before + off), now)
            self._corrections += bucket.remaining(now) - before
            self._drift_to(0.0, now)
            return True
        return False

    def _bucket(self) -> TokenBucket | None:
        """The bucket, where it is one or may be."""
        meter = self.meter
        if isinstance(meter, TokenBucket):
            return meter
        return meter.bucket if isinstance(meter, Undecided) and meter.question.answer != "sliding" else None

    def refused(self, claim: Claim, now: float) -> None:
        """The request was refused for want of this, and no more is known: there was less left than it asked for."""
        meter = self.meter
        if isinstance(meter, Undecided) and meter.question.answer == "sliding":
            believed = claim.room + self._room_corrections - claim.room_base - claim.after()
        else:
            believed = claim.level + self._corrections - claim.base - claim.after()
        if claim.sent_at > -math.inf and believed > 0:
            self._correct(-believed, now)

    def _correct(self, change: float, now: float) -> None:
        meter = self.meter
        if isinstance(meter, Undecided) and meter.question.answer == "sliding":
            self._correct_window(change, now)
            return
        bucket = self._bucket()
        if bucket is not None:
            before = bucket.remaining(now)
            change = max(change, min(0.0, -bucket.quota - before))  # nobody is in debt for longer than a period
            self._corrections += change
            bucket.set_remaining(before + change, now)
        else:
            self._corrections += change
            meter.correct(-change, now)  # type: ignore[union-attr]  # no bucket: it is a window

    def _correct_window(self, change: float, now: float) -> None:
        """Where it may be a bucket or a window, or has turned out to be a window."""
        meter = self.meter
        change = max(change, min(0.0, -meter.quota - SlidingWindow.remaining(meter, now)))  # type: ignore[arg-type]  # as above
        self._room_corrections += change
        if isinstance(meter, Undecided):
            meter.correct_window(-change, now)
        else:
            meter.correct(-change, now)  # type: ignore[union-attr]  # as above

    def _drift_to(self, drift: float, now: float) -> None:
        rate = self.meter.quota / self.meter.period
        self._drift = max(0.0, min(_LARGEST_DRIFT * rate, drift))
        bucket = self._bucket()
        if bucket is not None:
            bucket.refill_at(rate - self._drift, now)

    def resize(self, quota: float, now: float) -> None:
        """The provider tells another quota."""
        meter = self.meter
        bucket = self._bucket()
        before, room = (meter if bucket is None else bucket).remaining(now), meter.quota
        if isinstance(meter, TokenBucket):
            meter.resize(quota, quota, now)
        else:
            meter.resize(quota, now)
        if bucket is not None and bucket.remaining(now) < -quota:
            bucket.set_remaining(-quota, now)  # a debt of periods at the old quota
        # What is left by the new quota is known already.
        self._corrections += (meter if bucket is None else bucket).remaining(now) - before
        self._room_corrections += quota - room
        self._drift = 0.0


def _meter(name: str, dimension: int, quota: float, period: float, question: Question) -> TokenBucket | SlidingWindow:
    # What a minute's quota shows says nothing of a day's, which a wrong answer would close for a day.
    answer: Window | None = question.answer if period < DAY else "bucket"
    if answer == "bucket":
        return TokenBucket(name, dimension, quota, period)
    if answer == "sliding":
        return SlidingWindow(name, dimension, quota, period)
    return Undecided(name, dimension, quota, period, question)
