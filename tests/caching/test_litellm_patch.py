"""Hits of LiteLLM's own cache, on whatever LiteLLM is installed: they work, they are known, and nothing breaks."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Protocol

import pytest

from bulkllm import _litellm
from bulkllm.caching import litellm_patch
from bulkllm.caching.litellm_hits import paid_usage, was_litellm_cache_hit
from bulkllm.caching.litellm_patch import LiteLLMSupport, litellm_support, patch, unpatch

pytestmark = [
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # LiteLLM closes neither its clients nor its loops
    pytest.mark.filterwarnings("ignore:coroutine 'Logging:RuntimeWarning"),  # nor waits for its log, on older versions
]


class Provider(Protocol):
    seen: list[tuple[str, dict[str, Any]]]
    options: dict[str, Any]

    @property
    def calls(self) -> int: ...


SIX = [{"role": "assistant" if i % 2 else "user", "content": f"message {i}"} for i in range(6)]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
HI = [{"role": "user", "content": "hi"}]

COMBINE = (
    "combine_cached_embedding_response_with_api_result",
    "_combine_cached_embedding_response_with_api_result",
)
"""Two names of one function; some versions have both."""

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("completion", {"model": "openai/gpt-4o-mini", "messages": HI}),
    "tools": ("completion", {"model": "openai/gpt-4o-mini", "messages": HI, "tools": TOOLS}),
    "stream": (
        "completion",
        {"model": "openai/gpt-4o-mini", "messages": HI, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "text": ("text_completion", {"model": "text-completion-openai/gpt-3.5-turbo-instruct", "prompt": "hi"}),
    "text stream": (
        "text_completion",
        {"model": "text-completion-openai/gpt-3.5-turbo-instruct", "prompt": "hi", "stream": True},
    ),
    "embedding": ("embedding", {"model": "openai/text-embedding-3-small", "input": ["a", "bb"]}),
    "responses": ("responses", {"model": "openai/gpt-4o-mini", "input": "hi"}),
    "responses stream": ("responses", {"model": "openai/gpt-4o-mini", "input": "hi", "stream": True}),
}


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    """What LiteLLM leaves unclosed goes here, and not in a later test that would be blamed for it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _litellm.load().in_memory_llm_clients_cache.flush_cache()
        gc.collect()


@pytest.fixture(autouse=True)
def _unpatched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    litellm = _litellm.load()
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", True)  # its sessions complain when a loop ends
    unpatch()
    monkeypatch.setattr(litellm_patch, "_warned", False)
    yield
    unpatch()
    litellm_patch._declined = False


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's ``litellm.cache``."""
    litellm = _litellm.load()
    monkeypatch.setattr(litellm, "cache", importlib.import_module("litellm.caching.caching").Cache(type="local"))


def handler() -> Any:
    _litellm.load()
    return importlib.import_module("litellm.caching.caching_handler")


def ask(name: str, provider: Provider) -> tuple[bool, list[Any]]:
    """One synchronous call, read to its end: whether it was a hit, and what came."""
    function, options = CALLS[name]
    response = getattr(_litellm.load(), function)(**options, **provider.options)
    return was_litellm_cache_hit(response), list(response) if options.get("stream") else [response]


async def aask(name: str, provider: Provider) -> tuple[bool, list[Any]]:
    """The same without blocking; LiteLLM writes to its cache in the background, which is waited for."""
    function, options = CALLS[name]
    response = await getattr(_litellm.load(), "a" + function)(**options, **provider.options)
    hit = was_litellm_cache_hit(response)
    parts = [part async for part in response] if options.get("stream") else [response]
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(others, timeout=0.2) if others else None
    return hit, parts


def said(parts: list[Any]) -> str:
    """The words of an answer, whatever its shape."""
    text = ""
    for part in parts:
        for choice in getattr(part, "choices", None) or ():
            words = getattr(choice, "text", None) or getattr(getattr(choice, "message", None), "content", None)
            text += words or getattr(getattr(choice, "delta", None), "content", None) or ""
        if getattr(part, "type", None) == "response.output_text.delta":
            text += part.delta
        for item in getattr(part, "output", None) or ():
            text += item.content[0].text
    return text


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", CALLS)
def test_a_hit_works_and_is_known(name: str, provider: Provider) -> None:
    assert patch().stood_aside == ()
    first = ask(name, provider)
    assert (first[0], provider.calls) == (False, 1)
    second = ask(name, provider)
    assert (second[0], provider.calls) == (True, 1)
    assert said(second[1]) == said(first[1])
    if name == "tools":
        assert second[1][0].choices[0].message.tool_calls[0].function.name == "f"


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", CALLS)
async def test_an_asynchronous_hit_works_and_is_known(name: str, provider: Provider) -> None:
    assert patch().stood_aside == ()
    first = await aask(name, provider)
    assert (first[0], provider.calls) == (False, 1)
    second = await aask(name, provider)
    assert (second[0], provider.calls) == (True, 1)
    assert said(second[1]) == said(first[1])


