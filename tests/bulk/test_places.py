"""Deployments in a file, and what is said of those that make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk.places import deployments_of, load_deployments
from bulkllm.errors import ConfigError

TWO = """
[[deployment]]
model = "azure/gpt-east"
api_base = "https://east.example.org"
api_key_env = "EAST_KEY"
api_version = "2026-01-01"
rpm = 500
tpm = 100_000

[[deployment]]
api_base = "https://west.example.org"
api_key_env = "WEST_KEY"
max_in_flight = 20
"""


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAST_KEY", "sk-east-secret")
    monkeypatch.setenv("WEST_KEY", "sk-west-secret")
    monkeypatch.delenv("GONE_KEY", raising=False)


def test_a_file_in_toml_and_the_same_in_json(tmp_path: Path) -> None:
    toml, listed, tabled = tmp_path / "places.toml", tmp_path / "places.json", tmp_path / "tabled.JSON"
    toml.write_text(TWO)
    found = load_deployments(toml)
    assert "secret" not in str(found)  # the key is looked up when it is needed
    listed.write_text(json.dumps(found))
    tabled.write_text(json.dumps({"deployment": found}))
    assert load_deployments(listed) == load_deployments(tabled) == found
    east, west = deployments_of(found, "azure/gpt")
    assert east.options == {
        "model": "azure/gpt-east", "api_base": "https://east.example.org", "api_key": "sk-east-secret",
        "api_version": "2026-01-01",
    }  # fmt: skip
    assert east.limits is not None
    assert (east.limits.rpm, east.limits.tpm) == (500, 100_000)
    assert (west.options["model"], west.options["api_key"]) == ("azure/gpt", "sk-west-secret")
    assert west.limits is not None
    assert west.limits.max_in_flight == 20
    assert "secret" not in repr([east, west])
    assert deployments_of([{"api_base": "x"}], "m")[0].limits is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[deployment]\n", r"places\.toml is no valid TOML.*line 1"),
        ("", r"has no deployments; write a table \[\[deployment\]\]"),
        ("deployment = []", "has no deployments"),
        ('[[deployments]]\napi_base = "x"', r"no 'deployments' here; each place is a table \[\[deployment\]\]"),
        ("deployment = [3]", r"places\.toml, deployment 1 must be a table"),
        ('[[deployment]]\n[[deployment]]\napi_key = "sk-leaked"', "deployment 2: 'api_key' does not belong"),
        ('[[deployment]]\nextra_headers = { Authorization = "sk-leaked" }', "'extra_headers' does not belong"),
        ('[[deployment]]\napi_key_env = "GONE_KEY"', "deployment 1: the environment variable GONE_KEY is not set; put"),
        ('[[deployment]]\napi_key_env = "sk-leaked"', "api_key_env must be the name of an environment variable"),
        ('[[deployment]]\napi_bse = "x"', "deployment 1: there is no 'api_bse'; 'api_base' was meant"),
        ("[[deployment]]\nrmp = 3", "there is no 'rmp'; 'rpm' was meant"),
        ("[[deployment]]\nrpm = -3", r"deployment 1: RateLimit\(rpm=-3\) must be a positive number"),
        ('[[deployment]]\nrpm = "many"', r"deployment 1: RateLimit\(rpm='many'\) must be a positive number"),
        ("[[deployment]]\nmodel = 3", "deployment 1 needs a model"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_no_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "places.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as raised:
        load_deployments(path)
    assert "sk-leaked" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_deployments(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_deployments(tmp_path / "x.toml")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError, match=r"no valid JSON.*line 1"):
        load_deployments(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([{"api_base": "x", "api_key": "sk-1", "api_key_env": "EAST_KEY"}], "exclude each other"),
        ([{"api_base": "x"}, {"api_base": "y", "rpm": 0}], "deployment 2: "),
        (["x"], "deployment 1 must be a table"),
        ({"api_base": "x"}, "takes a list of dicts"),
    ],
)
def test_in_code_too(given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        deployments_of(given, "m")
