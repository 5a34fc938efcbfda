"""Runs through the real client and LiteLLM, over HTTP, against the fake provider."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import Progress, ResultRow, RunResult, read_results, run
from bulkllm.calls import RetryPolicy
from bulkllm.client import Client
from bulkllm.limits import RateLimit
from bulkllm.testing import FakeProvider, Fault

KEY = "sk-fake-abcdefghijklmnop"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(seed=1) as server:
        yield server


def bulk(requests: Any, server: FakeProvider, output: Path | None = None, **options: Any) -> RunResult:
    options = {"model": "openai/fake-model", "api_key": KEY, "progress": False, **options}
    return run(requests, output=output, api_base=server.openai_base, endpoint="fake", **options)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Tell me of {number}.", "label": number} for number in range(count)]


def test_every_row_is_asked_once_and_counted(provider: FakeProvider, out: Path) -> None:
    result = bulk(rows(60), provider, out)
    report = provider.report()
    assert (result.ok, report.requests, report.repeated_prompts) == (60, 60, 0)
    assert result.usage.total.output_tokens == report.output_tokens
    assert result.usage.by_model["openai/fake-model"].requests == 60
    first = next(iter(result))
    assert first.text
    assert first.response.choices[0].message.content == first.text
    assert first.record is not None
    assert first.record.latency > 0
    told = json.loads(out.read_bytes().splitlines()[0])
    assert told["response"]["request_id"].startswith("req_")
    assert told["bulkllm"]["endpoint"] == provider.openai_base
    assert KEY not in out.read_text()
    assert bulk(rows(60), provider, out).skipped == 60
    assert provider.report().requests == 60


def test_the_operations_and_dialects(provider: FakeProvider) -> None:
    requests: list[Any] = [
        "chat",
        {"input": ["one", "two"]},
        {"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": {"input": "respond"}},
        {"prompt": "claude", "model": "anthropic/claude-x", "api_base": provider.anthropic_base, "max_tokens": 50},
    ]
    chat, vectors, respond, claude = bulk(requests, provider)
    assert chat.text
    assert vectors.text is None
    assert vectors.body is not None
    assert len(vectors.body["data"]) == 2
    assert respond.text
    assert claude.text
    assert [row.record and row.record.operation for row in (chat, vectors, respond, claude)] == [
        "completion", "embedding", "responses", "completion",
    ]  # fmt: skip


def test_results_of_each_kind_are_read_back_from_the_file(provider: FakeProvider, out: Path) -> None:
    requests = ["chat", {"input": "one"}, {"url": "/v1/responses", "body": {"input": "respond"}}]
    chat, vector, respond = bulk(requests, provider, out)
    assert type(chat.response).__name__ == "ModelResponse"
    assert type(vector.response).__name__ == "EmbeddingResponse"
    assert type(respond.response).__name__ == "ResponsesAPIResponse"
    assert respond.text
    assert chat.record is not None
    assert chat.record.usage.output_tokens == chat.response.usage.completion_tokens


def test_faults_cost_retries_and_no_rows(out: Path) -> None:
    faults = [
        Fault("status", status=500, rate=0.05),
        Fault("reset", rate=0.05),
        Fault("truncate", rate=0.02),
        Fault("status", status=429, rate=0.05, retry_after="10ms"),
    ]
    with FakeProvider(seed=3, faults=faults) as server:
        result = bulk(rows(300), server, out, retry=RetryPolicy(max_attempts=8, base_delay=0.01))
        report = server.report()
    assert (result.ok, result.failed, result.stopped) == (300, 0, None)
    assert report.failed > 20
    assert report.repeated_prompts == 0
    assert sorted(row.columns["label"] for row in result) == list(range(300))


def test_a_row_whose_retries_are_used_up_says_why(out: Path) -> None:
    with FakeProvider(faults=[Fault("status", status=503, match="of 3.")]) as server:
        result = bulk(rows(6), server, out, retry=RetryPolicy(max_attempts=2, base_delay=0.01))
    (failed,) = [row for row in result if not row.ok]
    assert failed.columns == {"label": 3}
    assert failed.error is not None
    assert failed.error.status == 503
    assert failed.record is not None
    assert failed.record.attempts == 2
    with FakeProvider() as server:
        assert bulk(rows(6), server, out).ok == 6
        assert server.report().requests == 1


def test_a_key_that_expires_stops_the_run_and_a_new_one_continues_it(out: Path) -> None:
    with FakeProvider(faults=[Fault("status", status=401, after=100)]) as server:
        began = time.monotonic()
        result = bulk(rows(3000), server, out, max_in_flight=20)
        assert time.monotonic() - began < 30
        asked = server.report().requests
    assert result.stopped is not None
    assert "check the API key" in result.stopped
    assert KEY not in result.stopped
    assert result.ok == 100
    assert asked == result.ok + result.failed < 140
    with FakeProvider() as server:
        again = bulk(rows(200), server, out)
        assert (again.ok, again.skipped) == (200, 100)
        assert server.report().requests == 100


def test_a_model_that_litellm_cannot_place_stops_the_run(provider: FakeProvider) -> None:
    result = run([f"p{number}" for number in range(200)], model="no-such-model", max_in_flight=2, progress=False)
    assert result.stopped is not None
    assert "with its provider" in result.stopped
    assert result.failed <= 12
    with FakeProvider(models=["fake-model"]) as server:
        result = bulk(rows(200), server, model="openai/other-model", max_in_flight=2)
    assert result.stopped is not None
    assert "check the model's name" in result.stopped


def test_a_slow_model_does_not_hold_a_fast_one_up() -> None:
    """The slow one's rows come first, and are more than may be in flight."""
    requests = [{"prompt": f"s{number}", "model": "openai/slow"} for number in range(20)]
    requests += [{"prompt": f"f{number}", "model": "openai/fast"} for number in range(30)]
    finished: list[str] = []
    with FakeProvider(latency=lambda body: 0.5 if body["model"] == "slow" else 0.0) as server:
        result = bulk(requests, server, max_in_flight=5, on_result=lambda row: finished.append(row.record.model))
    assert result.ok == 50
    assert finished[-5:] == ["openai/slow"] * 5


