from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bulkllm.errors import ImpossibleRequest
from bulkllm.limits.bucket import TokenBucket
from bulkllm.limits.core import LATENESS, Core
from bulkllm.limits.lanes import GRANTED, NEW, WAITING, Ticket
from bulkllm.limits.pool import Amounts, Pool
from bulkllm.limits.spec import RateLimit

MODELS = ("a", "b", "ab", "ab")
SHADE = 1e-6

quotas = st.integers(1, 20)
tokens = st.sampled_from([0.0, 1.0, 1.0, 10.0]) | st.floats(0, 20)
dimensions = st.sampled_from(["rpm", "tpm", "tpm", "itpm", "otpm", "rpd", "max_in_flight"])


@st.composite
def rate_limits(draw: st.DrawFn) -> RateLimit:
    options: dict[str, Any] = {name: draw(quotas) for name in draw(st.sets(dimensions, min_size=1, max_size=3))}
    if "rpm" in options:
        options["burst"] = draw(st.none() | st.integers(1, 6))
    return RateLimit(
        draw(st.sampled_from(["*", "a*", "*b"])),
        window=draw(st.sampled_from(["bucket", "sliding"])),
        period=draw(st.sampled_from([1.0, 7.0, 60.0])),
        **options,
    )


class Server:
    """A provider that enforces one limit to the letter, counting each request from when it is sent.

    It forgives what the core says that it may get wrong: a bucket holds what refills in LATENESS on top.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.in_flight = 0
        buckets = [meter for meter in pool.meters if isinstance(meter, TokenBucket)]
        self.levels = {meter.name: meter.capacity + LATENESS * meter.rate for meter in buckets}
        self.looked = 0.0
        self.counted: dict[Ticket, tuple[float, Amounts]] = {}  # stamp (infinity while pending) and amounts

    def look(self, now: float) -> None:
        for meter in self.pool.meters:
            if isinstance(meter, TokenBucket):
                level = self.levels[meter.name] + (now - self.looked) * meter.rate
                self.levels[meter.name] = min(level, meter.capacity + LATENESS * meter.rate)
        self.looked = now

    def admit(self, ticket: Ticket, now: float) -> None:
        self.look(now)
        assert self.in_flight < self.pool.max_in_flight
        self.in_flight += 1
        for meter in self.pool.meters:
            amount = ticket.amounts[meter.dimension]
            fits = min(amount, meter.capacity)
            if isinstance(meter, TokenBucket):
                assert self.levels[meter.name] >= fits - SHADE, f"{meter.name} admitted more than it holds"
                self.levels[meter.name] -= amount
            else:
                used = sum(
                    amounts[meter.dimension] for stamp, amounts in self.counted.values() if stamp + meter.period > now
                )
                assert used + fits <= meter.quota + SHADE, f"{meter.name} admitted more than its period holds"
        self.counted[ticket] = (math.inf, ticket.amounts)

    def stamp(self, ticket: Ticket, now: float) -> None:
        self.counted[ticket] = (now, ticket.amounts)

    def settle(self, ticket: Ticket, now: float, actual: Amounts | None) -> None:
        self.look(now)
        self.in_flight -= 1
        stamp, _ = self.counted.pop(ticket)
        for meter in self.pool.meters:
            if isinstance(meter, TokenBucket):
                given = ticket.amounts[meter.dimension] - (0.0 if actual is None else actual[meter.dimension])
                full = meter.capacity + LATENESS * meter.rate
                self.levels[meter.name] = min(full, self.levels[meter.name] + given)
        if actual is not None:
            self.counted[ticket] = (now if stamp == math.inf else stamp, actual)


class WatchedCore(Core):
    """The core, with a server behind each limit, and with a witness to the order at each grant."""

    def __init__(self, limits: list[RateLimit]) -> None:
        super().__init__(limits)
        self.clock = 5_000.0
        self.servers = {pool: Server(pool) for pool in self.pools}

    def grant_at_once(self, ticket: Ticket, now: float) -> bool:
        fits = not ticket.lane.group.waiting and ticket.lane.ready_at(ticket.amounts, now) <= now
        granted = super().grant_at_once(ticket, now)
        larger = any(
            ticket.amounts[meter.dimension] > meter.capacity for pool in ticket.lane.pools for meter in pool.meters
        )
        assert granted == fits or (larger and not granted), "a larger one than the bucket goes by way of the queue"
        if granted and ticket.lane.buckets is not None:  # else it went by way of the next
            self._witness(ticket)
        return granted

    def _grant(self, ticket: Ticket, now: float) -> None:
        assert now <= self.clock
        assert now >= self.clock - LATENESS
        self._witness(ticket)
        super()._grant(ticket, now)

    def _witness(self, ticket: Ticket) -> None:
        for lane in ticket.lane.group.lanes:
            head = lane.head()
            if lane is not ticket.lane and head is not None and head.order < ticket.order:
                since = max(head.since, self.clock - LATENESS)
                for pool in set(lane.pools).intersection(ticket.lane.pools):
                    assert pool.ready_at(head.amounts, since) <= self.clock, "overtaken where it was held up"
        for pool in ticket.lane.pools:
            self.servers[pool].admit(ticket, self.clock)

    def _give_back(self, ticket: Ticket, now: float, actual: Amounts | None) -> None:
        for pool in ticket.lane.pools:
            self.servers[pool].settle(ticket, now, actual)
        super()._give_back(ticket, now, actual)


class Simulation(RuleBasedStateMachine):
    """Requests come, are sent, end, are given up, at any time; the alarms are answered on time or late."""

    @initialize(limits=st.lists(rate_limits(), min_size=1, max_size=4))
    def begin(self, limits: list[RateLimit]) -> None:
        note(repr(limits))
        self.core = WatchedCore(limits)
        self.waiting: list[Ticket] = []
        self.holding: list[Ticket] = []
        self.away: list[Ticket] = []
        self.last_granted: dict[tuple[Pool, ...], int] = {}
        self.passed_over: set[Ticket] = set()

    @rule(
        model=st.sampled_from(MODELS), given=tokens, expected=tokens, priority=st.sampled_from([0, 0, 0, 1]),
        front=st.sampled_from([False, False, False, True]), patient=st.booleans(),
    )  # fmt: skip
    def ask(self, model: str, given: float, expected: float, priority: int, front: bool, patient: bool) -> None:
        ticket = Ticket(self.core.lane(model), (1.0, given + expected, given, expected))
        try:
            if not patient:
                at_once = self.core.try_request(ticket, self.core.clock)
            else:
                at_once = self.core.request(ticket, self.core.clock, priority=priority, front=front)
        except ImpossibleRequest:
            assert ticket.state == NEW
            return
        if at_once:
            self.granted(ticket)
        elif patient:
            self.waiting.append(ticket)
        self.collect()

    @rule(seconds=st.integers(1, 640).map(lambda ticks: ticks / 64) | st.sampled_from([60.0, 90_000.0]))
    def pass_time(self, seconds: float) -> None:
        until = self.core.clock + seconds
        for _ in range(2_000):  # a limit that waits for the next day lets many others go by
            at = self.core.next_alarm()
            if at > until:
                self.core.clock = until
                return
            self.ring(at)

    @rule(late=st.floats(0, 0.2))
    def answer_the_next_alarm(self, late: float) -> None:
        at = self.core.next_alarm()
        if at < math.inf:
            self.ring(max(at, self.core.clock) + late)

    def ring(self, at: float) -> None:
        assert at >= self.core.clock
        self.core.clock = at
        self.core.due(at)
        self.collect()
        assert self.core.next_alarm() > at

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.holding))
        for pool in ticket.lane.pools:
            self.core.servers[pool].stamp(ticket, self.core.clock)
        self.core.stamp(ticket, self.core.clock)
        self.collect()

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), used=st.none() | st.tuples(tokens, tokens))
    def end(self, data: st.DataObject, used: tuple[float, float] | None) -> None:
        ticket = data.draw(st.sampled_from(self.holding))
        self.holding.remove(ticket)
        actual = None if used is None else (1.0, used[0] + used[1], used[0], used[1])
        self.core.settle(ticket, self.core.clock, actual)
        self.core.settle(ticket, self.core.clock, actual)  # twice changes nothing
        self.collect()

    @precondition(lambda self: self.waiting or self.away)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting + self.away))
        (self.waiting if ticket in self.waiting else self.away).remove(ticket)
        self.core.settle(ticket, self.core.clock, None)
        self.collect()

    @precondition(lambda self: self.away)
    @rule()
    def come_back(self) -> None:
        ticket = self.away.pop()
        self.waiting.append(ticket)
        self.core.resume(ticket, self.core.clock)
        self.collect()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        """Its loop is stopped: it will be passed over when its turn comes."""
        self.passed_over.add(data.draw(st.sampled_from(self.waiting)))

    def collect(self) -> None:
        while self.core.granted:
            granted, self.core.granted = self.core.granted, []
            for ticket in granted:
                if ticket in self.waiting:
                    self.waiting.remove(ticket)
                    if ticket in self.passed_over:
                        self.passed_over.remove(ticket)
                        self.core.pass_over(ticket, self.core.clock)
                        self.away.append(ticket)
                    else:
                        self.granted(ticket)

    def granted(self, ticket: Ticket) -> None:
        assert ticket.state == GRANTED
        self.holding.append(ticket)

    @invariant()
    def the_books_agree(self) -> None:
        core = self.core
        assert core.waiting == len(self.waiting) == sum(lane.waiting for lane in core.lanes)
        assert core.in_flight == len(self.holding)
        for pool in core.pools:
            assert pool.in_flight == self.core.servers[pool].in_flight
            assert pool.in_flight == sum(pool in ticket.lane.pools for ticket in self.holding)
            assert core.waiting_for(pool) == sum(pool in ticket.lane.pools for ticket in self.waiting)
        for ticket in self.waiting:
            assert ticket.state == WAITING

    @invariant()
    def in_a_lane_the_head_is_the_first_that_waits(self) -> None:
        for lane in self.core.lanes:
            head = lane.head()
            mine = [ticket for ticket in self.waiting if ticket.lane is lane]
            assert head is (min(mine, key=lambda ticket: ticket.order) if mine else None)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """A head that all its limits would let go stands behind somebody in one of them, or it should have gone."""
        core = self.core
        heads = sorted((head for lane in core.lanes if (head := lane.head())), key=lambda head: head.order)
        closed: set[Pool] = set()
        for head in heads:
            holding = {
                pool
                for pool in head.lane.pools
                if pool in closed or pool.ready_at(head.amounts, core.clock) > core.clock
            }
            assert holding or any(other.strict for other in heads), f"nothing holds up {head.amounts}"
            closed |= holding

    @invariant()
    def somebody_or_something_ends_each_wait(self) -> None:
        core = self.core
        if self.waiting and not self.holding:
            assert core.next_alarm() < math.inf, "with nothing under way, only an alarm can help"

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        core = self.core
        for ticket in list(self.away):
            self.away.remove(ticket)
            self.waiting.append(ticket)
            core.resume(ticket, core.clock)
        self.passed_over.clear()
        self.collect()
        for _ in range(20_000):  # all calls end, all alarms are answered: then everybody has had its turn
            if not self.waiting and not self.holding:
                break
            if self.holding:
                ticket = self.holding.pop(0)
                core.settle(ticket, core.clock, ticket.amounts)
                self.collect()
            else:
                self.ring(core.next_alarm())
            self.nobody_waits_for_nothing()
        else:
            pytest.fail(f"{len(self.waiting)} are starved")
        assert core.waiting == core.in_flight == 0
        far = core.clock + 100 * 86_400.0
        core.due(far)
        assert core.next_alarm() == math.inf
        for pool in core.pools:
            for meter in pool.meters:
                assert meter.remaining(far) == meter.capacity, f"{meter.name} is not whole again"


Simulation.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine proves nothing
)
TestSimulation = Simulation.TestCase
