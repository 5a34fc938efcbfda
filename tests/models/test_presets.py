"""Every packaged preset: held against the installed LiteLLM, and sent in one run to the fake provider.

The fake provider takes what each preset's own provider would take and refuses the rest; what that provider would read
out of the request has to be what the preset wanted.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bulkllm import Client
from bulkllm.models import LLMConfig, Registry
from bulkllm.testing import FakeProvider

# pydantic says so of LiteLLM's own types, whenever it first builds them
pytestmark = [
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    pytest.mark.usefixtures("recent_litellm"),
]

PRESETS = Registry(config_dir="/nonexistent", cache_dir="/nonexistent").presets()
_BUDGETS = {0: "none", 1024: "low", 2048: "medium", 4096: "high"}  # LiteLLM's for the levels, which Gemini 2.5 wants


def understood(body: dict[str, Any]) -> str:
    """The effort that a provider reads out of a request, or "default"."""
    if "contents" in body:
        told = body.get("generationConfig", {}).get("thinkingConfig", {})
        return str(told.get("thinkingLevel") or _BUDGETS.get(told.get("thinkingBudget"), "default"))
    thinking = body.get("thinking", {})
    if thinking.get("type") == "disabled" or body.get("reasoning", {}).get("enabled") is False:
        return "none"
    if "budget_tokens" in thinking:
        return f"budget {thinking['budget_tokens']}"
    for part in (body.get("output_config", {}), body.get("reasoning", {})):
        if "effort" in part:
            return str(part["effort"])
    return str(body.get("reasoning_effort", "default"))


def test_all_presets_in_one_run_are_accepted_and_understood() -> None:
    seen: dict[str, dict[str, Any]] = {}
    lock = threading.Lock()

    def reply(body: dict[str, Any]) -> str:
        [slug] = [slug for slug in PRESETS if f"<{slug}>" in str(body)]
        with lock:
            seen[slug] = body
        return "hi"

    def row(preset: LLMConfig, server: FakeProvider) -> dict[str, Any]:
        own = {"api_base": server.base_of(preset.model.split("/", 1)[0]), "api_key": "sk-loopback"}
        return {"custom_id": preset.slug, "prompt": f"I am <{preset.slug}>.", **preset.completion_kwargs(), **own}

    with FakeProvider(reply=reply) as server:
        result = Client().run([row(preset, server) for preset in PRESETS.values()], progress=False)
        report = server.report()
    refused = {row.custom_id: str(row.error) for row in result if not row.ok}
    assert refused == {}
    assert (result.ok, report.requests, set(report.statuses)) == (len(PRESETS), len(PRESETS), {200})
    for slug, preset in PRESETS.items():
        wanted = f"budget {preset.thinking}" if isinstance(preset.thinking, int) else preset.reasoning_effort
        assert understood(seen[slug]) == (wanted or "default"), slug
        assert seen[slug]["model"] == preset.model.split("/", 1)[1], slug


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.slug)
def test_a_preset_is_true_to_the_installed_litellm(preset: LLMConfig, registry: Registry) -> None:
    info = registry.get(preset.model)
    assert info.mode in ("chat", "responses")
    assert not info.is_deprecated(registry.today())
    assert info.price is not None
    assert info.company is not None
    if preset.reasoning_effort == "none":  # the map seldom says that thinking can be off, but that it cannot
        assert not info.thinking_always_on
    elif preset.reasoning_effort is not None:
        assert preset.reasoning_effort in info.reasoning_efforts
    if preset.thinking is not None:
        assert info.reasoning
    if preset.temperature is not None:
        assert info.sampling is not False
    if preset.max_tokens is not None and info.max_output_tokens is not None:
        assert preset.max_tokens <= info.max_output_tokens


def test_presets_say_the_provider_so_that_an_older_litellm_can_call_them_too() -> None:
    assert all("/" in preset.model for preset in PRESETS.values())


def test_variants_follow_their_preset() -> None:
    slugs = list(PRESETS)
    assert slugs.index("gpt-6-luna-none") == slugs.index("gpt-6-luna") + 1
    assert PRESETS["gpt-6-luna-high"].variant_of == "gpt-6-luna"
    assert PRESETS["gpt-6-luna-high"].model == PRESETS["gpt-6-luna"].model
