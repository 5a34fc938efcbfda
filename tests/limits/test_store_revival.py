"""A store that lost its state, or comes back with an older one: whoever remembers brings it back; the newest counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from bulkllm.errors import StoreUnavailable
from bulkllm.limits.stores import Lease, Meter, Store
from bulkllm.limits.stores.redis import RedisStore
from bulkllm.limits.stores.sqlite import SQLiteStore
from tests.limits.desk import RPM, Clock, Desk

SLIDING = Meter("rpm", "sliding", 60, whole=True)
TOKENS = Meter("tpm", "sliding", 6000)
SETTLES = 2.0

either = pytest.mark.parametrize("meter", [RPM, SLIDING], ids=lambda meter: meter.kind)


class World:
    """The desks of three processes, whose store may lose all that it has, or what it heard since a snapshot."""

    def __init__(self, make: Callable[[Clock], Store]) -> None:
        self.clock = Clock()
        self.desks = [Desk(make(self.clock), self.clock) for _ in range(3)]
        for desk in self.desks:
            desk.group = self.desks[0].group

    def count(self, meter: Meter) -> list[Desk]:
        for desk in self.desks:
            desk.meters = (meter,)
        return self.desks

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    def settle(self, desk: Desk, owner: str, *, keep: float = 0) -> Lease:
        """Somebody comes, and once more when the time is over that others have to come."""
        with pytest.raises(StoreUnavailable, match="lost its state") as caught:
            desk.claim(owner, keep=keep)
        assert caught.value.retry_after is not None
        self.wait(caught.value.retry_after)
        return desk.claim(owner, keep=keep)

    def lose(self) -> None:
        raise NotImplementedError

    def snapshot(self) -> None:
        raise NotImplementedError

    def restore(self) -> None:
        raise NotImplementedError


class WithFile(World):
    def __init__(self, folder: Path) -> None:
        self.path, self.copy = folder / "limits.sqlite3", folder / "copy.sqlite3"
        super().__init__(lambda clock: SQLiteStore(self.path, clock=clock))

    def lose(self) -> None:
        self.path.unlink()

    def snapshot(self) -> None:
        shutil.copy(self.path, self.copy)

    def restore(self) -> None:
        self.path.unlink()
        shutil.copy(self.copy, self.path)


class WithServer(World):
    def __init__(self, url: str) -> None:
        super().__init__(lambda clock: RedisStore(url, timeout=30.0, clock=clock))
        self.client = redis.Redis.from_url(url)
        self.key = f"bulkllm:limits:2:{{{self.desks[0].group}}}"
        self.copy: Any = None

    def lose(self) -> None:
        self.client.delete(self.key)

    def snapshot(self) -> None:
        self.copy = self.client.get(self.key)

    def restore(self) -> None:
        self.client.set(self.key, self.copy)


@pytest.fixture(params=["sqlite", "valkey"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for module in ("redis", "sqlite"):  # what is lost is brought back at once, however long the machine stood still
        monkeypatch.setattr(f"bulkllm.limits.stores.{module}.monotonic", lambda: 0.0)
    if request.param == "sqlite":
        yield WithFile(tmp_path)
    else:
        with_server = WithServer(request.getfixturevalue("valkey"))
        yield with_server
        with_server.client.close()


# -- one who remembers -------------------------------------------------------------------------------------------------


@either
def test_whoever_remembers_brings_it_back(world: World, meter: Meter) -> None:
    first, second, _ = world.count(meter)
    first.claim("a", 50)
    first.claim("a", keep=10, spent=[("rpm", 40, 0.0)])
    first.store.close(first.group, "p", 30)
    world.lose()
    assert first.left() == 10
    left = world.settle(first, "a", keep=10).left
    assert left == {"rpm": 10 if meter is SLIDING else 12}
    assert second.claim("b", 20).granted == left
    view = first.store.look(first.group)
    assert view.held == {"a": {"rpm": 10}, "b": left}
    assert view.closed == {"p": pytest.approx(30 - SETTLES)}
    world.wait(61)
    assert first.left() == 60


@either
def test_what_two_remember_is_missing_once(world: World, meter: Meter) -> None:
    first, second, _ = world.count(meter)
    first.claim("a", 30)
    first.claim("a", spent=[("rpm", 30, 0.0)])
    second.claim("b", 5)
    world.lose()
    left = world.settle(second, "b", keep=5).left
    assert left == {"rpm": 25 if meter is SLIDING else 27}
    assert first.claim("a").left == left
    assert second.claim("b", keep=5).left == left


def test_what_one_remembers_is_missing_from_what_others_began_anew(world: World) -> None:
    first, second, _ = world.count(SLIDING)
    first.claim("a", 50)
    first.claim("a", spent=[("rpm", 50, 0.0)])
    world.lose()
    assert second.claim("b", 20).granted == {"rpm": 20}
    second.claim("b", spent=[("rpm", 20, 0.0)])
    assert world.settle(first, "a").left == {"rpm": -10}
    assert second.claim("b", 1).granted == {}


def test_a_store_whose_clock_is_another_one_now_takes_the_state_over(world: World) -> None:
    desk, *_ = world.count(TOKENS)
    desk.claim("a", 6000)
    desk.claim("a", keep=0, spent=[("tpm", 5000, 0.0)])
    desk.claim("a", 1000)
    desk.store.close(desk.group, "p", 30)
    world.lose()
    world.wait(-10_000_000)
    view = desk.store.look(desk.group)
    assert view.left == {"tpm": 0}
    assert view.held == {"a": {"tpm": 1000}}
    assert view.closed == {"p": pytest.approx(30, abs=0.5)}
    world.settle(desk, "a", keep=1000)
    world.wait(2)
    desk.claim("a", 1, keep=0)
    assert desk.left() == pytest.approx(999)
    world.wait(57)
    assert desk.left() == 6000


# -- while it settles --------------------------------------------------------------------------------------------------


@either
def test_the_newest_memory_counts_whoever_comes_first(world: World, meter: Meter) -> None:
    first, second, third = world.count(meter)
    first.claim("a")
    second.claim("b", 40)
    second.claim("b", spent=[("rpm", 40, 0.0)])
    third.claim("c", 8)
    world.lose()
    for desk, owner in ((first, "a"), (third, "c"), (second, "b")):  # a knows nothing of the forty, and b of the eight
        with pytest.raises(StoreUnavailable) as caught:
            desk.claim(owner, 60)
        assert caught.value.retry_after == pytest.approx(SETTLES)
    assert first.left() == 12
    world.wait(SETTLES)
    assert first.claim("a", 60).granted == {"rpm": 12 if meter is SLIDING else 14}


def test_what_others_began_anew_is_counted_once_whoever_comes_later(world: World) -> None:
    first, second, third = world.count(SLIDING)
    first.claim("a", 10)
    first.claim("a", spent=[("rpm", 10, 0.0)])
    second.claim("b", 10)
    second.claim("b", spent=[("rpm", 10, 0.0)])
    world.lose()
    third.claim("c", 7)
    third.claim("c", spent=[("rpm", 7, 0.0)])
    for desk, owner in ((first, "a"), (second, "b")):
        with pytest.raises(StoreUnavailable):
            desk.claim(owner)
    assert first.left() == 60 - 10 - 10 - 7


@either
def test_what_is_told_meanwhile_is_booked_afterwards_and_once(world: World, meter: Meter) -> None:
    first, *_ = world.count(meter)
    first.claim("a", 30)
    world.lose()
    for moment in (0.0, 1.0):
        with pytest.raises(StoreUnavailable):
            first.claim("a", serial=7, spent=[("rpm", 30, moment)])
        world.wait(1.0)
    assert first.left() == 30, "they are held still"
    for _ in range(2):
        assert first.claim("a", serial=7, spent=[("rpm", 30, SETTLES)]).left["rpm"] == pytest.approx(30, abs=SETTLES)


@either
def test_what_was_booked_is_known_though_the_lease_has_run_out_since(
    world: World, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("redis", "sqlite"):  # both clocks go on: it is the same one
        monkeypatch.setattr(f"bulkllm.limits.stores.{module}.monotonic", world.clock)
    first, *_ = world.count(meter)
    first.claim("a", 30)
    first.claim("a", serial=7, spent=[("rpm", 30, 0.0)])
    world.lose()
    world.wait(5.5)
    with pytest.raises(StoreUnavailable):
        first.claim("a", serial=7, spent=[("rpm", 30, 5.5)])  # as if the answer had been lost
    world.wait(SETTLES)
    left = first.claim("a", serial=7, spent=[("rpm", 30, 5.5 + SETTLES)]).left["rpm"]
    assert left == pytest.approx(30, abs=5.5 + SETTLES)


def test_what_is_held_stays_its_owner_s_until_its_lease_runs_out(world: World) -> None:
    first, second, _ = world.count(SLIDING)
    second.claim("b", 20)
    first.claim("a")
    world.lose()
    world.settle(first, "a")
    assert first.claim("a", 60).granted == {"rpm": 40}
    world.wait(5)
    assert first.claim("a", 60, keep=40).granted == {"rpm": 20}


def test_a_correction_meanwhile_is_no_news(world: World) -> None:
    first, *_ = world.desks
    first.claim("a")
    world.lose()
    with pytest.raises(StoreUnavailable):
        first.claim("a")
    assert first.store.correct(first.group, RPM, at_most=5.0) is False
    world.wait(SETTLES)
    first.claim("a")
    assert first.store.correct(first.group, RPM, at_most=5.0) is True
    assert first.left() == 5


# -- a store that comes back as it was ---------------------------------------------------------------------------------


@either
def test_what_was_heard_since_a_snapshot_is_brought_back(world: World, meter: Meter) -> None:
    first, second, _ = world.count(meter)
    first.claim("a", 5)
    world.snapshot()
    second.claim("b", 50)
    second.claim("b", spent=[("rpm", 50, 0.0)])
    first.claim("a", keep=5)
    world.restore()
    left = world.settle(second, "b").left
    assert left == {"rpm": 5 if meter is SLIDING else 7}
    assert first.claim("a", keep=5).left == left
    assert second.claim("b", 60).granted == left


def test_a_pool_that_was_opened_since_a_snapshot_is_open(world: World) -> None:
    first, *_ = world.desks
    first.store.close(first.group, "p", 3600)
    first.claim("a")
    world.snapshot()
    first.store.close(first.group, "p", 0, replace=True)
    first.claim("a")
    world.restore()
    world.settle(first, "a")
    assert first.store.look(first.group).closed == {}


def test_a_snapshot_that_is_brought_back_again_is_noticed_again(world: World) -> None:
    first, *_ = world.count(SLIDING)
    first.claim("a")
    world.snapshot()
    first.claim("a", 50)
    first.claim("a", spent=[("rpm", 50, 0.0)])
    for _ in range(2):
        world.restore()
        assert world.settle(first, "a").left == {"rpm": 10}
    first.claim("a", 10)
    first.claim("a", spent=[("rpm", 10, 0.0)])
    world.restore()
    assert world.settle(first, "a").left == {"rpm": 0}


def test_a_snapshot_that_nobody_remembers_more_than_is_what_counts(world: World) -> None:
    first, second, _ = world.desks
    first.claim("a", 20)
    world.snapshot()
    world.restore()
    assert first.claim("a", keep=20).left == second.claim("b").left == {"rpm": 40}


def test_two_losses_are_one_story(world: World) -> None:
    """What all remember of the first life is missing once, though one goes on from it, and another from the second."""
    first, second, third = world.count(SLIDING)
    first.claim("a", 20)
    first.claim("a", spent=[("rpm", 20, 0.0)])
    second.claim("b")
    third.claim("c")
    world.lose()
    with pytest.raises(StoreUnavailable):
        second.claim("b")
    world.lose()
    for desk, owner in ((third, "c"), (second, "b"), (first, "a")):
        with pytest.raises(StoreUnavailable):
            desk.claim(owner)
    world.wait(SETTLES)
    assert second.claim("b").left == third.claim("c").left == {"rpm": 40}
    world.lose()
    world.settle(first, "a")
    assert second.claim("b").left == {"rpm": 40}, "it comes when that is over, with nothing new"


def test_what_somebody_holds_who_came_before_a_snapshot_was_found_to_be_one_is_held(world: World) -> None:
    first, second, third = world.count(SLIDING)
    first.claim("a")
    world.snapshot()
    second.claim("b", 30)
    second.claim("b", spent=[("rpm", 30, 0.0)])
    world.restore()
    third.claim("c", 20)
    assert world.settle(second, "b").left == {"rpm": 10}


def test_what_a_provider_said_of_the_past_stays_said(world: World) -> None:
    first, *_ = world.desks
    first.claim("a", 20)
    world.wait(1)
    assert first.store.correct(first.group, RPM, at_most=5.0)
    world.lose()
    world.settle(first, "a")
    left = first.left()
    first.claim("a", serial=9, spent=[("rpm", 10, SETTLES + 0.5)])
    assert first.left() == left, "it was in what the provider said"
    assert first.store.correct(first.group, RPM, at_most=1.0, ago=SETTLES + 0.5) is False
