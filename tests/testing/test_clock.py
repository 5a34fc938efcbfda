from __future__ import annotations

import threading

import pytest

from bulkllm.testing import FakeClock


def test_time_passes_only_when_told() -> None:
    clock = FakeClock(10.0)
    assert (clock(), clock()) == (10.0, 10.0)
    assert clock.advance(2.5) == 12.5
    assert clock() == 12.5


def test_sleeping_passes_the_time_at_once_and_is_remembered() -> None:
    clock = FakeClock()
    clock.sleep(60)
    clock.sleep(-1)
    assert clock() == 60
    assert clock.slept == [60, -1]


async def test_asleep_lets_other_tasks_run() -> None:
    import asyncio

    clock = FakeClock()
    ran: list[float] = []
    task = asyncio.create_task(_note(ran, clock))
    await clock.asleep(5)
    await task
    assert ran == [5.0]


async def _note(ran: list[float], clock: FakeClock) -> None:
    ran.append(clock())


def test_a_clock_never_goes_back() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="go back by 1"):
        clock.advance(-1)
    assert clock() == 0


def test_many_threads_advance_it_without_losing_time() -> None:
    clock = FakeClock()
    threads = [threading.Thread(target=lambda: [clock.advance(1) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock() == 2000
