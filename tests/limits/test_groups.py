"""Which lanes share limits, and what becomes of the lanes of accounts that nobody uses any more."""

from __future__ import annotations

import gc

import pytest

from bulkllm.limits.core import Core
from bulkllm.limits.lanes import GRANTED, WAITING, Lane, Ticket
from bulkllm.limits.notices import Notices
from bulkllm.limits.origin import Origin, Origins
from bulkllm.limits.profiles import profile_for
from bulkllm.limits.spec import RateLimit
from bulkllm.limits.spent import Spent
from bulkllm.limits.word import Word

ONE = (1.0, 0.0, 0.0, 0.0)


def account(number: int) -> Origin:
    return Origin("openai", "", f"{number:012}", profile_for("openai", ""))


def lane_of(core: Core, number: int, now: float) -> Lane:
    return core.lane("openai/m", account(number), now=now)


def use(core: Core, lane: Lane, now: float) -> Ticket:
    ticket = Ticket(lane, ONE)
    assert core.request(ticket, now)
    core.stamp(ticket, now, really=True)
    return ticket


def test_accounts_that_nobody_uses_any_more_are_forgotten() -> None:
    core = Core([RateLimit("openai/*", rpm=1e9)])
    for number in range(20_000):
        core.settle(use(core, lane_of(core, number, float(number)), float(number)), float(number), ONE)
    assert 600 <= len(list(core.lanes)) <= 2 * 1024
    assert (
        len(core.known_lanes) == len(list(core.lanes)) == len({lane.group for lane in core.lanes} and list(core.lanes))
    )
    (group,) = {lane.group for lane in core.lanes}
    assert len(group.lanes) == len(list(core.lanes))


def test_what_is_used_or_waited_for_or_closed_or_spent_is_kept() -> None:
    core = Core([RateLimit("openai/*", rpm=6, period=100_000, window="bucket")])
    in_flight, waiting, closed, spent, idle = (lane_of(core, number, 0.0) for number in range(5))
    plain = core.lane("openai/other", now=0.0)
    use(core, in_flight, 0.0)
    core.settle(use(core, closed, 0.0), 0.0, ONE, Word("refused", (), 5000.0))
    core.settle(use(core, spent, 0.0), 0.0, ONE, Word("refused", (), 5000.0, spent=Spent("requests per day", 5000.0)))
    core.settle(use(core, idle, 0.0), 0.0, ONE)
    ticket = Ticket(waiting, (6.0, 0.0, 0.0, 0.0))
    assert not core.request(ticket, 0.0)
    for number in range(10, 2000):
        lane_of(core, number, 1000.0)
    kept = set(core.lanes)
    assert {in_flight, waiting, closed, spent, plain} <= kept
    assert idle not in kept
    core.due(1e6)
    assert ticket.state == GRANTED


@pytest.mark.parametrize("limits", [[], [RateLimit("openai/*", rpm=60, burst=1, window="bucket")]], ids=["none", "one"])
def test_a_lane_that_was_looked_up_when_it_was_forgotten_is_served_all_the_same(limits: list[RateLimit]) -> None:
    core = Core(limits)
    lane = lane_of(core, 0, 0.0)
    for number in range(1, 1100):
        lane_of(core, number, 1000.0)
    assert lane not in set(core.lanes)
    assert lane.discovered is not None
    core.settle(use(core, lane, 1001.0), 1001.0, ONE, Word("refused", (), 10.0))
    waiting = Ticket(lane, ONE)
    assert not core.request(waiting, 1002.0)
    assert lane in set(core.lanes)
    while waiting.state == WAITING and (at := core.next_alarm()) < 1100:
        core.due(at)
    assert waiting.state == GRANTED


def test_those_who_share_a_limit_through_another_are_one_group() -> None:
    core = Core([RateLimit("a*", rpm=60), RateLimit("*b", rpm=60), RateLimit("c", rpm=60)])
    a, b, c = (core.lane(name) for name in ("a", "b", "c"))
    assert len({lane.group for lane in (a, b, c)}) == 3
    both = core.lane("ab")
    assert a.group is b.group is both.group is not c.group
    assert set(both.group.lanes) == {a, b, both}
    assert core.lane("a2").group is both.group, "it needs what a needs, and no lane of its own"


def test_accounts_that_nobody_speaks_of_any_more_have_no_origin_left() -> None:
    origins = Origins()
    kept = origins.of("openai", {"api_key": "kept"})
    for number in range(10_000):
        origins.of("openai", {"api_key": f"key {number}"})
    gc.collect()
    assert len(origins._by_scope) < 2 * 4096
    assert origins.of("openai", {"api_key": "kept"}) is kept


def test_a_lane_that_was_forgotten_and_is_used_again_is_of_the_group_that_its_limits_are_in_by_then() -> None:
    core = Core([RateLimit("*b", rpm=6000), RateLimit("a*", max_in_flight=1)])
    lane = core.lane("a", account(0), now=0.0)
    for number in range(1, 1100):
        core.lane("c", account(number), now=1000.0)
    assert lane not in set(core.lanes)
    first = use(core, lane, 1000.0)
    both = core.lane("ab", account(0), now=1000.0)
    waiting = Ticket(both, ONE)
    assert not core.request(waiting, 1000.0)
    core.settle(first, 1001.0, ONE)
    assert waiting.state == GRANTED
    assert not both.group.busy
    assert both.group.waiting == 0


def test_a_lane_whose_call_has_just_ended_is_in_use() -> None:
    core = Core([])
    lane = lane_of(core, 0, 0.0)
    core.settle(use(core, lane, 0.0), 999.0, ONE)
    for number in range(1, 1100):
        lane_of(core, number, 1000.0)
    assert lane in set(core.lanes)


def test_whoever_was_passed_over_comes_back_to_its_line_though_that_was_forgotten() -> None:
    core = Core([RateLimit("openai/*", rpm=60, burst=1, window="bucket")])
    lane = lane_of(core, 0, 0.0)
    core.settle(use(core, lane, 0.0), 0.0, ONE)
    ticket = Ticket(lane, ONE)
    assert not core.request(ticket, 0.0)
    core.due(core.next_alarm())
    core.pass_over(ticket, 2.0)
    for number in range(1, 1100):
        lane_of(core, number, 1000.0)
    assert lane not in set(core.lanes)
    core.resume(ticket, 1000.0)
    assert lane in set(core.lanes)
    assert ticket.state == GRANTED


def test_what_was_said_of_a_forgotten_account_is_forgotten_too() -> None:
    notices = Notices()
    core = Core([])
    for number in range(5000):
        lane = lane_of(core, number, float(number))
        assert lane.discovered is not None
        notices.learned(lane.discovered, float(number))
    gc.collect()
    assert len(notices._told) == len(list(core.lanes)) <= 2 * 1024
