"""No key, prompt or answer in what we log, raise, show or record."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bulkllm import BulkLLMError, Client, RateLimit, RetryPolicy, _litellm
from bulkllm.calls import gateway, record_of, record_of_error
from bulkllm.calls.call import Call
from bulkllm.calls.effects import Send
from bulkllm.calls.gateway import LiteLLMLane
from bulkllm.testing import FakeProvider, Fault

KEY = "sk-KeyThatNobodyMaySee"
PROMPT = "PromptThatNobodyMaySee"
ANSWER = "AnswerThatNobodyMaySee"
PASSWORD = "PasswordThatNobodyMaySee"
SECRETS = (KEY, PROMPT, ANSWER, PASSWORD)
MODEL = "openai/gpt-4.1-mini"


def messages() -> list[dict[str, str]]:
    return [{"role": "user", "content": PROMPT}]


def clean(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that our own loggers say."""
    with caplog.at_level(logging.DEBUG, "bulkllm"):
        yield caplog
    ours = [record for record in caplog.records if record.name.startswith("bulkllm")]
    for record in ours:
        text = logging.Formatter().format(record)
        assert clean(text), text


def make_call() -> Call:
    options = {"model": MODEL, "messages": messages(), "api_key": KEY, "api_base": f"http://u:{PASSWORD}@h/v1"}
    return Call(operation="completion", model=MODEL, requested_model=MODEL, provider="openai", options=options)


def test_a_call_shows_none() -> None:
    call = make_call()
    assert clean(repr(call))
    assert clean(repr(Send(LiteLLMLane(), call, 3.0)))
    assert MODEL in repr(call)


FAILURES = [
    Fault("status", status=500),
    Fault("status", status=429, retry_after="0"),
    Fault("status", status=400),
    Fault("status", status=401),
    Fault("quota"),
    Fault("truncate"),
    Fault("reset"),
]


@pytest.mark.parametrize("fault", [None, *FAILURES], ids=lambda fault: f"{fault.kind}{fault.status}" if fault else "ok")
@pytest.mark.parametrize("in_task", [False, True], ids=["thread", "task"])
def test_neither_success_nor_failure_tells_any(
    fault: Fault | None, in_task: bool, log: pytest.LogCaptureFixture
) -> None:
    client = Client(limits=RateLimit(rpm=1000, tpm=10**6), retry=RetryPolicy(max_attempts=2, base_delay=0.001))
    with FakeProvider(faults=[fault] if fault else [], reply=ANSWER) as server:
        base = server.openai_base.replace("://", f"://user:{PASSWORD}@")
        options: dict[str, Any] = {"api_base": base, "api_key": KEY, "tags": {"a": "b"}}
        try:
            if in_task:
                answer = asyncio.run(client.acompletion(MODEL, messages(), **options))
            else:
                answer = client.completion(MODEL, messages(), **options)
        except _litellm.load().exceptions.openai.OpenAIError as error:
            record = record_of_error(error)
        else:
            assert answer.choices[0].message.content == ANSWER
            record = record_of(answer)
    assert record is not None
    told = json.dumps(record.to_dict()) + repr(record) + repr(client.limiter.status()) + repr(client)
    assert clean(told + json.dumps(client.usage.to_dict()))


@pytest.mark.usefixtures("log")
def test_streams_tell_none() -> None:
    client = Client()
    with FakeProvider(reply=ANSWER) as server:
        stream = client.completion(MODEL, messages(), stream=True, api_base=server.openai_base, api_key=KEY)
        assert clean(repr(stream))
        next(stream)
        stream.close()
    assert clean(repr(record_of(stream)) + repr(stream))


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.completion(MODEL, messages(), api_key=KEY, tags=PROMPT),
        lambda client: client.completion(MODEL, messages(), api_key=KEY, max_tokens=10**6),
        lambda client: client.completion(MODEL, messages(), api_key=KEY, retry_policy={"key": KEY}),
        lambda client: client.completion([PROMPT], messages(), api_key=KEY),
        lambda client: client.embedding(MODEL, [PROMPT] * 10**5, api_key=KEY),
    ],
)
@pytest.mark.usefixtures("log")
def test_our_own_errors_tell_none(ask: Callable[[Client], Any]) -> None:
    with pytest.raises(BulkLLMError) as caught:
        ask(Client(limits=RateLimit(tpm=1000)))
    assert clean(str(caught.value) + repr(caught.value.args))


@pytest.mark.usefixtures("log")
def test_a_cost_calculator_that_breaks_takes_no_answer_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a new field")

    monkeypatch.setattr(gateway, "cost_of", breaks)
    client = Client()
    with FakeProvider(reply=ANSWER) as server:
        options: dict[str, Any] = {"api_base": server.openai_base, "api_key": KEY}
        answer = client.completion(MODEL, messages(), **options)
        stream = client.completion(MODEL, messages(), stream=True, **options)
        list(stream)
    for record in (record_of(answer), record_of(stream)):
        assert (record.outcome, record.cost) == ("ok", None)
        assert record.cost_note
        assert record.output_tokens > 0
