"""Identical requests in flight share one call, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from bulkllm.caching.inflight import Follower, Leader, Outcome, SingleFlight


@pytest.fixture
def flights() -> SingleFlight[str]:
    return SingleFlight()


def lead(flights: SingleFlight[str], key: str = "k") -> Leader[str]:
    claim = flights.claim(key)
    assert isinstance(claim, Leader)
    return claim


def follow(flights: SingleFlight[str], key: str = "k") -> Follower[str]:
    claim = flights.claim(key)
    assert isinstance(claim, Follower)
    return claim


def wait_until(done: Any) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


class InThread:
    """A follower that waits in a thread of its own."""

    def __init__(self, follower: Follower[str]) -> None:
        self.outcome: Outcome[str] | None = None
        self._follower = follower
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        self.outcome = self._follower.result(10)

    def join(self) -> Outcome[str]:
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert self.outcome is not None
        return self.outcome


def test_the_first_leads_and_the_others_get_its_result(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    followers = [InThread(follow(flights)) for _ in range(5)]
    lead(flights, "another key").abandon()
    wait_until(lambda: leader.followers == 5)
    leader.settle("answer")
    assert [one.join() for one in followers] == [Outcome("answered", result="answer")] * 5
    assert len(flights) == 0
    lead(flights)  # what is over does not bind the next one


def test_an_error_is_told_to_all_and_the_next_claim_leads(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    follower = InThread(follow(flights))
    wait_until(lambda: leader.followers == 1)
    error = ValueError("no")
    leader.fail(error)
    outcome = follower.join()
    assert (outcome.state, outcome.error) == ("failed", error)
    lead(flights)


@pytest.mark.parametrize("how", ["abandon", "drop", "leave", "cancel"])
def test_a_leader_that_gives_up_releases_its_followers(flights: SingleFlight[str], how: str) -> None:
    holder = [lead(flights)]
    followers = [InThread(follow(flights)) for _ in range(3)]
    wait_until(lambda: holder[0].followers == 3)
    if how == "abandon":
        holder[0].abandon()
    elif how == "drop":
        holder.clear()
        gc.collect()
    elif how == "leave":
        with holder[0]:
            pass
    else:
        with pytest.raises(asyncio.CancelledError), holder[0]:
            raise asyncio.CancelledError
    assert [one.join().state for one in followers] == ["abandoned"] * 3
    claims = [flights.claim("k") for _ in range(3)]
    assert [type(claim) for claim in claims] == [Leader, Follower, Follower]


def test_an_error_that_leaves_the_leader_s_block_is_told(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    follower = InThread(follow(flights))
    wait_until(lambda: leader.followers == 1)
    with pytest.raises(RuntimeError, match="provider"), leader:
        raise RuntimeError("the provider said no")
    outcome = follower.join()
    assert outcome.state == "failed"
    assert str(outcome.error) == "the provider said no"


def test_the_first_end_counts(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    follower = InThread(follow(flights))
    wait_until(lambda: leader.followers == 1)
    with leader:
        leader.settle("answer")
        leader.fail(ValueError())
    leader.abandon()
    assert follower.join() == Outcome("answered", result="answer")


def test_a_follower_that_comes_to_wait_after_the_end_is_told_at_once(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    late = follow(flights)
    leader.settle("answer")
    assert late.result() == Outcome("answered", result="answer")
    assert asyncio.run(late.aresult()) == Outcome("answered", result="answer")


def test_a_follower_need_not_wait_longer_than_it_wants(flights: SingleFlight[str]) -> None:
    started = threading.Event()
    finish = threading.Event()

    def leading() -> None:
        leader = lead(flights)
        started.set()
        finish.wait(10)
        leader.settle("late")

    thread = threading.Thread(target=leading)
    thread.start()
    started.wait(10)
    follower = follow(flights)
    assert follower.result(0.01) is None
    assert follower.result(0) is None
    finish.set()
    assert follower.result(10) == Outcome("answered", result="late")
    thread.join()


# Event loops.


async def test_tasks_follow_a_task(flights: SingleFlight[str]) -> None:
    calls = 0

    async def ask() -> str:
        nonlocal calls
        claim = flights.claim("k")
        if isinstance(claim, Follower):
            outcome = await claim.aresult()
            assert outcome.result is not None
            return outcome.result
        with claim:
            calls += 1
            await asyncio.sleep(0.01)
            claim.settle("answer")
            return "answer"

    assert await asyncio.gather(*(ask() for _ in range(100))) == ["answer"] * 100
    assert calls == 1


async def test_a_cancelled_leader_hands_over(flights: SingleFlight[str]) -> None:
    asked: list[int] = []

    async def ask(number: int) -> str:
        while True:
            claim = flights.claim("k")
            if isinstance(claim, Leader):
                with claim:
                    asked.append(number)
                    await asyncio.sleep(0.02)
                    claim.settle(f"from {number}")
                    return f"from {number}"
            outcome = await claim.aresult()
            if outcome.state == "answered":
                assert outcome.result is not None
                return outcome.result

    tasks = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0.005)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == ["from 1"] * 4
    assert asked == [0, 1]


async def test_a_cancelled_follower_disturbs_nobody(flights: SingleFlight[str]) -> None:
    started = asyncio.Event()

    async def leading() -> None:
        leader = lead(flights)
        started.set()
        await asyncio.sleep(0.02)
        leader.settle("answer")

    leading_task = asyncio.create_task(leading())
    await started.wait()
    impatient = asyncio.create_task(follow(flights).aresult())
    patient = asyncio.create_task(follow(flights).aresult())
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).result == "answer"
    assert impatient.cancelled()
    await leading_task


def test_a_follower_whose_loop_is_closed_disturbs_nobody(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    follower = follow(flights)

    def give_up_halfway() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(follower.aresult())
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=give_up_halfway)
    thread.start()
    thread.join()
    other = InThread(follow(flights))
    wait_until(lambda: leader.followers == 2)
    leader.settle("answer")
    assert other.join().result == "answer"


def test_across_loops_and_threads(flights: SingleFlight[str]) -> None:
    gate = threading.Barrier(6)
    answers: list[str | None] = []
    calls: list[str] = []

    def sync_ask() -> None:
        gate.wait(10)
        claim = flights.claim("k")
        if isinstance(claim, Leader):
            calls.append("thread")
            wait_until(lambda: claim.followers == 5)
            claim.settle("answer")
            answers.append("answer")
            return
        outcome = claim.result(10)
        assert outcome is not None
        answers.append(outcome.result)

    async def ask() -> None:
        await asyncio.to_thread(gate.wait, 10)
        claim = flights.claim("k")
        if isinstance(claim, Leader):
            calls.append("loop")
            while claim.followers < 5:
                await asyncio.sleep(0.001)
            claim.settle("answer")
            answers.append("answer")
            return
        answers.append((await claim.aresult()).result)

    threads = [threading.Thread(target=sync_ask) for _ in range(3)]
    threads += [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == ["answer"] * 6
    assert len(calls) == 1


# Nobody waits for himself.


async def test_a_synchronous_call_does_not_wait_for_a_task_of_its_own_loop(flights: SingleFlight[str]) -> None:
    async def leading(finish: asyncio.Event) -> None:
        leader = lead(flights)
        await finish.wait()
        leader.settle("answer")

    finish = asyncio.Event()
    task = asyncio.create_task(leading(finish))
    await asyncio.sleep(0)
    follower = follow(flights)
    assert follower.result(5) == Outcome("alone")
    finish.set()
    await task
    assert follower.result(5) == Outcome("answered", result="answer")


async def test_a_leader_that_asks_the_same_again_goes_alone(flights: SingleFlight[str]) -> None:
    leader = lead(flights)  # an unread stream, say
    assert await follow(flights).aresult() == Outcome("alone")
    leader.settle("answer")


def test_so_does_a_thread_that_leads(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    assert follow(flights).result(5) == Outcome("alone")
    assert asyncio.run(follow(flights).aresult()) == Outcome("alone")
    leader.settle("answer")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_does_not_wait_for_a_leader_of_its_parent(flights: SingleFlight[str]) -> None:
    leader = lead(flights)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if isinstance(flights.claim("k"), Leader) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert isinstance(flights.claim("k"), Follower)
    leader.settle("answer")


# Finalisers.


def test_a_leader_dropped_while_the_lock_is_held_releases_its_followers(flights: SingleFlight[str]) -> None:
    """The garbage collector may run anywhere, also in a thread that is claiming something just then."""
    holder = [lead(flights)]
    follower = InThread(follow(flights))
    wait_until(lambda: holder[0].followers == 1)
    with flights._mailbox:
        holder.clear()
        gc.collect()
        assert follower.outcome is None
    assert follower.join().state == "abandoned"


def test_under_a_storm_every_key_is_asked_for_and_everybody_is_answered(flights: SingleFlight[str]) -> None:
    """Threads and loops; leaders answer, fail, are dropped and cancelled at random."""
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    in_flight: Counter[str] = Counter()
    overlaps: list[str] = []
    guard = threading.Lock()

    def end(claim: Leader[str], key: str, chance: float) -> bool:
        with guard:
            in_flight[key] -= 1
        if chance < 0.7:
            claim.settle(key)
            return True
        if chance < 0.85:
            claim.fail(ValueError(key))
        return False  # or dropped

    def begin(key: str) -> None:
        with guard:
            asked[key] += 1
            in_flight[key] += 1
            if in_flight[key] > 1:
                overlaps.append(key)

    def count(key: str) -> None:
        with guard:
            answered[key] += 1

    def sync_ask(key: str, chance: random.Random) -> None:
        while True:
            claim = flights.claim(key)
            if isinstance(claim, Leader):
                begin(key)
                time.sleep(0)
                if end(claim, key, chance.random()):
                    return count(key)
                del claim
                continue
            outcome = claim.result(20)
            assert outcome is not None
            if outcome.state == "answered":
                assert outcome.result == key
                return count(key)

    async def ask(key: str, chance: random.Random) -> None:
        while True:
            claim = flights.claim(key)
            if isinstance(claim, Leader):
                begin(key)
                await asyncio.sleep(0)
                if end(claim, key, chance.random()):
                    return count(key)
                del claim
                continue
            outcome = await claim.aresult()
            if outcome.state == "answered":
                assert outcome.result == key
                return count(key)

    def thread(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - chance
        for _ in range(300):
            sync_ask(f"k{chance.randrange(5)}", chance)

    async def loop(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - chance
        for _ in range(15):
            await asyncio.gather(*(ask(f"k{chance.randrange(5)}", chance) for _ in range(20)))

    threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(3)]
    threads += [threading.Thread(target=lambda s=s: asyncio.run(loop(s))) for s in (10, 11)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
        assert not one.is_alive()
    assert answered.total() == 3 * 300 + 2 * 300
    assert asked.total() <= answered.total() * 2
    assert overlaps == []
    assert len(flights) == 0
