"""The client: what it takes, what it refuses, and the functions over the default one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bulkllm
from bulkllm import (
    Client,
    ConfigError,
    IncompatibleLiteLLM,
    LimitTimeout,
    LLMConfig,
    RateLimit,
    RateLimiter,
    RetryPolicy,
    UsageTracker,
    _litellm,
    client,
)
from bulkllm.limits.stores import open_store
from bulkllm.testing import FakeProvider, Fault

pytestmark = [
    # LiteLLM's types warn about themselves when the first of them is made, its sessions and its bookkeeping when their
    # event loop is gone.
    pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed (connector|client session):ResourceWarning"),
    pytest.mark.filterwarnings(r"ignore:coroutine '(?!Client|CallStream)\w+\.\w+' was never awaited:RuntimeWarning"),
]

MODEL = "openai/gpt-4.1-mini"
MESSAGES = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


@pytest.fixture
def own_default() -> Iterator[None]:
    """Whatever a test configures is gone after it."""
    before = client._default
    client._default = None
    yield
    client._default = before


def options(server: FakeProvider, **more: Any) -> dict[str, Any]:
    return {"api_base": server.openai_base, "api_key": "sk-fake", **more}


# -- the default client --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_default")
def test_the_default_client_is_made_once_whoever_comes_first() -> None:
    seen: list[Client] = []
    gate = threading.Barrier(8)

    def come() -> None:
        gate.wait(10)
        seen.append(client.default_client())

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


@pytest.mark.usefixtures("own_default")
def test_configure_replaces_the_default_client(server: FakeProvider) -> None:
    tracker = UsageTracker("mine")
    made = bulkllm.configure(RateLimit(rpm=1000, period=1e9), usage=tracker, retry=RetryPolicy(max_attempts=1))
    assert client.default_client() is made
    bulkllm.completion(MODEL, MESSAGES, **options(server))
    asyncio.run(bulkllm.acompletion(MODEL, MESSAGES, **options(server)))
    bulkllm.embedding("openai/text-embedding-3-small", ["a"], **options(server))
    asyncio.run(bulkllm.aembedding("openai/text-embedding-3-small", ["a"], **options(server)))
    bulkllm.responses(MODEL, "a", **options(server))
    asyncio.run(bulkllm.aresponses(MODEL, "a", **options(server)))
    assert tracker.total.ok == 6
    assert made.limiter.status().remaining["rpm"] == pytest.approx(994)
    assert client.default_client() is made


@pytest.mark.usefixtures("own_default")
def test_a_wrong_configuration_leaves_the_old_one_in_place() -> None:
    made = bulkllm.configure()
    with pytest.raises(ConfigError):
        bulkllm.configure(timeout=-1)
    assert client.default_client() is made


def test_usage_counts_every_clients_calls(server: FakeProvider) -> None:
    before = bulkllm.usage().total.requests
    for _ in range(2):
        Client().completion(MODEL, MESSAGES, **options(server))
    assert bulkllm.usage().total.requests == before + 2


def test_clients_may_share_a_limiter(server: FakeProvider) -> None:
    limiter = RateLimiter(RateLimit(rpm=50, period=1e9))
    for _ in range(2):
        made = Client(limiter)
        assert made.limiter is limiter
        made.completion(MODEL, MESSAGES, **options(server))
    assert limiter.status().remaining["rpm"] == pytest.approx(48)


def test_limits_may_be_one_or_several_or_none() -> None:
    one, two = RateLimit(rpm=5), RateLimit("openai/*", tpm=5)
    assert Client(one).limiter.limits == (one,)
    assert Client([one, two]).limiter.limits == (one, two)
    assert Client().limiter.limits == ()


# -- what is taken, and what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": 0},
        {"timeout": "soon"},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": None},
        {"deadline": 0},
        {"retry": 3},
        {"limits": [5]},
    ],
)
def test_a_client_refuses_what_makes_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Client(**arguments)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -3}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"priority": "high"}, "priority"),
        ({"priority": float("nan")}, "priority"),
        ({"priority": None}, "priority"),
        ({"tags": ["a"]}, "tags"),
        ({"num_retries": -1}, "num_retries"),
    ],
)
def test_a_call_refuses_what_makes_no_sense_and_sends_nothing(
    wrong: dict[str, Any], named: str, server: FakeProvider
) -> None:
    before = server.report().requests
    made = Client()
    with pytest.raises(ConfigError, match=named):
        made.completion(MODEL, MESSAGES, **options(server, **wrong))
    with pytest.raises(ConfigError, match=named):
        asyncio.run(made.aembedding(MODEL, ["a"], **options(server, **wrong)))
    assert server.report().requests == before
    assert made.usage.total.requests == 0


def test_a_model_is_a_name_or_a_configuration(server: FakeProvider) -> None:
    preset = LLMConfig(slug="p", model=MODEL, temperature=0.5, max_tokens=7)
    answer = Client().completion(preset, MESSAGES, max_tokens=3, **options(server))
    record = bulkllm.record_of(answer)
    assert (record.model, record.output_tokens) == (MODEL, 3), "what the call says goes before the preset"
    for wrong in (7, None, ["a"]):
        with pytest.raises(ConfigError, match="model"):
            Client().completion(wrong, MESSAGES, **options(server))


def test_tags_are_text(server: FakeProvider) -> None:
    made = Client()
    made.completion(MODEL, MESSAGES, tags={"run": 7, "kind": "a"}, **options(server))
    assert set(made.usage.by_tag) == {"run=7", "kind=a"}


def test_a_clients_deadline_holds_unless_the_call_has_its_own() -> None:
    policy = RetryPolicy(max_attempts=2)
    with FakeProvider(faults=[Fault("status", status=429, retry_after="60")]) as server:
        with pytest.raises(_litellm.load().RateLimitError):
            Client(deadline=20.0, retry=policy).completion(MODEL, MESSAGES, **options(server))
        assert server.report().requests == 1
    with FakeProvider(faults=[Fault("status", status=429, retry_after="1")]) as server:
        with pytest.raises(_litellm.load().RateLimitError):
            Client(deadline=0.01, retry=policy).completion(MODEL, MESSAGES, deadline=60.0, **options(server))
        assert server.report().requests == 2


def test_a_refusal_with_a_time_holds_all_calls_back_until_then() -> None:
    with FakeProvider(faults=[Fault("status", status=429, retry_after="100")]) as server:
        made = Client(deadline=30.0, retry=RetryPolicy(max_attempts=2))
        with pytest.raises(_litellm.load().RateLimitError):
            made.completion(MODEL, MESSAGES, **options(server))
        with pytest.raises(LimitTimeout):
            made.completion(MODEL, MESSAGES, deadline=0.1, **options(server))
        assert server.report().requests == 1
        closed = made.limiter.status().limits
        assert [pool.closed_for > 4 for pool in closed] == [True]


def test_a_refusal_without_a_time_is_tried_again_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the attempts of a call would be over long before a provider's minute is."""
    slept: list[float] = []
    monkeypatch.setattr("bulkllm.calls.effects.Sleep.perform", lambda effect: slept.append(effect.seconds))
    policy = RetryPolicy(max_attempts=3, base_delay=4.0, rand=lambda: 1.0)
    with FakeProvider(headers=None, faults=[Fault("status", status=429)]) as server:
        with pytest.raises(_litellm.load().RateLimitError):
            Client(retry=policy).completion(MODEL, MESSAGES, **options(server))
        assert server.report().requests == 3
    assert slept == [4.0, 8.0]


