"""Whose limits a call falls under."""

from __future__ import annotations

import pytest

from bulkllm.limits.origin import Origins


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_a_base_url_in_the_environment_is_another_account(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(other, raising=False)
    own = Origins().of("openai", {"api_key": "sk-a"})
    assert own.profile.name == "openai"
    monkeypatch.setenv(name, "http://user:secret@127.0.0.1:8000/v1")
    found = Origins().of("openai", {"api_key": "sk-a"})
    assert found.endpoint == "http://127.0.0.1:8000/v1"
    assert found.profile.name != "openai"
    assert found.scope != own.scope
    assert (
        found.scope
        == Origins().of("openai", {"api_key": "sk-a", "api_base": "http://user:secret@127.0.0.1:8000/v1"}).scope
    )


def test_what_the_call_says_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    found = Origins().of("openai", {"api_key": "sk-a", "api_base": "http://127.0.0.1:9000/v1"})
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert found.endpoint == "http://127.0.0.1:9000/v1"
    assert found.scope == Origins().of("openai", {"api_key": "sk-a", "base_url": "http://127.0.0.1:9000/v1"}).scope


def test_an_account_is_one_object_and_its_key_is_nowhere_in_it() -> None:
    origins = Origins()
    one = origins.of("groq", {"api_key": "gsk-very-secret"})
    assert origins.of("groq", {"api_key": "gsk-very-secret", "temperature": 0}) is one
    assert origins.of("groq", {"api_key": "gsk-another"}) is not one
    assert "secret" not in repr(one) + one.scope + one.endpoint
