"""LiteLLM's asynchronous HTTP handler and the OpenAI SDK send requests again, behind everybody's back; ours not."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import bulkllm
from bulkllm import _litellm
from bulkllm.caching import litellm_patch, litellm_resend, own_call
from bulkllm.calls import record_of_error
from bulkllm.testing import FakeProvider, Fault

MESSAGES = [{"role": "user", "content": "Say something."}]
NAME = "requests that are sent again"
SDK_NAME = "retries of the OpenAI SDK"
CALLS = ["anthropic/m", "mistral/m", "groq/m", "deepseek/m", "openai/m", "responses"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """LiteLLM as it is before the first call."""
    _litellm.load()
    bulkllm.unpatch()
    litellm_patch._declined = False
    yield
    bulkllm.unpatch()
    litellm_patch._declined = False


@pytest.fixture
def breaking() -> Iterator[FakeProvider]:
    """Whatever is asked, the connection is reset in place of an answer."""
    with FakeProvider(faults=[Fault("reset")]) as server:
        yield server


async def ask(caller: Any, what: str, server: FakeProvider, **options: Any) -> Any:
    keywords = {"api_base": server.url if what.startswith("anthropic") else server.openai_base, "api_key": "k"}
    if what == "responses":
        return await caller.aresponses(model="openai/m", input="hi", **keywords, **options)
    return await caller.acompletion(model=what, messages=MESSAGES, **keywords, **options)


def resends_after_a_cut() -> bool:
    return _litellm.major_minor(_litellm.version()) < (1, 106)


@pytest.mark.parametrize("what", CALLS)
async def test_a_call_is_sent_once(what: str, breaking: FakeProvider) -> None:
    with pytest.raises(Exception, match=r".+") as caught:
        await ask(bulkllm.Client(), what, breaking, num_retries=0)
    record = record_of_error(caught.value)
    assert record is not None
    assert (breaking.report().requests, record.attempts) == (1, 1)
    support = bulkllm.litellm_support()
    assert (NAME in support.mended, support.stood_aside) == (True, ())


async def test_our_retries_are_the_only_ones(breaking: FakeProvider) -> None:
    client = bulkllm.Client(retry=bulkllm.RetryPolicy(max_attempts=3, base_delay=0.001))
    with pytest.raises(Exception, match=r".+"):
        await ask(client, "anthropic/m", breaking)
    assert (breaking.report().requests, client.usage.total.attempts) == (3, 3)


async def test_calls_of_litellm_itself_are_sent_as_ever(breaking: FakeProvider) -> None:
    with FakeProvider() as server:
        await ask(bulkllm.Client(), "anthropic/m", server)
    assert NAME in bulkllm.litellm_support().mended
    with pytest.raises(Exception, match=r".+"):
        await ask(_litellm.load(), "anthropic/m", breaking, num_retries=0, max_retries=0)
    assert breaking.report().requests == (2 if resends_after_a_cut() else 1)


async def test_whoever_undoes_it_has_it_as_it_was(breaking: FakeProvider) -> None:
    bulkllm.unpatch()
    with pytest.raises(Exception, match=r".+"):
        await ask(bulkllm.Client(), "anthropic/m", breaking, num_retries=0)
    assert breaking.report().requests == (2 if resends_after_a_cut() else 1)
    assert bulkllm.litellm_support().mended == ()


async def test_calls_that_are_made_at_once_are_told_apart(breaking: FakeProvider) -> None:
    caught = await asyncio.gather(
        ask(bulkllm.Client(), "anthropic/m", breaking, num_retries=0),
        ask(_litellm.load(), "anthropic/m", breaking, num_retries=0, max_retries=0),
        return_exceptions=True,
    )
    assert all(isinstance(error, Exception) for error in caught)
    assert breaking.report().requests == (3 if resends_after_a_cut() else 2)


@pytest.mark.parametrize("model", ["anthropic/m", "openai/m", "deepinfra/m"])
def test_a_synchronous_call_is_sent_once(model: str, breaking: FakeProvider) -> None:
    base = breaking.url if model.startswith("anthropic") else breaking.openai_base
    with pytest.raises(Exception, match=r".+"):
        bulkllm.Client().completion(model, MESSAGES, api_base=base, api_key="k", num_retries=0)
    assert breaking.report().requests == 1
    assert SDK_NAME in bulkllm.litellm_support().mended


# The OpenAI SDK's own retries.


def sdk_retries() -> int:
    """How often the SDK would send a request again whose client says twice."""
    request_options = importlib.import_module(litellm_resend.SDK).FinalRequestOptions
    number: int = request_options.construct(method="post", url="/").get_max_retries(2)
    return number


async def test_what_a_call_leaves_behind_is_no_part_of_it() -> None:
    """LiteLLM's callbacks run in a copy of the call's context, and may ask the SDK themselves."""
    litellm_patch.stop_resending()
    over = asyncio.Event()

    async def callback() -> int:
        await over.wait()
        return sdk_retries()

    with own_call():
        task = asyncio.create_task(callback())
        assert sdk_retries() == 0
    over.set()
    assert await task == 2
    assert sdk_retries() == 2


def test_whoever_undoes_it_has_the_sdk_as_it_was() -> None:
    request_options = importlib.import_module(litellm_resend.SDK).FinalRequestOptions
    theirs = request_options.get_max_retries
    litellm_patch.stop_resending()
    assert request_options.get_max_retries is not theirs
    bulkllm.unpatch()
    assert request_options.get_max_retries is theirs


# A LiteLLM that looks unfamiliar.


def other_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm_resend, "HANDLER", "litellm.llms.renamed")


def other_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = importlib.import_module(litellm_resend.HANDLER).AsyncHTTPHandler
    (name,) = {name for mend in litellm_resend.MENDS for name in mend.functions if hasattr(cls, name)}
    monkeypatch.setattr(cls, name, lambda self, url, **_: None)


def a_failing_test(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = importlib.import_module(litellm_resend.HANDLER).AsyncHTTPHandler
    monkeypatch.setattr(cls, "post", lambda self, **_: 1 / 0)


def another_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm_resend, "SDK", "openai.renamed")


def another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    request_options = importlib.import_module(litellm_resend.SDK).FinalRequestOptions
    monkeypatch.setattr(request_options, "get_max_retries", lambda self, most, least=0: most)


def a_client_that_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    client = importlib.import_module("openai._base_client").AsyncAPIClient
    theirs = client.request

    async def request(*args: Any, **options: Any) -> Any:
        return await theirs(*args, **options)

    monkeypatch.setattr(client, "request", request)


@pytest.mark.parametrize(
    ("strange", "mended"),
    [
        (other_module, SDK_NAME),
        (other_signature, SDK_NAME),
        (a_failing_test, SDK_NAME),
        (another_sdk, NAME),
        (another_number, NAME),
        (a_client_that_does_not_ask, NAME),
    ],
)
async def test_an_unfamiliar_litellm_is_left_alone_with_one_warning(
    strange: Any, mended: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    strange(monkeypatch)
    client = bulkllm.Client()
    with FakeProvider() as server:
        for what in ("openai/m", "openai/m") if strange is a_failing_test else CALLS:
            assert await ask(client, what, server)
    (warning,) = [record for record in caplog.records if record.name.startswith("bulkllm")]
    assert warning.levelno == logging.WARNING
    assert f"LiteLLM {_litellm.version()}" in warning.getMessage()
    support = bulkllm.litellm_support()
    assert (support.mended, len(support.stood_aside)) == ((mended,), 1)
    assert client.usage.total.failed == 0


def test_looking_at_it_without_an_event_loop_leaves_nothing_behind() -> None:
    """The first synchronous call does it: LiteLLM's own stopwatch would leave a coroutine that nobody awaits."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        litellm_patch.stop_resending()
        gc.collect()
    assert not [warning for warning in warned if issubclass(warning.category, RuntimeWarning)]
    assert not litellm_patch.litellm_support().stood_aside
