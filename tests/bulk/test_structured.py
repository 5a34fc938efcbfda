from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from bulkllm.accounting import Usage, UsageRecord
from bulkllm.bulk import BulkRequest, read_results, run
from bulkllm.caching import Cache
from bulkllm.client import Client
from bulkllm.errors import ConfigError
from bulkllm.limits import RateLimit
from bulkllm.testing import FakeProvider


class Person(BaseModel):
    name: str
    age: int


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
GOOD = '{"name": "Ada", "age": 36}'


class Model:
    """Gives the answers in turn, each for 0.5 dollars, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, request: BulkRequest) -> Any:
        self.asked.append(dict(request.body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        message = answer if isinstance(answer, dict) else {"content": answer}
        record = UsageRecord(model=request.model, usage=Usage(input_tokens=3, output_tokens=2), cost=0.5)
        return {"choices": [{"message": message}]}, record


def bulk(model: Model, out: Path | None = None, rows: Any = ("Who?",), **options: Any) -> Any:
    result = run(list(rows), call=model, model="openai/m", output=out, progress=False, max_in_flight=1, **options)
    return next(iter(result))


@pytest.mark.parametrize("form", [SCHEMA, {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}])
@pytest.mark.parametrize("text", [GOOD, f"```json\n{GOOD}\n```", f" {GOOD}\n"])
def test_an_answer_of_a_schema_is_parsed_into_the_row(out: Path, form: Any, text: str) -> None:
    model = Model(text)
    row = bulk(model, out, response_format=form)
    assert (row.ok, row.parsed, len(model.asked)) == (True, {"name": "Ada", "age": 36}, 1)
    assert json.loads(out.read_text())["bulkllm"]["parsed"] == {"name": "Ada", "age": 36}
    assert model.asked[0]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_model_of_pydantic_gives_an_object_of_it(out: Path) -> None:
    row = bulk(Model(GOOD), response_format=Person)
    assert row.parsed == Person(name="Ada", age=36)
    bulk(Model(GOOD), out, response_format=Person)
    assert next(read_results(out)).parsed == {"name": "Ada", "age": 36}
    again = Model()
    assert bulk(again, out, response_format=Person).ok
    assert not again.asked


@pytest.mark.parametrize(
    ("form", "wrong", "told"),
    [
        (Person, '{"name": "Ada"}', "age: Field required"),
        (Person, "hello", "Invalid JSON"),
        (SCHEMA, '{"name": "Ada", "age": "old"}', "age: 'old' is not of type 'integer'"),
        (SCHEMA, '{"name"', "it is no JSON"),
        ({"type": "json_object"}, "hello", "it is no JSON"),
        (SCHEMA, None, "there is no text in it"),
    ],
)
def test_a_wrong_answer_is_asked_again_with_what_was_wrong(out: Path, form: Any, wrong: Any, told: str) -> None:
    model = Model(wrong, GOOD)
    row = bulk(model, out, response_format=form)
    assert row.ok
    assert row.parsed_json == {"name": "Ada", "age": 36}
    first, second = (asked["messages"] for asked in model.asked)
    assert second[: len(first)] == first
    assert second[-2]["role"] == "assistant"
    assert second[-2]["content"] == (wrong or "(no text)")
    assert told in second[-1]["content"]
    assert (row.record.attempts, row.record.cost, row.record.input_tokens) == (2, 1.0, 6)
    about = json.loads(out.read_text())["bulkllm"]
    assert (about["attempts"], about["cost"]) == (2, 1.0)


def test_asking_again_is_bounded_and_the_paid_answer_kept(out: Path) -> None:
    model = Model(*["no"] * 5)
    row = bulk(model, out, response_format=SCHEMA, reasks=3)
    assert len(model.asked) == 4
    assert (row.ok, row.error.code, row.text, row.record.cost) == (False, "InvalidAnswer", "no", 2.0)
    assert "after 4 asks: it is no JSON" in row.error.message
    again = Model()
    bulk(again, out, response_format=SCHEMA)
    assert not again.asked  # it would cost again, so only when told
    assert bulk(Model(GOOD), out, response_format=SCHEMA, retry_failed=True).ok
    assert len(bulk(Model("no"), response_format=SCHEMA, reasks=0).error.message) > 20


def test_an_error_after_a_paid_ask_counts_what_was_paid(error: Any) -> None:
    row = bulk(Model("no", error("InternalServerError", 500)), response_format=SCHEMA)
    assert (row.error.code, row.record.cost, row.record.outcome) == ("InternalServerError", 0.5, "InternalServerError")


def test_validate_is_asked_too() -> None:
    def adult(person: Any) -> None:
        if person.age < 18:
            raise ValueError("too young")

    model = Model('{"name": "Tim", "age": 3}', GOOD)
    row = bulk(model, response_format=Person, validate=adult)
    assert row.parsed.age == 36
    assert "too young" in model.asked[1]["messages"][-1]["content"]

    async def short(text: str) -> bool:
        return len(text) < 4

    model = Model("too long", "ok")
    row = bulk(model, validate=short)
    assert (row.text, row.parsed, len(model.asked)) == ("ok", None, 2)

    def broken(text: str) -> None:
        raise KeyError("x")

    row = bulk(Model("fine"), validate=broken)
    assert (row.error.code, row.error.message) == ("ConfigError", "validate= raised KeyError: 'x'")


def test_what_has_no_text_to_parse_is_left_alone() -> None:
    call = {"content": None, "tool_calls": [{"id": "x"}]}
    row = bulk(Model(call), response_format=SCHEMA)
    assert (row.ok, row.parsed) == (True, None)
    assert bulk(Model("free"), response_format={"type": "text"}).text == "free"


def test_a_row_may_have_a_form_of_its_own() -> None:
    model = Model('{"n": 1}', GOOD)
    schema = {"type": "object", "required": ["n"]}
    rows = [{"prompt": "a", "response_format": schema}, "b"]
    result = run(rows, call=model, model="m", progress=False, max_in_flight=1, response_format=SCHEMA)
    assert [row.parsed for row in result] == [{"n": 1}, {"name": "Ada", "age": 36}]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"response_format": "json"}, "takes a pydantic model or a JSON schema"),
        ({"response_format": {"type": "json_schema"}}, "needs .json_schema"),
        ({"response_format": {"type": 5}}, "no valid JSON schema"),
        ({"reasks": -1}, "reasks=-1"),
        ({"validate": "x"}, "takes a function"),
        ({"on_error": "skip"}, "neither"),
    ],
)
def test_forms_that_make_no_sense_are_refused_before_the_first_call(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        bulk(Model(), **options)


def test_it_works_through_litellm(out: Path) -> None:
    """The fake provider answers by the schema; the first answer is turned down, whatever it is."""
    seen: list[Person] = []

    def second(person: Person) -> bool:
        seen.append(person)
        return len(seen) > 1

    with FakeProvider() as server:
        result = run(
            ["Who?"], model="openai/gpt-4.1-mini", api_base=server.openai_base, api_key="sk-x", output=out,
            response_format=Person, validate=second, progress=False,
        )  # fmt: skip
        report = server.report()
    (row,) = result
    assert (row.parsed, report.requests) == (seen[1].model_dump(), 2)
    assert row.record is not None
    assert (row.record.attempts, row.record.input_tokens) == (2, report.input_tokens)
    assert row.record.cost == pytest.approx(result.usage.total.cost)


def test_what_a_broken_check_saw_is_paid_and_counted(out: Path) -> None:
    def broken(text: str) -> None:
        raise KeyError("x")

    row = bulk(Model("fine"), out, validate=broken)
    assert (row.error.code, row.record.cost, row.record.total_tokens) == ("ConfigError", 0.5, 5)
    assert json.loads(out.read_text())["bulkllm"]["cost"] == 0.5


def test_an_object_that_json_has_no_form_for_is_kept_as_text(out: Path) -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

    class Odd(BaseModel):
        n: Any

        @field_validator("n")
        @classmethod
        def _odd(cls, value: Any) -> Any:
            return Thing()

    row = bulk(Model('{"n": 2}'), out, response_format=Odd)
    assert row.ok
    assert row.parsed == {"n": "a thing"}
    assert json.loads(out.read_text())["bulkllm"]["parsed"] == {"n": "a thing"}


class Broken(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _broken(cls, value: int) -> int:
        raise KeyError("x")


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (Broken, "response_format= raised KeyError: 'x'"),
        ({"type": "object", "properties": {"n": {"$ref": "#/$defs/nowhere"}}}, "response_format= raised "),
    ],
)
def test_an_answer_that_a_broken_form_was_to_read_is_paid_and_counted(out: Path, form: Any, problem: str) -> None:
    row = bulk(Model('{"n": 2}'), out, response_format=form)
    assert (row.error.code, row.record.cost, row.record.total_tokens) == ("ConfigError", 0.5, 5)
    assert row.error.message.startswith(problem)
    assert json.loads(out.read_text())["bulkllm"]["cost"] == 0.5
    mended = Model('{"n": 2}')
    assert bulk(mended, out, response_format={"type": "object"}, redo_changed=True).ok
    assert len(mended.asked) == 1


def test_what_was_paid_before_a_broken_form_counts_too() -> None:
    row = bulk(Model("no JSON", '{"n": 2}'), response_format=Broken)
    assert (row.error.code, row.record.cost) == ("ConfigError", 1.0)


# -- what a check or a hook waits for is not the row's call ----------------------------------------------------


@pytest.mark.parametrize("hook", ["validate", "on_result"])
def test_an_interrupt_lets_a_judge_that_waits_in_line_finish(out: Path, hook: str) -> None:
    """The second judgement waits a second for the limits. Its row's answer is paid, so the row is finished."""
    begun: list[Any] = []
    ended: list[Any] = []

    with FakeProvider() as server:
        address: dict[str, Any] = {"api_base": server.openai_base, "api_key": "sk-x"}
        judge = Client(RateLimit("*", rpm=60, burst=1))

        async def judged(subject: Any) -> None:
            begun.append(subject)
            if len(begun) == 2:
                asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
            await judge.acompletion("openai/judge", [{"role": "user", "content": "Good?"}], **address)
            ended.append(subject)

        options: dict[str, Any] = {hook: judged}
        result = run(["a", "b"], model="openai/m", output=out, progress=False, **address, **options)
    assert (result.interrupted, result.ok, result.failed, result.undone) == (True, 2, 0, 0)
    assert len(begun) == len(ended) == 2
    assert judge.usage.total.cancelled == 0
    assert judge.usage.total.waited > 0


