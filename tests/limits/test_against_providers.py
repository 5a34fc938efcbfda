"""The limiter against a provider that enforces limits, both on a virtual clock: minutes pass in milliseconds.

How long a run takes and how often it is refused are what the limiter promises; nothing hangs on this machine.

The limiter's side is the real :class:`Core`, the provider's the real arithmetic and headers of
:mod:`bulkllm.testing`. In between lie the delays of a network and of a busy event loop, drawn at random.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from bulkllm.limits.charging import charged, expected
from bulkllm.limits.core import Core
from bulkllm.limits.estimate import Estimate, Size, TokenEstimator
from bulkllm.limits.feedback import observe
from bulkllm.limits.lanes import GRANTED, Ticket
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import Profile, profile_for
from bulkllm.limits.spec import RateLimit, Window
from bulkllm.limits.word import Word
from bulkllm.testing.headers import HeaderStyle, limit_headers
from bulkllm.testing.limits import Charge, ChargeRule, Pool, ProviderLimits, charge_for

MODEL = "openai/fake-model"
EPOCH = 1_800_000_000.0
SPREAD = 0.8  # of the logarithms of outputs: one in twenty is longer than three times the mean


@dataclass
class Outcome:
    """How a run went.

    Attributes:
        seconds: until the last request was answered.
        answered: requests that were let in.
        refused: answers of 429, by the time they came.
        times: when each request was let in.
        counted: tokens that it was charged then.
        produced: tokens that were charged later, and when.
    """

    seconds: float = 0.0
    answered: int = 0
    refused: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    produced: list[tuple[float, int]] = field(default_factory=list)

    def let_in(self, since: float, until: float) -> int:
        """How many were let in between two moments."""
        return sum(since <= at < until for at in self.times)

    def tokens(self, since: float, until: float) -> int:
        """How many tokens were charged between two moments."""
        at_once = sum(tokens for at, tokens in zip(self.times, self.counted, strict=True) if since <= at < until)
        return at_once + sum(tokens for at, tokens in self.produced if since <= at < until)

    @property
    def share_refused(self) -> float:
        """Refusals by requests that were let in."""
        return len(self.refused) / max(1, self.answered)


@dataclass
class Scene:
    """What is simulated.

    Attributes:
        server: the provider's limits.
        limits: those that the client was told.
        headers: whose the provider sends; None for none, no ``retry-after`` either.
        retry_after: whether a refusal says how long to wait.
        requests: how many.
        in_flight: how many at once.
        latency: seconds from arrival to answer, from and to. Refusals come at once.
        lag: seconds from a grant to the arrival, from and to: the event loop, LiteLLM, the network.
        lasts: seconds after which the run ends.
        changes: limits of the provider from some moment on.
        foreign: requests that somebody else makes, a second.
        chance: the share of requests that is refused whatever the limits say.
        tokens: of a request: input, output, max_tokens. The output is a mean: most are shorter and a few much longer.
        charge: the provider's rule for tokens.
        seed: of the delays.
        profile: how the provider counts, as far as the client knows.
    """

    server: ProviderLimits
    limits: tuple[RateLimit, ...] = ()
    headers: HeaderStyle | None = "openai"
    retry_after: bool = True
    requests: int = 900
    in_flight: int = 100
    latency: tuple[float, float] = (0.3, 0.3)
    lag: tuple[float, float] = (0.002, 0.02)
    lasts: float = 600.0
    changes: tuple[tuple[float, ProviderLimits], ...] = ()
    foreign: float = 0.0
    chance: float = 0.0
    tokens: tuple[int, int, int | None] | None = None
    charge: ChargeRule = "actual"
    seed: int = 1
    profile: Profile = field(default_factory=lambda: profile_for("openai", "http://127.0.0.1/v1"))


@dataclass
class Call:
    """One request: what it takes, as the client estimates it, and how long its answer will be.

    Attributes:
        estimate: the client's.
        charge: the provider's, when it arrives.
        output: tokens of the answer.
    """

    estimate: Estimate
    charge: Charge
    output: int = 0


class Simulation:
    """Runs a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.random = random.Random(scene.seed)  # noqa: S311 - delays, not secrets
        self.core = Core(scene.limits)
        self.lane = self.core.lane(MODEL, Origin("openai", "http://127.0.0.1/v1", "0" * 12, scene.profile), now=0.0)
        self.pool = Pool(scene.server, 0.0)
        self.outcome = Outcome()
        self.estimator = TokenEstimator()
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.calls: dict[Ticket, Call] = {}
        self._serial = itertools.count()
        self._alarm = float("inf")
        self._to_start = scene.requests

    def run(self) -> Outcome:
        """Let time pass until all is done."""
        for moment, limits in self.scene.changes:
            self.at(moment, lambda limits=limits: self.pool.change(limits, self.now))  # type: ignore[misc]
        if self.scene.foreign:
            self.at(0.0, self._foreign)
        for _ in range(min(self.scene.in_flight, self.scene.requests)):
            self._start()
        self._grant()
        while self._events and self.outcome.answered < self.scene.requests and self.now < self.scene.lasts:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            self._grant()
        self.outcome.seconds = self.now
        return self.outcome

    def at(self, moment: float, happen: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._events, (moment, next(self._serial), happen))

    def _foreign(self) -> None:
        self.pool.admit(charge_for("actual", 0, None), self.now)
        self.pool.in_flight = max(0, self.pool.in_flight - 1)
        self.at(self.now + self.random.expovariate(self.scene.foreign), self._foreign)

    def _start(self) -> None:
        if self._to_start:
            self._to_start -= 1
            given, mean, most = self.scene.tokens or (0, 0, None)
            estimate = self.estimator.estimate_of(MODEL, Size(4 * given, 0, most, vectors=self.scene.tokens is None))
            output = (
                min(int(self.random.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD)), most or 10**6)
                if mean
                else 0
            )
            self._ask(Call(estimate, charge_for(self.scene.charge, given, most), output), front=False)

    def _ask(self, call: Call, *, front: bool) -> None:
        ticket = Ticket(self.lane, expected(self.scene.profile, call.estimate))
        self.calls[ticket] = call
        if self.core.request(ticket, self.now, front=front):
            self._granted(ticket)

    def _grant(self) -> None:
        self.core.due(self.now)
        while self.core.granted:
            granted, self.core.granted = self.core.granted, []
            for ticket in granted:
                self._granted(ticket)
        moment = self.core.next_alarm()
        if moment < self._alarm or self._alarm <= self.now:
            self._alarm = moment
            if moment < float("inf"):
                self.at(max(moment, self.now), self._rung)

    def _rung(self) -> None:
        if self.now >= self._alarm:
            self._alarm = float("inf")

    def _granted(self, ticket: Ticket) -> None:
        assert ticket.state == GRANTED
        lag = self.random.uniform(*self.scene.lag)
        begins = lag * self.random.random()  # the loop comes round to it, and it takes a while to arrive
        self.at(self.now + begins, lambda: self._send(ticket, lag - begins))

    def _send(self, ticket: Ticket, travels: float) -> None:
        self.core.stamp(ticket, self.now, really=True)
        self.at(self.now + travels, lambda: self._arrive(ticket))

    def _arrive(self, ticket: Ticket) -> None:
        call = self.calls.pop(ticket)
        by_chance = self.scene.chance > 0 and self.random.random() < self.scene.chance
        refusal = None if by_chance else self.pool.admit(call.charge, self.now)
        told = self._headers()
        if by_chance:
            self.at(
                self.now + 0.005, lambda: self._refused(ticket, call, told, 1.0 if self.scene.retry_after else None)
            )
        elif refusal is None:
            self.outcome.times.append(self.now)
            self.outcome.counted.append(call.charge.tokens)
            latency = self.random.uniform(*self.scene.latency)
            self.at(self.now + latency, lambda: self._answer(ticket, call, told))
        else:
            wait = refusal.wait if self.scene.retry_after else None
            self.at(self.now + 0.005, lambda: self._refused(ticket, call, told, wait))

    def _headers(self) -> dict[str, str]:
        if self.scene.headers is None:
            return {}
        return dict(limit_headers(self.scene.headers, self.pool, self.now, EPOCH + self.now))

    def _answer(self, ticket: Ticket, call: Call, told: dict[str, str]) -> None:
        self.pool.in_flight -= 1
        self.pool.produced(call.charge, call.output, self.now)
        if call.charge.late_output:
            self.outcome.produced.append((self.now, call.output))
        given = 0 if self.scene.tokens is None else self.scene.tokens[0]
        if given:
            self.estimator.learn(MODEL, call.estimate.characters, given, call.output)
        actual = charged(self.scene.profile, call.estimate, given, call.output, 0.0)
        observations = tuple(observe(self.scene.profile, told, EPOCH + self.now))
        self.core.settle(ticket, self.now, actual, Word("let in", observations))
        self.outcome.answered += 1
        self._start()

    def _refused(self, ticket: Ticket, call: Call, told: dict[str, str], wait: float | None) -> None:
        self.outcome.refused.append(self.now)
        observations = tuple(observe(self.scene.profile, told, EPOCH + self.now))
        self.core.settle(ticket, self.now, (1.0, 0.0, 0.0, 0.0), Word("refused", observations, wait))
        self._ask(call, front=True)


