from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm import _litellm
from bulkllm.accounting import Usage, UsageRecord, public_endpoint
from bulkllm.accounting.record import _FIELDS, _TYPES
from bulkllm.errors import ConfigError

# LiteLLM's types warn about themselves when the first of them is made; none of it is ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")

names = st.text('abz AZ09/"\\=:@?\n\u00e9\u4e16\U0001f600', max_size=12)
maybe_number = st.none() | st.floats(0, 1e6)
zones = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
records = st.builds(
    UsageRecord,
    operation=st.sampled_from(["completion", "embedding", "responses"]),
    model=names,
    requested_model=names,
    response_model=st.none() | names,
    provider=st.none() | names,
    endpoint=st.none() | names | st.just("https://user:pass@host:8000/v1/?key=1#x"),
    usage=st.builds(Usage, st.integers(0, 10**9), st.integers(0, 10**9), reasoning_tokens=st.integers(0, 9)),
    cost=maybe_number,
    cost_note=st.none() | names,
    saved=maybe_number,
    cached=st.booleans(),
    outcome=names,
    latency=st.floats(0, 1e6),
    time_to_first_token=maybe_number,
    waited=st.floats(0, 1e6),
    attempts=st.integers(0, 99),
    refused=st.integers(0, 99),
    tags=st.dictionaries(names, names, max_size=3),
    started_at=st.datetimes(timezones=zones),
    estimated=st.booleans(),
    charge_unknown=st.booleans(),
    uncertain_cost=maybe_number,
    uncertain_tokens=st.integers(0, 10**9),
)


@given(records)
def test_json_goes_both_ways(record: UsageRecord) -> None:
    assert UsageRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert pickle.loads(pickle.dumps(record)) == record  # noqa: S301 - our own bytes
    assert copy.deepcopy(record) == record


def test_each_field_has_a_type_in_json() -> None:
    assert set(_TYPES) == set(_FIELDS) == set(UsageRecord(model="m").to_dict())


@pytest.mark.parametrize("name", _FIELDS)
def test_a_wrong_type_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        UsageRecord.from_dict({"model": "m", name: object()})


@pytest.mark.parametrize("name", ["cost", "latency", "attempts"])
def test_a_truth_value_is_no_number(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        UsageRecord.from_dict({"model": "m", name: True})


def test_a_record_needs_a_model_and_a_time_with_a_zone() -> None:
    with pytest.raises(ConfigError, match="model"):
        UsageRecord.from_dict({})
    with pytest.raises(ConfigError, match="time zone"):
        UsageRecord.from_dict({"model": "m", "started_at": "2026-11-01T10:00:00"})
    with pytest.raises(ConfigError, match="not a time"):
        UsageRecord.from_dict({"model": "m", "started_at": "yesterday"})


def test_what_a_newer_version_adds_is_passed_over() -> None:
    assert UsageRecord.from_dict({"model": "m", "colour": "red"}).model == "m"


def test_a_new_record_has_a_time_with_a_zone_and_asks_for_its_model() -> None:
    record = UsageRecord(model="openai/gpt-5-mini")
    assert record.started_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - record.started_at) < timedelta(seconds=5)
    assert record.requested_model == "openai/gpt-5-mini"
    assert record.cost is None


def test_the_tokens_are_those_of_the_usage() -> None:
    record = UsageRecord(model="m", usage=Usage(10, 20, 3, 4, 5), outcome="cancelled")
    told = (record.input_tokens, record.output_tokens, record.total_tokens)
    parts = (record.cache_read_tokens, record.cache_write_tokens, record.reasoning_tokens)
    assert (told, parts, record.ok) == ((10, 20, 30), (3, 4, 5), False)
    assert UsageRecord(model="m").ok


