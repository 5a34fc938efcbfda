"""A synchronous call in a function that a run calls would stop the run that it waits for: it is refused, in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import bulkllm
from bulkllm.testing import FakeProvider

pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")

PROMPTS = [f"q {number}" for number in range(40)]
REFUSAL = "a synchronous call in a function that a bulk run calls"


@pytest.fixture
def asked() -> Any:
    with FakeProvider(latency=0.01) as server:
        yield server, {"model": "openai/m", "api_base": server.openai_base, "api_key": "k"}


def judges(options: dict[str, Any]) -> dict[str, Callable[[str | None], Any]]:
    def call(text: str | None) -> bool:
        return bool(bulkllm.completion(messages=[{"role": "user", "content": text}], **options))

    def stream(text: str | None) -> bool:
        return bool(list(bulkllm.completion(messages=[{"role": "user", "content": text}], stream=True, **options)))

    def run(text: str | None) -> bool:
        return bool(bulkllm.map([text], **options))

    async def acall(text: str | None) -> bool:
        return bool(await bulkllm.acompletion(messages=[{"role": "user", "content": text}], **options))

    async def in_a_thread(text: str | None) -> bool:
        return await asyncio.to_thread(call, text)

    return {one.__name__: one for one in (call, stream, run, acall, in_a_thread)}


@pytest.mark.parametrize("judge", ["call", "stream", "run"])
def test_one_that_would_block_the_run_is_refused_before_much_is_paid(asked: Any, judge: str) -> None:
    server, options = asked
    given = judges(options)[judge]
    result = bulkllm.run(PROMPTS, validate=given, progress=False, max_in_flight=4, **options)
    assert (result.ok, result.stopped is None) == (0, False)
    assert server.report().requests == result.failed < 20
    assert {row.error.code for row in result if row.error} == {"ConfigError"}
    assert all(REFUSAL in row.error.message for row in result if row.error)
    with pytest.raises(bulkllm.ConfigError, match=REFUSAL):
        bulkllm.run(PROMPTS, on_result=lambda row: judges(options)[judge](row.text), progress=False, **options)


@pytest.mark.parametrize("judge", ["acall", "in_a_thread"])
def test_one_that_does_not_works(asked: Any, judge: str) -> None:
    server, options = asked
    assert len(bulkllm.map(PROMPTS, validate=judges(options)[judge], **options)) == 40
    assert server.report().requests == 80


async def test_beside_a_run_and_after_it_all_is_as_ever(asked: Any) -> None:
    """In the same loop, as in a notebook: only what the run itself calls is refused."""
    _, options = asked
    call = judges(options)["call"]

    async def rows() -> AsyncIterator[str]:
        for prompt in PROMPTS[:3]:
            yield prompt

    beside = asyncio.create_task(bulkllm.arun(PROMPTS, progress=False, **options))
    await asyncio.sleep(0)
    assert call("beside it")
    assert (await beside).ok == 40
    assert call("after it")
    async for row in bulkllm.stream(rows(), **options):
        assert call(row.text)
    assert bulkllm.run(["x"], progress=False, **options).ok == 1


async def test_what_a_run_has_started_may_block_when_the_run_is_over(asked: Any) -> None:
    _, options = asked
    call, over, tasks = judges(options)["call"], asyncio.Event(), []

    async def later(text: str | None) -> bool:
        await over.wait()
        return bool(call(text))

    def told(row: Any) -> None:
        tasks.append(asyncio.create_task(later(row.text)))

    await bulkllm.arun(PROMPTS[:2], on_result=told, progress=False, **options)
    over.set()
    assert await asyncio.gather(*tasks) == [True, True]
