"""The installed LiteLLM's own transformations of providers' answers, read by our normaliser."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from bulkllm import _litellm
from bulkllm.accounting import Usage

# LiteLLM's types warn about themselves when the first of them is made; none of it is ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")

ANTHROPIC_FIRST = {
    "input_tokens": 21,
    "cache_creation_input_tokens": 1800,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 1800, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 393,
    "service_tier": "standard",
}
ANTHROPIC_SECOND = {**ANTHROPIC_FIRST, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1800}
XAI = {
    "prompt_tokens": 32,
    "completion_tokens": 9,
    "total_tokens": 135,
    "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 94, "audio_tokens": 0},
    "num_sources_used": 0,
}


def of(module: str, name: str) -> Any:
    _litellm.load()
    return getattr(importlib.import_module(f"litellm.{module}"), name)


def anthropic(usage: dict[str, Any], thought: str | None = None) -> Any:
    config = of("llms.anthropic.chat.transformation", "AnthropicConfig")()
    return config.calculate_usage(usage_object=usage, reasoning_content=thought)


def gemini(metadata: dict[str, Any], **candidate: Any) -> Any:
    config = of("llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini", "VertexGeminiConfig")
    return config._calculate_usage({"usageMetadata": metadata, "candidates": [candidate]})


def bedrock(usage: dict[str, Any]) -> Any:
    config = of("llms.bedrock.chat.converse_transformation", "AmazonConverseConfig")()
    transform = getattr(config, "transform_usage", None) or config._transform_usage  # its name up to 1.85
    return transform(usage)


def answer(usage: dict[str, Any]) -> dict[str, Any]:
    message = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]}
    return {**body, "usage": usage}


def openai_like(usage: dict[str, Any]) -> Any:
    module = "litellm_core_utils.llm_response_utils.convert_dict_to_response"
    convert = of(module, "convert_to_model_response_object")
    empty = of("types.utils", "ModelResponse")()
    return convert(response_object=answer(usage), model_response_object=empty).usage


def xai(usage: dict[str, Any]) -> Any:
    httpx = importlib.import_module("httpx")

    class Log:
        def post_call(self, **_: object) -> None: ...

    return (
        of("llms.xai.chat.transformation", "XAIChatConfig")()
        .transform_response(
            model="grok-4",
            raw_response=httpx.Response(200, json=answer(usage)),
            model_response=of("types.utils", "ModelResponse")(),
            logging_obj=Log(),
            request_data={},
            messages=[],
            optional_params={},
            litellm_params={},
            encoding=None,
        )
        .usage
    )


def responses(usage: dict[str, Any]) -> Any:
    return of("types.llms.openai", "ResponseAPIUsage")(**usage)


def responses_as_chat(usage: dict[str, Any]) -> Any:
    transform = of("responses.utils", "ResponseAPILoggingUtils")
    return transform._transform_response_api_usage_to_chat_usage(responses(usage))


RESPONSES = {
    "input_tokens": 328,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens": 52,
    "output_tokens_details": {"reasoning_tokens": 40},
    "total_tokens": 380,
}
CASES: dict[str, tuple[Callable[[], Any], Usage]] = {
    "Anthropic, first call": (lambda: anthropic(ANTHROPIC_FIRST), Usage(1821, 393, cache_write_tokens=1800)),
    "Anthropic, second call": (lambda: anthropic(ANTHROPIC_SECOND), Usage(1821, 393, cache_read_tokens=1800)),
    "Bedrock": (
        lambda: bedrock(
            {
                "inputTokens": 12,
                "outputTokens": 56,
                "totalTokens": 1868,
                "cacheReadInputTokens": 1000,
                "cacheWriteInputTokens": 800,
            }
        ),
        Usage(1812, 56, cache_read_tokens=1000, cache_write_tokens=800),
    ),
    "Gemini, thoughts apart": (
        lambda: gemini(
            {
                "promptTokenCount": 100,
                "candidatesTokenCount": 50,
                "thoughtsTokenCount": 200,
                "totalTokenCount": 350,
            }
        ),
        Usage(100, 250, reasoning_tokens=200),
    ),
    "Gemini, thoughts inside": (
        lambda: gemini(
            {
                "promptTokenCount": 100,
                "candidatesTokenCount": 250,
                "thoughtsTokenCount": 200,
                "totalTokenCount": 350,
            }
        ),
        Usage(100, 250, reasoning_tokens=200),
    ),
    "Gemini, image, cached": (
        lambda: gemini(
            {
                "promptTokenCount": 1500,
                "candidatesTokenCount": 50,
                "totalTokenCount": 1550,
                "cachedContentTokenCount": 1000,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 1242},
                    {"modality": "IMAGE", "tokenCount": 258},
                ],
            }
        ),
        Usage(1500, 50, cache_read_tokens=1000, input_image_tokens=258),
    ),
    "xAI": (lambda: xai(XAI), Usage(32, 103, cache_read_tokens=6, reasoning_tokens=94)),
    "xAI behind an OpenAI-shaped proxy": (
        lambda: openai_like(XAI),
        Usage(32, 103, cache_read_tokens=6, reasoning_tokens=94),
    ),
    "DeepSeek": (
        lambda: openai_like(
            {
                "prompt_tokens": 90,
                "completion_tokens": 200,
                "total_tokens": 290,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 26,
            }
        ),
        Usage(90, 200, cache_read_tokens=64),
    ),
    "Responses API": (lambda: responses(RESPONSES), Usage(328, 52, cache_read_tokens=64, reasoning_tokens=40)),
    "Responses API as chat": (
        lambda: responses_as_chat(RESPONSES),
        Usage(328, 52, cache_read_tokens=64, reasoning_tokens=40),
    ),
    "embedding": (lambda: of("types.utils", "Usage")(prompt_tokens=8, total_tokens=8), Usage(8)),
}


@pytest.mark.parametrize("name", CASES)
def test_litellms_own_object_its_dict_and_its_json_mean_the_same(name: str) -> None:
    make, expected = CASES[name]
    told = make()
    assert Usage.from_litellm(told) == expected
    assert Usage.from_litellm(told.model_dump()) == expected
    assert Usage.from_litellm(json.loads(told.model_dump_json())) == expected


def test_what_gemini_searched_is_explained_where_litellm_tells_it_and_flagged_where_not() -> None:
    told = gemini(
        {
            "promptTokenCount": 100,
            "candidatesTokenCount": 50,
            "toolUsePromptTokenCount": 70,
            "totalTokenCount": 220,
        },
        groundingMetadata={"webSearchQueries": ["x"]},
    )
    explained = "tool_use_tokens" in told.prompt_tokens_details.model_dump()
    assert Usage.from_litellm(told) == (Usage(100, 50, unexplained_tokens=70, contradictory=not explained))


def test_estimated_thoughts_of_anthropic_stay_inside_the_output() -> None:
    usage = Usage.from_litellm(anthropic({"input_tokens": 10, "output_tokens": 300}, "let me see " * 20))
    assert (usage.input_tokens, usage.output_tokens) == (10, 300)
    assert 0 < usage.reasoning_tokens < 300


@pytest.mark.parametrize("first", [True, False])
def test_anthropics_stream_adds_up_to_the_same(first: bool) -> None:
    """Both chunks of an Anthropic stream that carry usage, folded by LiteLLM."""
    chunk_of = of("types.utils", "ModelResponseStream")
    choice, delta = of("types.utils", "StreamingChoices"), of("types.utils", "Delta")
    usage = anthropic(ANTHROPIC_FIRST if first else ANTHROPIC_SECOND)
    chunks = [
        chunk_of(id="x", model="m", choices=[choice(delta=delta(content="hi", role="assistant"))]),
        chunk_of(id="x", model="m", choices=[choice(finish_reason="stop", delta=delta())], usage=usage),
    ]
    whole = _litellm.load().stream_chunk_builder(chunks, messages=[{"role": "user", "content": "hello"}])
    assert Usage.from_litellm(whole.usage) == Usage.from_litellm(usage)
    assert Usage.from_litellm(whole.usage).input_tokens == 1821
