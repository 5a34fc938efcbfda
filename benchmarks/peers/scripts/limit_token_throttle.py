"""token-throttle: buckets of any metrics, kept in memory here; what was not used is given back."""

from __future__ import annotations

import measuring
from token_throttle import MemoryBackendBuilder, PerModelConfig, Quota, RateLimiter, UsageQuotas


def limiter_of(period: int, **limits: int) -> RateLimiter:
    quotas = UsageQuotas([Quota(metric=name, limit=limit, per_seconds=period) for name, limit in limits.items()])
    return RateLimiter(PerModelConfig(quotas=quotas), backend=MemoryBackendBuilder())


def usage(input_tokens: int, output_tokens: int) -> dict[str, float]:
    return {
        "requests": 1, "tokens": input_tokens + output_tokens,
        "input_tokens": input_tokens, "output_tokens": output_tokens,
    }  # fmt: skip


def contender() -> measuring.Contender:
    limiter = limiter_of(60, **dict.fromkeys(usage(0, 0), measuring.PLENTY))
    estimated = usage(measuring.ESTIMATED_INPUT, measuring.ESTIMATED_OUTPUT)
    real = usage(measuring.REAL_INPUT, measuring.REAL_OUTPUT)

    async def contend(count: int) -> None:
        for _ in range(count):
            async with limiter.reserve(estimated, model=measuring.MODEL) as handle:
                handle.set_actual_usage(real)

    return contend


def caller(limit: int, period: int) -> measuring.Call:
    limiter = limiter_of(period, requests=limit)

    async def call() -> None:
        async with limiter.reserve({"requests": 1}, model=measuring.MODEL) as handle:
            handle.set_actual_usage({"requests": 1})

    return call


measuring.limiter(contender, caller)