def test_a_clients_policy_is_its_own() -> None:
    with FakeProvider(faults=[Fault("status", status=500)]) as server:
        with pytest.raises(_litellm.load().InternalServerError):
            Client(retry=RetryPolicy(max_attempts=2, base_delay=0.0)).completion(MODEL, MESSAGES, **options(server))
        assert server.report().requests == 2


def test_priority_goes_before_who_came_earlier() -> None:
    made = Client(RateLimit(max_in_flight=1))
    order: list[str] = []
    held = made.limiter.reserve(MODEL).acquire()

    def reply(body: dict[str, Any]) -> str:
        order.append(body["messages"][0]["content"])
        return "So be it."

    def ask(name: str, priority: float) -> None:
        made.completion(MODEL, [{"role": "user", "content": name}], priority=priority, **options(provider))

    threads = []
    with FakeProvider(reply=reply) as provider:
        for waiting, (name, priority) in enumerate([("first", 0), ("second", 0), ("urgent", 5)]):
            threads.append(threading.Thread(target=ask, args=(name, priority)))
            threads[-1].start()
            while made.limiter.status().waiting <= waiting:
                time.sleep(0.001)
        held.refund()
        for thread in threads:
            thread.join(30)
    assert order == ["urgent", "first", "second"]


# -- LiteLLM that is not there, or cannot be used ------------------------------------------------------------


def test_without_litellm_a_call_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_litellm, "_litellm", None)
    monkeypatch.setitem(sys.modules, "litellm", None)
    made = Client()
    asks: list[Callable[[], Any]] = [
        lambda: made.completion(MODEL, MESSAGES, api_key="k"),
        lambda: asyncio.run(made.acompletion(MODEL, MESSAGES, api_key="k")),
        lambda: made.embedding(MODEL, ["a"], api_key="k"),
    ]
    for ask in asks:
        with pytest.raises(IncompatibleLiteLLM, match="LiteLLM") as caught:
            ask()
        assert isinstance(caught.value.__cause__, ImportError)


