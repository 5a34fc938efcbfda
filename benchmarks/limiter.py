"""How fast the rate limiter is when nobody waits, and how exact it is when thousands do.

    python benchmarks/limiter.py                      # reservations a second, then 2,000 waiters: some 25 seconds
    python benchmarks/limiter.py --waiters 14000      # the long queue: 70 seconds more
    python benchmarks/limiter.py --waiters 0          # the first half only

The first half reserves and reconciles against limits that never hold anybody up, beside aiolimiter's ``acquire``
(dependency group ``bench``; its line is left out where it is not installed), which knows one dimension and has
nothing to reconcile. All take turns in one process, in the opposite order each other round, with the garbage
collected between; told is the geometric mean of the rounds. The second half lets tasks queue up at 200 a second.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

from bulkllm.limits import RateLimit, RateLimiter

PLENTY = 1e12
RATE = 200
MODEL = "openai/gpt-5-mini"

Contender = Callable[[int], Awaitable[None]]


def limiter(dimensions: int) -> RateLimiter:
    """One limit that never holds anybody up."""
    if dimensions == 1:
        return RateLimiter(RateLimit("openai/*", rpm=PLENTY))
    return RateLimiter(RateLimit("openai/*", rpm=PLENTY, tpm=PLENTY, itpm=PLENTY, otpm=PLENTY))


def in_threads_way(dimensions: int) -> Contender:
    limits = limiter(dimensions)

    async def contend(count: int) -> None:
        for _ in range(count):
            with limits.reserve(MODEL, input_tokens=900, output_tokens=300) as reservation:
                reservation.reconcile(input_tokens=870, output_tokens=120)

    return contend


def in_tasks_way(dimensions: int) -> Contender:
    limits = limiter(dimensions)

    async def contend(count: int) -> None:
        for _ in range(count):
            async with limits.reserve(MODEL, input_tokens=900, output_tokens=300) as reservation:
                reservation.reconcile(input_tokens=870, output_tokens=120)

    return contend


def aiolimiters_way() -> Contender:
    from aiolimiter import AsyncLimiter

    peer = AsyncLimiter(PLENTY, 60)

    async def contend(count: int) -> None:
        for _ in range(count):
            await peer.acquire()

    return contend


async def measure(contenders: dict[str, Contender], rounds: int, count: int) -> dict[str, float]:
    """Operations a second, the geometric mean over the rounds."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for contend in contenders.values():
        await contend(count // 10)
    for turn in range(rounds):
        order = list(contenders) if turn % 2 == 0 else list(reversed(contenders))
        for name in order:
            gc.collect()
            began = time.perf_counter()
            await contenders[name](count)
            rates[name].append(count / (time.perf_counter() - began))
    return {name: statistics.geometric_mean(values) for name, values in rates.items()}


def uncontended(rounds: int, count: int) -> None:
    contenders = {
        "reserve + reconcile, 1 dimension, with": in_threads_way(1),
        "reserve + reconcile, 1 dimension, async with": in_tasks_way(1),
        "reserve + reconcile, 4 dimensions, with": in_threads_way(4),
        "reserve + reconcile, 4 dimensions, async with": in_tasks_way(4),
    }
    peer = "aiolimiter's acquire, 1 dimension"
    if find_spec("aiolimiter") is None:
        print("aiolimiter is not installed (dependency group bench): no ratios")
    else:
        contenders[peer] = aiolimiters_way()
    print(f"uncontended, {rounds} rounds of {count:,} each:")
    rates = asyncio.run(measure(contenders, rounds, count))
    for name, rate in rates.items():
        ratio = f"   {rate / rates[peer]:6.2f} of aiolimiter's" if peer in rates and name != peer else ""
        print(f"  {name:<46} {rate:>10,.0f}/s{ratio}")


async def queue_up(count: int) -> tuple[float, float, bool]:
    """Let so many tasks wait at once. Tells the seconds they took, the seconds of CPU, and whether in order."""
    limits = RateLimiter(RateLimit(rpm=RATE, period=1.0, burst=1))
    served: list[int] = []

    async def call(number: int) -> None:
        async with limits.reserve(MODEL):
            served.append(number)

    gc.collect()
    began, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*(call(number) for number in range(count)))
    return time.perf_counter() - began, time.process_time() - worked, served == list(range(count))


def contended(count: int) -> None:
    ideal = (count - 1) / RATE
    print(f"{count:,} waiters at {RATE} a second, ideally {ideal:.2f} s:")
    took, worked, in_order = asyncio.run(queue_up(count))
    print(
        f"  {took:.2f} s ({took / ideal - 1:+.2%}), {worked:.2f} s of CPU ({worked / took:.1%} of one core), "
        f"{'in order' if in_order else 'OUT OF ORDER'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--count", type=int, default=20_000, help="operations of each contender in a round")
    parser.add_argument("--waiters", type=int, default=2_000, help="0 leaves the queue out")
    options = parser.parse_args()
    uncontended(options.rounds, options.count)
    if options.waiters:
        contended(options.waiters)


if __name__ == "__main__":
    main()
