"""The same calls through LiteLLM and through us: the provider and the caller see the same."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import bulkllm
from bulkllm import _litellm
from bulkllm.testing import FakeProvider

if TYPE_CHECKING:
    from tests.calls.conftest import CannedServer, Exchange

MESSAGES = [{"role": "user", "content": "Say something."}]
TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
OURS = {"tags": {"run": "a"}, "priority": 2, "deadline": 60.0, "timeout": 30.0, "num_retries": 4}
FUNCTIONS = ["completion", "acompletion", "embedding", "aembedding", "responses", "aresponses"]
KEYS: dict[str, Any] = {"api_key": "sk-fake"}


def in_a_thread(work: Callable[[], Any]) -> Any:
    """LiteLLM runs event loops in synchronous calls; pytest-asyncio's loop in the main thread does not survive them."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def call(library: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """One of the functions of LiteLLM or of ours; coroutines are run."""

    def work() -> Any:
        result = getattr(library, name)(*arguments, **options)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    return in_a_thread(work)


def asked(name: str) -> dict[str, Any]:
    return {"messages": MESSAGES} if name.endswith("completion") else {"input": "Say something."}


class Seen:
    """A provider that keeps the bodies of what it is asked."""

    def __init__(self, server: FakeProvider, bodies: list[dict[str, Any]]) -> None:
        self.server = server
        self.bodies = bodies

    def base(self, model: str) -> dict[str, Any]:
        if model.startswith("openai/"):
            return {"api_base": self.server.openai_base, **KEYS}
        extra = {"api_version": "2025-03-01-preview"} if model.startswith("azure/") else {}
        return {"api_base": self.server.url, **extra, **KEYS}


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    bodies: list[dict[str, Any]] = []

    def keep(body: dict[str, Any]) -> float:
        bodies.append(body)
        return 0.0

    with FakeProvider(latency=keep) as server:
        yield Seen(server, bodies)


CHAT_OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0, "max_tokens": 17, "stop": ["x"], "seed": 3, "user": "me", "n": 1},
    {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    {"response_format": {"type": "json_object"}, "logprobs": True, "top_logprobs": 2},
    {"extra_body": {"min_p": 0.1, "nested": {"a": [1, None]}}, "metadata": {"a": "b"}},
    {"reasoning_effort": "low", "max_completion_tokens": 9, "drop_params": True},
]


@pytest.mark.parametrize("options", CHAT_OPTIONS)
@pytest.mark.parametrize("model", ["openai/fake-model", "azure/fake-model", "anthropic/claude-sonnet-4-5"])
def test_a_chats_body_is_litellms(model: str, options: dict[str, Any], seen: Seen) -> None:
    chosen = {**options, "drop_params": True}
    seen.bodies.clear()
    call(_litellm.load(), "completion", model, MESSAGES, **chosen, **seen.base(model))
    call(bulkllm, "completion", model, MESSAGES, **chosen, **OURS, **seen.base(model))
    call(bulkllm, "acompletion", model, MESSAGES, **chosen, **OURS, **seen.base(model))
    plain, ours, ours_in_a_task = seen.bodies
    assert ours == plain
    assert ours_in_a_task == plain
    assert not set(OURS) & set(ours)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_functions_body_and_answer_is_litellms(name: str, seen: Seen) -> None:
    options = {"user": "me"} if "completion" not in name else {"temperature": 1}
    base = seen.base("openai/")
    seen.bodies.clear()
    plain = call(_litellm.load(), name, model="openai/fake-model", **asked(name), **options, **base)
    ours = call(bulkllm, name, model="openai/fake-model", **asked(name), **options, **OURS, **base)
    assert seen.bodies[0] == seen.bodies[1]
    assert not set(OURS) & set(seen.bodies[1])
    assert type(ours) is type(plain)
    assert ours.usage.total_tokens == plain.usage.total_tokens
    record = bulkllm.record_of(ours)
    assert (record.ok, record.attempts, record.total_tokens) == (True, 1, plain.usage.total_tokens)
    assert record.operation == name.removeprefix("a")
    assert record.tags == {"run": "a"}


