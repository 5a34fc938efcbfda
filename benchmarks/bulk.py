"""What a bulk run costs: rows a second and CPU a row, beside bare LiteLLM behind a semaphore, on one loopback server.

    python benchmarks/bulk.py                      # beside bare LiteLLM: some 30 seconds
    python benchmarks/bulk.py --peers              # beside other packages too, each in an environment of its own
    python benchmarks/bulk.py --peers infermesh lm-deluge --rounds 3

Each round runs all of them, bulkllm and bare LiteLLM in this process, each peer in a process of its own (`peers/`), in
an order that is turned round from round to round, with garbage collected in between and each warmed up before; the
figure is the geometric mean of the rounds. Each peer is used as its documentation says for many prompts and a base URL,
with no limit in the way and as many requests in flight as the others.

The bare run and most peers keep the answers in memory and write nothing; bulkllm writes a results file, flushed to the
disk every second, and curator files of requests and answers. Packages that are not built on LiteLLM send their HTTP
themselves, and are here to show what LiteLLM costs. infermesh runs on the same LiteLLM as bulkllm, but on CPython 3.12,
and curator on a LiteLLM of its own choice: bare LiteLLM runs in both places too.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

os.environ["BULKLLM_STATE_DIR"] = tempfile.mkdtemp(prefix="bulkllm-benchmark-")  # what is learned stays here

from peers import environments
from peers.scripts import measuring

import bulkllm
from bulkllm import _litellm
from bulkllm.testing import SpawnedProvider

MODEL = "openai/gpt-4.1-mini"
PEERS = (
    "litellm-of-infermesh", "infermesh", "litellm-of-curator", "curator-litellm", "curator", "async-batch-llm",
    "lm-deluge",
)  # fmt: skip
# Bare LiteLLM on the Python and at the version of those that are built on it.
STANDS_ON = {
    "bulkllm.arun": "LiteLLM and a semaphore",
    "infermesh": "litellm-of-infermesh",
    "curator-litellm": "litellm-of-curator",
}
Way = Callable[[str, list[str], int], Awaitable[int]]


async def bare(base: str, prompts: list[str], in_flight: int) -> int:
    """What people write themselves."""
    litellm: Any = _litellm.load()
    semaphore = asyncio.Semaphore(in_flight)

    async def one(prompt: str) -> Any:
        async with semaphore:
            return await litellm.acompletion(
                MODEL, [{"role": "user", "content": prompt}], api_base=base, api_key="sk-fake"
            )

    return len(await asyncio.gather(*map(one, prompts)))


async def ours(base: str, prompts: list[str], in_flight: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        result = await bulkllm.arun(
            prompts, model=MODEL, output=Path(folder) / "out.jsonl", on_error="raise", progress=False,
            max_in_flight=in_flight, client=bulkllm.Client(), api_base=base, api_key="sk-fake",
        )  # fmt: skip
        return result.ok


WAYS: dict[str, Way] = {"bulkllm.arun": ours, "LiteLLM and a semaphore": bare}


async def measured(way: Way, base: str, prompts: list[str], in_flight: int) -> dict[str, Any]:
    watch = measuring.Stopwatch()
    done = await way(base, prompts, in_flight)
    if done != len(prompts):
        raise SystemExit(f"{way.__name__}: {done} of {len(prompts)} rows")
    return {**watch.read(), "done": done}


async def rounds(
    base: str, options: argparse.Namespace, peers: environments.Peers
) -> dict[str, list[tuple[float, float]]]:
    """Of each that came through: rows a second and milliseconds of CPU a row, for each round."""
    for way in WAYS.values():  # connections, imports
        await way(base, measuring.prompts("warm", measuring.WARM_UP_ROWS), options.in_flight)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in [*WAYS, *peers.present]}
    for number in range(options.rounds):
        for name in list(seen) if number % 2 else list(reversed(seen)):
            told: dict[str, Any] | None
            series = f"{name}, round {number}"
            if name in WAYS:
                prompts = measuring.prompts(series, options.rows)
                told = await measured(WAYS[name], base, prompts, options.in_flight)
            else:
                told = await asyncio.to_thread(
                    peers.run, name, base=base, warm_base=base, rows=options.rows, in_flight=options.in_flight,
                    rpm=None, series=series,
                )  # fmt: skip
                if told is not None and told["done"] != options.rows:
                    peers.leave_out(name, f"{told['done']} of {options.rows} rows")
            if told is not None:
                seen[name].append((told["done"] / told["seconds"], 1000 * told["cpu"] / told["done"]))
    return {name: seen[name] for name in [*WAYS, *peers.present]}


def mean(values: list[float]) -> float:
    return math.nan if not values else statistics.geometric_mean(values)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--in-flight", type=int, default=64)
    environments.add_options(parser, PEERS)
    options = parser.parse_args()
    peers = environments.chosen(options)
    with SpawnedProvider() as server:
        seen = await rounds(server.openai_base, options, peers)
    print(f"{options.rounds} rounds of {options.rows} rows, {options.in_flight} in flight; of bulkllm.arun's:")
    mine = seen["bulkllm.arun"]
    labels = {name: name for name in WAYS} | {name: peer.label for name, peer in peers.present.items()}
    cpu = {name: mean([one for _, one in rows]) for name, rows in seen.items()}
    for name, rows in seen.items():
        rate = mean([one for one, _ in rows])
        by_time = mean([a[0] / b[0] for a, b in zip(rows, mine, strict=True)])
        by_cpu = mean([b[1] / a[1] for a, b in zip(rows, mine, strict=True)])
        print(
            f"  {labels[name]:28} {rate:7.0f} rows/s  {cpu[name]:6.2f} ms CPU a row   {by_time:6.2f} of its throughput,"
            f" {by_cpu:6.2f} by CPU time"
        )
    for name, below in STANDS_ON.items():
        if name in cpu and below in cpu:
            print(f"  {labels[name]} costs {cpu[name] - cpu[below]:.2f} ms CPU a row more than {labels[below]}")
    pairs = list(zip(mine, seen["LiteLLM and a semaphore"], strict=True))
    by_time_of_bare = [a[0] / b[0] for a, b in pairs]
    print(
        f"bulkllm.arun reaches {mean(by_time_of_bare):.3f} of bare LiteLLM's throughput"
        f" (rounds: {min(by_time_of_bare):.2f} to {max(by_time_of_bare):.2f}),"
        f" {mean([b[1] / a[1] for a, b in pairs]):.3f} by CPU time (wanted: 0.9)"
    )


if __name__ == "__main__":
    asyncio.run(main())
