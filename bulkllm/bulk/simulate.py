"""How long a run takes under its limits: the real limiter on a clock that jumps.

What may live here: the simulation. It knows requests by their sizes only; nothing is sent and nothing waits. What a
request reserves, what it is charged in the end and what is learned of answers on the way, the limiter's own code says,
as in a real run. What cannot be known are refusals and errors: every request is let in.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ..limits import RateLimit
from ..limits.charging import charged, expected
from ..limits.core import Core
from ..limits.estimate import Estimate, Size, TokenEstimator
from ..limits.lanes import GRANTED, Lane, Ticket
from ..limits.learned import LearnedLimits
from ..limits.origin import Origin
from ..limits.pool import Amounts, Pool
from ..limits.reservation import amounts_of
from ..limits.status import status_of
from ..limits.word import LET_IN
from .deployments import soonest

SIMULATED: Final = 10_000
"""Rows of a line, at most. What comes after them goes on at the pace of the second half of them."""

_CPU: Final = 0.004  # seconds of this process for one call, most of them LiteLLM's: calls go one after the other there
_FRESH: Final = TokenEstimator()  # with which places are chosen
_BURST: Final = 0.5  # seconds of a pace that was felt for, which may go at once


class Ask(NamedTuple):
    """A request.

    Attributes:
        size: what its estimate is made of.
        input_tokens: that it will turn out to have.
        output_tokens: of its answer.
        cached_tokens: of its input, that come from the provider's cache.
        seconds: until its answer.
    """

    size: Size
    input_tokens: float
    output_tokens: float
    seconds: float
    cached_tokens: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """Where requests are let in.

    Attributes:
        model: what the limits know it by.
        limits: those that were configured. Doors with the same list share what it allows.
        origin: whose limits it falls under besides; None where nothing is learned of these.
        known: what was learned of them.
    """

    model: str
    limits: Sequence[RateLimit]
    origin: Origin | None
    known: LearnedLimits | None = None


@dataclass(slots=True)
class Line:
    """Requests that are asked in order, so many at once, each at the door where it is answered soonest.

    Attributes:
        doors: where they are let in.
        asks: the requests; of more than `SIMULATED` as many are enough, if they are like all of them.
        rows: how many there are.
    """

    doors: Sequence[Door]
    asks: Sequence[Ask]
    rows: int = 0

    def __post_init__(self) -> None:
        self.rows = max(self.rows, len(self.asks))


def seconds_for(lines: Sequence[Line], *, in_flight: int) -> float:
    """Seconds until the last request of all lines is answered.

    Args:
        lines: side by side. All limits are full when they begin.
        in_flight: requests of one line that may be under way at once, those that wait for a limit among them.

    Raises:
        ImpossibleRequest: one needs more than a limit's whole quota.
    """
    simulation = _Simulation([line for line in lines if line.asks], in_flight)
    simulation.go()
    now = simulation.now
    return max([now, *(now + queue.beyond() for queue in simulation.lines), simulation.at_least()])


class _Gate:
    """A door with the limiter behind it."""

    __slots__ = ("active", "core", "door", "lane")

    def __init__(self, door: Door, core: Core) -> None:
        known = door.known
        self.door = door
        self.core = core
        self.lane: Lane = core.lane(door.model, door.origin, known=known and replace(known, rate=None))
        self.active = 0


class _Queue:
    """A line as it stands."""

    __slots__ = ("active", "asks", "count", "gates", "granted", "half", "last", "rows", "started")

    def __init__(self, line: Line, gates: Sequence[_Gate]) -> None:
        self.asks = line.asks
        self.rows = line.rows
        self.gates = gates
        self.count = min(len(line.asks), SIMULATED)
        self.started = 0
        self.granted = 0
        self.active = 0
        self.half = 0.0
        self.last = 0.0

    def beyond(self) -> float:
        """Seconds for the requests that were not simulated."""
        left = self.rows - self.count
        return left * (self.last - self.half) / (self.count - self.count // 2) if left else 0.0


class _Request(NamedTuple):
    """A request under way."""

    queue: _Queue
    gate: _Gate
    ask: Ask
    estimate: Estimate
    ticket: Ticket


class _Simulation:
    """All lines, and what happens next.

    Attributes:
        now: seconds since the beginning.
        lines: how each stands.
    """

    def __init__(self, lines: Sequence[Line], in_flight: int) -> None:
        self.now = 0.0
        self._in_flight = in_flight
        self._estimator = TokenEstimator()
        self._cores = _cores(lines)
        gates: dict[Door, _Gate] = {}
        for line in lines:
            for door in line.doors:
                gates.setdefault(door, _Gate(door, self._cores[id(door.limits)]))
        self.lines = [_Queue(line, [gates[door] for door in line.doors]) for line in lines]
        self._waiting: dict[Ticket, _Request] = {}
        self._events: list[tuple[float, int, bool, _Request]] = []  # the bool: it is sent; else it is over
        self._serial = 0
        self._idle_from = 0.0  # when this process has nothing to do any more

    def go(self) -> None:
        """Let everything happen."""
        for queue in self.lines:
            self._top_up(queue)
        events = self._events
        while events or self._waiting:  # an alarm may be left behind that nobody needs any more
            alarm, core = min(((core.next_alarm(), core) for core in self._cores.values()), key=_first, default=_NEVER)
            if events and events[0][0] <= alarm:
                self.now, _, sent, request = heapq.heappop(events)
                if sent:
                    request.gate.core.stamp(request.ticket, self.now, really=True)
                else:
                    self._over(request)
            else:
                assert core is not None and alarm < math.inf  # noqa: S101, PT018 - whoever waits is let go some day
                self.now = max(self.now, alarm)
                core.due(self.now)
            self._let_go()

    def at_least(self) -> float:
        """Seconds that the limits need for all requests, those that are not simulated too.

        With many requests a full bucket may last beyond those that are simulated, and their pace be too good.
        """
        wanted: defaultdict[tuple[Pool, int], float] = defaultdict(float)
        for queue in self.lines:
            if len(queue.gates) > 1 or queue.count == queue.rows:
                continue
            gate = queue.gates[0]
            charges = [_charged(gate.door, _FRESH.estimate_of("", ask.size), ask) for ask in queue.asks]
            for dimension, amounts in enumerate(zip(*charges, strict=True)):
                for pool in gate.lane.pools:
                    wanted[pool, dimension] += sum(amounts) * queue.rows / len(amounts)
        return max(
            (
                (wanted[pool, meter.dimension] - meter.quota) * meter.period / meter.quota
                for pool in {pool for pool, _ in wanted}
                for meter in pool.live
            ),
            default=0.0,
        )

    def _top_up(self, queue: _Queue) -> None:
        while queue.started < queue.count and queue.active < self._in_flight:
            ask = queue.asks[queue.started]
            gate = self._soonest(queue, ask)
            estimate = self._estimator.estimate_of(gate.door.model, ask.size)
            ticket = Ticket(gate.lane, _expected(gate.door, estimate))
            request = _Request(queue, gate, ask, estimate, ticket)
            queue.started += 1
            queue.active += 1
            gate.active += 1
            if gate.core.request(ticket, self.now):
                self._granted(request)
            else:
                self._waiting[ticket] = request

    def _soonest(self, queue: _Queue, ask: Ask) -> _Gate:
        gates = queue.gates
        if len(gates) == 1:
            return gates[0]
        guess = _FRESH.estimate_of("", ask.size)
        amounts = amounts_of(guess.input_tokens, guess.output_tokens)
        return min(gates, key=lambda gate: soonest(status_of(gate.core, None, self.now), gate.active, amounts))

    def _let_go(self) -> None:
        """Those whom something that has just happened lets go."""
        for core in self._cores.values():
            granted, core.granted = core.granted, []
            for ticket in granted:
                request = self._waiting.pop(ticket, None)
                if request is not None:  # else it was granted as it came, after one before it
                    self._granted(request)

    def _granted(self, request: _Request) -> None:
        request.gate.core.stamp(request.ticket, self.now)
        queue = request.queue
        sent_at = self._idle_from = max(self.now, self._idle_from)
        self._idle_from += _CPU
        self._put(sent_at, request, sent=True)
        self._put(sent_at + max(request.ask.seconds, _CPU), request, sent=False)
        queue.granted += 1
        queue.last = sent_at
        if queue.granted == queue.count // 2:
            queue.half = sent_at

    def _put(self, at: float, request: _Request, *, sent: bool) -> None:
        self._serial += 1
        heapq.heappush(self._events, (at, self._serial, sent, request))

    def _over(self, request: _Request) -> None:
        queue, gate, ask, estimate, ticket = request
        assert ticket.state == GRANTED  # noqa: S101 - it was sent before
        gate.core.settle(ticket, self.now, _charged(gate.door, estimate, ask), LET_IN)
        self._estimator.learn(
            gate.door.model, ask.size.characters, round(ask.input_tokens), round(ask.output_tokens)
        )  # fmt: skip
        queue.active -= 1
        gate.active -= 1
        self._let_go()
        self._top_up(queue)


def _cores(lines: Sequence[Line]) -> Mapping[int, Core]:
    """A core for each list of limits. A pace that was felt for once is taken for a limit: it settles thereabouts."""
    doors = {door for line in lines for door in line.doors}
    cores: dict[int, Core] = {}
    for limits in {id(door.limits): door.limits for door in doors}.values():
        paces = {
            door.model: door.known.rate
            for door in doors
            if door.limits is limits and door.known is not None and door.known.rate is not None
        }
        felt = [
            RateLimit(model, rpm=rate * 60, burst=max(1.0, rate * _BURST), window="bucket")
            for model, rate in paces.items()
        ]
        cores[id(limits)] = Core([*limits, *felt])
    return cores


def _expected(door: Door, estimate: Estimate) -> Amounts:
    if door.origin is None:
        return amounts_of(estimate.input_tokens, estimate.output_tokens)
    return expected(door.origin.profile, estimate)


def _charged(door: Door, estimate: Estimate, ask: Ask) -> Amounts:
    if door.origin is None:
        return amounts_of(ask.input_tokens, ask.output_tokens)
    return charged(door.origin.profile, estimate, ask.input_tokens, ask.output_tokens, ask.cached_tokens)


_NEVER: Final[tuple[float, Core | None]] = (math.inf, None)


def _first(alarm: tuple[float, Core | None]) -> float:
    return alarm[0]
