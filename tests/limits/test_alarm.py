"""Who rings when a grant is due: the event loop whose tasks wait, or the thread in its place."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest

from bulkllm.limits import alarm as alarm_module
from bulkllm.limits.alarm import Alarm

PATIENCE = 30.0  # seconds after which a test gives up


class Bell:
    """An alarm that is to ring so many times, and who rang."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.rang: list[int] = []
        self.done = threading.Event()
        self.first = threading.Event()
        self.stands_at: float | None = None  # with a time, the clock stands still, and the thread finds nothing due
        self.alarm = Alarm(self.clock, self.ring, self.may_end)
        self.lock = threading.Lock()

    def clock(self) -> float:
        return time.monotonic() if self.stands_at is None else self.stands_at

    def start(self, after: float = 0.001) -> None:
        with self.lock:
            self.alarm.start()
            self.alarm.forward(self.clock() + after)

    def ring(self) -> None:
        with self.lock:
            self.rang.append(threading.get_ident())
            self.left -= 1
            self.alarm.reset(self.clock() + 0.001 if self.left > 0 else math.inf)
        self.first.set()
        if self.left <= 0:
            self.done.set()

    def may_end(self) -> bool:
        with self.lock:
            if self.left > 0:  # somebody waits
                return False
            self.alarm.end()
        return True


async def test_a_loop_whose_tasks_wait_rings_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "_GRACE", PATIENCE)  # however busy the machine is
    monkeypatch.setattr(alarm_module, "_LINGER", 0.01)
    bell = Bell(20)
    bell.alarm.help(asyncio.get_running_loop())  # before there is anything to ring for
    with bell.lock:
        bell.alarm.forward(time.monotonic() + 0.001)
    bell.alarm.help(asyncio.get_running_loop())
    bell.start()
    assert await asyncio.to_thread(bell.done.wait, PATIENCE)
    assert set(bell.rang) == {threading.get_ident()}
    assert len(bell.rang) == 20


async def test_the_thread_rings_where_the_loop_is_held_up_and_the_loop_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alarm_module, "_LINGER", 0.01)
    loop = asyncio.get_running_loop()
    bell = Bell(3)
    bell.start()
    bell.alarm.help(loop)
    assert bell.done.wait(PATIENCE)  # the loop stands still meanwhile
    assert threading.get_ident() not in bell.rang
    await asyncio.sleep(0.01)  # the timer that came too late is not rung for
    assert len(bell.rang) == 3

    monkeypatch.setattr(alarm_module, "_GRACE", PATIENCE)
    bell.left = 20
    bell.done.clear()
    bell.stands_at = time.monotonic()  # or the thread rings if the loop takes longer than that to help
    bell.start(PATIENCE)
    bell.alarm.help(loop)
    bell.start()
    bell.alarm.help(loop)
    assert await asyncio.to_thread(bell.done.wait, PATIENCE)
    assert set(bell.rang[3:]) == {threading.get_ident()}
    assert len(bell.rang) == 23


def test_a_loop_that_has_ended_helps_no_more_and_the_next_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "_LINGER", 0.01)
    bell = Bell(1)
    bell.stands_at = 0.0

    async def begin() -> None:
        bell.alarm.help(asyncio.get_running_loop())
        bell.start(1_000)  # no loop lives so long
        bell.alarm.help(asyncio.get_running_loop())

    async def stay() -> None:
        bell.alarm.help(asyncio.get_running_loop())
        bell.start()
        bell.alarm.help(asyncio.get_running_loop())
        assert await asyncio.to_thread(bell.done.wait, PATIENCE)

    for _ in range(3):
        asyncio.run(begin())
        assert bell.rang.count(threading.get_ident()) == 0
        bell.stands_at += 2_000
        bell.alarm._pokes.put(None)  # the thread looks at the clock again
        assert bell.done.wait(PATIENCE)
        bell.left = 1
        bell.done.clear()
    assert threading.get_ident() not in bell.rang
    asyncio.run(stay())  # the clock stands still: only a loop that helps rings
    assert bell.rang[3:] == [threading.get_ident()]
