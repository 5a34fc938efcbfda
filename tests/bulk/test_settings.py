"""The keywords of a run by themselves: what is wrong with one is said before the first row."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import run, stream
from bulkllm.bulk.callers import _CLIENTS
from bulkllm.bulk.settings import Settings, check_options
from bulkllm.cli.options import OF_A_RUN
from bulkllm.errors import ConfigError

np: Any = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_in_flight", "abc", "max_in_flight='abc' must be a whole number, at least 1"),
        ("max_in_flight", 0, "max_in_flight=0 must be a whole number, at least 1"),
        ("max_in_flight", True, "max_in_flight=True must be a whole number"),
        ("reasks", "x", "reasks='x' must be a whole number, 0 or more"),
        ("limit", 2.5, "limit=2.5 must be a whole number of rows, 0 or more"),
        ("limit", -1, "limit=-1 must be a whole number"),
        ("sample", "3", "sample='3' must be at least 1"),
        ("skip_bad", 1, "skip_bad=1 must be True or False"),
        ("redo_changed", "no", "redo_changed='no' must be True or False"),
        ("retry_failed", None, "retry_failed=None must be True or False"),
        ("prompt", 3, "prompt= must be text, not int"),
        ("system", ["be brief"], "system= must be text, not list"),
        ("endpoint", 3, "endpoint= must be text, not int"),
        ("output", 3, "output= must be the path of a file, not int"),
        ("validate", "x", "validate= takes a function"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_by_its_keyword(calls: Any, name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run(["a"], call=calls, model="m", progress=False, **{name: value})
    assert said in str(raised.value)
    assert calls.asked == 0


def test_values_of_the_right_type_are_taken(tmp_path: Path) -> None:
    settings = Settings(limit=np.int64(3), sample=np.int32(2), max_in_flight=np.int64(1), reasks=0, output=tmp_path)
    assert (settings.limit, settings.sample) == (3, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "timeout=0 must be a positive number of seconds"),
        ({"timeout": "soon"}, "timeout='soon' must be a positive number of seconds"),
        ({"deadline": -1}, "deadline=-1 must be a positive number of seconds"),
        ({"num_retries": -1}, "num_retries=-1 must be a whole number, 0 or more"),
        ({"tags": "x"}, "tags= takes a mapping"),
        ({"priority": "x"}, "priority='x' must be a number"),
        ({"namespace": 3}, "namespace= takes a text, not int"),
    ],
)
def test_what_is_wrong_for_every_call_is_told_at_once(options: dict[str, Any], said: str) -> None:
    for checked in (check_options, lambda wrong: run(["x"], model="openai/m", progress=False, **wrong)):
        with pytest.raises(ConfigError) as raised:
            checked(options)
        assert said in str(raised.value)


def test_looking_through_options_leaves_them_as_they_are() -> None:
    good = {"timeout": 3, "num_retries": 0, "tags": {"a": "b"}, "priority": 1, "deadline": 9.5, "namespace": "n"}
    options: dict[str, Any] = {**good, "top_p": 0.5}
    check_options(options)
    check_options({"timeout": object(), "num_retries": None, "tags": None, "deadline": None})
    assert options == {**good, "top_p": 0.5}


def test_the_command_line_knows_every_keyword_of_a_run() -> None:
    keywords = {*inspect.signature(run).parameters, *inspect.signature(stream).parameters} - {"options"}
    assert set(OF_A_RUN) == keywords | set(_CLIENTS)
