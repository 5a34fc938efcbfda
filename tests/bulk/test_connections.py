"""A run in an event loop of its own leaves no connection open; those of other loops stay as they are."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any

import pytest

import bulkllm
from bulkllm import _litellm
from bulkllm.calls import connections
from bulkllm.testing import FakeProvider

FDS = Path("/proc/self/fd")

pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")


def to(server: FakeProvider, model: str) -> dict[str, Any]:
    base = server.url if model.startswith("anthropic") else server.openai_base
    return {"model": model, "api_base": base, "api_key": "k", "progress": False}


@pytest.mark.skipif(not FDS.exists(), reason="open files are counted in /proc")
@pytest.mark.parametrize("model", ["openai/m", "anthropic/m", "deepseek/m"])
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_runs_do_not_add_up_open_connections(model: str, in_a_loop: bool) -> None:
    async def in_the_notebooks_loop() -> None:
        many()

    def many() -> None:
        for number in range(3):
            rows = [f"{number}: {row}" for row in range(10)]
            assert bulkllm.run(rows, client=bulkllm.Client(), **to(server, model)).ok == 10

    with FakeProvider(latency=0.01) as server:
        many()
        before = len(list(FDS.iterdir()))
        if in_a_loop:
            asyncio.run(in_the_notebooks_loop())
        else:
            many()
        # A loop itself takes three; ten connections of each run would be thirty.
        assert len(list(FDS.iterdir())) < before + 10


@pytest.mark.filterwarnings("ignore:Unclosed (connector|client session):ResourceWarning")
async def test_the_clients_of_another_loop_stay() -> None:
    with FakeProvider() as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        client = bulkllm.Client()
        await client.acompletion("openai/m", [{"role": "user", "content": "x"}], **options)
        cache = _litellm.load().in_memory_llm_clients_cache
        ours = cache.update_cache_key_with_event_loop("")
        before = {key: cache.cache_dict[key] for key in cache.cache_dict if key.endswith(ours)}
        assert before
        assert bulkllm.run(["a", "b"], client=client, **to(server, "openai/m")).ok == 2
        assert {key: cache.cache_dict[key] for key in cache.cache_dict if key.endswith(ours)} == before
        await client.acompletion("openai/m", [{"role": "user", "content": "y"}], **options)
        await connections.close_connections()
        assert not [key for key in cache.cache_dict if key.endswith(ours)]
        await client.acompletion("openai/m", [{"role": "user", "content": "z"}], **options)
        await connections.close_connections()


async def test_the_users_own_session_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeProvider() as server:
        async with importlib.import_module("httpx").AsyncClient() as session:
            monkeypatch.setattr(_litellm.load(), "aclient_session", session)
            options = {"api_base": server.openai_base, "api_key": "another"}
            await bulkllm.Client().acompletion("openai/m", [{"role": "user", "content": "x"}], **options)
            await connections.close_connections()
            assert not session.is_closed


async def test_what_cannot_be_closed_takes_no_answer_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        cache_dict = None

        def update_cache_key_with_event_loop(self, key: str) -> str:
            raise RuntimeError(key)

    monkeypatch.setattr(_litellm.load(), "in_memory_llm_clients_cache", Broken())
    await connections.close_connections()
    monkeypatch.delattr(_litellm.load(), "in_memory_llm_clients_cache")
    await connections.close_connections()