def simulate(server: ProviderLimits, limits: Iterable[RateLimit] = (), **scene: object) -> Outcome:
    """Run a scene."""
    return Simulation(Scene(server, tuple(limits), **scene)).run()  # type: ignore[arg-type]


# -- what is promised --------------------------------------------------------------------------------------------

BUCKET = ProviderLimits(rpm=600)
SLIDING = ProviderLimits(rpm=600, window="sliding")
FASTEST = {"bucket": 30.3, "sliding": 60.3}  # 900 requests at 600 a minute, 0.3 s each


def told(window: Window | None = None, rpm: float = 600) -> list[RateLimit]:
    return [RateLimit("*", rpm=rpm, window=window)]


def within(outcome: Outcome, ideal: float, slower: float, refused: float) -> None:
    assert outcome.seconds <= ideal * (1 + slower)
    assert outcome.share_refused <= refused


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("headers", ["openai", None])
@pytest.mark.parametrize("server", [BUCKET, SLIDING], ids=["bucket", "sliding"])
class TestConfigured:
    def test_with_the_window_known_nothing_is_lost(self, server: ProviderLimits, headers: Any, seed: int) -> None:
        outcome = simulate(server, told(server.window), headers=headers, seed=seed)
        within(outcome, FASTEST[server.window], 0.03, 0.002)

    def test_the_window_is_found_out(self, server: ProviderLimits, headers: Any, seed: int) -> None:
        within(simulate(server, told(), headers=headers, seed=seed), FASTEST[server.window], 0.10, 0.01)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
