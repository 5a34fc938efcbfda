"""The same 500 calls in every way that there is: what bulkllm says was used is what the provider's own count says."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bulkllm
from bulkllm import Budget, Cache, Client, Price, RetryPolicy, UsageTracker
from bulkllm.accounting import read_records
from bulkllm.calls import record_of, record_of_error
from bulkllm.testing import FakeProvider, Fault

# LiteLLM's sessions and its logging worker warn when their event loop is gone; none of it is ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed (connector|client session):ResourceWarning"),
    pytest.mark.filterwarnings(r"ignore:coroutine '(?!Client|CallStream)\w+\.\w+' was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MODEL = "openai/house-model"
PRICE = Price(input_per_token=0.000_01, output_per_token=0.000_2)
CALLS = 500
FAULTS = [
    Fault("status", status=400, match="forbidden"),
    Fault("status", status=429, retry_after="0.01", rate=0.08),
    Fault("status", status=500, rate=0.08),
]


def ask(number: int) -> list[dict[str, str]]:
    kind = "forbidden" if number % 25 == 0 else "question"
    return [{"role": "user", "content": f"{kind} {number} {'word ' * (number % 7)}"}]


class Caller:
    """Asks each of the 500 questions once, and some of them again, which the cache answers."""

    def __init__(self, server: FakeProvider, client: Client) -> None:
        self.client = client
        self.options = {"api_base": server.openai_base, "api_key": "sk", "max_tokens": 40}
        self.records: list[bulkllm.UsageRecord | None] = []

    def sync(self, number: int) -> None:
        try:
            if number % 5 == 0:
                stream = self.client.completion(MODEL, ask(number), stream=True, **self.options)
                list(stream)
                self.records.append(stream.record)
            elif number % 5 == 1:
                answer = self.client.responses(MODEL, ask(number)[0]["content"], **self._of_responses())
                self.records.append(record_of(answer))
            else:
                self.records.append(record_of(self.client.completion(MODEL, ask(number), **self.options)))
        except Exception as error:  # noqa: BLE001 - a failed call has a record too
            self.records.append(record_of_error(error))

    async def task(self, number: int) -> None:
        try:
            if number % 5 == 0:
                stream = await self.client.acompletion(MODEL, ask(number), stream=True, **self.options)
                async for _ in stream:
                    pass
                self.records.append(stream.record)
            elif number % 5 == 1:
                answer = await self.client.aresponses(MODEL, ask(number)[0]["content"], **self._of_responses())
                self.records.append(record_of(answer))
            else:
                self.records.append(record_of(await self.client.acompletion(MODEL, ask(number), **self.options)))
        except Exception as error:  # noqa: BLE001 - a failed call has a record too
            self.records.append(record_of_error(error))

    def _of_responses(self) -> dict[str, Any]:
        return {"api_base": self.options["api_base"], "api_key": "sk", "max_output_tokens": 40}


def in_one_thread(caller: Caller, numbers: list[int]) -> None:
    for number in numbers:
        caller.sync(number)


def in_threads(caller: Caller, numbers: list[int]) -> None:
    threads = [threading.Thread(target=in_one_thread, args=(caller, numbers[start::5])) for start in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def all_at_once(caller: Caller, numbers: list[int]) -> None:
    async def chain(some: list[int]) -> None:
        for number in some:
            await caller.task(number)

    await asyncio.gather(*(chain(numbers[start::25]) for start in range(25)))


def in_tasks(caller: Caller, numbers: list[int]) -> None:
    asyncio.run(all_at_once(caller, numbers))


def in_loops(caller: Caller, numbers: list[int]) -> None:
    threads = [threading.Thread(target=in_tasks, args=(caller, numbers[start::2])) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("way", [in_one_thread, in_threads, in_tasks, in_loops])
def test_the_tracker_equals_the_providers_own_count(way: Callable[[Caller, list[int]], None], tmp_path: Path) -> None:
    tracker = UsageTracker("bill", sink=tmp_path / "records.jsonl")
    budget = Budget(1000.0)
    client = Client(
        usage=tracker,
        budget=budget,
        prices={"openai/*": PRICE},
        cache=Cache(memory=True),
        retry=RetryPolicy(max_attempts=8, base_delay=0.001, max_delay=0.01),
    )
    before = bulkllm.usage().snapshot()
    with FakeProvider(faults=FAULTS, seed=11, reply_tokens=(3, 30)) as server:
        caller = Caller(server, client)
        way(caller, list(range(CALLS)))
        asked_first = len(caller.records)
        way(caller, [number for number in range(CALLS) if number % 5 not in (0, 1)][:100])
        report = server.report()
    tracker.close()
    total = tracker.total

    assert asked_first == CALLS
    assert len(caller.records) == total.requests == CALLS + 100
    assert None not in caller.records
    assert bulkllm.usage().diff(before).total.requests == CALLS + 100
    assert total.attempts == report.requests
    assert total.ok - total.cached == report.successes
    assert 90 <= total.cached <= 100, "questions that are forbidden have no answer to keep"
    assert total.failed == sum(record is not None and not record.ok for record in caller.records) >= 20
    assert total.refused == report.statuses[429] > 10
    assert (total.charge_unknown, total.uncertain_cost) == (0, 0.0)

    kept = list(read_records(tmp_path / "records.jsonl"))
    assert len(kept) == CALLS + 100
    paid = [record for record in kept if not record.cached]
    assert sum(record.input_tokens for record in paid) == report.input_tokens
    assert sum(record.output_tokens for record in paid) == report.output_tokens
    bill = report.input_tokens * PRICE.input_per_token + report.output_tokens * PRICE.output_per_token
    assert total.cost == pytest.approx(bill)
    assert budget.spent.cost == pytest.approx(bill)
    assert budget.spent.tokens == report.input_tokens + report.output_tokens
    assert budget.spent.requests == CALLS + 100 - total.cached
    assert not any(budget.held)
    assert Counter(record.outcome for record in kept) == {
        name: group.requests for name, group in tracker.by_outcome.items()
    }
