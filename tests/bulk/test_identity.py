from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from bulkllm.bulk.endpoints import bare_url
from bulkllm.bulk.identity import (
    _plain_messages,
    fingerprint,
    key_of_bad,
    key_of_body,
    key_of_id,
    key_of_line,
    nth_key,
    token,
    tokens,
)
from bulkllm.errors import ConfigError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(plain)
def test_the_order_of_names_does_not_matter(value: Any) -> None:
    assert token(value) == token(shuffled(value))


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["role", "content", "name"]), st.text() | st.none(), max_size=3), max_size=4
    )
)
def test_messages_are_written_like_any_other_value(messages: list[dict[str, Any]]) -> None:
    text = json.dumps(messages, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert (_plain_messages(messages) or text) == text


def test_plain_messages_are_put_together() -> None:
    assert _plain_messages([{"role": "user", "content": 'é"\n'}]) == '[{"content":"é\\"\\n","role":"user"}]'
    assert _plain_messages([{"role": "user", "content": ["parts"]}]) is None
    assert _plain_messages([{"role": "user", "text": "x"}]) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, "1"), (1, True), (0, False), (1, 1.0), (None, "null"), ([], {}), ("a", ["a"]), ("x" * 300, "x" * 301)],
)
def test_values_that_differ_are_told_apart(one: object, other: object) -> None:
    assert token(one) != token(other)


def test_a_long_value_is_short_in_the_fingerprint() -> None:
    assert len(token("word " * 10_000)) < 100


class Answer(BaseModel):
    city: str


class Other:
    class Answer(BaseModel):
        town: str


def test_pydantic_classes_count_by_their_schema() -> None:
    assert token(Answer) != token(Other.Answer)
    assert token(Answer) == token(Answer)
    assert token(Answer(city="Bonn")) == token({"city": "Bonn"})


def test_an_object_without_a_stable_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="no stable form"):
        token({"client": object()})


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud83d", {"a": ["\udc00"]}])
def test_what_cannot_be_sent_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"Out of range|surrogates"):
        token(value)


@given(st.dictionaries(st.sampled_from(["temperature", "seed", "tools", "stop", "user"]), plain, max_size=4))
def test_only_what_can_change_an_answer_counts(options: dict[str, Any]) -> None:
    secret = {"Authorization": "Bearer sk-1", "X-Api-Key": "k", "x_api_key": "k", "Cookie": "c", "X-Request-Id": "1"}
    neutral = {"api_key": "sk-1", "timeout": 3, "num_retries": 2, "extra_headers": secret, "api_base": "http://a"}
    assert tokens({**options, **neutral}) == tokens(options)
    changed = {**options, "max_tokens": 5}
    assert fingerprint("completion", None, tokens(changed)) != fingerprint("completion", None, tokens(options))


@pytest.mark.parametrize("name", ["headers", "extra_headers"])
def test_headers_count_as_they_do_for_the_cache(name: str) -> None:
    def print_(**headers: Any) -> bytes:
        return fingerprint("completion", None, tokens({"model": "m", name: headers}))

    plain = fingerprint("completion", None, tokens({"model": "m"}))
    routed = print_(**{"X-Route": "a", "Authorization": "Bearer 1"})
    assert print_() == print_(authorization="Bearer 1") == plain
    assert len({plain, routed, print_(**{"X-Route": "b"}), print_(**{"anthropic-beta": "a"})}) == 4
    assert print_(**{"x-ROUTE": "a", "authorization": "Bearer 2", "api-key": "k"}) == routed
    assert "Bearer" not in str(tokens({name: {"X-Route": "a", "Authorization": "Bearer 1"}}))
    assert not tokens({name: "authorization: sk-1"})


@pytest.mark.parametrize("name", ["bos_token", "eos_token"])
def test_tokens_of_a_prompt_are_no_secrets(name: str) -> None:
    assert tokens({name: "<s>"}) == {name: '"<s>"'}
    assert not tokens({"hf_token": "secret"})


def test_operation_endpoint_and_options_each_change_the_fingerprint() -> None:
    options = tokens({"model": "m", "temperature": 0})
    prints = {
        fingerprint("completion", None, options),
        fingerprint("embedding", None, options),
        fingerprint("completion", "http://h/v1", options),
        fingerprint("completion", None, tokens({"model": "m", "temperature": 1})),
        fingerprint("completion", None, tokens({"model": "n", "temperature": 0})),
        fingerprint("completion", None, tokens({"model": "m"})),
    }
    assert len(prints) == 6
    assert fingerprint("completion", None, dict(reversed(options.items()))) in prints


def test_keys_of_different_kinds_never_meet() -> None:
    text = "a"
    first = key_of_body("completion", {"a": "1"})
    keys = [key_of_id(text), key_of_line(b"a"), first, nth_key(first, 1), nth_key(first, 2), key_of_id("\ud83d")]
    keys += [key_of_bad(text), key_of_bad("\ud83d")]
    assert len(set(keys)) == len(keys)
    assert nth_key(first, 0) == first
    assert {len(key) for key in keys} == {16}


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://user:secret@host:8000/v1/?key=1#x", "https://host:8000/v1"),
        ("http://host/v1", "http://host/v1"),
        ("http://host/v1/", "http://host/v1"),
        ("host:80/v1", "host:80/v1"),
    ],
)
def test_a_url_loses_its_credentials(url: str, bare: str) -> None:
    assert bare_url(url) == bare


@pytest.mark.parametrize("url", ["http://user:secret@[::1", "user:secret@[::1", "http://user:secret@a\u2100b/v1"])
def test_what_is_no_url_is_told_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="this is no URL") as caught:
        bare_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__
