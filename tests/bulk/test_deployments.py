from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bulkllm import Budget, Cache, Price, RateLimit, RateLimiter
from bulkllm.bulk import BulkRequest, RunResult, run
from bulkllm.bulk.deployments import Deployments, Place, soonest
from bulkllm.calls import RetryPolicy
from bulkllm.client import Client
from bulkllm.errors import ConfigError
from bulkllm.testing import FakeProvider, Fault
from tests.bulk.conftest import ProviderError

ROWS = [f"Tell me of {number}." for number in range(60)]


def bulk(deployments: Any, out: Path | None = None, rows: Any = ROWS, **options: Any) -> RunResult:
    client = Client(retry=RetryPolicy(max_attempts=2, base_delay=0.01))
    return run(
        rows, model="openai/m", output=out, deployments=deployments, client=client, progress=False, **options
    )  # fmt: skip


def test_rows_are_spread_by_what_each_has_left(out: Path) -> None:
    """A tenth of the limit: about a tenth of the rows."""
    with FakeProvider(rpm=6000, burst=40) as large, FakeProvider(rpm=600, burst=4) as small:
        places = [
            {"api_base": large.openai_base, "api_key": "sk-a", "rpm": 6000, "burst": 40},
            {"api_base": small.openai_base, "api_key": "sk-b", "rpm": 600, "burst": 4, "model": "openai/other-name"},
        ]
        result = bulk(places, out)
        seen = large.report(), small.report()
    assert result.ok == 60
    answered = [report.requests - report.refused for report in seen]
    assert sum(answered) == 60
    assert 2 <= answered[1] <= 16
    assert list(seen[1].models) == ["other-name"]
    assert bulk(places[:1], out).skipped == 60  # which place answers is no part of the request
    assert "sk-" not in out.read_text()


def test_a_place_that_fails_is_replaced_and_one_that_refuses_left_alone() -> None:
    with ExitStack() as stack:
        dead = stack.enter_context(FakeProvider(keys=["sk-another"]))
        flaky = stack.enter_context(FakeProvider(faults=[Fault("status", status=503, rate=0.3)], seed=2))
        sound = stack.enter_context(FakeProvider())
        result = bulk([{"api_base": server.openai_base, "api_key": "sk-x"} for server in (dead, flaky, sound)])
        seen = dead.report().requests
    assert (result.ok, result.stopped) == (60, None)
    assert seen < 60 + 10


def test_when_all_places_refuse_the_run_stops() -> None:
    with FakeProvider(keys=["sk-another"]) as one, FakeProvider(keys=["sk-another"]) as other:
        places = [{"api_base": server.openai_base, "api_key": "sk-x"} for server in (one, other)]
        result = bulk(places, max_in_flight=2)
    assert result.stopped is not None
    assert "check the API key" in result.stopped


def test_a_place_that_refuses_what_another_answers_is_left_alone() -> None:
    """xAI, for one, refuses a key with the status of a bad request."""
    body = '{"code": "Client specified an invalid argument", "error": "Incorrect API key provided: sk***"}'
    with FakeProvider(faults=[Fault("status", status=400, body=body)]) as dead, FakeProvider() as sound:
        result = bulk([{"api_base": server.openai_base, "api_key": "sk-x"} for server in (dead, sound)])
        assert dead.report().requests < 60
    assert (result.ok, result.stopped) == (60, None)


def test_a_request_that_is_wrong_is_refused_once_by_each() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeProvider(faults=[Fault("status", status=400, match="7")])) for _ in range(2)]
        result = bulk([{"api_base": server.openai_base, "api_key": "sk-x"} for server in servers])
        assert sum(server.report().failed for server in servers) == 2 * 6
    assert (result.ok, result.failed, result.stopped) == (54, 6, None)


def test_rows_of_other_models_do_not_go_there() -> None:
    with FakeProvider(models=["m"]) as one, FakeProvider(models=["x"]) as two:
        row = {"prompt": "a", "model": "openai/x", "api_base": two.openai_base, "api_key": "sk-x"}
        result = bulk([{"api_base": one.openai_base, "api_key": "sk-x"}], rows=[row, "b"])
    assert result.ok == 2


