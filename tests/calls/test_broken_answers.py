"""Answers that are none: what LiteLLM makes of them, whether they are tried again, how they are recorded."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from bulkllm import Client, RateLimit, RetryPolicy, _litellm
from bulkllm.calls import record_of, record_of_error
from bulkllm.testing import FakeProvider, Fault

if TYPE_CHECKING:
    from tests.calls.conftest import CannedServer, Exchange

MESSAGES = [{"role": "user", "content": "Say something."}]
QUICK = RetryPolicy(max_attempts=3, base_delay=0.001)
both = pytest.mark.parametrize("in_task", [False, True], ids=["thread", "task"])


def broken() -> tuple[type[Exception], ...]:
    names = ("APIError", "APIConnectionError", "InternalServerError", "BadGatewayError")
    return tuple(getattr(_litellm.load(), name) for name in names)


def one(client: Client, model: str, in_task: bool, **options: Any) -> Any:
    if in_task:
        return asyncio.run(client.acompletion(model, MESSAGES, api_key="k", **options))
    return client.completion(model, MESSAGES, api_key="k", **options)


def base(server: FakeProvider, model: str) -> str:
    return server.openai_base if not model.startswith("anthropic") else server.anthropic_base


@pytest.mark.parametrize("kind", ["reset", "close", "truncate", "cut_body"])
@pytest.mark.parametrize("model", ["openai/m", "anthropic/claude-sonnet-4-5", "deepseek/m"])
@both
def test_an_answer_that_does_not_come_whole_is_tried_again(kind: Any, model: str, in_task: bool) -> None:
    """And may have been paid for, which a 500 is not."""
    client = Client(limits=RateLimit(max_in_flight=1), retry=QUICK)
    with FakeProvider(faults=[Fault(kind)]) as server, pytest.raises(broken()) as caught:
        one(client, model, in_task, api_base=base(server, model))
    record = record_of_error(caught.value)
    assert record is not None
    assert record.attempts == 3
    assert (record.outcome, record.cost, record.charge_unknown) == (type(caught.value).__name__, None, True)
    assert type(caught.value).__module__ == "litellm.exceptions"
    assert (client.limiter.status().in_flight, client.usage.total.requests) == (0, 1)


@both
def test_an_answer_that_came_whole_at_last_is_a_success(in_task: bool) -> None:
    client = Client(retry=QUICK)
    faults = [Fault("reset", first=1), Fault("truncate", after=1, first=1)]
    with FakeProvider(faults=faults) as server:
        answer = one(client, "openai/m", in_task, api_base=server.openai_base)
        assert server.report().successes == 1
    assert record_of(answer).attempts == 3


@both
@pytest.mark.parametrize("model", ["openai/m", "anthropic/claude-sonnet-4-5"])
def test_where_nobody_listens_nothing_is_charged(model: str, in_task: bool) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        client = Client(retry=QUICK)
        with pytest.raises(broken()) as caught:
            one(client, model, in_task, api_base=f"http://127.0.0.1:{nobody.getsockname()[1]}")
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.attempts, record.cost, record.charge_unknown) == (3, 0.0, False)


@both
def test_an_answer_with_nothing_in_it_is_an_answer(in_task: bool) -> None:
    """What to make of an answer's content is the caller's to decide."""
    client = Client(retry=QUICK)
    with FakeProvider(faults=[Fault("empty_choices")]) as server:
        try:
            answer = one(client, "openai/m", in_task, api_base=server.openai_base)
        except _litellm.load().InternalServerError:
            if _litellm.version().startswith(("1.97.", "1.101.")):
                pytest.skip("this LiteLLM makes a 500 of it")
            raise
        assert server.report().requests == 1
    record = record_of(answer)
    assert (record.outcome, record.attempts, record.estimated, record.output_tokens) == ("ok", 1, False, 0)
    assert record.input_tokens > 0


@both
def test_an_html_page_from_a_gateway_is_a_failure_like_any_502(in_task: bool) -> None:
    client = Client(retry=QUICK)
    page = "<html><body>Bad gateway</body></html>"
    with FakeProvider(faults=[Fault("status", status=502, body=page)]) as server:
        with pytest.raises(broken()) as caught:
            one(client, "openai/m", in_task, api_base=server.openai_base)
        assert server.report().requests == 3
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.cost, record.charge_unknown) == (0.0, False)


# -- usage that nobody told ----------------------------------------------------------------------------------


def piece(content: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def tells_no_usage(exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        exchange.events(piece("Hello, "), piece("you there"), piece(None, "stop"), "[DONE]")
        return
    message = {"role": "assistant", "content": "Hello, you there"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    exchange.answer(
        200, {"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [choice]}
    )


@both
def test_an_answer_whose_provider_tells_no_usage_is_estimated_and_has_no_cost(
    in_task: bool, canned: CannedServer
) -> None:
    canned.script = tells_no_usage
    client = Client()
    record = record_of(one(client, "openai/gpt-4o-mini", in_task, api_base=canned.url))
    assert (record.outcome, record.estimated, record.cost) == ("ok", True, None)
    assert record.cost_note
    assert record.input_tokens > 0
    assert record.output_tokens == 4
    assert client.usage.total.unpriced == 1


@both
@pytest.mark.parametrize("asks", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_stream_whose_provider_tells_no_usage_is_estimated_and_has_no_cost(
    asks: Any, in_task: bool, canned: CannedServer
) -> None:
    """LiteLLM counts the text itself then and hands that over as if it had been told."""
    canned.script = tells_no_usage
    client = Client(limits=RateLimit(tpm=10_000, period=1e9))
    options: dict[str, Any] = {"api_base": canned.url, "stream": True}
    if asks is not None:
        options["stream_options"] = asks

    async def in_a_task() -> Any:
        stream = await client.acompletion("openai/gpt-4o-mini", MESSAGES, api_key="k", **options)
        return stream, [chunk async for chunk in stream]

    if in_task:
        stream, chunks = asyncio.run(in_a_task())
    else:
        stream = client.completion("openai/gpt-4o-mini", MESSAGES, api_key="k", **options)
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello, you there"
    record = record_of(stream)
    assert (record.outcome, record.estimated, record.cost) == ("ok", True, None)
    assert record.input_tokens > 0
    assert 2 <= record.output_tokens <= 6
    assert 10_000 - client.limiter.status().remaining["tpm"] == pytest.approx(record.total_tokens, abs=0.1)


@pytest.mark.parametrize("place", ["end", "finish", "each"])
def test_usage_counts_wherever_in_a_stream_the_provider_tells_it(place: str, canned: CannedServer) -> None:
    if place != "end" and _litellm.version().startswith("1.97."):
        pytest.skip("this LiteLLM counts the text itself, whatever the provider told")
    usage = {"prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100}
    growing = {"prompt_tokens": 70, "completion_tokens": 1, "total_tokens": 71}
    streams: dict[str, list[Any]] = {
        "end": [piece("Hello"), piece(None, "stop"), {**piece(None), "choices": [], "usage": usage}],
        "finish": [piece("Hello"), piece(None, "stop", usage=usage)],
        "each": [piece("Hello", usage=growing), piece(" you", usage=usage), piece(None, "stop", usage=usage)],
    }
    canned.script = lambda exchange: exchange.events(*streams[place], "[DONE]")
    client = Client()
    stream = client.completion("openai/gpt-4o-mini", MESSAGES, api_key="k", api_base=canned.url, stream=True)
    chunks = list(stream)
    assert all(getattr(chunk, "usage", None) is None for chunk in chunks), "nobody asked for it"
    record = record_of(stream)
    assert (record.input_tokens, record.output_tokens, record.estimated) == (70, 30, False)
    assert record.cost == pytest.approx(70 * 0.15e-6 + 30 * 0.6e-6)
