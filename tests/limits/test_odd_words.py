"""What neither an odd number nor an odd moment may do to a limiter's books."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bulkllm.limits.charging import charged
from bulkllm.limits.claim import Claim, Slot
from bulkllm.limits.core import Core
from bulkllm.limits.discovery import Discovered
from bulkllm.limits.estimate import Estimate
from bulkllm.limits.feedback import Observation
from bulkllm.limits.lanes import GRANTED, WAITING, Ticket
from bulkllm.limits.leases import Leases
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import HeaderNames, Profile, profile_for
from bulkllm.limits.sharing import Sharing
from bulkllm.limits.spec import DAY, RateLimit
from bulkllm.limits.status import status_of
from bulkllm.limits.stores.memory import MemoryStore
from bulkllm.limits.tracked import Tracked
from bulkllm.limits.undecided import Question
from bulkllm.limits.word import Word

ONE = (1.0, 0.0, 0.0, 0.0)
TOKENS = (1.0, 1000.0, 600.0, 400.0)
UNKNOWN = profile_for("openai", "http://127.0.0.1/v1")
SOMEBODY = Origin("openai", "http://127.0.0.1/v1", "0" * 12, UNKNOWN)


def sent(core: Core, ticket: Ticket, now: float) -> Ticket:
    assert core.request(ticket, now)
    core.stamp(ticket, now, really=True)
    return ticket


@pytest.mark.parametrize("window", ["bucket", None])
def test_no_number_that_a_provider_tells_of_a_request_closes_a_limit_for_weeks(window: str | None) -> None:
    core = Core([RateLimit("*", tpm=100_000, window=window)])  # type: ignore[arg-type]  # both are windows
    for origin in (None, SOMEBODY):
        lane = core.lane("openai/m", origin)
        core.settle(sent(core, Ticket(lane, TOKENS), 0.0), 1.0, (1.0, 2.0**32, 600.0, 2.0**32))
        waiting = Ticket(lane, TOKENS)
        assert not core.request(waiting, 2.0)
        core.due(62 * 60.0)
        assert waiting.state == GRANTED
        core.settle(waiting, 62 * 60.0, ONE)
        core = Core([RateLimit("*", tpm=100_000, window=window)])  # type: ignore[arg-type]  # as above


def test_more_input_from_the_cache_than_there_was_input_gives_nothing_back() -> None:
    free = replace(UNKNOWN, cached_input="free")
    estimate = Estimate(100.0, 50.0, 400)
    assert charged(free, estimate, 100, 10, 5000) == (1.0, 10.0, 0.0, 10.0)


def test_to_look_at_a_model_that_was_not_used_yet_answers_no_question() -> None:
    core = Core([RateLimit("openai/*", rpm=600, tpm=10_000)])
    before = status_of(core, "openai/m", 0.0)
    assert [(pool.name, pool.window, sorted(pool.quotas)) for pool in before.limits] == [
        ("openai/*", None, ["rpm", "tpm"])
    ]
    assert not core.known_lanes
    sliding = Origin("openai", "", "1" * 12, Profile(name="slides", providers=["openai"], window="sliding"))
    core.lane("openai/m", sliding)
    assert core.pools[0].window == "sliding"


def test_who_cannot_learn_leaves_the_question_of_those_who_do_open() -> None:
    core = Core([RateLimit("openai/*", rpm=600)])
    core.lane("openai/m", SOMEBODY)
    core.lane("openai/m")
    assert core.pools[0].window is None


def test_a_minutes_window_says_nothing_of_a_days_quota() -> None:
    question = Question()
    found = Discovered("openai/m", SOMEBODY, question, careful=True, now=0.0)
    question.refused()
    assert question.answer == "sliding"
    day = Tracked("rpd", 0, 1000.0, DAY, question)
    for number in range(1000):
        claim = day.take(1.0, float(number))
        day.send(claim, float(number), really=True)
    assert day.meter.ready_at(1.0, 1000.0) < 1100.0, "one comes back every 86 seconds"
    names = HeaderNames(dimension="rpm", limit="l", remaining="r", reset="t", reset_format="seconds")
    found.hear(found.let_go(ONE, 0.0), Word("let in", (Observation(names, 600.0, 599.0, None),)), 1.0)
    assert found.tracked["rpm"].meter.ready_at(1.0, 1.0) <= 1.0


def test_alarms_far_away_do_not_pile_up() -> None:
    """Somebody waits for tomorrow, and others for a moment, again and again."""
    core = Core([RateLimit("openai/slow", rpd=1), RateLimit("openai/*", rpm=600, burst=1, window="bucket")])
    slow, fast = core.lane("openai/slow"), core.lane("openai/fast")
    sent(core, Ticket(slow, ONE), 0.0)
    tomorrow = Ticket(slow, ONE)
    assert not core.request(tomorrow, 0.0)
    now = 1.0
    for _ in range(2_000):
        sent(core, Ticket(fast, ONE), now)
        waiting = Ticket(fast, ONE)
        assert not core.request(waiting, now)
        while waiting.state == WAITING:
            now = core.next_alarm()
            core.due(now)
        now += 1.0
        core.due(now)
    assert now < DAY / 2
    assert len(core._alarms) < 200
    assert tomorrow.state == WAITING
    core.due(DAY + 1)
    assert tomorrow.state == GRANTED


def test_a_request_that_is_never_answered_holds_nothing_of_what_comes_after() -> None:
    tracked = Tracked("rpm", 0, 1e6, 60.0, Question("bucket"))
    hangs = tracked.take(1.0, 0.0)
    tracked.send(hangs, 0.0, really=True)
    soon = tracked.take(1.0, 0.1)
    tracked.send(soon, 0.1, really=True)
    for number in range(1, 1000):
        claim: Claim = tracked.take(1.0, float(number))
        tracked.send(claim, float(number), really=True)
    assert hangs.after() == 2.0, "itself, and the one that was sent a tenth of a second later"
    slot: Slot | None = hangs.slot
    held = 0
    while slot is not None:
        held, slot = held + 1, slot.next
    assert held <= 2
    assert math.isfinite(tracked.meter.ready_at(1.0, 1000.0))


@pytest.mark.parametrize("headers", [True, False])
def test_what_failed_and_is_not_counted_is_no_sign_of_a_bucket(headers: bool) -> None:
    """A row that the provider cannot read costs nothing of some quotas: then more is left than a window would have."""
    core = Core([] if headers else [RateLimit("*", rpm=60)])
    lane = core.lane("openai/m", SOMEBODY)
    names = HeaderNames(dimension="rpm", limit="l", remaining="r", reset="t", reset_format="seconds")
    counted, now = 0, 0.0

    def word() -> Word:
        return Word("let in", (Observation(names, 60.0, 60.0 - counted, None),)) if headers else Word("let in")

    for number in range(60):
        now += 0.05
        ticket = Ticket(lane, ONE)
        assert core.request(ticket, now)
        core.stamp(ticket, now, really=True)
        failed = 10 <= number < 20
        counted += not failed
        core.settle(ticket, now + 0.01, ONE, None if failed else word())
    for _ in range(9):  # the provider's window has room for ten
        now += 1.2
        ticket = Ticket(lane, ONE)
        assert core.request(ticket, now)
        core.stamp(ticket, now, really=True)
        counted += 1
        core.settle(ticket, now + 0.01, ONE, word())
    (pool,) = [pool for pool in lane.pools if pool.live]
    assert pool.question.answer is None


@pytest.mark.parametrize(("burst", "at_once"), [(None, 10), (50, 50)])
def test_a_profiles_safe_burst_holds_where_nobody_knows_the_window(burst: int | None, at_once: int) -> None:
    """Unless the user knows better."""
    careful = Origin("mistral", "", "1" * 12, Profile(name="careful", providers=["mistral"], burst=1.0))
    core = Core([RateLimit("mistral/*", rpm=600, burst=burst)])
    lane = core.lane("mistral/m", careful)
    let_go = 0
    while core.request(ticket := Ticket(lane, ONE), 0.0):
        let_go += 1
        core.stamp(ticket, 0.0, really=True)
        core.settle(ticket, 0.0, ONE, Word("let in"))
    assert at_once - 1 <= let_go <= at_once, "a full bucket is full a little longer"


@pytest.mark.parametrize("window", ["bucket", None])
def test_limits_that_are_shared_are_no_other(window: Any) -> None:
    """A profile's safe burst, and a number of tokens that nobody can have used."""
    now = 1_000.0
    store = MemoryStore(clock=lambda: now)
    limits = [RateLimit("mistral/*", rpm=600, tpm=100_000, window=window)]
    leases = Leases(limits, Sharing(store), lambda moment, later: None)
    careful = Origin("mistral", "", "1" * 12, Profile(name="careful", providers=["mistral"], burst=1.0))
    core = Core(leases.pools)
    lane = core.lane("mistral/m", careful)
    sizes = {meter.meter.key.rpartition("/")[2]: meter.meter.size for meter in leases.pools[0].leased_meters}
    assert min(size for name, size in sizes.items() if name.startswith("rpm")) == 10.0
    ticket = Ticket(lane, TOKENS)
    assert not core.request(ticket, now)
    while (claim := leases.next(core.lanes, now)) is not None:
        leases.took(store.lease("group", claim), now)
        core.changed(now)
    assert ticket.state == GRANTED
    core.stamp(ticket, now, really=True)
    core.settle(ticket, now, (1.0, 2.0**32, 600.0, 2.0**32))
    while (claim := leases.next(core.lanes, now + 2)) is not None:
        leases.took(store.lease("group", claim), now + 2)
    left = store.look("group").left
    assert min(left.values()) >= -61 * 100_000
