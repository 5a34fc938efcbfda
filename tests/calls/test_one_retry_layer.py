"""There is one retry layer, and it is ours: what the server counts is what the record says."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from bulkllm import Client, ConfigError, LimitTimeout, RateLimit, RateLimiter, RetryPolicy, UsageRecord, _litellm
from bulkllm.calls import record_of, record_of_error
from bulkllm.testing import FakeProvider, Fault

if TYPE_CHECKING:
    from tests.calls.conftest import CannedServer, Exchange

pytestmark = pytest.mark.usefixtures("warm")

MESSAGES = [{"role": "user", "content": "Say something."}]
QUICK = RetryPolicy(max_attempts=3, base_delay=0.001)
ALL = [
    (provider, function)
    for provider, functions in {
        "openai": ("completion", "embedding", "responses"),
        "azure": ("completion", "embedding", "responses"),
        "anthropic": ("completion",),
        "mistral": ("completion", "embedding"),
        "fireworks_ai": ("embedding",),
        "hosted_vllm": ("completion", "embedding"),
        "deepseek": ("completion",),
        "text-completion-openai": ("completion",),
    }.items()
    for function in functions
]


# Of these LiteLLM loses max_retries on the way to the OpenAI SDK.
FORGETFUL = ["deepinfra", "nvidia_nim", "sambanova", "zai", "ai21", "ai21_chat", "baseten", "clf_ai_gateway",
             "codestral", "v0", "morph", "inception", "featherless_ai", "nscale", "hyperbolic"]  # fmt: skip


def of_litellm() -> tuple[type[Exception], ...]:
    return tuple(getattr(_litellm.load(), name) for name in ("RateLimitError", "InternalServerError", "APIError"))


def ask(client: Any, provider: str, function: str, server: FakeProvider, /, **options: Any) -> Any:
    """A call, synchronous or in a task."""
    own = provider in ("azure", "anthropic")
    keywords: dict[str, Any] = {"api_base": server.url if own else server.openai_base, "api_key": "sk-fake", **options}
    if provider == "azure":
        keywords["api_version"] = "2025-03-01-preview" if "responses" in function else "2024-02-01"
    what = MESSAGES if function.endswith("completion") else "Say something."
    result = getattr(client, function)(f"{provider}/fake-model", what, **keywords)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def failing(status: int, **options: Any) -> FakeProvider:
    return FakeProvider(faults=[Fault("status", status=status, **options)])


@pytest.fixture
def no_global_retries() -> Iterator[Any]:
    litellm = _litellm.load()
    yield litellm
    litellm.num_retries = None


@pytest.mark.parametrize("status", [500, 429])
@pytest.mark.parametrize("prefix", ["", "a"])
@pytest.mark.parametrize(("provider", "function"), ALL)
def test_the_server_counts_as_many_requests_as_there_were_attempts(
    provider: str, function: str, prefix: str, status: int
) -> None:
    client = Client(retry=QUICK)
    with failing(status) as server:
        with pytest.raises(of_litellm()) as caught:
            ask(client, provider, prefix + function, server)
        record = record_of_error(caught.value)
        assert record is not None
        assert (server.report().requests, record.attempts, client.usage.total.attempts) == (3, 3, 3)
    assert type(caught.value).__module__ == "litellm.exceptions"
    assert record.outcome == type(caught.value).__name__
    assert (record.cost, record.charge_unknown) == (0.0, False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("function", ["completion", "acompletion"])
@pytest.mark.parametrize("provider", FORGETFUL)
def test_nor_does_the_sdk_try_again_where_it_is_not_told_not_to(provider: str, function: str, stream: bool) -> None:
    if provider not in _litellm.load().provider_list:
        pytest.skip("this LiteLLM does not know it")
    client = Client(retry=RetryPolicy(max_attempts=6, base_delay=0.001, max_delay=0.001))
    with failing(500) as server:
        with pytest.raises(of_litellm()) as caught:
            ask(client, provider, function, server, stream=stream)
        record = record_of_error(caught.value)
        assert record is not None
        assert (server.report().requests, record.attempts) == (6, 6)


@pytest.mark.parametrize(
    ("provider", "function"),
    [
        *(("nvidia_nim", name) for name in ("embedding", "aembedding", "responses", "aresponses")),
        *(("sambanova", name) for name in ("embedding", "aembedding")),
        *(("deepinfra", name) for name in ("responses", "aresponses")),
    ],
)
def test_nor_for_vectors_and_responses(provider: str, function: str) -> None:
    client = Client(retry=QUICK)
    with failing(500) as server:
        with pytest.raises(of_litellm()):
            ask(client, provider, function, server)
        assert (server.report().requests, client.usage.total.attempts) == (3, 3)


@pytest.mark.parametrize("function", ["completion", "embedding"])
def test_nor_does_a_client_that_the_programs_own_call_has_left_in_litellm(function: str) -> None:
    client = Client(retry=QUICK)
    with FakeProvider(faults=[Fault("status", status=500, after=1)]) as server:
        ask(_litellm.load(), "azure", function, server)
        with pytest.raises(of_litellm()):
            ask(client, "azure", function, server)
        assert (server.report().requests, client.usage.total.attempts) == (1 + 3, 3)


@pytest.mark.parametrize("function", ["acompletion", "aembedding"])
async def test_nor_in_a_task(function: str) -> None:
    client = Client(retry=QUICK)
    what = MESSAGES if function == "acompletion" else "Say something."
    with FakeProvider(faults=[Fault("status", status=500, after=1)]) as server:
        options = {"api_base": server.url, "api_key": "sk-fake", "api_version": "2024-02-01"}
        await getattr(_litellm.load(), function)("azure/fake-model", what, **options)
        with pytest.raises(of_litellm()):
            await getattr(client, function)("azure/fake-model", what, **options)
        assert (server.report().requests, client.usage.total.attempts) == (1 + 3, 3)


@pytest.mark.parametrize("provider", ["azure", "text-completion-openai"])
def test_nor_does_a_client_of_the_callers_which_is_left_as_it_is(provider: str) -> None:
    openai = importlib.import_module("openai")
    client = Client(retry=QUICK)
    with failing(500) as server:
        own = (
            openai.AzureOpenAI(azure_endpoint=server.url, api_key="k", api_version="2024-02-01")
            if provider == "azure"
            else openai.OpenAI(base_url=server.openai_base, api_key="k")
        )
        with own, pytest.raises(of_litellm()):
            ask(client, provider, "completion", server, client=own)
        assert (server.report().requests, client.usage.total.attempts) == (3, 3)
    assert own.max_retries == 2


def test_calls_that_the_program_makes_of_litellm_are_tried_again_as_ever() -> None:
    litellm = _litellm.load()
    number = litellm.DEFAULT_MAX_RETRIES
    assert number > 0
    with failing(500, retry_after="0.001") as server:
        with pytest.raises(of_litellm()):
            ask(Client(retry=QUICK), "mistral", "embedding", server)
        assert server.report().requests == 3
        with pytest.raises(of_litellm()):
            litellm.embedding("mistral/fake-model", "Say something.", api_base=server.openai_base, api_key="k")
        assert server.report().requests == 3 + 1 + number
    assert number == litellm.DEFAULT_MAX_RETRIES


@pytest.mark.parametrize(
    "function", ["completion", "acompletion", "embedding", "aembedding", "responses", "aresponses"]
)
def test_a_number_of_retries_set_for_all_of_litellm_is_no_second_layer(
    function: str, no_global_retries: Any, caplog: pytest.LogCaptureFixture
) -> None:
    no_global_retries.num_retries = 3
    client = Client(retry=QUICK)
    with failing(500) as server, caplog.at_level(logging.WARNING, "bulkllm"):
        with pytest.raises(no_global_retries.InternalServerError):
            ask(client, "openai", function, server)
        assert server.report().requests == 3
    assert "num_retries is cleared" in caplog.text


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        ({"num_retries": 0}, 1),
        ({"num_retries": 1}, 2),
        ({"max_retries": 0}, 1),
        ({"max_retries": 3}, 4),
        ({"num_retries": 0, "max_retries": 5}, 1),
        ({"num_retries": None}, 3),
        ({}, 3),
    ],
)
@pytest.mark.parametrize("function", ["completion", "aembedding"])
def test_litellms_keywords_for_retries_mean_our_policy(function: str, options: dict[str, Any], requests: int) -> None:
    with failing(500) as server:
        with pytest.raises(_litellm.load().InternalServerError):
            ask(Client(retry=QUICK), "openai", function, server, **options)
        assert server.report().requests == requests


@pytest.mark.parametrize("option", ["retry_policy", "retry_strategy"])
def test_a_second_layer_of_litellms_is_refused(option: str) -> None:
    with FakeProvider() as server:
        with pytest.raises(ConfigError, match=option):
            ask(Client(), "openai", "completion", server, **{option: "exponential_backoff_retry"})
        assert server.report().requests == 0


@pytest.mark.parametrize(
    "option", ["fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "context_window_fallback_dict"]
)
@pytest.mark.parametrize("function", ["completion", "aembedding", "responses"])
def test_so_is_what_would_ask_other_models(option: str, function: str) -> None:
    value: Any = {"fake-model": "openai/b"} if option.endswith("dict") else ["openai/b"]
    with FakeProvider() as server:
        with pytest.raises(ConfigError, match=f"{option}=.*except clause"):
            ask(Client(), "openai", function, server, **{option: value})
        assert server.report().requests == 0


def test_but_not_the_absence_of_other_models() -> None:
    with FakeProvider() as server:
        assert ask(Client(), "openai", "completion", server, fallbacks=None, context_window_fallback_dict={})
        assert server.report().requests == 1


@pytest.mark.parametrize("function", ["completion", "acompletion"])
def test_other_models_set_for_all_of_litellm_are_not_asked(
    function: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    litellm = _litellm.load()
    monkeypatch.setattr(litellm, "model_fallbacks", ["openai/b"])
    client = Client(retry=QUICK)
    with failing(500) as server, caplog.at_level(logging.WARNING, "bulkllm"):
        with pytest.raises(litellm.InternalServerError):
            ask(client, "openai", function, server)
        assert (list(server.report().models), server.report().requests) == (["fake-model"], 3)
    assert "model_fallbacks is cleared" in caplog.text


@pytest.mark.parametrize("number", [-1, "two", 1.5, True])
def test_a_senseless_number_of_retries_is_refused(number: Any) -> None:
    with FakeProvider() as server, pytest.raises(ConfigError, match="num_retries"):
        ask(Client(), "openai", "completion", server, num_retries=number)


def test_a_stream_is_tried_again_until_it_begins() -> None:
    client = Client(retry=QUICK)
    with FakeProvider(faults=[Fault("status", status=503, first=2)]) as server:
        stream = ask(client, "openai", "completion", server, stream=True)
        assert len(list(stream)) > 3
        assert server.report().requests == 3
    assert record_of(stream).attempts == 3


# -- what is final -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (Fault("quota"), "RateLimitError"),
        (Fault("status", status=400), "BadRequestError"),
        (Fault("status", status=401), "AuthenticationError"),
        (Fault("status", status=403), "APIError"),
        (Fault("status", status=404), "NotFoundError"),
        (Fault("status", status=422), "BadRequestError"),
    ],
)
@pytest.mark.parametrize("function", ["completion", "acompletion", "embedding", "responses"])
def test_what_waiting_does_not_mend_is_asked_once(fault: Fault, name: str, function: str) -> None:
    client = Client(retry=QUICK, limits=RateLimit(rpm=100, tpm=10_000, period=1e9))
    with FakeProvider(faults=[fault]) as server:
        with pytest.raises(getattr(_litellm.load(), name)) as caught:
            ask(client, "openai", function, server)
        assert server.report().requests == 1
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.attempts, record.cost, record.total_tokens) == (1, 0.0, 0)
    status = client.limiter.status()
    assert status.in_flight == 0
    assert status.remaining["tpm"] == pytest.approx(10_000, abs=0.1), "a request that was turned away used no tokens"
    assert status.remaining["rpm"] == pytest.approx(99, abs=0.1)


def test_no_money_is_asked_once_at_anthropic_too() -> None:
    with FakeProvider(faults=[Fault("quota")]) as server:
        with pytest.raises(_litellm.load().BadRequestError, match="credit balance"):
            ask(Client(retry=QUICK), "anthropic", "completion", server)
        assert server.report().requests == 1


def test_an_answer_that_litellm_turns_down_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking again because of an answer's content is not for completion to decide."""
    litellm = _litellm.load()
    monkeypatch.setattr(litellm, "post_call_rules", [lambda answer: "JSON" not in answer])
    client = Client(retry=QUICK, limits=RateLimit(tpm=10_000, period=1e9))
    with FakeProvider(reply="this is no JSON") as server:
        with pytest.raises(litellm.APIResponseValidationError) as caught:
            ask(client, "openai", "completion", server)
        assert server.report().successes == 1
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.cost, record.charge_unknown) == (None, True)
    assert client.limiter.status().remaining["tpm"] < 9900, "the provider has worked: the tokens stay counted"


