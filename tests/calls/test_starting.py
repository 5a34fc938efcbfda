"""Calls that begin at once in an event loop start one after the other."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from bulkllm import Client, RateLimit, RateLimiter
from bulkllm.calls.gateway import LiteLLMLane
from bulkllm.calls.starting import turn
from bulkllm.testing import FakeProvider


async def work(name: int, log: list[tuple[int, str]], steps: int = 3) -> None:
    """A call: it starts when it is its turn, and has its request on the wire after some steps."""
    await turn()
    log.append((name, "starts"))
    for _ in range(steps):
        await asyncio.sleep(0)
    log.append((name, "sent"))


async def together(count: int) -> list[tuple[int, str]]:
    log: list[tuple[int, str]] = []
    await asyncio.gather(*(work(number, log) for number in range(count)))
    return log


def test_the_first_is_on_the_wire_while_the_others_begin() -> None:
    log = asyncio.run(together(20))
    assert [name for name, what in log if what == "starts"] == list(range(20))
    assert log.index((0, "sent")) < log.index((5, "starts"))
    assert log.index((10, "sent")) < log.index((15, "starts"))


def test_who_is_alone_goes_at_once() -> None:
    async def alone() -> list[bool]:
        suspended = []
        for _ in range(3):
            coroutine = turn()
            try:
                coroutine.send(None)
            except StopIteration:
                suspended.append(False)
            else:
                suspended.append(True)
                coroutine.close()
            for _ in range(3):
                await asyncio.sleep(0)
        return suspended

    assert asyncio.run(alone()) == [False] * 3


def test_those_who_are_cancelled_hold_nobody_up() -> None:
    async def some() -> list[tuple[int, str]]:
        log: list[tuple[int, str]] = []
        tasks = [asyncio.ensure_future(work(number, log)) for number in range(10)]
        await asyncio.sleep(0)
        for task in tasks[1:9]:
            task.cancel()
        await asyncio.wait(tasks, timeout=20)
        assert all(task.done() for task in tasks)
        return log

    assert [name for name, what in asyncio.run(some()) if what == "starts"] == [0, 9]


def test_a_loop_that_was_stopped_goes_on_where_it_was() -> None:
    loop = asyncio.new_event_loop()
    log: list[tuple[int, str]] = []
    try:
        tasks = [loop.create_task(work(number, log)) for number in range(5)]
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert len(log) < 5
        loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), 20))
    finally:
        loop.close()
    assert [name for name, what in log if what == "starts"] == list(range(5))


def test_the_time_it_took_is_told() -> None:
    async def busy() -> list[float]:
        loop = asyncio.get_running_loop()
        now = loop.time()
        loop.time = lambda: now  # type: ignore[method-assign]

        async def one() -> float:
            nonlocal now
            took = await turn()
            now += 0.5  # seconds of CPU
            return took

        return list(await asyncio.gather(*(one() for _ in range(4))))

    assert asyncio.run(busy()) == [0.0, 0.0, 0.5, 1.0], "the second came when the first had started"


def test_a_loop_is_not_kept_for_its_line() -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(together_of_none())
    loop.close()
    seen = weakref.ref(loop)
    del loop
    gc.collect()
    assert seen() is None


async def together_of_none() -> None:
    await turn()


async def test_a_crowd_of_calls_is_on_its_way_before_the_last_of_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of 60 has its answer before the last one starts; without turns, none goes out before all have begun."""
    log: list[str] = []
    send = LiteLLMLane.asend

    async def told(self: LiteLLMLane, call: Any) -> Any:
        log.append("start")
        response = await send(self, call)
        log.append("answer")
        return response

    with FakeProvider() as server:
        client = Client(RateLimiter([RateLimit("openai/*", rpm=1000)]))

        async def ask(number: int) -> None:
            await client.acompletion(
                "openai/fake-model", [{"role": "user", "content": f"{number}"}],
                api_base=server.openai_base, api_key="sk-fake",
            )  # fmt: skip

        await ask(-1)
        monkeypatch.setattr(LiteLLMLane, "asend", told)
        await asyncio.gather(*(ask(number) for number in range(60)))
    assert len(log) == 120
    assert "answer" in log[:60]
