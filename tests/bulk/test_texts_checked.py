"""What is checked of an answer: its text, of whatever API, and not the call of a tool."""

from __future__ import annotations

from typing import Any

import pytest

import bulkllm
from bulkllm import ConfigError
from bulkllm.bulk import run
from bulkllm.testing import FakeProvider

pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")

TOOL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def to(server: FakeProvider) -> dict[str, Any]:
    return {"model": "openai/m", "api_base": server.openai_base, "api_key": "k", "progress": False}


def answering(message: dict[str, Any]) -> Any:
    async def ask(request: Any) -> Any:
        asked.append(request)
        return {"choices": [{"message": message}]}, None

    asked: list[Any] = []
    ask.asked = asked  # type: ignore[attr-defined]
    return ask


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("form", [None, {"type": "json_object"}])
def test_a_bare_call_of_a_tool_comes_as_it_is(content: str | None, form: Any) -> None:
    call = answering({"content": content, "tool_calls": [TOOL]})
    options: dict[str, Any] = {} if form is None else {"response_format": form}
    (answer,) = bulkllm.map(["q"], model="m", call=call, **options)
    assert answer["choices"][0]["message"]["tool_calls"] == [TOOL]
    assert len(call.asked) == 1


@pytest.mark.parametrize("content", ["text", ""])
def test_a_text_is_a_text_also_an_empty_one_and_beside_a_tool(content: str) -> None:
    tools = [TOOL] if content else None
    assert bulkllm.map(["q"], model="m", call=answering({"content": content, "tool_calls": tools})) == [content]


@pytest.mark.parametrize("choices", ["no list", {"a": 1}, 5, [], [None], ["x"]])
def test_an_answer_of_an_odd_shape_is_a_wrong_one(choices: Any) -> None:
    async def ask(_: Any) -> Any:
        return {"choices": choices}, None

    (row,) = run(["q"], model="m", call=ask, validate=len, progress=False)
    assert row.error is not None
    assert row.error.code == "InvalidAnswer"


ROW = {"custom_id": "a", "method": "POST", "url": "/v1/responses"}


@pytest.mark.parametrize("data", ["hi", [{"role": "user", "content": "hi"}]])
def test_answers_of_the_responses_api_are_checked_and_asked_for_again(data: Any) -> None:
    heard: list[Any] = []

    def reply(body: Any) -> str:
        heard.append(body["input"])
        return "good" if len(heard) > 1 else "bad"

    def good(text: str) -> bool:
        return text == "good"

    with FakeProvider(reply=reply) as server:
        (row,) = run([{**ROW, "body": {"input": data}}], validate=good, **to(server))
    assert row.text == "good"
    assert row.record is not None
    assert row.record.attempts == len(heard) == 2
    assert [(item["role"], item["content"]) for item in heard[1]][:2] == [("user", "hi"), ("assistant", "bad")]
    assert "cannot be used" in heard[1][2]["content"]


def test_one_that_never_fits_fails() -> None:
    with FakeProvider() as server:
        (row,) = run([{**ROW, "body": {"input": "hi"}}], validate=lambda _: False, **to(server))
        assert server.report().requests == 3
    assert row.error is not None
    assert row.error.code == "InvalidAnswer"


def test_an_embedding_has_no_text_to_check() -> None:
    with FakeProvider() as server:
        (row,) = run([{"input": "hi"}], validate=len, **to(server))
        assert server.report().requests == 0
    assert row.error is not None
    assert (row.error.code, "an embedding has none" in row.error.message) == (ConfigError.__name__, True)
