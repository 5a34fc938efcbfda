from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import BaseModel

from bulkllm.bulk.request import BulkRequest, Shaper
from bulkllm.bulk.template import prompt_template
from bulkllm.errors import ConfigError, RequestFileError

SECRET = "sk-very-secret-1234567890"


def request(raw: object, **run: Any) -> BulkRequest:
    shaper = Shaper(**{"model": "openai/m", **run})
    draft = shaper.draft(raw)
    key, print_ = shaper.identify(draft)
    return shaper.request(draft, index=0, key=key, print_=print_)


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("raw", "operation", "asked"),
    [
        ("hi", "completion", {"messages": [USER]}),
        ([USER], "completion", {"messages": [USER]}),
        ({"prompt": "hi"}, "completion", {"messages": [USER]}),
        (
            {"prompt": "hi", "system": "be brief"},
            "completion",
            {"messages": [{"role": "system", "content": "be brief"}, USER]},
        ),
        ({"messages": [USER], "temperature": 0.5}, "completion", {"messages": [USER], "temperature": 0.5}),
        ({"input": ["a", "b"]}, "embedding", {"input": ["a", "b"]}),
        (
            {"url": "/v1/chat/completions", "method": "POST", "body": {"messages": [USER]}},
            "completion",
            {"messages": [USER]},
        ),
        ({"url": "https://api.openai.com/v1/embeddings", "body": {"input": "a"}}, "embedding", {"input": "a"}),
        ({"url": "/v1/responses", "body": {"input": "a", "text": {}}}, "responses", {"input": "a", "text": {}}),
        (
            {"custom_id": "a", "body": {"messages": [USER], "min_p_special": 1}},
            "completion",
            {"messages": [USER], "min_p_special": 1},
        ),
    ],
)
def test_each_shape_of_a_row(raw: object, operation: str, asked: dict[str, Any]) -> None:
    made = request(raw)
    assert made.operation == operation
    assert made.body == {**asked, "model": "openai/m"}


def test_a_rows_own_options_win() -> None:
    made = request({"prompt": "hi", "model": "openai/other", "temperature": 1}, options={"temperature": 0, "seed": 3})
    assert made.model == "openai/other"
    assert {name: made.body[name] for name in ("model", "temperature", "seed")} == {
        "model": "openai/other",
        "temperature": 1,
        "seed": 3,
    }


def test_other_columns_are_carried_and_not_sent() -> None:
    made = request({"custom_id": 7, "prompt": "hi", "category": "a", "metadata": {"n": 1}, "body": "an e-mail's"})
    assert made.custom_id == "7"
    assert made.carried == {"category": "a", "metadata": {"n": 1}, "body": "an e-mail's"}
    assert set(made.body) == {"messages", "model"}


def test_columns_that_look_like_keys_are_not_carried(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = request({"prompt": "hi", "Authorization": SECRET, "openai_api_key": SECRET, "token": "NOUN"})
    assert made.carried == {"token": "NOUN"}
    assert "Authorization" in caplog.text
    assert SECRET not in caplog.text


def test_keys_and_headers_are_used_and_neither_shown_nor_hashed() -> None:
    bare = request({"prompt": "hi"})
    made = request({"prompt": "hi", "api_key": SECRET, "extra_headers": {"x": SECRET}}, options={"api_key": "sk-other"})
    assert made.body["api_key"] == SECRET
    assert (made.key, made.fingerprint) == (bare.key, bare.fingerprint)
    assert SECRET not in repr(made)


def test_a_slip_of_the_pen_is_told(caplog: pytest.LogCaptureFixture) -> None:
    shaper = Shaper(model="m")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            shaper.draft({"prompt": "hi", "temprature": 1})
    assert len(caplog.records) == 1
    assert "'temperature'" in caplog.text


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (5, "cannot be a int"),
        (None, "cannot be a NoneType"),
        ({}, "nothing to ask"),
        ({"promt": "hi"}, "nothing to ask"),
        ({"prompt": "a", "messages": [USER]}, "exclude each other"),
        ({"prompt": 5}, '"prompt" must be text'),
        ({"prompt": ["a"]}, '"prompt" must be text'),
        ({"prompt": "a", "system": 5}, '"system" must be text'),
        ({"messages": [{"role": "system", "content": "a"}, USER], "system": "b"}, "keep one"),
        ({"messages": "hi"}, '"messages" must be a list'),
        ({"messages": []}, '"messages" must be a list'),
        ({"messages": ["hi"]}, '"role"'),
        ({"messages": [{"content": "hi"}]}, '"role"'),
        ({"prompt": "a", "custom_id": ""}, "custom_id"),
        ({"prompt": "a", "custom_id": True}, "custom_id"),
        ({"prompt": "a", "custom_id": ["x"]}, "custom_id"),
        ({"prompt": "a", "model": 5}, '"model" must be text'),
        ({"prompt": "a", "stream": True}, "cannot stream"),
        ({"prompt": "a", 5: "x"}, "column names"),
        ({"method": "GET", "body": {"messages": [USER]}}, '"POST"'),
        ({"url": "/v1/completions", "body": {"prompt": "hi"}}, "none of those"),
        ({"url": "/v1/chat/completions", "body": {"input": "hi"}}, 'needs "messages"'),
        ({"url": "/v1/embeddings", "body": {}}, 'needs "input"'),
    ],
)
def test_what_is_no_row_is_told(raw: object, problem: str) -> None:
    with pytest.raises(RequestFileError, match=problem):
        Shaper(model="m").draft(raw)


