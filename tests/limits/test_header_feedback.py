"""Whatever a provider tells, in whatever order: waits stay sensible, nothing is stuck, and little more is asked for
than it gives.

The first part feeds a core with any numbers at all. The second lets it run against a provider that enforces its limits
and whose headers are rounded, late, out of order, missing and now and then nonsense.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkllm.limits.core import Core
from bulkllm.limits.discovery import Discovered
from bulkllm.limits.feedback import observe
from bulkllm.limits.lanes import GRANTED, Ticket
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import profile_of
from bulkllm.limits.spec import RateLimit, Window
from bulkllm.limits.word import Word
from bulkllm.testing.limits import ProviderLimits
from tests.limits.test_against_providers import Scene, Simulation, told

MODEL = "openai/m"
EPOCH = 1_800_000_000.0
PROVIDERS = ("openai", "azure", "anthropic", "groq", "together_ai", "mistral")

numbers = st.one_of(
    st.integers(0, 2_000).map(str),
    st.integers(0, 200).map(lambda thousands: str(thousands * 1000)),
    st.sampled_from(
        ["-1", "0", "", "nan", "inf", "-inf", "1e308", "1e-308", "99999999999999999999", "unlimited", "3.7"]
    ),
)
resets = st.sampled_from(["", "0", "-1", "12ms", "6m0s", "1", "60", "1e12", "2027-01-15T08:01:00Z", "soon"])
waits = st.none() | st.sampled_from([0.0, 0.001, 0.5, 7.0, 61.0, 600.0])
amounts = st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(
    lambda both: (1.0, float(sum(both)), float(both[0]), float(both[1]))
)


class World:
    """A lane that listens to a provider, perhaps beside a configured limit."""

    def __init__(self, provider: str, limits: list[RateLimit]) -> None:
        self.profile = profile_of(provider)
        self.core = Core(limits)
        self.now = 1_000.0
        self.lane = self.core.lane(MODEL, Origin(provider, "", "0" * 12, self.profile), now=self.now)
        self.waiting: list[Ticket] = []
        self.holding: list[Ticket] = []

    @property
    def pool(self) -> Discovered:
        assert self.lane.discovered is not None
        return self.lane.discovered

    def ask(self, wanted: Any) -> None:
        ticket = Ticket(self.lane, wanted)
        at_once = self.core.request(ticket, self.now)
        (self.holding if at_once else self.waiting).append(ticket)
        if at_once:
            self.core.stamp(ticket, self.now, really=True)
        self.collect()

    def collect(self) -> None:
        granted, self.core.granted = self.core.granted, []
        for ticket in granted:
            assert ticket.state == GRANTED
            self.waiting.remove(ticket)
            self.holding.append(ticket)
            self.core.stamp(ticket, self.now, really=True)
        if self.core.granted:
            self.collect()

    def answer(self, which: int, word: Word, share: float) -> None:
        if self.holding:
            ticket = self.holding.pop(which % len(self.holding))
            _, _, given_, made = ticket.amounts
            used = (1.0, given_ + share * made, given_, share * made)
            self.core.settle(ticket, self.now, used, word)
            self.collect()

    def after(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(5_000):
            at = self.core.next_alarm()
            if at > until:
                break
            assert at >= self.now - 1e-6, "a wait into the past"
            self.now = max(self.now, at)
            self.core.due(self.now)
            self.collect()
        self.now = until

    def check(self) -> None:
        ready = self.pool.ready_at((1.0, 0.0, 0.0, 0.0), self.now)
        assert not math.isnan(ready)
        if self.waiting and not self.holding:
            assert self.core.next_alarm() < math.inf, "with nothing under way, only time can help"
        for tracked in self.pool.tracked.values():
            assert math.isfinite(tracked.meter.remaining(self.now))
            assert 0 <= tracked.drift < tracked.meter.quota / tracked.meter.period
        for meter in self.pool.pace.meters:
            assert math.isfinite(meter.remaining(self.now))
            assert 0 < meter.quota < math.inf


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    provider=st.sampled_from(PROVIDERS),
    limits=st.sampled_from(
        [[], [RateLimit("*", rpm=60)], [RateLimit("*", rpm=60, tpm=9_000, window="sliding", max_in_flight=4)]]
    ),
    data=st.data(),
)
def test_no_wait_is_negative_and_nothing_is_stuck(provider: str, limits: list[RateLimit], data: st.DataObject) -> None:
    world = World(provider, limits)
    names = [(h.limit, h.remaining, h.reset) for h in world.profile.headers]
    for _ in range(data.draw(st.integers(5, 50), label="steps")):
        match data.draw(st.sampled_from(["ask", "ask", "ask", "answer", "answer", "refuse", "time"])):
            case "ask":
                world.ask(data.draw(amounts))
            case "time":
                world.after(data.draw(st.sampled_from([0.001, 0.3, 2.0, 61.0, 3_600.0])))
            case kind:
                headers: dict[str, str] = {}
                for limit, remaining, reset in names:
                    headers |= {limit: data.draw(numbers), remaining: data.draw(numbers), reset: data.draw(resets)}
                    if data.draw(st.integers(0, 4)) == 0:
                        del headers[data.draw(st.sampled_from([limit, remaining, reset]))]
                seen = tuple(observe(world.profile, headers, EPOCH + world.now))
                word = Word("let in", seen) if kind == "answer" else Word("refused", seen, data.draw(waits))
                world.answer(data.draw(st.integers(0, 50)), word, data.draw(st.sampled_from([0.0, 0.1, 1.0, 3.0])))
        world.check()
    # All calls end, with nothing told any more: then everybody has had its turn, as late as the worst limit has it.
    for _ in range(5_000):
        if not world.waiting and not world.holding:
            break
        if world.holding:
            world.answer(0, Word("let in"), 1.0)
        else:
            world.after(max(0.0, world.core.next_alarm() - world.now) + 1e-6)
        world.check()
    assert not world.waiting, "somebody is stuck"
    assert not world.holding
    assert world.core.waiting == world.core.in_flight == world.pool.in_flight == 0


class Garbled(Simulation):
    """A provider whose headers cannot be trusted altogether: some are missing, some are nonsense, some are stale."""

    def _headers(self) -> dict[str, str]:
        headers = super()._headers()
        for name in list(headers):
            if self.random.random() < 0.1:
                del headers[name]
            elif "reset" not in name and self.random.random() < 0.02:
                headers[name] = self.random.choice(["-1", "0", "", "nan", "999999999999", "unlimited"])
        return headers


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("limits", [told(), []], ids=["configured", "learned"])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_headers_that_are_late_and_garbled_do_little_harm(window: Window, limits: list[RateLimit], seed: int) -> None:
    """The margin: of what it asks for, the provider refuses less than 2 %, and four fifths of the quota are used."""
    scene = Scene(
        ProviderLimits(rpm=600, window=window), tuple(limits), requests=10**6, lasts=300, latency=(0.05, 4.0), seed=seed
    )
    outcome = Garbled(scene).run()
    assert outcome.let_in(60, 300) >= 0.8 * 2400
    assert outcome.share_refused <= 0.02


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tokens_that_are_told_in_thousands_and_out_of_order(seed: int) -> None:
    """Anthropic's way, with answers that overtake each other: rounding alone must not make it creep or run."""
    quotas: dict[str, Any] = {"rpm": 4000, "itpm": 60_000, "otpm": 10**6}
    scene = Scene(
        ProviderLimits(**quotas), requests=10**6, lasts=300, latency=(0.2, 20.0), in_flight=200,
        headers="anthropic", profile=profile_of("anthropic"), tokens=(150, 100, 1000), seed=seed,
    )  # fmt: skip
    outcome = Garbled(scene).run()
    assert 150 * outcome.let_in(60, 300) >= 0.9 * 60_000 * 4
    assert outcome.share_refused <= 0.02


def test_a_stale_answer_changes_nothing() -> None:
    """What was left when an older request was let in says nothing that a younger one has not said already."""
    world = World("openai", [])
    for _ in range(3):
        world.ask((1.0, 0.0, 0.0, 0.0))
        world.after(0.5)
    headers = {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "590"}
    younger = tuple(observe(world.profile, headers, EPOCH))
    world.answer(2, Word("let in", younger), 0.0)
    for _ in range(3):
        world.ask((1.0, 0.0, 0.0, 0.0))
        world.after(0.5)
    world.answer(4, Word("let in", younger), 0.0)
    before = world.pool.tracked["rpm"].meter.remaining(world.now)
    stale = tuple(observe(world.profile, {**headers, "x-ratelimit-remaining-requests": "3"}, EPOCH))
    world.answer(2, Word("let in", stale), 0.0)
    assert world.pool.tracked["rpm"].meter.remaining(world.now) == pytest.approx(before)
