"""A user's own ``litellm.cache``: its hits work, are known, cost nothing, and take no quota and no budget."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import bulkllm
from bulkllm import _litellm
from bulkllm.caching import litellm_patch
from bulkllm.testing import FakeProvider

MODEL = "openai/gpt-4.1-mini"
VECTORS = "openai/text-embedding-3-small"
HI = [{"role": "user", "content": "hi"}]
SIX = [{"role": "assistant" if i % 2 else "user", "content": f"message {i}"} for i in range(6)]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]

CALLS: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "chat": ("completion", MODEL, HI, {}),
    "tools": ("completion", MODEL, HI, {"tools": TOOLS}),
    "stream": ("completion", MODEL, HI, {"stream": True}),
    "stream with usage": ("completion", MODEL, HI, {"stream": True, "stream_options": {"include_usage": True}}),
    "embedding": ("embedding", VECTORS, ["a", "bb"], {}),
    "responses": ("responses", MODEL, "hi", {}),
    "responses stream": ("responses", MODEL, "hi", {"stream": True}),
}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """LiteLLM as it is before the first call."""
    litellm = _litellm.load()
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", True)  # its sessions complain when a loop ends
    bulkllm.unpatch()
    monkeypatch.setattr(litellm_patch, "_warned", False)
    litellm_patch._declined = False
    yield
    bulkllm.unpatch()
    litellm_patch._declined = False


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _litellm.load(), "cache", importlib.import_module("litellm.caching.caching").Cache(type="local")
    )


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(embedding_dimensions=4) as server:
        yield server


def options(provider: FakeProvider) -> dict[str, Any]:
    return {"api_base": provider.openai_base, "api_key": "sk-fake"}


def ask(client: bulkllm.Client, provider: FakeProvider, name: str) -> bulkllm.UsageRecord:
    function, model, what, more = CALLS[name]
    response = getattr(client, function)(model, what, **more, **options(provider))
    if more.get("stream"):
        assert list(response)
    return bulkllm.record_of(response)


async def aask(client: bulkllm.Client, provider: FakeProvider, name: str) -> bulkllm.UsageRecord:
    function, model, what, more = CALLS[name]
    response = await getattr(client, f"a{function}")(model, what, **more, **options(provider))
    if more.get("stream"):
        assert [chunk async for chunk in response]
    await written()
    return bulkllm.record_of(response)


async def written() -> None:
    """LiteLLM writes to its cache in the background."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(others, timeout=0.2) if others else None


def is_free(hit: bulkllm.UsageRecord, paid: bulkllm.UsageRecord) -> None:
    assert (hit.cached, hit.cost, hit.attempts, hit.outcome) == (True, 0.0, 0, "ok")
    assert (paid.cached, paid.attempts) == (False, 1)
    assert paid.cost
    if hit.estimated:  # older versions do not tell with a stream out of the cache what it had used
        assert _litellm.major_minor(_litellm.version()) < (1, 97)
        assert hit.saved is None
        return
    assert hit.saved == pytest.approx(paid.cost)
    assert hit.usage == paid.usage


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", CALLS)
def test_a_hit_is_free(name: str, provider: FakeProvider) -> None:
    client = bulkllm.Client([bulkllm.RateLimit("*", rpm=60)], budget=bulkllm.Budget(max_tokens=100_000))
    paid = ask(client, provider, name)
    model = CALLS[name][1]
    remaining = client.limiter.status(model).remaining["rpm"]
    hit = ask(client, provider, name)
    assert provider.report().requests == 1
    is_free(hit, paid)
    assert client.limiter.status(model).remaining["rpm"] >= remaining
    assert (client.usage.total.requests, client.usage.total.cached) == (2, 1)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", CALLS)
async def test_so_is_one_in_a_task(name: str, provider: FakeProvider) -> None:
    client = bulkllm.Client()
    paid = await aask(client, provider, name)
    hit = await aask(client, provider, name)
    assert provider.report().requests == 1
    is_free(hit, paid)


@pytest.mark.usefixtures("own_cache")
async def test_a_conversation_of_six_messages_never_raises_and_is_counted_as_it_was(provider: FakeProvider) -> None:
    client = bulkllm.Client()
    for _ in range(2):
        before = provider.report().requests
        response = client.completion(MODEL, SIX, **options(provider))
        assert bulkllm.record_of(response).cached == (provider.report().requests == before)
        before = provider.report().requests
        response = await client.acompletion(MODEL, SIX, **options(provider))
        assert bulkllm.record_of(response).cached == (provider.report().requests == before)


