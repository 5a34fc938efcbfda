"""Several processes on one store, on a clock of the test's own: what each asks for, and what they get together."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkllm.errors import StoreUnavailable
from bulkllm.limits.core import Core
from bulkllm.limits.feedback import Observation
from bulkllm.limits.lanes import WAITING, Ticket
from bulkllm.limits.leases import IDLE_AFTER, PAUSE, TELL_AFTER, Leases
from bulkllm.limits.pool import Amounts
from bulkllm.limits.profiles import HeaderNames
from bulkllm.limits.sharing import Sharing
from bulkllm.limits.spec import RateLimit
from bulkllm.limits.stores.base import Claim, Lease
from bulkllm.limits.stores.memory import MemoryStore

ONE: Amounts = (1.0, 10.0, 6.0, 4.0)


class Sent(NamedTuple):
    at: float
    by: Process
    ticket: Ticket
    model: str


class World:
    """A clock, a store, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.away = False
        self.processes: list[Process] = []
        self.sent: list[Sent] = []
        self.claims = 0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0

    def process(self, *limits: RateLimit, **terms: Any) -> Process:
        made = Process(self, limits, Sharing(self.store, **terms))
        self.processes.append(made)
        return made

    def at(self, moment: float, act: Callable[[], object]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (moment, self._serial, act))

    def lease(self, claim: Claim) -> Lease:
        self.claims += 1
        if self.away:
            raise StoreUnavailable("away")
        return self.store.lease("group", claim)

    def run(self, seconds: float) -> None:
        """Let time pass: whatever is due first happens first."""
        end = self.now + seconds
        while True:
            event = self._events[0][0] if self._events else math.inf
            process = min(self.processes, key=lambda each: each.wake)
            wake = process.wake
            if min(event, wake) > end:
                break
            self.now = max(self.now, min(event, wake))
            if event <= wake:
                heapq.heappop(self._events)[2]()
            else:
                process.see_to_leases()
        self.now = end

    def count(self, began: float = 0.0, *, dimension: int = 0, model: str = "") -> float:
        """How much went out since then."""
        return sum(
            sent.ticket.amounts[dimension] for sent in self.sent if began <= sent.at and model in ("", sent.model)
        )


class Process:
    """A process that calls as its limits let it: the core and the leases, without the lock and the threads."""

    def __init__(self, world: World, limits: tuple[RateLimit, ...], sharing: Sharing) -> None:
        self.world = world
        self.leases = Leases(limits, sharing, self._stir)
        self.core = Core(self.leases.pools)
        self.wake = math.inf
        self.latency = 0.0
        self.actual: Amounts | None = None  # what calls turn out to use
        self.used = 1.0  # or so many times what was estimated
        self.sent = 0
        self.most_in_flight = 0
        self.alive = True
        self._quiet_until = -math.inf
        self._alarm = math.inf
        self._models: dict[Ticket, str] = {}
        self._successors: dict[Ticket, tuple[Amounts, str]] = {}

    def _stir(self, now: float, later: bool) -> None:
        self.wake = min(self.wake, now + TELL_AFTER if later else max(now, self._quiet_until))

    def call(self, count: int = 1, amounts: Amounts = ONE, model: str = "m") -> list[Ticket]:
        tickets = [Ticket(self.core.lane(model), amounts) for _ in range(count)]
        for ticket in tickets:
            self._models[ticket] = model
            if self.core.request(ticket, self.world.now):
                self._go(ticket)
        self._wake_up()
        return tickets

    def keep_busy(self, count: int, amounts: Amounts = ONE, model: str = "m") -> None:
        """Have so many calls in line all the time."""
        for ticket in self.call(count, amounts, model):
            self._successors[ticket] = (amounts, model)
            if ticket.state != WAITING:
                self._replace(ticket)

    def _replace(self, ticket: Ticket) -> None:
        again = self._successors.pop(ticket, None)
        if again is not None and self.alive:
            self.world.at(self.world.now, lambda: self.keep_busy(1, *again))

    def _go(self, ticket: Ticket) -> None:
        """A call goes out, and is over later."""
        world = self.world
        self.core.stamp(ticket, world.now, really=True)
        world.sent.append(Sent(world.now, self, ticket, self._models.pop(ticket)))
        self.sent += 1
        self.most_in_flight = max(self.most_in_flight, self.core.in_flight)
        world.at(world.now + self.latency, lambda: self._end(ticket))
        self._replace(ticket)

    def _end(self, ticket: Ticket) -> None:
        if self.alive:
            requests, *tokens = ticket.amounts
            used: Any = (requests, *(self.used * amount for amount in tokens))
            self.core.settle(ticket, self.world.now, used if self.actual is None else self.actual)
            self._wake_up()

    def _wake_up(self) -> None:
        while self.core.granted:
            granted, self.core.granted = self.core.granted, []
            for ticket in granted:
                if ticket in self._models:  # else it did not wait, and has gone
                    self._go(ticket)
        at = max(self.core.next_alarm(), self.world.now)
        if at < self._alarm:
            self._alarm = at
            self.world.at(at, self._ring)

    def _ring(self) -> None:
        if self.alive and self.world.now >= self._alarm:
            self._alarm = math.inf
            self.core.due(self.world.now)
            self._wake_up()

    def see_to_leases(self) -> None:
        world = self.world
        if not self.alive:
            self.wake = math.inf
            return
        while (claim := self.leases.next(self.core.lanes, world.now)) is not None:
            try:
                lease = world.lease(claim)
            except StoreUnavailable:
                self.leases.failed(world.now)
            else:
                self.leases.took(lease, world.now)
            self.core.changed(world.now)
            self._wake_up()
        self._quiet_until = world.now + PAUSE
        self.wake = self.leases.wake_at

    def die(self) -> None:
        self.alive = False
        self._successors.clear()

    def in_flight(self, name: str) -> int:
        return sum(pool.in_flight for pool in self.leases.pools if pool.name == name)

    def held(self) -> float:
        return sum(meter.free(self.world.now) for pool in self.leases.pools for meter in pool.leased_meters)


