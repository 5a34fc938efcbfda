"""Prompts counted by the model's own tokenizer: exact, off the event loop, and an estimate where it cannot be had."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm import Client, ConfigError, ImpossibleRequest, RateLimit, _litellm, client
from bulkllm.calls import counting, record_of
from bulkllm.calls.call import Call
from bulkllm.calls.counting import TokenCounter
from bulkllm.calls.effects import Count
from bulkllm.testing import FakeProvider

TEXT = "Übergrößenträger 日本語のテキスト def f(x): return x**2 " * 10


def asked(model: str = "openai/gpt-4o", operation: Any = "completion", **options: Any) -> Call:
    provider = model.partition("/")[0]
    return Call(operation=operation, model=model, requested_model=model, provider=provider, options=options)


def said(text: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("model", ["openai/gpt-4o", "openai/gpt-3.5-turbo", "anthropic/claude-sonnet-4-5", "house/m"])
def test_a_prompt_is_counted_as_litellm_counts_it(model: str) -> None:
    litellm = _litellm.load()
    expected = litellm.token_counter(model=model.partition("/")[2], messages=said(TEXT))
    counter = TokenCounter(patience=60.0)
    assert counter.count(asked(model, messages=said(TEXT))) == expected
    estimate = len(TEXT) / 4
    assert abs(expected - estimate) > 0.2 * estimate, "or the test could not tell the two apart"


def test_openai_and_anthropic_have_tokenizers_of_their_own() -> None:
    counter = TokenCounter(patience=60.0)
    models = ("openai/gpt-4o", "openai/gpt-3.5-turbo", "anthropic/claude-sonnet-4-5")
    assert len({counter.count(asked(model, messages=said(TEXT))) for model in models}) == 3


def test_tools_and_the_words_of_parts_count_and_no_image_is_fetched() -> None:
    counter = TokenCounter(patience=60.0)
    plain = counter.count(asked(messages=said("hello there")))
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    assert plain is not None
    with_tool = counter.count(asked(messages=said("hello there"), tools=[tool]))
    assert with_tool is not None
    assert with_tool > plain
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/none.png"}}  # nobody listens there
    with_image = counter.count(asked(messages=said([{"type": "text", "text": "hello there"}, image])))
    assert with_image is not None
    assert with_image > plain + 50


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hello there", 2),
        (["hello there", "hello"], 3),
        ([1, 2, 3, 4], 4),
        ([[1, 2], [3]], 3),
        ([], None),
        (None, None),
    ],
)
def test_what_is_embedded_is_counted(given: object, expected: int | None) -> None:
    counted = TokenCounter(patience=60.0).count(asked("openai/text-embedding-3-small", "embedding", input=given))
    assert counted == expected


def fake_litellm(monkeypatch: pytest.MonkeyPatch, token_counter: Any) -> None:
    monkeypatch.setattr(
        counting, "_litellm", SimpleNamespace(load=lambda: SimpleNamespace(token_counter=token_counter))
    )


def test_what_cannot_be_counted_is_said_once_and_without_the_prompt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**options: Any) -> int:
        if "messages" in options:
            raise ValueError(f"cannot count {options['messages']}")
        return 1

    fake_litellm(monkeypatch, broken)
    counter = TokenCounter()
    with caplog.at_level(logging.DEBUG, "bulkllm"):
        assert [counter.count(asked("house/m", messages=said("secret"))) for _ in range(5)] == [None] * 5
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "input tokens of calls to m are estimated" in record.getMessage()
    assert "secret" not in caplog.text


def test_a_counter_that_was_switched_off_is_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_litellm.load(), "disable_token_counter", True)
    assert TokenCounter(patience=60.0).count(asked(messages=said("hi"))) is None


def test_nobody_waits_long_for_a_tokenizer_that_is_being_fetched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a network LiteLLM tries for half a minute; calls go on with estimates, and are exact once it is there."""
    fetched = threading.Event()
    asked_for: list[Mapping[str, Any]] = []

    def slow(**options: Any) -> int:
        asked_for.append(options)
        assert fetched.wait(60)
        return 17

    fake_litellm(monkeypatch, slow)
    counter = TokenCounter(patience=0.01)
    with caplog.at_level(logging.DEBUG, "bulkllm"):
        assert [counter.count(asked("house/llama-3", messages=said("hi"))) for _ in range(20)] == [None] * 20
    assert len(asked_for) == 1, "one thread fetches it"
    (record,) = caplog.records
    assert "input tokens of calls to llama-3 are estimated: its tokenizer is not loaded yet" in record.getMessage()
    fetched.set()
    counter._patience = 60.0
    assert counter._tokenizers["llama-3"].loaded.wait(60)
    assert counter.count(asked("house/llama-3", messages=said("hi"))) == 17


