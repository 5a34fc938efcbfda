"""How many records a second a UsageTracker counts, beside the tracker of the older package of the same name.

python benchmarks/tracker.py [--records N] [--rounds N] [--older-records N] [--large]

Each round counts the same records in a new tracker, garbage collected before; the best round is printed (others
were disturbed), and the memory that the tracker holds when it has counted all. The older package (0.5.12) is installed
from the package index into an environment of its own, which is thrown away afterwards; it gets fewer records, for it
becomes slower with each. ``--large`` counts a million records, and puts ten million values into a sketch.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import subprocess
import tempfile
import threading
import time
import tracemalloc
import venv
from collections.abc import Callable
from pathlib import Path

from bulkllm.accounting import JSONLSink, Quantiles, Usage, UsageRecord, UsageTracker

OLDER = "0.5.12"

# What the older tracker is given: records as its own code makes them, of the same tokens, times and costs.
OLDER_PROGRAM = """
import json, sys, time
from bulkllm.usage_tracker import UsageRecord, UsageTracker

made = [UsageRecord(**fields) for fields in json.load(sys.stdin)]
tracker = UsageTracker("older")  # alone: its public function counts in a global one as well
start = time.perf_counter()
for record in made:
    tracker._add_record(record)
print(len(made) / (time.perf_counter() - start))
"""


def records(count: int, tags: dict[str, str], *, waiting: bool = False) -> list[UsageRecord]:
    chance = random.Random(7)
    models = ("openai/gpt-5-mini", "openai/gpt-5", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash")
    made = []
    for _ in range(count):
        model = chance.choice(models)
        waited = chance.expovariate(1.0)
        made.append(
            UsageRecord(
                model=model,
                provider=model.partition("/")[0],
                outcome="ok" if chance.random() < 0.98 else "RateLimitError",
                usage=Usage(chance.randint(50, 9000), chance.randint(1, 900), chance.randint(0, 50)),
                cost=chance.lognormvariate(-7, 1) if chance.random() < 0.9 else None,
                latency=chance.lognormvariate(0.3, 0.7),
                waited=waited,
                waits={f"rpm of {model}": waited} if waiting else {},
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


def older_rate(made: list[UsageRecord]) -> float:
    """Records a second of the older package's tracker."""
    fields = [
        {
            "model": record.model,
            "input_text_tokens": record.input_tokens,
            "input_tokens_total": record.input_tokens,
            "output_text_tokens": record.output_tokens,
            "output_tokens_total": record.output_tokens,
            "tokens_total": record.total_tokens,
            "time_ms": record.latency * 1000,
            "cost_usd": record.cost,
        }
        for record in made
    ]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = next(
            path for path in (Path(folder, "bin", "python"), Path(folder, "Scripts", "python.exe")) if path.exists()
        )
        # Its tracker needs nothing else, and runs on Pythons that its metadata leaves out.
        options = ["--quiet", "--no-deps", "--ignore-requires-python"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pydantic"], check=True)
        subprocess.run([python, "-m", "pip", "install", *options, f"bulkllm=={OLDER}"], check=True)
        done = subprocess.run(
            [python, "-c", OLDER_PROGRAM],
            input=json.dumps(fields),
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
        )
    return float(done.stdout)


def large() -> None:
    """A million records, and ten million values, in memory that does not grow."""
    made = records(10_000, {"experiment": "a"})
    tracker = UsageTracker()
    tracemalloc.start()
    sizes = []
    for _ in range(10):
        for _ in range(10):
            in_one_thread(made, tracker)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0] / 1024)
    tracemalloc.stop()
    print(f"a million records: {sizes[0]:,.0f} KiB after 100,000 of them, {sizes[-1]:,.0f} KiB after all")
    for name, draw in (
        ("lognormal", lambda chance: chance.lognormvariate(0, 2)),
        ("bimodal", lambda chance: chance.gauss(1, 0.05) if chance.random() < 0.5 else chance.gauss(100, 5)),
        ("constant", lambda chance: 3.7),  # noqa: ARG005 - the shape of the others
        ("heavy-tailed", lambda chance: chance.paretovariate(1.1)),
    ):
        print(f"ten million {name} values: {_worst(draw)}")


def _worst(draw: Callable[[random.Random], float], count: int = 10_000_000) -> str:
    from array import array

    chance = random.Random(1)
    sketch = Quantiles()
    values = array("d", bytes(8 * count))
    start = time.perf_counter()
    for place in range(count):
        value = abs(draw(chance))
        values[place] = value
        sketch.add(value)
    took = time.perf_counter() - start
    ordered = sorted(values)
    quantiles = [place / 1000 for place in range(1001)]
    worst = max(
        abs((sketch.quantile(q) or 0.0) - true) / true
        for q in quantiles
        if (true := ordered[math.floor(q * (count - 1))]) > 0
    )
    return (
        f"worst error of 1,001 quantiles {worst:.4%} (stated {sketch.relative_error:.0%}), "
        f"{len(sketch._bins):,} buckets, {took:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=40_000, help="records a round, a multiple of 4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--older-records", type=int, default=20_000, help="for the older package; 0 leaves it out")
    parser.add_argument("--large", action="store_true", help="a million records and ten million values besides")
    asked = parser.parse_args()

    plain, tagged = records(asked.records, {}), records(asked.records, {"experiment": "a"})
    waited = records(asked.records, {}, waiting=True)
    rates = {}
    for label, count, made in (
        ("one thread", in_one_thread, plain),
        ("one thread, one tag", in_one_thread, tagged),
        ("one thread, one wait", in_one_thread, waited),
        ("four threads", in_four_threads, plain),
    ):
        rates[label] = rate = best_rate(count, made, asked.rounds)
        print(f"{label:22} {rate:>10,.0f} records/s   {1e6 / rate:5.2f} µs each")
    with tempfile.TemporaryDirectory() as folder, JSONLSink(Path(folder, "records.jsonl")) as sink:
        start = time.perf_counter()
        for record in plain:
            sink.put(record)
        handed = time.perf_counter() - start
        sink.flush()
        written = time.perf_counter() - start
    print(
        f"{'into a JSONL sink':22} {len(plain) / written:>10,.0f} records/s   "
        f"{1e6 * handed / len(plain):5.2f} µs to hand in"
    )
    if asked.older_records:
        rate = older_rate(plain[: asked.older_records])
        print(f"{'the older one':22} {rate:>10,.0f} records/s   {1e6 / rate:5.2f} µs each")
        print(f"{'':22} {rates['one thread'] / rate:>10.1f} times as many")
    once, thrice = memory(plain, 1), memory(plain, 3)
    print(f"memory held after {asked.records:,} records: {once / 1024:,.0f} KiB")
    print(f"memory held after {3 * asked.records:,} records: {thrice / 1024:,.0f} KiB")
    if asked.large:
        large()


if __name__ == "__main__":
    main()
