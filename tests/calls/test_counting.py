"""Every call is counted once, by whoever it belongs to, and the sums are what the provider saw."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import bulkllm
from bulkllm import Client, RateLimit, RateLimiter, RetryPolicy, UsageTracker, _litellm
from bulkllm.calls import record_of
from bulkllm.testing import FakeProvider, Fault

MODEL = "openai/gpt-4.1-mini"
QUICK = RetryPolicy(max_attempts=4, base_delay=0.001)


def ask(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}]


def options(server: FakeProvider, **more: Any) -> dict[str, Any]:
    return {"api_base": server.openai_base, "api_key": "sk-fake", **more}


def test_hundreds_of_mixed_calls_add_up_to_what_the_server_saw() -> None:
    faults = [
        Fault("status", status=500, rate=0.15),
        Fault("status", status=429, rate=0.1),
        Fault("status", status=400, match="question 13"),
        Fault("reset", rate=0.05),
    ]
    before = bulkllm.usage().total.requests
    with FakeProvider(faults=faults, seed=7, reply_tokens=(3, 6)) as server:
        # Refusals at random would teach a limiter to go slower and slower; what is tested here is the counting.
        limiter = RateLimiter(rpm=1_000_000, tpm=1_000_000_000, max_in_flight=8, learn=False)
        client = Client(limits=limiter, retry=QUICK)
        errors: list[str] = []

        def sync(number: int) -> None:
            if number % 3 == 0:
                list(client.completion(MODEL, ask(number), stream=True, **options(server)))
            elif number % 3 == 1:
                client.completion(MODEL, ask(number), **options(server))
            else:
                client.embedding("openai/text-embedding-3-small", [f"question {number}"], **options(server))

        async def one(number: int) -> None:
            if number % 3 == 0:
                async for _ in await client.acompletion(MODEL, ask(number), stream=True, **options(server)):
                    pass
            elif number % 3 == 1:
                await client.acompletion(MODEL, ask(number), **options(server))
            else:
                await client.aembedding("openai/text-embedding-3-small", [f"question {number}"], **options(server))

        def in_thread(first: int) -> None:
            for number in range(first, first + 40):
                try:
                    sync(number)
                except Exception as error:  # noqa: BLE001 - counted below
                    errors.append(type(error).__name__)

        async def in_tasks(first: int) -> None:
            results = await asyncio.gather(*(one(n) for n in range(first, first + 40)), return_exceptions=True)
            errors.extend(type(result).__name__ for result in results if isinstance(result, BaseException))

        threads = [threading.Thread(target=in_thread, args=(start,)) for start in (0, 100, 200)]
        threads += [threading.Thread(target=lambda s=s: asyncio.run(in_tasks(s))) for s in (300, 400, 500)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        report, total = server.report(), client.usage.total
    assert total.requests == 240
    assert bulkllm.usage().total.requests - before == 240
    assert (total.failed, total.ok) == (len(errors), 240 - len(errors))
    assert {"BadRequestError"} <= set(errors)
    assert total.attempts == report.requests > 240
    assert total.ok == report.successes
    assert (total.input_tokens, total.output_tokens) == (report.input_tokens, report.output_tokens)
    by_outcome = {name: group.requests for name, group in client.usage.by_outcome.items() if name != "ok"}
    assert by_outcome == {name: errors.count(name) for name in set(errors)}
    assert client.limiter.status().in_flight == 0


# -- scopes --------------------------------------------------------------------------------------------------


async def test_scopes_follow_tasks() -> None:
    client = Client()
    with FakeProvider() as server:
        async with UsageTracker("outer") as outer:
            with UsageTracker("inner") as inner:
                await asyncio.gather(*(client.acompletion(MODEL, ask(n), **options(server)) for n in range(3)))
            await asyncio.to_thread(client.completion, MODEL, ask(4), **options(server))
        await client.acompletion(MODEL, ask(5), **options(server))
    assert (inner.total.requests, outer.total.requests, client.usage.total.requests) == (3, 4, 5)


def test_scopes_follow_synchronous_calls_and_not_other_threads() -> None:
    client = Client()
    with FakeProvider() as server, UsageTracker() as scope:
        client.completion(MODEL, ask(1), **options(server))
        other = threading.Thread(target=lambda: client.completion(MODEL, ask(2), **options(server)))
        other.start()
        other.join(30)

        def attached() -> None:
            with scope.attach():
                client.completion(MODEL, ask(3), **options(server))

        other = threading.Thread(target=attached)
        other.start()
        other.join(30)
    assert (scope.total.requests, client.usage.total.requests) == (2, 3)


async def test_a_stream_belongs_to_the_scope_in_which_it_began() -> None:
    client = Client()

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    with FakeProvider() as server:
        with UsageTracker("mine") as mine:
            finished = await client.acompletion(MODEL, ask(1), stream=True, **options(server))
            dropped = await client.acompletion(MODEL, ask(2), stream=True, **options(server))
        with UsageTracker("other") as other:
            await asyncio.create_task(read(finished))
            del dropped
    assert mine.by_outcome["ok"].output_tokens == record_of(finished).output_tokens > 0
    assert mine.by_outcome["cancelled"].requests == 1
    assert other.total.requests == 0


def test_a_failed_call_is_counted_in_its_scope_too() -> None:
    refuse = FakeProvider(faults=[Fault("status", status=400)])
    with refuse as server, UsageTracker() as scope, pytest.raises(_litellm.load().BadRequestError):
        Client().completion(MODEL, ask(1), tags={"try": 1}, **options(server))
    assert (scope.total.requests, scope.total.failed) == (1, 1)
    assert scope.by_tag["try=1"].failed == 1


def test_one_tracker_in_every_place_counts_a_call_once() -> None:
    tracker = UsageTracker()
    with FakeProvider() as server, tracker, tracker:
        Client(usage=tracker).completion(MODEL, ask(1), **options(server))
    assert tracker.total.requests == 1


# -- odd places ----------------------------------------------------------------------------------------------


def test_a_call_in_a_generator_that_is_closed_half_way() -> None:
    client = Client(limits=RateLimit(max_in_flight=1))
    with FakeProvider() as server:

        def answers() -> Any:
            try:
                for number in range(3):
                    yield client.completion(MODEL, ask(number), **options(server))
            finally:
                client.completion(MODEL, ask(99), **options(server))

        for answer in answers():
            assert record_of(answer).ok
            break
        assert client.usage.total.ok == 2
        assert client.limiter.status().in_flight == 0


def test_a_call_in_a_finaliser() -> None:
    client = Client(limits=RateLimit(max_in_flight=1))
    with FakeProvider() as server:

        class Farewell:
            def __del__(self) -> None:
                client.completion(MODEL, ask(1), **options(server))

        farewell = Farewell()
        del farewell
    assert client.usage.total.ok == 1
    assert client.limiter.status().in_flight == 0


async def test_a_synchronous_call_inside_an_event_loop() -> None:
    client = Client()
    with FakeProvider() as server:
        assert record_of(client.completion(MODEL, ask(1), **options(server))).ok
        assert len(list(client.completion(MODEL, ask(2), stream=True, **options(server)))) > 3
        assert record_of(await client.acompletion(MODEL, ask(3), **options(server))).ok
    assert client.usage.total.ok == 3


def test_the_same_client_in_one_event_loop_after_the_other() -> None:
    client = Client()
    with FakeProvider() as server:
        for number in range(3):
            asyncio.run(client.acompletion(MODEL, ask(number), **options(server)))
        assert server.report().successes == client.usage.total.ok == 3


def test_records_survive_what_people_do_with_responses() -> None:
    import copy
    import pickle

    with FakeProvider() as server:
        answer = Client().completion(MODEL, ask(1), **options(server))
    record = record_of(answer)
    assert record_of(copy.deepcopy(answer)) == record
    assert "bulkllm" not in answer.model_dump_json()
    assert record_of(pickle.loads(pickle.dumps(answer))).total_tokens == record.total_tokens  # noqa: S301 - our own
