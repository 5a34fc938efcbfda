"""The file of learned limits: what goes in comes out, no key goes in, and damage stops nobody."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.limits.learned import FILE_NAME, LearnedLimits, LearnedQuota, learned_path, load, save

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def entry(**changes: Any) -> LearnedLimits:
    fields: dict[str, Any] = {
        "scope": "0123456789ab",
        "endpoint": "https://api.example.org/v1",
        "provider": "openai",
        "model": "openai/gpt-5-mini",
        "quotas": {"rpm": LearnedQuota(500.0), "rpd": LearnedQuota(10_000.0, 86_400.0)},
        "window": "sliding",
        "rate": 7.5,
        "learned_at": NOON,
        "expires_at": NOON + timedelta(days=7),
    }
    return LearnedLimits(**(fields | changes))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / FILE_NAME
    entries = [entry(), entry(model="openai/other", quotas={}, window=None, rate=None)]
    save(path, entries)
    assert load(path) == entries
    assert [child.name for child in path.parent.iterdir()] == [FILE_NAME]
    assert path.stat().st_mode & 0o077 == 0


def test_the_file_has_the_shape_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    save(path, [entry(rate=None)])
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "version": 1,
        "entries": [
            {
                "scope": "0123456789ab",
                "endpoint": "https://api.example.org/v1",
                "provider": "openai",
                "model": "openai/gpt-5-mini",
                "quotas": {
                    "rpm": {"amount": 500.0, "period": 60.0},
                    "rpd": {"amount": 10_000.0, "period": 86_400.0},
                },
                "window": "sliding",
                "rate": None,
                "learned_at": "2026-11-23T12:00:00Z",
                "expires_at": "2026-11-30T12:00:00Z",
            }
        ],
    }


def test_times_are_kept_in_utc_and_end() -> None:
    there = timezone(timedelta(hours=2))
    found = entry(expires_at=datetime(2026, 11, 23, 15, 0, tzinfo=there))
    assert found.expires_at == NOON + timedelta(hours=1)
    assert found.expires_at.tzinfo is UTC
    assert found.holds_at(NOON)
    assert not found.holds_at(NOON + timedelta(hours=1))


def test_no_key_gets_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    save(path, [entry(endpoint="https://user:sk-secret@api.example.org:8443/v1?api-key=sk-secret#sk-secret")])
    assert "sk-secret" not in path.read_text(encoding="utf-8")
    assert load(path)[0].endpoint == "https://api.example.org:8443/v1"
    with pytest.raises(ConfigError) as caught:
        entry(scope="sk-a-real-key")
    assert "sk-a" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quotas": {"rps": LearnedQuota(1.0)}}, "'rps' is none of"),
        ({"quotas": {"rpm": LearnedQuota(0.0)}}, "rpm must be positive"),
        ({"quotas": {"rpm": LearnedQuota(float("inf"))}}, "rpm must be positive"),
        ({"window": "hourly"}, "window"),
        ({"rate": -1.0}, "rate"),
        ({"learned_at": datetime(2026, 11, 23)}, "learned_at"),  # noqa: DTZ001 - the zone is what is missing
        ({"endpoint": "http://[broken"}, "endpoint"),
        ({"model": None}, "model"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        entry(**changes)


def test_no_file_is_no_limits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(tmp_path / FILE_NAME) == []
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 1}',
        b'{"version": 1, "entries": {}}',
        b'{"version": 2, "entries": []}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_set_aside_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert load(path) == []
    assert not path.exists()
    assert path.with_name(FILE_NAME + ".damaged").read_bytes() == content
    assert "set aside" in caplog.text
    save(path, [entry()])
    assert load(path) == [entry()]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"scope": "sk-a-real-key"},
        {"quotas": {"rpm": 5}},
        {"quotas": {"rpm": {"amount": "5", "period": 60}}},
        {"learned_at": "yesterday"},
        {"expires_at": None},
    ],
)
def test_a_damaged_entry_does_not_cost_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: dict[str, Any] | None
) -> None:
    path = tmp_path / FILE_NAME
    bad = entry().to_dict() | broken if broken else broken
    content = {"version": 1, "entries": [bad, entry().to_dict() | {"added_later": 1}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert load(path) == [entry()]
    assert "entry 0 is left out" in caplog.text
    assert "sk-a" not in caplog.text
    assert path.exists()


def test_what_cannot_be_written_says_so_and_leaves_the_old_file(tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("here", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        save(blocked / FILE_NAME, [entry()])
    taken = tmp_path / FILE_NAME
    taken.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        save(taken, [entry()])
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a-file", FILE_NAME]


def test_its_usual_place_is_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULKLLM_STATE_DIR", str(tmp_path))
    assert learned_path() == tmp_path / FILE_NAME
    assert learned_path("elsewhere.json") == Path("elsewhere.json")
