"""Anything that can happen around a quota of a day, in any order: the books balance, and nobody is forgotten."""

from __future__ import annotations

import math
import random

import pytest

from bulkllm.limits.core import Core
from bulkllm.limits.lanes import GRANTED, NEW, SETTLED, TURNED_AWAY, WAITING, Ticket
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import profile_of
from bulkllm.limits.spec import RateLimit
from bulkllm.limits.spent import Spent
from bulkllm.limits.word import LET_IN, Word

ONE = (1.0, 0.0, 0.0, 0.0)
MODELS = ("gemini/a", "gemini/b")


class Chaos:
    """Two models of one account under one shared limit, and whoever asks them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - what happens, not secrets
        self.core = Core([RateLimit("*", max_in_flight=6), RateLimit("gemini/a", rpm=600)])
        origin = Origin("gemini", "", "0" * 12, profile_of("gemini"))
        self.now = 0.0
        self.lanes = [self.core.lane(model, origin, now=0.0) for model in MODELS]
        self.tickets: list[Ticket] = []
        self.patience: dict[Ticket, float] = {}
        self.away: list[Ticket] = []

    def of(self, state: int) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state == state]

    def ask(self) -> None:
        ticket = Ticket(self.random.choice(self.lanes), ONE)
        patience = self.random.choice([0.0, 60.0, math.inf])
        self.patience[ticket] = patience
        self.tickets.append(ticket)
        self.core.request(ticket, self.now, patience=patience, front=self.random.random() < 0.1)

    def answer(self) -> None:
        granted = self.of(GRANTED)
        if granted:
            ticket = self.random.choice(granted)
            self.core.stamp(ticket, self.now, really=True)
            seconds = self.random.choice([None, 0.0, 5.0, 100.0, 50_000.0])
            spent = Word("refused", (), None, Spent("requests per day", seconds, self.random.choice([None, 400.0])))
            words = [LET_IN] * 6 + [spent, Word("refused", (), 2.0), Word("overloaded"), None]
            self.core.settle(ticket, self.now, ONE, self.random.choice(words))

    def give_up(self) -> None:
        under_way = [*self.of(WAITING), *self.of(GRANTED)]
        if under_way:
            self.core.settle(self.random.choice(under_way), self.now, None)

    def stand_still(self) -> None:
        granted = [ticket for ticket in self.of(GRANTED) if hasattr(ticket, "order")]
        if granted:
            self.away.append(self.random.choice(granted))
            self.core.pass_over(self.away[-1], self.now)

    def come_back(self) -> None:
        if self.away:
            self.core.resume(self.away.pop(), self.now)

    def wait(self, longest: float) -> None:
        self.now += self.random.random() * longest
        self.core.due(self.now)

    def check(self) -> None:
        self.core.granted.clear()
        waiting = self.of(WAITING)
        assert self.core.waiting == len(waiting)
        assert self.core.in_flight == len(self.of(GRANTED)) <= 6
        for lane in self.lanes:
            mine = [ticket for ticket in waiting if ticket.lane is lane]
            assert lane.waiting == len(mine)
            assert lane.impatient == sum(self.patience[ticket] < math.inf for ticket in mine)
            closing = None if lane.discovered is None else lane.discovered.spent(self.now)
            if closing is not None:  # nobody stands there who does not wait so long
                assert all(self.patience[ticket] > 0 for ticket in mine)
        for ticket in self.of(TURNED_AWAY):
            assert self.patience[ticket] < math.inf


@pytest.mark.parametrize("seed", range(30))
def test_the_books_balance_and_nobody_is_forgotten(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(600):
        what = chaos.random.choices(
            [chaos.ask, chaos.answer, chaos.give_up, chaos.stand_still, chaos.come_back], [8, 6, 1, 1, 1]
        )[0]
        what()
        if chaos.random.random() < 0.3:
            chaos.wait(chaos.random.choice([0.1, 3.0, 200.0]))
        chaos.check()
    for _ in range(20_000):  # and then all come to their end
        while chaos.away:
            chaos.come_back()
        for ticket in chaos.of(GRANTED):
            chaos.core.stamp(ticket, chaos.now, really=True)
            chaos.core.settle(ticket, chaos.now, ONE, LET_IN)
        if not chaos.of(WAITING) and not chaos.of(GRANTED):
            break
        chaos.now = max(chaos.now, min(chaos.core.next_alarm(), chaos.now + 50_000.0))
        chaos.core.due(chaos.now)
    assert {ticket.state for ticket in chaos.tickets} <= {SETTLED, TURNED_AWAY, NEW}
    assert not chaos.of(NEW)
    chaos.check()
    assert len(chaos.of(TURNED_AWAY)) > 10, "the scene is worth something"