def test_a_forked_child_loads_what_its_parent_had_begun_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_litellm(monkeypatch, lambda **_: 17)
    counter = TokenCounter(patience=60.0)
    begun = counter._tokenizers["m"] = counting._Tokenizer()
    assert begun.loading.acquire()  # by a thread that the child does not have
    begun.process += 1
    assert counter.count(asked("house/m", messages=said("hi"))) == 17


def test_a_tokenizer_that_litellm_cannot_fetch_is_replaced_by_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    litellm = _litellm.load()
    if not hasattr(litellm, "disable_hf_tokenizer_download"):
        pytest.skip("this LiteLLM cannot be told not to download")
    monkeypatch.setattr(litellm, "disable_hf_tokenizer_download", True)  # as it ends without a network
    counted = TokenCounter(patience=60.0).count(asked("together_ai/meta-llama/llama-3-8b", messages=said(TEXT)))
    assert counted is not None
    assert counted > 100


async def test_a_task_has_it_counted_in_another_thread() -> None:
    threads: list[threading.Thread] = []

    class Counter(TokenCounter):
        def count(self, call: Call) -> int | None:
            threads.append(threading.current_thread())
            return 5

    assert await Count(Counter(), asked()).aperform() == 5
    assert Count(Counter(), asked()).perform() == 5
    assert threads[0] is not threads[1] is threading.current_thread()


# -- as a client does it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


def too_long(server: FakeProvider) -> dict[str, Any]:
    """A prompt that looks shorter than it is: characters say less than 150 tokens, the tokenizer 198."""
    options = {"api_base": server.openai_base, "api_key": "k", "max_tokens": 1}
    return {"model": "openai/gpt-4o", "messages": said(TEXT), **options}


def test_a_client_counts_exactly_where_it_was_told_to(
    server: FakeProvider, warm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_token_counter", TokenCounter(patience=60.0))
    limit = RateLimit("openai/*", tpm=180)
    assert Client(limit).completion(**too_long(server)) is not None
    exact = Client(limit, count_tokens="exact")
    with pytest.raises(ImpossibleRequest, match="needs 199 of tpm"):
        exact.completion(**too_long(server))
    with pytest.raises(ImpossibleRequest, match="needs 199 of tpm"):
        asyncio.run(exact.acompletion(**too_long(server)))
    monkeypatch.setenv("BULKLLM_COUNT_TOKENS", "exact")
    with pytest.raises(ImpossibleRequest, match="needs 199 of tpm"):
        Client(limit).completion(**too_long(server))
    assert Client(limit, count_tokens="estimate").completion(**too_long(server)) is not None


def test_what_cannot_be_counted_is_estimated_and_the_call_goes_on(
    server: FakeProvider, warm: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: Any) -> int:
        raise ConnectionError("no network")

    fake_litellm(monkeypatch, broken)
    monkeypatch.setattr(client, "_token_counter", TokenCounter())
    exact = Client(RateLimit("openai/*", tpm=200_000), count_tokens="exact")
    for _ in range(3):
        assert record_of(exact.completion(**too_long(server))).ok
    assert [record.levelname for record in caplog.records if "estimated" in record.getMessage()] == ["WARNING"]


def test_another_way_of_counting_is_refused() -> None:
    with pytest.raises(ConfigError, match="count_tokens='roughly' must be 'estimate' or 'exact'"):
        Client(count_tokens="roughly")  # type: ignore[arg-type]  # the point of the test
