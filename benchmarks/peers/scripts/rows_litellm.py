"""Bare LiteLLM behind a semaphore: what peers that are built on it stand on, on their Python and at their version."""

from __future__ import annotations

import asyncio
from typing import Any

import measuring


def ask(job: dict[str, Any]) -> measuring.Rows:
    del job
    from litellm import acompletion  # noqa: TID251 - there is no bulkllm here to load it

    async def every(base: str, prompts: list[str], in_flight: int) -> int:
        semaphore = asyncio.Semaphore(in_flight)

        async def one(prompt: str) -> Any:
            async with semaphore:
                return await acompletion(
                    "openai/gpt-4.1-mini", [{"role": "user", "content": prompt}], api_base=base, api_key="sk-fake"
                )

        return len(await asyncio.gather(*map(one, prompts)))

    def run(base: str, prompts: list[str], in_flight: int, rpm: float | None) -> int:
        del rpm  # it has no limit
        return asyncio.run(every(base, prompts, in_flight))

    return run


measuring.rows(ask)