@pytest.fixture
def world() -> World:
    return World()


# -- together ----------------------------------------------------------------------------------------------------------


def test_busy_ones_share_a_bucket_evenly_and_use_all_of_it(world: World) -> None:
    four = [world.process(RateLimit(rpm=600)) for _ in range(4)]
    for each in four:
        each.keep_busy(50)
    world.run(60)
    assert 0.99 * 1200 <= world.count() <= 1200
    for each in four:
        assert each.sent == pytest.approx(300, rel=0.35)
    began = world.now
    world.run(60)
    assert 0.99 * 600 <= world.count(began) <= 601


def test_busy_ones_share_a_window(world: World) -> None:
    four = [world.process(RateLimit(rpm=600, window="sliding")) for _ in range(4)]
    for each in four:
        each.keep_busy(50)
    world.run(59.9)
    assert world.count() == 600
    world.run(62)
    assert world.count() >= 0.95 * 1200
    sent = sorted(each.at for each in world.sent)
    assert all(later - earlier > 60 for earlier, later in zip(sent, sent[600:], strict=False))


def test_what_was_asked_for_long_ago_is_forgotten(world: World) -> None:
    """A program may go through thousands of accounts, each with a lane of its own."""
    process = world.process(*[RateLimit(f"model-{number}", rpm=60, burst=1) for number in range(50)])
    for number in range(50):
        process.call(2, model=f"model-{number}")
        world.run(3.0)
    assert process.sent == 100
    assert len(process.leases._ask_at) < 10


def test_one_busy_process_among_idle_ones_gets_nearly_everything(world: World) -> None:
    idle = [world.process(RateLimit(rpm=6000, burst=100)) for _ in range(3)]
    for each in idle:
        each.call(20)
    world.run(3)
    assert [each.sent for each in idle] == [20, 20, 20]
    busy = world.process(RateLimit(rpm=6000, burst=100))
    busy.keep_busy(100)
    began = world.now
    world.run(10)
    assert world.count(began) >= 0.99 * 1100


def test_a_little_demand_is_met_and_the_rest_goes_to_who_is_busy(world: World) -> None:
    limit = RateLimit(rpm=6000, burst=100)
    busy, light = world.process(limit), world.process(limit)
    busy.keep_busy(200)
    for tenth in range(100):
        world.at(world.now + tenth / 10, light.call)
    world.run(10)
    assert light.sent >= 98
    assert busy.sent >= 0.98 * (1100 - 100)