def test_a_litellm_whose_import_breaks_says_so(tmp_path: Path) -> None:
    (tmp_path / "litellm.py").write_text("from no_such_package import anything\n")
    program = (
        "import bulkllm\n"
        "try:\n"
        "    bulkllm.completion('openai/m', [])\n"
        "except bulkllm.IncompatibleLiteLLM as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(bulkllm.__file__).parents[1]}"},
    )
    assert "no_such_package" in done.stdout


def test_making_a_client_imports_no_litellm() -> None:
    program = "import sys, bulkllm; bulkllm.Client(bulkllm.RateLimit(rpm=5)); sys.exit('litellm' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


# -- limits that processes share ---------------------------------------------------------------------------------------


def test_clients_with_one_store_share_their_limits_and_what_calls_really_used(
    server: FakeProvider, tmp_path: Path
) -> None:
    where = tmp_path / "limits.db"
    limit = RateLimit("openai/*", rpm=2, tpm=100_000, period=86_400.0)
    first, second = Client(limit, store=where), Client(limit, store=str(where))
    for made in (first, second):
        made.completion(MODEL, MESSAGES, max_tokens=2000, **options(server))
        made.limiter.close()
    with pytest.raises(LimitTimeout):
        first.completion(MODEL, MESSAGES, deadline=0.3, **options(server))
    used = sum(made.usage.total.input_tokens + made.usage.total.output_tokens for made in (first, second))
    left = open_store(where).look("default").left["openai/*/tpm"]
    assert 100_000 - used - 1 <= left <= 100_000 - used + 60, "some come back meanwhile"


@pytest.mark.parametrize(("configured", "learned"), [(500, False), (5000, True)])
def test_headers_that_speak_of_a_shared_limit_are_no_news_unless_they_tell_a_smaller_one(
    tmp_path: Path, configured: int, learned: bool
) -> None:
    with FakeProvider(rpm=1000) as telling:
        made = Client(RateLimit("openai/*", rpm=configured), store=tmp_path / "limits.db")
        made.completion(MODEL, MESSAGES, **options(telling))
        found = [pool for pool in made.limiter.status(MODEL).limits if pool.learned]
        assert [pool.quotas["rpm"].limit for pool in found if "rpm" in pool.quotas] == ([1000] if learned else [])


def test_what_headers_say_of_a_stranger_is_for_all_who_share_a_limit(tmp_path: Path) -> None:
    where = tmp_path / "limits.db"
    with FakeProvider(rpm=200) as telling:
        stranger = Client(RateLimiter(learn=False))
        for _ in range(200):
            stranger.completion(MODEL, MESSAGES, num_retries=0, **options(telling))
        made = Client(RateLimit("openai/*", rpm=200), store=where)
        made.completion(MODEL, MESSAGES, **options(telling))
        until = time.monotonic() + 30
        while (left := open_store(where).look("default").left["openai/*/rpm"]) > 150:
            assert time.monotonic() < until, f"{left} left: nobody told the store"
            time.sleep(0.02)
        found = [pool for pool in made.limiter.status(MODEL).limits if pool.learned]
        assert not any("rpm" in pool.quotas for pool in found)


def test_the_settings_may_say_where_limits_are_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def shared(made: Client) -> bool:
        return any(pool.leased is not None for pool in made.limiter.status().limits)

    limit = RateLimit(rpm=5)
    assert not shared(Client(limit))
    monkeypatch.setenv("BULKLLM_LIMITS_STORE", str(tmp_path / "limits.db"))
    monkeypatch.setenv("BULKLLM_LIMITS_GROUP", "mine")
    Client()
    assert not list(tmp_path.iterdir()), "there is nothing to share"
    assert shared(Client(limit))
    assert [path.name for path in tmp_path.glob("*.db")] == ["limits.db"]
    assert not shared(Client(limit, store=False))
    assert not shared(Client(RateLimiter(limit)))
    monkeypatch.setenv("BULKLLM_LIMITS_WHEN_AWAY", "panic")
    with pytest.raises(ConfigError, match="when_away"):
        Client(limit)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Client(RateLimiter(rpm=5), store="somewhere.db"), "give it the store"),
        (lambda: Client(RateLimit(rpm=5), store=True), "does not say which"),
        (lambda: Client(RateLimit(rpm=5), store=""), "a path, a URL"),
        (lambda: Client(store=3), "a path, a URL"),  # type: ignore[arg-type]
    ],
)
def test_a_store_that_is_none_is_refused(wrong: Callable[[], Client], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wrong()
