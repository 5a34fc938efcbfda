"""bespokelabs-curator: `curator.LLM` called with the prompts; it keeps requests and answers in files, as bulkllm does.

Its limits are set out of the way; without limits it would take defaults of its own. The job says by which backend. It
counts tokens with an encoding that would come from the network, and which LiteLLM brings along.
"""

from __future__ import annotations

import os
from importlib.metadata import distribution
from typing import Any

import measuring


def ask(job: dict[str, Any]) -> measuring.Rows:
    os.environ["CURATOR_DISABLE_RICH_DISPLAY"] = "1"
    os.environ["TIKTOKEN_CACHE_DIR"] = str(distribution("litellm").locate_file("litellm/litellm_core_utils/tokenizers"))
    from bespokelabs import curator

    backend = job["backend"]
    model = "gpt-4.1-mini" if backend == "openai" else "openai/gpt-4.1-mini"

    def run(base: str, prompts: list[str], in_flight: int, rpm: float | None) -> int:
        llm = curator.LLM(
            model_name=model, backend=backend,
            backend_params={
                "base_url": base, "api_key": "sk-fake", "max_concurrent_requests": in_flight,
                "max_requests_per_minute": measuring.PLENTY if rpm is None else int(rpm),
                "max_tokens_per_minute": measuring.PLENTY, "require_all_responses": False,
            },
        )  # fmt: skip
        return len(llm(prompts).dataset)

    return run


measuring.rows(ask)
