"""Calls that begin at once in an event loop start one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import threading
import weakref
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from bulkllm import Client, RateLimit, RateLimiter
from bulkllm.calls.gateway import LiteLLMLane
from bulkllm.calls.starting import passed, starting, turn
from bulkllm.testing import FakeProvider

Log = list[tuple[int, str]]


class Wait:
    """Comes round to it once more."""

    def __await__(self) -> Generator[None]:
        yield


async def call(name: int, log: Log, answer: asyncio.Event) -> int:
    """It waits once before its request is on the wire, and then for its answer."""
    log.append((name, "starts"))
    await Wait()
    log.append((name, "sent"))
    await answer.wait()
    log.append((name, "answered"))
    return name


async def work(name: int, log: Log, answer: asyncio.Event) -> int:
    await turn()
    return await starting(call(name, log, answer))


def names(log: Log, what: str) -> list[int]:
    return [name for name, event in log if event == what]


async def test_the_first_are_on_the_wire_while_the_others_have_not_begun() -> None:
    log: Log = []
    answer = asyncio.Event()
    tasks = [asyncio.ensure_future(work(number, log, answer)) for number in range(80)]
    while len(names(log, "sent")) < 80:
        await Wait()
    assert names(log, "starts") == list(range(80))
    assert log.index((0, "sent")) < log.index((20, "starts"))
    assert log.index((40, "sent")) < log.index((60, "starts"))
    answer.set()
    assert await asyncio.gather(*tasks) == list(range(80))


def test_who_is_alone_goes_at_once() -> None:
    async def alone() -> None:
        for _ in range(3):
            await turn()
            passed()

    async def watched() -> int:
        coroutine = alone()
        steps = 0
        while True:
            try:
                coroutine.send(None)
            except StopIteration:
                return steps
            steps += 1

    assert asyncio.run(watched()) == 0


async def test_those_who_are_cancelled_or_do_not_go_hold_nobody_up() -> None:
    log: Log = []
    answer = asyncio.Event()
    answer.set()

    async def changes_its_mind() -> None:
        await turn()
        passed()

    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(changes_its_mind()) for _ in range(10)]
    tasks += [asyncio.ensure_future(work(number, log, answer)) for number in range(40)]
    await Wait()
    for task in tasks[10:48]:
        task.cancel()
    await asyncio.wait(tasks, timeout=20)
    assert all(task.done() for task in tasks)
    assert names(log, "answered")[-2:] == [38, 39]


async def test_a_call_that_fails_or_is_given_up_lets_the_next_one_start() -> None:
    async def broken() -> None:
        await turn()
        await starting(fails())

    async def fails() -> None:
        await Wait()
        raise ZeroDivisionError

    async def hangs() -> None:
        await turn()
        await starting(asyncio.sleep(3600))

    told = await asyncio.gather(*(broken() for _ in range(40)), return_exceptions=True)
    assert [type(one) for one in told] == [ZeroDivisionError] * 40
    tasks = [asyncio.ensure_future(hangs()) for _ in range(20)]
    await Wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    log: Log = []
    answer = asyncio.Event()
    answer.set()
    assert await asyncio.wait_for(work(7, log, answer), 20) == 7


async def test_what_a_call_is_told_while_it_waits_reaches_it() -> None:
    """It is awaited as any other: cancellations, answers to them, and results go through."""

    async def stubborn() -> str:
        for _ in range(3):
            await Wait()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as cancelled:
            try:
                await asyncio.sleep(0)
                return f"cancelled: {cancelled}"
            finally:
                cleaned.append(1)
        return "?"

    async def one() -> str:
        await turn()
        return await starting(stubborn())

    cleaned: list[int] = []
    task = asyncio.ensure_future(one())
    for _ in range(10):
        await Wait()
    task.cancel("why")
    assert await task == "cancelled: why"
    assert cleaned == [1]


async def test_calls_that_are_long_in_starting_are_not_waited_for() -> None:
    """Whoever waits once only, and for its answer, must not make the others wait for that too."""

    gate = asyncio.Event()
    begun: list[int] = []

    async def counted() -> None:
        await turn()
        begun.append(1)
        await starting(gate.wait())

    tasks = [asyncio.ensure_future(counted()) for _ in range(50)]
    for _ in range(10_000):
        await asyncio.sleep(0.001)
        if len(begun) == 50:
            break
    assert len(begun) == 50
    gate.set()
    await asyncio.gather(*tasks)


def test_a_loop_that_was_stopped_goes_on_where_it_was() -> None:
    loop = asyncio.new_event_loop()
    log: Log = []
    answer = asyncio.Event()
    answer.set()
    try:
        tasks = [loop.create_task(work(number, log, answer)) for number in range(30)]
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert len(names(log, "starts")) < 30
        loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), 20))
    finally:
        loop.close()
    assert names(log, "starts") == list(range(30))


async def test_the_time_it_took_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    answer = asyncio.Event()
    answer.set()
    took: list[float] = []

    async def one(number: int) -> None:
        nonlocal now
        took.append(await turn())
        await starting(call(number, [], answer))
        now += 0.5  # seconds of CPU

    tasks = [asyncio.ensure_future(one(number)) for number in range(20)]
    await asyncio.gather(*tasks)
    assert took[:16] == [0.0] * 16
    assert took[16] >= 0.5


def test_outside_of_a_task_nobody_waits() -> None:
    passed()  # a thread without a loop
    coroutine = turn()
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    assert done.value.value == 0.0
    thread = threading.Thread(target=passed)
    thread.start()
    thread.join(20)


def test_a_loop_is_not_kept_for_its_line() -> None:
    async def one() -> None:
        answer = asyncio.Event()
        answer.set()
        await asyncio.gather(*(work(number, [], answer) for number in range(20)))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(one())
    loop.close()
    seen = weakref.ref(loop)
    del loop
    gc.collect()
    assert seen() is None


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
        monkeypatch.setattr("bulkllm.calls.starting._SURELY", 60.0)  # a machine that stands still passes over nobody
        await asyncio.gather(*(ask(number) for number in range(60)))
    assert len(log) == 120
    assert "answer" in log[:60]


async def test_an_error_of_a_call_is_not_kept() -> None:
    class Odd(Exception):
        """It can be referred to weakly."""

    async def given_up() -> None:
        await asyncio.Event().wait()

    async def one() -> None:
        await turn()
        await starting(given_up())

    gc.collect()
    gc.disable()
    try:
        coroutine = one()
        coroutine.send(None)
        error = Odd()
        seen = weakref.ref(error)
        with contextlib.suppress(Odd):
            coroutine.throw(error)
        del error, coroutine
        assert seen() is None
    finally:
        gc.enable()


async def test_what_a_thread_prepared_for_a_cancelled_call_is_closed() -> None:
    """LiteLLM makes the coroutine that sends a request in a thread, and Python would warn that nobody awaits it."""
    go_on, made = threading.Event(), list[Coroutine[Any, Any, None]]()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def send() -> None:
        raise AssertionError("it was cancelled")

    def prepare() -> Coroutine[Any, Any, None]:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(30)
        made.append(send())
        return made[0]

    async def call() -> None:
        await (await loop.run_in_executor(None, prepare))

    async def work() -> None:
        await turn()
        await starting(call())

    task = asyncio.ensure_future(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    while not made or inspect.getcoroutinestate(made[0]) != inspect.CORO_CLOSED:
        await asyncio.sleep(0.001)
