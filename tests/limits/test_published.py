"""The table of published tiers is data: every entry is whole, and a tier is found by the provider's name of it."""

from __future__ import annotations

import itertools
import tomllib
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.limits import RateLimit
from bulkllm.limits.published import published, published_from, published_limits, published_tier, published_tiers

TABLES: list[dict[str, Any]] = tomllib.loads(
    files("bulkllm.limits").joinpath("published.toml").read_text(encoding="utf-8")
)["limit"]


@pytest.mark.parametrize("table", TABLES, ids=[table["models"][0] for table in TABLES])
def test_every_entry_is_whole_dated_and_has_a_source(table: dict[str, Any]) -> None:
    entry = published_from(table)
    assert date(2026, 6, 1) <= table["as_of"] <= datetime.now(UTC).date()
    assert table["source"].startswith("https://")
    assert all(model.startswith(f"{entry.provider}/") for model in table["models"])
    assert entry.tiers
    for tier, configured in entry.tiers.items():
        assert tier == tier.lower()
        assert configured.limit.rpm
        assert (configured.source, configured.as_of, configured.fetched) == (table["source"], table["as_of"], "")


def test_higher_tiers_are_never_lower() -> None:
    for entry in published():
        tiers = [configured.limit for configured in entry.tiers.values()]
        for lower, higher in itertools.pairwise(tiers):
            for dimension in ("rpm", "tpm", "itpm", "otpm", "rpd"):
                before, after = getattr(lower, dimension), getattr(higher, dimension)
                assert before is None or after is None or before <= after, (entry, dimension)


def one(limits: list[RateLimit], model: str) -> RateLimit:
    """The one limit that holds for a model: two would add up to less than either."""
    (found,) = [limit for limit in limits if limit.matches(model)]
    return found


@pytest.mark.parametrize(
    ("provider", "tier", "model", "numbers"),
    [
        ("openai", 1, "openai/gpt-4o-mini", {"rpm": 500, "tpm": 200_000, "rpd": 10_000}),
        ("openai", "Tier 5", "openai/gpt-4o-mini-2024-07-18", {"rpm": 30_000, "tpm": 150_000_000, "rpd": None}),
        ("openai", "2", "openai/gpt-4.1", {"rpm": 5_000, "tpm": 450_000}),
        ("openai", "2", "openai/gpt-4.1-mini", {"tpm": 2_000_000}),
        ("openai", "1", "openai/gpt-4o-2024-11-20", {"tpm": 30_000}),
        ("anthropic", "start", "anthropic/claude-sonnet-4-5-20250929", {"rpm": 1000, "itpm": 2_000_000, "tpm": None}),
        ("anthropic", "START", "anthropic/claude-opus-5", {"otpm": 400_000}),
        ("anthropic", "start", "anthropic/claude-opus-5-5", {"otpm": 400_000}),
        ("anthropic", "start", "anthropic/claude-sonnet-5-5", {"otpm": 400_000}),
        ("anthropic", "build", "anthropic/claude-haiku-5-5", {"rpm": 5_000}),
        ("anthropic", "scale", "anthropic/claude-fable-5-1", {"rpm": 4_000}),
        ("groq", "free", "groq/openai/gpt-oss-20b", {"rpm": 30, "tpd": 200_000}),
        ("openrouter", "credits", "openrouter/meta-llama/llama-3.2-3b-instruct:free", {"rpm": 20, "rpd": 1_000}),
        ("cohere_chat", "production", "cohere_chat/command-r7b-12-2024", {"rpm": 500}),
    ],
)
def test_a_models_limits_of_a_tier_are_found(
    provider: str, tier: str | int, model: str, numbers: dict[str, float | None]
) -> None:
    limit = one(published_limits(provider, tier), model)
    assert {dimension: getattr(limit, dimension) for dimension in numbers} == numbers


def test_versions_of_one_pool_share_it_and_others_do_not() -> None:
    limits = published_limits("anthropic", "scale")
    pool = one(limits, "anthropic/claude-opus-4-5-20251101")
    assert pool is one(limits, "anthropic/claude-opus-4-8")
    assert pool is not one(limits, "anthropic/claude-opus-5")
    assert not any(limit.matches("anthropic/claude-opus-5-5") for limit in limits)  # not found, so not invented
    assert not any(limit.matches("openai/gpt-4o-audio-preview") for limit in published_limits("openai", 1))


def test_the_window_is_the_profiles() -> None:
    assert {limit.window for limit in published_limits("anthropic", "start")} == {"bucket"}
    (first, *_) = published_tier("openai", 1)
    assert first.limit.name == "openai tier 1: gpt-6-astra"


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(ConfigError, match="no published limits of 'gemini' are known; there are those of openai"):
        published_limits("gemini", 1)
    with pytest.raises(ConfigError, match="no tier of openai is called 6; there are 1, 2, 3, 4, 5"):
        published_limits("openai", 6)
    assert published_tiers()["anthropic"] == ["start", "build", "scale"]


@pytest.mark.parametrize(
    "change",
    [{"as_of": None}, {"as_of": "2026-01-01"}, {"colour": "red"}, {"models": "openai/x"}, {"tier": {"1": {"rps": 5}}},
     {"tier": {"1": {"rpm": -5}}}],
)  # fmt: skip
def test_a_wrong_entry_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        published_from({key: value for key, value in (TABLES[0] | change).items() if value is not None})