@pytest.mark.parametrize("name", ["completion", "acompletion"])
@pytest.mark.parametrize("model", ["openai/fake-model", "anthropic/claude-sonnet-4-5"])
def test_the_answers_text_is_litellms(name: str, model: str, seen: Seen) -> None:
    plain = call(_litellm.load(), name, model, MESSAGES, **seen.base(model))
    ours = call(bulkllm, name, model, MESSAGES, **seen.base(model))
    assert ours.choices[0].message.content == plain.choices[0].message.content
    assert ours.choices[0].finish_reason == plain.choices[0].finish_reason


def test_keywords_may_be_given_by_name(seen: Seen) -> None:
    answer = bulkllm.completion(model="openai/fake-model", messages=MESSAGES, **seen.base("openai/"))
    vector = bulkllm.embedding(model="openai/fake-model", input=["a"], **seen.base("openai/"))
    assert answer.choices[0].message.content
    assert len(vector.data[0]["embedding"]) == 16


def test_options_are_not_changed_under_the_callers_hands(seen: Seen) -> None:
    options = {"stream_options": {"chunk_size": 1}, "extra_body": {"x": 1}, **OURS}
    messages = [dict(MESSAGES[0])]
    before = repr((options, messages))
    list(bulkllm.completion("openai/fake-model", messages, stream=True, **options, **seen.base("openai/")))
    assert repr((options, messages)) == before


# -- streams -------------------------------------------------------------------------------------------------


def chunks_of(library: Any, name: str, **options: Any) -> list[Any]:
    async def read() -> list[Any]:
        return [chunk async for chunk in await getattr(library, name)("openai/fake-model", MESSAGES, **options)]

    chunks: list[Any] = in_a_thread(
        (lambda: asyncio.run(read()))
        if name.startswith("a")
        else lambda: list(getattr(library, name)("openai/fake-model", MESSAGES, **options))
    )
    return chunks


def facts(chunk: Any) -> Any:
    """What a caller reads in a chunk; ids and times differ from call to call."""
    usage = getattr(chunk, "usage", None)
    choices = [(choice.finish_reason, choice.delta.content, choice.delta.role) for choice in chunk.choices]
    return choices, usage and usage.total_tokens


@pytest.mark.parametrize("name", ["completion", "acompletion"])
@pytest.mark.parametrize("asks", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_streams_chunks_are_litellms_and_usage_is_seen_by_who_asked(name: str, asks: Any, seen: Seen) -> None:
    options = {"stream": True, **seen.base("openai/")}
    if asks is not None:
        options["stream_options"] = asks
    seen.bodies.clear()
    plain = chunks_of(_litellm.load(), name, **options)
    ours = chunks_of(bulkllm, name, **options)
    assert [facts(chunk) for chunk in ours] == [facts(chunk) for chunk in plain]
    assert any(chunk.choices[0].finish_reason == "stop" for chunk in ours if chunk.choices)
    assert any(getattr(chunk, "usage", None) for chunk in ours) == bool(asks and asks["include_usage"])
    asked = {"include_usage": True} if asks is None else asks
    assert seen.bodies[1] == {**seen.bodies[0], "stream_options": asked}


def test_what_litellm_does_not_take_for_a_stream_is_none(seen: Seen) -> None:
    """It streams where ``stream`` is True, and not where it is merely true."""
    for library in (_litellm.load(), bulkllm):
        answer = call(library, "completion", "openai/fake-model", MESSAGES, stream=1, **seen.base("openai/"))
        assert answer.choices[0].message.content


# -- what is ours, and what is not ---------------------------------------------------------------------------


def chat(exchange: Exchange) -> None:
    message = {"role": "assistant", "content": "hi"}
    exchange.answer(
        200,
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        },
    )


def test_headers_are_litellms(canned: CannedServer) -> None:
    canned.script = chat
    options = {"extra_headers": {"x-mine": "yes"}, "organization": "org-1", "api_base": canned.url, **KEYS}
    for library in (_litellm.load(), bulkllm):
        call(library, "completion", "openai/fake-model", MESSAGES, timeout=33.0, **options)
    plain, ours = (exchange.headers for exchange in canned.seen)
    assert ours == {**plain, "host": ours["host"]}
    assert (ours["x-mine"], ours["openai-organization"]) == ("yes", "org-1")
    assert ours["x-stainless-read-timeout"].startswith("33")


