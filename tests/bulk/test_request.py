from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import BaseModel

from bulkllm.bulk import run
from bulkllm.bulk.request import BulkRequest, Shaper
from bulkllm.bulk.template import prompt_template
from bulkllm.errors import ConfigError, RequestFileError

np: Any = pytest.importorskip("numpy")
pd: Any = pytest.importorskip("pandas")  # it comes without types

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


def test_keys_are_used_and_neither_shown_nor_hashed() -> None:
    bare = request({"prompt": "hi"})
    headers = {"Authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
    made = request({"prompt": "hi", "api_key": SECRET, "extra_headers": headers}, options={"api_key": "sk-other"})
    assert (made.body["api_key"], made.body["extra_headers"]) == (SECRET, headers)
    assert (made.key, made.fingerprint) == (bare.key, bare.fingerprint)
    assert SECRET not in repr(made)


def test_headers_that_are_no_keys_are_a_part_of_the_request_and_not_shown() -> None:
    bare, one, other, same = (
        request({"prompt": "hi", "custom_id": "a"}, options={"extra_headers": headers})
        for headers in (None, {"x-route": SECRET}, {"x-route": "b"}, {"X-Route": SECRET, "Authorization": "Bearer b"})
    )
    assert len({bare.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert same.fingerprint == one.fingerprint
    assert SECRET not in repr(one)


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


def responses(data: Any = "hi", **body: Any) -> dict[str, Any]:
    return {"custom_id": "a", "url": "/v1/responses", "body": {"input": data, **body}}


def test_the_runs_system_message_is_the_instructions_of_the_responses_api() -> None:
    made = request(responses(), system="be brief")
    assert made.body == {"input": "hi", "instructions": "be brief", "model": "openai/m"}
    assert made.fingerprint != request(responses()).fingerprint
    assert request(responses(model="openai/n"), system="be brief").body["instructions"] == "be brief"
    assert request(responses(instructions="mine"), system="be brief").body["instructions"] == "mine"
    assert request(responses(), system="be brief", options={"instructions": "ours"}).body["instructions"] == "ours"
    own = [{"role": "developer", "content": "own"}, USER]
    assert request(responses(own), system="be brief").body == {"input": own, "model": "openai/m"}
    assert request(responses([USER]), system="be brief").body["instructions"] == "be brief"


def test_an_embedding_has_no_system_prompt_of_its_own() -> None:
    with pytest.raises(RequestFileError, match='no system prompt; remove "system"'):
        Shaper(model="m").draft({"input": "hi", "system": "be brief"})
    assert request({"input": "hi", "system": None}, system="be brief").body == {"input": "hi", "model": "openai/m"}


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


NOTHING = [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_a_template_writes_no_value_that_is_missing(value: Any) -> None:
    row = {"text": value, "lang": "Dutch"}
    with pytest.raises(RequestFileError, match=r"text has no value here; .* \{\{ text or '' \}\}"):
        prompt_template("Into {{lang}}: {{text}}")(row)
    assert prompt_template("Into {{lang}}: {{ text or '' }}.")(row) == "Into Dutch: ."
    assert prompt_template("{% if text %}Say {{text}}{% else %}{{lang}}{% endif %}")(row) == "Dutch"
    with pytest.raises(RequestFileError, match="what it writes has no value here"):
        prompt_template("{% for part in text %}{{part}}{% endfor %}")({"text": ["a", value]})


def test_a_template_writes_whatever_there_is() -> None:
    row = {"no": 0, "f": 0.0, "empty": "", "false": False, "list": [None], "big": 10**20}
    text = prompt_template("{{no}} {{f}} {{empty}} {{false}} {{list}} {{big}}")(row)
    assert text == "0 0.0  False [None] 100000000000000000000"


RAISING = [
    "{{ {'en': 'English'}.pop(text) }}", "{{ '%(lang)s' % {'x': text} }}", "{{ text.encode('no such') }}",
    "{{ '{a.b}'.format(a=text) }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}{{ text }}", "{{ text // 0 }}",
]  # fmt: skip


@pytest.mark.parametrize("template", RAISING)
def test_what_a_template_raises_is_the_rows_error(calls: Any, template: str) -> None:
    rows = [{"text": "abc"}, {"messages": [USER]}]
    with pytest.raises(RequestFileError, match=r"requests:1: the prompt template cannot be filled: .{5}"):
        run(rows, call=calls, model="m", prompt=template, progress=False)
    assert calls.asked == 0
    result = run(rows, call=calls, model="m", prompt=template, skip_bad=True, progress=False)
    assert [row.ok for row in result] == [False, True]


@pytest.mark.parametrize(
    "text", ["{{ text.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}{{text}}", "{{ text / 0 }}"]
)
def test_a_template_cannot_leave_its_sandbox(text: str) -> None:
    with pytest.raises(RequestFileError, match="cannot be filled"):
        prompt_template(text)({"text": 5})
