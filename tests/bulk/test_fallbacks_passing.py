"""Whether a row that was refused at several places is asked again by the next run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bulkllm import RateLimiter
from bulkllm.bulk import BulkRequest, RunResult, run
from bulkllm.bulk.deployments import Deployments, Place
from bulkllm.client import Client


def bulk(
    failing: Mapping[str, Callable[[], Exception]], calls: Any, out: Path, rows: Any = ("hi",), **options: Any
) -> RunResult:
    async def ask(request: BulkRequest) -> Any:
        await calls(request)
        make = failing.get(request.model)
        if make is not None:
            raise make()
        return {"choices": [{"message": {"content": "yes"}}]}, None

    options = {"fallbacks": ["xai/c"], **options}
    return run(list(rows), call=ask, model="openai/a", output=out, progress=False, max_in_flight=1, **options)


@pytest.mark.parametrize("final", [("ContextWindowExceededError", 400), ("BadRequestError", 400)])
@pytest.mark.parametrize("passing", [("InternalServerError", 503), ("Timeout", 408), ("AuthenticationError", 401)])
@pytest.mark.parametrize("which", ["own", "fallback"])
def test_a_row_that_one_model_may_answer_later_is_asked_again(
    final: Any, passing: Any, which: str, calls: Any, error: Any, out: Path
) -> None:
    first, second = (passing, final) if which == "own" else (final, passing)
    (row,) = bulk({"openai/a": lambda: error(*first), "xai/c": lambda: error(*second)}, calls, out)
    sound = [one for one in (first, second) if one[0] != "AuthenticationError"]
    assert row.error is not None
    assert (row.error.code, row.error.status) == sound[-1]  # what is shown is what was shown
    again = bulk({}, calls, out)
    assert (again.ok, again.skipped) == (1, 0)


def test_a_row_that_all_refuse_for_good_is_not(calls: Any, error: Any, out: Path) -> None:
    failing = {"openai/a": lambda: error("BadRequestError", 400), "xai/c": lambda: error("BadRequestError", 400)}
    assert bulk(failing, calls, out).failed == 1
    asked = calls.asked
    again = bulk({}, calls, out)
    assert (again.failed, again.skipped, calls.asked) == (1, 1, asked)
    assert bulk({}, calls, out, retry_failed=True).ok == 1


def test_what_is_known_of_one_row_is_no_other_rows_business(calls: Any, error: Any, out: Path) -> None:
    async def ask(request: BulkRequest) -> Any:
        await calls(request)
        if request.model == "openai/a" and request.index == 0:
            raise error("InternalServerError", 503)
        raise error("BadRequestError", 400)

    options: dict[str, Any] = {"model": "openai/a", "output": out, "progress": False, "max_in_flight": 1}
    assert run(["p0", "p1"], call=ask, fallbacks=["xai/c"], **options).failed == 2
    calls.forget()
    again = run(["p0", "p1"], call=ask, fallbacks=["xai/c"], **options)
    assert (again.failed, again.skipped) == (2, 1)
    assert set(calls.prompts) == {"p0"}


def test_a_row_that_its_own_model_was_not_asked_for_is_asked_again(calls: Any, error: Any, out: Path) -> None:
    """Ten refused keys stop the model: what its fallback then refuses for good, it has not even seen."""
    failing = {"openai/a": lambda: error("AuthenticationError", 401), "xai/c": lambda: error("BadRequestError", 400)}
    rows = [f"p{number}" for number in range(30)]
    first = bulk(failing, calls, out, rows)
    assert (first.failed, first.stopped) == (30, None)
    again = bulk({}, calls, out, rows)
    assert (again.ok, again.skipped) == (30, 0)


@pytest.mark.parametrize("second", [("ContextWindowExceededError", 400), ("BadRequestError", 400)])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_row_that_another_place_may_answer_later_is_asked_again(
    second: Any, stopped: bool, calls: Any, error: Any, out: Path
) -> None:
    """Whether it was asked there and could not answer, or is not asked any more since it refused everybody."""

    async def west(request: BulkRequest) -> Any:
        raise error("InternalServerError", 503)

    async def east(request: BulkRequest) -> Any:
        raise error(*second)

    def bulk(*asks: Any) -> RunResult:
        places = [Place({"model": "openai/m"}, Client(RateLimiter(learn=False)), ask) for ask in asks]
        if stopped and len(places) > 1:
            places[0].breaker.stopped = "the key is refused"
        call = Deployments("openai/m", places, calls)
        return run(["hi"], call=call, model="openai/m", output=out, progress=False)

    (row,) = bulk(west, east)
    assert row.error is not None
    assert (row.error.code, row.error.status) == second
    again = bulk(calls)
    assert (again.ok, again.skipped) == (1, 0)


def test_a_place_that_fails_passingly_and_a_fallback_that_does_not(calls: Any, error: Any, out: Path) -> None:
    """What the places know goes up to the fallbacks."""

    async def west(request: BulkRequest) -> Any:
        raise error("InternalServerError", 503)

    async def east(request: BulkRequest) -> Any:
        raise error("ContextWindowExceededError", 400)

    places = [Place({"model": "openai/m"}, Client(RateLimiter(learn=False)), ask) for ask in (west, east)]
    call = Deployments("openai/m", places, east)
    options: dict[str, Any] = {"model": "openai/m", "output": out, "progress": False, "fallbacks": ["xai/c"]}
    assert run(["hi"], call=call, **options).failed == 1
    assert run(["hi"], call=calls, **options).ok == 1
