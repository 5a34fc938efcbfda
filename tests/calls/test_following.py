"""Identical calls in flight: who asks, who waits, and what a failure of the one means to the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import pytest

import bulkllm
from bulkllm.calls import cached, record_of_error
from bulkllm.calls.account import Account
from bulkllm.calls.cached import cached_flow
from bulkllm.calls.call import Call
from bulkllm.calls.drive import drive
from bulkllm.calls.effects import Load, Lookup, Start
from bulkllm.calls.following import raise_if_shared
from bulkllm.calls.gateway import LiteLLMLane
from bulkllm.calls.parts import Parts
from bulkllm.testing import FakeProvider, Fault

if TYPE_CHECKING:
    from tests.calls.conftest import CannedServer, Exchange

MODEL = "openai/gpt-4.1-mini"
ASK = [{"role": "user", "content": "hi"}]
SLOWLY: dict[str, Any] = {"delay": 0.15}  # so that the others are there before it fails


@pytest.fixture
def client() -> bulkllm.Client:
    return bulkllm.Client(cache=bulkllm.Cache(memory=True))


async def ask_together(client: bulkllm.Client, server: FakeProvider, count: int, **options: Any) -> list[Any]:
    asked = (
        client.acompletion(MODEL, ASK, **{"api_base": server.openai_base, "api_key": "k", **options})
        for _ in range(count)
    )
    return list(await asyncio.gather(*asked, return_exceptions=True))


def names(ended: list[Any]) -> list[str]:
    return [type(end).__name__ for end in ended]


@pytest.mark.parametrize(
    ("status", "name"), [(400, "BadRequestError"), (401, "AuthenticationError"), (404, "NotFoundError")]
)
async def test_a_failure_for_good_is_everybody_s(client: bulkllm.Client, status: int, name: str) -> None:
    with FakeProvider(faults=[Fault("status", status=status, **SLOWLY)]) as server:
        ended = await ask_together(client, server, 5)
        assert server.report().requests == 1
    assert names(ended) == [name] * 5
    assert len({str(end) for end in ended}) == 1
    assert len({id(end) for end in ended}) == 5, "each has an error of its own, with a traceback of its own"
    assert {end.status_code for end in ended} == {status}
    records = [record_of_error(end) for end in ended]
    assert len({id(record) for record in records}) == 5
    assert sorted(record.attempts for record in records if record is not None) == [0, 0, 0, 0, 1]
    assert client.usage.by_outcome[name].requests == 5
    assert client.usage.total.attempts == 1
    ended[0].marked = True
    assert not hasattr(ended[1], "marked")


def test_so_it_is_in_threads(client: bulkllm.Client, canned: CannedServer) -> None:
    def when_the_others_wait(exchange: Exchange) -> None:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if sum(len(flight.wake_ups) for flight in list(cached._flights._flights.values())) == 2:
                break
            time.sleep(0.002)
        exchange.answer(400, {"error": {"message": "no"}})

    canned.script = when_the_others_wait
    with ThreadPoolExecutor(3) as threads:
        options: dict[str, Any] = {"api_base": canned.url, "api_key": "k"}
        jobs = [threads.submit(client.completion, MODEL, ASK, **options) for _ in range(3)]
        assert names([job.exception() for job in jobs]) == ["BadRequestError"] * 3
    assert len(canned.seen) == 1


async def test_a_wrong_key_is_no_verdict_on_another_one(client: bulkllm.Client) -> None:
    with FakeProvider(keys=["good", "fine"], latency=0.1) as server:
        calls = (
            client.acompletion(MODEL, ASK, api_base=server.openai_base, api_key=key)
            for key in ("bad", "good", "bad", "fine")
        )
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert names(list(ended)) == ["AuthenticationError", "ModelResponse", "AuthenticationError", "ModelResponse"]
    assert server.report().rejected <= 2


async def test_a_failure_that_may_pass_makes_one_of_those_who_wait_ask(client: bulkllm.Client) -> None:
    with FakeProvider(faults=[Fault("status", status=500, first=1, **SLOWLY)], latency=0.1) as server:
        ended = await ask_together(client, server, 6, num_retries=0)
        assert server.report().requests == 2
    assert names(ended) == ["InternalServerError"] + ["ModelResponse"] * 5
    assert sorted(bulkllm.record_of(end).cached for end in ended[1:]) == [False] + [True] * 4


async def test_if_that_one_fails_too_nobody_storms_the_provider(client: bulkllm.Client) -> None:
    with FakeProvider(faults=[Fault("status", status=500, **SLOWLY)]) as server:
        ended = await ask_together(client, server, 8, num_retries=0)
        assert server.report().requests == 2
        assert names(ended) == ["InternalServerError"] * 8
        assert len({id(end) for end in ended}) == 8
        await ask_together(client, server, 1, num_retries=0)
        assert server.report().requests == 3, "who comes later asks"


async def test_a_time_that_others_had_less_of_is_no_verdict(client: bulkllm.Client) -> None:
    """The third has followed two that failed when it asks itself, unless it came second: then it asks again."""
    with FakeProvider(faults=[Fault("hang", first=2)]) as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        first = asyncio.create_task(client.acompletion(MODEL, ASK, deadline=0.2, **options))
        while not server.report().requests:
            await asyncio.sleep(0.005)
        more = (client.acompletion(MODEL, ASK, **own, **options) for own in ({"deadline": 0.5}, {"timeout": 2.0}))
        ended = await asyncio.gather(first, *more, return_exceptions=True)
    assert names(ended[:1]) + names(ended[2:]) == ["Timeout", "ModelResponse"]


async def test_nor_is_it_for_embeddings(client: bulkllm.Client) -> None:
    with FakeProvider(faults=[Fault("hang", first=2)]) as server:
        options = {"model": "openai/vectors", "input": ["a"], "api_base": server.openai_base, "api_key": "k"}
        first = asyncio.create_task(client.aembedding(deadline=0.2, **options))
        while not server.report().requests:
            await asyncio.sleep(0.005)
        more = (client.aembedding(**own, **options) for own in ({"deadline": 0.5}, {"timeout": 2.0}))
        ended = await asyncio.gather(first, *more, return_exceptions=True)
    assert names(ended[:1]) + names(ended[2:]) == ["Timeout", "EmbeddingResponse"]


async def test_a_time_that_all_have_is_everybody_s(client: bulkllm.Client) -> None:
    with FakeProvider(faults=[Fault("hang")]) as server:
        ended = await ask_together(client, server, 6, num_retries=0, timeout=0.2)
        assert server.report().requests == 2
    assert names(ended) == ["Timeout"] * 6


async def test_an_error_of_our_own_is_nobody_else_s() -> None:
    cache = bulkllm.Cache(memory=True)
    poor = bulkllm.Client(cache=cache, budget=bulkllm.Budget(max_tokens=1))
    rich = bulkllm.Client(cache=cache)
    with FakeProvider(latency=0.1) as server:
        options = {"api_base": server.openai_base, "api_key": "k", "max_tokens": 5}
        ended = await asyncio.gather(
            *(one.acompletion(MODEL, ASK, **options) for one in (poor, rich, poor, rich)), return_exceptions=True
        )
        assert server.report().requests == 1
    assert [isinstance(end, Exception) for end in ended].count(False) >= 2
    assert not any(isinstance(ended[place], Exception) for place in (1, 3))


async def test_if_the_one_who_asks_is_cancelled_one_of_the_others_asks(client: bulkllm.Client) -> None:
    latencies = chain([10.0], repeat(0.0))
    with FakeProvider(latency=lambda _: next(latencies)) as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        first = asyncio.create_task(client.acompletion(MODEL, ASK, **options))
        others = [asyncio.create_task(client.acompletion(MODEL, ASK, **options)) for _ in range(3)]
        while not server.report().requests:
            await asyncio.sleep(0.005)
        first.cancel()
        responses = await asyncio.gather(*others)
        assert server.report().requests == 2
    assert sorted(bulkllm.record_of(response).cached for response in responses) == [False, True, True]
    assert client.usage.by_outcome["cancelled"].requests == 1


async def test_nobody_follows_for_longer_than_its_deadline(client: bulkllm.Client) -> None:
    with FakeProvider(faults=[Fault("hang", first=1)]) as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        first = asyncio.create_task(client.acompletion(MODEL, ASK, **options))
        while not server.report().requests:
            await asyncio.sleep(0.005)
        with pytest.raises(Exception, match=r"0\.1 s") as caught:
            await client.acompletion(MODEL, ASK, deadline=0.1, **options)
        assert type(caught.value).__name__ == "Timeout"
        record = record_of_error(caught.value)
        assert record is not None
        assert (record.attempts, record.cost) == (0, 0.0)
        with ThreadPoolExecutor(1) as thread:
            job = thread.submit(client.completion, MODEL, ASK, deadline=0.1, **options)
            assert type(job.exception()).__name__ == "Timeout"
        assert server.report().requests == 1
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_an_answer_that_cannot_be_kept_makes_each_ask_at_once(client: bulkllm.Client, canned: Any) -> None:
    message = {"role": "assistant", "content": ""}
    empty = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1},
    }  # fmt: skip

    def script(exchange: Any) -> None:
        if len(canned.seen) == 1:
            together.wait(0.2)
        exchange.answer(200, empty)

    together = threading.Event()
    canned.script = script
    calls = (client.acompletion(MODEL, ASK, api_base=canned.url, api_key="k") for _ in range(4))
    responses = await asyncio.gather(*calls)
    assert len(canned.seen) == 4
    assert not any(bulkllm.record_of(response).cached for response in responses)


# -- by hand -------------------------------------------------------------------------------------------------


def test_an_answer_that_comes_between_the_look_and_the_claim_is_not_asked_for_again() -> None:
    with FakeProvider() as server:
        options = {"model": MODEL, "messages": ASK, "api_base": server.openai_base, "api_key": "k"}
        call = Call(operation="completion", model=MODEL, requested_model=MODEL, provider="openai", options=options)
        client = bulkllm.Client()
        parts = Parts(lane=LiteLLMLane(), limiter=client.limiter)
        cache = bulkllm.Cache(memory=True)
        late = cached_flow(parts, call, cache)
        assert isinstance(next(late), Load)
        parts.lane.load()
        look = late.send(None)
        assert isinstance(look, Lookup)
        found = look.perform()
        drive(cached_flow(parts, call, cache))
        again = late.send(found)
        assert isinstance(again, Lookup), "it looks again, since a call has ended in between"
        with pytest.raises(StopIteration) as done:
            late.send(again.perform())
        assert bulkllm.record_of(done.value.value).cached
        other = cached_flow(parts, call, bulkllm.Cache(memory=True))
        next(other)
        assert isinstance(other.send(None), Lookup)
        asked = other.send(None)
        assert isinstance(asked, Load), "and only then: else it asks at once"
        assert isinstance(other.send(None), Start)
        other.close()
        assert server.report().requests == 1


@pytest.mark.parametrize(
    ("own", "shared"),
    [({}, False), ({"timeout": None}, False), ({"timeout": 0.01}, True), ({"deadline": 0.01}, True)],
)
def test_who_had_less_time_does_not_speak_for_who_has_more(own: dict[str, Any], shared: bool) -> None:
    client = bulkllm.Client()
    with FakeProvider(faults=[Fault("hang")]) as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        with pytest.raises(Exception, match="wall clock") as caught:
            client.completion(MODEL, ASK, deadline=0.1, **options)
    call = Call(operation="completion", model=MODEL, requested_model=MODEL, provider="openai", options={}, **own)
    parts = Parts(lane=LiteLLMLane(), limiter=client.limiter)
    told = None
    try:
        raise_if_shared(parts, Account(call, (), lambda: 0.0), caught.value, 2)
    except Exception as error:  # noqa: BLE001 - whichever it is
        told = error
    assert (type(told) is type(caught.value)) == shared


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("plain"),
        lambda: OSError(5, "with two arguments"),
        lambda: bulkllm.RequestFileError("with keywords", path="rows.jsonl", line=3),
    ],
)
def test_a_twin_of_an_error_says_the_same(make: Callable[[], Exception]) -> None:
    from bulkllm.calls.following import _twin

    error = make()
    error.__cause__ = KeyError("below")
    twin = _twin(error)
    assert twin is not error
    assert (type(twin), str(twin), twin.args, vars(twin)) == (type(error), str(error), error.args, vars(error))
    assert twin.__cause__ is error.__cause__
    assert twin.__traceback__ is None
