"""How a peer is measured: the same for each, in the peer's own process and, for limiters, in ours.

What may live here: the clocks and the line of JSON, with the standard library only, for this runs in any environment.
A script's job is JSON on its command line; what the peer prints by itself goes to standard error.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

PLENTY = 10**12  # of anything in a minute: a limit that never holds anybody up
MODEL = "openai/gpt-5-mini"
# What a reservation is made for, and what comes back.
ESTIMATED_INPUT, ESTIMATED_OUTPUT, REAL_INPUT, REAL_OUTPUT = 900, 300, 870, 120
WARM_UP_ROWS = 50

Contender = Callable[[int], Awaitable[None]]
Call = Callable[[], Awaitable[None]]
Rows = Callable[[str, list[str], int, float | None], int]


class Stopwatch:
    """Seconds, and seconds of this process's CPU, since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._began, self._worked = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, Any]:
        return {"seconds": time.perf_counter() - self._began, "cpu": time.process_time() - self._worked}


async def uncontended(contend: Contender, count: int) -> dict[str, Any]:
    """So many operations, one after the other, with nobody else about."""
    await contend(count // 10)
    watch = Stopwatch()
    await contend(count)
    return watch.read()


async def queue(call: Call, waiters: int) -> dict[str, Any]:
    """So many tasks that wait at once, and whether they were served in the order in which they came."""
    served: list[int] = []

    async def one(number: int) -> None:
        await call()
        served.append(number)

    watch = Stopwatch()
    await asyncio.gather(*(one(number) for number in range(waiters)))
    return {**watch.read(), "in_order": served == list(range(waiters))}


def limiter(contender: Callable[[], Contender], caller: Callable[[int, int], Call]) -> None:
    """The script of a rate limiter.

    Args:
        contender: makes what reserves and reports so many times, under limits that never hold it up.
        caller: makes what waits for one request, under a limit of so many in so many seconds.
    """
    job, tell = _job()

    async def work() -> dict[str, Any]:
        if job["what"] == "uncontended":
            return await uncontended(contender(), job["count"])
        return await queue(caller(job["limit"], job["period"]), job["waiters"])

    tell(asyncio.run(work()))


def rows(ask: Callable[[dict[str, Any]], Rows]) -> None:
    """The script of a package that runs prompts.

    Args:
        ask: given the job, makes what sends prompts to the base URL, so many in flight at most and so many a minute
            (None: no limit), and tells how many were answered.
    """
    job, tell = _job()
    run = ask(job)
    run(job["warm_base"], prompts("warm", WARM_UP_ROWS), job["in_flight"], None)  # imports, encodings, first calls
    watch = Stopwatch()
    done = run(job["base"], prompts(job["series"], job["rows"]), job["in_flight"], job["rpm"])
    tell({**watch.read(), "done": done})


def prompts(series: str, count: int) -> list[str]:
    """So many prompts; those of another series are others."""
    return [f"{series}: say something about the number {number}, in one sentence." for number in range(count)]


def _job() -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
    """The job, and what answers it; from here on standard output is standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(told: dict[str, Any]) -> None:
        answers.write(json.dumps(told))
        answers.close()

    return json.loads(sys.argv[1]), tell
