"""aiolimiter: a leaky bucket of one dimension, with nothing to report afterwards."""

from __future__ import annotations

import measuring
from aiolimiter import AsyncLimiter


def contender() -> measuring.Contender:
    limiter = AsyncLimiter(measuring.PLENTY, 60)

    async def contend(count: int) -> None:
        for _ in range(count):
            await limiter.acquire()

    return contend


def caller(limit: int, period: int) -> measuring.Call:
    limiter = AsyncLimiter(limit, period)

    async def call() -> None:
        await limiter.acquire()

    return call


measuring.limiter(contender, caller)
