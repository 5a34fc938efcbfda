"""The second opinion on prices: where it agrees, where it does not, and where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bulkllm import _litellm
from bulkllm.errors import ConfigError

pytest.importorskip("genai_prices")

from bulkllm.integrations.prices import PriceDifference, compare_prices

pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")
AT = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def prices() -> Iterator[dict[str, Any]]:
    """LiteLLM's map, put back afterwards."""
    known: dict[str, Any] = _litellm.load().model_cost
    before = {name: dict(known[name]) for name in ("gpt-4.1-mini",)}
    yield known
    known.update(before)
    known.pop("openai/nobody-knows", None)


def test_models_on_which_both_agree() -> None:
    check = compare_prices(["openai/gpt-4.1-mini", "anthropic/claude-sonnet-4-5"], at=AT)
    assert (check.compared, check.unknown, check.differences) == (2, 0, ())


def test_a_price_that_is_two_per_cent_off_is_told_and_one_that_is_half_of_one_is_not(prices: dict[str, Any]) -> None:
    prices["gpt-4.1-mini"]["output_cost_per_token"] *= 1.02
    prices["gpt-4.1-mini"]["input_cost_per_token"] *= 1.005
    check = compare_prices(["openai/gpt-4.1-mini"], at=AT)
    (difference,) = check.differences
    assert (difference.kind, difference.genai_model) == ("output", "gpt-4.1-mini")
    assert difference.genai_prices == pytest.approx(1.6)
    assert difference.share == pytest.approx(0.0196, rel=0.01)
    assert "output $1.632 by LiteLLM, $1.6 by genai-prices" in str(difference)
    assert len(compare_prices(["openai/gpt-4.1-mini"], tolerance=0.001, at=AT).differences) == 2


def test_the_price_of_a_call_besides_is_no_price_of_tokens() -> None:
    assert not [one for one in compare_prices(["perplexity/sonar"], at=AT).differences if one.share > 0.5]


def test_all_that_litellm_knows() -> None:
    check = compare_prices(at=AT)
    assert check.compared > 300
    assert check.differences == tuple(sorted(check.differences, key=lambda one: (-one.share, one.model, one.kind)))
    assert all(one.share > 0.01 for one in check.differences)


def test_what_is_not_known_is_said(prices: dict[str, Any]) -> None:
    prices["openai/nobody-knows"] = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1.0}
    assert compare_prices(["openai/nobody-knows"], at=AT).unknown == 1
    with pytest.raises(ConfigError, match="no model 'openai/not-there'"):
        compare_prices(["openai/not-there"])
    with pytest.raises(ConfigError, match="tolerance"):
        compare_prices(tolerance=1)


def test_nothing_and_nothing_are_not_apart() -> None:
    assert PriceDifference("m", "input", 0.0, 0.0, "m").share == 0.0
