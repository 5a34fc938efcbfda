"""Reports: what is going away, what has no limits, what calls would cost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from bulkllm import _litellm
from bulkllm.errors import ConfigError
from bulkllm.models import Registry

# pydantic says so of LiteLLM's own types, whenever it first builds them
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

PRESETS = """
[[preset]]
slug = "past"
model = "openai/past"
[[preset]]
slug = "today"
model = "openai/today"
[[preset]]
slug = "soon"
model = "openai/soon"
[[preset]]
slug = "later"
model = "openai/later"
[[preset]]
slug = "never-was"
model = "openai/never-was"
[[model]]
name = "openai/past"
deprecation_date = 2026-01-01
replacement = "openai/later"
source = "my notes"
as_of = 2026-10-01
[[model]]
name = "openai/today"
deprecation_date = 2026-11-23
[[model]]
name = "openai/soon"
deprecation_date = 2026-12-31
max_input_tokens = 10
max_output_tokens = 10
rpm = 5
[[model]]
name = "openai/later"
deprecation_date = 2027-12-31
max_input_tokens = 10
"""


def test_what_is_gone_deprecated_and_retiring(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry(PRESETS)
    found = [entry for entry in registry.deprecated() if entry.model.removeprefix("openai/") in PRESETS]
    assert [(entry.slug, entry.status, entry.date) for entry in found] == [
        ("never-was", "unknown", None),
        ("past", "deprecated", date(2026, 1, 1)),
        ("today", "deprecated", date(2026, 11, 23)),
        ("soon", "retiring", date(2026, 12, 31)),
    ]
    assert found[1].replacement == "openai/later"
    assert found[1].source == "user: my notes (2026-10-01)"
    assert "soon" not in {entry.slug for entry in registry.deprecated(within_days=37)}
    assert "soon" in {entry.slug for entry in registry.deprecated(within_days=38)}
    assert "later" in {entry.slug for entry in registry.deprecated(within_days=500)}


def test_models_without_limits(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry(PRESETS)
    tokens, rate = registry.without_limits(), registry.without_limits("rate")
    assert {"past", "later", "never-was"} <= set(tokens)
    assert "soon" not in tokens
    assert "gpt-5-mini" not in tokens
    assert "soon" not in rate
    assert "later" in rate


@pytest.mark.usefixtures("recent_litellm")
def test_estimates_come_from_litellms_calculator(registry: Registry) -> None:
    [mini, slug, long] = registry.estimate(
        ["gpt-5-mini", "gpt-6-luna-high", "claude-haiku-5.5"], input_tokens=150_000, output_tokens=1000
    )
    assert mini.cost == pytest.approx(150_000 * 2.5e-7 + 1000 * 2e-6)
    assert (slug.name, slug.model) == ("gpt-6-luna-high", "openai/gpt-6-luna")
    assert slug.cost == pytest.approx(150_000 * 1e-7 + 1000 * 5e-7)
    assert long.cost == pytest.approx(150_000 * 5e-7 + 1000 * 2.5e-6)  # above 100,000 tokens another price holds
    [cached] = registry.estimate(["gpt-5-mini"], input_tokens=1000, output_tokens=0, cache_read_tokens=1000)
    assert cached.cost == pytest.approx(1000 * 2.5e-8)


def test_an_unknown_price_is_none_and_never_zero(registry: Registry) -> None:
    registry.register("openai/estimate-test-unpriced", max_input_tokens=100)
    registry.register("openai/estimate-test-half", input_cost_per_token=1e-6)
    for name in ("openai/estimate-test-unpriced", "openai/estimate-test-half"):
        [estimate] = registry.estimate([name], input_tokens=100, output_tokens=10)
        assert (estimate.cost, estimate.note) == (None, "no price is known for it")
    with pytest.raises(ConfigError, match="no model is called"):
        registry.estimate(["openai/estimate-test-nobody"], input_tokens=1, output_tokens=1)


def test_a_price_of_the_users_own_is_used(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry(
        '[[model]]\nname = "openai/estimate-test-own"\ninput_cost_per_token = 1e-6\noutput_cost_per_token = 3e-6\n'
    )
    [estimate] = registry.estimate(["openai/estimate-test-own"], input_tokens=100, output_tokens=10)
    assert estimate.cost == pytest.approx(130e-6)
    entry: dict[str, Any] = _litellm.load().model_cost["openai/estimate-test-own"]
    assert entry["cache_read_input_token_cost"] == 1e-6