def test_requests_and_tokens_are_had_together(world: World) -> None:
    four = [world.process(RateLimit(rpm=6000, tpm=60_000)) for _ in range(4)]
    for number, each in enumerate(four):
        each.keep_busy(30, (1.0, 100.0 * (number + 1), 0.0, 0.0))
    world.run(60)
    assert 0.98 * 120_000 <= world.count(dimension=1) <= 120_001
    for each in four:
        tokens = sum(sent.ticket.amounts[1] for sent in world.sent if sent.by is each)
        assert tokens == pytest.approx(30_000, rel=0.35)


def test_slots_are_shared_and_never_more_are_in_flight(world: World) -> None:
    four = [world.process(RateLimit(max_in_flight=20)) for _ in range(4)]
    for each in four:
        each.latency = 0.5
        each.keep_busy(40)
    most = 0
    for _ in range(200):
        world.run(0.1)
        most = max(most, sum(each.core.in_flight for each in four))
    assert most == 20
    assert world.count() >= 0.97 * 20 / 0.5 * 20
    for each in four:
        assert each.sent >= 0.15 * world.count()


def test_slots_of_a_busy_process_go_to_it_and_to_others_when_they_come(world: World) -> None:
    first = world.process(RateLimit(max_in_flight=20))
    second = world.process(RateLimit(max_in_flight=20))
    first.latency = second.latency = 0.2
    first.keep_busy(60)
    world.run(5)
    assert first.core.in_flight == 20
    second.keep_busy(60)
    world.run(2)
    assert first.core.in_flight + second.core.in_flight == 20
    assert second.core.in_flight >= 8


def test_quota_is_held_ahead_where_slots_hold_up(world: World) -> None:
    process = world.process(RateLimit(rpm=60_000, max_in_flight=10))
    process.latency = 0.1
    process.keep_busy(40)
    world.run(10)
    assert world.count() >= 0.97 * 10 / 0.1 * 10


def test_a_surplus_is_spent_again_by_everybody(world: World) -> None:
    limit = RateLimit(tpm=60_000)
    two = [world.process(limit), world.process(limit)]
    for each in two:
        each.latency, each.actual = 0.3, (1.0, 250.0, 0.0, 0.0)
        each.keep_busy(40, (1.0, 1000.0, 0.0, 0.0))
    world.run(60)
    settled = sum(each.sent for each in two) * 250
    assert 0.97 * 120_000 <= settled <= 120_000 + 2 * 40 * 1000


def test_an_overrun_is_paid_back_by_everybody(world: World) -> None:
    limit = RateLimit(tpm=60_000)
    greedy, fair = world.process(limit), world.process(limit)
    greedy.latency, greedy.actual = 0.1, (1.0, 1000.0, 0.0, 0.0)
    greedy.keep_busy(5, (1.0, 200.0, 0.0, 0.0))
    fair.keep_busy(5, (1.0, 200.0, 0.0, 0.0))
    world.run(120)
    used = greedy.sent * 1000 + fair.sent * 200
    assert 0.97 * 180_000 <= used <= 1.02 * 180_000


def test_overlapping_limits_starve_nobody(world: World) -> None:
    limits = (RateLimit("a*", rpm=600, burst=10), RateLimit("*b", rpm=600, burst=10))
    two = [world.process(*limits), world.process(*limits)]
    for each in two:
        for model in ("a", "b", "ab"):
            each.keep_busy(10, model=model)
    world.run(30)
    assert (
        world.count() >= 0.9 * 310
    )  # of the one pool alone, and as much again of the other less what goes through both
    for each in two:
        assert each.sent >= 0.3 * world.count()


# -- what is held ------------------------------------------------------------------------------------------------------


def test_the_store_is_not_asked_for_each_call(world: World) -> None:
    process = world.process(RateLimit(rpm=600_000))
    for number in range(10_000):
        world.at(world.now + number / 1000, process.call)
    world.run(10)
    assert process.sent == 10_000
    assert world.claims < 10 / PAUSE


def test_what_is_held_ahead_serves_calls_without_a_wait(world: World) -> None:
    process = world.process(RateLimit(rpm=600_000))
    waited: list[bool] = []

    def call() -> None:
        (ticket,) = process.call()
        waited.append(ticket.state == WAITING)

    for number in range(3000):
        world.at(world.now + number / 1000, call)
    world.run(4)
    assert sum(waited[1000:]) <= 20


