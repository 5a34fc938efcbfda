"""A pool whose quota of a day is spent: who is told, who waits, and what happens when it opens. On a virtual clock."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from bulkllm.limits.core import Core
from bulkllm.limits.discovery import Discovered
from bulkllm.limits.lanes import GRANTED, SETTLED, TURNED_AWAY, WAITING, Ticket
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import profile_of
from bulkllm.limits.spec import RateLimit
from bulkllm.limits.spent import Spent, patience_of
from bulkllm.limits.status import status_of
from bulkllm.limits.word import LET_IN, UNTOLD, Word

MODEL = "gemini/m"
HOUR = 3_600.0
ONE = (1.0, 0.0, 0.0, 0.0)


def spent(seconds: float | None = 14 * HOUR, turns_in: float | None = None, quota: str = "requests per day") -> Word:
    return Word("refused", (), None, Spent(quota, seconds, turns_in))


class World:
    """The core, one model of one account, and a clock that goes when a test says so."""

    def __init__(self, *limits: RateLimit, provider: str = "gemini") -> None:
        self.core = Core(limits)
        self.now = 1_000.0
        self.lane = self.core.lane(MODEL, Origin(provider, "", "0" * 12, profile_of(provider)), now=self.now)
        self.woken: list[Ticket] = []
        for _ in range(2):  # calls are going on already, and none is held back for being the first
            self.answer(self.ask())
            self.after(100.0)

    @property
    def pool(self) -> Discovered:
        assert self.lane.discovered is not None
        return self.lane.discovered

    def ask(self, patience: float = 0.0, *, front: bool = False) -> Ticket:
        ticket = Ticket(self.lane, ONE)
        if self.core.request(ticket, self.now, patience=patience, front=front):
            self.core.stamp(ticket, self.now, really=True)
        self._wake()
        return ticket

    def answer(self, ticket: Ticket, word: Word = LET_IN) -> None:
        assert ticket.state == GRANTED
        self.core.settle(ticket, self.now, ONE, word)
        self._wake()

    def after(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.core.next_alarm()) <= until:
            self.now = max(self.now, at)
            self.core.due(self.now)
            self._wake()
        self.now = until

    def _wake(self) -> None:
        woken, self.core.granted = self.core.granted, []
        for ticket in woken:
            if ticket.state == GRANTED:
                self.core.stamp(ticket, self.now, really=True)
        self.woken += woken


def states(tickets: list[Ticket]) -> list[int]:
    return [ticket.state for ticket in tickets]


# -- who is told ---------------------------------------------------------------------------------------------------


def test_whoever_comes_later_is_turned_away_at_once_and_takes_nothing() -> None:
    world = World(RateLimit("*", rpm=10))
    world.answer(world.ask(), spent())
    late = world.ask()
    assert late.state == TURNED_AWAY
    assert late.closing is not None
    assert (late.closing.quota, late.closing.until - world.now) == ("requests per day", 14 * HOUR)
    assert (world.core.waiting, world.core.in_flight) == (0, 0)
    assert world.lane.pools[0].meters[0].remaining(world.now) == 9
    world.after(14 * HOUR)
    assert world.ask().state == GRANTED


def test_those_who_stand_in_line_are_turned_away_when_the_pool_closes() -> None:
    world = World(RateLimit("*", max_in_flight=1))
    first = world.ask()
    patient = [world.ask(math.inf) for _ in range(2)]
    impatient = [world.ask() for _ in range(100)]
    one_hour, one_day = world.ask(HOUR), world.ask(24 * HOUR)
    assert world.core.waiting == 104
    world.answer(first, spent())
    assert states(impatient) == [TURNED_AWAY] * 100
    assert states([*patient, one_hour, one_day]) == [WAITING, WAITING, TURNED_AWAY, WAITING]
    assert world.woken == [*impatient, one_hour]
    assert (world.core.waiting, world.lane.impatient, world.lane.group.waiting) == (3, 1, 3)


def test_those_behind_a_limit_that_others_share_are_let_go_past_them() -> None:
    """Turning away is leaving the line: whoever stood behind, in another lane, goes now."""
    world = World(RateLimit("*", max_in_flight=2))
    first, second = world.ask(), world.ask()
    waiting = world.ask()
    other = Ticket(world.core.lane("gemini/other"), ONE)
    world.core.request(other, world.now)
    assert states([waiting, other]) == [WAITING, WAITING]
    world.answer(first, spent())
    assert states([waiting, other]) == [TURNED_AWAY, GRANTED]
    world.answer(second)


def test_another_account_and_another_model_go_on() -> None:
    world = World()
    world.answer(world.ask(), spent())
    assert world.ask().state == TURNED_AWAY
    for model, scope in (("gemini/other", "0" * 12), (MODEL, "1" * 12)):
        lane = world.core.lane(model, Origin("gemini", "", scope, profile_of("gemini")), now=world.now)
        assert world.core.request(Ticket(lane, ONE), world.now, patience=0.0)


def test_one_that_was_passed_over_is_turned_away_when_it_comes_back() -> None:
    """Its event loop stood still when it was granted, and when the pool closed."""
    world = World(RateLimit("*", max_in_flight=1))
    first, away, last = world.ask(), world.ask(), world.ask(math.inf)
    world.answer(first)
    assert states([away, last]) == [GRANTED, WAITING]
    world.core.pass_over(away, world.now)
    world._wake()
    assert last.state == GRANTED
    world.answer(last, spent())
    world.core.resume(away, world.now)
    assert away.state == TURNED_AWAY
    assert world.core.granted == [away]
    world.core.granted.clear()
    world.core.resume(away, world.now)  # told once more, for its loop may have stood still again
    assert world.core.granted == [away]
    world.core.settle(away, world.now, None)
    assert (away.state, world.core.waiting, world.core.in_flight) == (SETTLED, 0, 0)


def test_a_pause_of_the_usual_kind_turns_nobody_away() -> None:
    world = World()
    world.answer(world.ask(), Word("refused", (), 30.0))
    waiting = world.ask()
    assert waiting.state == WAITING
    world.after(30)
    assert waiting.state == GRANTED


def test_many_refusals_of_one_closing_look_through_the_line_once() -> None:
    """No look at all who wait for each answer: 200 refusals of what was under way are one closing."""
    world = World()
    under_way = [world.ask() for _ in range(16)]
    line = [world.ask(20 * HOUR) for _ in range(1_000)]
    looked = 0

    class Counting(list[tuple[tuple[float, int], Ticket]]):
        def __iter__(self) -> Iterator[tuple[tuple[float, int], Ticket]]:
            nonlocal looked
            looked += 1
            return super().__iter__()

    world.lane.queue = Counting(world.lane.queue)
    for ticket in under_way:
        world.answer(ticket, spent(14 * HOUR))
        world.now += 0.01
    assert looked == 1
    assert states(line) == [WAITING] * 1_000


# -- until when ----------------------------------------------------------------------------------------------------


def test_those_who_wait_go_when_it_opens_one_first_and_then_more_and_more() -> None:
    world = World()
    world.answer(world.ask(), spent(14 * HOUR))
    line = [world.ask(math.inf) for _ in range(40)]
    world.after(14 * HOUR - 1)
    assert states(line) == [WAITING] * 40
    going = []
    world.after(1)
    while any(state != SETTLED for state in states(line)):
        under_way = [ticket for ticket in line if ticket.state == GRANTED]
        going.append(len(under_way))
        for ticket in under_way:
            world.answer(ticket)
        world.after(0.1)
    assert going[:5] == [1, 2, 4, 8, 16]
    assert sum(going) == 40


def test_the_one_who_was_refused_goes_first_when_it_opens() -> None:
    world = World()
    world.answer(world.ask(), spent())
    line = [world.ask(math.inf) for _ in range(3)]
    refused = world.ask(math.inf, front=True)
    world.after(14 * HOUR)
    assert (refused.state, states(line)) == (GRANTED, [WAITING] * 3)


def test_still_spent_is_tried_later_and_later_but_not_past_midnight() -> None:
    """Gemini tells 36 s for what comes back at midnight."""
    world = World()
    midnight = world.now + HOUR
    pauses = []
    world.answer(world.ask(), spent(36.0, turns_in=HOUR))
    for _ in range(8):
        began = world.now
        ticket = world.ask(math.inf)
        while ticket.state == WAITING:
            world.after(1.0)
        pauses.append(world.now - began)
        world.answer(ticket, spent(36.0, turns_in=midnight - world.now))
    assert pauses == [36, 72, 144, 288, 576, UNTOLD, UNTOLD, pytest.approx(HOUR - sum(pauses[:7]), abs=1)]


def test_a_time_of_nothing_does_not_make_it_ask_again_and_again() -> None:
    world = World()
    world.answer(world.ask(), spent(0.0))
    pauses = []
    for _ in range(4):
        world.answer(world.ask(math.inf), spent(0.0))
        closing = world.pool.closing
        assert closing is not None
        pauses.append(closing.until - world.now)
        world.after(pauses[-1])
    assert pauses == [2, 4, 8, 16]


def test_an_answer_that_was_under_way_does_not_make_it_later() -> None:
    world = World()
    under_way = [world.ask() for _ in range(5)]
    for ticket in under_way[:4]:
        world.answer(ticket, spent(36.0, turns_in=HOUR))
    world.answer(under_way[4])  # let in before, answered after: it says nothing of the closing
    assert world.pool.spent(world.now) is not None
    assert world.pool.crowd.most == 1
    line = [world.ask(math.inf) for _ in range(2)]
    world.after(36)
    assert sorted(states(line)) == [WAITING, GRANTED]


def test_what_is_let_in_forgets_how_often_it_was_spent() -> None:
    world = World()
    for _ in range(3):
        world.answer(world.ask(), spent(36.0))
        world.after(36)
        world.answer(world.ask())
    assert world.pool.closing is None
    world.answer(world.ask(), spent(36.0))
    assert world.pool.closed_until == world.now + 36


def test_where_nobody_knows_until_when_it_is_asked_again_after_a_quarter_of_an_hour() -> None:
    world = World(provider="bedrock")
    world.answer(world.ask(), spent(None, quota="tokens per day"))
    assert world.ask().state == TURNED_AWAY
    world.after(UNTOLD)
    assert world.ask().state == GRANTED


def test_a_few_seconds_at_most_are_waited_in_all() -> None:
    """Closings that follow each other add up."""
    world = World()
    world.answer(world.ask(), spent(40.0))
    first, last = world.ask(math.inf), world.ask(100.0)
    world.after(40)
    assert states([first, last]) == [GRANTED, WAITING]
    world.answer(first, spent(40.0))  # it was still spent: 80 s
    assert last.state == TURNED_AWAY


def test_a_days_refusal_teaches_no_pace_and_answers_no_question() -> None:
    world = World()
    for _ in range(60):
        world.answer(world.ask())
    before = world.pool.knowledge()
    for _ in range(5):
        world.answer(world.ask(math.inf), spent(1.0))
        world.after(1_000)
    assert world.pool.pace.meters == ()
    assert world.pool.knowledge() == before
    assert world.pool.question.answer is None


def test_a_probe_that_is_refused_for_the_day_does_not_tell_a_window() -> None:
    """More than a minute's quota within a minute: what only a bucket lets in."""
    world = World(RateLimit("*", rpm=60, burst=60), provider="bedrock")
    question = world.lane.pools[0].question
    for _ in range(60):
        world.answer(world.ask())
    world.after(30)
    probe = world.ask()
    assert [asked.question for asked in probe.probes] == [question]
    world.answer(probe, spent(60.0))
    assert question.answer is None
    world.after(60)
    world.answer(world.ask())


# -- what is seen of it --------------------------------------------------------------------------------------------


def test_status_says_which_quota_and_until_when() -> None:
    world = World()
    world.answer(world.ask(), spent())
    world.ask(math.inf)
    status = status_of(world.core, MODEL, world.now)
    (pool,) = status.limits
    assert (pool.closed_because, pool.closed_for, pool.waiting) == ("requests per day", 14 * HOUR, 1)
    assert pool.closed_until is not None
    assert "(requests per day)" in str(status)
    assert status.waiting_for == {f"rpd of {MODEL}": 1}
    world.after(14 * HOUR)
    assert [pool.closed_because for pool in status_of(world.core, MODEL, world.now).limits] in ([], [""])


def test_a_quota_without_a_name_is_seen_too() -> None:
    world = World(provider="azure")
    world.answer(world.ask(), spent(24 * HOUR, quota=""))
    (pool,) = status_of(world.core, MODEL, world.now).limits
    assert pool.closed_because == "a quota that the provider does not name"


@pytest.mark.parametrize(("given", "seconds"), [(False, 0.0), (True, math.inf), (90, 90.0), (0, 0.0)])
def test_what_users_say_of_waiting(given: bool | float, seconds: float) -> None:
    assert patience_of(given) == seconds
