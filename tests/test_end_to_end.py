"""The promises that only hold if all rooms work together: LiteLLM, real HTTP, a server that enforces its limits."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest

import bulkllm
from bulkllm.testing import FakeProvider, Fault

MODEL = "openai/gpt-4.1-mini"


def ask(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}]


class Heartbeat:
    """Notes for how long this process has stood still at most."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.02):
            now = time.monotonic()
            self.longest = max(self.longest, now - before)
            before = now


# LiteLLM's logging worker belongs to one event loop at a time and loses coroutines of its own when there are several.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_threads_and_event_loops_share_one_limiter_and_the_servers_clock_agrees() -> None:
    """300 calls from 3 threads and 3 event loops; the client's burst leaves the server a second of slack.

    Calls that were let go while the machine stood still arrive all at once, and are refused: that shows nothing.
    """
    problems, longest_pause = share_one_limiter()
    for _ in range(2):
        if problems and longest_pause > 0.5:
            problems, longest_pause = share_one_limiter()
    assert problems == []


def share_one_limiter() -> tuple[list[BaseException], float]:
    """What the calls raised, and the longest pause of this process; that the server agrees, if they raised nothing."""
    calls, rpm, period = 50, 3000, 60.0
    slack = round(rpm / period)
    with FakeProvider(rpm=rpm, burst=150, period=period, record_times=True) as provider:
        limiter = bulkllm.RateLimiter([bulkllm.RateLimit("openai/*", rpm=rpm, burst=150 - slack)])
        options: dict[str, Any] = {"api_base": provider.openai_base, "api_key": "sk", "max_tokens": 5, "num_retries": 0}
        clients = [bulkllm.Client(limiter) for _ in range(2)]
        problems: list[BaseException] = []
        warm = bulkllm.Client()  # the first calls of a process take LiteLLM up to a second
        warm.completion(MODEL, ask(-1), **options)
        asyncio.run(warm.acompletion(MODEL, ask(-2), **options))
        provider.reset()

        def in_thread(first: int) -> None:
            for number in range(first, first + calls):
                clients[number % 2].completion(MODEL, ask(number), **options)

        async def in_tasks(first: int) -> None:
            await asyncio.gather(
                *(clients[n % 2].acompletion(MODEL, ask(n), **options) for n in range(first, first + calls))
            )

        def guarded(work: Any) -> None:
            try:
                work()
            except BaseException as problem:  # noqa: BLE001 - raised below, in the test's own thread
                problems.append(problem)

        works = [lambda n=n: in_thread(n * calls) for n in range(3)]
        works += [lambda n=n: asyncio.run(in_tasks(n * calls)) for n in range(3, 6)]
        threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
        with Heartbeat() as heart:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        report = provider.report()
    if problems:
        return problems, heart.longest
    assert (report.requests, report.successes, report.refused) == (300, 300, 0)
    admitted = sorted(report.admitted_at)
    for first, began in enumerate(admitted):  # never more than the burst and what flowed in since
        for last in range(first, len(admitted), 25):
            assert last - first + 1 <= 150 + rpm / period * (admitted[last] - began) + 1e-6
    status = limiter.status(MODEL)
    assert (status.in_flight, status.waiting) == (0, 0)
    return [], heart.longest


def test_faults_cost_retries_and_never_rows(tmp_path: Path) -> None:
    faults = [
        Fault("status", status=429, retry_after="0.05", rate=0.05),
        Fault("status", status=500, rate=0.05),
        Fault("status", status=529, rate=0.03),
        Fault("reset", rate=0.05),
        Fault("truncate", rate=0.02),
    ]
    with FakeProvider(rpm=60_000, faults=faults, seed=3) as provider:
        client = bulkllm.Client(
            [bulkllm.RateLimit("openai/*", rpm=60_000)], retry=bulkllm.RetryPolicy(max_attempts=12, base_delay=0.01)
        )
        result = client.run(
            [{"custom_id": f"row {n}", "prompt": f"question {n}"} for n in range(300)],
            model=MODEL,
            output=tmp_path / "out.jsonl",
            api_base=provider.openai_base,
            api_key="sk-secret",
            max_tokens=8,
            progress=False,
        )
        report = provider.report()
    assert (result.total, result.ok, result.failed) == (300, 300, 0)
    assert sum(report.faults.values()) > 30, "the faults were not played"
    total = result.usage.total
    assert total.requests == 300
    assert total.attempts == report.requests
    assert total.output_tokens == report.output_tokens - 8 * report.faults["truncate"]  # half an answer is none
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert Counter(row["custom_id"] for row in written) == Counter({f"row {n}": 1 for n in range(300)})
    assert "sk-secret" not in (tmp_path / "out.jsonl").read_text()


