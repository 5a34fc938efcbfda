"""A plan against the run itself, on the clock: on a quiet machine, by ``pytest -m soak -s``, which prints both.

The same is asked in small, and without a clock, in test_plan.py, which always runs.
"""
# ruff: noqa: T201 - what they measure is printed

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import plan, run
from bulkllm.client import Client
from bulkllm.limits import RateLimit
from bulkllm.testing import FakeProvider

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

BOTH = ["openai/a", "openai/b"]

# What bounds the run: limits, rows, how many of them are asked as a sample first, and what else is said. Where a bucket
# lets much go at once, an error in the tokens is a larger one in the time: such a run wants a larger sample.
BOUND_BY: dict[str, tuple[list[RateLimit], int, int, dict[str, Any]]] = {
    "requests": ([RateLimit("*", rpm=600, burst=10)], 300, 40, {}),
    "tokens": ([RateLimit("*", tpm=12_000, period=10)], 500, 100, {}),
    "tokens, and no max_tokens": ([RateLimit("*", tpm=12_000, period=10)], 500, 100, {"max_tokens": None}),
    "tokens, a full bucket at first": ([RateLimit("*", tpm=60_000)], 1400, 250, {}),
    "output tokens": ([RateLimit("*", otpm=9000, period=10)], 500, 100, {}),
    "rows in flight": ([], 250, 40, {"max_in_flight": 12}),
    "a limit in flight": ([RateLimit("*", max_in_flight=12)], 250, 40, {}),
    "all of these": (
        [RateLimit("*", rpm=900, burst=15, tpm=12_000, max_in_flight=14, period=15)], 300, 80, {},
    ),
    "two models, each by its own": (
        [RateLimit("openai/a", rpm=600, burst=10), RateLimit("openai/b", tpm=10_000, period=15)], 250, 160,
        {"model": BOTH},
    ),
    "two models, one limit": ([RateLimit("*", rpm=900, burst=10)], 200, 40, {"model": BOTH}),
}  # fmt: skip

PLACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "requests": ({"rpm": 600, "burst": 10}, {"rpm": 300, "burst": 5}),
    "tokens": ({"tpm": 4000, "period": 5}, {"tpm": 1600, "period": 5}),
}


def compare(name: str, rows: int, sample: int, out: Path, limits: list[RateLimit], options: dict[str, Any]) -> None:
    """Ask a sample, plan, run the rest, and hold the two against each other."""
    prompts = [f"Tell me all that you know of the number {number}, please." for number in range(rows)]
    options = {"model": "openai/fake-model", "api_key": "sk-fake", "endpoint": "fake", "max_tokens": 100, **options}
    options = {key: value for key, value in options.items() if value is not None}
    # Few at once: this machine's own work must not look like the provider's.
    run(prompts, output=out, sample=sample, progress=False, client=Client(), **{**options, "max_in_flight": 12})
    told = plan(prompts, output=out, client=Client(limits), **options)
    began = time.monotonic()
    result = run(prompts, output=out, progress=False, client=Client(limits), **options)
    took = time.monotonic() - began
    used = result.usage.total
    print(
        f"\n{name}: planned {told.seconds:.1f} s, took {took:.1f} s ({told.seconds / took - 1:+.1%}); "
        f"{told.input_tokens.low:,.0f} to {told.input_tokens.high:,.0f} tokens in, {used.input_tokens:,} were; "
        f"{told.output_tokens.low:,.0f} to {told.output_tokens.high:,.0f} out, {used.output_tokens:,} were"
    )
    assert result.ok == result.total
    assert told.input_tokens.low <= used.input_tokens <= (told.input_tokens.high or 0)
    assert told.output_tokens.low <= used.output_tokens <= (told.output_tokens.high or 0)
    assert told.seconds == pytest.approx(took, rel=0.1)


@pytest.mark.parametrize("name", BOUND_BY)
def test_the_planned_time_is_the_real_one(name: str, out: Path) -> None:
    limits, rows, sample, options = BOUND_BY[name]
    with FakeProvider.spawn(latency=(0.5, 1.5)) as server:
        compare(f"by {name}", rows, sample, out, limits, {"api_base": server.openai_base, **options})


@pytest.mark.parametrize("name", PLACES)
def test_the_planned_time_at_several_places_is_the_real_one(name: str, out: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeProvider.spawn(latency=(0.5, 1.5))) for _ in range(2)]
        places = [
            {"api_base": server.openai_base, "api_key": "sk-fake", **limits}
            for server, limits in zip(servers, PLACES[name], strict=True)
        ]
        options = {"deployments": places, "api_base": servers[0].openai_base}
        compare(f"at places, by {name}", 600, 100, out, [], options)
