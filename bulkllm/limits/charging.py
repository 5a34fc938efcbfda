"""What a provider counts against its limits for a request: before the answer, and once it is there. Pure.

Which rule holds is the profile's. Tokens of output may count several times (``output_multiplier``), and those of input
that came from the provider's prompt cache may not count at all.
"""

from __future__ import annotations

from .estimate import Estimate
from .pool import Amounts
from .profiles import Profile


def expected(profile: Profile, estimate: Estimate) -> Amounts:
    """What to reserve: requests, tokens in all, input tokens, output tokens."""
    by_bound = profile.charges in ("max_tokens", "prompt+max_tokens") and estimate.bounded
    output = (estimate.output_tokens if by_bound else estimate.likely_output) * profile.output_multiplier
    return (1.0, _total(profile, estimate, estimate.input_tokens, output), estimate.input_tokens, output)


def charged(profile: Profile, estimate: Estimate, input_tokens: float, output_tokens: float, cached: float) -> Amounts:
    """What it took in the end, by the usage that the provider told.

    Args:
        profile: the provider's.
        estimate: what was known before; where the bound of the answer counts, nothing of it comes back.
        input_tokens: of the prompt, cached ones included.
        output_tokens: of the answer.
        cached: tokens of input that were read from the provider's cache.
    """
    counted = max(0.0, input_tokens - cached) if profile.cached_input == "free" else input_tokens
    output = output_tokens * profile.output_multiplier
    if profile.charges in ("max_tokens", "prompt+max_tokens") and estimate.bounded:
        output = max(output, estimate.output_tokens * profile.output_multiplier)
    return (1.0, _total(profile, estimate, counted, output), counted, output)


def _total(profile: Profile, estimate: Estimate, input_tokens: float, output_tokens: float) -> float:
    if profile.charges == "max_tokens" and estimate.bounded:
        return max(input_tokens, output_tokens)
    return input_tokens + output_tokens
