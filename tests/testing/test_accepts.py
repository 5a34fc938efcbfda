"""What providers accept: requests that they take and refuse, in their words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from bulkllm import _litellm
from bulkllm.errors import ConfigError
from bulkllm.testing import FakeProvider
from bulkllm.testing.dialects.accepts import check, providers
from bulkllm.testing.dialects.base import RequestError

# pydantic says so of LiteLLM's own types, whenever it first builds them
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


def post(server: FakeProvider, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"anthropic-version": "2023-06-01"})
        answer = connection.getresponse()
        raw = answer.read()
        return answer.status, raw.decode() if raw.startswith(b"data:") else json.loads(raw)
    finally:
        connection.close()


THINKING = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000}


@pytest.mark.parametrize(
    ("provider", "model", "told", "refused"),
    [
        ("openai", "gpt-4.1", {"max_tokens": 5, "temperature": 0.2}, None),
        ("openai", "gpt-5-mini", {"max_completion_tokens": 5, "temperature": 1, "reasoning_effort": "minimal"}, None),
        ("openai", "gpt-5-mini", {"max_tokens": 5}, "Use 'max_completion_tokens' instead"),
        ("openai", "o3", {"max_tokens": 5}, "Use 'max_completion_tokens' instead"),
        ("openai", "gpt-5-mini", {"temperature": 0.2}, r"Only the default \(1\) value"),
        ("openai", "gpt-6-luna", {"temperature": 0.2, "reasoning_effort": "none"}, None),
        ("openai", "gpt-6-luna", {"temperature": 0.2, "reasoning_effort": "low"}, r"Only the default \(1\) value"),
        ("openai", "gpt-4.1", {"temperature": 2.1}, "'temperature' may not be 2.1"),
        ("openai", "gpt-4.1", {"temperature": "hot"}, "'temperature' may not be 'hot'"),
        ("openai", "gpt-4.1", {"reasoning_effort": "low"}, "reasoning_effort"),
        ("openai", "gpt-5-mini", {"reasoning_effort": "none"}, "may not be 'none'"),
        ("openai", "gpt-4.1", {"thinking": {}}, "unknown parameter: 'thinking'"),
        ("anthropic", "claude-haiku-4-5", THINKING, None),
        ("anthropic", "claude-haiku-4-5", THINKING | {"max_tokens": 2000}, "less than max_tokens"),
        ("anthropic", "claude-haiku-4-5", {"thinking": {"type": "enabled", "budget_tokens": 1000}}, "at least 1024"),
        ("anthropic", "claude-haiku-4-5", THINKING | {"temperature": 0.5}, "temperature may only be set to 1"),
        ("anthropic", "claude-haiku-4-5", THINKING | {"temperature": 1}, None),
        ("anthropic", "claude-haiku-4-5", THINKING | {"tool_choice": {"type": "any"}}, "forces tool use"),
        ("anthropic", "claude-haiku-4-5", {"temperature": 1.5}, "'temperature' may not be 1.5"),
        ("anthropic", "claude-haiku-4-5", {"thinking": {"type": "adaptive"}}, "adaptive thinking is not supported"),
        ("anthropic", "claude-opus-5-5", THINKING, "thinking.type.adaptive"),
        ("anthropic", "claude-opus-5-5", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, None),
        ("anthropic", "claude-opus-5-5", {"reasoning_effort": "low"}, "unknown parameter: 'reasoning_effort'"),
        ("gemini", "gemini-2.5-pro", {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, "may not be 0"),
        ("gemini", "gemini-2.5-pro", {"generationConfig": {"thinkingConfig": {"thinkingBudget": -1}}}, None),
        ("gemini", "gemini-2.5-flash", {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, None),
        ("gemini", "gemini-2.5-pro", {"generationConfig": {"thinkingConfig": {"thinkingLevel": "low"}}}, "is not sup"),
        ("gemini", "gemini-4-argon",
         {"generationConfig": {"thinkingConfig": {"thinkingLevel": "low", "thinkingBudget": 5}}}, "one of thinking"),
        ("openrouter", "x/y", {"reasoning": {"effort": "low"}}, None),
        ("openrouter", "x/y", {"reasoning": {"effort": "low", "max_tokens": 5}}, "Only one of"),
        ("deepseek", "deepseek-v4-pro", {"reasoning_effort": "max"}, "needs thinking"),
        ("deepseek", "deepseek-v4-pro", {"reasoning_effort": "max", "thinking": {"type": "enabled"}}, None),
        ("xai", "grok-4.20-non-reasoning", {"reasoning_effort": "low"}, "does not support"),
    ],
)  # fmt: skip
def test_what_a_provider_takes_and_refuses(
    provider: str, model: str, told: dict[str, Any], refused: str | None
) -> None:
    if refused is None:
        check(provider, "chat", model, told)
    else:
        with pytest.raises(RequestError, match=refused):
            check(provider, "chat", model, told)


def test_the_answer_is_a_400_in_the_providers_shape_and_counts_as_rejected(server: FakeProvider) -> None:
    before = server.report().statuses.get(400, 0)
    body = {"model": "gpt-5-mini", "messages": MESSAGES, "max_tokens": 5}
    assert post(server, "/v1/chat/completions", body)[0] == 200, "without a provider in the path nobody's rules hold"
    status, told = post(server, "/as/openai/v1/chat/completions", body)
    assert (status, told["error"]["param"], told["error"]["type"]) == (400, "max_tokens", "invalid_request_error")
    body = {"model": "claude-opus-5-5", "messages": MESSAGES, **THINKING}
    status, told = post(server, "/as/anthropic/v1/messages", body)
    assert (status, told["type"], told["error"]["type"]) == (400, "error", "invalid_request_error")
    assert server.report().statuses[400] == before + 2


def test_responses_have_fields_of_their_own(server: FakeProvider) -> None:
    body = {"model": "gpt-5-mini", "input": "Hello", "max_output_tokens": 9}
    assert post(server, "/as/openai/v1/responses", body)[0] == 200
    assert post(server, "/as/openai/v1/responses", body | {"reasoning_effort": "low"})[0] == 400


def test_a_provider_that_nobody_knows(server: FakeProvider) -> None:
    assert post(server, "/as/nobody/v1/chat/completions", {"model": "m", "messages": MESSAGES})[0] == 404
    with pytest.raises(ConfigError, match="nothing is known of what 'nobody' accepts; there are: anthropic"):
        server.base_of("nobody")


def test_every_provider_and_rule_of_the_file_is_whole() -> None:
    judges = {"refused", "one_of", "least", "most", "below"}
    known = judges | {"provider", "models", "field", "when", "unless", "beside", "says"}
    for name, provider in providers().items():
        assert provider.fields[""], name
        for rule in provider.rules:
            assert rule.keys() <= known, rule
            assert rule.keys() & judges, rule
            top = rule["field"].split(".")[0]
            assert any(top in fields for fields in provider.fields.values()), rule


@pytest.mark.parametrize("stream", [False, True])
def test_gemini_is_spoken(stream: bool, server: FakeProvider) -> None:
    litellm = _litellm.load()
    answer = litellm.completion(
        model="gemini/gemini-2.5-flash", messages=MESSAGES, max_tokens=7, stream=stream,
        api_base=server.base_of("gemini"), api_key="sk-fake",
    )  # fmt: skip
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    assert len(answer.choices[0].message.content) > 5
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7
    assert answer.usage.prompt_tokens > 0


def test_cohere_is_spoken_and_its_streams_are_refused(server: FakeProvider) -> None:
    litellm = _litellm.load()
    options = {"model": "cohere_chat/command-a-03-2025", "messages": MESSAGES, "max_tokens": 7,
               "api_base": server.base_of("cohere_chat"), "api_key": "sk-fake"}  # fmt: skip
    answer = litellm.completion(**options)
    assert len(answer.choices[0].message.content) > 5
    assert answer.usage.completion_tokens == 7
    body = {"model": "command-a-03-2025", "messages": MESSAGES, "stream": True}
    assert post(server, "/as/cohere_chat/v2/chat", body)[1]["error"]["param"] == "stream"


def test_gemini_s_own_paths_are_there_without_anybodys_rules(server: FakeProvider) -> None:
    contents = [{"role": "user", "parts": [{"text": "Hello"}]}]
    status, told = post(server, "/v1beta/models/any:generateContent", {"contents": contents, "unknown": 1})
    assert (status, told["modelVersion"], told["candidates"][0]["finishReason"]) == (200, "any", "STOP")
    assert post(server, "/v1beta/models/any:generateContent", {"contents": []})[0] == 400
    status, events = post(server, "/v1beta/models/any:streamGenerateContent", {"contents": contents})
    assert status == 200
    assert events.count("finishReason") == 1