@pytest.mark.parametrize("name", CALLS)
def test_without_a_cache_nothing_is_a_hit(name: str, provider: Provider) -> None:
    patch()
    assert ask(name, provider)[0] is False
    assert ask(name, provider)[0] is False
    assert provider.calls == 2


@pytest.mark.usefixtures("own_cache")
async def test_long_conversations_never_raise(provider: Provider) -> None:
    """From 1.106 on LiteLLM does not keep them, before that it does; a hit is known either way."""
    patch()
    litellm = _litellm.load()
    options = {"model": "openai/gpt-4o-mini", "messages": SIX, **provider.options}
    litellm.completion(**options)
    before = provider.calls
    assert was_litellm_cache_hit(litellm.completion(**options)) == (provider.calls == before)
    before = provider.calls
    assert was_litellm_cache_hit(await litellm.acompletion(**options)) == (provider.calls == before)


@pytest.mark.usefixtures("own_cache")
async def test_a_partly_cached_batch_gets_the_right_vectors_and_is_no_hit(provider: Provider) -> None:
    patch()
    litellm = _litellm.load()
    model = "openai/text-embedding-3-small"

    async def embed(*texts: str) -> Any:
        response = await litellm.aembedding(model=model, input=list(texts), **provider.options)
        await asyncio.sleep(0.1)  # LiteLLM writes to its cache in the background
        return response

    await embed("a", "bbbbb")
    response = await embed("a", "ccc", "bbbbb")
    vectors = [(item if isinstance(item, dict) else item.model_dump())["embedding"] for item in response.data]
    assert vectors == [[1.0], [3.0], [5.0]]
    assert not was_litellm_cache_hit(response)
    asked = len(provider.seen[-1][1]["input"])
    paid = paid_usage(response) or response.usage
    assert paid.prompt_tokens == 5 * asked
    whole = await embed("bbbbb", "ccc")
    assert was_litellm_cache_hit(whole)
    assert paid_usage(whole) is None
    assert provider.calls == 2


def test_what_was_found_and_done_can_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    before = litellm_support()
    assert (before.version, before.examined) == (_litellm.version(), False)
    support = patch()
    assert litellm_support() == support
    assert support.version == _litellm.version()
    assert support.examined
    assert support.hits_recognised
    assert support.stood_aside == ()
    breaks = (1, 102) <= _litellm.major_minor(support.version) <= (1, 110)
    assert ("cache hits without fastapi" in support.mended) == (breaks and not _has_fastapi())
    assert "embeddings that are cached in part" in support.mended
    assert [record for record in caplog.records if record.name.startswith("bulkllm")] == []


def _has_fastapi() -> bool:
    return importlib.util.find_spec("fastapi") is not None


def _functions() -> list[Any]:
    module = handler()
    return [
        module._should_defer_streaming_cache_hit_callbacks,
        *(getattr(module.LLMCachingHandler, name, None) for name in COMBINE),
    ]


def test_twice_is_once_and_undone_is_undone() -> None:
    before = _functions()
    support = patch()
    once = _functions()
    assert once != before
    assert patch() is support
    assert _functions() == once
    unpatch()
    assert _functions() == before
    unpatch()
    assert _functions() == before
    assert not litellm_support().examined
    patch()
    assert _functions() != before


def test_threads_patch_once() -> None:
    gate = threading.Barrier(8)
    supports: list[LiteLLMSupport] = []

    def work() -> None:
        gate.wait(10)
        supports.append(patch())

    before = _functions()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(support) for support in supports}) == 1
    unpatch()
    assert _functions() == before


def test_what_somebody_else_put_there_since_stays() -> None:
    module = handler()
    cls = module.LLMCachingHandler
    name = "_combine_cached_embedding_response_with_api_result"
    original = getattr(cls, name)

    def theirs() -> None: ...

    patch()
    setattr(cls, name, theirs)
    try:
        unpatch()
        assert getattr(cls, name) is theirs
    finally:
        setattr(cls, name, original)


