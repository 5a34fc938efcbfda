from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import RunResult, run
from bulkllm.calls import RetryPolicy
from bulkllm.client import Client
from bulkllm.errors import ConfigError
from bulkllm.testing import FakeProvider, Fault

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


def test_a_request_that_is_wrong_is_wrong_everywhere() -> None:
    with FakeProvider(faults=[Fault("status", status=400)]) as one, FakeProvider() as other:
        places = [
            {"api_base": one.openai_base, "api_key": "sk-x", "max_in_flight": 50},
            {"api_base": other.openai_base, "api_key": "sk-x", "max_in_flight": 1},
        ]
        result = bulk(places, rows=ROWS[:1])
        assert other.report().requests + one.report().requests == 1
    assert result.failed + result.ok == 1


def test_rows_of_other_models_do_not_go_there() -> None:
    with FakeProvider(models=["m"]) as one, FakeProvider(models=["x"]) as two:
        row = {"prompt": "a", "model": "openai/x", "api_base": two.openai_base, "api_key": "sk-x"}
        result = bulk([{"api_base": one.openai_base, "api_key": "sk-x"}], rows=[row, "b"])
    assert result.ok == 2


@pytest.mark.parametrize("deployments", [[], "x", {"api_base": "x"}, ["x"], [{"rpm": -1}]])
def test_places_that_make_no_sense_are_refused(deployments: Any) -> None:
    with pytest.raises(ConfigError):
        bulk(deployments)


def test_a_model_is_needed() -> None:
    with pytest.raises(ConfigError, match="give model="):
        run(ROWS, deployments=[{"model": "openai/a"}], progress=False)
