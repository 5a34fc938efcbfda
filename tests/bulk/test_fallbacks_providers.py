"""Who is told a row's key and address when another model is asked in its own one's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bulkllm.bulk import BulkRequest, run
from bulkllm.bulk.fallbacks import alternatives
from bulkllm.models import LLMConfig

PLACE = {"api_base": "http://first/v1", "api_key": "sk-first"}


def told(model: str, fallback: Any, **options: Any) -> Mapping[str, Any]:
    """What a fallback is told of a row of this model."""
    body = {"model": model, **PLACE, "temperature": 0, **options}
    request = BulkRequest(0, None, b"", b"", "completion", model, None, body, {}, None)
    (other,) = alternatives([fallback])
    return other.request(request).body


@pytest.mark.parametrize(
    ("model", "fallback", "options"),
    [
        ("gpt-4.1", "claude-sonnet-4-5", {}),
        ("claude-sonnet-4-5", "gpt-4.1", {}),
        ("openai/gpt-4.1", "claude-sonnet-4-5", {}),
        ("gpt-4.1", "xai/c", {}),
        ("our-own", "gpt-4.1", {}),
        ("gpt-4.1", "our-own", {}),
        ("our-own", "our-other", {}),
        ("gpt-4.1", {"model": "gpt-4o", "custom_llm_provider": "azure"}, {}),
        ("gpt-4.1", {"model": "gpt-4.1", "custom_llm_provider": "azure"}, {}),
        ("gpt-4.1", "gpt-4o", {"custom_llm_provider": "azure"}),
        ("our-own", {"model": "our-other", "custom_llm_provider": "groq"}, {"custom_llm_provider": "openai"}),
        ("openai/a", LLMConfig(slug="theirs", model="claude-sonnet-4-5"), {}),
        ("openai/a", {"model": "openai/b", "api_base": "http://second/v1"}, {}),
    ],
)
def test_another_provider_is_not_told_them(model: str, fallback: Any, options: dict[str, Any]) -> None:
    body = told(model, fallback, **options, aws_secret_access_key="aws-first", extra_headers={"x-key": "first"})
    assert "first" not in repr(body)
    assert body["temperature"] == 0
    its_own = fallback if isinstance(fallback, dict) else {}
    assert body.get("custom_llm_provider") == its_own.get("custom_llm_provider")


@pytest.mark.parametrize(
    ("model", "fallback", "options"),
    [
        ("gpt-4.1", "openai/gpt-4o", {}),
        ("openai/gpt-4o", "gpt-4.1", {}),
        ("gpt-4.1", "gpt-4o", {}),
        ("openai/our-own", "openai/our-other", {}),
        ("our-own", "our-own", {}),
        ("our-own", {"model": "our-own", "temperature": 1}, {"custom_llm_provider": "openai"}),
        ("our-own", {"model": "our-other", "custom_llm_provider": "openai"}, {"custom_llm_provider": "openai"}),
        ("our-own", "openai/our-other", {"custom_llm_provider": "openai"}),
    ],
)
def test_the_same_provider_is_told_them(model: str, fallback: Any, options: dict[str, Any]) -> None:
    body = told(model, fallback, **options)
    assert {name: body[name] for name in PLACE} == PLACE


def test_no_key_goes_to_another_provider_in_a_run(calls: Any, error: Any) -> None:
    async def ask(request: BulkRequest) -> Any:
        keys[request.model] = request.body.get("api_key")
        if request.model == "gpt-4.1":
            raise error("InternalServerError", 503)
        return await calls(request)

    keys: dict[str, Any] = {}
    result = run(
        ["hi"], call=ask, model="gpt-4.1", api_key="sk-openai", fallbacks=["claude-sonnet-4-5"], progress=False
    )
    assert result.ok == 1
    assert keys == {"gpt-4.1": "sk-openai", "claude-sonnet-4-5": None}