def test_with_retries_exhausted_the_row_says_why(tmp_path: Path) -> None:
    with FakeProvider(faults=[Fault("status", status=500, match="question 2")]) as provider:
        client = bulkllm.Client(retry=bulkllm.RetryPolicy(max_attempts=3, base_delay=0.01))
        result = client.run(
            [f"question {n}" for n in range(4)],
            model=MODEL,
            output=tmp_path / "out.jsonl",
            api_base=provider.openai_base,
            api_key="sk",
            progress=False,
        )
        assert provider.report().requests == 3 + 3
    assert (result.ok, result.failed) == (3, 1)
    failed = next(row for row in result if not row.ok)
    assert failed.index == 2
    assert failed.error is not None
    assert failed.error.code == "InternalServerError"
    assert failed.record is not None
    assert failed.record.attempts == 3


def test_the_default_client_the_process_tracker_and_a_scope_count_the_same_calls() -> None:
    with FakeProvider() as provider:
        before = bulkllm.usage().snapshot()
        with bulkllm.UsageTracker("scope") as scope:
            response = bulkllm.completion(MODEL, ask(1), api_base=provider.openai_base, api_key="sk")
            streamed = list(bulkllm.completion(MODEL, ask(2), api_base=provider.openai_base, api_key="sk", stream=True))
            bulkllm.embedding("openai/text-embedding-3-small", ["a", "b"], api_base=provider.openai_base, api_key="sk")
        report = provider.report()
    assert streamed
    assert bulkllm.record_of(response).cost is not None
    assert scope.total.requests == 3
    assert scope.total.input_tokens == report.input_tokens
    assert scope.total.output_tokens == report.output_tokens
    assert bulkllm.usage().diff(before).total.requests == 3


def test_a_budget_is_used_and_not_overdrawn_by_many_calls_in_flight() -> None:
    """Outputs stay far below max_tokens, so that what is held is many times what is spent."""
    budget = bulkllm.Budget(0.01)
    client = bulkllm.Client(budget=budget)
    with FakeProvider(latency=0.02, reply_tokens=(10, 20)) as provider:
        result = client.run(
            (f"question {n}" for n in range(2000)),
            model=MODEL,
            api_base=provider.openai_base,
            api_key="sk",
            max_tokens=200,
            max_in_flight=50,
            progress=False,
        )
        report = provider.report()
    assert result.stopped is not None
    assert "budget" in result.stopped
    assert 0.95 * 0.01 <= budget.spent.cost <= 0.01
    assert result.usage.total.cost == pytest.approx(budget.spent.cost)
    assert result.ok == report.successes
    assert budget.held.cost == pytest.approx(0)


def test_a_budget_of_money_needs_a_price() -> None:
    with FakeProvider() as provider:
        options = {"api_base": provider.openai_base, "api_key": "sk"}
        with pytest.raises(bulkllm.ConfigError, match="price of openai/nobody-knows is unknown"):
            bulkllm.Client(budget=bulkllm.Budget(1)).completion("openai/nobody-knows", ask(1), **options)
        free = bulkllm.Client(budget=bulkllm.Budget(1, max_requests=1, unpriced="free"))
        free.completion("openai/nobody-knows", ask(1), **options)
        with pytest.raises(bulkllm.BudgetExceeded):
            free.completion("openai/nobody-knows", ask(2), **options)
        assert provider.report().requests == 1


def test_an_alias_of_the_registry_is_called_by_its_litellm_name() -> None:
    bulkllm.models.register("openai/gpt-4.1-mini", aliases=["house model"])
    with FakeProvider() as provider:
        from bulkllm import _litellm

        litellm = _litellm.load()
        before = litellm.api_base
        litellm.api_base = provider.openai_base
        try:
            response = bulkllm.completion("house model", ask(1), api_key="sk")
        finally:
            litellm.api_base = before
        assert provider.report().models["gpt-4.1-mini"].requests == 1
    record = bulkllm.record_of(response)
    assert (record.model, record.requested_model) == (MODEL, "house model")