@pytest.mark.parametrize("names", [("openai/gpt-4.1-mini", "gpt-4.1-mini"), ("gpt-4.1-mini", "openai/gpt-4.1-mini")])
def test_the_model_may_be_named_with_its_provider_or_without(names: tuple[str, str]) -> None:
    with FakeProvider() as server:
        place = {"api_base": server.openai_base, "api_key": "sk-x"}
        own, runs = names
        rows = [{"prompt": "x", "model": own}, {"prompt": "y"}]
        client = Client(retry=RetryPolicy(max_attempts=1))
        result = run(rows, model=runs, deployments=[place], client=client, progress=False)
        assert (result.ok, server.report().requests) == (2, 2)


@pytest.mark.parametrize("deployments", [[], "x", {"api_base": "x"}, ["x"], [{"rpm": -1}]])
def test_places_that_make_no_sense_are_refused(deployments: Any) -> None:
    with pytest.raises(ConfigError):
        bulk(deployments)


def test_places_share_the_clients_budget_prices_and_cache(out: Path) -> None:
    """A budget of the client's own, and not only the run's; a price that only the client knows; its cache."""
    price = Price(input_per_token=0.0, output_per_token=0.01)
    with FakeProvider(reply_tokens=(10, 10)) as one, FakeProvider(reply_tokens=(10, 10)) as other:
        places = [{"api_base": server.openai_base, "api_key": "sk-x"} for server in (one, other)]
        budget = Budget(2.05)
        client = Client(prices={"openai/*": price}, budget=budget)
        run(ROWS[:10], model="openai/m", deployments=places, client=client, progress=False, max_tokens=10)
        assert budget.spent.cost == pytest.approx(1.0)
        assert client.usage.total.cost == pytest.approx(1.0)
        result = run(ROWS, model="openai/m", deployments=places, client=client, progress=False, max_tokens=10)
        assert budget.spent.cost == pytest.approx(2.0)
        assert result.stopped is not None
        assert one.report().requests + other.report().requests == 20
        keeping = Client(cache=Cache(memory=True))
        for _ in range(2):
            run(ROWS[:5], model="openai/m", deployments=places[:1], client=keeping, progress=False)
        assert (keeping.usage.total.requests, keeping.usage.total.cached) == (10, 5)
    assert Client(timeout=3).under(None)._timeout == 3


def test_token_limits_are_seen_in_tokens() -> None:
    """A place with few tokens left is not taken for one with many requests left."""
    tokens = Client(RateLimit("*", tpm=6000, window="bucket")).limiter
    requests = Client(RateLimit("*", rpm=60, window="bucket")).limiter
    reservation = tokens.reserve("m", input_tokens=5950)
    with reservation, requests.reserve("m"):
        by_tokens = soonest(tokens.status(), 1, (1.0, 100.0, 50.0, 50.0))
        by_requests = soonest(requests.status(), 1, (1.0, 100.0, 50.0, 50.0))
        reservation.mark_sent()
    assert by_tokens[0] == pytest.approx(0.5, abs=0.1)
    assert by_requests[0] == 0
    assert by_requests < by_tokens


def test_a_model_is_needed() -> None:
    with pytest.raises(ConfigError, match="give model="):
        run(ROWS, deployments=[{"model": "openai/a"}], progress=False)


async def test_a_place_that_other_rows_have_stopped_meanwhile_is_not_asked(error: Any) -> None:
    """Else the row would fail with what stopped that place, and stop the model that is sound at another."""
    asked: list[str] = []
    limiter = Client(RateLimiter(learn=False))

    async def west(request: BulkRequest) -> Any:
        asked.append("west")
        places[1].breaker.stopped = "the key is refused"
        raise error("InternalServerError", 500)

    async def east(request: BulkRequest) -> Any:
        asked.append("east")
        raise error("AuthenticationError", 401)

    places = [Place({"model": "openai/m"}, limiter, call) for call in (west, east)]
    deployments = Deployments("openai/m", places, west)
    request = BulkRequest(
        0, None, b"", b"", "completion", "openai/m", None, {"model": "openai/m", "messages": []}, {}, None
    )
    with pytest.raises(ProviderError) as caught:
        await deployments(request)
    assert type(caught.value).__name__ == "InternalServerError"
    assert asked == ["west"]
