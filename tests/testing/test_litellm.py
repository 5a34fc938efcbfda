"""The dialects as LiteLLM reads them: answers, usage, headers, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bulkllm.testing import FakeClock, FakeProvider, Fault
from bulkllm.testing.text import count_text

# pydantic says this once, when LiteLLM first builds a stream's chunk; LiteLLM takes it for a failed call if it raises.
pytestmark = pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning")

PROMPT = [{"role": "user", "content": "Tell me about rivers."}]
PROMPT_TOKENS = 3 + 4 + 6
DIALECTS = ["openai", "anthropic", "azure"]


def options(dialect: str, server: FakeProvider) -> dict[str, Any]:
    told: dict[str, Any] = {
        "model": f"{dialect}/fake-model",
        "api_base": server.openai_base if dialect == "openai" else server.url,
        "api_key": "sk-fake",
        "num_retries": 0,
        "max_retries": 0,
    }
    return told | ({"api_version": "2024-10-21"} if dialect == "azure" else {})


@pytest.fixture(scope="module")
def server() -> Iterator[FakeProvider]:
    faults = [
        Fault("status", status=429, match="[429]", retry_after="1.5"),
        *(Fault("status", status=status, match=f"[{status}]") for status in (400, 401, 404, 408, 500, 503)),
        Fault("quota", match="[quota]"),
        Fault("reset", match="[reset]"),
        Fault("truncate", match="[truncate]"),
        Fault("cut_stream", match="[cut]"),
        Fault("stream_error", match="[error]", status=500),
    ]
    with FakeProvider(rpm=100_000, tpm=1_000_000, itpm=500_000, otpm=500_000, seed=1, faults=faults) as running:
        yield running


@pytest.fixture
async def closed_clients(litellm: Any) -> AsyncIterator[None]:
    """LiteLLM keeps HTTP sessions for each event loop; here the loop ends with the test."""
    yield
    await litellm.close_litellm_async_clients()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_completion_has_its_text_and_its_usage(litellm: Any, server: FakeProvider, dialect: str) -> None:
    response = litellm.completion(messages=PROMPT, **options(dialect, server))
    text = response.choices[0].message.content
    assert response.choices[0].finish_reason == "stop"
    assert response.usage.prompt_tokens == PROMPT_TOKENS
    assert response.usage.completion_tokens == count_text(text) >= 20
    cut = litellm.completion(messages=PROMPT, max_tokens=3, **options(dialect, server))
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (text[:12], "length")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_is_the_same_text_and_ends_with_usage(litellm: Any, server: FakeProvider, dialect: str) -> None:
    whole = litellm.completion(messages=PROMPT, **options(dialect, server))
    stream = litellm.completion(
        messages=PROMPT, stream=True, stream_options={"include_usage": True}, **options(dialect, server)
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS, count_text(text))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_both_without_blocking(litellm: Any, server: FakeProvider, dialect: str, closed_clients: None) -> None:
    whole = await litellm.acompletion(messages=PROMPT, **options(dialect, server))
    stream = await litellm.acompletion(messages=PROMPT, stream=True, **options(dialect, server))
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert whole.usage.completion_tokens == count_text(text)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_rate_limit_headers_arrive(litellm: Any, server: FakeProvider) -> None:
    def headers(dialect: str) -> dict[str, str]:
        response = litellm.completion(messages=PROMPT, **options(dialect, server))
        return dict(response._hidden_params["additional_headers"])

    openai = headers("openai")
    assert openai["llm_provider-x-ratelimit-limit-requests"] == "100000"
    assert openai["llm_provider-x-ratelimit-reset-requests"].endswith("ms")
    anthropic = headers("anthropic")
    assert anthropic["llm_provider-anthropic-ratelimit-input-tokens-limit"] == "500000"
    assert anthropic["llm_provider-anthropic-ratelimit-output-tokens-reset"].endswith("Z")
    assert headers("azure")["llm_provider-x-ratelimit-reset-tokens"] == "1"


def test_anthropics_cache_usage_arrives(litellm: Any) -> None:
    block = {"type": "text", "text": "word" * 100, "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "system", "content": [block]}, *PROMPT]
    with FakeProvider() as server:
        first, second = (litellm.completion(messages=messages, **options("anthropic", server)).usage for _ in range(2))
        *_, last = litellm.completion(
            messages=messages, stream=True, stream_options={"include_usage": True}, **options("anthropic", server)
        )
    assert (first.cache_creation_input_tokens, first.cache_read_input_tokens) == (103, 0)
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens) == (0, 103)
    assert (last.usage.cache_creation_input_tokens, last.usage.cache_read_input_tokens) == (0, 103)
    assert {first.prompt_tokens, second.prompt_tokens, last.usage.prompt_tokens} == {103 + 10}
    assert second.prompt_tokens_details.cached_tokens == 103


@pytest.mark.parametrize("dialect", DIALECTS)
def test_structured_output_fits(litellm: Any, server: FakeProvider, dialect: str) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    response = litellm.completion(messages=PROMPT, response_format=shape, **options(dialect, server))
    assert isinstance(json.loads(response.choices[0].message.content)["n"], int)


def test_embeddings_responses_and_text_completions(litellm: Any, server: FakeProvider) -> None:
    vectors = litellm.embedding(input=["one", "two"], **options("openai", server))
    assert [len(entry["embedding"]) for entry in vectors.data] == [16, 16]
    assert vectors.usage.prompt_tokens == 2
    azure = litellm.embedding(input=["one", "two"], **options("azure", server))
    assert azure.data[1]["embedding"] == pytest.approx(vectors.data[1]["embedding"], abs=1e-5)

    # Of a model that LiteLLM does not know it does not ask for a stream, and makes one up out of a whole answer.
    known = options("openai", server) | {"model": "openai/gpt-4o-mini"}
    told = litellm.responses(input="hello", **known)
    text = told.output[0].content[0].text
    assert (told.usage.input_tokens, told.usage.output_tokens) == (3 + 4 + 2, count_text(text))
    events = list(litellm.responses(input="hello", stream=True, **known))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert events[-1].type == "response.completed"
    assert len(events) == 8 + count_text(text)

    completed = litellm.text_completion(prompt="Once upon", max_tokens=4, **options("openai", server))
    assert (len(completed.choices[0].text), completed.choices[0].finish_reason) == (16, "length")
    assert completed.usage.completion_tokens == 4


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("400", "BadRequestError"),
        ("401", "AuthenticationError"),
        ("404", "NotFoundError"),
        ("408", "Timeout"),
        ("429", "RateLimitError"),
        ("503", "ServiceUnavailableError"),
    ],
)
def test_statuses_become_litellms_exceptions(
    litellm: Any, server: FakeProvider, dialect: str, fault: str, name: str
) -> None:
    before = server.report().requests
    with pytest.raises(getattr(litellm, name)) as caught:
        litellm.completion(messages=[{"role": "user", "content": f"[{fault}]"}], **options(dialect, server))
    assert caught.value.status_code == int(fault)
    if fault == "429":
        assert dict(caught.value.litellm_response_headers)["retry-after"] == "1.5"
    assert server.report().requests == before + 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", ["500", "reset", "truncate"])
def test_what_breaks_becomes_an_error_of_the_server_or_the_connection(
    litellm: Any, server: FakeProvider, dialect: str, fault: str
) -> None:
    errors = (litellm.InternalServerError, litellm.APIConnectionError, litellm.APIError)
    with pytest.raises(errors) as caught:
        litellm.completion(messages=[{"role": "user", "content": f"[{fault}]"}], **options(dialect, server))
    assert caught.value.status_code == 500


def test_an_account_without_money(litellm: Any, server: FakeProvider) -> None:
    asked = [{"role": "user", "content": "[quota]"}]
    with pytest.raises(litellm.RateLimitError, match="exceeded your current quota"):
        litellm.completion(messages=asked, **options("openai", server))
    with pytest.raises(litellm.BadRequestError, match="credit balance is too low"):
        litellm.completion(messages=asked, **options("anthropic", server))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", ["cut", "error"])
def test_a_stream_that_breaks_raises_after_what_was_sent(
    litellm: Any, server: FakeProvider, dialect: str, fault: str
) -> None:
    got: list[str] = []
    stream = litellm.completion(
        messages=[{"role": "user", "content": f"[{fault}]"}], stream=True, **options(dialect, server)
    )
    with pytest.raises((litellm.ServiceUnavailableError, litellm.APIConnectionError, litellm.InternalServerError)):
        got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert server.report().streams_cut >= 1


def test_a_limit_becomes_a_rate_limit_error_with_its_hint(litellm: Any) -> None:
    with FakeProvider(rpm=1, clock=FakeClock()) as server:
        for dialect in DIALECTS:
            server.reset()
            litellm.completion(messages=PROMPT, **options(dialect, server))
            with pytest.raises(litellm.RateLimitError) as caught:
                litellm.completion(messages=PROMPT, **options(dialect, server))
            assert dict(caught.value.litellm_response_headers)["retry-after"] == "60"
            assert server.report().refused == 1


def test_a_wrong_key_is_an_authentication_error(litellm: Any) -> None:
    with FakeProvider(keys=["sk-good"]) as server:
        for dialect in DIALECTS:
            litellm.completion(messages=PROMPT, **options(dialect, server) | {"api_key": "sk-good"})
            with pytest.raises(litellm.AuthenticationError):
                litellm.completion(messages=PROMPT, **options(dialect, server))
        assert server.report().rejected == 3


async def test_the_server_knows_how_far_a_reader_came(litellm: Any, closed_clients: None) -> None:
    with FakeProvider(reply="1234" * 500, time_per_token=0.02) as server:
        stream = await litellm.acompletion(messages=PROMPT, stream=True, **options("openai", server))
        read = 0
        async for chunk in stream:
            read += bool(chunk.choices[0].delta.content)
            if read == 5:
                break
        await stream.aclose()
        for _ in range(500):
            if server.report().in_flight == 0:
                break
            await asyncio.sleep(0.01)
        report = server.report()
    assert (report.abandoned, report.streams_cut) == (1, 1)
    assert 5 <= report.output_tokens < 400