def test_an_idle_process_gives_everything_back(world: World) -> None:
    process = world.process(RateLimit(rpm=600, tpm=60_000, max_in_flight=50))
    process.call(50)
    world.run(TELL_AFTER + IDLE_AFTER + 1)
    view = world.store.look("group")
    assert view.held == {}
    assert process.wake == math.inf
    assert process.leases.may_rest
    assert process.held() == 0


def test_slots_in_use_are_kept_while_a_long_call_is_under_way(world: World) -> None:
    process = world.process(RateLimit(max_in_flight=2))
    process.latency = 60.0
    process.call(2)
    other = world.process(RateLimit(max_in_flight=2))
    world.run(1)
    other.call(1)
    world.run(50)
    assert (process.sent, other.sent) == (2, 0)
    world.run(15)
    assert other.sent == 1


def test_what_a_dead_process_held_is_missed_for_no_longer_than_its_ttl(world: World) -> None:
    limit = RateLimit(rpm=6000, burst=100, max_in_flight=1000)
    four = [world.process(limit, ttl=3.0) for _ in range(4)]
    for each in four:
        each.latency = 0.2
        each.keep_busy(50)
    world.run(5)
    four[0].die()
    world.run(3.1)
    began = world.now
    world.run(10)
    assert world.count(began) >= 0.97 * 1000
    assert world.count() <= 1.02 * (100 + 100 * 18.1)


def test_an_attempt_that_did_not_wait_is_remembered_once(world: World) -> None:
    process = world.process(RateLimit(rpm=600))
    ticket = Ticket(process.core.lane("m"), ONE)
    assert not process.core.try_request(ticket, world.now)
    world.run(0.1)
    assert process.core.try_request(Ticket(process.core.lane("m"), ONE), world.now)


# -- while the store is away -------------------------------------------------------------------------------------------


def test_while_the_store_is_away_requests_wait_for_it(world: World) -> None:
    process = world.process(RateLimit(rpm=600, burst=10))
    process.keep_busy(10)
    world.run(5)
    world.away = True
    world.run(1)
    before = world.count()
    world.run(60)
    assert world.count() == before
    world.away = False
    began = world.now
    world.run(11)
    assert world.count(began) >= 0.97 * (10 + 9 * 10)


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_or_each_goes_on_with_its_share(world: World, window: str) -> None:
    limit = RateLimit(rpm=600, window=window)  # type: ignore[arg-type]
    four = [world.process(limit, when_away="share", share=0.25) for _ in range(4)]
    for each in four:
        each.keep_busy(20)
    world.run(120)
    world.away = True
    began = world.now
    world.run(180)
    assert 0.9 * 1800 <= world.count(began) <= 1.02 * 1800 + 60
    if window == "sliding":
        sent = sorted(each.at for each in world.sent)
        assert max(sum(1 for at in sent if moment - 60 < at <= moment) for moment in sent[::50]) <= 1.1 * 600
    world.away = False
    began = world.now
    world.run(120)
    assert 0.9 * 1200 <= world.count(began) <= 1200 + 0.3 * 600, "not as after a pause: what each used is known again"
    assert not any(each.leases.away for each in four)


def test_a_share_of_slots_is_at_least_one(world: World) -> None:
    process = world.process(RateLimit(max_in_flight=2), when_away="share", share=0.25)
    process.latency = 1.0
    world.away = True
    process.keep_busy(5)
    world.run(10.5)
    assert 10 <= process.sent <= 11
    assert process.most_in_flight == 1


def test_a_share_holds_up_by_time_and_lets_a_surplus_go_again(world: World) -> None:
    process = world.process(RateLimit(tpm=6000), when_away="share", share=0.5)
    process.latency, process.actual = 0.1, (1.0, 100.0, 0.0, 0.0)
    world.away = True
    process.keep_busy(2, (1.0, 1000.0, 0.0, 0.0))
    world.run(120)
    assert process.sent * 100 >= 0.7 * 6000


def test_attempts_to_reach_it_become_rarer_and_go_on(world: World) -> None:
    process = world.process(RateLimit(rpm=600))
    world.away = True
    process.call()
    world.run(60)
    assert 55 <= world.claims <= 75
    world.away = False
    world.run(2)
    assert process.sent == 1


def test_enormous_limits_hold_nobody_up(world: World) -> None:
    process = world.process(RateLimit(rpm=1e9, tpm=1e12, itpm=1e12, otpm=1e12))
    process.call(1, (1.0, 0.0, 0.0, 0.0))
    world.run(1)
    assert process.sent == 1


