"""The limiter's arithmetic: who may go, who waits, and when the next one may.

Only pure state may live here: no lock, no clock (``now`` comes in, in seconds), no thread, no event loop. A shell
(:mod:`.limiter`) holds the lock and wakes those who wait; a simulation can drive the same core on a virtual clock.

Terms. A *pool* is the state of one limit. A *ticket* is one request's claim on all pools that match its model.
Tickets for the same set of pools stand in one *lane*, first come, first served. Lanes that share pools, directly or
through others, form a *group*; nothing in one group ever touches another.

The order. In each pool nobody overtakes a ticket which that pool holds up; a ticket that is held up only elsewhere
does not idle this pool. A ticket which no single pool has held up all the time would be losing its turn again and
again, now to the one queue, now to the other: from then on nobody overtakes it anywhere, unless it goes no later for
that (a limit that is closed for an hour must not idle the others for an hour).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import Final

from .discovery import Discovered
from .grants import check_possible, frees, give_back, hear, stamp, take, take_at_once
from .groups import Group, Lanes
from .lanes import GRANTED, NEW, SETTLED, TURNED_AWAY, WAITING, Lane, Ticket
from .learned import LearnedLimits
from .order import Round, reason
from .origin import Origin
from .pool import Amounts, Pool
from .spec import RateLimit
from .undecided import Question
from .word import Word

# One level of priority counts as having arrived this many seconds earlier: it goes before whoever came in the
# meantime and after whoever has waited longer than that, so that no level starves another.
PRIORITY_SECONDS: Final = 60.0

# Whoever waited and is granted late (a thread wakes some 0.1 ms after its time, a busy machine later) is booked at
# the moment it was due, at most this many seconds ago: otherwise a bucket with a small burst loses that time each
# time. So a bucket gives at most this much of its rate above its capacity, and only to those who waited.
LATENESS: Final = 0.05

# A pool that is closed until so much later than before is news to those who wait.
_NOTABLY_LATER: Final = 1.0

# More alarms than this, and twice as many as are live, and the others are dropped.
_FEW_ALARMS: Final = 64


class Core:
    """All pools and queues. Not thread-safe: one caller at a time.

    Args:
        limits: the limits; or pools of them, made elsewhere.

    Attributes:
        granted: tickets whose owners have waited and are to be woken: they were granted, or turned away.
    """

    def __init__(self, limits: Iterable[RateLimit | Pool]) -> None:
        self.pools = tuple(limit if isinstance(limit, Pool) else Pool(limit) for limit in limits)
        self.granted: list[Ticket] = []
        self.waiting = 0
        self._lanes = Lanes(self._set_alarm)
        # The lanes that were asked for, by model, or by model and origin. To look one up takes no lock.
        self.known_lanes = self._lanes.known
        self.waits: dict[str, float] = {}  # seconds that requests waited, by what for
        self._alarms: list[tuple[float, int, Group]] = []
        self._most_alarms = _FEW_ALARMS
        self._serial = 0

    def lane(
        self, model: str, origin: Origin | None = None, *, now: float = 0.0, known: LearnedLimits | None = None
    ) -> Lane:
        """The lane of a model's requests.

        Args:
            model: LiteLLM's name of it.
            origin: whose limits it falls under, if the provider's answers are heard; then they are learned.
            now: seconds.
            known: what was learned of them before.
        """
        key = model if origin is None else (model, origin)
        lane = self.known_lanes.get(key)
        if lane is None:
            pools = tuple(self._configured(model))
            if origin is None:
                for pool in pools:
                    if not pool.in_use:  # others may be finding out
                        pool.suit("bucket", math.inf, now)  # there is nobody to learn from
            else:
                pools = (*pools, self._discover(model, origin, pools, now, known))
            lane = self.known_lanes[key] = self._lanes.of(pools, now)
        return lane

    def _discover(
        self, model: str, origin: Origin, pools: tuple[Pool, ...], now: float, known: LearnedLimits | None
    ) -> Discovered:
        profile = origin.profile
        window = None if profile.window == "unknown" else profile.window
        for pool in pools:
            pool.suit(window or (known.window if known is not None else None), profile.burst, now)
        counted = [pool for pool in pools if pool.meters]
        question = counted[0].question if counted else Question(window or (known.window if known else None))
        found = Discovered(model, origin, question, careful=not counted, now=now)
        if known is not None:
            found.remember(known, now)
        return found

    def request(
        self, ticket: Ticket, now: float, *, priority: float = 0, front: bool = False, patience: float = math.inf
    ) -> bool:
        """Grant a ticket, let it stand in line, or turn it away.

        Args:
            ticket: a new one.
            now: seconds.
            priority: each level counts as having arrived :data:`PRIORITY_SECONDS` earlier.
            front: it goes before all others.
            patience: seconds that it waits at most for a quota of a day or longer that is spent.

        Returns:
            Whether it was granted at once.

        Raises:
            ImpossibleRequest: it needs more than a limit's whole quota.
        """
        if self.grant_at_once(ticket, now):
            return True
        lane = ticket.lane
        check_possible(ticket)
        self._serial += 1
        ticket.stand_in_line((-math.inf if front else now - priority * PRIORITY_SECONDS, self._serial), patience)
        if lane.discovered is not None and ticket.gives_up(now):
            ticket.state = TURNED_AWAY
        else:
            self._enqueue(ticket, now)
        return ticket.state == GRANTED

    def grant_at_once(self, ticket: Ticket, now: float) -> bool:
        """Grant a ticket if nobody stands before it and all pools let it go now.

        Raises:
            ImpossibleRequest: it needs more than a limit's whole quota.
        """
        lane = ticket.lane
        if lane.buckets is not None:
            return not lane.group.waiting and take_at_once(ticket, lane.buckets, now)
        lane.used_at = now
        if lane.forgotten:  # when it had been looked up already
            self._lanes.add(lane)
        if lane.group.waiting:
            return False
        check_possible(ticket)
        if lane.ready_at(ticket.amounts, now) <= now:
            self._grant(ticket, now)
            return True
        return False

    def try_request(self, ticket: Ticket, now: float) -> bool:
        """Grant a ticket if it need not wait; otherwise forget it."""
        if self.request(ticket, now):
            return True
        self.settle(ticket, now, None)
        return False

    def stamp(self, ticket: Ticket, now: float, *, really: bool = False) -> None:
        """The request goes out now; ``really`` if its owner says so."""
        if ticket.state == GRANTED:
            stamp(ticket, now, really=really)
            if ticket.lane.group.waiting and ticket.lane.has_windows:  # what was pending has an end now
                self._advance(ticket.lane.group, now)

    def settle(self, ticket: Ticket, now: float, actual: Amounts | None, word: Word | None = None) -> None:
        """The request is over, or given up while it waited.

        Args:
            ticket: settling it twice changes nothing.
            now: seconds.
            actual: what it took in the end; None gives back all of it.
            word: what the provider's answer said of its limits.
        """
        if ticket.state == GRANTED:
            if word is not None:
                self._hear(ticket, now, word)
            ticket.state = SETTLED
            self._give_back(ticket, now, actual)
            if not ticket.lane.group.waiting or not frees(ticket, actual):
                return
        elif ticket.state == WAITING:
            ticket.state = SETTLED
            self._leave(ticket)
        else:
            ticket.state = SETTLED
            return
        if ticket.lane.group.waiting:
            self._advance(ticket.lane.group, now)

    def heard(self, ticket: Ticket, now: float, word: Word) -> None:
        """An answer has begun to come, and said something already."""
        if ticket.state == GRANTED:
            self._hear(ticket, now, word)
        if ticket.lane.group.waiting:
            self._advance(ticket.lane.group, now)

    def pass_over(self, ticket: Ticket, now: float) -> None:
        """A granted ticket cannot be used by its owner now: undo the grant, so that the next may go."""
        if ticket.state == GRANTED:
            self._give_back(ticket, now, None)
            ticket.state = NEW
            if ticket.lane.group.waiting:
                self._advance(ticket.lane.group, now)

    def resume(self, ticket: Ticket, now: float) -> None:
        """Whoever was passed over is back, and takes its old place in line."""
        if ticket.state == NEW and not ticket.gives_up(now):
            self._enqueue(ticket, now)
        elif ticket.state in (NEW, TURNED_AWAY):
            ticket.state = TURNED_AWAY
            self.granted.append(ticket)

    def all_pools(self) -> tuple[Pool, ...]:
        """All limits, the configured ones first."""
        found = [lane.discovered for lane in self._lanes if lane.discovered is not None]
        return (*self.pools, *found)

    def lanes_of(self, model: str) -> list[Lane]:
        """All lanes of a model that were used, of each account one."""
        found = [lane for key, lane in self.known_lanes.items() if (key if isinstance(key, str) else key[0]) == model]
        return list(dict.fromkeys(found))

    def pools_of(self, model: str) -> tuple[Pool, ...]:
        """All limits of a model: those of its lanes; before there is one, those that were configured."""
        pools = [pool for lane in self.lanes_of(model) for pool in lane.pools] or self._configured(model)
        return tuple(dict.fromkeys(pools))

    def _configured(self, model: str) -> list[Pool]:
        return [pool for pool in self.pools if pool.spec is not None and pool.spec.matches(model)]

    def due(self, now: float) -> None:
        """Grant all that has come free by the passing of time."""
        alarms = self._alarms
        while alarms and alarms[0][0] <= now:
            at, _, group = heapq.heappop(alarms)
            if group.alarm == at:
                group.alarm = math.inf
                self._advance(group, now)

    def changed(self, now: float) -> None:
        """Grant what may go since something else than time has changed: what is held of a shared limit."""
        for group in {lane.group for lane in self._lanes if lane.waiting}:
            self._advance(group, now)

    @property
    def lanes(self) -> Iterable[Lane]:
        """All of them, as they were made."""
        return self._lanes

    def next_alarm(self) -> float:
        """The earliest moment at which :meth:`due` may have something to do; infinity if there is none."""
        return self._alarms[0][0] if self._alarms else math.inf

    @property
    def in_flight(self) -> int:
        """How many hold a grant."""
        return sum(lane.in_flight for lane in self._lanes)

    def waiting_for(self, pool: Pool) -> int:
        """How many stand in line for a pool, alone or among others."""
        return sum(lane.waiting for lane in self._lanes if pool in lane.pools)

    def forget_waiters(self) -> None:
        """Nobody who waits is there any more (this is a forked child): never grant to them."""
        for lane in self._lanes:
            for _, ticket in lane.queue:
                ticket.state = SETTLED
            lane.queue.clear()
            lane.group.busy.clear()
            lane.waiting = lane.impatient = lane.group.waiting = 0
        self._alarms.clear()
        self.granted.clear()
        self.waiting = 0

    # As methods, so that a test can stand a witness beside them.
    _grant = staticmethod(take)
    _give_back = staticmethod(give_back)

    # -- the queues ------------------------------------------------------------------------------------------

    def _enqueue(self, ticket: Ticket, now: float) -> None:
        lane = ticket.lane
        ticket.state = WAITING
        ticket.since = now
        if lane.forgotten:  # while nobody of it was in line
            self._lanes.add(lane)
        lane.used_at = now
        heapq.heappush(lane.queue, (ticket.order, ticket))
        lane.waiting += 1
        lane.group.busy[lane] = None
        lane.impatient += ticket.patience < math.inf
        lane.group.waiting += 1
        self.waiting += 1
        if lane.queue[0][1] is ticket or lane.head() is ticket:
            self._advance(lane.group, now)

    def _leave(self, ticket: Ticket) -> None:
        lane = ticket.lane
        lane.waiting -= 1
        lane.impatient -= ticket.patience < math.inf
        lane.group.waiting -= 1
        if not lane.waiting:
            lane.group.busy.pop(lane, None)
        self.waiting -= 1
        if len(lane.queue) > 2 * lane.waiting + 16:  # mostly people who left: sweep
            lane.queue = [entry for entry in lane.queue if entry[1].state == WAITING]
            heapq.heapify(lane.queue)

    def _hear(self, ticket: Ticket, now: float, word: Word) -> None:
        """Learn from an answer; if it says that a quota is spent for long, those who do not wait so long are told."""
        discovered = ticket.lane.discovered
        before = -math.inf if discovered is None or discovered.closing is None else discovered.closing.until
        hear(ticket, now, word)
        closing = None if discovered is None else discovered.spent(now)
        if closing is not None and closing.until > before + _NOTABLY_LATER and ticket.lane.impatient:
            for _, other in ticket.lane.queue:
                if other.state == WAITING and other.gives_up(now):
                    other.state = TURNED_AWAY
                    self._leave(other)
                    self._waited(other, now)
                    self.granted.append(other)

    def _advance(self, group: Group, now: float) -> None:
        """Grant, in order, all that may go; and set the group's alarm for the next."""
        if not group.busy:
            return
        alone = len(group.lanes) == 1
        alarm = self._advance_lane(next(iter(group.busy)), now) if alone else self._advance_lanes(group, now)
        if alarm < group.alarm:
            self._set_alarm(group, alarm)

    def _set_alarm(self, group: Group, alarm: float) -> None:
        group.alarm = alarm
        self._serial += 1
        heapq.heappush(self._alarms, (alarm, self._serial, group))
        if len(self._alarms) > self._most_alarms:  # one far away is left behind each time that a nearer one comes
            live = {group: alarm for alarm in self._alarms if (group := alarm[2]).alarm == alarm[0]}
            self._alarms = sorted(live.values())
            self._most_alarms = 2 * len(live) + _FEW_ALARMS

    def _advance_lane(self, lane: Lane, now: float) -> float:
        """As for several, where nobody else uses these pools: then there is nobody to be overtaken by."""
        while (ticket := lane.head()) is not None:
            as_of = max(ticket.since, now - LATENESS)
            ready = lane.ready_at(ticket.amounts, as_of)
            if ready > now:
                lane.held_by = reason(lane.pools, ticket.amounts, as_of)
                return ready
            self._let_go(lane, ticket, max(ready, as_of), now)
        return math.inf

    def _advance_lanes(self, group: Group, now: float) -> float:
        heads = [(head.order, lane) for lane in group.busy if (head := lane.head())]
        heapq.heapify(heads)
        seen = Round()
        while heads:
            lane = heads[0][1]
            ticket = lane.head()
            assert ticket is not None  # noqa: S101 - only lanes with somebody waiting are in here
            as_of = max(ticket.since, now - LATENESS)
            ready = seen.ready_at(ticket, now, as_of)
            if ready <= now:
                self._let_go(lane, ticket, max(ready, as_of), now)
                seen.granted(lane, now)
                head = lane.head()
                if head is None:
                    heapq.heappop(heads)
                else:
                    heapq.heapreplace(heads, (head.order, lane))
            else:
                heapq.heappop(heads)
        return seen.alarm

    def _let_go(self, lane: Lane, ticket: Ticket, as_of: float, now: float) -> None:
        """Grant the head of a lane, as of the moment that it was due."""
        heapq.heappop(lane.queue)
        self._leave(ticket)
        self._grant(ticket, as_of)
        self._waited(ticket, now)
        self.granted.append(ticket)

    def _waited(self, ticket: Ticket, now: float) -> None:
        """Keep the books of what time goes on."""
        ticket.held_by = reason = ticket.lane.held_by
        self.waits[reason] = self.waits.get(reason, 0.0) + now - ticket.since
