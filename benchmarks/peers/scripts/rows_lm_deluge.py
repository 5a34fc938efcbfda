"""lm-deluge: a model registered with the base URL, and `process_prompts_sync`, which keeps the answers in memory."""

from __future__ import annotations

from typing import Any

import measuring
from lm_deluge import LLMClient, SamplingParams
from lm_deluge.models import register_model


def ask(job: dict[str, Any]) -> measuring.Rows:
    del job

    def run(base: str, prompts: list[str], in_flight: int, rpm: float | None) -> int:
        model = f"fake-{base}"  # its registry keeps the base URL with the name
        register_model(id=model, name="gpt-4.1-mini", api_base=base, api_key_env_var="OPENAI_API_KEY")
        client = LLMClient(
            model, max_requests_per_minute=measuring.PLENTY if rpm is None else int(rpm),
            max_tokens_per_minute=measuring.PLENTY, max_concurrent_requests=in_flight,
            sampling_params=[SamplingParams()],
        )  # fmt: skip
        answers = client.process_prompts_sync(prompts, show_progress=False)
        return sum(answer is not None and not answer.is_error for answer in answers)

    return run


measuring.rows(ask)
