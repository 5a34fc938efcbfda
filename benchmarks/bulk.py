"""What a bulk run costs: rows a second and CPU a row, beside bare LiteLLM behind a semaphore, on one loopback server.

Each round runs both in this process, in an order that is swapped from round to round, with garbage collected in
between; the figure is the geometric mean of the rounds' ratios. The bare run keeps the answers in memory and writes
nothing; ours writes a results file, flushed to the disk every second.

    python benchmarks/bulk.py [--rounds 6] [--rows 600] [--in-flight 64]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import bulkllm
from bulkllm import _litellm
from bulkllm.testing import SpawnedProvider

MODEL = "openai/gpt-4.1-mini"
Way = Callable[[str, int, int], Awaitable[int]]


def prompt(number: int) -> str:
    return f"Say something about the number {number}, in one sentence."


async def bare(base: str, rows: int, in_flight: int) -> int:
    """What people write themselves."""
    litellm: Any = _litellm.load()
    semaphore = asyncio.Semaphore(in_flight)

    async def one(number: int) -> Any:
        async with semaphore:
            return await litellm.acompletion(
                MODEL, [{"role": "user", "content": prompt(number)}], api_base=base, api_key="sk-fake"
            )

    return len(await asyncio.gather(*(one(number) for number in range(rows))))


async def ours(base: str, rows: int, in_flight: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        result = await bulkllm.arun(
            (prompt(number) for number in range(rows)), model=MODEL, output=Path(folder) / "out.jsonl",
            max_in_flight=in_flight, progress=False, client=bulkllm.Client(), api_base=base, api_key="sk-fake",
        )  # fmt: skip
        return result.ok


async def measured(way: Way, base: str, options: argparse.Namespace) -> tuple[float, float]:
    """Rows a second, and milliseconds of this process's CPU a row."""
    gc.collect()
    began, worked = time.perf_counter(), time.process_time()
    done = await way(base, options.rows, options.in_flight)
    took, cpu = time.perf_counter() - began, time.process_time() - worked
    if done != options.rows:
        raise SystemExit(f"{way.__name__}: {done} of {options.rows} rows")
    return done / took, 1000 * cpu / done


def mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    with SpawnedProvider() as server:
        base = server.openai_base
        for way in (bare, ours):  # connections, imports
            await way(base, 50, options.in_flight)
        seen: dict[Way, list[tuple[float, float]]] = {bare: [], ours: []}
        for number in range(options.rounds):
            for way in (bare, ours) if number % 2 else (ours, bare):
                seen[way].append(await measured(way, base, options))
    for way, name in ((bare, "LiteLLM and a semaphore"), (ours, "bulkllm.arun")):
        rate, cpu = mean([one for one, _ in seen[way]]), mean([one for _, one in seen[way]])
        print(f"{name:24} {rate:7.0f} rows/s  {cpu:6.2f} ms CPU a row")
    pairs = list(zip(seen[ours], seen[bare], strict=True))
    by_time = [mine[0] / theirs[0] for mine, theirs in pairs]
    print(
        f"bulkllm.arun reaches {mean(by_time):.3f} of bare LiteLLM's throughput"
        f" (rounds: {min(by_time):.2f} to {max(by_time):.2f}), {mean([b[1] / m[1] for m, b in pairs]):.3f} by CPU time"
    )


if __name__ == "__main__":
    asyncio.run(main())
