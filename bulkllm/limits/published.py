"""What providers publish of their tiers: ``published.toml``, as frozen values.

What may live here: reading and checking that file, and finding a tier in it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Final

from ..errors import ConfigError
from .configured import ConfiguredLimit, window_of
from .spec import RateLimit

_DIMENSIONS: Final = frozenset({"rpm", "tpm", "itpm", "otpm", "rpd", "tpd"})
_KEYS: Final = {"provider": str, "models": list, "as_of": date, "source": str, "tier": dict}


@dataclass(frozen=True, slots=True)
class Published:
    """What one provider publishes for models that share their limits.

    Attributes:
        provider: LiteLLM's name of it.
        tiers: the limits by the provider's name of the tier.
    """

    provider: str
    tiers: Mapping[str, ConfiguredLimit]


@cache
def published() -> tuple[Published, ...]:
    """All that comes with the package."""
    text = files(__package__).joinpath("published.toml").read_text(encoding="utf-8")
    return tuple(published_from(table) for table in tomllib.loads(text)["limit"])


def published_from(table: Mapping[str, Any]) -> Published:
    """One table of the file.

    Raises:
        ConfigError: it is not whole.
    """
    if table.keys() != _KEYS.keys() or not all(type(table[key]) is kind for key, kind in _KEYS.items()):
        raise ConfigError(f"a published limit has {', '.join(_KEYS)}, not {dict(table)!r}")
    provider = table["provider"]
    tiers = {}
    for tier, numbers in table["tier"].items():
        if not numbers.keys() <= _DIMENSIONS:
            raise ConfigError(f"{provider} {tier}: known are {', '.join(sorted(_DIMENSIONS))}")
        name = f"{provider} tier {tier}: {table['models'][0].removeprefix(f'{provider}/')}"
        limit = RateLimit(table["models"], **numbers, **window_of(provider), name=name)
        tiers[tier] = ConfiguredLimit(limit=limit, source=table["source"], as_of=table["as_of"])
    return Published(provider, tiers)


def published_tiers() -> dict[str, list[str]]:
    """The tiers that are known, by provider."""
    known: dict[str, dict[str, None]] = {}
    for entry in published():
        known.setdefault(entry.provider, {}).update(dict.fromkeys(entry.tiers))
    return {provider: list(tiers) for provider, tiers in known.items()}


def published_tier(provider: str, tier: str | int) -> list[ConfiguredLimit]:
    """What a provider publishes for a tier, with the page and the day.

    Raises:
        ConfigError: no such provider or tier is in the table.
    """
    known = published_tiers()
    if provider not in known:
        raise ConfigError(f"no published limits of {provider!r} are known; there are those of {', '.join(known)}")
    wanted = str(tier).lower().removeprefix("tier").strip(" -_")
    if wanted not in known[provider]:
        raise ConfigError(f"no tier of {provider} is called {tier!r}; there are {', '.join(known[provider])}")
    return [entry.tiers[wanted] for entry in published() if entry.provider == provider and wanted in entry.tiers]


def published_limits(provider: str, tier: str | int) -> list[RateLimit]:
    """What a provider publishes for a tier: the last resort, where nobody says what an account may do.

    Args:
        provider: LiteLLM's name of it, such as ``"openai"``, ``"anthropic"`` or ``"groq"``.
        tier: the provider's name of the tier: ``1`` to ``5`` (OpenAI), ``"start"`` (Anthropic), ``"free"`` (Groq).

    Raises:
        ConfigError: no such provider or tier is in the table.
    """
    return [configured.limit for configured in published_tier(provider, tier)]