def test_an_interrupt_does_not_wait_for_rows_that_wait_for_the_limits(provider: FakeProvider, out: Path) -> None:
    """Six a minute: the seventh row would be asked after ten seconds, the hundredth after a quarter of an hour."""
    client = Client(RateLimit(["*"], rpm=6))
    interrupted = 0.0

    def told(row: ResultRow) -> None:
        nonlocal interrupted
        if len(out.read_bytes().splitlines()) == 6:
            interrupted = time.monotonic()
            signal.raise_signal(signal.SIGINT)

    result = bulk(rows(100), provider, out, client=client, on_result=told)
    assert time.monotonic() - interrupted < 5
    assert (result.ok, result.undone, result.interrupted) == (6, 94, True)
    assert provider.report().requests == 6
    status = client.limiter.status("openai/fake-model")
    assert (status.waiting, status.limits[0].in_flight) == (0, 0)
    assert client.usage.total.cancelled == 94


def test_what_was_paid_for_a_row_that_is_given_up_between_two_asks_is_not_forgotten(
    provider: FakeProvider, out: Path
) -> None:
    interrupts = [True]

    def never_right(text: str) -> bool:
        if interrupts.pop():
            asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
        return False

    client = Client(RateLimit(["*"], rpm=1))
    told: list[Progress] = []
    result = bulk(rows(3), provider, out, client=client, validate=never_right, progress=told.append)
    (line,) = read_results(out)
    assert (result.interrupted, result.ok, result.failed, result.undone) == (True, 0, 0, 3)
    assert provider.report().requests == 1
    assert line.error is not None
    assert line.error.code == "RunStopped"
    assert line.record is not None
    assert line.record.total_tokens == client.usage.total.total_tokens > 0
    assert result.usage.total.total_tokens == told[-1].tokens == line.record.total_tokens
    result = bulk(rows(3), provider, out)
    assert (result.ok, result.failed, provider.report().requests) == (3, 0, 4), "it is done again by itself"


def test_a_row_that_is_given_up_between_two_asks_stays_undone_where_nothing_is_written(provider: FakeProvider) -> None:
    def never_right(text: str) -> bool:
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
        return False

    result = bulk(rows(3), provider, client=Client(RateLimit(["*"], rpm=1)), validate=never_right)
    assert (result.interrupted, result.failed, result.undone) == (True, 0, 3)


def test_what_was_paid_for_a_row_that_is_given_up_between_two_models_is_not_forgotten(
    provider: FakeProvider, out: Path
) -> None:
    def never_right(text: str) -> bool:
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
        return False

    client = Client(RateLimit(["openai/second"], rpm=1))
    taken = client.limiter.try_reserve("openai/second")
    assert taken is not None
    bulk(rows(1), provider, out, client=client, validate=never_right, reasks=0, fallbacks=["openai/second"])
    (line,) = read_results(out)
    taken.reconcile()
    assert provider.report().requests == 1
    assert line.error is not None
    assert line.error.code == "RunStopped"
    assert line.record is not None
    assert line.record.total_tokens == client.usage.total.total_tokens > 0


