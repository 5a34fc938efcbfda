"""What bulkllm adds to a call: acompletion's throughput beside bare LiteLLM's, on one loopback server, in one process.

Each round runs both, in an order that is swapped from round to round, with garbage collected in between; the figure is
the geometric mean of the rounds' ratios. Bare LiteLLM against itself by the same method shows the method's own error,
and must lie within 0.03 of 1. More than one pass makes the figure steadier: --rounds.

    python benchmarks/overhead.py [--rounds 12] [--calls 200] [--in-flight 20]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import bulkllm
from bulkllm import _litellm
from bulkllm.testing import SpawnedProvider

Complete = Callable[..., Awaitable[Any]]

MESSAGES = [{"role": "user", "content": "Name the capital of France, and nothing else."}]


async def throughput(complete: Complete, base: str, calls: int, in_flight: int) -> float:
    """Calls a second."""
    numbers = iter(range(calls))

    async def work() -> None:
        for _ in numbers:
            await complete("openai/gpt-4.1-mini", MESSAGES, api_base=base, api_key="sk-fake", max_tokens=16)

    gc.collect()
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return calls / (time.perf_counter() - began)


async def ratio(ours: Complete, theirs: Complete, base: str, options: argparse.Namespace) -> tuple[float, list[float]]:
    """The geometric mean of ours/theirs, and each round's."""
    ratios = []
    for number in range(options.rounds):
        pair = (ours, theirs) if number % 2 else (theirs, ours)
        first, second = [await throughput(one, base, options.calls, options.in_flight) for one in pair]
        ratios.append(first / second if pair[0] is ours else second / first)
    return math.exp(sum(map(math.log, ratios)) / len(ratios)), ratios


async def main(options: argparse.Namespace) -> None:
    litellm = _litellm.load()
    plain = bulkllm.Client()
    limited = bulkllm.Client([bulkllm.RateLimit("openai/*", rpm=1e7, tpm=1e10, itpm=1e10, otpm=1e10)])
    with SpawnedProvider() as server:
        base = server.openai_base
        for warm in (litellm.acompletion, plain.acompletion, limited.acompletion):
            await throughput(warm, base, options.calls, options.in_flight)
        bare = await throughput(litellm.acompletion, base, options.calls, options.in_flight)
        print(f"bare litellm.acompletion: {bare:.0f} calls/s, {options.in_flight} in flight")
        for name, ours in (
            ("bare against bare", litellm.acompletion),
            ("bulkllm.acompletion", plain.acompletion),
            ("bulkllm.acompletion, limited in four dimensions", limited.acompletion),
        ):
            mean, ratios = await ratio(ours, litellm.acompletion, base, options)
            print(f"{name}: {mean:.3f} of bare LiteLLM's throughput (rounds: {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=20)
    asyncio.run(main(parser.parse_args()))
