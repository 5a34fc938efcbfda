"""What a provider has shown of its limits for one model and account: the pool that nobody configured.

It begins with nothing (or with what was remembered of the last run) and learns from every answer: quotas that headers
tell and what is left of them, a time until which nothing goes after a refusal, a pace where nobody tells a limit, and
how many requests an overloaded provider bears. Only arithmetic may live here, as in :mod:`.bucket`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from .brake import Brake
from .bucket import Meter, SlidingWindow, TokenBucket
from .claim import Claim
from .crowd import Crowd
from .feedback import Observation
from .learned import LearnedLimits
from .opening import Opening
from .origin import Origin
from .pace import Pace
from .pool import DIMENSIONS, WHOLE, Amounts, Pool
from .spec import REQUESTS, Window
from .spent import DAYS, Spent
from .tracked import SHUFFLED, Tracked
from .undecided import Question, Undecided
from .word import Closing, Word, closing_for

# Seconds that nothing goes after a refusal that does not say how long, and that a limit we know of accounts for.
_PAUSE: Final = 0.5

# So large a share of the last requests refused, and there is a limit that the provider does not tell.
_OFTEN: Final = 0.2
_LAST_ONES: Final = 50

# A quota that is so many times another one, or that small a part of it, is believed when it is told twice in a row.
_UNLIKELY: Final = 10.0

# The lag between a grant and its sending: how slowly it is forgotten, how much it counts for, and at most.
_LAG_FADES: Final = 0.98
_LAG_COUNTS: Final = 3.0
_LARGEST_SHUFFLED: Final = 2.0

# A refusal by a limit that was next to empty tells no more than that two clocks differ a little, but not if it
# comes again within so many requests.
_RARE: Final = 50
_NEXT_TO_EMPTY: Final = 2.0


class Knowledge(NamedTuple):
    """What is worth remembering: quotas with their periods, by name; how they count; a pace in requests a second."""

    quotas: dict[str, tuple[float, float]]
    window: Window | None
    rate: float | None


class Passage:
    """One granted request, as this pool sees it."""

    __slots__ = ("claims", "granted_at", "let_in", "number", "sent_at", "under_way")

    def __init__(self, claims: list[Claim], number: int, now: float) -> None:
        self.claims = claims
        self.granted_at = now
        self.let_in = False
        self.number = number
        self.sent_at = -math.inf
        self.under_way = 0  # requests at that moment, itself among them


class Discovered(Pool):
    """The limits of one model at one provider's account, as far as they are known.

    Args:
        name: what status calls it.
        origin: whose limits they are.
        question: whether the provider counts by bucket or window, shared with the configured limits of the lane.
        careful: nothing is configured that bounds how fast requests go: feel the way.
        now: seconds.
    """

    __slots__ = (
        "__weakref__",
        "_blamed_at",
        "_brakes",
        "_burst",
        "_careful",
        "_crowded_by",
        "_lag",
        "_live",
        "_rumours",
        "_share_refused",
        "closing",
        "crowd",
        "has_windows",
        "news",
        "opening",
        "origin",
        "pace",
        "question",
        "tracked",
    )

    def __init__(self, name: str, origin: Origin, question: Question, *, careful: bool, now: float) -> None:
        super().__init__(None, name)
        self.origin = origin
        self.question = question
        self.tracked: dict[str, Tracked] = {}
        self.opening = Opening()
        self.closing: Closing | None = None  # the latest one, until something was let in after it
        self.pace = Pace(now)
        self.crowd = Crowd(careful=careful)
        self._crowded_by = "start"  # why no more may be under way: that, "closed", or "in flight" after a cut
        self._careful = careful
        self.max_in_flight = self.crowd.most
        self.news = False  # something was learned that is worth remembering
        self._brakes: tuple[Brake, ...] = ()
        self._burst: TokenBucket | None = None
        self._live: tuple[Meter, ...] = ()
        self.has_windows = False  # among those
        self._lag = 0.0
        self._rumours: dict[str, float] = {}  # quotas that were told by one answer and are hard to believe
        self._share_refused = 0.0
        self._blamed_at = -_RARE

    @property
    def counts_output_late(self) -> bool:
        """Whether the provider counts output when it is produced, and not when the request arrives, as far as known."""
        return self.origin.profile.charges in ("output", "unknown")

    # -- may it go? ------------------------------------------------------------------------------------------

    def ready_at(self, amounts: Amounts, now: float) -> float:
        """When this pool could let the amounts in: ``now`` or earlier is at once, infinity hangs on an event."""
        if self.in_flight >= self.max_in_flight:
            return math.inf
        ready = self.opening.ready_at(self.in_flight)
        for meter in (*self._live, *self._brakes):
            at = meter.ready_at(amounts[meter.dimension], now)
            if at > ready:
                ready = at
        return ready

    def delays(self, first: Amounts, second: Amounts, until: float, now: float) -> bool:
        """Whether the second could go only after ``until`` in this pool if the first went now."""
        return self.in_flight + 1 >= self.max_in_flight or any(
            meter.ready_at(second[meter.dimension], now, first[meter.dimension]) > until
            for meter in (*self._live, *self._brakes)
        )

    def bottleneck(self, amounts: Amounts, now: float) -> str:
        """What of it holds a request up longest."""
        if (closing := self.spent(now)) is not None:
            return DAYS.get(closing.quota, "closed")
        if self.in_flight >= self.max_in_flight:
            return self._crowded_by
        held_by = "start" if self.opening.is_starting(self.in_flight) else "closed"
        if not self._live:
            return held_by
        slowest = max(self._live, key=lambda meter: meter.ready_at(amounts[meter.dimension], now))
        ready = max(now, slowest.ready_at(amounts[slowest.dimension], now))
        return held_by if ready < self.opening.ready_at(self.in_flight) else slowest.name

    @property
    def closed_until(self) -> float:
        """Until when nothing goes, or went."""
        return self.opening.at

    def spent(self, now: float) -> Closing | None:
        """Whether it is closed for a quota of a day or longer."""
        closing = self.closing
        return closing if closing is not None and now < closing.until else None

    @property
    def live(self) -> tuple[Meter, ...]:
        """All that bounds this pool over time."""
        return self._live

    # -- a request's way -------------------------------------------------------------------------------------

    def let_go(self, amounts: Amounts, now: float) -> Passage:
        """A request is granted."""
        for brake in self._brakes:
            brake.take(amounts[brake.dimension], now)
        claims = [tracked.take(amounts[tracked.dimension], now) for tracked in self.tracked.values()]
        if self._burst is not None:
            self._burst.take(1.0, now)
        self.opening.took(now)
        if self.pace.took(now):
            self._watch()
        return Passage(claims, self.pace.trail.sent, now)

    def went(self, passage: Passage, now: float, *, really: bool) -> None:
        """It goes out now."""
        passage.sent_at = now
        passage.under_way = self.in_flight
        if really:
            # A loop that is late in sending is late in everything, so that requests overtake each other.
            self._lag = max(now - passage.granted_at, _LAG_FADES * self._lag)
            shuffled = min(max(SHUFFLED, _LAG_COUNTS * self._lag), _LARGEST_SHUFFLED)
            for tracked in self.tracked.values():
                tracked.shuffled = shuffled
        for claim in passage.claims:
            claim.tracked.send(claim, now, really=really)

    def over(self, passage: Passage, actual: Amounts | None, now: float) -> None:
        """It is over; None for one that was never sent."""
        for claim in passage.claims:
            claim.tracked.give_back(claim, actual, now, late=self.counts_output_late)
        if actual is None:
            if self._burst is not None:
                self._burst.give(1.0, now)
            self.pace.gave_back(now)
            self.opening.gave_back()

    # -- what answers say ------------------------------------------------------------------------------------

    def hear(self, passage: Passage, word: Word, now: float, *, explained: bool = False) -> None:
        """Learn from an answer. ``explained``: a configured limit of ours accounts for a refusal."""
        refused = word.verdict == "refused"
        guilty = self._listen(passage, word.told, now, refused=refused)
        if word.spent is not None:
            self._spend(passage, word.spent, now)
            return
        self._share_refused += (refused - self._share_refused) / _LAST_ONES
        if word.verdict == "let in":
            passage.let_in = True
            if self.closing is None or passage.sent_at >= self.closing.until:
                self.closing = None
                self.crowd.let_in(self.in_flight, now)
        elif refused:
            self._refused(passage, word.retry_after, now, explained=explained or guilty)
        else:
            self._overloaded(passage.sent_at, now)
        self.max_in_flight = self.crowd.most

    def close(self, until: float) -> None:
        """Let nothing go until then."""
        self.opening.close(until)

    def _spend(self, passage: Passage, spent: Spent, now: float) -> None:
        """A quota of a day or longer is spent: no pace is to blame.

        When it opens one request goes first, and then more and more: the quota may be spent still, or refilled by a
        few requests only.
        """
        self.pace.count_refused(passage.number, now)
        self.closing = closing_for(self.closing, spent, passage.sent_at, now)
        self.opening.close(self.closing.until, gently=False)
        self.crowd.reopen()  # more goes only with the answers
        self._crowded_by = "closed"
        self.max_in_flight = self.crowd.most

    def _overloaded(self, sent_at: float, now: float) -> None:
        """The provider had no capacity for a request."""
        self.crowd.overloaded(sent_at, self.in_flight, now)
        self._crowded_by = "in flight"

    def _listen(self, passage: Passage, told: Iterable[Observation], now: float, *, refused: bool) -> bool:
        """Take in what headers say. Tells whether they account for a refusal."""
        guilty = False
        claims = {claim.tracked.name: claim for claim in passage.claims}
        for seen in told:
            name = seen.names.dimension
            if seen.limit is not None and self._is_rumour(name, seen.limit):
                continue
            if seen.limit is not None:
                self._quota(name, seen.limit, seen.names.period, seen.names.rounding, now)
            tracked = self.tracked.get(name)
            if tracked is None or seen.remaining is None or seen.remaining > tracked.meter.quota:
                continue
            claim = claims.get(name)
            short = refused and seen.remaining < max(1.0, 0.0 if claim is None else claim.amount)
            guilty = guilty or short
            if claim is None:  # sent before this limit was known: what went out since is not in the number
                if tracked.fresh:
                    under_way = self._under_way(tracked)
                    tracked.begin(seen.remaining, self.pace.trail, under_way, now)
                continue
            tracked.told(claim, seen.remaining, now, under_way=passage.under_way, for_sure=short)
        return guilty

    def _under_way(self, tracked: Tracked) -> float:
        """What may not be in a number that an answer told: requests that were granted before the limit was known."""
        return float(max(0, self.in_flight - 1)) if tracked.dimension == REQUESTS else 0.0

    def _is_rumour(self, name: str, quota: float) -> bool:
        """Whether a quota is so far from the known one that a second answer must say so too."""
        tracked = self.tracked.get(name)
        if tracked is None or _alike(quota, tracked.meter.quota):
            self._rumours.pop(name, None)
            return False
        before = self._rumours.get(name)
        self._rumours[name] = quota
        return before is None or not _alike(quota, before)

    def _quota(self, name: str, quota: float, period: float, rounding: float, now: float) -> None:
        tracked = self.tracked.get(name)
        if tracked is None:
            self.know(name, quota, period, rounding)
            self.news = True
        elif tracked.meter.quota != quota:
            tracked.resize(quota, now)
            self._watch()
            self.news = True

    def know(self, name: str, quota: float, period: float, rounding: float = 1.0) -> None:
        """A quota is known from now on."""
        self.tracked[name] = Tracked(name, DIMENSIONS[name], quota, period, self.question, rounding)
        self._watch()
        self.crowd.free()
        self.max_in_flight = self.crowd.most

    def _watch(self) -> None:
        """The meters to be asked have changed."""
        meters: list[Meter] = [tracked.meter for tracked in self.tracked.values()]
        rpm = self.tracked.get("rpm")
        seconds = self.origin.profile.burst
        if rpm is None or seconds >= min(WHOLE, rpm.meter.period):
            self._burst = None
        else:
            quota, period = rpm.meter.quota, rpm.meter.period
            before = self._burst
            if before is None or (before.quota, before.period) != (quota, period):
                size = max(1.0, quota * seconds / period)
                self._burst = TokenBucket("rpm burst", REQUESTS, quota, period, capacity=size)
            meters.append(self._burst)  # type: ignore[arg-type]  # there is one
        self._live = (*meters, *self.pace.meters)
        self.has_windows = any(isinstance(meter, SlidingWindow) for meter in self._live)
        told = [tracked.meter for tracked in self.tracked.values()]
        self._brakes = tuple(Brake(meter) for meter in told if isinstance(meter, TokenBucket | Undecided))

    def _refused(self, passage: Passage, retry_after: float | None, now: float, *, explained: bool) -> None:
        sent_at = max(passage.sent_at, passage.granted_at)
        self.opening.heard_after(now - sent_at)
        if not explained and self.may_be_close(passage) and self._next_to_empty(passage, now):
            explained = True
            self.was_close(passage)
        if not explained and "rpm" in self.tracked and self._share_refused < _OFTEN:
            explained = True  # it tells a limit, and this is not it: it is busy, or bears no more at once
            self._overloaded(sent_at, now)
        if explained:
            self.pace.count_refused(passage.number, now)
            self.close(now + (_PAUSE if retry_after is None else retry_after))
            return
        pause = self.pace.refuse(
            passage.number,
            sent_at,
            now,
            retry_after,
            self.question.answer,
            often=self._share_refused >= _OFTEN,
            bound=not self._careful,
        )
        if pause is not None:
            self.close(now + pause)
            self.crowd.free()
            self._watch()
            self.news = True
        elif retry_after is not None:
            self.close(now + retry_after)

    def may_be_close(self, passage: Passage) -> bool:
        """Whether a refusal may be put down to two clocks that differ a little: now and then only."""
        return passage.number - self._blamed_at > _RARE

    def was_close(self, passage: Passage) -> None:
        """It was put down to that."""
        self._blamed_at = passage.number

    def _next_to_empty(self, passage: Passage, now: float) -> bool:
        """Whether a meter of this pool was about to hold requests up anyway; it is emptied then."""
        for claim in passage.claims:
            if next_to_empty(claim.tracked.meter, passage.sent_at, now):
                claim.tracked.refused(claim, now)
                return True
        return False

    # -- what is remembered ----------------------------------------------------------------------------------

    def remember(self, known: LearnedLimits, now: float) -> None:
        """Begin with what the last run learned."""
        for name, quota in known.quotas.items():
            if name in DIMENSIONS:
                self.know(name, quota.amount, quota.period)
        if known.rate is not None and "rpm" not in self.tracked:
            self.pace.set_rate(known.rate, now)
            self.crowd.free()
            self._watch()
        self.max_in_flight = self.crowd.most
        self.news = False

    def knowledge(self) -> Knowledge:
        """What is worth remembering."""
        quotas = {name: (tracked.meter.quota, tracked.meter.period) for name, tracked in self.tracked.items()}
        rate = self.pace.rate
        return Knowledge(quotas, self.question.answer, rate if rate < math.inf and "rpm" not in quotas else None)


def _alike(quota: float, other: float) -> bool:
    return other / _UNLIKELY <= quota <= other * _UNLIKELY


def next_to_empty(meter: Meter, sent_at: float, now: float) -> bool:
    """Whether so little was left when a request was sent that a small difference of clocks explains its refusal."""
    return meter.remaining(now) <= _NEXT_TO_EMPTY + meter.quota / meter.period * (now - sent_at)