def test_a_record_is_a_value() -> None:
    record = UsageRecord(model="m", tags={"a": "b"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.cost = 0.0  # type: ignore[misc]  # the point of the test
    assert len({record, dataclasses.replace(record)}) == 1


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://user:secret@host:8443/v1?key=secret#secret", "https://host:8443/v1"),
        ("https://us@er:se@cret@host/@cf/model", "https://host/@cf/model"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("user:secret@localhost:8000/v1?key=secret", "localhost:8000/v1"),
        ("localhost:8000", "localhost:8000"),
        ("https://host?key=secret", "https://host"),
        ("https://[secret", None),
        ("secret://", None),
        ("?secret", None),
        ("", None),
    ],
)
def test_an_endpoint_holds_no_secret(url: str, public: str | None) -> None:
    assert public_endpoint(url) == public
    assert UsageRecord(model="m", endpoint=url).endpoint == public


@given(st.text(st.sampled_from("ab:/@?#[]%.\\ \t\n1")), st.sampled_from(["", "https://", "//"]))
def test_cleaning_an_endpoint_again_changes_nothing_and_none_keeps_a_query(url: str, scheme: str) -> None:
    cleaned = public_endpoint(scheme + url)
    if cleaned is not None:
        assert "?" not in cleaned
        assert "#" not in cleaned
        assert public_endpoint(cleaned) == cleaned


def hidden(response: Any, **notes: Any) -> Any:
    response._hidden_params = notes
    return response


def test_from_a_response_of_litellm() -> None:
    litellm = _litellm.load()
    response = litellm.completion(
        model="openai/gpt-4o-mini",
        messages=[{"role": "user", "content": "hello"}],
        mock_response="hi",
        api_key="sk-secret",
        api_base="https://me:secret@example.test/v1?key=secret",
    )
    record = UsageRecord.from_response(response)
    assert (record.operation, record.model, record.provider) == ("completion", "openai/gpt-4o-mini", "openai")
    assert (record.requested_model, record.response_model) == ("openai/gpt-4o-mini", "gpt-4o-mini")
    assert (record.input_tokens, record.output_tokens) == (
        response.usage.prompt_tokens,
        response.usage.completion_tokens,
    )
    assert record.cost == pytest.approx(record.input_tokens * 1.5e-7 + record.output_tokens * 6e-7)
    assert record.cost_note is None
    assert record.latency > 0
    assert record.endpoint is not None
    assert "secret" not in json.dumps(record.to_dict())
    assert datetime.now(UTC) - record.started_at >= timedelta(seconds=record.latency)


def test_an_unknown_price_is_none_with_a_reason() -> None:
    litellm = _litellm.load()
    response = litellm.completion(
        model="openai/fake-model", messages=[{"role": "user", "content": "hello"}], mock_response="hi", api_key="x"
    )
    record = UsageRecord.from_response(response, model="openai/fake-model")
    assert record.cost is None
    assert record.cost_note is not None
    assert "openai/fake-model" in record.cost_note


def test_from_an_embedding() -> None:
    litellm = _litellm.load()
    response = litellm.embedding(
        model="openai/text-embedding-3-small", input=["a"], mock_response=[0.1, 0.2], api_key="x"
    )
    record = UsageRecord.from_response(response)
    assert (record.operation, record.model, record.provider) == (
        "embedding",
        "openai/text-embedding-3-small",
        "openai",
    )
    assert (record.input_tokens, record.output_tokens) == (10, 0)
    assert record.cost == pytest.approx(10 * 2e-8)


def test_from_the_responses_api() -> None:
    _litellm.load()
    of = importlib.import_module("litellm.types.llms.openai")
    usage = of.ResponseAPIUsage(input_tokens=1000, output_tokens=500, total_tokens=1500)
    response = hidden(
        of.ResponsesAPIResponse(id="r", created_at=1, output=[], model="gpt-4o-mini", object="response", usage=usage),
        custom_llm_provider="openai",
    )
    record = UsageRecord.from_response(response, model="gpt-4o-mini")
    assert (record.operation, record.model, record.requested_model) == (
        "responses",
        "openai/gpt-4o-mini",
        "gpt-4o-mini",
    )
    assert record.total_tokens == 1500
    assert record.cost == pytest.approx(1000 * 1.5e-7 + 500 * 6e-7)
    assert response.usage is usage


def test_a_hit_in_litellms_cache_costs_nothing_and_says_so() -> None:
    notes = {"cache_hit": True, "response_cost": 0.5, "custom_llm_provider": "openai", "_response_ms": 12.0}
    response = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 3, "total_tokens": 3}, "_hidden_params": notes}
    record = UsageRecord.from_response(response)
    assert (record.cached, record.cost, record.saved) == (True, 0.0, 0.5)
    assert (record.attempts, record.latency) == (0, 0.0)


def test_from_a_dict_and_from_next_to_nothing() -> None:
    told = {
        "object": "response",
        "model": "gpt-x",
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        "_hidden_params": {"response_cost": 0.25, "custom_llm_provider": "acme", "api_base": "https://a.test/v1?k=1"},
    }
    record = UsageRecord.from_response(told)
    assert (record.operation, record.model, record.cost) == ("responses", "acme/gpt-x", 0.25)
    assert (record.endpoint, record.total_tokens) == ("https://a.test/v1", 7)
    bare = UsageRecord.from_response(SimpleNamespace())
    assert (bare.model, bare.cost, bare.usage) == ("unknown", None, Usage())
    assert bare.cost_note


def test_reading_a_response_does_not_import_litellm() -> None:
    code = (
        "import sys; from bulkllm.accounting import UsageRecord\n"
        "r = UsageRecord.from_response({'model': 'm', 'usage': {'prompt_tokens': 3}})\n"
        "assert r.cost is None and 'not loaded' in r.cost_note and r.input_tokens == 3\n"
        "heavy = {'litellm', 'rich', 'pandas', 'polars', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
