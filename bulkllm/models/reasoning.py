"""How a provider is told to think: the spellings of ``data/reasoning.toml``, and filling them in.

What may live here: finding the spelling for a model and turning a wish (an effort, a budget, off) into LiteLLM's
keywords. Pure; no provider is named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from ..config import read_toml
from ..errors import ConfigError
from .rules import DATA


class Wish(NamedTuple):
    """What a preset wants of a model's thinking. All of it may be left open."""

    effort: str | None = None
    thinking: bool | int | None = None
    verbosity: str | None = None


class Spelling(NamedTuple):
    """One table of the data file."""

    models: tuple[str, ...]
    efforts: tuple[str, ...]
    templates: Mapping[str, Mapping[str, Any]]


@cache
def spellings() -> tuple[Spelling, ...]:
    """The packaged spellings, in their order."""
    return tuple(
        Spelling(
            tuple(row["models"]),
            tuple(row.get("efforts", ())),
            {key: row[key] for key in ("effort", "off", "on", "budget", "verbosity") if key in row},
        )
        for row in read_toml(DATA / "reasoning.toml").data["spelling"]
    )


def spelling_of(model: str) -> Spelling:
    """The spelling for a model by LiteLLM's name; the last one in the file fits all."""
    lowered = model.lower()
    return next(row for row in spellings() if any(fnmatchcase(lowered, pattern) for pattern in row.models))


def keywords(model: str, wish: Wish) -> dict[str, Any]:
    """LiteLLM's keywords for a wish.

    Raises:
        ConfigError: the model's provider cannot be asked for that, or LiteLLM would not let it through.
    """
    row = spelling_of(model)
    filled: dict[str, Any] = {}
    for key, value in _wanted(wish):
        template = row.templates.get(key)
        if template is None or (key == "effort" and value not in row.efforts):
            raise ConfigError(f"{model}: {_asked(key, value)} cannot be asked for; {_instead(row)}")
        _merge(filled, _fill(template, key, value))
    return filled


def _wanted(wish: Wish) -> list[tuple[str, Any]]:
    wanted: list[tuple[str, Any]] = []
    if wish.effort == "none" or wish.thinking is False:
        wanted.append(("off", None))
    elif wish.effort is not None:
        wanted.append(("effort", wish.effort))
    elif wish.thinking is True:
        wanted.append(("on", None))
    elif wish.thinking is not None:
        wanted.append(("budget", wish.thinking))
    if wish.verbosity is not None:
        wanted.append(("verbosity", wish.verbosity))
    return wanted


def _fill(template: Any, key: str, value: object) -> Any:
    """A copy of a template with the value in its place."""
    if isinstance(template, Mapping):
        return {name: _fill(inner, key, value) for name, inner in template.items()}
    return value if template == f"${key}" else template


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Lay ``more`` over ``into``, table by table: two wishes may both go through extra_body."""
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _asked(key: str, value: object) -> str:
    return {
        "effort": f"reasoning_effort={value!r}",
        "off": "thinking to be off",
        "on": "thinking=True",
        "budget": f"a thinking budget ({value} tokens)",
        "verbosity": f"verbosity={value!r}",
    }[key]


def _instead(row: Spelling) -> str:
    offers = []
    if row.efforts:
        offers.append("reasoning_effort may be " + ", ".join(row.efforts))
    if "budget" in row.templates:
        offers.append("thinking may be a number of tokens")
    elif "on" in row.templates:
        offers.append("thinking may be True or False")
    return "; ".join(offers) or "its reasoning cannot be steered"
