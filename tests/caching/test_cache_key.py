"""The key: the same for what needs the same answer, different for everything else."""

from __future__ import annotations

import inspect
import json
import logging
import random
from collections.abc import Mapping
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from bulkllm import _litellm
from bulkllm.caching import names
from bulkllm.caching.key import item_keys, request_key

PARAMS: dict[str, Any] = {
    "model": "openai/gpt-4o-mini",
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    "temperature": 0.5,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "extra_body": {"top_k": 3, "chat_template_kwargs": {"enable_thinking": False}},
    "extra_headers": {"anthropic-beta": "a"},
    "seed": 1,
}


def key_of(params: Mapping[str, Any] = PARAMS, /, **changed: Any) -> str | None:
    return request_key("completion", "openai/gpt-4o-mini", "https://api.example/v1", {**params, **changed})


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
    )


def typed(value: Any) -> Any:
    """A value such that two are equal exactly if JSON would be sent the same: 1 is not True, nor 1.0, nor "1"."""
    if isinstance(value, dict):
        return "dict", frozenset((name, typed(held)) for name, held in value.items())
    if isinstance(value, list):
        return "list", tuple(typed(item) for item in value)
    return type(value).__name__, repr(value)


def shuffled(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        pairs = [(name, shuffled(held, seed)) for name, held in value.items()]
        random.Random(seed).shuffle(pairs)  # noqa: S311 - an order, not a secret
        return dict(pairs)
    if isinstance(value, list):
        return [shuffled(item, seed) for item in value]
    return value


@given(json_values(), json_values())
def test_two_values_share_a_key_exactly_if_they_are_the_same_json(one: Any, other: Any) -> None:
    assert (key_of(probe=one) == key_of(probe=other)) == (typed(one) == typed(other))


@given(st.dictionaries(st.text(), json_values(), max_size=6), st.integers())
def test_the_order_of_keywords_and_of_dict_keys_does_not_matter(value: dict[str, Any], seed: int) -> None:
    params = {**PARAMS, "probe": value}
    assert key_of(shuffled(params, seed)) == key_of(params) is not None


@given(st.lists(st.integers(), min_size=2, unique=True))
def test_the_order_of_a_list_matters(items: list[int]) -> None:
    assert key_of(probe=items) != key_of(probe=items[::-1])


@given(st.binary(), st.binary())
def test_bytes_count_by_what_is_in_them_and_are_no_text(one: bytes, other: bytes) -> None:
    assert (key_of(probe=one) == key_of(probe=bytearray(other))) == (one == other)
    assert key_of(probe=one) != key_of(probe=one.decode("latin-1"))


@pytest.mark.parametrize(
    "values",
    [
        [1, 1.0, "1", True, [1], {"1": 1}, {1: 1}],
        [0, 0.0, "", False, None, [], {}, "null", [None]],
        [float("nan"), float("inf"), float("-inf"), None, "nan", "NaN"],
        [{1: "a"}, {"1": "a"}, {True: "a"}, {"true": "a"}, {None: "a"}, {"null": "a"}, {"": ["dict", [[1, "a"]]]}],
        [b"ab", "ab", {"": ["bytes", "ab", 2]}, [97, 98]],
        ["\ud83d", "\ude00", "\U0001f600", "?"],
        [10**16, 1e16],
    ],
)
def test_what_json_would_mix_up_stays_apart(values: list[Any]) -> None:
    keys = [key_of(probe=value) for value in values]
    assert None not in keys
    assert len(set(keys)) == len(values)


def test_the_same_nan_and_the_same_tuple_find_their_answer() -> None:
    assert key_of(probe=float("nan")) == key_of(probe=-float("nan"))
    assert key_of(probe=(1, 2)) == key_of(probe=[1, 2])  # both are sent as a JSON list


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": PARAMS["messages"][::-1]},
        {"messages": [{"role": "user", "content": "hi "}]},
        {"temperature": 0.50001},
        {"temperature": None},
        {"seed": 2},
        {"seed": "1"},
        {"reasoning_effort": "low"},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"tools": [{"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}]},
        {"tool_choice": "required"},
        {"extra_body": {"top_k": 4, "chat_template_kwargs": {"enable_thinking": False}}},
        {"extra_body": {"top_k": 3, "chat_template_kwargs": {"enable_thinking": True}}},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"extra_headers": {"anthropic-beta": "b"}},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"stop": ["x"]},
        {"n": 2},
        {"logprobs": True},
        {"api_version": "2024-10-01"},
        {"custom_llm_provider": "azure"},
        {"response_format": {"type": "json_object"}},
        {"unheard_of": 1},
        {"safety_settings": []},
        {"user": "u1"},
        {"mock_response": "x"},
        {"fallbacks": ["openai/gpt-4o"]},
        {"eos_token": "</s>"},
        {"aws_region_name": "eu-west-1"},
    ],
)
def test_whatever_can_change_the_answer_changes_the_key(changed: dict[str, Any]) -> None:
    assert key_of(**changed) not in (None, key_of())


