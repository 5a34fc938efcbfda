"""A provider that refuses everything for a while: what is refused then says nothing about what it gives afterwards."""

from __future__ import annotations

import pytest

from bulkllm.limits.pace import Pace
from bulkllm.testing.limits import ProviderLimits
from tests.limits.test_against_providers import Outcome, Scene, Simulation, simulate

FREE = ProviderLimits()
BUCKET = ProviderLimits(rpm=600)
SLIDING = ProviderLimits(rpm=600, window="sliding")
BEGINS = 120.0


class Outage(Simulation):
    """Everything is refused from a moment on, for so many seconds."""

    def __init__(self, scene: Scene, seconds: float) -> None:
        super().__init__(scene)
        self.at(BEGINS, lambda: self._refuse(1.0))
        self.at(BEGINS + seconds, lambda: self._refuse(0.0))

    def _refuse(self, share: float) -> None:
        self.scene.chance = share


def outage(server: ProviderLimits, seconds: float, **scene: object) -> Outcome:
    """Twenty requests a second, and nothing that tells a limit."""
    settings = {"headers": None, "requests": 10**5, "in_flight": 6, "lasts": BEGINS + seconds + 240} | scene
    return Outage(Scene(server, **settings), seconds).run()  # type: ignore[arg-type]


def refused(outcome: Outcome, since: float, until: float) -> int:
    return sum(since <= at < until for at in outcome.refused)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("server", [FREE, BUCKET, SLIDING], ids=["free", "bucket", "sliding"])
class TestOutage:
    def test_it_is_as_fast_as_before_and_asks_for_little_meanwhile(
        self, server: ProviderLimits, retry_after: bool, seed: int
    ) -> None:
        """The last pause is half a minute at most. A window that nothing tells of may cost a third of each minute.

        It is asked as often as the provider says (once a second, and those that follow are refused too), or else twice
        a minute. In the first minute it may be a window: whenever something leaves it, one request tries.
        """
        outcome = outage(server, 300, retry_after=retry_after, seed=seed)
        before = outcome.let_in(60, 120)
        assert outcome.let_in(420, 540) >= 0.7 * before
        assert outcome.let_in(540, 660) >= 0.65 * 2 * min(before, server.rpm or before)
        assert refused(outcome, 120, 180) <= 100
        assert refused(outcome, 180, 420) <= (4 * 90 if retry_after else 4 * 5 + 10)

    @pytest.mark.parametrize("seconds", [20, 55, 65])
    def test_a_short_one_costs_no_more(
        self, server: ProviderLimits, retry_after: bool, seed: int, seconds: float
    ) -> None:
        outcome = outage(server, seconds, retry_after=retry_after, seed=seed)
        opens = BEGINS + seconds
        before = outcome.let_in(60, 120)
        full = 2 * min(before, server.rpm or before)
        assert outcome.let_in(opens, opens + 120) >= 0.35 * full
        assert outcome.let_in(opens + 120, opens + 240) >= 0.5 * full


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("retry_after", [True, False])
def test_refusals_that_overtake_each_other_are_none_let_in(retry_after: bool, seed: int) -> None:
    """Of two under way the younger is refused first: the older was not let in for all that."""
    outcome = outage(FREE, 300, retry_after=retry_after, in_flight=20, lag=(0.02, 1.0), latency=(0.3, 3.0), seed=seed)
    assert outcome.let_in(540, 660) >= 0.9 * 2 * outcome.let_in(60, 120)
    assert refused(outcome, 180, 420) <= (4 * 90 if retry_after else 4 * 10)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
class TestSmallLimit:
    """Five requests a minute, and nobody tells."""

    def test_it_is_kept(self, window: str, retry_after: bool, seed: int) -> None:
        server = ProviderLimits(rpm=5, window=window)  # type: ignore[arg-type]
        outcome = simulate(
            server, headers=None, retry_after=retry_after, in_flight=6, requests=10**6, lasts=1200, seed=seed
        )
        assert outcome.let_in(120, 1200) >= 0.9 * 5 * 18
        assert refused(outcome, 600, 1200) <= 0.15 * 5 * 10

    def test_a_limit_that_becomes_so_small_is_kept_and_one_that_is_raised_is_noticed(
        self, window: str, retry_after: bool, seed: int
    ) -> None:
        small, large = (ProviderLimits(rpm=rpm, window=window) for rpm in (5, 600))  # type: ignore[arg-type]
        outcome = simulate(
            large, headers=None, retry_after=retry_after, in_flight=6, requests=10**6, lasts=2700, seed=seed,
            changes=((300, small), (1200, large)),
        )  # fmt: skip
        assert outcome.let_in(420, 1200) >= 0.8 * 5 * 13
        assert refused(outcome, 360, 1200) <= 5 * 14
        assert outcome.let_in(2580, 2700) >= 0.8 * 1200  # about ten doublings, one or two minutes each


def test_the_back_off_holds_where_the_window_has_room() -> None:
    """What was refused is not counted, so that the window alone would let the next one go at once."""
    pace, now = Pace(0.0), 0.0
    for _ in range(50):
        pace.took(now)
        now += 0.1
    pace._allow_bursts(50.0, now)
    now += 70.0  # all of it has left the window
    pauses = []
    for _ in range(8):
        pace.took(now)
        pause = pace.refuse(pace.trail.sent, now, now + 0.05)
        if pause is not None:
            pauses.append(pause)
            now += 0.05 + pause
    assert pauses[-1] >= 10.0
    assert pauses == sorted(pauses)


def test_a_pace_that_was_remembered_outlives_an_outage_at_the_start() -> None:
    pace, now = Pace(0.0), 0.0
    pace.set_rate(10.0, now)
    while now < 300.0:
        pace.took(now)
        now += 0.05
        now += pace.refuse(pace.trail.sent, now - 0.05, now) or 0.5
    assert 9.0 <= pace.rate <= 10.0
    assert pace.trail.sent <= 30
