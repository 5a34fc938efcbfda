"""The selectors' grammar, over a handful of made-up models whose facts are plain to see."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkllm.errors import ConfigError
from bulkllm.models import Registry
from bulkllm.models.litellm_map import LiteLLMMap

PACKAGED = Registry(config_dir="/nonexistent", cache_dir="/nonexistent", today=lambda: date(2026, 11, 23))


class MadeUpMap(LiteLLMMap):
    """Five models: two of one family, one without a price, one deprecated, one that makes vectors."""

    def entries(self) -> dict[str, dict[str, Any]]:
        return ENTRIES


ENTRIES: dict[str, dict[str, Any]] = {
    "gpt-7-luna": {
        "litellm_provider": "openai", "mode": "chat", "max_input_tokens": 900_000, "max_output_tokens": 1000,
        "input_cost_per_token": 1e-7, "output_cost_per_token": 5e-7, "supports_reasoning": True,
        "supports_vision": True, "supports_function_calling": True,
    },
    "gpt-6-luna": {
        "litellm_provider": "openai", "mode": "chat", "max_input_tokens": 200_000,
        "input_cost_per_token": 4e-6, "output_cost_per_token": 8e-6, "supports_reasoning": True,
    },
    "anthropic/claude-haiku-9": {"litellm_provider": "anthropic", "mode": "chat", "supports_vision": True},
    "gemini/gemini-9-flash": {
        "litellm_provider": "gemini", "mode": "chat", "max_input_tokens": 200_000, "deprecation_date": "2026-11-22",
        "input_cost_per_token": 0.0, "output_cost_per_token": 0.0,
    },
    "gemini/gemini-8-flash": {
        "litellm_provider": "gemini", "mode": "chat", "deprecation_date": "2026-12-24",
        "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6,
    },
    "vectors": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": 1e-8},
}  # fmt: skip

USER = """
[[preset]]
slug = "new"
model = "gpt-7-luna"
efforts = ["none", "high"]
[[preset]]
slug = "old"
model = "gpt-6-luna"
[[preset]]
slug = "unpriced"
model = "anthropic/claude-haiku-9"
[[preset]]
slug = "gone-by"
model = "gemini/gemini-9-flash"
[[preset]]
slug = "going"
model = "gemini/gemini-8-flash"
[group.circle]
rule = "round"
[group.round]
rule = "circle"
[group.mine]
rule = "new | company:google"
"""


@pytest.fixture
def small(tmp_path: Path) -> Registry:
    """Only the presets above: the packaged ones are taken out, for their models are not in the map."""
    (tmp_path / "models.toml").write_text(USER, encoding="utf-8")
    registry = Registry(
        config_dir=tmp_path, cache_dir=tmp_path, litellm_map=MadeUpMap(), today=lambda: date(2026, 11, 23)
    )
    ours = {"new", "new-none", "new-high", "old", "unpriced", "gone-by", "going"}
    presets = {slug: preset for slug, preset in registry.presets().items() if slug in ours}
    registry._presets = presets
    return registry


def _slugs(registry: Registry, *selectors: str) -> list[str]:
    """The slugs of a selection; an empty one is an error that says so."""
    from bulkllm.models.selectors import _chosen

    chosen = [candidate.slug for candidate in _chosen(registry, selectors, "presets")]
    if chosen:
        assert [preset.slug for preset in registry.select(*selectors)] == chosen
        return chosen
    with pytest.raises(ConfigError, match="no preset fits"):
        registry.select(*selectors)
    return []


@pytest.mark.parametrize(
    ("selectors", "slugs"),
    [
        ((), ["new", "old", "unpriced", "gone-by", "going"]),
        # words
        (("cheap",), ["new", "gone-by", "going"]),
        (("free",), ["gone-by"]),
        (("vision",), ["new", "unpriced"]),
        (("reasoning",), ["new", "old"]),
        (("instant",), ["new-none", "unpriced", "gone-by", "going"]),
        (("deprecated",), ["gone-by"]),
        (("retiring",), ["going"]),
        (("current",), ["new", "unpriced", "going"]),  # the newest flash is deprecated, so the one before it is
        # a key and a value
        (("company:google",), ["gone-by", "going"]),
        (("company:GOOGLE",), ["gone-by", "going"]),
        (("provider:*t*",), ["unpriced"]),
        (("family:gpt-luna",), ["new", "old"]),
        (("model:gpt-7*",), ["new"]),
        (("slug:g*",), ["gone-by", "going"]),
        (("ability:tools",), ["new"]),
        (("mode:embedding",), []),
        # comparisons; what is not known fits none of them
        (("price<1",), ["new", "gone-by"]),
        (("price<=1",), ["new", "gone-by", "going"]),
        (("price=0",), ["gone-by"]),
        (("price!=0",), ["new", "old", "going"]),
        (("context>=200k",), ["new", "old", "gone-by"]),
        (("context>0.5M",), ["new"]),
        (("context>200_000",), ["new"]),
        (("output>0",), ["new"]),
        (("output_price>=8",), ["old"]),
        (("input_price<0.2",), ["new", "gone-by"]),
        (("retires<2026-12",), ["gone-by"]),
        (("retires>2026",), ["gone-by", "going"]),
        # opposites have what is not known
        (("!price<1",), ["old", "unpriced", "going"]),
        (("!vision", "!deprecated"), ["old", "going"]),
        # names and globs
        (("old",), ["old"]),
        (("gpt-6-luna",), ["old"]),
        (("openai/gpt-6-luna",), ["old"]),
        (("new*",), ["new", "new-none", "new-high"]),
        (("*-luna",), ["new", "new-none", "new-high", "old"]),
        (("gemini/*",), ["gone-by", "going"]),
        # variants come only when they are asked for
        (("new-high",), ["new-high"]),
        (("effort:high",), ["new-high"]),
        (("effort:default", "vision"), ["new", "unpriced"]),
        (("effort:*", "vision"), ["new", "new-none", "new-high", "unpriced"]),
        (("new*", "!effort:none"), ["new", "new-high"]),
        # several arguments narrow, commas and | widen, spaces narrow within an alternative
        (("company:google", "price<1"), ["gone-by"]),
        (("old,unpriced",), ["old", "unpriced"]),
        (("unpriced|old",), ["old", "unpriced"]),  # the order is the registry's
        (("old,old,gpt-6-luna",), ["old"]),
        (("company:openai vision, company:google price<1",), ["new", "gone-by"]),
        (("cheap", "company:openai,company:google", "!deprecated"), ["new", "going"]),
        (("mine",), ["new", "gone-by", "going"]),
        (("old", "company:google"), []),
    ],
)
def test_selections(selectors: tuple[str, ...], slugs: list[str], small: Registry) -> None:
    assert _slugs(small, *selectors) == slugs


def test_a_model_that_no_preset_has_comes_as_a_plain_one(small: Registry) -> None:
    [plain] = small.select("vectors")
    assert (plain.slug, plain.model, plain.temperature) == ("vectors", "vectors", None)
    assert _slugs(small, "vectors,old") == ["old", "vectors"]
    assert _slugs(small, "vectors", "mode:chat") == []
    assert _slugs(small, "!vectors") == ["new", "old", "unpriced", "gone-by", "going"]


def test_among_models_every_model_is_a_candidate(small: Registry) -> None:
    assert [preset.slug for preset in small.select("price<1", among="models")][:2] == [
        "gpt-7-luna", "gemini/gemini-9-flash",
    ]  # fmt: skip
    assert [info.name for info in small.find("embedding")] == ["vectors"]
    assert small.find("company:nobody") == []


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("chep", r"'chep': neither a word, a slug nor a model; did you mean cheap"),
        ("google", r"'google': neither .* did you mean company:google"),
        ("compny:google", r"'compny:google': neither .* did you mean company:"),
        ("price<many", r"'price<many': expected a number such as 200k or 0.5, found 'many'"),
        ("released>soon", r"'released>soon': expected a date"),
        ("is:nice", r"is:nice: expected one of current, deprecated"),
        ("ability:flying", r"ability:flying: expected one of tools"),
        ("old,,new", r"expected a term before and after each comma"),
        ("", r"expected a term"),
        ("!", r"expected a term after it"),
        ("circle", r"lead nowhere"),
    ],
)
def test_what_is_not_understood_is_said(selector: str, message: str, small: Registry) -> None:
    with pytest.raises(ConfigError, match=message):
        small.select(selector)


def test_an_empty_selection_says_which_selector_rules_out_what(small: Registry) -> None:
    with pytest.raises(ConfigError, match=r"'vision' alone fits 2, 'company:google' alone fits 2\); try among"):
        small.select("vision", "company:google")


def test_every_packaged_word_can_be_used_and_says_what_it_means(registry: Registry) -> None:
    for word, group in registry.groups().items():
        assert group["meaning"]
        assert group["rule"]
        registry.find(word)
        assert word not in registry.presets()
        assert word not in registry


@pytest.mark.usefixtures("recent_litellm")
def test_the_packaged_words_choose_what_they_say(registry: Registry) -> None:
    cheap = registry.select("cheap", "current", "company:openai,company:anthropic")
    assert {"gpt-6-luna", "claude-haiku-5.5"} <= {preset.slug for preset in cheap}
    for preset in cheap:
        info = registry.get(preset.model)
        assert info.price is not None
        assert info.price <= 1
    current = {preset.slug for preset in registry.select("current")}
    assert {"claude-opus-5.5", "gemini-3.8-flash", "mistral-large-4"} <= current
    assert not {"claude-opus-5", "gemini-3.6-flash", "gpt-5-mini"} & current
    assert all(preset.model.startswith("openrouter/") for preset in registry.select("provider:openrouter"))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["cheap", "!vision", "price<1", "company:google,o3", "gpt-5*", "current"]), max_size=4)
    .flatmap(lambda chosen: st.tuples(st.just(chosen), st.permutations(chosen)))
)  # fmt: skip
def test_the_order_of_selectors_does_not_matter(pair: tuple[list[str], list[str]]) -> None:
    chosen = _slugs(PACKAGED, *pair[0])
    assert chosen == _slugs(PACKAGED, *pair[1])
    every = list(PACKAGED.presets())
    assert chosen == sorted(set(chosen), key=every.index)