@pytest.mark.usefixtures("own_cache")
async def test_of_a_batch_that_was_known_in_part_only_what_was_asked_is_paid(provider: FakeProvider) -> None:
    client = bulkllm.Client()
    await client.aembedding(VECTORS, ["a", "b"], **options(provider))
    await written()
    response = await client.aembedding(VECTORS, ["a", "c", "d"], **options(provider))
    record = bulkllm.record_of(response)
    sent = provider.report().input_tokens - 2
    assert sent in {2, 3}, "up to 1.103 LiteLLM asks for the whole batch"
    assert (record.cached, record.attempts, record.input_tokens) == (False, 1, sent)
    assert record.cost == pytest.approx(sent * 0.02e-6)


@pytest.mark.usefixtures("own_cache")
def test_a_stream_out_of_it_that_is_left_half_way_is_free_too(provider: FakeProvider) -> None:
    client = bulkllm.Client([bulkllm.RateLimit("*", rpm=60)])
    ask(client, provider, "stream")
    stream = client.completion(MODEL, HI, stream=True, **options(provider))
    next(stream)
    stream.close()
    record = bulkllm.record_of(stream)
    assert (record.cached, record.cost, record.attempts, record.charge_unknown) == (True, 0.0, 0, False)
    assert record.outcome == "cancelled"
    assert provider.report().requests == 1


@pytest.mark.usefixtures("own_cache")
def test_both_caches_together_know_what_an_answer_cost(provider: FakeProvider) -> None:
    paid = ask(bulkllm.Client(), provider, "chat")
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    theirs, ours = ask(client, provider, "chat"), ask(client, provider, "chat")
    assert provider.report().requests == 1
    for hit in (theirs, ours):
        is_free(hit, paid)


# -- when it is patched --------------------------------------------------------------------------------------


def test_without_a_cache_of_litellm_s_nothing_is_touched(provider: FakeProvider) -> None:
    ask(bulkllm.Client(), provider, "chat")
    asyncio.run(aask(bulkllm.Client(), provider, "chat"))
    assert not bulkllm.litellm_support().examined


@pytest.mark.usefixtures("own_cache")
def test_the_first_call_with_one_sees_to_it(provider: FakeProvider, caplog: pytest.LogCaptureFixture) -> None:
    assert not bulkllm.litellm_support().examined
    ask(bulkllm.Client(), provider, "chat")
    support = bulkllm.litellm_support()
    assert isinstance(support, bulkllm.LiteLLMSupport)
    assert (support.examined, support.hits_recognised, support.stood_aside) == (True, True, ())
    assert support.mended
    assert [record for record in caplog.records if record.name.startswith("bulkllm")] == []


@pytest.mark.usefixtures("own_cache")
def test_whoever_undoes_it_is_obeyed_until_he_asks_for_it(provider: FakeProvider) -> None:
    ask(bulkllm.Client(), provider, "embedding")
    bulkllm.unpatch()
    ask(bulkllm.Client(), provider, "embedding") if not _breaks_hits() else None
    assert not bulkllm.litellm_support().examined
    assert bulkllm.patch() == bulkllm.litellm_support()
    assert bulkllm.litellm_support().examined


def _breaks_hits() -> bool:
    return (1, 102) <= _litellm.major_minor(_litellm.version()) <= (1, 110)


@pytest.mark.usefixtures("own_cache")
async def test_an_unfamiliar_litellm_keeps_working_and_is_warned_of_once(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(litellm_patch, "_HANDLER", "litellm.caching.renamed")
    client = bulkllm.Client()
    for name in ("chat", "tools", "stream", "embedding", "responses"):
        ask(client, provider, name)
    await aask(client, provider, "responses stream")
    (warning,) = [record for record in caplog.records if record.name.startswith("bulkllm")]
    assert warning.levelno == logging.WARNING
    assert f"LiteLLM {_litellm.version()}" in warning.getMessage()
    assert client.usage.total.ok == 6
    support = bulkllm.litellm_support()
    assert not support.hits_recognised
    assert "litellm.caching.renamed" in support.stood_aside[0]
