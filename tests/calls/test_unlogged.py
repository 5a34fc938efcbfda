"""LiteLLM makes no log entry of an answer where nobody would read it, and one as ever where somebody would."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm import Client, RetryPolicy, UsageTracker, _litellm
from bulkllm.calls import unlogged
from bulkllm.testing import FakeProvider, Fault

pytestmark = pytest.mark.usefixtures("warm")

MODEL = "openai/gpt-4.1-mini"
MESSAGES = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LiteLLM, with nobody listening yet; what a test hangs into its lists is taken out again."""
    litellm = _litellm.load()
    for name in (*unlogged._CALLBACKS, "service_callback"):
        monkeypatch.setattr(litellm, name, [])
    monkeypatch.setattr(litellm.utils, "callback_list", [])
    return litellm


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    switch = unlogged._switch
    switch.cache_clear()
    yield
    switch.cache_clear()


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts of which LiteLLM makes an entry after an asynchronous call."""
    logging_class = importlib.import_module("litellm.litellm_core_utils.litellm_logging").Logging
    found: list[str] = []
    theirs = logging_class.async_success_handler

    async def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(self.messages[0]["content"])
        return await theirs(self, *args, **kwargs)

    monkeypatch.setattr(logging_class, "async_success_handler", noted)
    return found


class Heard:
    """What a callback is told, from whatever thread."""

    def __init__(self) -> None:
        self.successes: list[str] = []
        self.failures: list[str] = []

    def success(self, kwargs: Any, *_: Any) -> None:
        self.successes.append(kwargs["messages"][0]["content"])

    async def asuccess(self, kwargs: Any, *_: Any) -> None:
        self.success(kwargs)

    def failure(self, kwargs: Any, *_: Any) -> None:
        self.failures.append(kwargs["messages"][0]["content"])

    def logger(self) -> Any:
        """LiteLLM's own kind of callback."""
        heard = self
        base: Any = importlib.import_module("litellm.integrations.custom_logger").CustomLogger

        class Logger(base):  # type: ignore[misc] # LiteLLM's, imported late
            async def async_log_success_event(
                self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
            ) -> None:
                heard.success(kwargs)

            def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
                heard.success(kwargs)

        return Logger()


def to(server: FakeProvider) -> dict[str, Any]:
    return {"api_base": server.openai_base, "api_key": "k"}


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def until(entries: list[str], text: str) -> None:
    """Entries are made in the order of the answers, in tasks and threads of LiteLLM's."""
    while text not in entries:
        await asyncio.sleep(0.001)


async def test_nobody_reads_it_so_it_is_not_made(server: FakeProvider, litellm: Any, entries: list[str]) -> None:
    usage = UsageTracker()
    await Client(usage=usage).acompletion(MODEL, say("ours"), **to(server))
    answer = await litellm.acompletion(MODEL, say("the program's own"), **to(server))
    await until(entries, "the program's own")
    assert entries == ["the program's own"]
    assert answer._hidden_params["response_cost"] > 0
    assert usage.total.cost > 0
    assert usage.total.requests == 1


async def test_the_answer_has_its_cost_either_way(
    server: FakeProvider, litellm: Any, entries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert litellm
    client = Client()
    quiet = await client.acompletion(MODEL, MESSAGES, mock_response="Something.", **to(server))
    monkeypatch.setattr(unlogged, "_switch", lambda: None)
    logged = await client.acompletion(MODEL, MESSAGES, mock_response="Something.", **to(server))
    await until(entries, MESSAGES[0]["content"])
    ask = ("response_cost", "additional_headers", "api_base", "model_id")
    assert [quiet._hidden_params.get(name) for name in ask] == [logged._hidden_params.get(name) for name in ask]
    assert quiet._hidden_params["response_cost"] > 0
    assert set(quiet._hidden_params) == set(logged._hidden_params)


def hang_logger(litellm: Any, heard: Heard) -> dict[str, Any]:
    litellm.callbacks.append(heard.logger())
    return {}


def hang_function(litellm: Any, heard: Heard) -> dict[str, Any]:
    litellm.success_callback.append(heard.success)
    return {}


def hang_coroutine(litellm: Any, heard: Heard) -> dict[str, Any]:
    litellm._async_success_callback.append(heard.asuccess)
    return {}


def give_function(_: Any, heard: Heard) -> dict[str, Any]:
    return {"success_callback": [heard.success]}


def give_logger(_: Any, heard: Heard) -> dict[str, Any]:
    return {"callbacks": [heard.logger()]}


def give_coroutine(_: Any, heard: Heard) -> dict[str, Any]:
    return {"success_callback": [heard.asuccess]}


# Of asynchronous calls LiteLLM tells loggers and coroutine functions.
@pytest.mark.parametrize("hang", [hang_logger, hang_coroutine, give_coroutine, give_logger])
async def test_who_listens_is_told(
    server: FakeProvider, litellm: Any, hang: Callable[[Any, Heard], dict[str, Any]]
) -> None:
    heard = Heard()
    client = Client()
    await client.acompletion(MODEL, say("before anybody listens"), **to(server))
    options = hang(litellm, heard)
    await client.acompletion(MODEL, say("heard"), **to(server), **options)
    await until(heard.successes, "heard")
    assert "before anybody listens" not in heard.successes


@pytest.mark.parametrize("hang", [hang_logger, hang_function, give_function])
async def test_of_a_synchronous_call_too(
    server: FakeProvider, litellm: Any, hang: Callable[[Any, Heard], dict[str, Any]]
) -> None:
    heard = Heard()
    options = hang(litellm, heard)
    await asyncio.to_thread(Client().completion, MODEL, say("heard"), **to(server), **options)
    await until(heard.successes, "heard")


async def test_and_of_a_failure(litellm: Any) -> None:
    heard = Heard()
    litellm.failure_callback.append(heard.failure)
    with FakeProvider(faults=[Fault("status", status=400)]) as broken:
        with pytest.raises(litellm.BadRequestError):
            await Client(retry=RetryPolicy(max_attempts=1)).acompletion(MODEL, say("failed"), **to(broken))
        await until(heard.failures, "failed")


async def test_a_coroutine_is_told_of_the_attempt_that_succeeds(litellm: Any) -> None:
    """LiteLLM takes it out of the list that it is given, at each attempt."""
    assert litellm
    heard = Heard()
    given = [heard.asuccess]
    with FakeProvider(faults=[Fault("status", status=500, first=2)]) as broken:
        client = Client(retry=RetryPolicy(max_attempts=3, base_delay=0.001))
        await client.acompletion(MODEL, say("heard"), success_callback=given, **to(broken))
        assert broken.report().requests == 3
    assert given == [heard.asuccess]
    await until(heard.successes, "heard")


async def test_what_a_provider_of_ones_own_asks_of_litellm_is_logged(
    server: FakeProvider, litellm: Any, entries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Any = litellm.CustomLLM

    class Mine(base):  # type: ignore[misc] # LiteLLM's, imported late
        async def acompletion(self, *_: Any, **__: Any) -> Any:
            return await litellm.acompletion(MODEL, say("inner"), **to(server))

    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "mine", "custom_handler": Mine()}])
    await Client().acompletion("mine/x", say("ours"))
    await litellm.acompletion(MODEL, say("the last one"), **to(server))
    await until(entries, "the last one")
    assert "inner" in entries


