from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import bulkllm
from bulkllm.bulk import RowError, stream
from bulkllm.errors import RowFailed, RunStopped
from bulkllm.testing import FakeProvider

PROMPTS = [f"p{number}" for number in range(40)]


async def backwards(request: Any) -> Any:
    """Later rows answer earlier."""
    number = int(request.body["messages"][-1]["content"][1:])
    for _ in range(40 - number):
        await asyncio.sleep(0)
    return {"choices": [{"message": {"content": f"re {number}"}}]}, None


def test_answers_come_in_the_order_of_the_prompts() -> None:
    assert bulkllm.map(PROMPTS, call=backwards, model="m") == [f"re {number}" for number in range(40)]


async def test_in_an_event_loop_too() -> None:
    assert await bulkllm.amap(PROMPTS[:3], call=backwards, model="m") == ["re 0", "re 1", "re 2"]


def test_a_failed_row_raises_or_is_kept(calls: Any, error: Any) -> None:
    calls.errors = {"p1": error("BadRequestError", 400, "no")}
    with pytest.raises(RowFailed, match="row 2 failed: BadRequestError: no"):
        bulkllm.map(PROMPTS[:3], call=calls, model="m")
    first, second, third = bulkllm.map(PROMPTS[:3], call=calls, model="m", on_error="keep")
    assert (first, third) == ("re: p0", "re: p2")
    assert second == RowError("BadRequestError", "no", 400)


def test_a_run_that_is_stopped_gives_no_half_of_a_list(calls: Any, error: Any) -> None:
    calls.errors = {prompt: error("AuthenticationError", 401) for prompt in PROMPTS}
    with pytest.raises(RunStopped, match="check the API key"):
        bulkllm.map(PROMPTS, call=calls, model="m", on_error="keep", max_in_flight=1)


def test_parsed_objects_vectors_and_an_earlier_runs_answers(calls: Any, out: Path) -> None:
    with FakeProvider(embedding_dimensions=3) as server:
        options: dict[str, Any] = {"api_base": server.openai_base, "api_key": "sk-x"}
        client = bulkllm.Client()
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        (parsed,) = bulkllm.map(["x"], client=client, model="openai/m", response_format=schema, output=out, **options)
        assert isinstance(parsed["n"], int)
        vectors = bulkllm.map([{"input": "a"}, {"input": ["a", "b"]}], client=client, model="openai/m", **options)
        assert [len(vectors[0]), len(vectors[1]), len(vectors[1][0])] == [3, 2, 3]
        asked = server.report().requests
        assert bulkllm.map(["x"], client=client, model="openai/m", response_format=schema, output=out, **options) == [
            parsed
        ]
        assert server.report().requests == asked


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_ordered_stream(streamed: bool) -> None:
    given: Any = iter(PROMPTS) if streamed else PROMPTS
    rows = [row.index async for row in stream(given, call=backwards, model="m", ordered=True, max_in_flight=7)]
    assert rows == list(range(40))


async def test_an_ordered_stream_over_pools_failures_and_what_is_done_before(calls: Any, error: Any, out: Path) -> None:
    """Bad rows, a pool that is stopped, and rows that an earlier run has finished do not hold the others up."""
    calls.errors = {f"dead{number}": error("AuthenticationError", 401) for number in range(30)}
    requests: list[Any] = []
    for number in range(30):
        requests += [
            {"prompt": f"a{number}", "model": "a"}, {"prompt": f"dead{number}", "model": "dead"}, {"odd": number},
        ]  # fmt: skip
    async for _ in stream(requests[:30:3], call=calls, model="m", output=out):
        pass
    seen: list[int] = []

    async def read() -> None:
        options: dict[str, Any] = {"ordered": True, "skip_bad": True, "max_in_flight": 4}
        async for row in stream(requests, call=calls, model="m", output=out, **options):
            seen.append(row.index)  # noqa: PERF401 - the error comes at the end

    with pytest.raises(RunStopped, match="dead was stopped"):
        await read()
    assert seen == sorted(seen)
    assert len([index for index in seen if index % 3 == 0]) == 20
    assert len([index for index in seen if index % 3 == 2]) == 30


async def test_no_more_is_finished_ahead_than_may_be_in_flight(calls: Any) -> None:
    calls.errors = {}
    gate = asyncio.Event()

    async def call(request: Any) -> Any:
        if request.index == 0:
            await gate.wait()
        return await calls(request)

    async def rows() -> AsyncIterator[int]:
        async for row in stream((f"p{number}" for number in range(100)), call=call, model="m", ordered=True,
                                max_in_flight=5):  # fmt: skip
            yield row.index

    given = rows()

    async def one() -> int:
        return await anext(given)

    first = asyncio.create_task(one())
    for _ in range(200):
        await asyncio.sleep(0)
    assert calls.asked == 4
    gate.set()
    assert await first == 0
    assert [index async for index in given] == list(range(1, 100))


@pytest.mark.parametrize("first", ["slow", "fast"])
def test_answers_of_several_models_follow_each_other_in_the_order_of_the_models(first: str, out: Path) -> None:
    async def ask(request: Any) -> Any:
        for _ in range(5 if request.model == "slow" else 0):
            await asyncio.sleep(0)
        return {
            "choices": [{"message": {"content": f"{request.model} {request.body['messages'][-1]['content']}"}}]
        }, None

    models = ["slow", "fast"] if first == "slow" else ["fast", "slow"]
    wanted = [f"{model} {prompt}" for prompt in PROMPTS[:3] for model in models]
    assert bulkllm.map(PROMPTS[:3], call=ask, model=models) == wanted
    assert bulkllm.map(PROMPTS[:3], call=ask, model="fast", output=out) == [f"fast {p}" for p in PROMPTS[:3]]
    for _ in range(2):
        assert bulkllm.map(PROMPTS[:3], call=ask, model=models, output=out) == wanted
