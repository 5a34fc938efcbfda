"""No server can hold a caller longer than the timeout: not by silence, and not by sending nothing in many bytes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from bulkllm import Client, LimitTimeout, RateLimit, RetryPolicy, _litellm
from bulkllm.calls import record_of_error, wallclock

if TYPE_CHECKING:
    from tests.calls.conftest import CannedServer, Exchange

pytestmark = pytest.mark.usefixtures("warm")

MESSAGES = [{"role": "user", "content": "Say something."}]
TIMEOUT = 0.4
LONGER = 8.0  # for a machine that stood still while what is to be timed out had yet to begin
PATIENCE = 8.0  # what a busy machine may add to it

CHUNK = {
    "id": "x",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}],
}


def silent(exchange: Exchange) -> None:
    exchange.silence()


def blank(exchange: Exchange) -> None:
    """As DeepSeek does while it is busy."""
    exchange.begin(200, {"content-type": "application/json", "content-length": "1000000"})
    exchange.trickle(b"\n")


def keep_alive(exchange: Exchange) -> None:
    exchange.events()
    exchange.trickle(b": keep-alive\n\n")


def keep_alive_half_way(exchange: Exchange) -> None:
    exchange.events(CHUNK, CHUNK)
    exchange.trickle(b": keep-alive\n\n")


def silent_half_way(exchange: Exchange) -> None:
    exchange.events(CHUNK, CHUNK)
    exchange.silence()


def client() -> Client:
    return Client(limits=RateLimit(max_in_flight=3), retry=RetryPolicy(max_attempts=1))


def timed_out(work: Callable[[], Any], timeout: float = TIMEOUT) -> BaseException:
    """The Timeout that work ends with, soon after it should."""
    began = time.monotonic()
    with pytest.raises(_litellm.load().Timeout) as caught:
        work()
    assert timeout * 0.9 <= time.monotonic() - began < timeout + PATIENCE
    error: BaseException = caught.value
    return error


def call_in(
    in_task: bool, caller: Client, model: str, *, seen: list[Any] | None = None, **options: Any
) -> Callable[[], Any]:
    """A call, which puts what it got to see into ``seen``: the answer, then the pieces of a stream."""
    seen = [] if seen is None else seen

    async def in_a_task() -> None:
        answer = await caller.acompletion(model, MESSAGES, **options)
        seen.append(answer)
        if options.get("stream"):
            async for piece in answer:
                seen.append(piece)

    def in_thread() -> None:
        answer = caller.completion(model, MESSAGES, **options)
        seen.append(answer)
        if options.get("stream"):
            for piece in answer:
                seen.append(piece)

    return (lambda: asyncio.run(in_a_task())) if in_task else in_thread


both = pytest.mark.parametrize("in_task", [False, True], ids=["thread", "task"])


@both
@pytest.mark.parametrize("model", ["openai/m", "anthropic/claude-sonnet-4-5"])
@pytest.mark.parametrize("script", [silent, blank])
def test_an_answer(script: Callable[[Exchange], None], model: str, in_task: bool, canned: CannedServer) -> None:
    canned.script = script
    caller = client()
    error = timed_out(call_in(in_task, caller, model, timeout=TIMEOUT, api_base=canned.url, api_key="k"))
    record = record_of_error(error)
    assert record is not None
    assert (record.outcome, record.attempts, record.charge_unknown) == ("Timeout", 1, True)
    assert caller.limiter.status().in_flight == 0


@both
@pytest.mark.parametrize("model", ["openai/m", "deepseek/m"])
@pytest.mark.parametrize("script", [keep_alive, keep_alive_half_way])
def test_a_stream(script: Callable[[Exchange], None], model: str, in_task: bool, canned: CannedServer) -> None:
    canned.script = script

    def within(timeout: float) -> tuple[Client, BaseException, int]:
        caller, seen = client(), list[Any]()
        options: dict[str, Any] = {"timeout": timeout, "api_base": canned.url, "api_key": "k", "stream": True}
        error = timed_out(call_in(in_task, caller, model, seen=seen, **options), timeout)
        return caller, error, len(seen)

    caller, error, seen = within(TIMEOUT)
    if seen < (3 if script is keep_alive_half_way else 1):  # the stream had not begun
        caller, error, _ = within(LONGER)
    record = record_of_error(error)
    assert record is not None
    assert (record.outcome, record.charge_unknown, record.estimated) == ("Timeout", True, True)
    assert record.output_tokens == (2 if script is keep_alive_half_way else 0)
    assert caller.limiter.status().in_flight == 0
    assert caller.usage.total.requests == 1


@both
def test_a_deadline_that_is_shorter(in_task: bool, canned: CannedServer) -> None:
    canned.script = keep_alive_half_way

    def within(deadline: float) -> None:
        options: dict[str, Any] = {"deadline": deadline, "api_base": canned.url, "api_key": "k", "stream": True}
        timed_out(call_in(in_task, client(), "openai/m", **options), deadline)

    try:
        within(TIMEOUT)
    except LimitTimeout:  # it was over before anything could be sent
        within(LONGER)


def test_a_stream_that_falls_silent_ends_with_one_record(canned: CannedServer) -> None:
    canned.script = silent_half_way
    caller = client()
    work = call_in(False, caller, "openai/m", timeout=TIMEOUT, api_base=canned.url, api_key="k", stream=True)
    with pytest.raises(Exception, match=r".") as caught:  # LiteLLM's own clock may be the quicker one by a hair
        work()
    assert type(caught.value).__module__ == "litellm.exceptions"
    assert record_of_error(caught.value) is not None
    assert caller.usage.total.requests == 1
    assert caller.limiter.status().in_flight == 0


def only_exchange(canned: CannedServer) -> Exchange:
    """The one request, which may be on its way yet though its caller is gone."""
    end = time.monotonic() + 10
    while not canned.seen and time.monotonic() < end:
        time.sleep(0.01)
    return canned.seen[0]


def callers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "bulkllm-call"}


@pytest.mark.parametrize(
    ("script", "stream"), [(silent, False), (blank, False), (keep_alive, True), (keep_alive_half_way, True)]
)
def test_the_thread_of_a_call_that_was_given_up_ends_when_the_server_lets_go(
    script: Callable[[Exchange], None], stream: bool, canned: CannedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallclock, "_LINGER", 0.01)
    monkeypatch.setattr(wallclock, "_idle", [])
    before = callers()
    canned.script = script
    timed_out(call_in(False, client(), "openai/m", timeout=TIMEOUT, api_base=canned.url, api_key="k", stream=stream))
    only_exchange(canned).gone = True  # a server that lets go
    mine = callers() - before
    for thread in mine:
        thread.join(10)
    assert not any(thread.is_alive() for thread in mine)


def test_a_stream_that_ran_out_of_time_gives_its_connection_back(canned: CannedServer) -> None:
    canned.script = keep_alive_half_way
    timed_out(call_in(False, client(), "openai/m", timeout=TIMEOUT, api_base=canned.url, api_key="k", stream=True))
    exchange = only_exchange(canned)
    end = time.monotonic() + 10
    while not exchange.gone and time.monotonic() < end:
        time.sleep(0.01)
    assert exchange.gone, "the server has seen the client leave"