class TestHeaders:
    def test_the_provider_knows_better_than_the_user(self, window: Window, seed: int) -> None:
        server = ProviderLimits(rpm=300, window=window)
        within(simulate(server, told(rpm=600), seed=seed), 120.3, 0.05, 0.005)

    def test_nothing_was_configured(self, window: Window, seed: int) -> None:
        within(simulate(ProviderLimits(rpm=600, window=window), seed=seed), FASTEST[window], 0.05, 0.002)

    def test_answers_that_come_late_tell_of_the_window_too(self, window: Window, seed: int) -> None:
        """What is told of the request of 3 s ago leaves room for both, and is no ground to believe in a bucket."""
        server = ProviderLimits(rpm=600, window=window)
        outcome = simulate(server, told(), latency=(2.4, 3.6), requests=1500, seed=seed)
        assert outcome.seconds <= {"bucket": 90.0, "sliding": 120.0}[window] + 21  # 100 in flight take 18 s for 600
        assert outcome.share_refused <= 0.002

    def test_a_limit_that_changes_is_followed(self, window: Window, seed: int) -> None:
        half, full = ProviderLimits(rpm=300, window=window), ProviderLimits(rpm=600, window=window)
        outcome = simulate(full, requests=10**6, lasts=360, changes=((120, half), (240, full)), seed=seed)
        assert outcome.let_in(60, 120) >= 0.95 * 600
        assert outcome.let_in(180, 240) >= 0.95 * 300
        assert outcome.let_in(300, 360) >= 0.95 * 600
        assert outcome.share_refused <= 0.05  # one wave of a hundred was under way when the window was cut


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_burst_that_leaves_a_window_a_moment_earlier_shows_no_bucket(seed: int) -> None:
    half, full = ProviderLimits(rpm=30, window="sliding"), ProviderLimits(rpm=60, window="sliding")
    outcome = simulate(full, requests=10**6, lasts=420, changes=((180, half),), latency=(0.24, 0.36), seed=seed)
    assert outcome.let_in(270, 390) >= 0.9 * 60


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_small_bucket_is_noticed(seed: int) -> None:
    outcome = simulate(ProviderLimits(rpm=600, burst=10), requests=1500, seed=seed)
    within(outcome, 150.0, 0.05, 0.01)


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("limits", [told("bucket"), told(), []], ids=["window known", "limit known", "nothing known"])
def test_somebody_elses_share_is_left_to_them(limits: list[RateLimit], seed: int) -> None:
    """They use 40 %: 4 requests a second of the 10 that come free."""
    outcome = simulate(BUCKET, limits, foreign=4.0, seed=seed)
    within(outcome, 50.0, 0.15, 0.01)


