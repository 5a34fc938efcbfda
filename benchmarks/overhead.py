"""What bulkllm adds to a call: acompletion's throughput beside bare LiteLLM's, on one loopback server, in one process.

Many short rounds run both, in an order that is swapped from round to round, with garbage collected in between; the
figure is the median of the rounds' ratios, with the middle half of them, so that a neighbour who takes the processor
for a second spoils a round and not the figure. Bare LiteLLM against itself by the same method shows the method's own
error, and must lie within 0.03 of 1; where it does not, the machine is too busy, and only the ratio by CPU time counts.

    python benchmarks/overhead.py [--rounds 40] [--calls 80] [--in-flight 20]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import bulkllm
from bulkllm import _litellm
from bulkllm.testing import SpawnedProvider

Complete = Callable[..., Awaitable[Any]]

MESSAGES = [{"role": "user", "content": "Name the capital of France, and nothing else."}]


async def throughput(complete: Complete, base: str, calls: int, in_flight: int) -> tuple[float, float]:
    """Calls a second of time, and calls a second of this process's CPU."""
    numbers = iter(range(calls))

    async def work() -> None:
        for _ in numbers:
            await complete("openai/gpt-4.1-mini", MESSAGES, api_base=base, api_key="sk-fake", max_tokens=16)

    gc.collect()
    began, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return calls / (time.perf_counter() - began), calls / (time.process_time() - worked)


async def compare(name: str, ours: Complete, theirs: Complete, base: str, options: argparse.Namespace) -> None:
    """Print the medians of ours/theirs."""
    by_time, by_cpu = [], []
    for number in range(options.rounds):
        pair = (ours, theirs) if number % 2 else (theirs, ours)
        first, second = [await throughput(one, base, options.calls, options.in_flight) for one in pair]
        mine, bare = (first, second) if pair[0] is ours else (second, first)
        by_time.append(mine[0] / bare[0])
        by_cpu.append(mine[1] / bare[1])
    low, middle, high = statistics.quantiles(by_time, n=4)
    _, by_processor, _ = statistics.quantiles(by_cpu, n=4)
    print(
        f"{name}: {middle:.3f} of bare LiteLLM's throughput (half of the rounds: {low:.2f} to {high:.2f}), "
        f"{by_processor:.3f} by CPU time"
    )


async def main(options: argparse.Namespace) -> None:
    litellm = _litellm.load()
    plain = bulkllm.Client()
    limited = bulkllm.Client([bulkllm.RateLimit("openai/*", rpm=1e7, tpm=1e10, itpm=1e10, otpm=1e10)])
    with SpawnedProvider() as server:
        base = server.openai_base
        for warm in (litellm.acompletion, plain.acompletion, limited.acompletion):
            await throughput(warm, base, options.calls, options.in_flight)
        bare, _ = await throughput(litellm.acompletion, base, options.calls, options.in_flight)
        print(f"bare litellm.acompletion: {bare:.0f} calls/s, {options.in_flight} in flight")
        for name, ours in (
            ("bare against bare", litellm.acompletion),
            ("bulkllm.acompletion", plain.acompletion),
            ("bulkllm.acompletion, limited in four dimensions", limited.acompletion),
        ):
            await compare(name, ours, litellm.acompletion, base, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=80)
    parser.add_argument("--in-flight", type=int, default=20)
    asyncio.run(main(parser.parse_args()))
