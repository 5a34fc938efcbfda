"""Every packaged preset: held against the installed LiteLLM, and sent through it to a server that reads the request.

The server takes what that provider would take and refuses the rest; what it understood of the reasoning has to be what
the preset wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bulkllm import _litellm
from bulkllm.models import LLMConfig, Registry

# pydantic says so of LiteLLM's own types, whenever it first builds them
pytestmark = [
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    pytest.mark.usefixtures("recent_litellm"),
]

PRESETS = Registry(config_dir="/nonexistent", cache_dir="/nonexistent").presets()

_PLAIN = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p"}
_MORE = {
    "openrouter": {"reasoning", "usage"},
    "deepseek": {"thinking", "reasoning_effort"},
    "zai": {"thinking", "reasoning_effort"},
    "perplexity": set[str](),
    "minimax": set[str](),
}


class Refused(Exception):
    """What the provider would answer with status 400."""


def read_openai_shape(provider: str, body: dict[str, Any]) -> str:
    """The effort that an OpenAI-shaped provider reads out of a request, or "default"."""
    unknown = body.keys() - _PLAIN - _MORE.get(provider, {"reasoning_effort", "verbosity"})
    if unknown:
        raise Refused(f"unknown parameters: {sorted(unknown)}")
    if provider == "openrouter":
        told = body.get("reasoning", {})
        return "none" if told.get("enabled") is False else str(told.get("effort", "default"))
    thinking = body.get("thinking", {}).get("type")
    if thinking == "disabled":
        return "none"
    if provider == "deepseek" and "reasoning_effort" in body and thinking != "enabled":
        raise Refused("an effort without thinking")
    return str(body.get("reasoning_effort", "default"))


def read_anthropic(body: dict[str, Any]) -> str:
    unknown = body.keys() - {"model", "messages", "max_tokens", "thinking", "output_config", "system", "temperature"}
    if unknown:
        raise Refused(f"unknown parameters: {sorted(unknown)}")
    thinking = body.get("thinking", {})
    if thinking.get("type") == "disabled":
        return "none"
    if thinking.get("type") == "enabled":
        if not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
            raise Refused("the budget must lie between 1,024 and max_tokens")
        return f"budget {thinking['budget_tokens']}"
    return str(body.get("output_config", {}).get("effort", "default"))


def read_gemini(body: dict[str, Any]) -> str:
    told = body.get("generationConfig", {}).get("thinkingConfig", {})
    if "thinkingLevel" in told:
        return str(told["thinkingLevel"])
    if "thinkingBudget" in told:  # LiteLLM's budgets for the levels, which Gemini 2.5 wants
        return {0: "none", 1024: "low", 2048: "medium", 4096: "high"}[told["thinkingBudget"]]
    return "default"


def read(provider: str, path: str, body: dict[str, Any]) -> str:
    if path.endswith("/messages"):
        return read_anthropic(body)
    if path.endswith(":generateContent"):
        return read_gemini(body)
    if path.endswith("/responses"):
        return str(body.get("reasoning", {}).get("effort", "default"))
    return read_openai_shape(provider, body)


def answer_to(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """An answer in the shape that belongs to the path."""
    if path.endswith("/messages"):
        text = [{"type": "text", "text": "hi"}]
        usage = {"input_tokens": 1, "output_tokens": 1}
        return {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": text,
                "stop_reason": "end_turn", "usage": usage}  # fmt: skip
    if path.endswith(":generateContent"):
        content = {"role": "model", "parts": [{"text": "hi"}]}
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        return {"candidates": [{"content": content, "finishReason": "STOP"}], "usageMetadata": usage}
    if path.endswith("/v2/chat"):
        tokens = {"input_tokens": 1, "output_tokens": 1}
        message = {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}
        return {"id": "c", "finish_reason": "COMPLETE", "message": message,
                "usage": {"tokens": tokens, "billed_units": tokens}}  # fmt: skip
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
            "service_tier": "default", "usage": usage}  # fmt: skip


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    module = _litellm.load()
    logger = logging.getLogger("LiteLLM")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield module
    logger.setLevel(level)


@pytest.mark.parametrize(
    "base", [preset for preset in PRESETS.values() if preset.variant_of is None], ids=lambda p: p.slug
)
def test_a_preset_and_its_variants_reach_the_provider_as_meant(
    base: LLMConfig, litellm: Any, registry: Registry, serve: Callable[..., Any]
) -> None:
    provider = base.model.split("/", 1)[0]
    understood: list[str] = []

    def answer(seen: Any) -> tuple[int, Any, dict[str, str]]:
        try:
            understood.append(read(provider, seen.path, seen.body))
        except Refused as refusal:
            return 400, {"error": {"message": str(refusal)}}, {}
        return 200, answer_to(seen.path, seen.body), {}

    server = serve(answer)
    api_base = {"anthropic": server.url, "gemini": server.url, "cohere_chat": f"{server.url}/v2/chat"}
    for preset in [base, *(preset for preset in PRESETS.values() if preset.variant_of == base.slug)]:
        understood.clear()
        keywords = preset.completion_kwargs()
        litellm.completion(
            **keywords,
            messages=preset.with_system_prompt("Say hi."),
            api_base=api_base.get(provider, f"{server.url}/v1"),
            api_key="sk-loopback",
            num_retries=0,
            max_retries=0,
            timeout=20,
        )
        if isinstance(preset.thinking, int):
            assert understood == [f"budget {preset.thinking}"], preset.slug
        else:
            assert understood == [preset.reasoning_effort or "default"], preset.slug
    body = server.seen[-1].body
    assert base.model.split("/", 1)[1] in (body.get("model"), server.seen[-1].path.split("/")[-1].split(":")[0])


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
