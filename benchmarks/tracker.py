"""How many records a second a UsageTracker counts, in one thread and in several.

python benchmarks/tracker.py [--records N] [--rounds N]

Each round counts the same records in a new tracker, garbage collected before; the best round is printed (others
were disturbed), and the memory that the tracker holds when it has counted all.
"""

from __future__ import annotations

import argparse
import gc
import random
import threading
import time
import tracemalloc
from collections.abc import Callable

from bulkllm.accounting import Usage, UsageRecord, UsageTracker


def records(count: int, tags: dict[str, str]) -> list[UsageRecord]:
    chance = random.Random(7)
    models = ("openai/gpt-5-mini", "openai/gpt-5", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash")
    made = []
    for _ in range(count):
        model = chance.choice(models)
        made.append(
            UsageRecord(
                model=model,
                provider=model.partition("/")[0],
                outcome="ok" if chance.random() < 0.98 else "RateLimitError",
                usage=Usage(chance.randint(50, 9000), chance.randint(1, 900), chance.randint(0, 50)),
                cost=chance.lognormvariate(-7, 1) if chance.random() < 0.9 else None,
                latency=chance.lognormvariate(0.3, 0.7),
                waited=chance.expovariate(1.0),
                tags=tags,
            )
        )
    return made


def in_one_thread(made: list[UsageRecord], tracker: UsageTracker) -> None:
    for record in made:
        tracker.record(record)


def in_four_threads(made: list[UsageRecord], tracker: UsageTracker) -> None:
    share = len(made) // 4
    parts = [made[start : start + share] for start in range(0, share * 4, share)]
    threads = [threading.Thread(target=in_one_thread, args=(part, tracker)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def best_rate(count: Callable[[list[UsageRecord], UsageTracker], None], made: list[UsageRecord], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        tracker = UsageTracker()
        gc.collect()
        start = time.perf_counter()
        count(made, tracker)
        best = min(best, time.perf_counter() - start)
        assert tracker.total.requests == len(made)
    return len(made) / best


def memory(made: list[UsageRecord], times: int) -> int:
    tracker = UsageTracker()
    tracemalloc.start()
    for _ in range(times):
        in_one_thread(made, tracker)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=40_000, help="records a round, a multiple of 4")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()

    plain, tagged = records(asked.records, {}), records(asked.records, {"experiment": "a"})
    for label, count, made in (
        ("one thread", in_one_thread, plain),
        ("one thread, one tag", in_one_thread, tagged),
        ("four threads", in_four_threads, plain),
    ):
        rate = best_rate(count, made, asked.rounds)
        print(f"{label:22} {rate:>10,.0f} records/s   {1e6 / rate:5.2f} µs each")
    once, thrice = memory(plain, 1), memory(plain, 3)
    print(f"memory held after {asked.records:,} records: {once / 1024:,.0f} KiB")
    print(f"memory held after {3 * asked.records:,} records: {thrice / 1024:,.0f} KiB")


if __name__ == "__main__":
    main()