def test_a_call_without_tokens_needs_no_lease_of_tokens(world: World) -> None:
    process = world.process(RateLimit(tpm=100))
    process.call(1, (1.0, 0.0, 0.0, 0.0))
    assert process.sent == 1


def test_less_than_one_request_a_period_goes_by_debt(world: World) -> None:
    two = [world.process(RateLimit(rpm=0.5)) for _ in range(2)]
    for each in two:
        each.keep_busy(2)
    world.run(120 * 6 + 1)
    assert 6 <= world.count() <= 7


def test_large_requests_of_one_do_not_starve_for_small_ones_of_another(world: World) -> None:
    limit = RateLimit(tpm=6000)
    large, small = world.process(limit), world.process(limit)
    large.keep_busy(1, (1.0, 5000.0, 0.0, 0.0))
    small.keep_busy(20, (1.0, 10.0, 0.0, 0.0))
    world.run(600)
    assert 0.97 * 66_000 <= world.count(dimension=1) <= 66_000 + 1
    assert large.sent >= 4


# -- what the provider says --------------------------------------------------------------------------------------------


def left(remaining: float, *, limit: float = 600, period: float = 60.0) -> Observation:
    names = HeaderNames(dimension="rpm", limit="l", remaining="r", reset="x", reset_format="seconds", period=period)
    return Observation(names, limit, remaining, None)


def test_less_left_than_all_of_us_know_of_is_told_to_the_store(world: World) -> None:
    two = [world.process(RateLimit(rpm=600)) for _ in range(2)]
    for each in two:
        each.call(1)
    world.run(0.1)
    assert two[0].leases.hear(two[0].leases.pools, [left(100)], world.now, world.now) == []
    assert two[0].leases.hear(two[0].leases.pools, [left(90)], world.now - 1, world.now) == [], "that was before"
    correction = two[0].leases.correction(world.now + 0.01)
    assert correction is not None
    assert correction.at_most == 101
    assert correction.ago == pytest.approx(0.01)
    world.store.correct("group", correction.meter, at_most=correction.at_most, ago=correction.ago)
    assert two[0].leases.correction(world.now + 5) is None, "once"
    began = world.now
    for each in two:
        each.keep_busy(100)
    world.run(6)
    assert 0.97 * (101 + 60) <= world.count(began) <= 101 + 60 + 1


def test_what_the_others_of_us_use_is_no_news(world: World) -> None:
    two = [world.process(RateLimit(rpm=600)) for _ in range(2)]
    two[0].call(1)
    two[1].call(200)
    world.run(0.6)
    for remaining in (399.0, 410.0, 395.0):
        assert two[0].leases.hear(two[0].leases.pools, [left(remaining)], world.now, world.now) == []
    assert two[0].leases.correction(world.now) is None


def test_a_smaller_limit_than_was_configured_is_left_to_be_learned(world: World) -> None:
    process = world.process(RateLimit(rpm=600), RateLimit("other", rpm=10))
    process.call(1)
    world.run(0.1)
    pools = process.core.lane("m").pools
    for seen in (left(5, limit=300), left(5, period=86_400.0)):
        assert process.leases.hear(pools, [seen], world.now, world.now) == [seen]
    assert process.leases.hear(pools, [left(5, limit=6000)], world.now, world.now) == [], "ours is smaller"


# -- whatever happens --------------------------------------------------------------------------------------------------

few = st.integers(1, 30)
tokens_of_calls = st.sampled_from([0.0, 1.0, 7.0, 25.0])
models = st.sampled_from(["a", "b", "ab"])
calls = st.tuples(st.just("call"), st.integers(0, 2), st.integers(1, 12), tokens_of_calls, models)
pauses = st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.1, 0.7, 3.0, 20.0]))
outages = st.tuples(st.just("away"), st.booleans())
deaths = st.tuples(st.just("die"), st.integers(0, 2))