# -- with a cache ------------------------------------------------------------------------------------------------


class Numbered:
    """Answers with the number of the request; looks which of them will do."""

    def __init__(self, *good: int) -> None:
        self.asked = 0
        self.good = {f"answer {number}" for number in good}
        self.cache = Cache(memory=True)

    def reply(self, body: Any) -> str:
        self.asked += 1
        return f"answer {self.asked}"

    def bulk(self, server: FakeProvider, out: Path | None = None, **options: Any) -> Any:
        given = {"model": "openai/gpt-4.1-mini", "api_base": server.openai_base, "api_key": "sk-x", **options}
        client = Client(cache=self.cache)
        return run(["Which?"], client=client, validate=self.good.__contains__, output=out, progress=False, **given)


def test_what_was_turned_down_is_asked_anew_and_not_taken_out_of_the_cache(out: Path) -> None:
    number = Numbered(7)
    with FakeProvider(reply=number.reply) as server:
        for asked in (3, 6):
            result = number.bulk(server, out, retry_failed=True)
            assert (result.failed, result.usage.total.cached, number.asked) == (1, 0, asked)
            assert result.usage.total.cost > 0
        result = number.bulk(server, out, retry_failed=True)
        assert (result.ok, number.asked) == (1, 7)
        assert number.bulk(server).usage.total.cached == 1  # the good one is kept
    assert number.asked == 7


