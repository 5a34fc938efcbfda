"""How fast the rate limiter is when nobody waits, and how exact it is when thousands do.

    python benchmarks/limiter.py                      # reservations, then 2,000 waiters: some 20 seconds
    python benchmarks/limiter.py --peers              # beside other limiters, each in an environment of its own
    python benchmarks/limiter.py --peers aiolimiter   # beside one of them
    python benchmarks/limiter.py --long               # 14,000 waiters too: 80 seconds more, for each peer likewise
    python benchmarks/limiter.py --rounds 0           # the waiters only

The first half reserves and reconciles against limits that never hold anybody up. The contenders take turns, in the
opposite order each other round, with the garbage collected between, each peer in a process of its own (`peers/`); told
is the geometric mean of the rounds. Rates and ratios are by CPU time, which a busy machine spoils less; on a quiet one
they are those of the clock. aiolimiter knows one dimension and has nothing to reconcile; the other peers are given the
same four dimensions as bulkllm.

The second half lets tasks queue up for a limit, all at once. Everybody may start a whole period's quota at once and
gets the rest as it comes back; the older namesake counts the trailing period exactly, so the least that it can take
for a minute's limit is more.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
from dataclasses import dataclass
from typing import Any

from peers import environments
from peers.scripts import measuring
from peers.scripts.measuring import ESTIMATED_INPUT, ESTIMATED_OUTPUT, MODEL, PLENTY, REAL_INPUT, REAL_OUTPUT

from bulkllm.limits import RateLimit, RateLimiter

# How many operations of a peer make a round: some hundredths of a second to a few seconds.
PEERS = {"aiolimiter": 20_000, "older": 5_000, "token-throttle": 1_000}
# Of the peer's rate, what bulkllm is to reach in four dimensions.
WANTED = {"aiolimiter": 0.2, "older": 5.0, "token-throttle": 60.0}
TRAILING = ("older",)


@dataclass(frozen=True)
class Scene:
    """So many waiters for a limit of so many requests in a period of so many seconds."""

    waiters: int
    limit: int
    period: int
    long: bool = False

    def ideal(self, *, trailing: bool = False) -> float:
        """The least seconds that the limit allows, where it is a bucket or counts the trailing period."""
        rest = self.waiters - self.limit
        return math.ceil(rest / self.limit) * self.period if trailing else rest * self.period / self.limit


SCENES = (Scene(2_000, 200, 1), Scene(14_000, 200, 1, long=True), Scene(14_000, 12_000, 60, long=True))


def limiter(dimensions: int) -> RateLimiter:
    """One limit that never holds anybody up."""
    if dimensions == 1:
        return RateLimiter(RateLimit("openai/*", rpm=PLENTY))
    return RateLimiter(RateLimit("openai/*", rpm=PLENTY, tpm=PLENTY, itpm=PLENTY, otpm=PLENTY))


def in_threads_way(dimensions: int) -> measuring.Contender:
    limits = limiter(dimensions)

    async def contend(count: int) -> None:
        for _ in range(count):
            with limits.reserve(MODEL, input_tokens=ESTIMATED_INPUT, output_tokens=ESTIMATED_OUTPUT) as reservation:
                reservation.reconcile(input_tokens=REAL_INPUT, output_tokens=REAL_OUTPUT)

    return contend


def in_tasks_way(dimensions: int) -> measuring.Contender:
    limits = limiter(dimensions)

    async def contend(count: int) -> None:
        for _ in range(count):
            async with limits.reserve(
                MODEL, input_tokens=ESTIMATED_INPUT, output_tokens=ESTIMATED_OUTPUT
            ) as reservation:
                reservation.reconcile(input_tokens=REAL_INPUT, output_tokens=REAL_OUTPUT)

    return contend


def by_request(scene: Scene) -> measuring.Call:
    limits = RateLimiter(RateLimit(rpm=scene.limit, period=scene.period, window="bucket"))

    async def call() -> None:
        async with limits.reserve(MODEL):
            pass

    return call


def uncontended(rounds: int, count: int, peers: environments.Peers) -> None:
    ours = {
        "bulkllm, 1 dimension, with": in_threads_way(1),
        "bulkllm, 1 dimension, async with": in_tasks_way(1),
        "bulkllm, 4 dimensions, with": in_threads_way(4),
        "bulkllm, 4 dimensions, async with": in_tasks_way(4),
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in [*ours, *peers.present]}
    for number in range(rounds):
        for name in list(seen) if number % 2 else list(reversed(seen)):
            told: dict[str, Any] | None
            operations = count if name in ours else PEERS[name]
            if name in ours:
                told = asyncio.run(measuring.uncontended(ours[name], operations))
            else:
                told = peers.run(name, what="uncontended", count=operations)
            if told is not None:
                seen[name].append((operations / told["seconds"], operations / told["cpu"]))
    print(f"reserve and reconcile, nobody waits, {rounds} rounds:")
    rates = {}
    for name in [*ours, *peers.present]:
        by_clock, rates[name] = (statistics.geometric_mean(row[at] for row in seen[name]) for at in (0, 1))
        says = name if name in ours else peers.present[name].label
        print(f"  {says:<36} {by_clock:>10,.0f} a second {rates[name]:>10,.0f} a second of CPU")
    for name in peers.present:
        for mine in list(ours)[2:]:
            ratio = rates[mine] / rates[name]
            print(f"  {mine}: {ratio:.3g} times the rate of {peers.present[name].label} (wanted: {WANTED[name]:g})")


def contended(scene: Scene, peers: environments.Peers) -> None:
    print(f"{scene.waiters:,} waiters at once for {scene.limit:,} in {scene.period} s:", flush=True)
    tell("bulkllm", scene.ideal(), asyncio.run(measuring.queue(by_request(scene), scene.waiters)))
    for name, peer in list(peers.present.items()):
        told = peers.run(name, what="queue", limit=scene.limit, period=scene.period, waiters=scene.waiters)
        if told is not None:
            tell(peer.label, scene.ideal(trailing=name in TRAILING), told)


def tell(name: str, ideal: float, told: dict[str, Any]) -> None:
    took, worked = told["seconds"], told["cpu"]
    print(
        f"  {name:<24} {took:7.2f} s, at least {ideal:5.1f} s ({took / ideal - 1:+8.2%}), {worked:6.2f} s of CPU "
        f"({worked / took:6.1%} of one core), {'in order' if told['in_order'] else 'OUT OF ORDER'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="of the first half; 0 leaves it out")
    parser.add_argument("--count", type=int, default=20_000, help="operations of bulkllm in a round")
    parser.add_argument("--no-waiters", action="store_true", help="leave the second half out")
    parser.add_argument("--long", action="store_true", help="14,000 waiters too")
    environments.add_options(parser, list(PEERS))
    options = parser.parse_args()
    peers = environments.chosen(options)
    if options.rounds:
        uncontended(options.rounds, options.count, peers)
    for scene in SCENES:
        if not options.no_waiters and (options.long or not scene.long):
            contended(scene, peers)


if __name__ == "__main__":
    main()
