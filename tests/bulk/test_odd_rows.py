"""Rows with options that are null, blank or of the wrong kind, and bad rows that have a good row's name."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import RunResult, read_results, run
from bulkllm.bulk.journal import Journal
from bulkllm.bulk.request import Shaper
from bulkllm.errors import ConfigError, RequestFileError
from bulkllm.models import LLMConfig
from bulkllm.testing import FakeProvider

SECRET = "sk-very-secret-1234567890"
USER = {"role": "user", "content": "hi"}
NO_URL = "http://user:sk-very-secret-1234567890@[::1"


def bulk(requests: Any, call: Any, output: Path | None = None, **options: Any) -> RunResult:
    return run(requests, call=call, output=output, **{"model": "openai/m", "progress": False, **options})


# -- null, and blank -----------------------------------------------------------------------------------------

NULLS: dict[str, Any] = {
    "max_tokens": 5, "temperature": 0.5, "response_format": {"type": "text"}, "api_key": SECRET, "model": "openai/m",
    "api_base": "http://localhost:1/v1", "cache_sample": 1, "stream": None, "user": "u",
}  # fmt: skip


@pytest.mark.parametrize("batch", [False, True])
def test_a_null_in_a_row_leaves_the_runs_option_alone(batch: bool) -> None:
    options = {name: value for name, value in NULLS.items() if name != "model"}
    shaper = Shaper(model="openai/m", options=options)
    own = {"messages": [USER], **dict.fromkeys(NULLS)}
    draft = shaper.draft({"url": "/v1/chat/completions", "body": own} if batch else own)
    plain = shaper.draft({"messages": [USER]})
    assert shaper.body(draft) == shaper.body(plain)
    assert shaper.body(draft)["max_tokens"] == 5
    assert shaper.identify(draft) == shaper.identify(plain)
    assert (draft.pool, draft.carried) == (plain.pool, {})


def test_nulls_in_lines_of_a_file_and_in_a_list(calls: Any, write: Any) -> None:
    rows = [{"prompt": "a", "max_tokens": None}, {"prompt": "b", "max_tokens": 7}]
    for requests in (write(rows), rows):
        bulk(requests, calls, max_tokens=5)
    assert [body["max_tokens"] for body in calls.bodies] == [5, 7, 5, 7]


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_blank_system_cell_leaves_the_runs_system_prompt(
    calls: Any, tmp_path: Path, suffix: str, separator: str
) -> None:
    path = tmp_path / f"in{suffix}"
    lines = [["prompt", "system", "label"], ["a", "", ""], ["b", " ", ""], ["c", "Be long.", "x"]]
    path.write_text("".join(separator.join(line) + "\n" for line in lines))
    result = bulk(path, calls, system="Be brief.")
    assert [body["messages"][0]["content"] for body in calls.bodies] == ["Be brief.", "Be brief.", "Be long."]
    assert [row.columns for row in result] == [{"label": ""}, {"label": ""}, {"label": "x"}]
    calls.forget()
    bulk(path, calls)
    assert [len(body["messages"]) for body in calls.bodies] == [1, 1, 2]


# -- bad rows with a good row's name -------------------------------------------------------------------------


def named(count: int, bad: int = 0) -> list[dict[str, Any]]:
    return [{"custom_id": f"r{number}", "prompt": 5 if number < bad else f"p{number}"} for number in range(count)]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_bad_row_does_not_cost_the_answer_that_its_name_has(
    calls: Any, write: Any, out: Path, streamed: bool
) -> None:
    def again(rows: list[dict[str, Any]]) -> RunResult:
        return bulk(iter(rows) if streamed else write(rows), calls, out, skip_bad=True)

    assert again(named(9)).ok == 9
    calls.forget()
    broken = again(named(9, bad=5))
    assert (broken.ok, broken.failed, broken.skipped, calls.asked) == (4, 5, 4, 0)
    assert [(row.custom_id, row.ok) for row in broken] == [(f"r{number}", number >= 5) for number in range(9)]
    kept = {row.custom_id: row.text for row in read_results(out) if row.ok}
    assert kept == {f"r{number}": f"re: p{number}" for number in range(9)}
    assert again(named(9, bad=5)).skipped == 9
    mended = again(named(9))
    assert (mended.ok, mended.skipped, calls.asked) == (9, 9, 0)
    assert len(list(read_results(out))) == 9, "what was said of the bad rows is forgotten"


def test_bad_rows_are_told_apart_and_do_not_take_a_good_rows_name(calls: Any, write: Any, out: Path) -> None:
    rows = [
        {"custom_id": "a", "prompt": 5},
        {"custom_id": "a", "prompt": "good"},
        {"custom_id": "a", "prompt": ["bad"]},
        {"custom_id": "a", "prompt": "a repeat"},
    ]
    for _ in range(2):
        result = bulk(write(rows), calls, out, skip_bad=True)
        assert [row.text for row in result] == [None, "re: good", None, None]
        assert {row.custom_id for row in result} == {"a"}
        assert ["was there before" in row.error.message for row in result if row.error] == [False, False, True]
    assert calls.asked == 1


def test_a_bad_row_among_several_models_leaves_all_its_answers(calls: Any, write: Any, out: Path) -> None:
    models = ["openai/a", "openai/b"]
    bulk(write(named(3)), calls, out, model=models)
    broken = bulk(write(named(3, bad=1)), calls, out, model=models, skip_bad=True)
    assert (broken.ok, broken.failed) == (4, 1)
    calls.forget()
    assert bulk(write(named(3)), calls, out, model=models).skipped == 6
    assert calls.asked == 0


# -- options of the wrong kind -------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"api_key": [SECRET]}, '"api_key" must be text, not list'),
    ({"api_key": {"key": SECRET}}, '"api_key" must be text, not dict'),
    ({"api_base": [SECRET]}, '"api_base" must be text, not list'),
    ({"base_url": 5}, '"base_url" must be text, not int'),
    ({"api_base": NO_URL}, '"api_base" cannot be used: this is no URL'),
    ({"base_url": NO_URL}, '"base_url" cannot be used: this is no URL'),
    ({"api_base": f"http://{SECRET}\u2100host"}, '"api_base" cannot be used: this is no URL'),
]


@pytest.mark.parametrize(("options", "problem"), WRONG)
def test_a_key_or_an_address_of_the_wrong_kind_is_told_and_not_shown(
    calls: Any, write: Any, options: dict[str, Any], problem: str
) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", **options}]
    with pytest.raises(RequestFileError) as caught:
        bulk(write(rows), calls)
    assert (caught.value.line, calls.asked) == (2, 0)
    body = {"messages": [USER], **options}
    result = bulk([*rows, {"url": "/v1/chat/completions", "body": body}], calls, skip_bad=True)
    assert (result.ok, result.failed) == (1, 2)
    told = [str(caught.value), *(row.error.message for row in result if row.error)]
    assert all(problem in one and SECRET not in one for one in told)


@pytest.mark.parametrize("options", [{"api_key": [SECRET]}, {"api_key": {"key": SECRET}}, {"base_url": [SECRET]}])
def test_a_key_of_the_runs_that_is_no_text_is_told_and_not_shown(calls: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{next(iter(options))}= must be text, not (list|dict)$"):
        bulk(["a"], calls, **options)
    assert calls.asked == 0


def test_an_address_of_the_runs_that_is_no_url_is_told(calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[dict[str, Any]] = [{"api_base": NO_URL}, {"base_url": NO_URL}]
    for options in wrong:
        with pytest.raises(ConfigError, match=f'"{next(iter(options))}" cannot be used: this is no URL') as caught:
            bulk(["a"], calls, **options)
        assert SECRET not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_BASE", NO_URL)
    for requests in (["a"], iter(["a"])):
        with pytest.raises(ConfigError, match="OPENAI_API_BASE cannot be used") as caught:
            bulk(requests, calls, skip_bad=True)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("prompt", ["say it", {"id": "pmpt_1", "version": "2"}])
def test_a_row_of_the_responses_api_needs_its_input(calls: Any, prompt: Any) -> None:
    row = {"method": "POST", "url": "/v1/responses", "body": {"prompt": prompt}}
    with pytest.raises(RequestFileError, match='/v1/responses needs "input" beside its "prompt"'):
        bulk([row], calls)
    with pytest.raises(RequestFileError, match=r'/v1/responses needs "input"$'):
        Shaper(model="m").draft({"url": "/v1/responses", "body": {"input": None}})


def test_a_stored_prompt_beside_the_input_reaches_the_provider() -> None:
    body = {"input": "respond", "prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}
    with FakeProvider() as provider:
        (row,) = run(
            [{"method": "POST", "url": "/v1/responses", "body": body}],
            model="openai/fake", api_base=provider.openai_base, api_key=SECRET, progress=False,
        )  # fmt: skip
    assert row.text


@pytest.mark.parametrize("preset", [False, True])
def test_the_runs_system_prompt_reaches_the_responses_api(preset: bool) -> None:
    asked: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> str:
        asked.append(body)
        return "fine"

    rows: list[Any] = [{"url": "/v1/responses", "body": {"input": "hi"}}, {"input": "a vector"}, "hi"]
    told: dict[str, Any] = {"model": "openai/fake", "system": "In French."}
    if preset:
        told = {"model": LLMConfig(slug="french", model="openai/fake", system_prompt="In French.")}
    with FakeProvider(reply=reply) as provider:
        result = run(rows, **told, api_base=provider.openai_base, api_key=SECRET, progress=False)
    assert result.ok == 3
    (responses,) = [body for body in asked if "input" in body]
    (completion,) = [body for body in asked if "messages" in body]
    assert (responses["instructions"], completion["messages"][0]["content"]) == ("In French.", "In French.")


# -- columns of finished rows --------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_columns_that_cannot_be_written_stop_no_run(
    calls: Any, out: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    def rows(label: str) -> Any:
        found = [{"prompt": f"p{number}", "label": label} for number in range(5)]
        return iter(found) if streamed else found

    bulk(rows("old"), calls, out)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(Journal, "append", full)
        result = bulk(rows("new"), calls, out)
    assert (result.ok, result.skipped, result.stopped) == (5, 5, None)
    (told,) = [record.getMessage() for record in caplog.records if "columns" in record.getMessage()]
    assert "No space left" in told
    assert {row.columns["label"] for row in result} == {"old"}
    assert {row.columns["label"] for row in bulk(rows("new"), calls, out)} == {"new"}
    assert calls.asked == 5
    assert all(json.loads(line) for line in out.read_text().splitlines())
