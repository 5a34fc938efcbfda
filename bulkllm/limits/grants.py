"""What a grant takes from the pools of its lane, what comes back of it, and what its answer tells them.

Only arithmetic may live here, as in :mod:`.core`. A ticket passes through in this order: :func:`check_possible`,
:func:`take`, :func:`stamp` (as often as it turns out to be sent later), :func:`hear` (for each thing its answer says),
:func:`give_back`.
"""

from __future__ import annotations

from typing import Final

from ..errors import ImpossibleRequest
from .bucket import TokenBucket, give_back_all, take_all
from .discovery import Discovered, next_to_empty
from .lanes import GRANTED, Ticket
from .pool import Amounts, Pool
from .spec import OUTPUT_TOKENS, REQUESTS, WITH_OUTPUT
from .undecided import Question, Undecided
from .word import Word

# How long after its grant a request is taken to be sent at the latest, where its owner says when. A busy event loop
# sends a few tenths of a second later; whoever takes longer must not stop a bucket from refilling for others.
LARGEST_LAG: Final = 0.5

# The first request from a full bucket may be slower on its way (it is the one that connects) than those that find it
# next to empty later: of the time in which the bucket fills, so much is left for that.
_LEAD: Final = 200

# By how many requests, and seconds at most, a bucket of ours is ahead of the provider's, for all that one refusal says.
_SOME: Final = 2.0
_DIFFERENCE: Final = 0.25

NOTHING: Final[Amounts] = (0.0, 0.0, 0.0, 0.0)


def check_possible(ticket: Ticket) -> None:
    """See that a ticket may be granted some day.

    Raises:
        ImpossibleRequest: it needs more than a configured limit's whole quota.
    """
    amounts = ticket.amounts
    for pool in ticket.lane.pools:
        for meter in pool.meters:
            if amounts[meter.dimension] > meter.quota and meter.dimension != REQUESTS:
                raise ImpossibleRequest(
                    f"the request needs {amounts[meter.dimension]:g} of {meter.name}, but limit "
                    f"{pool.name!r} gives {meter.quota:g} in all; make the request smaller (its input or its "
                    f"max_tokens) or raise the limit"
                )


def take_at_once(ticket: Ticket, buckets: tuple[TokenBucket, ...], now: float) -> bool:
    """Grant a ticket of a plain lane if all its pools let it go now, or take nothing."""
    lane = ticket.lane
    for pool in lane.pools:
        if pool.in_flight >= pool.max_in_flight:
            return False
    if not take_all(buckets, ticket.amounts, now):
        return False
    for pool in lane.pools:
        pool.in_flight += 1
    lane.in_flight += 1
    ticket.state = GRANTED
    return True


def take(ticket: Ticket, now: float) -> None:
    """Grant a ticket: take its amounts from all pools, from a bucket that is smaller than they are into debt."""
    ticket.state = GRANTED
    amounts = ticket.amounts
    lane = ticket.lane
    lane.in_flight += 1
    if lane.buckets is not None:
        for pool in lane.pools:
            pool.in_flight += 1
        for bucket in lane.buckets:
            bucket.take(amounts[bucket.dimension], now)
        return
    discovered = lane.discovered
    if discovered is not None:
        ticket.full = tuple(
            (meter, now)
            for pool in lane.pools
            for meter in pool.live
            if isinstance(meter, TokenBucket)
            and amounts[meter.dimension] > 0
            and meter.remaining(now) >= meter.capacity
        )
    for pool in lane.pools:
        pool.in_flight += 1
        for meter in pool.meters:
            meter.take(amounts[meter.dimension], now)
        if pool.question.probing:
            ticket.probes.append(pool.question.probe())
    if discovered is not None:
        ticket.passage = discovered.let_go(amounts, now)
        if discovered.question.probing:
            ticket.probes.append(discovered.question.probe())


def stamp(ticket: Ticket, now: float, *, really: bool) -> None:
    """A granted request goes out now: this is when a sliding window begins to count it. The latest stamp holds.

    ``really``: its owner says that it goes out; what may come in between is on its way then.
    """
    lane = ticket.lane
    if lane.buckets is not None:
        return
    windows = lane.windows
    if windows:
        amounts = ticket.amounts
        for window, grain in zip(windows, ticket.grains or (), strict=False):
            window.unsend(amounts[window.dimension], grain, now)
        ticket.grains = [
            window.send(amounts[window.dimension], now + window.margin if really else now) for window in windows
        ]
    if lane.discovered is not None and ticket.passage is not None:
        lane.discovered.went(ticket.passage, now, really=really)
        if really:
            _sent_later(ticket, now)


def _sent_later(ticket: Ticket, now: float) -> None:
    """A provider's full bucket stays full until the request is there: ours must not begin to refill before."""
    if ticket.full:
        for meter, since in ticket.full:
            lead = meter.capacity / meter.rate / _LEAD
            meter.full_until(min(max(now, since) + lead, since + LARGEST_LAG), since)
        ticket.full = ()


