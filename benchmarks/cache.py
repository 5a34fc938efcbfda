"""What a hit costs: bulkllm's cache beside LiteLLM's own, and with a thousand entries beside a million.

    python benchmarks/cache.py                       # hits a second, ours and LiteLLM's
    python benchmarks/cache.py --entries 1000000     # and the same with a file of a million answers (3 GB, minutes)

LiteLLM's disk cache needs ``pip install diskcache`` and a LiteLLM before 1.109; where it is missing, its line says so.
LiteLLM's hits are mended first where this version breaks them. No request leaves the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from bulkllm import Client, _litellm
from bulkllm.caching import Cache, freeze_response, patch, request_key, thaw_response

MODEL = "openai/gpt-4o-mini"
ANSWER = "All work and no play makes a dull answer. " * 15
LITELLM_HOLDS = 200  # answers that LiteLLM's cache in memory holds

Ask = Callable[[list[dict[str, str]]], Awaitable[Any]]


def conversation(number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "You label support tickets with one of twelve labels, and with nothing else."},
        {"role": "user", "content": f"Ticket {number}: " + "the printer on the third floor is on fire again. " * 8},
    ]


def response() -> Any:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}
    usage = {"prompt_tokens": 120, "completion_tokens": 160, "total_tokens": 280}
    return _litellm.load().ModelResponse(id="chatcmpl-1", model="gpt-4o-mini", choices=[choice], usage=usage)


def key_of(messages: list[dict[str, str]]) -> str:
    key = request_key("completion", MODEL, None, {"messages": messages, "temperature": 0.0})
    assert key is not None
    return key


def fill(cache: Cache, count: int) -> None:
    frozen = freeze_response(response())
    assert frozen is not None
    for batch in itertools.batched(range(count), 2000) if hasattr(itertools, "batched") else _batches(count, 2000):
        cache.put_many({key_of(conversation(number)): (frozen, 0.001) for number in batch}, kind="chat")


def _batches(count: int, size: int) -> Any:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


async def rate(ask: Ask, numbers: Sequence[int], at_once: int) -> float:
    """Hits a second; the first few are not counted."""
    for number in numbers[:3]:
        await ask(conversation(number))
    waiting = iter([conversation(number) for number in numbers])

    async def worker() -> None:
        for messages in waiting:
            await ask(messages)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return len(numbers) / (time.perf_counter() - began)


def ours(cache: Cache) -> Ask:
    """What the flow of a call does on a hit, without the rest of it."""

    async def ask(messages: list[dict[str, str]]) -> Any:
        entry = await cache.aget(key_of(messages))
        assert entry is not None
        return thaw_response(entry.kind, entry.value)

    return ask


def through_client(cache: Cache) -> Ask:
    """The whole of ``bulkllm.acompletion``."""
    client = Client(cache=cache)

    async def ask(messages: list[dict[str, str]]) -> Any:
        return await client.acompletion(MODEL, messages, temperature=0.0, api_key="sk-fake")

    return ask


async def litellms(kind: str, numbers: Sequence[int]) -> Ask | None:
    """``litellm.acompletion`` with its own cache, filled; None where this LiteLLM does not have it."""
    litellm = _litellm.load()
    try:
        options = {"disk_cache_dir": tempfile.mkdtemp()} if kind == "disk" else {}
        litellm.cache = litellm.caching.caching.Cache(type=kind, **options)
    except (ImportError, ValueError) as error:
        print(f"   LiteLLM's {kind} cache: {type(error).__name__}: {str(error).splitlines()[0]}")
        return None

    async def ask(messages: list[dict[str, str]]) -> Any:
        return await litellm.acompletion(MODEL, messages, temperature=0.0, mock_response=ANSWER)

    for number in dict.fromkeys(numbers):
        await ask(conversation(number))
    await asyncio.sleep(0.5)  # it writes in the background
    assert (await ask(conversation(numbers[0])))._hidden_params.get("cache_hit") is True
    return ask


def line(name: str, pattern: str, hits: float) -> None:
    print(f"   {name:34} {pattern:38} {hits:9,.0f} hits/s", flush=True)


async def compare(directory: Path, hits: int) -> None:
    order = list(range(hits))
    mixed = random.Random(1).sample(order, hits)
    patterns = {"the same": [0] * hits, "in the old order": order, "in another order": mixed}
    with Cache(directory) as cache:
        fill(cache, hits)
    best: dict[str, float] = {}
    for name, make in (("bulkllm: key, read, thaw", ours), ("bulkllm.acompletion", through_client)):
        for (pattern, numbers), at_once in itertools.product(patterns.items(), (1, 100)):
            with Cache(directory) as cache:  # anew each time: nothing is in memory yet
                shown = f"{pattern}, {at_once} at once"
                best[shown] = await rate(make(cache), numbers, at_once)  # the whole call comes last, and counts
                line(name, shown, best[shown])
    few = list(range(LITELLM_HOLDS // 2))
    for kind in ("local", "disk"):
        ask = await litellms(kind, few)
        for at_once in (1, 100) if ask is not None else ():
            shown = f"in the old order, {at_once} at once"
            found = await rate(ask, few * 3, at_once)
            line(f"LiteLLM's {kind} cache", shown, found)
            if kind == "disk":
                print(f"   {shown}: {best[shown] / found:.1f} times LiteLLM's disk cache")


async def scale(directory: Path, sizes: Sequence[int], hits: int) -> None:
    for size in sizes:
        with Cache(directory / str(size), max_bytes=64 * 1024**3) as cache:
            began = time.perf_counter()
            there = cache.info().entries
            print(f"   {there:,} entries; info() took {time.perf_counter() - began:.2f} s", flush=True)
            if there < size:
                fill(cache, size)
                print(f"   filled to {size:,} in {time.perf_counter() - began:.0f} s", flush=True)
        numbers = random.Random(2).choices(range(size), k=hits)
        for at_once in (1, 100):
            with Cache(directory / str(size), max_bytes=64 * 1024**3, memory_bytes=0) as cache:
                found = await rate(ours(cache), numbers, at_once)
                line(f"{size:,} entries, none in memory", f"in another order, {at_once} at once", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hits", type=int, default=2000, help="in each measurement")
    parser.add_argument("--entries", type=int, help="how large a file to compare with one of a thousand entries")
    parser.add_argument("--directory", type=Path, help="where to keep the large file, to be used again")
    options = parser.parse_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    print(f"LiteLLM {_litellm.version()}, {patch()}")
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(compare(Path(temporary), options.hits))
        if options.entries:
            asyncio.run(scale(options.directory or Path(temporary), (1000, options.entries), options.hits))


if __name__ == "__main__":
    main()
