"""async-batch-llm: `process_prompts` with its model for OpenAI-compatible servers, answers in memory.

`concurrency` is the one knob that it documents for workers and connections; a limit is `max_requests_per_minute`. After
a refusal it pauses for five minutes unless told otherwise, and for what the provider's Retry-After says at least: here
for just that, without its slow start, which suits it best where the provider tells the time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import measuring
from async_batch_llm import ProcessorConfig, RateLimitConfig, llm, process_prompts


def ask(job: dict[str, Any]) -> measuring.Rows:
    del job

    def run(base: str, prompts: list[str], in_flight: int, rpm: float | None) -> int:
        strategy = llm("openai-compatible:gpt-4.1-mini", base_url=base, api_key="sk-fake")
        pause = RateLimitConfig(cooldown_seconds=0.0, slow_start_items=0)
        config = ProcessorConfig(concurrency=in_flight, max_requests_per_minute=rpm, rate_limit=pause)
        batch = asyncio.run(process_prompts(strategy, prompts, config=config))
        return sum(result.success for result in batch.results)

    return run


measuring.rows(ask)