def test_answers_that_were_kept_and_do_not_fit_any_more_are_asked_for_anew_once(out: Path) -> None:
    number = Numbered(1)
    with FakeProvider(reply=number.reply) as server:
        assert number.bulk(server).ok == 1
        number.good = {"answer 3"}
        result = number.bulk(server, out, reasks=0)
        assert (result.failed, number.asked, result.usage.total.cached) == (1, 2, 1)
        (row,) = result
        assert (row.text, row.record.cached, row.record.attempts) == ("answer 2", False, 1)
        assert row.record.cost == pytest.approx(result.usage.total.cost)
        assert json.loads(out.read_text())["bulkllm"]["tokens"] < row.record.total_tokens
        result = number.bulk(server, out, reasks=0, retry_failed=True)
        assert (result.ok, number.asked, result.usage.total.cached) == (1, 3, 0)


def test_answers_that_led_to_a_good_one_stay_and_are_not_paid_again() -> None:
    number = Numbered(3)
    with FakeProvider(reply=number.reply) as server:
        assert number.bulk(server).ok == 1
        result = number.bulk(server)
        assert (result.ok, result.usage.total.cached, number.asked) == (1, 3, 3)


def test_so_it_is_with_several_places(out: Path) -> None:
    number = Numbered(7)
    with FakeProvider(reply=number.reply) as one, FakeProvider(reply=number.reply) as other:
        places = [{"api_base": server.openai_base, "api_key": "sk-x"} for server in (one, other)]
        for failed, asked in ((1, 3), (1, 6), (0, 7)):
            result = number.bulk(one, out, deployments=places, retry_failed=True)
            assert (result.failed, result.usage.total.cached, number.asked) == (failed, 0, asked)


def test_a_cache_that_was_closed_meanwhile_takes_no_paid_answer_away(tmp_path: Path, out: Path) -> None:
    number = Numbered()
    number.cache = Cache(tmp_path / "cache")

    def closed(text: str) -> bool:
        number.cache.close()
        return False

    with FakeProvider(reply=number.reply) as server:
        result = run(
            ["Which?"], client=Client(cache=number.cache), validate=closed, reasks=0, output=out, progress=False,
            model="openai/gpt-4.1-mini", api_base=server.openai_base, api_key="sk-x",
        )  # fmt: skip
    (row,) = result
    assert row.error is not None
    assert (row.error.code, row.text) == ("InvalidAnswer", "answer 1")
    assert row.record is not None
    assert row.record.cost
