from __future__ import annotations

import pytest

from bulkllm.errors import ConfigError
from bulkllm.testing.limits import ProviderLimits, charge_for
from bulkllm.testing.pools import Pools

ONE = charge_for("max_tokens", 1, 1)


def left(pools: Pools, model: str) -> float:
    return pools.of(model, 0.0).meters["requests"].available(0.0)


def test_default_limits_hold_for_each_model_apart() -> None:
    pools = Pools(ProviderLimits(rpm=3), {}, 0.0)
    pools.of("a", 0.0).admit(ONE, 0.0)
    assert (left(pools, "a"), left(pools, "b")) == (2, 3)


def test_models_that_match_a_glob_share_a_pool_and_an_exact_name_goes_first() -> None:
    pools = Pools(
        ProviderLimits(rpm=3),
        {"gpt-*": ProviderLimits(rpm=10), "gpt-5": ProviderLimits(rpm=5), "gpt-4*": ProviderLimits(rpm=1)},
        0.0,
    )
    pools.of("gpt-4o", 0.0).admit(ONE, 0.0)
    assert [left(pools, name) for name in ("gpt-4o", "gpt-3", "gpt-5", "other")] == [9, 9, 5, 3]


def test_limits_change_for_the_model_named_or_for_those_without_their_own() -> None:
    pools = Pools(ProviderLimits(rpm=3), {"a": ProviderLimits(rpm=5)}, 0.0)
    pools.of("b", 0.0).admit(ONE, 0.0)
    pools.change(None, {"rpm": 2, "window": "sliding"}, 0.0)
    assert (left(pools, "a"), left(pools, "b"), left(pools, "c")) == (5, 2, 2)
    pools.change("a", {"rpm": 7, "window": "sliding"}, 0.0)
    assert left(pools, "a") == 7
    pools.change("a", {"rpm": None, "tpm": 9}, 0.0)
    assert set(pools.of("a", 0.0).meters) == {"tokens"}


def test_a_model_that_gets_limits_of_its_own_keeps_what_it_used() -> None:
    pools = Pools(ProviderLimits(rpm=3), {}, 0.0)
    pools.of("a", 0.0).admit(ONE, 0.0)
    pools.of("b", 0.0).admit(ONE, 0.0)
    pools.change("a", {"tpm": 50}, 0.0)
    assert (left(pools, "a"), left(pools, "b")) == (2, 2)
    assert pools.of("a", 0.0).meters.keys() == {"requests", "tokens"}
    pools.change(None, {"rpm": 1}, 0.0)
    assert pools.of("a", 0.0).limits.rpm == 3
    assert pools.of("b", 0.0).limits.rpm == 1


def test_a_new_glob_takes_models_that_were_seen_before() -> None:
    pools = Pools(ProviderLimits(rpm=3), {}, 0.0)
    pools.of("gpt-1", 0.0)
    pools.change("gpt-*", {"rpm": 8}, 0.0)
    pools.of("gpt-1", 0.0).admit(ONE, 0.0)
    assert left(pools, "gpt-2") == 7


def test_a_reset_brings_back_the_limits_of_the_beginning() -> None:
    pools = Pools(ProviderLimits(rpm=3), {"a": ProviderLimits(rpm=5)}, 0.0)
    pools.of("a", 0.0).admit(ONE, 0.0)
    pools.change(None, {"rpm": 1}, 0.0)
    pools.change("b", {"rpm": 2}, 0.0)
    pools.reset(0.0)
    assert (left(pools, "a"), left(pools, "b")) == (5, 3)


def test_an_unknown_limit_changes_nothing() -> None:
    pools = Pools(ProviderLimits(rpm=3), {}, 0.0)
    with pytest.raises(ConfigError, match="'rps' is no limit"):
        pools.change(None, {"rpm": 1, "rps": 1}, 0.0)
    with pytest.raises(ConfigError, match="rpm=0"):
        pools.change(None, {"rpm": 0}, 0.0)
    assert left(pools, "a") == 3
