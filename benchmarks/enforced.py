"""How close calls come to what a provider allows, and how often they are refused on the way.

    python benchmarks/enforced.py                 # the short scenes: some 8 minutes
    python benchmarks/enforced.py bucket sliding  # these only
    python benchmarks/enforced.py --all           # those of several minutes too
    python benchmarks/enforced.py bucket sliding --peers   # beside packages with a rate limiter: some 7 minutes

The provider is `bulkllm.testing.FakeProvider` in a process of its own and enforces its limits; the calls go through
`bulkllm.Client.acompletion` and LiteLLM. Each scene tells the seconds it took beside the least that the limit allows,
and the share of requests that were refused. One scene at a time, for they are bound by time, and by this machine only
where hundreds of requests are due at once: what LiteLLM takes for those stands beside it (a call is 3 to 6 ms of CPU).

The peers (`peers/`) play the scenes in which limit and window are known: they are told the limit, and none of them can
be told the window. Each has an environment and a process of its own, and is warmed up on another server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ["BULKLLM_STATE_DIR"] = tempfile.mkdtemp(prefix="bulkllm-benchmark-")  # what is learned stays here

from peers import environments

from bulkllm import Client, Profile, RateLimit, RateLimiter, _litellm, register_profile
from bulkllm.testing import FakeProvider

PEERS = ("lm-deluge", "async-batch-llm", "infermesh")
PEERS_SCENES = ("bucket", "sliding")
REPLY_TOKENS = (5, 20)
MODEL = "openai/fake-model"
LATENCY = 0.3
IN_FLIGHT = 100
RPM = 600
FIRST = 900


@dataclass(frozen=True)
class Scene:
    """What the provider enforces, what the client was told, and how long it must take at least."""

    says: str
    server: dict[str, Any]
    told: Sequence[RateLimit]
    ideal: float
    requests: int = FIRST
    foreign: float = 0.0
    changes: Sequence[tuple[float, float]] = ()  # after so many seconds the server allows so many requests a minute
    long: bool = False
    max_tokens: int | None = None


def limit(rpm: float = RPM, **more: Any) -> list[RateLimit]:
    return [RateLimit("openai/*", rpm=rpm, **more)]


HALVED = ((60.0, RPM / 2), (120.0, RPM))
SLIDING = {"rpm": RPM, "window": "sliding"}
SCENES = {
    "bucket": Scene("bucket, limit and window known", {"rpm": RPM}, limit(window="bucket"), 30.3),
    "sliding": Scene("sliding window, limit and window known", SLIDING, limit(window="sliding"), 60.3),
    "bucket?": Scene("bucket, window not known", {"rpm": RPM}, limit(), 30.3),
    "sliding?": Scene("sliding window, window not known", SLIDING, limit(), 60.3),
    "headers": Scene("bucket, limit not known, headers sent", {"rpm": RPM}, [], 30.3),
    "headers-sliding": Scene("sliding window, limit not known, headers sent", SLIDING, [], 60.3, long=True),
    "wrong": Scene("bucket of 300, told 600", {"rpm": 300}, limit(), 120.3, long=True),
    "halved": Scene(
        "bucket that is halved after a minute and whole again after two, limit not known, headers sent",
        {"rpm": RPM}, [], 180.3, 2100, changes=HALVED, long=True,
    ),
    "halved-silent": Scene(
        "the same, no headers", {"rpm": RPM, "headers": None}, [], 180.3, 2100, changes=HALVED, long=True
    ),
    "silent": Scene("bucket, limit not known, no headers", {"rpm": RPM, "headers": None}, [], 150.3, 2100, long=True),
    "tokens": Scene(
        "120,000 tokens a minute by max_tokens of 200, answers far shorter, a profile says so",
        {"tpm": 120_000, "charge": "max_tokens"}, [RateLimit("openai/*", tpm=120_000)], 30.3, max_tokens=200,
    ),
    "foreign": Scene("bucket, somebody else uses 40 %", {"rpm": RPM}, limit(window="bucket"), 50.3, foreign=4.0),
}  # fmt: skip


async def use_some(server: Any, rate: float) -> None:
    """Somebody else, with the same quota."""
    other = Client(RateLimiter(learn=False))
    tasks = set()
    while True:
        call = other.acompletion(MODEL, [{"role": "user", "content": "mine"}], num_retries=0, **where(server))
        task = asyncio.ensure_future(asyncio.wait_for(call, 60))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / rate)


async def change(server: Any, changes: Sequence[tuple[float, float]]) -> None:
    """The provider thinks otherwise."""
    began = time.perf_counter()
    for after, rpm in changes:
        await asyncio.sleep(began + after - time.perf_counter())
        await asyncio.to_thread(server.set_limits, rpm=rpm)


def where(server: Any) -> dict[str, Any]:
    return {"api_base": server.openai_base, "api_key": "sk-fake"}


def serving(scene: Scene) -> Any:
    return FakeProvider.spawn(latency=LATENCY, reply_tokens=REPLY_TOKENS, **scene.server)


async def play(scene: Scene) -> tuple[float, int, int]:
    """Seconds, refusals, failures."""
    with serving(scene) as server:
        if scene.max_tokens is not None:
            host = server.url.removeprefix("http://")
            register_profile(Profile(name="charges max_tokens", hosts=[host], charges="max_tokens", window="bucket"))
        client = Client(RateLimiter(scene.told))
        options = where(server) | ({} if scene.max_tokens is None else {"max_tokens": scene.max_tokens})
        numbers = iter(range(scene.requests))
        failures = 0

        async def work() -> None:
            nonlocal failures
            for number in numbers:
                try:
                    await client.acompletion(MODEL, [{"role": "user", "content": f"question {number}"}], **options)
                except Exception as error:  # noqa: BLE001 - counted and told
                    failures += 1
                    print(f"  {type(error).__name__}: {error}")

        others = [asyncio.ensure_future(change(server, scene.changes))]
        if scene.foreign:
            others.append(asyncio.ensure_future(use_some(server, scene.foreign)))
        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        took = time.perf_counter() - began
        for other in others:
            other.cancel()
        return took, client.usage.total.refused, failures


async def play_alone(scene: Scene) -> float:
    """Seconds that LiteLLM itself takes for a window's first requests, and for the rest at the moment they leave it."""
    litellm: Any = _litellm.load()
    with FakeProvider.spawn(latency=LATENCY, reply_tokens=REPLY_TOKENS) as server:  # nobody counts: it is told
        numbers = iter(range(scene.requests))
        sent: list[float] = []

        async def work() -> None:
            for number in numbers:
                if number >= RPM:
                    await asyncio.sleep(sent[number - RPM] + 60 - time.perf_counter())
                sent.append(time.perf_counter())
                await litellm.acompletion(MODEL, [{"role": "user", "content": f"question {number}"}], **where(server))

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - began