def test_operation_model_endpoint_namespace_and_sample_count() -> None:
    base = ("completion", "openai/a", "https://x/v1", PARAMS)
    keys = [
        request_key(*base),
        request_key("responses", *base[1:]),
        request_key("completion", "openai/b", *base[2:]),
        request_key("completion", "openai/a", "https://x/v2", PARAMS),
        request_key("completion", "openai/a", "http://x/v1", PARAMS),
        request_key("completion", "openai/a", "https://x/v1?api-version=2", PARAMS),
        request_key(*base, namespace="eval-7"),
        request_key(*base, sample=1),
        request_key(*base, sample=2),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key and len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


@pytest.mark.parametrize(
    "changed",
    [
        {"api_key": "sk-1"},
        {"timeout": 5, "request_timeout": 7.0, "stream_timeout": 3},
        {"num_retries": 3, "max_retries": 2},
        {"metadata": {"run": object()}, "litellm_metadata": {}, "tags": {"a": "b"}},
        {"caching": True, "cache": {"no-cache": True}, "ttl": 3},
        {"logger_fn": print, "litellm_logging_obj": object(), "litellm_call_id": "c", "litellm_trace_id": "t"},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"success_callback": [print], "langfuse_public_key": "k", "no-log": True},
        {"input_cost_per_token": 0.1, "output_cost_per_second": 2.0},
        {"aws_access_key_id": "k", "aws_secret_access_key": "s", "aws_session_token": "t", "aws_profile_name": "p"},
        {"azure_ad_token": "t", "azure_ad_token_provider": lambda: "t", "azure_password": "p", "client_secret": "s"},
        {"vertex_credentials": "{}", "hf_token": "t", "password": "p", "some_api_key": "k"},
        {"extra_headers": {"Anthropic-Beta": "a", "Authorization": "Bearer x", "X-Api-Key": "k", "Cookie": "c"}},
        {"extra_headers": {"anthropic-beta": "a", "X-Request-Id": "1", "traceparent": "2", "Idempotency-Key": "3"}},
        {"headers": {"api-key": "k", "x_api_key": "k"}, "extra_query": {"sig": "s"}},
        {"extra_body": {**PARAMS["extra_body"], "api_key": "sk-2"}},
        {"top_p": None, "stop": None, "model_list": None},
    ],
)
def test_what_cannot_change_the_answer_does_not_change_the_key(changed: dict[str, Any]) -> None:
    assert key_of(**changed) == key_of() is not None


def test_a_streamed_call_finds_the_answer_of_a_plain_one_and_none_is_absent() -> None:
    without = {name: value for name, value in PARAMS.items() if name != "temperature"}
    assert key_of(without, stream=True) == key_of(without, temperature=None)
    assert key_of(without, extra_body={**PARAMS["extra_body"], "x": None}) != key_of(without)  # null is sent


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://x/v1", "https://x/v1/", True),
        ("https://X.example/v1", "https://x.EXAMPLE/v1", True),
        ("https://user:pass@x/v1", "https://x/v1", True),
        ("https://x/v1?key=AIza1&a=1", "https://x/v1?a=1&key=AIza2", True),
        ("https://x/v1?a=1", "https://x/v1?a=2", False),
        ("https://x/V1", "https://x/v1", False),
        ("http://x:1/v1", "http://x:2/v1", False),
        ("my-endpoint", "my-endpoint", True),
        ("my-endpoint", "my-other-endpoint", False),
        ("http://[broken", "http://[broken", True),
    ],
)
def test_endpoints(one: str, other: str, same: bool) -> None:
    keys = {request_key("completion", "m", endpoint, PARAMS) for endpoint in (one, other)}
    assert len(keys) == (1 if same else 2)


def test_without_an_endpoint_the_parameters_say_where_the_request_goes() -> None:
    def key(**more: Any) -> str | None:
        return request_key("completion", "m", None, {**PARAMS, **more})

    assert key(api_base="http://x/v1") == key(base_url="http://x/v1/") != key()
    assert key(client=SimpleNamespace(base_url="http://x/v1/")) == key(api_base="http://x/v1")
    assert key(client=SimpleNamespace()) == key()
    declared = request_key("completion", "m", "lab", {**PARAMS, "api_base": "http://127.0.0.1:4000/v1"})
    assert declared == request_key("completion", "m", "lab", {**PARAMS, "api_base": "http://127.0.0.1:5000/v1"})


