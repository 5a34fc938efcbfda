"""Streams and the cache: a finished one is kept, a kept answer is streamed, and half a stream is nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bulkllm
from bulkllm.testing import FakeProvider, Fault

MODEL = "openai/gpt-4.1-mini"
ASK = [{"role": "user", "content": "Tell me of caches."}]

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
LOGPROBS = {"content": [{"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []}], "refusal": None}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply_tokens=(20, 20)) as server:
        yield server


@pytest.fixture
def options(provider: FakeProvider) -> dict[str, Any]:
    return {"api_base": provider.openai_base, "api_key": "sk-fake"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[bulkllm.Client]:
    with bulkllm.Cache(tmp_path) as cache:
        yield bulkllm.Client(cache=cache)


def said(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("asked_for_usage", [False, True])
def test_a_finished_stream_is_kept_for_plain_calls_and_for_streams(
    client: bulkllm.Client, provider: FakeProvider, options: dict[str, Any], asked_for_usage: bool
) -> None:
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked_for_usage else {}
    stream = client.completion(MODEL, ASK, stream=True, **more, **options)
    text = said(stream)
    plain = client.completion(MODEL, ASK, **options)
    again = client.completion(MODEL, ASK, stream=True, **options)
    assert said(again) == text == plain.choices[0].message.content
    assert plain.choices[0].finish_reason == "stop"
    assert provider.report().requests == 1
    paid, whole, streamed = (bulkllm.record_of(one) for one in (stream, plain, again))
    assert paid.cost
    assert (paid.cached, whole.cached, streamed.cached) == (False, True, True)
    for hit in (whole, streamed):
        assert (hit.cost, hit.saved, hit.usage, hit.attempts) == (0.0, paid.cost, paid.usage, 0)
    assert plain.usage.completion_tokens == provider.report().output_tokens


async def test_so_it_is_in_a_task(client: bulkllm.Client, provider: FakeProvider, options: dict[str, Any]) -> None:
    stream = await client.acompletion(MODEL, ASK, stream=True, **options)
    text = said([chunk async for chunk in stream])
    again = await client.acompletion(MODEL, ASK, stream=True, **options)
    assert said([chunk async for chunk in again]) == text
    plain = await client.acompletion(MODEL, ASK, **options)
    assert plain.choices[0].message.content == text
    assert provider.report().requests == 1
    assert client.usage.total.cached == 2


def test_a_kept_stream_ends_without_a_usage_chunk_unless_it_was_asked_for(
    client: bulkllm.Client, provider: FakeProvider, options: dict[str, Any]
) -> None:
    list(client.completion(MODEL, ASK, stream=True, **options))
    quiet = list(client.completion(MODEL, ASK, stream=True, **options))
    told = list(client.completion(MODEL, ASK, stream=True, stream_options={"include_usage": True}, **options))
    assert all(getattr(chunk, "usage", None) is None for chunk in quiet)
    assert told[-1].usage.completion_tokens == 20
    assert provider.report().requests == 1


def test_what_the_caller_does_to_its_chunks_is_not_kept(client: bulkllm.Client, options: dict[str, Any]) -> None:
    text = ""
    for chunk in client.completion(MODEL, ASK, stream=True, **options):
        text += chunk.choices[0].delta.content or ""
        chunk.choices[0].delta.content = "spoilt"
        chunk.choices[0].finish_reason = "stop"
    assert client.completion(MODEL, ASK, **options).choices[0].message.content == text


def leave(stream: Any) -> None:
    next(stream)
    next(stream)


def close(stream: Any) -> None:
    leave(stream)
    stream.close()


@pytest.mark.parametrize("end", [leave, close])
def test_a_stream_that_is_left_half_way_is_not_kept(
    client: bulkllm.Client, provider: FakeProvider, options: dict[str, Any], end: Any
) -> None:
    end(client.completion(MODEL, ASK, stream=True, **options))
    assert client.cache is not None
    assert client.cache.info().entries == 0
    assert not bulkllm.record_of(client.completion(MODEL, ASK, **options)).cached


@pytest.mark.parametrize("kind", ["cut_stream", "stream_error"])
def test_nor_is_one_that_breaks(client: bulkllm.Client, kind: Any) -> None:
    with FakeProvider(faults=[Fault(kind, first=1)]) as server:
        options = {"api_base": server.openai_base, "api_key": "k", "num_retries": 0}
        stream = client.completion(MODEL, ASK, stream=True, **options)
        with pytest.raises(Exception, match=r".+") as caught:
            list(stream)
        assert not isinstance(caught.value, bulkllm.BulkLLMError)
        assert client.cache is not None
        assert client.cache.info().entries == 0
        assert not bulkllm.record_of(client.completion(MODEL, ASK, **options)).cached


async def test_nor_is_one_whose_reader_is_cancelled(client: bulkllm.Client) -> None:
    with FakeProvider(time_per_token=0.05, reply_tokens=(400, 400)) as server:
        began = asyncio.Event()

        async def read() -> None:
            stream = await client.acompletion(MODEL, ASK, stream=True, api_base=server.openai_base, api_key="k")
            async for _ in stream:
                began.set()

        task = asyncio.create_task(read())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert client.cache is not None
    assert client.cache.info().entries == 0


def chunks_of(message: dict[str, Any], finish_reason: str | None = "stop", **choice: Any) -> list[dict[str, Any]]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-mini"}
    steps = [
        {"index": 0, "delta": {"role": "assistant", **message}, "finish_reason": None, **choice},
        {"index": 0, "delta": {}, "finish_reason": finish_reason},
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return [*({**head, "choices": [step]} for step in steps), {**head, "choices": [], "usage": usage}]


@pytest.mark.parametrize(
    ("message", "reason", "choice"),
    [
        ({"content": None, "tool_calls": [{"index": 0, **CALL}]}, "tool_calls", {}),
        ({"content": "hi"}, "stop", {"logprobs": LOGPROBS}),
        ({"content": "hi", "reasoning_content": "hm"}, "stop", {}),
        ({"content": "cut at the limit"}, "length", {}),
    ],
)
def test_what_is_kept_of_a_stream_is_what_a_plain_call_would_have_brought(
    client: bulkllm.Client, canned: Any, message: dict[str, Any], reason: str, choice: dict[str, Any]
) -> None:
    canned.script = lambda exchange: exchange.events(*chunks_of(message, reason, **choice), "[DONE]")
    options = {"api_base": canned.url, "api_key": "k"}
    list(client.completion(MODEL, ASK, stream=True, **options))
    plain = client.completion(MODEL, ASK, **options)
    assert len(canned.seen) == 1
    (found,) = plain.choices
    assert found.finish_reason == reason
    assert found.message.content == message["content"]
    assert getattr(found.message, "reasoning_content", None) == message.get("reasoning_content")
    if "tool_calls" in message:
        (call,) = found.message.tool_calls
        assert (call.id, call.function.name, call.function.arguments) == ("call_1", "f", '{"a": 1}')
    if choice:
        assert found.logprobs.content[0].logprob == -0.5
    assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (5, 3)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(chunks_of({"content": ""}), id="empty"),
        pytest.param(chunks_of({"content": "hi"}, None), id="without an end"),
        pytest.param(chunks_of({"content": "hi"}, index=1), id="of several choices"),
    ],
)
def test_a_stream_that_is_no_whole_answer_is_not_kept(
    client: bulkllm.Client, canned: Any, events: list[dict[str, Any]]
) -> None:
    canned.script = lambda exchange: exchange.events(*events, "[DONE]")
    stream = client.completion(MODEL, ASK, stream=True, api_base=canned.url, api_key="k", num_retries=0)
    with contextlib.suppress(Exception):  # from 1.108 on LiteLLM raises where there is no end
        list(stream)
    assert client.cache is not None
    assert client.cache.info().entries == 0


def test_a_stream_of_the_responses_api_is_kept_too(
    client: bulkllm.Client, provider: FakeProvider, options: dict[str, Any]
) -> None:
    stream = client.responses(MODEL, "hello", stream=True, **options)
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    plain = client.responses(MODEL, "hello", **options)
    assert plain.output_text == text
    assert bulkllm.record_of(plain).saved == bulkllm.record_of(stream).cost
    again = client.responses(MODEL, "hello", stream=True, **options)
    assert "".join(event.delta for event in again if event.type == "response.output_text.delta") == text
    assert provider.report().requests == 1


def test_a_cache_that_is_closed_meanwhile_does_not_spoil_the_end(
    client: bulkllm.Client, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stream = client.completion(MODEL, ASK, stream=True, **options)
    assert client.cache is not None
    client.cache.close()
    assert said(stream)
    assert bulkllm.record_of(stream).ok
    assert "an answer is not kept" in caplog.text


# -- in flight -----------------------------------------------------------------------------------------------


async def test_a_streamed_call_follows_a_plain_one_that_is_under_way() -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    with FakeProvider(latency=0.2) as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        plain = asyncio.create_task(client.acompletion(MODEL, ASK, **options))
        while not server.report().requests:
            await asyncio.sleep(0.005)
        stream = await client.acompletion(MODEL, ASK, stream=True, **options)
        text = said([chunk async for chunk in stream])
        assert (await plain).choices[0].message.content == text
        assert server.report().requests == 1
    assert bulkllm.record_of(stream).cached


async def test_nobody_waits_for_a_stream(provider: FakeProvider, options: dict[str, Any]) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    unread = await client.acompletion(MODEL, ASK, stream=True, **options)
    other = await client.acompletion(MODEL, ASK, stream=True, **options)
    plain = await asyncio.create_task(client.acompletion(MODEL, ASK, **options))
    assert plain.choices[0].message.content
    assert provider.report().requests == 3
    await unread.aclose()
    await other.aclose()
