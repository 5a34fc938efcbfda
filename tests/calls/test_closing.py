"""A stream's connection is given back through whatever layers LiteLLM has wrapped around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace as Thing
from typing import Any

import pytest

from bulkllm.calls.closing import aclose_source, close_source


class Closable:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class AsyncClosable:
    def __init__(self) -> None:
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


def nested(*names: str, inside: Any) -> Any:
    for name in reversed(names):
        inside = Thing(**{name: inside})
    return inside


LAYERS = [
    (),
    ("completion_stream",),
    ("completion_stream", "streaming_response"),
    ("completion_stream", "response_iterator"),
    ("response",),
]


@pytest.mark.parametrize("names", LAYERS)
def test_whatever_can_be_closed_is(names: tuple[str, ...]) -> None:
    source = Closable()
    close_source(nested(*names, inside=source))
    assert source.closed == 1


@pytest.mark.parametrize("names", LAYERS)
def test_the_same_in_a_task(names: tuple[str, ...]) -> None:
    source = AsyncClosable()
    asyncio.run(aclose_source(nested(*names, inside=source)))
    assert source.closed == 1


@pytest.mark.parametrize("stream", [None, "a mocked answer", 7, Thing(), Thing(completion_stream=None)])
def test_what_cannot_be_closed_is_left_alone(stream: Any) -> None:
    close_source(stream)
    asyncio.run(aclose_source(stream))


def test_a_wrapper_that_forgets_what_it_read_from_does_not_keep_it_open() -> None:
    """LiteLLM's own aclose does so, and closes only what has an aclose at its top."""

    class Wrapper:
        def __init__(self, source: AsyncClosable) -> None:
            self.completion_stream: Any = Thing(streaming_response=source)

        async def aclose(self) -> None:
            self.completion_stream = None

    source = AsyncClosable()
    asyncio.run(aclose_source(Wrapper(source)))
    assert source.closed == 1


def test_layers_in_a_circle_end() -> None:
    one, two = Thing(), Thing()
    one.response, two.response = two, one
    close_source(one)
    asyncio.run(aclose_source(one))


def test_a_generator_that_another_thread_is_in_is_left_to_end_by_itself() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def chunks() -> Iterator[int]:
        inside.set()
        go_on.wait(10)
        yield 1

    source = chunks()
    reader = threading.Thread(target=next, args=(source,))
    reader.start()
    assert inside.wait(10)
    close_source(Thing(completion_stream=source))
    go_on.set()
    reader.join(10)
    assert not reader.is_alive()


def test_a_generator_that_another_task_is_in_is_left_to_end_by_itself() -> None:
    async def main() -> int:
        async def chunks() -> AsyncIterator[int]:
            await asyncio.sleep(0)
            yield 1

        async def first() -> int:
            return await anext(source)

        source = chunks()
        reader = asyncio.create_task(first())
        await asyncio.sleep(0)
        await aclose_source(Thing(completion_stream=source))
        return await reader

    assert asyncio.run(main()) == 1