def test_a_response_format_counts_by_name_and_schema() -> None:
    def person(**fields: Any) -> type[BaseModel]:
        return type("Person", (BaseModel,), {"__annotations__": fields})

    assert key_of(response_format=person(name=str)) == key_of(response_format=person(name=str)) is not None
    assert key_of(response_format=person(name=str)) != key_of(response_format=person(name=int))
    assert key_of(response_format=person(name=str)) != key_of(response_format=person(name=str, age=int))
    other = type("Human", (BaseModel,), {"__annotations__": {"name": str}})
    assert key_of(response_format=person(name=str)) != key_of(response_format=other)


def test_pydantic_objects_count_by_what_they_hold() -> None:
    class Message(BaseModel):
        role: str
        content: str
        name: str | None = None

    class Other(Message):
        pass

    hi = Message(role="user", content="hi")
    assert key_of(messages=[hi]) == key_of(messages=[Message(role="user", content="hi", name=None)]) is not None
    assert key_of(messages=[hi]) != key_of(messages=[Message(role="user", content="ho")])
    assert key_of(messages=[hi]) != key_of(messages=[Other(role="user", content="hi")])


def test_an_answer_in_the_next_question_has_the_same_key_fresh_and_from_the_cache() -> None:
    from bulkllm.caching.answers import freeze_response, thaw_response

    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"}
    fresh = _litellm.load().ModelResponse(choices=[{"index": 0, "finish_reason": "tool_calls", "message": message}])
    frozen = freeze_response(fresh)
    assert frozen is not None
    kept = thaw_response("chat", json.loads(json.dumps(frozen)))
    keys = {key_of(messages=[*PARAMS["messages"], answer.choices[0].message]) for answer in (fresh, kept)}
    assert len(keys) == 1
    assert None not in keys


def test_subclasses_of_plain_types_count_as_what_is_sent() -> None:
    class Role(StrEnum):
        USER = "user"

    class Name(str):
        __slots__ = ()

    class Count(int):
        pass

    assert key_of(probe=[Role.USER, Name("a"), Count(3)]) == key_of(probe=["user", "a", 3])


class Unknown:
    pass


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("probe", Unknown(), "Unknown"),
        ("tools", [lambda: None], "function"),
        ("messages", iter(["secret text"]), "list_iterator"),
        ("probe", {1, 2}, "set"),
        ("response_format", Unknown, "no JSON schema"),
        pytest.param("probe", 10**5000, "cannot be written as JSON", id="huge"),
        ("model_list", [{"api_key": "sk-secret"}], "credentials"),
    ],
)
def test_what_has_no_canonical_form_has_no_key(
    name: str, value: Any, holds: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "bulkllm.caching.key")
    assert key_of(**{name: value}) is None
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert holds in record.getMessage()
    assert "secret" not in record.getMessage()


def test_a_value_that_holds_itself_has_no_key() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert key_of(probe=loop) is None


def test_item_keys_do_not_depend_on_the_neighbours() -> None:
    def keys(*items: Any, **more: Any) -> list[str]:
        found = item_keys("embedding", "openai/e", None, {"dimensions": 8, **more}, items)
        assert found is not None
        return found

    one, two, three = keys("a", "b", [1, 2])
    assert keys("b") == [two]
    assert keys([1, 2], "a") == [three, one]
    assert keys("a", dimensions=9) != [one]
    assert len({one, two, three}) == 3
    assert item_keys("embedding", "openai/e", None, {}, [Unknown()]) is None


def test_every_name_litellm_knows_is_sorted_with_care() -> None:
    """Of LiteLLM's own options: nothing that holds a secret counts, and what shapes the answer does."""
    litellm = _litellm.load()
    known = set(litellm.types.utils.all_litellm_params)
    for function in (litellm.completion, litellm.embedding, litellm.responses, litellm.text_completion):
        known |= set(inspect.signature(function).parameters)
    sensitive = {
        name
        for name in known
        if any(part in name for part in ("api_key", "secret", "password", "credential", "_key_id", "private_key"))
    }
    assert sensitive
    assert {name for name in sensitive if names.counts(name)} <= {
        "litellm_credential_name",  # a name, not a credential: it decides who answers
        "configurable_clientside_auth_params",
        "default_api_key_tpm_limit",
        "default_api_key_rpm_limit",
        "s3_encryption_key_id",  # the name of a key
    }
    shaping = {
        "messages", "temperature", "top_p", "n", "stop", "max_tokens", "max_completion_tokens", "tools", "tool_choice",
        "functions", "response_format", "seed", "logit_bias", "logprobs", "top_logprobs", "reasoning_effort",
        "thinking", "modalities", "prediction", "audio", "web_search_options", "extra_headers", "service_tier",
        "instructions", "input", "dimensions", "encoding_format", "previous_response_id", "reasoning", "text",
        "truncation", "prompt",
        "suffix", "echo", "best_of", "verbosity", "custom_llm_provider", "api_version", "user", "deployment_id",
        "allowed_openai_params", "fallbacks", "prompt_id", "guardrails", "litellm_system_prompt",
    }  # fmt: skip
    assert {name for name in shaping if not names.counts(name)} == set()
