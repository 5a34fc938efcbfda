"""Presets as values: their checks, their keywords, their hash."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.models import LLMConfig


def _keywords(model: str, **fields: Any) -> dict[str, Any]:
    keywords = LLMConfig(slug="x", model=model, **fields).completion_kwargs()
    assert keywords.pop("model")
    return keywords


@pytest.mark.parametrize(
    ("model", "fields", "keywords"),
    [
        ("openai/gpt-6-luna", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ("gpt-6-luna", {"reasoning_effort": "none"}, {"reasoning_effort": "none"}),
        ("gpt-6-luna", {"verbosity": "low", "thinking": False}, {"verbosity": "low", "reasoning_effort": "none"}),
        ("openrouter/any/model", {"reasoning_effort": "high"}, {"extra_body": {"reasoning": {"effort": "high"}}}),
        ("openrouter/any/model", {"thinking": 2000}, {"extra_body": {"reasoning": {"max_tokens": 2000}}}),
        ("openrouter/any/model", {"thinking": False}, {"extra_body": {"reasoning": {"enabled": False}}}),
        ("openrouter/any/model", {"reasoning_effort": "none"}, {"extra_body": {"reasoning": {"enabled": False}}}),
        ("anthropic/claude-haiku-4-5", {"thinking": 2000}, {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
        ("haiku", {"thinking": True}, {"thinking": {"type": "adaptive"}}),
        ("us.anthropic.claude-opus-5", {"reasoning_effort": "max"}, {"reasoning_effort": "max"}),
        ("deepseek-v4-pro", {"reasoning_effort": "max"},
         {"extra_body": {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}}),
        ("deepseek/deepseek-v4-pro", {"thinking": False}, {"extra_body": {"thinking": {"type": "disabled"}}}),
        ("glm-5.3", {"reasoning_effort": "low"}, {"extra_body": {"reasoning_effort": "low"}}),
        ("gemini/gemini-2.5-pro", {"thinking": 500}, {"thinking": {"type": "enabled", "budget_tokens": 500}}),
        ("together_ai/any", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ("gpt-4.1", {"temperature": 0, "top_p": 1, "max_tokens": 5, "timeout": 30},
         {"temperature": 0.0, "top_p": 1.0, "max_tokens": 5, "timeout": 30.0}),
        ("gpt-4.1", {"max_completion_tokens": 5, "system_prompt": "Be brief."}, {"max_completion_tokens": 5}),
        ("gpt-4.1", {"extra": {"seed": 7, "temperature_of": "the room"}}, {"seed": 7, "temperature_of": "the room"}),
        ("openrouter/any", {"reasoning_effort": "low", "extra": {"extra_body": {"route": "fallback"}}},
         {"extra_body": {"reasoning": {"effort": "low"}, "route": "fallback"}}),
        ("gpt-6-luna", {"reasoning_effort": "low", "extra": {"reasoning_effort": "max"}}, {"reasoning_effort": "max"}),
    ],
)  # fmt: skip
def test_keywords(model: str, fields: dict[str, Any], keywords: dict[str, Any]) -> None:
    assert _keywords(model, **fields) == keywords


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("sonnet", "anthropic/claude-sonnet-5-5"),
        ("gpt-5-mini", "gpt-5-mini"),
        ("grok-4.7", "xai/grok-4.7"),
        ("openai/house", "openai/house"),
    ],
)
def test_the_model_is_litellms_name(model: str, name: str) -> None:
    assert LLMConfig(slug="x", model=model).completion_kwargs() == {"model": name}


def test_with_an_endpoint_of_its_own_a_bare_name_is_that_servers() -> None:
    config = LLMConfig(slug="x", model="grok-4.7", extra={"custom_llm_provider": "openai", "api_base": "http://here"})
    assert config.completion_kwargs()["model"] == "grok-4.7"


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (
            "gemini/gemini-4-argon",
            {"thinking": 5},
            r"gemini-4-argon: a thinking budget \(5 tokens\) cannot be asked for",
        ),
        ("gemini/gemini-4-argon", {"reasoning_effort": "none"}, "thinking to be off cannot be asked for"),
        ("gemini/gemini-4-argon", {"reasoning_effort": "max"}, "reasoning_effort may be minimal, low, medium, high"),
        (
            "deepseek/deepseek-v4-pro",
            {"reasoning_effort": "medium"},
            "may be none, low, high, max; thinking may be True",
        ),
        ("claude-opus-5-5", {"thinking": 5000}, "thinking may be True or False"),
        ("claude-opus-5-5", {"verbosity": "low"}, "verbosity='low' cannot be asked for"),
        ("perplexity/sonar", {"reasoning_effort": "low"}, "its reasoning cannot be steered"),
        ("gpt-6-luna", {"thinking": True}, "thinking=True cannot be asked for"),
    ],
)
def test_what_a_provider_cannot_be_asked_for_is_refused(model: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _keywords(model, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slug": ""}, "slug: String should have at least 1 character"),
        ({"slug": "two words"}, "slug: expected letters"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens: .*greater than or equal to 1"),
        ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
        ({"max_token": 5}, "max_token: not a field of a preset; did you mean max_tokens?"),
        ({"zzz": 5}, "zzz: not a field; put it into extra"),
        ({"reasoning_effort": "huge"}, "reasoning_effort: Input should be 'none'"),
        ({"reasoning_effort": "low", "thinking": True}, "two ways to say one thing"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "two names of one thing"),
        ({"thinking": 500, "max_tokens": 500}, r"thinking \(500 tokens\) must stay below max_tokens \(500\)"),
        ({"thinking": 0}, "a number of tokens of at least 1"),
        ({"extra": {"messages": []}}, "messages is not for extra"),
        ({"extra": {"hook": print}}, "expected what JSON knows"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LLMConfig(**{"slug": "x", "model": "gpt-5", **fields})


@pytest.mark.parametrize(
    "extra",
    [
        {"api_key": "sk-secret"},
        {"extra_headers": {"Authorization": "Bearer sk-secret"}},
        {"aws_secret_access_key": "sk-secret"},
        {"deep": [{"x-api-key": "sk-secret"}]},
    ],
)
def test_keys_are_refused_and_not_repeated(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="looks like a key") as caught:
        LLMConfig(slug="x", model="gpt-5", extra=extra)
    assert "sk-secret" not in str(caught.value)


def test_a_key_comes_from_the_environment_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LLMConfig(slug="x", model="gpt-5", api_key_env="HOUSE_KEY")
    monkeypatch.delenv("HOUSE_KEY", raising=False)
    with pytest.raises(ConfigError, match="x: the environment variable HOUSE_KEY is not set"):
        config.completion_kwargs()
    monkeypatch.setenv("HOUSE_KEY", "sk-1")
    assert config.completion_kwargs()["api_key"] == "sk-1"
    assert "sk-1" not in repr(config)
    assert "sk-1" not in config.model_dump_json()


def test_a_preset_cannot_be_changed_from_outside() -> None:
    extra: dict[str, Any] = {"extra_body": {"a": 1}}
    config = LLMConfig(slug="x", model="gpt-5", extra=extra)
    before = config.content_hash
    extra["extra_body"]["a"] = 2
    config.completion_kwargs()["extra_body"]["a"] = 3
    assert config.completion_kwargs()["extra_body"] == {"a": 1}
    assert config.content_hash == before
    with pytest.raises(Exception, match="frozen"):
        config.temperature = 1.0


def test_the_system_prompt_goes_first_unless_there_is_one() -> None:
    config = LLMConfig(slug="x", model="gpt-5", system_prompt="Be brief.")
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Hi"}
    assert config.with_system_prompt("Hi") == [system, user]
    assert config.with_system_prompt([user]) == [system, user]
    own = [{"role": "developer", "content": "Be long."}, user]
    assert config.with_system_prompt(own) == own
    assert LLMConfig(slug="x", model="gpt-5").with_system_prompt("Hi") == [user]


HASHED: dict[str, Any] = {
    "slug": "x",
    "model": "gpt-5",
    "temperature": 1,
    "extra": {"b": 1, "a": [1, {"d": 2, "c": 3}]},
}


def test_the_hash_is_of_what_can_change_an_answer() -> None:
    base = LLMConfig(**HASHED)
    same: list[dict[str, Any]] = [
        {"slug": "y"}, {"display_name": "Y"}, {"timeout": 5.0}, {"api_key_env": "K"}, {"variant_of": "z"},
        {"temperature": 1.0}, {"extra": {"a": [1, {"c": 3, "d": 2}], "b": 1}},
    ]  # fmt: skip
    for change in same:
        assert LLMConfig(**{**HASHED, **change}).content_hash == base.content_hash, change
    different: list[dict[str, Any]] = [
        {"model": "gpt-4"}, {"temperature": 0.5}, {"temperature": None}, {"max_tokens": 5}, {"top_p": 1.0},
        {"reasoning_effort": "low"}, {"reasoning_effort": "none"}, {"thinking": True}, {"thinking": 1},
        {"verbosity": "low"}, {"system_prompt": "Hi"}, {"extra": {}}, {"extra": {"b": "1", "a": [1, {"d": 2, "c": 3}]}},
    ]  # fmt: skip
    hashes = [LLMConfig(**{**HASHED, **change}).content_hash for change in different]
    assert len({base.content_hash, *hashes}) == len(different) + 1


def test_the_hash_is_the_same_in_every_process() -> None:
    code = f"from bulkllm.models import LLMConfig; print(LLMConfig(**{HASHED!r}).content_hash)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == LLMConfig(**HASHED).content_hash
    assert done.stdout.strip() == "7ba620d7a6c67e7bdd4f8ac1f542b372700aafb66886dd26876a68ffd21d4cfa"


def test_presets_travel_and_compare() -> None:
    config = LLMConfig(**HASHED)
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes
    assert LLMConfig.model_validate_json(config.model_dump_json()) == config
    assert len({config, LLMConfig(**HASHED), LLMConfig(**{**HASHED, "slug": "y"})}) == 2
