"""The cache in front of LiteLLM: a hit asks nobody, costs nothing, and is never wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import bulkllm
from bulkllm import _litellm
from bulkllm.caching import choosing
from bulkllm.config import config_dir
from bulkllm.testing import FakeProvider

MODEL = "openai/gpt-4.1-mini"


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the root's conftest is not used, as on several versions of LiteLLM."""
    for place in ("cache", "config"):
        monkeypatch.setenv(f"BULKLLM_{place.upper()}_DIR", str(tmp_path_factory.mktemp("own") / place))


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def options(provider: FakeProvider) -> dict[str, Any]:
    return {"api_base": provider.openai_base, "api_key": "sk-secret-key"}


def test_a_hit_asks_nobody_costs_nothing_and_says_so(
    provider: FakeProvider, options: dict[str, Any], tmp_path: Path
) -> None:
    client = bulkllm.Client([bulkllm.RateLimit("*", rpm=60)], cache=bulkllm.Cache(tmp_path))
    first = client.completion(MODEL, ask("a"), **options)
    remaining = client.limiter.status(MODEL).remaining["rpm"]
    again = client.completion(MODEL, ask("a"), **options)
    assert provider.report().requests == 1
    assert again.choices[0].message.content == first.choices[0].message.content
    assert client.limiter.status(MODEL).remaining["rpm"] >= remaining
    paid, free = bulkllm.record_of(first), bulkllm.record_of(again)
    assert (free.cached, free.cost, free.saved, free.attempts) == (True, 0.0, paid.cost, 0)
    assert (free.input_tokens, free.output_tokens) == (paid.input_tokens, paid.output_tokens)
    assert (client.usage.total.requests, client.usage.total.cached) == (2, 1)
    assert client.usage.total.cost == pytest.approx(paid.cost)


def test_another_process_and_the_asynchronous_world_find_the_same_answer(
    provider: FakeProvider, options: dict[str, Any], tmp_path: Path
) -> None:
    bulkllm.Client(cache=bulkllm.Cache(tmp_path)).completion(MODEL, ask("a"), **options)
    reader = bulkllm.Client(cache=bulkllm.Cache(tmp_path))
    response = asyncio.run(reader.acompletion(MODEL, ask("a"), **options))
    assert bulkllm.record_of(response).cached
    assert provider.report().requests == 1


def formats() -> tuple[type[BaseModel], type[BaseModel]]:
    """Two classes of one name, which ask for different things."""

    def first() -> type[BaseModel]:
        class Label(BaseModel):
            name: str

        return Label

    def second() -> type[BaseModel]:
        class Label(BaseModel):
            name: str
            sure: bool

        return Label

    return first(), second()


ONE_FORMAT, OTHER_FORMAT = formats()
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
BASE: dict[str, Any] = {
    "messages": TALK, "temperature": 0.5, "seed": 7, "reasoning_effort": "low", "response_format": ONE_FORMAT,
    "extra_body": {"min_p": 0.1, "deep": {"x": 1, "y": 2}}, "tools": [{"type": "function", "function": {"name": "f"}}],
    "chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 50, "drop_params": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.6},
        {"temperature": None},
        {"seed": 8},
        {"seed": "7"},
        {"max_tokens": 51},
        {"reasoning_effort": "high"},
        {"response_format": OTHER_FORMAT},
        {"extra_body": {"min_p": 0.1, "deep": {"x": 1, "y": 3}}},
        {"extra_body": {"min_p": 0.1, "deep": {"x": 1, "y": "2"}}},
        {"tools": [{"type": "function", "function": {"name": "g"}}]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [TALK[0], TALK[2], TALK[1]]},
        {"messages": TALK[::-1]},
        {"extra_headers": {"anthropic-beta": "x"}},
        {"never_heard_of": 1},
    ],
)
def test_another_request_is_another_answer(
    provider: FakeProvider, options: dict[str, Any], other: dict[str, Any]
) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    client.completion("openai/gpt-5-mini", **BASE, **options)
    client.completion("openai/gpt-5-mini", **{**BASE, **other}, **options)
    assert provider.report().requests == 2
    assert client.usage.total.cached == 0


def test_another_endpoint_is_another_answer(provider: FakeProvider, options: dict[str, Any]) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    client.completion(MODEL, ask("a"), **options)
    with FakeProvider() as second:
        client.completion(MODEL, ask("a"), **{**options, "api_base": second.openai_base})
        assert second.report().requests == 1
    client.completion(MODEL, ask("a"), **{**options, "api_base": f"{provider.openai_base}/"})
    assert provider.report().requests == 1, "a slash at its end makes it no other one"