@pytest.mark.parametrize(
    ("name", "value"), [("max_budget", 1000.0), ("set_verbose", True), ("log_raw_request_response", True)]
)
async def test_what_is_kept_up_by_the_entries_stays_so(
    server: FakeProvider, litellm: Any, entries: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setattr(litellm, name, value)
    await Client().acompletion(MODEL, say("ours"), **to(server))
    await until(entries, "ours")


async def test_who_reads_the_log_of_litellm_at_debug_reads_all(
    server: FakeProvider, litellm: Any, entries: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert litellm
    with caplog.at_level(logging.DEBUG, "LiteLLM"):
        await Client().acompletion(MODEL, say("ours"), **to(server))
        await until(entries, "ours")


async def test_who_has_entries_printed_has_them_printed(
    server: FakeProvider, litellm: Any, entries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert litellm
    monkeypatch.setenv("LITELLM_PRINT_STANDARD_LOGGING_PAYLOAD", "1")
    await Client().acompletion(MODEL, say("ours"), **to(server))
    await until(entries, "ours")


@pytest.mark.parametrize("version", ["1.84.9", "1.111.0", "2.0.0", "unknown"])
async def test_a_version_that_is_not_familiar_logs_as_ever(
    server: FakeProvider, litellm: Any, entries: list[str], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    assert litellm
    monkeypatch.setattr(_litellm, "version", lambda: version)
    await Client().acompletion(MODEL, say("ours"), **to(server))
    await until(entries, "ours")


@pytest.mark.parametrize("missing", ["another kind", "no name", "no module"])
async def test_nor_does_one_without_the_switch_break(
    server: FakeProvider, litellm: Any, entries: list[str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    assert litellm
    theirs = importlib.import_module

    class Empty:
        pass

    class Other:
        is_internal_call = False

    def imported(name: str, *args: Any) -> Any:
        if name != "litellm._internal_context":
            return theirs(name, *args)
        if missing == "no module":
            raise ModuleNotFoundError(name)
        return Empty if missing == "no name" else Other

    monkeypatch.setattr(importlib, "import_module", imported)
    await Client().acompletion(MODEL, say("ours"), **to(server))
    await until(entries, "ours")


async def test_the_switch_is_off_again_after_each_call(server: FakeProvider, litellm: Any, entries: list[str]) -> None:
    client = Client()
    await client.acompletion(MODEL, say("ours"), **to(server))
    with FakeProvider(faults=[Fault("status", status=400)]) as broken, pytest.raises(litellm.BadRequestError):
        await client.acompletion(MODEL, say("ours"), **to(broken))
    switch = unlogged._switch()
    assert switch is not None
    assert switch.get() is False
    await litellm.acompletion(MODEL, say("the program's own"), **to(server))
    await until(entries, "the program's own")
    assert entries == ["the program's own"]


SETTINGS = [
    "callbacks", "input_callback", "success_callback", "failure_callback", "_async_input_callback",
    "_async_success_callback", "_async_failure_callback", "cache", "max_budget", "set_verbose",
    "log_raw_request_response", "custom_provider_map",
]  # fmt: skip
OPTIONS = [
    "callbacks", "input_callback", "success_callback", "failure_callback", "logger_fn", "litellm_logging_obj",
    "log_raw_request_response",
]  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_by_which_somebody_reads_entries_is_known(litellm: Any, name: str) -> None:
    assert hasattr(litellm, name)
    assert unlogged._is_read(SimpleNamespace(**{name: [object()]}), {})
    assert not unlogged._is_read(SimpleNamespace(**{name: []}), {})


@pytest.mark.parametrize("name", OPTIONS)
def test_and_each_option_of_a_call(name: str) -> None:
    assert unlogged._is_read(SimpleNamespace(), {"model": "m", name: [object()]})
    assert not unlogged._is_read(SimpleNamespace(), {"model": "m", name: None})