@st.composite
def limits_of_all(draw: st.DrawFn) -> list[RateLimit]:
    found = []
    for pattern in draw(st.sampled_from([("*",), ("a*",), ("a*", "*"), ("ab", "*b", "*")])):
        options: dict[str, Any] = {
            name: draw(few) * (25 if name == "tpm" else 1)
            for name in draw(st.sets(st.sampled_from(["rpm", "tpm", "max_in_flight"]), min_size=1))
        }
        window: Any = draw(st.sampled_from(["bucket", "sliding"]))
        if "rpm" in options:
            options["burst"] = draw(st.none() | st.integers(1, 4))
        found.append(RateLimit(pattern, window=window, period=draw(st.sampled_from([1.0, 5.0])), **options))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=limits_of_all(),
    what=st.lists(calls | calls | pauses | outages | deaths, max_size=25),
    latency=st.sampled_from([0.0, 0.05, 2.0]),
    used=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    when_away=st.sampled_from(["wait", "share"]),
)
def test_everybody_is_served_and_everything_comes_back(
    limits: list[RateLimit], what: list[Any], latency: float, used: float, when_away: str
) -> None:
    world = World()
    three = [world.process(*limits, when_away=when_away, ttl=2.0) for _ in range(3)]
    for each in three:
        each.latency = latency
        each.used = used
    for act, *how in what:
        if act == "wait":
            world.run(how[0])
        elif act == "away":
            world.away = how[0]
        elif act == "die":
            three[how[0]].die()
        elif three[how[0]].alive:
            who, count, tokens, model = how
            three[who].call(count, (1.0, tokens, tokens, 0.0), model)
        for pool in limits:
            if pool.max_in_flight is not None and when_away == "wait":
                under_way = sum(each.in_flight(pool.name) for each in three if each.alive)
                assert under_way <= pool.max_in_flight
    world.away = False
    world.run(2_000)
    living = [each for each in three if each.alive]
    assert [each.core.waiting for each in living] == [0] * len(living)
    assert [each.core.in_flight for each in living] == [0] * len(living)
    assert all(each.wake == math.inf and each.leases.may_rest for each in living)
    assert world.store.look("group").held == {}
    assert all(left >= 0 for left in world.store.look("group").left.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["bucket", "sliding"]),
    quota=st.integers(1, 200),
    what=st.lists(calls | pauses, max_size=25),
    latency=st.sampled_from([0.0, 0.3]),
)
def test_a_provider_that_counts_to_the_letter_refuses_nothing(
    kind: Any, quota: int, what: list[Any], latency: float
) -> None:
    world = World()
    three = [world.process(RateLimit(rpm=quota, period=5.0, window=kind)) for _ in range(3)]
    for each in three:
        each.latency = latency
    for act, *how in what:
        if act == "wait":
            world.run(how[0])
        else:
            three[how[0]].call(how[1])
    world.run(600)
    assert len(world.sent) == sum(how[1] for act, *how in what if act == "call")
    level, before = float(quota), 0.0
    trailing: list[float] = []
    for sent in world.sent:
        if kind == "bucket":
            level = min(quota, level + (sent.at - before) * quota / 5.0) - 1
            before = sent.at
            assert level >= -1e-6
        else:
            trailing = [at for at in trailing if at > sent.at - 5.0]
            trailing.append(sent.at)
            assert len(trailing) <= quota


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_limit_of_an_hour_is_kept_too(world: World, window: Any) -> None:
    """What was sent is not to be spent once more, however long a window's margin is."""
    first, second = (world.process(RateLimit("*", rpm=300, period=3600.0, window=window)) for _ in range(2))
    first.keep_busy(20)
    second.keep_busy(20)
    world.run(600)
    assert 270 <= world.count() <= 352


def test_what_has_left_a_window_is_past_correcting(world: World) -> None:
    began = world.now
    process = world.process(RateLimit("*", tpm=100_000, window="sliding"))
    process.actual = (1.0, 1000.0, 1000.0, 0.0)
    process.latency = 65.0
    process.call(10, (1.0, 10_000.0, 10_000.0, 0.0))
    world.run(62)
    process.call(30, (1.0, 10_000.0, 10_000.0, 0.0))
    world.run(8)
    assert world.count(began + 61.0, dimension=1) == 100_000


def test_a_limit_whose_lanes_were_forgotten_is_still_one_of_its_process() -> None:
    limits = [RateLimit("a*", rpm=60, max_in_flight=3), RateLimit("b*", rpm=60)]
    leases = Leases(limits, Sharing(MemoryStore()), lambda now, later: None)
    core = Core(leases.pools)
    a, b = core.lane("a"), core.lane("b")
    leases.next([a, b], 0.0)
    known = leases.account.meters
    leases.next([b], 1.0)
    assert leases.account.meters == known
    assert len(known) == 3