@pytest.mark.parametrize("where", ["HOSTED_VLLM_API_BASE", "HOSTED_VLLM_BASE_URL", "litellm.api_base"])
def test_so_is_one_that_the_surroundings_name(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    heard = []
    with FakeProvider(reply="I am A") as one, FakeProvider(reply="I am B") as other:
        for server in (one, other, one):
            monkeypatch.setenv("HOSTED_VLLM_API_BASE", server.openai_base)  # LiteLLM's only name for it
            if where == "litellm.api_base":
                monkeypatch.setattr(_litellm.load(), "api_base", server.openai_base)
            else:
                monkeypatch.setenv(where, server.openai_base)
            heard.append(client.completion("hosted_vllm/m", ask("who?")).choices[0].message.content)
        assert heard == ["I am A", "I am B", "I am A"]
        assert (one.report().requests, other.report().requests) == (1, 1)


def test_what_a_call_says_itself_goes_before_the_surroundings(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    with FakeProvider(reply="I am A") as one, FakeProvider(reply="I am B") as other:
        told = [
            client.completion(MODEL, ask("who?"), **{**options, "api_base": server.openai_base})
            for server in (one, other)
        ]
    assert [answer.choices[0].message.content for answer in told] == ["I am A", "I am B"]


def test_what_litellms_aliases_mean_is_what_is_asked_counted_and_limited(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    limits = [bulkllm.RateLimit("openai/*", rpm=1000)]
    client = bulkllm.Client(limits, cache=bulkllm.Cache(memory=True))
    with FakeProvider(reply=lambda body: f"I am {body['model']}") as server:
        asked = {**options, "api_base": server.openai_base}
        for model in ("gpt-4.1-mini", "gpt-4.1"):
            monkeypatch.setattr(_litellm.load(), "model_alias_map", {"fast": f"openai/{model}"})
            answer = client.completion("fast", ask("who?"), **asked)
            assert answer.choices[0].message.content == f"I am {model}"
            assert bulkllm.record_of(answer).model == f"openai/{model}"
    assert list(client.usage.by_model) == ["openai/gpt-4.1-mini", "openai/gpt-4.1"]
    assert client.limiter.status("openai/gpt-4.1").remaining["rpm"] < 1000


def turned(value: Any) -> Any:
    """The same with every dict's keys the other way round."""
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(value)}
    return [turned(item) for item in value] if isinstance(value, list) else value


def test_the_same_request_said_in_another_order_or_with_another_key_is_the_same(
    provider: FakeProvider, options: dict[str, Any]
) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    client.completion("openai/gpt-5-mini", **BASE, **options)
    other = {
        **options,
        "api_key": "sk-another",
        "timeout": 17,
        "num_retries": 1,
        "metadata": {"run": 2},
        "tags": {"a": "b"},
    }
    client.completion(**turned({**BASE, **other}), model="openai/gpt-5-mini")
    assert provider.report().requests == 1
    assert client.usage.total.cached == 1


def test_identical_calls_in_flight_share_one(options: dict[str, Any]) -> None:
    async def many(client: bulkllm.Client, base: str) -> list[Any]:
        return await asyncio.gather(
            *(client.acompletion(MODEL, ask("a"), **{**options, "api_base": base}) for _ in range(10))
        )

    with FakeProvider(latency=0.2) as slow:
        client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
        responses = asyncio.run(many(client, slow.openai_base))
        assert slow.report().requests == 1
    assert len({response.choices[0].message.content for response in responses}) == 1
    assert sorted(bulkllm.record_of(response).cached for response in responses) == [False] + [True] * 9
    assert len({id(response) for response in responses}) == 10, "each caller owns its response"


def test_a_stream_is_served_from_a_kept_answer(provider: FakeProvider, options: dict[str, Any]) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    whole = client.completion(MODEL, ask("a"), **options)
    stream = client.completion(MODEL, ask("a"), stream=True, **options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content
    assert bulkllm.record_of(stream).cached

    async def read() -> str:
        told = await client.acompletion(MODEL, ask("a"), stream=True, stream_options={"include_usage": True}, **options)
        chunks = [chunk async for chunk in told]
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert asyncio.run(read()) == text
    assert provider.report().requests == 1


def test_a_call_decides_for_itself(provider: FakeProvider, options: dict[str, Any]) -> None:
    cache = bulkllm.Cache(memory=True)
    client = bulkllm.Client()
    for wanted in (cache, cache, False, None):
        client.completion(MODEL, ask("a"), cache=wanted, **options)
    assert provider.report().requests == 3
    wrong: dict[str, Any]
    for wrong in ({"cache": "yes"}, {"sample": -1}, {"sample": True}, {"sample": 0.5}, {"namespace": 7}):
        (name,) = wrong
        with pytest.raises(bulkllm.ConfigError, match=f"{name}="):
            client.completion(MODEL, ask("a"), **wrong, **options)


def test_samples_and_namespaces_are_kept_apart(provider: FakeProvider, options: dict[str, Any]) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True, namespace="mine"))
    ways: list[dict[str, Any]] = [{}, {"sample": 1}, {"sample": 2}, {"namespace": "other"}]
    first = [client.completion(MODEL, ask("a"), **way, **options) for way in ways]
    assert provider.report().requests == 4
    second = [client.completion(MODEL, ask("a"), **way, **options) for way in ways]
    assert provider.report().requests == 4
    assert [one.choices[0].message.content for one in first] == [one.choices[0].message.content for one in second]
    same: dict[str, Any]
    for same in ({"sample": 0}, {"namespace": "mine"}, {"namespace": None}):
        assert bulkllm.record_of(client.completion(MODEL, ask("a"), **same, **options)).cached
    assert provider.report().requests == 4
    asyncio.run(client.acompletion(MODEL, ask("a"), sample=3, **options))
    assert provider.report().requests == 5


def test_without_a_cache_they_mean_nothing_and_are_not_sent(canned: Any) -> None:
    canned.script = lambda exchange: exchange.answer(400, {"error": {"message": "no"}})
    with pytest.raises(Exception, match="OpenAIException - no"):
        bulkllm.Client().completion(MODEL, ask("a"), sample=1, namespace="n", api_base=canned.url, api_key="k")
    assert set(canned.seen[0].body) == {"model", "messages"}


@pytest.mark.parametrize(("told", "kept"), [("1", True), ("true", True), ("0", False), (None, False)])
def test_the_environment_turns_it_on_for_clients_that_are_not_told(
    told: str | None, kept: bool, provider: FakeProvider, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "_default", None)
    if told is not None:
        monkeypatch.setenv("BULKLLM_CACHE", told)
    client = bulkllm.Client()
    for _ in range(2):
        client.completion(MODEL, ask("a"), **options)
    assert provider.report().requests == (1 if kept else 2)
    assert (client.cache is not None) is kept
    bulkllm.Client(cache=False).completion(MODEL, ask("a"), **options)
    assert provider.report().requests == (2 if kept else 3)
    if client.cache is not None:
        assert client.cache is bulkllm.Client(cache=True).cache
        client.cache.close()


def test_so_does_the_file_of_settings_and_it_bounds_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_default", None)
    file = config_dir() / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[cache]\nenabled = true\nmax_bytes = 1000\nmax_age = 60\n")
    cache = bulkllm.Client().cache
    assert cache is not None
    assert (cache.info().max_bytes, cache.info().max_age) == (1000, 60.0)
    cache.close()
    monkeypatch.setenv("BULKLLM_CACHE", "maybe")
    with pytest.raises(bulkllm.ConfigError, match="BULKLLM_CACHE: expected true or false"):
        bulkllm.Client()


def test_configure_takes_it_for_the_default_client(provider: FakeProvider, options: dict[str, Any]) -> None:
    try:
        client = bulkllm.configure(cache=bulkllm.Cache(memory=True))
        for _ in range(2):
            bulkllm.completion(MODEL, ask("a"), **options)
    finally:
        bulkllm.configure()
    assert provider.report().requests == 1
    assert client.usage.total.cached == 1


def test_embeddings_and_responses_are_kept_too(provider: FakeProvider, options: dict[str, Any]) -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    client.embedding("openai/text-embedding-3-small", ["a", "b"], **options)
    vectors = client.embedding("openai/text-embedding-3-small", ["a", "b"], **options)
    client.responses(MODEL, "hello", **options)
    answer = client.responses(MODEL, "hello", **options)
    assert provider.report().requests == 2
    assert bulkllm.record_of(vectors).cached
    assert bulkllm.record_of(answer).cached
    assert len(vectors.data) == 2


def test_no_secret_is_in_the_files(provider: FakeProvider, options: dict[str, Any], tmp_path: Path) -> None:
    secret: dict[str, Any] = {
        "extra_headers": {"Authorization": "Bearer sk-in-header", "X-Mine": "a-private-header"},
        "headers": {"x-other": "another-private-header"},
        **options,
    }
    words = [
        b"sk-secret-key",
        b"sk-in-header",
        b"a-private-header",
        b"another-private-header",
        b"Authorization",
        b"X-Mine",
    ]
    found = b""
    with bulkllm.Cache(tmp_path) as cache:
        client = bulkllm.Client(cache=cache)
        client.completion(MODEL, ask("a"), **secret)
        list(client.completion(MODEL, ask("b"), stream=True, **secret))
        client.responses(MODEL, "hello", **options)
        client.embedding("openai/text-embedding-3-small", ["a", "b"], **secret)
        assert cache.info().entries == 5
        for file in tmp_path.iterdir():  # also what lies there only while it is open
            found += file.read_bytes()
        cache.export(tmp_path / "export.jsonl")
    for file in tmp_path.rglob("*"):
        found += file.read_bytes()
    assert b"choices" in found
    assert not [word for word in words if word.lower() in found.lower()]