def hear(ticket: Ticket, now: float, word: Word) -> None:
    """Learn from an answer while its request holds its grant."""
    discovered = ticket.lane.discovered
    if discovered is None or ticket.passage is None:
        return
    explained = False
    for probe in ticket.probes:
        if word.verdict == "let in":
            probe.question.let_in(probe)
        elif word.verdict == "refused" and word.spent is None and not _bucket_explains(ticket, probe.question, now):
            probe.question.refused()
            explained = True
        else:
            probe.question.withdrawn(probe)
    ticket.probes = []
    if word.verdict == "refused" and word.spent is None and not explained:
        explained = _accounts_for(ticket, discovered, now)
    discovered.hear(ticket.passage, word, now, explained=explained)


def _accounts_for(ticket: Ticket, discovered: Discovered, now: float) -> bool:
    """Whether a configured limit was next to empty, so that a refusal says no more than that clocks differ."""
    passage = ticket.passage
    if passage is None:
        return False
    for pool in ticket.lane.pools:
        if not any(next_to_empty(meter, passage.sent_at, now) for meter in pool.meters):
            continue
        if pool.window == "sliding":
            came_early = [window.widen(passage.sent_at, now) for window in pool.windows]
            if any(came_early):
                return True
        if discovered.may_be_close(passage):
            discovered.was_close(passage)
            _fall_behind(pool, ticket.amounts, now)
            return True
    return False


def _fall_behind(pool: Pool, amounts: Amounts, now: float) -> None:
    """Our bucket is ahead of the provider's by a little, and would stay so: it loses what some requests take.

    Of requests it does in any case, for a refused one stays counted. Its tokens come back when it is settled.
    """
    for meter in pool.meters:
        if isinstance(meter, TokenBucket) and meter.dimension != REQUESTS:
            meter.take(min(_SOME * amounts[meter.dimension], _DIFFERENCE * meter.quota / meter.period), now)


def _bucket_explains(ticket: Ticket, question: Question, now: float) -> bool:
    """Whether a bucket would have been next to empty too, so that the refusal does not speak for a window."""
    sent_at = now if ticket.passage is None else ticket.passage.sent_at
    return any(
        next_to_empty(meter.bucket, sent_at, now)
        for pool in ticket.lane.pools
        for meter in pool.live
        if isinstance(meter, Undecided) and meter.question is question
    )


def _doubt(ticket: Ticket, now: float) -> None:
    """Nobody said that it was let in: where a window is asked about, it may not be counted there."""
    for pool in ticket.lane.pools:
        for meter in pool.live:
            if isinstance(meter, Undecided) and meter.question.answer is None:
                meter.doubt(ticket.amounts[meter.dimension], now)


def give_back(ticket: Ticket, now: float, actual: Amounts | None) -> None:
    """Leave the pools: what was not used after all comes back. None for a request that was never sent."""
    lane = ticket.lane
    lane.in_flight -= 1
    if lane.buckets is not None:
        for pool in lane.pools:
            pool.in_flight -= 1
        give_back_all(lane.buckets, ticket.amounts, NOTHING if actual is None else actual, now)
        return
    lane.used_at = now
    for probe in ticket.probes:  # nothing was heard of it
        probe.question.withdrawn(probe)
    ticket.probes = []
    if lane.discovered is not None and ticket.passage is not None:
        if actual is not None and not ticket.passage.let_in:
            _doubt(ticket, now)
        lane.discovered.over(ticket.passage, actual, now)
        ticket.passage = None
    if lane.windows and ticket.grains is None and actual is not None:
        amounts = ticket.amounts  # nobody told when it was sent: no later than now
        ticket.grains = [window.send(amounts[window.dimension], now) for window in lane.windows]
    grains = iter(ticket.grains or ())
    late = actual is not None and lane.counts_output_late
    for pool in lane.pools:
        pool.in_flight -= 1
        for meter in pool.meters:
            taken = ticket.amounts[meter.dimension]
            surplus = taken if actual is None else taken - actual[meter.dimension]
            if isinstance(meter, TokenBucket):
                if surplus:
                    meter.give(surplus, now)
                continue
            if isinstance(meter, Undecided):
                meter.settled(taken)
            if ticket.grains is None:
                meter.give_pending(taken)
            else:
                grain = next(grains)
                if surplus:
                    meter.give(surplus, grain, now)
                if late and actual is not None and meter.dimension in WITH_OUTPUT:
                    meter.count_later(actual[OUTPUT_TOKENS], grain, now)
    ticket.grains = None


def frees(ticket: Ticket, actual: Amounts | None) -> bool:
    """Whether the end of a ticket lets others go who could not have gone without it."""
    lane = ticket.lane
    if lane.buckets is None or lane.counts_in_flight or actual is None:
        return True
    amounts = ticket.amounts
    return actual is not amounts and any(kept < taken for kept, taken in zip(actual, amounts, strict=True))