def test_a_stopped_pool_does_not_wait_for_rows_that_wait_for_the_limits(out: Path) -> None:
    with FakeProvider(keys=["sk-another"]) as server:
        bulk(rows(1), server)  # LiteLLM is loaded now
        began = time.monotonic()
        result = bulk(rows(100), server, out, limits=[RateLimit(["*"], rpm=12)])
        assert time.monotonic() - began < 5
    assert result.stopped is not None
    assert 10 <= result.failed <= 12
    assert result.undone == 100 - result.failed


PROGRAM = textwrap.dedent(
    """
    import sys
    import bulkllm.bulk as bulk

    requests, output, base = sys.argv[1:]
    result = bulk.run(requests, model="openai/fake-model", api_base=base, api_key="sk-fake", endpoint="fake",
                      output=output, max_in_flight=16, progress=False)
    sys.exit(0 if result.ok == result.total else 1)
    """
)


def test_a_killed_run_pays_at_most_for_what_was_in_flight(write: Any, out: Path) -> None:
    count, flight = 200, 16
    path = write(rows(count))
    codes = []
    with FakeProvider(seed=1, latency=(0.005, 0.03)) as server:
        for target in (random.randrange(40, 120), count * 2):  # noqa: S311 - any moment will do
            with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), str(out), server.openai_base]) as process:
                end = time.monotonic() + 90
                while process.poll() is None and server.report().requests < target:
                    assert time.monotonic() < end
                    time.sleep(0.005)
                process.kill()
            codes.append(process.returncode)
        report = server.report()
    assert codes == [-signal.SIGKILL, 0]
    assert report.repeated_prompts <= flight
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert sorted(line["bulkllm"]["columns"]["label"] for line in lines) == list(range(count))
    assert all(line["error"] is None for line in lines)


def test_one_line_inserted_at_the_top_is_one_request_and_a_new_port_none(write: Any, out: Path) -> None:
    """Neither asks for anything that was answered, though no row has a custom_id."""
    with FakeProvider() as server:
        assert bulk(write(rows(120)), server, out).ok == 120
    with FakeProvider() as server:
        assert bulk(write(rows(120)), server, out).skipped == 120
        assert server.report().requests == 0
        result = bulk(write([{"prompt": "the new one"}, *rows(120)]), server, out)
        assert (result.ok, result.skipped, server.report().requests) == (121, 120, 1)
        assert [row.index for row in result] == list(range(121))
        assert next(iter(result)).columns == {}


def test_a_hanging_provider_costs_a_timeout_and_no_row(out: Path) -> None:
    with FakeProvider(seed=4, faults=[Fault("hang", rate=0.1), Fault("status", status=500, rate=0.05)]) as server:
        result = bulk(rows(80), server, out, timeout=3, retry=RetryPolicy(max_attempts=8, base_delay=0.01))
        report = server.report()
    assert (result.ok, result.failed) == (80, 0)
    assert report.faults["hang"] > 3
    assert sorted(row.columns["label"] for row in result) == list(range(80))


def test_a_model_with_a_small_part_of_the_limit_does_not_hold_the_other_up(out: Path) -> None:
    """Each has more rows than may be in flight; by the slow one's limit alone its rows take most of a minute."""
    requests = [{"prompt": f"s{number}", "model": "openai/slow"} for number in range(24)]
    requests += [{"prompt": f"f{number}", "model": "openai/fast"} for number in range(100)]
    limits = [RateLimit("openai/fast", rpm=6000, burst=20), RateLimit("openai/slow", rpm=30, burst=1)]
    order: list[str] = []

    def told(row: ResultRow) -> None:
        assert row.record is not None
        order.append(row.record.model)
        if order.count("openai/fast") == 100 and order[-1] == "openai/fast":
            signal.raise_signal(signal.SIGINT)  # the rest is done without the limits, below

    with FakeProvider() as server:
        result = bulk(requests, server, out, limits=limits, max_in_flight=8, on_result=told)
        assert result.interrupted
        last_fast = max(place for place, model in enumerate(order) if model == "openai/fast")
        assert order[:last_fast].count("openai/slow") <= 12
        assert bulk(requests, server, out).ok == 124
