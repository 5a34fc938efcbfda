"""Eight processes write and read one cache while one of them is killed -9 every second.

    python benchmarks/cache_torture.py                    # until 50,000 entries are in the file
    python benchmarks/cache_torture.py --entries 5000 --processes 4

Each process asks for keys at random, twenty at a time, and puts what is not there. A wrong answer, an exception, a
damaged file or a write that was reported and is not there ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bulkllm.caching import Cache


def value_of(key: str) -> dict[str, Any]:
    """The one right answer to a key, of some length or other."""
    return {"key": key, "text": f"the answer to {key}. " * (1 + hash_of(key) % 100)}


def hash_of(key: str) -> int:
    return int(key.rpartition("-")[2]) * 2654435761 % 2**32


async def work(directory: Path, seed: int, entries: int) -> None:
    """Ask for random keys until killed, and say what was put."""
    pick = random.Random(seed)
    counts = {"read": 0, "written": 0, "wrong": 0, "refused": 0}
    last = time.monotonic()
    with Cache(directory, memory_bytes=1_000_000) as cache:

        async def one() -> None:
            key = f"entry-{pick.randrange(entries)}"
            entry = await cache.aget(key)
            if entry is None:
                if await cache.aput(key, value_of(key), cost=0.25, kind="chat"):
                    counts["written"] += 1
                    print(f"put {key}", flush=True)
                else:
                    counts["refused"] += 1
                return
            counts["read"] += 1
            if entry.value != value_of(key) or entry.cost != 0.25:
                counts["wrong"] += 1
                print(f"wrong {key}", flush=True)

        while True:
            await asyncio.gather(*(one() for _ in range(20)))
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                print(f"counts {json.dumps(counts)}", flush=True)


class Worker:
    """A process that works on the cache, with what it says going to a file."""

    def __init__(self, directory: Path, seed: int, entries: int) -> None:
        self.said = directory.parent / f"said-{seed}"
        self.failed = directory.parent / f"failed-{seed}"
        command = [sys.executable, __file__, "--work", str(directory), "--seed", str(seed), "--entries", str(entries)]
        with self.said.open("w") as out, self.failed.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=out, stderr=errors)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def lines(self) -> list[str]:
        """Whole lines: the last one may have been cut by the kill."""
        return [line.rstrip("\n") for line in self.said.open() if line.endswith("\n")]


def torture(directory: Path, processes: int, entries: int, most: float) -> bool:
    began = time.monotonic()
    seeds = iter(range(1_000_000))
    workers = [Worker(directory, next(seeds), entries) for _ in range(processes)]
    dead: list[Worker] = []
    chance = random.Random(0)
    target = int(entries * 0.99)
    with Cache(directory) as cache:
        while (there := cache.info().entries) < target and time.monotonic() - began < most:
            time.sleep(1)
            ended = [worker for worker in workers if worker.process.poll() is not None]
            if ended:
                print(f"   ended by itself: {ended[0].failed.read_text()}")
                break
            victim = workers.pop(chance.randrange(len(workers)))
            victim.kill()
            dead.append(victim)
            workers.append(Worker(directory, next(seeds), entries))
            if len(dead) % 10 == 0:
                print(f"   {time.monotonic() - began:4.0f} s: {len(dead)} killed, {there:,} entries", flush=True)
    for worker in workers:
        worker.kill()
    return judge(directory, dead + workers, len(dead), entries, time.monotonic() - began)


def judge(directory: Path, workers: list[Worker], killed: int, entries: int, seconds: float) -> bool:
    totals = {"read": 0, "written": 0, "wrong": 0, "refused": 0}
    put: set[str] = set()
    wrong = 0
    errors = [text for worker in workers if (text := worker.failed.read_text())]
    for worker in workers:
        latest: dict[str, int] = {}
        for line in worker.lines():
            verb, _, rest = line.partition(" ")
            if verb == "put":
                put.add(rest)
            elif verb == "wrong":
                wrong += 1
            else:
                latest = json.loads(rest)
        for name, count in latest.items():
            totals[name] += count
    with Cache(directory) as cache:
        info = cache.info()
        found: dict[str, Any] = {}
        keys = [f"entry-{number}" for number in range(entries)]
        for start in range(0, entries, 1000):
            found |= cache.get_many(keys[start : start + 1000])
        assert cache._disk is not None
        sound = cache._disk.file.run(lambda db: db.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]
    wrong += sum(entry.value != value_of(key) for key, entry in found.items())
    lost = put - set(found)
    print(
        f"   {killed} of {len(workers)} processes killed in {seconds:.0f} s; {len(found):,} entries,"
        f" {info.file_bytes / 1e6:.0f} MB; read {totals['read']:,}, written {len(put):,}\n"
        f"   wrong answers: {wrong}; lost writes: {len(lost)}; refused writes: {totals['refused']};"
        f" exceptions: {len(errors)}; damaged files: {len(info.damaged)}; file sound: {sound}"
    )
    for text in errors[:3]:
        print(text)
    return not (wrong or lost or errors or info.damaged) and sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=1800, help="give up after so long")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        asyncio.run(work(options.work, options.seed, options.entries))
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{options.processes} processes, {options.entries:,} entries, {os.cpu_count()} cores", flush=True)
        fine = torture(Path(temporary) / "cache", options.processes, options.entries, options.seconds)
    print("   fine" if fine else "   NOT FINE")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
