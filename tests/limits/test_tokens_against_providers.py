"""Runs that are bound by tokens, with outputs far below max_tokens, by each way to charge them.

The simulation is that of :mod:`tests.limits.test_against_providers`: the answers' lengths differ much, and come late.
"""

from __future__ import annotations

from typing import Any

import pytest

from bulkllm.limits.profiles import profile_for, shipped
from bulkllm.limits.spec import RateLimit
from bulkllm.testing.limits import ProviderLimits
from tests.limits.test_against_providers import Outcome, simulate

UNKNOWN = profile_for("openai", "http://127.0.0.1/v1")
TOKENS = (200, 300, 2000)  # of input, of output on average, and max_tokens
LASTS = 300.0

RULES: dict[str, dict[str, Any]] = {
    "max_tokens": {"charge": "max_tokens", "profile": shipped()["openai"], "headers": "openai", "quota": 600_000},
    "sum": {"charge": "prompt+max_tokens", "profile": shipped()["azure"], "headers": "azure", "quota": 600_000},
    "output": {"charge": "actual", "profile": shipped()["groq"], "headers": "groq", "quota": 150_000},
    "unknown": {"charge": "actual", "profile": UNKNOWN, "headers": "openai", "quota": 150_000},
}


def run(seed: int, limits: list[RateLimit], server: ProviderLimits, **scene: Any) -> Outcome:
    return simulate(server, limits, requests=10**6, lasts=LASTS, latency=(2.0, 6.0), tokens=TOKENS, seed=seed, **scene)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("how", ["configured", "configured, no headers", "learned"])
@pytest.mark.parametrize("rule", RULES)
def test_the_quota_is_used(rule: str, how: str, seed: int) -> None:
    scene = dict(RULES[rule])
    quota = scene.pop("quota")
    if how == "configured, no headers":
        scene["headers"] = None
    limits = [] if how == "learned" else [RateLimit("*", tpm=quota)]
    outcome = run(seed, limits, ProviderLimits(tpm=quota), **scene)
    minutes = (LASTS - 60.0) / 60.0
    assert outcome.tokens(60.0, LASTS) >= 0.95 * quota * minutes
    assert outcome.tokens(0.0, 60.0) >= 0.9 * quota, "not even before the lengths of answers are known"
    assert outcome.share_refused <= 0.01


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("how", ["configured", "configured, no headers", "learned"])
def test_a_window_of_tokens_counts_output_when_it_is_there(how: str, seed: int) -> None:
    """So what is reserved and not produced yet is not in it, and shows nothing of how the provider counts."""
    limits = [] if how == "learned" else [RateLimit("*", tpm=150_000)]
    outcome = run(
        seed, limits, ProviderLimits(tpm=150_000, window="sliding"), charge="actual", profile=shipped()["groq"],
        headers=None if "no" in how.split() else "groq",
    )  # fmt: skip
    assert outcome.tokens(60.0, LASTS) >= 0.95 * 600_000
    assert outcome.share_refused <= 0.01


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("rule", ["output", "unknown"])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_how_tokens_are_counted_is_found_out(window: Any, rule: str, headers: bool, seed: int) -> None:
    """900 requests of some 100 tokens where a minute gives 600 of them: a bucket takes half as long as a window."""
    scene = {**RULES[rule], "quota": 60_000, "tokens": (50, 50, 200), "requests": 900, "seed": seed}
    quota = scene.pop("quota")
    if not headers:
        scene["headers"] = None
    server = ProviderLimits(tpm=quota, window=window)
    knowing = simulate(server, [RateLimit("*", tpm=quota, window=window)], **scene)
    outcome = simulate(server, [RateLimit("*", tpm=quota)], **scene)
    assert 27.0 <= knowing.seconds <= {"bucket": 1.03 * 30.3, "sliding": 62.5}[window]
    assert knowing.share_refused <= 0.002
    assert outcome.answered == knowing.answered == 900
    assert outcome.seconds <= 1.05 * knowing.seconds
    assert outcome.share_refused <= 0.005


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("headers", ["openai", None])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_and_soon_though_most_of_a_quota_is_output_under_way(window: Any, headers: Any, seed: int) -> None:
    """With one probe at a time until one of them told something, a bucket took twice as long as had it been known."""
    scene = {
        "tokens": (20, 45, 100), "requests": 400, "in_flight": 256, "latency": (0.5, 1.5), "profile": UNKNOWN,
        "headers": headers, "seed": seed,
    }  # fmt: skip
    server = ProviderLimits(otpm=9000, period=10, window=window)
    knowing = simulate(server, [RateLimit("*", otpm=9000, period=10, window=window)], **scene)
    outcome = simulate(server, [RateLimit("*", otpm=9000, period=10)], **scene)
    assert outcome.answered == knowing.answered == 400
    assert outcome.seconds <= 1.25 * knowing.seconds
    assert outcome.share_refused <= 0.01


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("bound_by", ["itpm", "otpm"])
def test_input_and_output_apart(bound_by: str, learned: bool, seed: int) -> None:
    """Anthropic's way: real output, numbers rounded to thousands."""
    quotas: dict[str, Any] = {"itpm": 10**6, "otpm": 10**6, bound_by: {"itpm": 60_000, "otpm": 90_000}[bound_by]}
    limits = [] if learned else [RateLimit("*", **quotas)]
    outcome = run(
        seed, limits, ProviderLimits(**quotas), charge="actual", profile=shipped()["anthropic"], headers="anthropic"
    )
    output = sum(tokens for at, tokens in outcome.produced if 60.0 <= at < LASTS)
    used = TOKENS[0] * outcome.let_in(60.0, LASTS) if bound_by == "itpm" else output
    assert used >= 0.95 * quotas[bound_by] * 4
    assert outcome.share_refused <= 0.01


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("charge", ["max_tokens", "prompt+max_tokens"])
def test_a_provider_that_charges_far_more_than_we_know_is_followed(charge: Any, seed: int) -> None:
    """Nobody told us that it charges max_tokens: four times what we count. Refusals are few once that was seen."""
    for headers in ("openai", None):
        outcome = run(
            seed, [RateLimit("*", tpm=600_000)], ProviderLimits(tpm=600_000), charge=charge, profile=UNKNOWN,
            headers=headers,
        )  # fmt: skip
        late = sum(at >= 60.0 for at in outcome.refused)
        assert outcome.tokens(60.0, LASTS) >= 0.95 * 600_000 * 4
        assert late <= 0.02 * outcome.let_in(60.0, LASTS)