@pytest.mark.parametrize("name", ["completion", "acompletion"])
def test_a_timeout_of_httpx_is_litellms_to_obey(name: str, canned: CannedServer) -> None:
    import httpx

    canned.script = chat
    mine = httpx.Timeout(50.0, read=44.0)
    call(bulkllm, name, "openai/fake-model", MESSAGES, timeout=mine, deadline=40.0, api_base=canned.url, **KEYS)
    assert canned.seen[0].headers["x-stainless-read-timeout"].startswith("44")


def test_a_timeout_may_be_text(canned: CannedServer) -> None:
    canned.script = chat
    bulkllm.completion("openai/fake-model", MESSAGES, timeout="12.5", api_base=canned.url, **KEYS)
    assert canned.seen[0].headers["x-stainless-read-timeout"].startswith("12.5")


def test_litellm_is_told_how_much_of_the_deadline_is_left(canned: CannedServer) -> None:
    """So that the thread of a call that is given up ends too."""
    canned.script = chat
    bulkllm.completion("openai/fake-model", MESSAGES, deadline=20.0, api_base=canned.url, **KEYS)
    assert 10.0 < float(canned.seen[0].headers["x-stainless-read-timeout"]) <= 20.0


def test_mocked_answers_of_litellm_work() -> None:
    answer = bulkllm.completion("openai/gpt-4o-mini", MESSAGES, mock_response="mocked", **KEYS)
    assert answer.choices[0].message.content == "mocked"
    assert bulkllm.record_of(answer).ok
    pieces = bulkllm.completion("openai/gpt-4o-mini", MESSAGES, mock_response="mocked", stream=True, **KEYS)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "mocked"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_that_litellm_does_not_know_is_litellms_to_refuse(name: str) -> None:
    make: Callable[[], Any] = lambda: call(bulkllm, name, model="no-such-model", **asked(name), **KEYS)  # noqa: E731
    with pytest.raises(_litellm.load().BadRequestError):
        make()


# -- providers that do not take what we add ------------------------------------------------------------------

SHORT = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


@pytest.mark.parametrize("name", ["completion", "acompletion"])
@pytest.mark.parametrize("model", ["gradient_ai/m", "huggingface/m"])
def test_who_knows_no_retries_is_not_told_of_them(model: str, name: str, canned: CannedServer) -> None:
    canned.script = lambda exchange: exchange.answer(200, SHORT)
    for library in (_litellm.load(), bulkllm):
        answer = call(library, name, model, MESSAGES, api_base=canned.url, **KEYS)
        assert answer.choices[0].message.content == "hi"
    theirs, ours = canned.seen
    assert ours.body == theirs.body
    assert (ours.path, "max_retries" in ours.body) == (theirs.path, False)


@pytest.mark.parametrize("model", ["gradient_ai/m", "huggingface/m"])
def test_and_is_asked_once_for_each_attempt(model: str, canned: CannedServer) -> None:
    canned.script = lambda exchange: exchange.answer(500, {"error": {"message": "broken"}})
    client = bulkllm.Client(retry=bulkllm.RetryPolicy(max_attempts=3, base_delay=0.001))
    for prefix in ("", "a"):
        canned.seen.clear()
        litellm = _litellm.load()
        with pytest.raises((litellm.APIError, litellm.InternalServerError, litellm.APIConnectionError)):
            call(client, prefix + "completion", model, MESSAGES, api_base=canned.url, **KEYS)
        assert len(canned.seen) == 3


@pytest.mark.parametrize("model", ["bytez/m", "oci/meta.llama-3.3-70b-instruct", "gradient_ai/m", "openai/m"])
@pytest.mark.parametrize("stream", [False, True])
def test_litellm_accepts_what_we_add(model: str, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    litellm = _litellm.load()
    given: dict[str, Any] = {}

    def instead(**options: Any) -> Any:
        given.update(options)
        return iter(()) if stream else litellm.ModelResponse(**SHORT)

    monkeypatch.setattr(litellm, "completion", instead)
    answer = bulkllm.completion(model, MESSAGES, stream=stream, **KEYS)
    assert list(answer) if not stream else list(answer) == []
    provider, _, bare = model.partition("/")
    added = {name: given[name] for name in ("max_retries", "stream_options") if name in given}
    litellm.utils.get_optional_params(model=bare, custom_llm_provider=provider, stream=stream, **added)
    assert ("stream_options" in added) == (stream and provider not in ("bytez", "oci"))
