"""The quota of a day that is spent: whole calls through LiteLLM, against a provider that enforces it."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bulkllm import Budget, Cache, Client, ConfigError, QuotaExhausted, RateLimit, RateLimiter, RetryPolicy, _litellm
from bulkllm.calls import record_of_error
from bulkllm.calls.account import Account
from bulkllm.calls.call import Call
from bulkllm.calls.quota import patience_left, quota_of
from bulkllm.testing import FakeClock, FakeProvider, Fault

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed (connector|client session):ResourceWarning"),
    pytest.mark.filterwarnings(r"ignore:coroutine '(?!Client|CallStream)\w+\.\w+' was never awaited:RuntimeWarning"),
]

MESSAGES = [{"role": "user", "content": "Say something."}]
HOUR = 3_600.0

# A day of 0.72 s, in which so many requests come back one by one.
SHORT: dict[str, Any] = {"rpd": 30, "period": 0.0005}


def client_of(limits: Any = None, **options: Any) -> Client:
    return Client(limits or RateLimiter(memory=None), **options)


def options_for(provider: str, server: FakeProvider) -> dict[str, Any]:
    base = server.base_of("gemini") if provider == "gemini" else server.openai_base
    model = "gemini-2.5-flash" if provider == "gemini" else "m"
    return {"model": f"{provider}/{model}", "messages": MESSAGES, "api_base": base, "api_key": "sk-fake"}


@pytest.fixture(params=["openai", "groq", "gemini"])
def spent(request: pytest.FixtureRequest) -> Iterator[tuple[FakeProvider, dict[str, Any], str]]:
    """A provider whose day is spent by somebody else already, and how to ask it."""
    provider: str = request.param
    with FakeProvider(rpd=2, headers="groq" if provider == "groq" else "auto") as server:
        path = "/v1beta/models/gemini-2.5-flash:generateContent" if provider == "gemini" else "/v1/chat/completions"
        body = {"model": "m", "messages": MESSAGES, "contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            connection.request("POST", path, json.dumps(body))
            assert connection.getresponse().status == 200
            connection.close()
        yield server, options_for(provider, server), provider


def refused(error: BaseException | None) -> bool:
    """Whether it is LiteLLM's; some of its streams are sent when they are first read, and wrap it."""
    kind: type[Exception] = _litellm.load().RateLimitError
    return isinstance(error, kind) or isinstance(getattr(error, "original_exception", None), kind)


@pytest.mark.parametrize("how", ["sync", "async", "stream", "async stream"])
def test_the_refused_call_raises_litellms_error_and_the_next_ours(
    spent: tuple[FakeProvider, dict[str, Any], str], how: str
) -> None:
    server, options, provider = spent
    client = client_of(budget=Budget(max_requests=50))
    options["stream"] = "stream" in how

    async def ask() -> Any:
        response = await client.acompletion(**options)
        if options["stream"]:
            async for _ in response:
                pass

    def attempt() -> BaseException | None:
        try:
            if "async" in how:
                asyncio.run(ask())
            else:
                response = client.completion(**options)
                for _ in response if options["stream"] else ():
                    pass
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error
        return None

    first, second, third = attempt(), attempt(), attempt()
    assert refused(first)
    assert first is not None
    known = quota_of(first)
    assert known is not None
    for error in (second, third):
        assert isinstance(error, QuotaExhausted)
        assert (error.model, error.quota) == (options["model"], "requests per day")
        assert error.until == pytest.approx(known.until, abs=timedelta(seconds=60))
        record = record_of_error(error)
        assert record is not None
        assert (record.outcome, record.attempts, record.cost) == ("QuotaExhausted", 0, 0.0)
    assert server.report().requests == 3
    assert client.budget is not None
    assert client.budget.spent.requests == 1
    now = datetime.now(UTC)
    if provider == "gemini":  # it does not say when: at midnight in California
        there = known.until.astimezone(ZoneInfo("America/Los_Angeles"))
        assert (there.hour, there.minute, there.second) == (0, 0, 0)
        assert now < known.until < now + timedelta(hours=25)
    else:  # it says when the next of two requests a day goes
        assert 11 * HOUR < (known.until - now).total_seconds() < 13 * HOUR
    (pool,) = client.limiter.status(options["model"]).limits
    assert pool.closed_because == "requests per day"


