"""The public API as a type checker sees it from outside. Checked by mypy --strict, never run.

What stands in ``assert_type`` is what users' annotations may rely on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import bulkllm
from bulkllm import (
    Client,
    LimitStatus,
    LLMConfig,
    ModelInfo,
    Price,
    RateLimit,
    RateLimiter,
    Reservation,
    ResultRow,
    RetryPolicy,
    RunResult,
    Usage,
    UsageRecord,
    UsageTracker,
)
from bulkllm.testing import FakeClock, FakeProvider, ProviderReport

MESSAGES = [{"role": "user", "content": "Hello"}]


def limits() -> None:
    one = RateLimit("openai/gpt-5*", rpm=500, tpm=200_000)
    many = RateLimit(["openai/*", re.compile(r"azure/.+")], rpm=1.5, max_in_flight=8, window="sliding", period=1.0)
    RateLimit("openai/*", rpm="many")  # type: ignore[arg-type]
    RateLimit("openai/*", rpm=1, window="round")  # type: ignore[arg-type]
    limiter = RateLimiter([one, many])
    with limiter.reserve("openai/gpt-5-mini", input_tokens=900, output_tokens=300) as reservation:
        assert_type(reservation, Reservation)
        reservation.reconcile(input_tokens=870, output_tokens=120)
    assert_type(limiter.try_reserve("openai/gpt-5-mini"), Reservation | None)
    status = limiter.status("openai/gpt-5-mini")
    assert_type(status, LimitStatus)
    assert_type(status.remaining, dict[str, float])
    assert_type(status.advice, list[str])
    bulkllm.register_profile(bulkllm.Profile(name="our gateway", hosts=["llm.example.org"], window="sliding"))
    bulkllm.register_profile({"name": "our gateway", "hosts": ["llm.example.org"]})
    bulkllm.Profile(name="our gateway", window="round")  # type: ignore[arg-type]


async def limits_in_a_loop(limiter: RateLimiter) -> None:
    async with limiter.reserve("openai/gpt-5-mini", timeout=5.0) as reservation:
        assert_type(reservation, Reservation)


def calls(config: LLMConfig) -> None:
    client = Client([RateLimit("*", rpm=60)], retry=RetryPolicy(max_attempts=3), timeout=30.0)
    assert_type(client.limiter, RateLimiter)
    assert_type(client.usage, UsageTracker)
    Client(RateLimit("*", rpm=60))
    Client(client.limiter, usage=client.usage)
    Client(wait_for_quota=True)
    Client(wait_for_quota=3_600, deadline=7_200)
    Client(wait_for_quota="yes")  # type: ignore[arg-type]
    assert_type(bulkllm.configure(RateLimit("*", rpm=60)), Client)
    Client(count_tokens="exact")
    Client(count_tokens="roughly")  # type: ignore[arg-type]
    # LiteLLM's answers are Any: its types are not ours to promise.
    assert_type(client.completion("openai/gpt-5-mini", MESSAGES, temperature=0), Any)
    assert_type(bulkllm.completion(config, MESSAGES, tags={"task": "a"}), Any)
    assert_type(bulkllm.embedding("openai/text-embedding-3-small", ["a", "b"]), Any)
    record = bulkllm.record_of(bulkllm.responses("openai/gpt-5-mini", "Hello"))
    assert_type(record, UsageRecord)


async def calls_in_a_loop(client: Client) -> None:
    assert_type(await client.acompletion("openai/gpt-5-mini", MESSAGES), Any)
    assert_type(await bulkllm.acompletion("openai/gpt-5-mini", MESSAGES, stream=True), Any)
    assert_type(await bulkllm.aembedding("openai/text-embedding-3-small", "a"), Any)
    assert_type(await bulkllm.aresponses("openai/gpt-5-mini", "Hello"), Any)


def usage(response: object) -> None:
    record = UsageRecord.from_response(response, model="openai/gpt-5-mini")
    assert_type(record.cost, float | None)
    record.cost + 1.0  # type: ignore[operator]
    assert_type(record.usage + record.usage, Usage)
    assert_type(record.input_tokens, int)
    record.cost = 0.0  # type: ignore[misc]
    with UsageTracker("eval-7") as tracker:
        assert_type(tracker, UsageTracker)
    assert_type(tracker.total.cost, float)
    assert_type(tracker.total.requests, int)
    assert_type(tracker.total.waits, dict[str, float])
    assert_type(tracker.total.shares, dict[str, float])
    assert_type(tracker.total.advice, list[str])
    assert_type(tracker.by_model["openai/gpt-5-mini"].latency.p95, float | None)
    assert_type(bulkllm.usage(), UsageTracker)
    assert_type(Price(input_per_token=1e-6).cost(record.usage), float)
    assert_type(UsageTracker("kept", sink="records.jsonl").snapshot(), UsageTracker)
    assert_type(list(bulkllm.read_records("records.jsonl")), list[UsageRecord])
    assert_type(record.uncertain_cost, float | None)
    assert_type(record.uncertain_tokens, int)
    with bulkllm.Budget(5.00, max_tokens=10_000) as budget:
        assert_type(budget.remaining.cost, float)
    assert_type(Client(budget=budget, prices={"openai/*": Price(input_per_token=1e-6)}), Client)
    assert_type(bulkllm.run(["a"], model="openai/gpt-5-mini", budget=budget), RunResult)


def models() -> None:
    assert_type(bulkllm.models.get("gpt-5-mini"), ModelInfo)
    assert_type(bulkllm.models.select("cheap", "company:openai"), list[LLMConfig])
    config = LLMConfig(slug="mini", model="openai/gpt-5-mini", temperature=0.5)
    LLMConfig(model="openai/gpt-5-mini")  # type: ignore[call-arg]
    keywords = config.completion_kwargs()
    assert_type(keywords, dict[str, Any])


def errors(error: bulkllm.RequestFileError) -> None:
    assert_type(error.path, Path | None)
    assert_type(error.line, int | None)
    try:
        calls(LLMConfig(slug="mini", model="openai/gpt-5-mini"))
    except bulkllm.errors.LimitTimeout as timeout:
        ours: bulkllm.BulkLLMError = timeout
        python_s: TimeoutError = timeout
        raise RuntimeError(ours, python_s) from timeout


def bulk(client: Client) -> None:
    result = bulkllm.run("questions.jsonl", model="openai/gpt-5-mini", output=Path("answers.jsonl"), temperature=0)
    assert_type(result, RunResult)
    assert_type(result.ok, int)
    assert_type(client.run(["a", {"prompt": "b"}, MESSAGES], model="openai/gpt-5-mini"), RunResult)
    for row in result:
        assert_type(row, ResultRow)
        assert_type(row.ok, bool)
        assert_type(row.text, str | None)
        assert_type(row.record, UsageRecord | None)


async def bulk_in_a_loop(client: Client) -> None:
    assert_type(await bulkllm.arun(["a"], model="openai/gpt-5-mini"), RunResult)
    assert_type(await client.arun(["a"], model="openai/gpt-5-mini"), RunResult)
    async for row in bulkllm.stream((f"{number}" for number in range(9)), model="openai/gpt-5-mini"):
        assert_type(row, ResultRow)
    async for row in client.stream(["a"], model="openai/gpt-5-mini"):
        assert_type(row, ResultRow)


def tests_of_users() -> None:
    with FakeProvider(rpm=600) as server:
        assert_type(server.openai_base, str)
        assert_type(server.report(), ProviderReport)
    clock = FakeClock()
    RateLimiter(RateLimit("*", rpm=60), clock=clock)
    assert_type(clock(), float)


def mapping(tracker: UsageTracker) -> Mapping[str, object]:
    return tracker.by_tag
