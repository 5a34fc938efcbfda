"""The two drivers obey a flow alike."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from bulkllm.calls.drive import adrive, drive

Flow = Generator[Any, Any, Any]


class Do:
    """An effect that returns, or raises, what it was made with."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def perform(self) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        if self.outcome is Odd:
            raise Odd
        return self.outcome

    async def aperform(self) -> Any:
        await asyncio.sleep(0)
        return self.perform()


def in_a_task(flow: Flow) -> Any:
    return asyncio.run(adrive(flow))


both = pytest.mark.parametrize("obey", [drive, in_a_task])


class Odd(Exception):
    """An error of its own, which can be referred to weakly."""


@both
def test_results_are_sent_in_and_the_last_word_comes_out(obey: Callable[[Flow], Any]) -> None:
    def flow() -> Flow:
        first = yield Do(2)
        second = yield Do(3)
        return first * second

    assert obey(flow()) == 6


@both
def test_a_flow_may_ask_for_nothing(obey: Callable[[Flow], Any]) -> None:
    def flow() -> Flow:
        yield from ()
        return "done"

    assert obey(flow()) == "done"


@both
def test_an_error_is_thrown_in_and_may_be_taken(obey: Callable[[Flow], Any]) -> None:
    thrown = Odd("once")

    def flow() -> Flow:
        taken: Odd | None = None
        try:
            yield Do(thrown)
        except Odd as error:
            taken = error
        return taken, (yield Do("after"))

    assert obey(flow()) == (thrown, "after")


@both
def test_what_a_flow_raises_comes_out_as_it_is(obey: Callable[[Flow], Any]) -> None:
    first, second = Odd("first"), Odd("second")

    def flow() -> Flow:
        failed: Odd | None = None
        for error in (first, second):
            try:
                yield Do(error)
            except Odd as caught:
                failed = caught
        assert failed is not None
        raise failed

    with pytest.raises(Odd) as caught:
        obey(flow())
    assert caught.value is second
    assert caught.value.__context__ is None


@both
def test_an_interrupt_reaches_the_flow(obey: Callable[[Flow], Any]) -> None:
    seen: list[BaseException] = []

    class Interrupt(BaseException):
        pass

    def flow() -> Flow:
        try:
            yield Do(Interrupt())
        except BaseException as error:
            seen.append(error)
            raise

    with pytest.raises(Interrupt):
        obey(flow())
    assert len(seen) == 1


def test_a_task_that_is_cancelled_has_its_flow_told() -> None:
    told: list[type[BaseException]] = []

    class Wait:
        async def aperform(self) -> None:
            await asyncio.sleep(60)

    def flow() -> Flow:
        try:
            yield Wait()
        except BaseException as error:
            told.append(type(error))
            raise

    async def main() -> None:
        task = asyncio.create_task(adrive(flow()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert told == [asyncio.CancelledError]


def test_a_coroutine_that_is_closed_closes_its_flow() -> None:
    told: list[type[BaseException]] = []

    def flow() -> Flow:
        try:
            yield Do(None)
        except BaseException as error:
            told.append(type(error))
            raise

    coroutine = adrive(flow())
    coroutine.send(None)
    coroutine.close()
    assert told == [GeneratorExit]


def failing() -> Flow:
    failed: Odd | None = None
    try:
        yield Do(Odd)
    except Odd as error:
        failed = error
    try:
        assert failed is not None
        raise failed
    finally:
        failed = None


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_an_error_holds_no_circle_of_references(no_garbage_collector: None) -> None:
    """It would keep the request, prompts and all, until the garbage collector comes by."""
    held: list[weakref.ref[Odd]] = []
    try:
        drive(failing())
    except Odd as error:
        held.append(weakref.ref(error))
    assert held[0]() is None


async def test_nor_in_a_task(no_garbage_collector: None) -> None:
    held: list[weakref.ref[Odd]] = []
    try:
        await adrive(failing())
    except Odd as error:
        held.append(weakref.ref(error))
    assert held[0]() is None