def test_other_models_and_other_accounts_go_on() -> None:
    with FakeProvider(rpd=1) as server:
        client, options = client_of(), options_for("openai", server)
        client.completion(**options)
        for _ in range(2):
            with pytest.raises((QuotaExhausted, _litellm.load().RateLimitError)):
                client.completion(**options)
        assert client.completion(**{**options, "model": "openai/other"}).choices
        with pytest.raises(_litellm.load().RateLimitError):  # it is asked: the provider knows no accounts
            client.completion(**{**options, "api_key": "sk-another"})


def test_those_who_stand_in_line_are_told_at_once() -> None:
    """Two hundred calls behind two places: nobody sleeps until tomorrow, in whatever thread or loop it waits."""
    with FakeProvider(rpd=10, latency=0.01) as server:
        client = client_of([RateLimit("*", max_in_flight=2)])
        options = options_for("openai", server)
        outcomes: list[str] = []

        async def ask() -> None:
            try:
                await client.acompletion(**options)
                outcomes.append("ok")
            except Exception as error:  # noqa: BLE001 - counted
                outcomes.append(type(error).__name__)

        async def ask_many() -> None:
            await asyncio.gather(*(ask() for _ in range(90)))

        def ask_in_thread() -> None:
            try:
                client.completion(**options)
                outcomes.append("ok")
            except Exception as error:  # noqa: BLE001 - counted
                outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=ask_in_thread, daemon=True) for _ in range(20)]
        threads += [threading.Thread(target=asyncio.run, args=(ask_many(),), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        counts = Counter(outcomes)
        assert counts["ok"] == 10
        assert 1 <= counts["RateLimitError"] <= 2
        assert counts["ok"] + counts["RateLimitError"] + counts["QuotaExhausted"] == 200
        assert server.report().requests <= 12
        assert client.limiter.status().waiting == client.limiter.status().in_flight == 0


@pytest.mark.parametrize("sync", [True, False])
def test_with_waiting_the_call_goes_when_the_quota_comes_back(sync: bool) -> None:
    with FakeProvider(rpd=1, period=0.0003) as server:
        client, options = (
            client_of(wait_for_quota=True, retry=RetryPolicy(max_attempts=1)),
            options_for("openai", server),
        )
        for _ in range(3):
            response = client.completion(**options) if sync else asyncio.run(client.acompletion(**options))
            assert response.choices
        assert client.usage.total.requests == client.usage.total.ok == 3
        assert client.usage.total.refused >= 1
        report = server.report()
        assert report.successes == 3


def test_refusals_that_are_waited_for_are_no_failed_attempts() -> None:
    """A hundred calls over a quota that comes back drop by drop, and only two attempts for each."""
    with FakeProvider(**SHORT) as server:
        client = client_of(wait_for_quota=60, retry=RetryPolicy(max_attempts=2, base_delay=0.01))
        options = options_for("openai", server)

        async def ask_all() -> None:
            await asyncio.gather(*(client.acompletion(**options) for _ in range(80)))

        asyncio.run(ask_all())
        report = server.report()
    assert report.successes == 80
    assert report.refused < 150  # not all of those who wait, each time that one may go


def test_only_refusals_that_are_waited_for_are_spared() -> None:
    """Two attempts at most: the day's refusals do not count, the provider's fault does."""
    fault = Fault("status", status=500, after=1, first=1)
    with FakeProvider(rpd=1, period=0.0003, faults=[fault]) as server:
        client = client_of(wait_for_quota=True, retry=RetryPolicy(max_attempts=2, base_delay=0.01))
        options = options_for("openai", server)
        for _ in range(2):
            assert client.completion(**options).choices
        assert server.report().statuses[500] == 1
        assert server.report().refused >= 1


def test_it_is_known_before_a_budget_is_asked() -> None:
    with FakeProvider(rpd=1) as server:
        client, options = client_of(budget=Budget(max_requests=2)), options_for("openai", server)
        client.completion(**options)
        with pytest.raises(_litellm.load().RateLimitError):
            client.completion(**options)
        with pytest.raises(QuotaExhausted):  # and not BudgetExceeded, nor a wait for room in it
            client.completion(**options)


@pytest.mark.parametrize("limits", [{"wait_for_quota": 60}, {"wait_for_quota": True, "deadline": 30.0}])
def test_a_wait_that_would_be_too_long_is_not_begun(
    spent: tuple[FakeProvider, dict[str, Any], str], limits: dict[str, Any]
) -> None:
    server, options, _ = spent
    client = client_of(**limits)
    with pytest.raises(_litellm.load().RateLimitError) as caught:
        client.completion(**options)
    assert quota_of(caught.value) is not None
    with pytest.raises(QuotaExhausted):
        client.completion(**options)
    assert server.report().requests == 3


def test_what_is_kept_is_answered_all_the_same(tmp_path: Path) -> None:
    with FakeProvider(rpd=1) as server:
        client, options = client_of(cache=Cache(tmp_path / "cache")), options_for("openai", server)
        first = client.completion(**options)
        other = {**options, "messages": [{"role": "user", "content": "Something else."}]}
        for _ in range(2):
            with pytest.raises((QuotaExhausted, _litellm.load().RateLimitError)):
                client.completion(**other)
        assert client.completion(**options).choices[0].message.content == first.choices[0].message.content
        assert server.report().requests == 2


def test_an_account_without_money_closes_nothing_for_nobody_knows_until_when() -> None:
    with FakeProvider(faults=[Fault("quota", first=2)]) as server:
        client, options = client_of(), options_for("openai", server)
        for _ in range(2):
            with pytest.raises(_litellm.load().RateLimitError) as caught:
                client.completion(**options)
            assert quota_of(caught.value) is None
        assert client.completion(**options).choices


def test_a_limiter_that_listens_to_nothing_closes_nothing(spent: tuple[FakeProvider, dict[str, Any], str]) -> None:
    server, options, _ = spent
    client = client_of(RateLimiter(learn=False), retry=RetryPolicy(max_attempts=1))
    for _ in range(2):
        with pytest.raises(_litellm.load().RateLimitError):
            client.completion(**options)
    assert server.report().requests == 4


# -- what the user chooses ---------------------------------------------------------------------------------------


def test_the_setting_is_found_where_settings_are(
    monkeypatch: pytest.MonkeyPatch, spent: tuple[FakeProvider, dict[str, Any], str]
) -> None:
    options = spent[1]

    def patience(client: Client) -> float:
        return client._call("completion", options["model"], {"messages": MESSAGES}).patience

    assert patience(client_of()) == 0
    monkeypatch.setenv("BULKLLM_WAIT_FOR_QUOTA", "7200")
    assert patience(client_of()) == 7200
    assert patience(client_of(wait_for_quota=False)) == 0
    monkeypatch.setenv("BULKLLM_WAIT_FOR_QUOTA", "yes")
    assert patience(client_of()) == float("inf")
    monkeypatch.setenv("BULKLLM_WAIT_FOR_QUOTA", "-1")
    with pytest.raises(ConfigError, match="wait_for_quota=-1"):
        client_of()
    with pytest.raises(ConfigError, match="wait_for_quota='yes'"):
        client_of(wait_for_quota="yes")


def test_how_long_a_call_still_waits() -> None:
    clock = FakeClock(0.0)

    def left(since: float | None = None, *, elapsed: float = 0.0, **options: Any) -> float:
        call = Call(
            operation="completion", model="m", requested_model="m", provider="p", options={}, patience=100.0, **options
        )  # fmt: skip
        account = Account(call, (), clock)
        clock.advance(elapsed)
        return patience_left(call, account, since)

    assert left() == 100
    assert left(elapsed=30) == 100  # what it has waited for other things is no matter
    assert left(since=10, elapsed=30) == 80
    assert left(since=10, elapsed=200) == 0
    assert left(elapsed=30, deadline=50.0) == 20
    assert left(elapsed=30, retry=RetryPolicy(max_elapsed=40)) == 10
