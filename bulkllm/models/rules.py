"""What a model's name says by itself: who made it, which family and version it is, when it came out.

What may live here: reading the rules of ``data/companies.toml`` and ``data/families.toml``, and applying them to names.
No model, company or pattern is named here; to teach bulkllm a new one, edit those files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from ..config import read_toml

DATA = Path(__file__).parent / "data"
"""Where the packaged data files are."""

_VENDOR_DOTS = re.compile(r"^(?:[a-z][a-z-]*\.)+(?=[a-z])")
_CUTS = re.compile(r"[/.]")


class Kin(NamedTuple):
    """A model's family, and its version in it as numbers that compare: (5, 5) for "5.5", "5-5" and "5p5"."""

    family: str
    version: tuple[int, ...]


class _Company(NamedTuple):
    name: str
    home: tuple[str, ...]
    vendors: frozenset[str]
    names: tuple[str, ...]


class _Family(NamedTuple):
    name: str
    start: str
    """What every name of it begins with, so that few patterns have to be tried, and compiled."""
    pattern: str


class Rules:
    """The rules, read once. Answers are remembered, for a name's meaning does not change."""

    def __init__(self, companies: Mapping[str, Any], families: Mapping[str, Any]) -> None:
        self._companies = tuple(
            _Company(row["name"], tuple(row["home"]), frozenset(row["vendors"]), tuple(row["names"]))
            for row in companies["company"]
        )
        self._provider_names: dict[str, str] = dict(companies["provider_names"])
        self._provider_of: dict[str, str] = {}
        self.prefix_needed: Mapping[str, str] = dict(companies["prefix_needed"])
        end = "(?:" + "|".join(families["suffixes"]) + ")*"
        self._families = tuple(
            _Family(
                row["name"],
                re.split(r"[({\\.\[]", row["pattern"])[0],
                row["pattern"].replace("{v}", families["version"]) + end,
            )
            for row in families["family"]
        )
        self._previews = tuple(families["preview"])
        self._dates = tuple(re.compile(row["pattern"]) for row in families["date"])
        self._companies_of: dict[str, str | None] = {}
        self._kin_of: dict[str, Kin | None] = {}
        self._compiled: dict[str, re.Pattern[str]] = {}

    @classmethod
    def packaged(cls) -> Rules:
        """The rules that come with bulkllm."""
        return cls(read_toml(DATA / "companies.toml").data, read_toml(DATA / "families.toml").data)

    def provider(self, litellm_provider: str) -> str:
        """The provider that LiteLLM means: "vertex_ai" for "vertex_ai-language-models"."""
        found = self._provider_of.get(litellm_provider)
        if found is None:
            found = next(
                (to for pattern, to in self._provider_names.items() if fnmatchcase(litellm_provider, pattern)),
                litellm_provider,
            )
            self._provider_of[litellm_provider] = found
        return found

    def company(self, name: str) -> str | None:
        """Who made the model, or None where the name does not say."""
        if name not in self._companies_of:
            self._companies_of[name] = self._find_company(name.lower())
        return self._companies_of[name]

    def _find_company(self, name: str) -> str | None:
        cuts = _CUTS.split(name)
        if "/" in name:
            cuts = cuts[1:]  # the first is who serves it, not who made it
        last = bare(name)
        for company in self._companies:
            if company.vendors.intersection(cuts[:-1]):
                return company.name
        for company in self._companies:
            if any(fnmatchcase(last, pattern) for pattern in company.names):
                return company.name
        return None

    @property
    def companies(self) -> tuple[str, ...]:
        """Every company that is known."""
        return tuple(company.name for company in self._companies)

    def home(self, company: str | None) -> tuple[str, ...]:
        """A company's own providers, best first."""
        return next((row.home for row in self._companies if row.name == company), ())

    def kin(self, name: str) -> Kin | None:
        """The family and version that a name tells, or None."""
        if name not in self._kin_of:
            self._kin_of[name] = self._find_kin(bare(name.lower()))
        return self._kin_of[name]

    def _find_kin(self, last: str) -> Kin | None:
        for family in self._families:
            if not last.startswith(family.start):
                continue
            pattern = self._compiled.get(family.name)
            if pattern is None:
                pattern = self._compiled[family.name] = re.compile(family.pattern)
            match = pattern.fullmatch(last)
            if match:
                numbers = [int(part) for part in re.findall(r"\d+", match.groupdict().get("version") or "")]
                while numbers and numbers[-1] == 0:  # "4-0" is "4"
                    numbers.pop()
                return Kin(family.name, tuple(numbers))
        return None

    def preview(self, name: str) -> bool:
        """Whether the name says that it is a preview, a beta or an experiment."""
        lowered = name.lower()
        return any(mark in lowered for mark in self._previews)

    def released(self, name: str) -> date | None:
        """The release date that stands in the name, or None."""
        last = bare(name.lower())
        for pattern in self._dates:
            match = pattern.search(last)
            if match:
                parts = match.groupdict()
                year = int(parts["year"]) if "year" in parts else 2000 + int(parts["short"])
                return date(year, int(parts["month"]), int(parts.get("day") or 1))
        return None


def bare(name: str) -> str:
    """The last part of a name: "claude-opus-5" of "bedrock/us.anthropic.claude-opus-5"."""
    return _VENDOR_DOTS.sub("", name.rsplit("/", 1)[-1])
