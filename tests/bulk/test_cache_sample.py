"""``sample`` of a run is how many rows it asks; what a call's ``sample`` is, is ``cache_sample`` in runs and rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import plan, run
from bulkllm.caching import Cache
from bulkllm.client import Client
from bulkllm.errors import ConfigError, RequestFileError
from bulkllm.testing import FakeProvider


def test_several_answers_to_one_prompt_are_kept_apart(tmp_path: Path) -> None:
    rows = [{"prompt": "Throw a die.", "cache_sample": number} for number in (0, 1, 1, 2)]
    with FakeProvider() as server, Cache(tmp_path) as cache:
        client = Client(cache=cache)
        options: dict[str, Any] = {
            "model": "openai/m", "api_base": server.openai_base, "api_key": "sk-x", "client": client,
        }  # fmt: skip
        assert plan(rows, **options).to_ask == 3
        assert run(rows, progress=False, **options).ok == 4
        assert server.report().requests == 3
        # The same as the first row's, which a call would say with sample=0, or not at all.
        assert run(["Throw a die."], progress=False, **options).usage.total.cached == 1
        call = {name: value for name, value in options.items() if name != "client"}
        client.completion(messages=[{"role": "user", "content": "Throw a die."}], sample=2, **call)
        assert server.report().requests == 3
        assert run(["Throw a die."], cache_sample=5, progress=False, **options).usage.total.cached == 0


def test_without_a_cache_the_provider_does_not_see_it(tmp_path: Path) -> None:
    with FakeProvider() as server:
        base = server.base_of("openai")
        options: dict[str, Any] = {
            "model": "openai/gpt-4.1-mini",
            "api_base": base,
            "api_key": "sk-x",
            "progress": False,
        }
        result = run([{"prompt": "a", "cache_sample": 3}], cache_sample=1, **options)
    assert (result.ok, result.failed) == (1, 0)


def test_it_is_a_part_of_the_request(calls: Any, out: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a", "cache_sample": number} for number in range(3)]
    more: dict[str, Any] = {"call": calls, "model": "openai/m", "output": out, "progress": False}
    assert run(rows, **more).ok == 3
    assert sorted(body["sample"] for body in calls.bodies) == [0, 1, 2]
    assert not any("cache_sample" in body for body in calls.bodies)
    assert run(list(reversed(rows)), **more).skipped == 3
    with pytest.raises(ConfigError, match="asked in another way"):
        run([{**row, "cache_sample": row["cache_sample"] + 10} for row in rows], **more)


def test_a_column_of_that_name_is_a_column_and_said_to_be_one(calls: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (row,) = run([{"prompt": "a", "sample": 7}], call=calls, model="openai/m", progress=False)
    assert row.columns == {"sample": 7}
    assert "sample" not in calls.bodies[0]
    assert "call it 'cache_sample'" in caplog.text


@pytest.mark.parametrize("wrong", ["x", -1, True, 1.5])
def test_what_is_no_number_is_refused(calls: Any, tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "b", "cache_sample": wrong}) + "\n")
    with pytest.raises(RequestFileError, match=r'a row\'s "cache_sample" must be a whole number') as raised:
        run(path, call=calls, model="openai/m", progress=False)
    assert raised.value.line == 2
    with pytest.raises(ConfigError, match=r'a run\'s "cache_sample" must be a whole number'):
        run(["a"], call=calls, model="openai/m", cache_sample=wrong, progress=False)


def test_two_words_for_one_thing_are_refused(calls: Any) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "sample": 1, "cache_sample": 2}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    with pytest.raises(RequestFileError, match="mean the same thing"):
        run([row], call=calls, model="openai/m", progress=False)


@pytest.mark.parametrize("wrong", [0, -3, True, "5", 2.5])
def test_a_runs_sample_that_looks_like_a_calls_says_what_was_meant(calls: Any, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"how many rows a run asks.*cache_sample="):
        run(["a"], call=calls, model="openai/m", sample=wrong, progress=False)