@pytest.mark.parametrize("seed", range(1, 7))
def test_what_overtakes_a_request_shows_no_bucket(seed: int) -> None:
    """A burst of a busy program arrives in any order: the first answers tell of more than was left by our books."""
    outcome = simulate(SLIDING, lag=(0.05, 0.6), seed=seed)
    within(outcome, FASTEST["sliding"], 0.1, 0.005)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_somebody_elses_share_is_left_to_them_for_long(seed: int) -> None:
    outcome = simulate(BUCKET, foreign=4.0, requests=10**6, lasts=480, seed=seed)
    assert outcome.let_in(120, 480) >= 0.95 * 6 * 360
    assert outcome.share_refused <= 0.01


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
class TestNoWord:
    """No headers: what is not configured, or not true, is found out by refusals."""

    def test_the_pace_is_found(self, window: Window, retry_after: bool, seed: int) -> None:
        server = ProviderLimits(rpm=600, window=window)
        outcome = simulate(server, headers=None, retry_after=retry_after, requests=10**6, lasts=480, seed=seed)
        assert outcome.let_in(120, 480) >= 0.95 * 3600
        assert outcome.share_refused <= 0.015

    def test_the_user_believed_in_twice_as_much(self, window: Window, retry_after: bool, seed: int) -> None:
        server = ProviderLimits(rpm=300, window=window)
        outcome = simulate(server, told(rpm=600), headers=None, retry_after=retry_after, seed=seed)
        within(outcome, 120.3, 0.05, 0.02)

    def test_a_limit_that_changes_is_followed(self, window: Window, retry_after: bool, seed: int) -> None:
        half, full = ProviderLimits(rpm=300, window=window), ProviderLimits(rpm=600, window=window)
        outcome = simulate(
            full, headers=None, retry_after=retry_after, requests=10**6, lasts=600, seed=seed,
            changes=((180, half), (390, full)),
        )  # fmt: skip
        assert outcome.let_in(60, 180) >= 0.95 * 1200
        assert outcome.let_in(270, 390) >= 0.90 * 600
        assert outcome.let_in(480, 600) >= 0.90 * 1200
        assert outcome.share_refused <= 0.02


def test_refusals_by_chance_do_not_stop_a_run() -> None:
    """A provider that tells its limit and turns a request away now and then all the same."""
    outcome = simulate(ProviderLimits(rpm=6000, max_in_flight=60), requests=3000, in_flight=100)
    assert outcome.answered == 3000
    assert outcome.seconds < 30
    assert outcome.share_refused <= 0.03


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("retry_after", [True, False])
def test_a_limit_by_the_second_is_found_without_a_word(retry_after: bool, seed: int) -> None:
    """Ten at once and ten a second: what the first refusal came after is no minute's quota."""
    server = ProviderLimits(rpm=600, burst=10)
    outcome = simulate(server, headers=None, retry_after=retry_after, requests=10**6, lasts=180, seed=seed)
    assert outcome.let_in(60, 180) >= 0.95 * 1200
    assert outcome.share_refused <= 0.025


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("chance", "slower"), [(0.02, 2.0), (0.05, 3.0)])
def test_refusals_by_chance_set_no_pace(chance: float, slower: float, seed: int) -> None:
    """Each of them closes the pool for a moment, and no more."""
    outcome = simulate(ProviderLimits(), headers=None, retry_after=False, chance=chance, requests=6000, seed=seed)
    assert outcome.seconds <= slower * 6000 / 100 * 0.31
    assert outcome.share_refused <= 2 * chance


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_refusals_by_chance_at_a_limit_do_not_wear_the_pace_down(seed: int) -> None:
    outcome = simulate(BUCKET, headers=None, retry_after=False, chance=0.03, requests=10**6, lasts=600, seed=seed)
    assert outcome.let_in(120, 600) >= 0.3 * 600 * 8  # without a word a limit and chance are hard to tell apart
    assert outcome.share_refused <= 0.06


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_provider_that_seldom_refuses_by_chance_is_hardly_slower(seed: int) -> None:
    outcome = simulate(ProviderLimits(), headers=None, retry_after=False, chance=0.001, requests=20_000, seed=seed)
    assert outcome.answered == 20_000
    assert outcome.seconds <= 90  # 63 s without refusals
