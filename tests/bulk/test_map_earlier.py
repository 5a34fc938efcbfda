"""`map` over a results file: rows that failed in an earlier run, and objects of the class that was asked for."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, RootModel

import bulkllm
from bulkllm.bulk import RowError
from bulkllm.errors import RowFailed
from tests.bulk.conftest import FakeCalls

PROMPTS = ["p0", "p1", "p2"]


class Person(BaseModel):
    name: str = Field(alias="fullName")
    born: date


class Names(RootModel[list[str]]):
    pass


def refusing(calls: FakeCalls, error: Any) -> None:
    calls.errors = {"p1": error("BadRequestError", 400, "no"), "p2": error("BadRequestError", 400, "nor this")}


def test_a_row_that_failed_in_an_earlier_run_raises_again(calls: Any, error: Any, out: Path) -> None:
    """One that fails now ends it at once; else the first that failed before does, when all others are done."""
    refusing(calls, error)
    options: dict[str, Any] = {"call": calls, "model": "m", "output": out, "max_in_flight": 1}
    for number in (2, 3, 2, 2):
        with pytest.raises(RowFailed, match=f"row {number} failed: BadRequestError: no") as caught:
            bulkllm.map(PROMPTS, **options)
        assert (caught.value.index, caught.value.code) == (number - 1, "BadRequestError")
    assert calls.prompts == {"p0": 1, "p1": 1, "p2": 1}
    first, second, third = bulkllm.map(PROMPTS, on_error="keep", **options)
    assert first == "re: p0"
    assert second == RowError("BadRequestError", "no", 400)
    assert third.message == "nor this"
    with pytest.raises(RowFailed, match=r"row 2 failed.*retry_failed=True"):
        bulkllm.map(PROMPTS, **options)
    calls.errors = {}
    assert bulkllm.map(PROMPTS, retry_failed=True, **options) == ["re: p0", "re: p1", "re: p2"]


async def test_in_an_event_loop_too(calls: Any, error: Any, out: Path) -> None:
    refusing(calls, error)
    for number in (2, 3, 2):
        with pytest.raises(RowFailed, match=f"row {number} failed"):
            await bulkllm.amap(PROMPTS, call=calls, model="m", output=out, max_in_flight=1)


async def test_a_run_on_which_no_row_may_fail_raises_for_earlier_rows_too(calls: Any, error: Any, out: Path) -> None:
    refusing(calls, error)
    rows = [{"prompt": prompt, "custom_id": f"r{prompt}"} for prompt in PROMPTS]
    options: dict[str, Any] = {"call": calls, "model": "m", "output": out, "progress": False}
    assert bulkllm.run(rows, **options).failed == 2
    calls.forget()
    with pytest.raises(RowFailed, match=r"row 2 \(rp1\) failed: BadRequestError: no"):
        bulkllm.run(rows, on_error="raise", **options)  # in a thread of its own
    with pytest.raises(RowFailed, match=r"row 2 \(rp1\) failed: BadRequestError: no"):
        await bulkllm.arun(rows, on_error="raise", **options)
    assert calls.asked == 0
    assert (await bulkllm.arun(rows[:1], on_error="raise", **options)).ok == 1


def test_a_row_that_cannot_be_understood_is_not_told_to_be_asked_again(calls: Any, out: Path) -> None:
    options: dict[str, Any] = {"call": calls, "model": "m", "output": out, "skip_bad": True, "progress": False}
    bulkllm.run(["p0", {"prompt": 5}], **options)
    with pytest.raises(RowFailed, match="row 2 failed: RequestFileError") as caught:
        bulkllm.run(["p0", {"prompt": 5}], on_error="raise", **options)
    assert "retry_failed" not in str(caught.value)


def test_a_run_that_is_stopped_says_so_and_not_what_failed_before(calls: Any, error: Any, out: Path) -> None:
    refusing(calls, error)
    options: dict[str, Any] = {"call": calls, "model": "m", "output": out, "progress": False}
    assert bulkllm.run(PROMPTS, **options).failed == 2
    calls.errors = {"p3": lambda: bulkllm.BudgetExceeded("there is no room")}
    result = bulkllm.run([*PROMPTS, "p3"], on_error="raise", **options)
    assert result.stopped is not None
    assert (result.failed, result.undone) == (2, 1)


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```"])
def test_objects_are_of_the_class_that_was_asked_for(fence: str, out: Path) -> None:
    """Though a results file has plain JSON, by the fields' own names; and they are no mere likeness of the first."""
    asked = []

    async def ask(request: Any) -> Any:
        asked.append(request.index)
        text = fence.format('{"fullName": "Ada", "born": "1815-12-10"}')
        return {"choices": [{"message": {"content": text}}]}, None

    options: dict[str, Any] = {"call": ask, "model": "m", "response_format": Person}
    wanted = [Person(fullName="Ada", born=date(1815, 12, 10))]
    assert bulkllm.map(["Who?"], **options) == wanted
    for _ in range(2):
        assert bulkllm.map(["Who?"], output=out, **options) == wanted
    assert len(asked) == 2


async def test_of_a_class_that_is_no_object_in_json_too(out: Path) -> None:
    async def ask(request: Any) -> Any:
        return {"choices": [{"message": {"content": '["Ada", "Grace"]'}}]}, None

    (names,) = await bulkllm.amap(["Who?"], call=ask, model="m", response_format=Names, output=out)
    assert names == Names(["Ada", "Grace"])


def test_what_a_row_asks_for_by_itself_stays_what_it_is(calls: Any, error: Any, out: Path) -> None:
    async def ask(request: Any) -> Any:
        return {"choices": [{"message": {"content": '{"n": 3}'}}]}, None

    row = {"prompt": "How many?", "response_format": {"type": "object", "required": ["n"]}}
    options: dict[str, Any] = {"call": ask, "model": "m", "response_format": Person}
    assert bulkllm.map([row], **options) == bulkllm.map([row], output=out, **options) == [{"n": 3}]
