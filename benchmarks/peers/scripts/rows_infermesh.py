"""infermesh: `LMClient.generate_batch`, built on LiteLLM, answers in memory."""

from __future__ import annotations

from typing import Any

import measuring
from infermesh import LMClient


def ask(job: dict[str, Any]) -> measuring.Rows:
    del job

    def run(base: str, prompts: list[str], in_flight: int, rpm: float | None) -> int:
        limit = None if rpm is None else int(rpm)
        with LMClient(
            model="openai/gpt-4.1-mini", api_base=base, api_key="sk-fake", max_parallel_requests=in_flight, rpm=limit
        ) as client:
            batch = client.generate_batch(prompts)
        return sum(result is not None for result in batch)

    return run


measuring.rows(ask)