def test_a_row_without_any_model_is_told() -> None:
    with pytest.raises(RequestFileError, match="no model"):
        Shaper().draft("hi")


@pytest.mark.parametrize("odd", ["\ud83d", float("nan"), float("inf"), object(), {1, 2}])
def test_what_cannot_be_sent_is_told(odd: object) -> None:
    shaper = Shaper(model="m")
    draft = shaper.draft({"messages": [{"role": "user", "content": odd}]})
    with pytest.raises(RequestFileError, match=r"holds|cannot be used"):
        shaper.identify(draft)


def test_a_row_nested_too_deeply_is_told() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    shaper = Shaper(model="m")
    with pytest.raises(RequestFileError, match="nested too deeply"):
        shaper.identify(shaper.draft({"messages": [{"role": "user", "content": deep}]}))


@pytest.mark.parametrize(
    "options",
    [{"stream": True}, {"messages": []}, {"input": "a"}, {"response_format": object()}, {"seed": float("nan")}],
)
def test_options_that_make_no_sense_for_a_run_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Shaper(model="m", options=options)


@pytest.mark.parametrize("model", ["", 5, ["a", "b"]])
def test_a_model_is_one_name(model: Any) -> None:
    with pytest.raises(ConfigError, match="model="):
        Shaper(model=model)


class Format(BaseModel):
    answer: int


def test_what_changes_an_answer_changes_the_fingerprint_and_not_the_key() -> None:
    row = {"prompt": "hi", "label": "x"}
    base = request(row)
    runs: list[dict[str, Any]] = [
        {"model": "openai/n"},
        {"system": "be brief"},
        {"options": {"temperature": 0}},
        {"options": {"response_format": Format}},
        {"options": {"api_base": "http://localhost:1/v1"}},
        {"endpoint": "cluster"},
    ]
    others = [request(row, **run) for run in runs]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(runs)
    # A system message of the run's is part of what is asked; all else is the run's business and not the row's.
    assert {other.key for run, other in zip(runs, others, strict=True) if "system" not in run} == {base.key}


def test_it_does_not_matter_whether_an_option_is_the_rows_or_the_runs() -> None:
    mine = request({"custom_id": "a", "prompt": "hi", "temperature": 0, "model": "openai/m"})
    theirs = request({"custom_id": "a", "prompt": "hi"}, options={"temperature": 0})
    assert mine.fingerprint == theirs.fingerprint


def test_a_declared_endpoint_stands_for_the_address() -> None:
    one = request("hi", endpoint="lab", options={"api_base": "http://localhost:1/v1"})
    other = request("hi", endpoint="lab", options={"base_url": "http://localhost:2/v1"})
    assert one.fingerprint == other.fingerprint
    own = request({"prompt": "hi", "api_base": "http://localhost:3/v1"}, endpoint="lab")
    assert own.fingerprint != one.fingerprint
    assert own.endpoint == "http://localhost:3/v1"


def test_the_endpoint_in_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = request("hi")
    monkeypatch.setenv("OPENAI_API_BASE", "http://user:secret@localhost:9/v1")
    assert request("hi").endpoint == "http://localhost:9/v1"
    assert request("hi").fingerprint != plain.fingerprint
    assert request("hi", model="anthropic/m").endpoint is None


def test_the_runs_system_message_is_for_rows_without_one() -> None:
    system = {"role": "system", "content": "be brief"}
    assert request("hi", system="be brief").body["messages"] == [system, USER]
    own = [{"role": "developer", "content": "own"}, USER]
    assert request(own, system="be brief").body["messages"] == own
    assert request({"prompt": "hi", "system": "mine"}, system="be brief").body["messages"][0]["content"] == "mine"


def test_rows_are_not_changed() -> None:
    row = {"messages": [USER], "temperature": 1, "label": "x"}
    made = request(row, system="be brief", options={"seed": 1})
    assert row == {"messages": [USER], "temperature": 1, "label": "x"}
    assert made.body["messages"] is not row["messages"]


def test_a_template_fills_the_prompt_from_the_columns() -> None:
    template = prompt_template("{{prompt}} in {{lang}}?")
    made = request({"prompt": "Say it", "lang": "Dutch", "temperature": 0}, template=template)
    assert made.body["messages"][0]["content"] == "Say it in Dutch?"
    assert made.body["temperature"] == 0
    assert made.carried == {"prompt": "Say it", "lang": "Dutch"}
    whole = request({"messages": [USER], "lang": "Dutch"}, template=template)
    assert whole.body["messages"] == [USER]


def test_a_template_tells_what_is_missing() -> None:
    with pytest.raises(RequestFileError, match=r"'lang' is undefined; columns: text"):
        prompt_template("{{text}} {{lang}}")({"text": "a"})
    with pytest.raises(ConfigError, match="malformed"):
        prompt_template("{{text")
    with pytest.raises(ConfigError, match="uses no column"):
        prompt_template("always the same")


@pytest.mark.parametrize(
    "text", ["{{ text.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}{{text}}", "{{ text / 0 }}"]
)
def test_a_template_cannot_leave_its_sandbox(text: str) -> None:
    with pytest.raises(RequestFileError, match="cannot be filled"):
        prompt_template(text)({"text": 5})
