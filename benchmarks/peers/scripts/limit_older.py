"""The package that has our name on the public index: another one, older, by others. See peers.toml.

Its ``rpm`` and its like are numbers in ``window_seconds``, and it counts the trailing window exactly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import measuring
from bulkllm.rate_limiter import ModelRateLimit, RateLimiter

import bulkllm

if not Path(bulkllm.__file__).is_relative_to(sys.prefix):
    raise SystemExit(f"this is not the older namesake: {bulkllm.__file__}")


def contender() -> measuring.Contender:
    plenty = measuring.PLENTY
    limit = ModelRateLimit(model_names=[measuring.MODEL], rpm=plenty, tpm=plenty, itpm=plenty, otpm=plenty)
    limiter = RateLimiter([limit])

    async def contend(count: int) -> None:
        for _ in range(count):
            context = await limiter.reserve_capacity(
                measuring.MODEL, measuring.ESTIMATED_INPUT, measuring.ESTIMATED_OUTPUT
            )
            async with context:
                await context.record_usage(measuring.REAL_INPUT, measuring.REAL_OUTPUT)

    return contend


def caller(limit: int, period: int) -> measuring.Call:
    limiter = RateLimiter([ModelRateLimit(model_names=[measuring.MODEL], rpm=limit, window_seconds=period)])

    async def call() -> None:
        context = await limiter.reserve_capacity(measuring.MODEL, 0, 0)
        async with context:
            await context.record_usage(0, 0)

    return call


measuring.limiter(contender, caller)