def play_peer(peers: environments.Peers, name: str, scene: Scene) -> tuple[float, int, int] | None:
    """Seconds, refusals, failures of a peer's."""
    with serving(scene) as server, FakeProvider.spawn() as warm:
        told = peers.run(
            name, base=server.openai_base, warm_base=warm.openai_base, rows=scene.requests, in_flight=IN_FLIGHT,
            rpm=RPM, series="question",
        )  # fmt: skip
        return None if told is None else (told["seconds"], server.report().refused, scene.requests - told["done"])


def tell(name: str, scene: Scene, played: tuple[float, int, int], says: str) -> None:
    took, refused, failures = played
    print(
        f"{name:<16} {took:6.1f} s, at least {scene.ideal:5.1f} s ({took / scene.ideal - 1:+.1%}), "
        f"{refused} refused ({refused / scene.requests:.2%}), {failures} lost: {says}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", choices=[*SCENES, []], metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--all", action="store_true", help="those of several minutes too")
    environments.add_options(parser, PEERS)
    options = parser.parse_args()
    peers = environments.chosen(options)
    chosen = options.scenes or [name for name, scene in SCENES.items() if options.all or not scene.long]
    with FakeProvider() as warm:  # LiteLLM's first call takes a second
        asyncio.run(
            Client(RateLimiter(learn=False)).acompletion(MODEL, [{"role": "user", "content": "x"}], **where(warm))
        )
    for name in chosen:
        scene = SCENES[name]
        tell(name, scene, asyncio.run(play(scene)), scene.says)
        if name == "sliding":
            took = asyncio.run(play_alone(scene))
            print(f"{'':16} {took:6.1f} s ({took / scene.ideal - 1:+.1%}): LiteLLM alone, told when each may go")
        for peer in list(peers.present) if name in PEERS_SCENES else []:
            played = play_peer(peers, peer, scene)
            if played is not None:
                tell(name, scene, played, peers.present[peer].label)


if __name__ == "__main__":
    main()