# -- the provider's own word ---------------------------------------------------------------------------------

HINTS: list[tuple[dict[str, str], float]] = [
    ({"retry-after": "0.2"}, 0.2),
    ({"Retry-After": "0.2"}, 0.2),
    ({"retry-after-ms": "200"}, 0.2),
    ({"retry-after-ms": "200", "retry-after": "9"}, 0.2),
    ({"retry-after": "200ms"}, 0.2),
]


def refuse_then_answer(headers: Callable[[], dict[str, str]]) -> Callable[[Exchange], None]:
    count = iter(range(100))

    def script(exchange: Exchange) -> None:
        exchange.moment = time.monotonic()
        if next(count) == 0:
            exchange.answer(429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, headers())
        else:
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            message = {"role": "assistant", "content": "hi"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            exchange.answer(200, {**answer, "usage": usage})

    return script


@pytest.mark.parametrize(("headers", "least"), HINTS)
@pytest.mark.parametrize("function", ["completion", "acompletion"])
def test_a_wait_that_the_provider_asks_for_is_kept(
    headers: dict[str, str], least: float, function: str, canned: CannedServer
) -> None:
    canned.script = refuse_then_answer(lambda: headers)
    client = Client(retry=RetryPolicy(max_attempts=2, base_delay=0.0))
    result = getattr(client, function)("openai/m", MESSAGES, api_base=canned.url, api_key="k")
    answer = asyncio.run(result) if asyncio.iscoroutine(result) else result
    first, second = canned.seen
    assert second.moment - first.moment >= least - 0.01
    assert second.moment - first.moment < 8, "and not the longer one"
    assert record_of(answer).attempts == 2


def test_a_date_is_a_wait_too(canned: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    canned.script = refuse_then_answer(lambda: {"retry-after": formatdate(time.time() + 100, usegmt=True)})
    slept: list[float] = []
    monkeypatch.setattr("bulkllm.calls.effects.time.sleep", slept.append)
    client = Client(RateLimiter(learn=False))  # one that listens waits for the pool to open, not for this call alone
    client.completion("openai/m", MESSAGES, api_base=canned.url, api_key="k")
    assert len(slept) == 1
    assert 95 < slept[0] < 111


def test_geminis_wait_stands_in_its_body(canned: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "InputTokensPerMinute"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "41.5s"},
    ]
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down", "details": details}}
    canned.script = lambda exchange: exchange.answer(429, error)
    slept: list[float] = []
    monkeypatch.setattr("bulkllm.calls.effects.time.sleep", slept.append)
    with pytest.raises(_litellm.load().RateLimitError):
        Client(RateLimiter(learn=False), retry=RetryPolicy(max_attempts=2)).completion(
            "gemini/gemini-2.5-flash", MESSAGES, api_base=f"{canned.url}/v1", api_key="k"
        )
    assert len(canned.seen) == 2
    assert len(slept) == 1
    assert 41.5 <= slept[0] <= 46


def test_a_wait_of_an_hour_is_not_waited_for() -> None:
    with failing(429, retry_after="3600") as server:
        began = time.monotonic()
        with pytest.raises(_litellm.load().RateLimitError):
            ask(Client(), "openai", "completion", server)
        assert time.monotonic() - began < 10
        assert server.report().requests == 1


# -- the error that comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["completion", "acompletion"])
def test_the_last_error_is_the_object_that_litellm_raised(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of the attempts before hangs on it."""
    litellm = _litellm.load()
    raised: list[BaseException] = []
    plain = getattr(litellm, function)

    def keep(error: BaseException) -> None:
        raised.append(error)

    def watched(**options: Any) -> Any:
        try:
            return plain(**options)
        except BaseException as error:
            keep(error)
            raise

    async def awatched(**options: Any) -> Any:
        try:
            return await plain(**options)
        except BaseException as error:
            keep(error)
            raise

    monkeypatch.setattr(litellm, function, awatched if function == "acompletion" else watched)
    with failing(500) as server, pytest.raises(litellm.InternalServerError) as caught:
        ask(Client(retry=QUICK), "openai", function, server)
    assert len(raised) == 3
    assert caught.value is raised[2]
    link: BaseException | None = caught.value
    while link is not None:
        assert link not in raised[:2]
        link = link.__cause__ or link.__context__
    assert record_of_error(caught.value) is not None
    assert record_of_error(raised[0]) is None


async def test_a_fallback_in_an_except_block_is_tried_again_like_any_call() -> None:
    """The error that is being handled there is no part of the second call's errors."""
    litellm = _litellm.load()
    client = Client(retry=QUICK)

    async def with_fallback(first: FakeProvider, second: FakeProvider) -> None:
        try:
            await client.acompletion("openai/a", MESSAGES, api_base=first.openai_base, api_key="k")
        except litellm.RateLimitError:
            await client.acompletion("openai/b", MESSAGES, api_base=second.openai_base, api_key="k")

    with FakeProvider(faults=[Fault("quota")]) as first, failing(500) as second:
        with pytest.raises(litellm.InternalServerError) as caught:
            await with_fallback(first, second)
        assert (first.report().requests, second.report().requests) == (1, 3)
    record = record_of_error(caught.value)
    assert record is not None
    assert record.attempts == 3


async def test_nor_does_a_missing_package_of_the_callers_end_the_retries() -> None:
    client = Client(retry=QUICK)
    with failing(500) as server:
        try:
            importlib.import_module("a_package_that_is_not_there")
        except ImportError:
            with pytest.raises(_litellm.load().InternalServerError):
                await client.acompletion("openai/a", MESSAGES, api_base=server.openai_base, api_key="k")
        assert server.report().requests == 3


# -- deadlines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["completion", "acompletion"])
def test_a_deadline_before_the_next_attempt_raises_the_providers_error(function: str) -> None:
    with failing(429, retry_after="30") as server:
        began = time.monotonic()
        with pytest.raises(_litellm.load().RateLimitError) as caught:
            ask(Client(retry=QUICK), "openai", function, server, deadline=20.0)
        assert time.monotonic() - began < 20
        assert server.report().requests == 1
    assert record_of_error(caught.value) is not None


@pytest.mark.parametrize("function", ["completion", "acompletion"])
def test_a_deadline_spans_all_attempts(function: str) -> None:
    policy = RetryPolicy(max_attempts=1000, base_delay=0.05, max_delay=0.05)
    litellm = _litellm.load()

    def within(deadline: float) -> tuple[BaseException, UsageRecord, int]:
        with failing(500) as server:
            began = time.monotonic()
            # The last attempt may have been given less time than it took.
            with pytest.raises((litellm.InternalServerError, litellm.Timeout, LimitTimeout)) as caught:
                ask(Client(retry=policy), "openai", function, server, deadline=deadline)
            assert time.monotonic() - began < deadline + 18
            record = record_of_error(caught.value)
            assert record is not None
            return caught.value, record, server.report().requests

    error, record, requests = within(2.0)
    if record.attempts < 2:  # the machine stood still, and with the first attempt the deadline was over
        error, record, requests = within(20.0)
    assert not isinstance(error, LimitTimeout)
    assert record.attempts > 1
    assert record.attempts - 1 <= requests <= record.attempts


@pytest.mark.parametrize("function", ["completion", "acompletion"])
def test_a_deadline_that_passes_in_line_for_another_attempt_raises_the_providers_error(function: str) -> None:
    litellm = _litellm.load()

    def within(deadline: float) -> tuple[Client, BaseException, UsageRecord, int]:
        client = Client(limits=RateLimit(rpm=1), retry=QUICK)
        with failing(500) as server:
            with pytest.raises((litellm.InternalServerError, litellm.Timeout, LimitTimeout)) as caught:
                ask(client, "openai", function, server, deadline=deadline)
            record = record_of_error(caught.value)
            assert record is not None
            return client, caught.value, record, server.report().requests

    client, error, record, requests = within(3.0)
    if record.waited < 0.1:  # the machine stood still, and with the first attempt the deadline was over
        client, error, record, requests = within(20.0)
    assert isinstance(error, litellm.InternalServerError)
    assert requests == 1
    assert (record.outcome, record.attempts) == ("InternalServerError", 1)
    assert record.waited > 0.1
    assert client.usage.total.requests == 1
    assert (client.limiter.status().in_flight, client.limiter.status().waiting) == (0, 0)