def test_importing_and_asking_does_nothing_to_litellm(start: Callable[..., Any]) -> None:
    code = """
        import sys
        import bulkllm.caching
        print(bulkllm.caching.litellm_support().examined, "litellm" in sys.modules)
    """
    out, err = start(code).communicate(timeout=60)
    assert (out, err) == ("False False\n", "")


# A LiteLLM that looks unfamiliar.


def rename_method(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMBINE:
        monkeypatch.delattr(handler().LLMCachingHandler, name, raising=False)


def rename_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(handler(), "LLMCachingHandler")


def change_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = handler().LLMCachingHandler
    for name in (
        "combine_cached_embedding_response_with_api_result",
        "_combine_cached_embedding_response_with_api_result",
    ):
        if hasattr(cls, name):
            monkeypatch.setattr(cls, name, lambda self, response: response)


def raise_in_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(
        self: Any, _caching_handler_response: Any, embedding_response: Any, start_time: Any, end_time: Any
    ) -> Any:
        raise ZeroDivisionError

    cls = handler().LLMCachingHandler
    for name in (
        "combine_cached_embedding_response_with_api_result",
        "_combine_cached_embedding_response_with_api_result",
    ):
        if hasattr(cls, name):
            monkeypatch.setattr(cls, name, broken)


def forget_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmarked(self: Any, **_: Any) -> Any:
        return _litellm.load().ModelResponse()

    monkeypatch.setattr(handler().LLMCachingHandler, "_convert_cached_result_to_model_response", unmarked)


def raise_in_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, **_: Any) -> Any:
        raise RuntimeError("unfamiliar")

    monkeypatch.setattr(handler().LLMCachingHandler, "_convert_cached_result_to_model_response", broken)


@pytest.mark.parametrize(
    "strange",
    [rename_method, rename_class, change_signature, raise_in_the_test, forget_the_mark, raise_in_the_handler],
)
def test_an_unfamiliar_litellm_is_left_alone_with_one_warning(
    strange: Callable[[pytest.MonkeyPatch], None], provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        strange(monkeypatch)
        functions = dict(inspect.getmembers(getattr(handler(), "LLMCachingHandler", None)))
        support = patch()
        assert support.stood_aside or not support.hits_recognised
        assert patch() is support
        for mend in support.stood_aside:
            assert "embeddings that are cached in part" in mend
            assert dict(inspect.getmembers(getattr(handler(), "LLMCachingHandler", None))) == functions
        unpatch()
        patch()
        (warning,) = [record for record in caplog.records if record.name == "bulkllm.caching.litellm_patch"]
        assert warning.levelno == logging.WARNING
        assert f"LiteLLM {_litellm.version()}" in warning.getMessage()
        assert "Calls go on" in warning.getMessage()
        if strange is not rename_class:  # then LiteLLM itself does not work
            assert said(ask("chat", provider)[1]) == "answer 1"
        unpatch()


def test_an_unknown_version_is_not_patched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    before = _functions()
    monkeypatch.setattr(_litellm, "version", lambda: "2.7.0")
    support = patch()
    assert support.mended == ()
    assert support.stood_aside
    assert _functions() == before
    assert "LiteLLM 2.7.0" in caplog.text
    assert "not tried with this version" in caplog.text


def test_an_unknown_version_without_the_functions_needs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_litellm, "version", lambda: "2.7.0rc1")
    rename_method(monkeypatch)
    monkeypatch.delattr(handler(), "_should_defer_streaming_cache_hit_callbacks")
    support = patch()
    assert (support.mended, support.stood_aside, support.hits_recognised) == ((), (), True)
    assert [record for record in caplog.records if record.name.startswith("bulkllm")] == []


@pytest.mark.parametrize(
    ("response", "hit"),
    [
        (None, False),
        ({"choices": []}, False),
        (SimpleNamespace(_hidden_params=None), False),
        (SimpleNamespace(_hidden_params={"cache_hit": None}), False),
        (SimpleNamespace(_hidden_params={"cache_hit": False}), False),
        (SimpleNamespace(_hidden_params={"cache_hit": "True"}), False),
        (SimpleNamespace(_hidden_params={"cache_hit": True}), True),
        (SimpleNamespace(_hidden_params={"cache_key": "k"}), True),
        (SimpleNamespace(custom_llm_provider="cached_response"), True),
        (SimpleNamespace(completion_stream=SimpleNamespace(custom_llm_provider="cached_response")), True),
        (SimpleNamespace(completion_stream=SimpleNamespace(custom_llm_provider="openai")), False),
    ],
)
def test_marks(response: Any, hit: bool) -> None:
    assert was_litellm_cache_hit(response) is hit
