"""Bulk runs whose provider says that the quota of the day is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkllm import Budget, Client, ConfigError, RateLimiter, RetryPolicy
from bulkllm.bulk import RunResult, run
from bulkllm.cli.exits import STOPPED, exit_code
from bulkllm.testing import FakeProvider, ProviderLimits

ROWS = [f"Tell me of {number}." for number in range(40)]


def bulk(server: FakeProvider, out: Path | None = None, rows: list[str] = ROWS, **options: Any) -> RunResult:
    if "client" not in options:
        options["client"] = Client(RateLimiter(memory=None), retry=RetryPolicy(max_attempts=2, base_delay=0.01))
    options = {"api_base": server.openai_base, "api_key": "sk-fake", "progress": False, "max_in_flight": 4, **options}
    return run(rows, output=out, **options)


def test_the_model_stops_at_once_its_rows_stay_undone_and_others_go_on(out: Path) -> None:
    limits = {"spent": ProviderLimits(rpd=10)}
    models = ["openai/spent", "openai/other"]
    with FakeProvider(limits=limits, latency=0.002) as server:
        result = bulk(server, out, model=models)
        assert (result.total, result.ok, result.failed, result.undone) == (80, 50, 0, 30)
        assert server.report().models["spent"].requests <= 10 + 4
        assert exit_code(result) == STOPPED
        assert result.stopped is not None
        assert "the quota of requests per day is spent for openai/spent: nothing goes before 20" in result.stopped
        assert "run the same again after that" in result.stopped
        assert "--wait-for-quota" in result.stopped
        server.reset()  # the next day
        server.set_limits("spent", rpd=None)
        again = bulk(server, out, model=models)
        assert (again.ok, again.skipped, again.stopped) == (80, 50, None)
        assert server.report().requests == 30


def test_a_run_that_is_the_first_to_hear_of_it_stops_with_nothing_done() -> None:
    with FakeProvider(limits={"gemini-2.5-flash": ProviderLimits(rpd=1)}) as server:
        base = server.base_of("gemini")
        client = Client(RateLimiter(memory=None))
        client.completion("gemini/gemini-2.5-flash", [{"role": "user", "content": "a"}], api_base=base, api_key="k")
        result = bulk(server, model="gemini/gemini-2.5-flash", api_base=base)
        assert (result.ok, result.failed, result.undone) == (0, 0, 40)
        assert server.report().requests <= 1 + 4
    assert result.stopped is not None
    assert "requests per day" in result.stopped


def test_with_waiting_the_run_goes_on_when_it_may() -> None:
    def refusals(period: float) -> int:
        with FakeProvider(rpd=5, period=period) as server:
            client = Client(RateLimiter(memory=None), wait_for_quota=True, retry=RetryPolicy(max_attempts=1))
            result = bulk(server, rows=ROWS[:10], model="openai/m", client=client)
            assert (result.ok, result.failed, result.stopped) == (10, 0, None)
            return server.report().refused

    # A day of 0.7 s, and on a machine that needs longer than that to spend its quota, of 14 s.
    assert refusals(0.0005) > 0 or refusals(0.01) > 0


def test_a_run_may_be_told_to_wait_itself() -> None:
    with FakeProvider(rpd=30, period=0.0005) as server:
        result = run(
            ROWS, model="openai/m", api_base=server.openai_base, api_key="k", progress=False, wait_for_quota=30,
            limits=RateLimiter(memory=None),
        )  # fmt: skip
    assert (result.ok, result.stopped) == (40, None)


def test_another_deployment_takes_its_rows() -> None:
    with FakeProvider(rpd=5) as spent, FakeProvider() as sound:
        places = [
            {"api_base": spent.openai_base, "api_key": "sk-a", "max_in_flight": 4},
            {"api_base": sound.openai_base, "api_key": "sk-b", "max_in_flight": 4},
        ]
        result = bulk(sound, model="openai/m", deployments=places, api_base=None, api_key=None)
        asked = spent.report().requests
    assert (result.ok, result.failed, result.stopped) == (40, 0, None)
    assert asked <= 5 + 4


def waiting_client() -> Client:
    return Client(RateLimiter(memory=None), retry=RetryPolicy(max_attempts=2, base_delay=0.01), wait_for_quota=True)


def test_with_waiting_no_row_waits_for_tomorrow_where_another_place_has_something_left_today() -> None:
    with FakeProvider(rpd=5) as spent, FakeProvider() as sound:
        places = [{"api_base": server.openai_base, "api_key": "sk-a", "max_in_flight": 4} for server in (spent, sound)]
        result = bulk(
            sound, model="openai/m", deployments=places, api_base=None, api_key=None, client=waiting_client()
        )  # fmt: skip
        assert spent.report().requests <= 5 + 4
    assert (result.ok, result.failed, result.stopped) == (40, 0, None)


@pytest.mark.parametrize("count", [1, 2])
def test_with_waiting_a_row_waits_where_the_next_day_begins_first(count: int) -> None:
    with FakeProvider(rpd=10, period=0.0003) as soon, FakeProvider(rpd=1) as late:
        places = [{"api_base": server.openai_base, "api_key": "sk-a"} for server in (soon, late)[:count]]
        result = bulk(
            soon, model="openai/m", deployments=places, api_base=None, api_key=None, client=waiting_client()
        )  # fmt: skip
        assert late.report().successes == count - 1
    assert (result.ok, result.failed, result.stopped) == (40, 0, None)


def test_a_fallback_takes_its_rows() -> None:
    with FakeProvider(limits={"spent": ProviderLimits(rpd=5)}) as server:
        result = bulk(server, model="openai/spent", fallbacks=["openai/other"])
        assert server.report().models["spent"].requests <= 5 + 4
    assert (result.ok, result.failed, result.stopped) == (40, 0, None)


def test_what_was_refused_costs_the_budget_nothing(out: Path) -> None:
    with FakeProvider(rpd=10) as server:
        budget = Budget(max_requests=100)
        result = bulk(server, out, model="openai/m", budget=budget)
    assert result.undone == 30
    assert budget.spent.requests <= 10 + 4


@pytest.mark.parametrize("name", ["wait_for_quotas", "wait_for_qouta"])
def test_a_slip_of_the_pen_is_told(name: str) -> None:
    options: dict[str, Any] = {name: True}
    with pytest.raises(ConfigError, match="'wait_for_quota' was meant"):
        run(ROWS, model="openai/m", progress=False, **options)
