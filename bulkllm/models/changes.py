"""What changed, what is going away, what is not known and what calls would cost: reports over the registry.

What may live here: questions to a registry whose answer is a list of plain values, for a table or for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .. import _litellm
from ..errors import ConfigError
from .lists import models_of, read_kept

if TYPE_CHECKING:
    from ._registry import Registry
    from .info import ModelInfo
    from .providers import ProviderList


Status = Literal["gone", "unknown", "deprecated", "retiring"]
"""Not on its provider's refreshed list; not known at all (gone, or too new for the installed LiteLLM); its date has
passed; its date is near."""


class Change(NamedTuple):
    """One difference between two states of a provider's list."""

    provider: str
    model: str
    kind: Literal["added", "removed", "changed"]
    field: str | None = None
    before: Any = None
    after: Any = None


class Retirement(NamedTuple):
    """A preset whose model is gone or going."""

    slug: str
    model: str
    status: Status
    date: date | None
    replacement: str | None
    source: str | None
    """Where that is known from."""


class Estimate(NamedTuple):
    """What one call would cost."""

    name: str
    model: str
    cost: float | None
    """US dollars, or None where no price is known."""
    note: str | None = None
    """Why there is no cost."""


def diff(rows: Mapping[str, ProviderList], names: Sequence[str], directory: Path) -> list[Change]:
    """What changed in the providers' lists between the last two that differ.

    Raises:
        ConfigError: there is no such provider, or a kept list is damaged.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise ConfigError(f"no provider is called {unknown[0]!r}; there are: {', '.join(rows)}")
    changes: list[Change] = []
    for name in names or rows:
        new = read_kept(directory / f"{name}.json")
        old = read_kept(directory / f"{name}.previous.json")
        if new is not None and old is not None:
            before, after = (models_of(rows[name], [page["body"] for page in kept.pages]) for kept in (old, new))
            changes.extend(_compare(name, before, after))
    return changes


def _compare(
    provider: str, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[Change]:
    changes = [Change(provider, model, "added") for model in after if model not in before]
    changes += [Change(provider, model, "removed") for model in before if model not in after]
    for model, old in before.items():
        new = after.get(model, old)
        changes += [
            Change(provider, model, "changed", field, old.get(field), new.get(field))
            for field in dict.fromkeys([*old, *new])
            if old.get(field) != new.get(field)
        ]
    return changes


def deprecated(registry: Registry, within_days: int) -> list[Retirement]:
    """Presets whose model is gone, unknown, deprecated, or soon will be: in this order, soonest first."""
    today = registry.today()
    listed: dict[str, frozenset[str] | None] = {}
    found: list[Retirement] = []
    for slug, preset in registry.presets().items():
        info = registry.describe(preset.model)
        provider = info.provider or ""
        if provider not in listed:
            listed[provider] = registry.listed(provider)
        offered = _is_offered(registry, preset.model, listed[provider])
        status: Status | None = _status(info, today, within_days) if offered else "gone"
        if status is not None:
            origin = info.origin("deprecation_date") or info.origin("deprecated")
            source = str(origin) if origin else None
            found.append(Retirement(slug, preset.model, status, info.deprecation_date, info.replacement, source))
    order = ("gone", "unknown", "deprecated", "retiring")
    return sorted(found, key=lambda entry: (order.index(entry.status), entry.date or date.min))


def _is_offered(registry: Registry, model: str, listed: frozenset[str] | None) -> bool:
    """Whether a provider's list has a model, or, as lists hold dated names for undated ones, one of its version."""
    if listed is None or model in listed:
        return True
    kin = registry.rules.kin(model)
    return kin is not None and any(registry.rules.kin(name) == kin for name in listed)


def _status(info: ModelInfo, today: date, within_days: int) -> Status | None:
    if not info.known:
        return "unknown"
    if info.is_deprecated(today):
        return "deprecated"
    near = info.deprecation_date is not None and info.deprecation_date <= today + timedelta(days=within_days)
    return "retiring" if near else None


def without_limits(registry: Registry, kind: Literal["tokens", "rate"]) -> list[str]:
    """The slugs of presets whose model has no known limits of that kind."""
    missing = []
    for slug, preset in registry.presets().items():
        if not registry.describe(preset.model).has_limits(kind):
            missing.append(slug)
    return missing


def estimate(
    registry: Registry, names: Sequence[str], input_tokens: int, output_tokens: int, cache_read_tokens: int
) -> list[Estimate]:
    """What one call would cost with each model. LiteLLM's calculator knows the tiers; it is asked, not copied."""
    litellm = _litellm.load()
    presets = registry.presets()
    models = {name: presets[name].model if name in presets else registry.get(name).name for name in names}
    registry.tell_litellm(models.values())
    estimates = []
    for name, model in models.items():
        info = registry.describe(model)
        if info.input_price is None or info.output_price is None:
            estimates.append(Estimate(name, model, None, "no price is known for it"))
            continue
        try:
            given, taken = litellm.cost_per_token(
                model=model,
                prompt_tokens=input_tokens,
                completion_tokens=output_tokens,
                cache_read_input_tokens=cache_read_tokens,
                # Told nothing, LiteLLM goes looking for the provider, and logs in to some on the way.
                custom_llm_provider=info.provider if "/" in model else None,
            )
        except Exception as error:
            # ModelNotMappedError, which older versions have not: there it is a bare Exception, told by its text alone.
            if "isn't mapped" not in str(error) and not isinstance(error, litellm.exceptions.BadRequestError):
                raise
            estimates.append(Estimate(name, model, None, "LiteLLM's calculator does not know it"))
            continue
        if (
            input_tokens * info.input_price + output_tokens * info.output_price and not given + taken
        ):  # older versions make nothing of some prices
            estimates.append(Estimate(name, model, None, "LiteLLM's calculator makes 0 of its price"))
            continue
        estimates.append(Estimate(name, model, given + taken))
    return estimates
