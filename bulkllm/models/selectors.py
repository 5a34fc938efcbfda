"""Selectors: choosing presets and models by what is known of them.

What may live here: the grammar and its meaning. What words such as "cheap" stand for is data (``data/groups.toml``).

    selection     any number of arguments; a preset must fit every one of them
    argument      alternatives separated by "," or "|": it fits when one of them does
    alternative   terms separated by spaces: all must fit
    term          "!" before it takes the opposite; what is not known counts as not fitting, so "!price<1" has it
      word        a group: current, cheap, vision, reasoning, ...
      key:value   company: provider: family: mode: model: slug: effort: ability: is:  (globs, case does not matter)
                  effort: is the preset's own level, or "default" where it sets none
                  is:     current, deprecated, retiring, preview, known
                  ability: tools, vision, reasoning, response_schema, prompt_caching, streaming, batch, pdf, ...
      comparison  context output price input_price output_price rpm tpm released retires, with >= <= > < = !=
                  numbers may end in k or M; prices are dollars for a million tokens; dates are 2026-11-23, 2026-11
                  or 2026; what is not known fits no comparison
      name        a preset's slug, or a model's name or alias
      glob        over slugs, models' names and their last part

The order is always the registry's, whatever the order of the selectors, and nothing comes twice. Nothing here uses the
network. Variants of a preset (the same model at another effort) fit only where a slug, a glob or "effort:" asks for
them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from enum import IntEnum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from .rules import Kin, bare

if TYPE_CHECKING:
    from ._registry import Registry
    from .config import LLMConfig
    from .info import ModelInfo

_NUMBERS: dict[str, str] = {
    "context": "max_input_tokens",
    "output": "max_output_tokens",
    "price": "price",
    "input_price": "input_price",
    "output_price": "output_price",
    "rpm": "rpm",
    "tpm": "tpm",
}
_DATES = {"released": "release_date", "retires": "deprecation_date"}
_TEXTS = ("company", "provider", "family", "mode", "model", "slug", "effort", "ability", "is")
_ABILITIES = (
    "tools", "vision", "reasoning", "response_schema", "prompt_caching", "streaming", "batch", "pdf", "audio",
    "web_search", "sampling",
)  # fmt: skip
_STATES = ("current", "deprecated", "retiring", "preview", "known")
_NEAR_DAYS = 90
_COMPARISON = re.compile(r"([a-z_]+)(>=|<=|!=|>|<|=)(.+)")
_NUMBER = re.compile(r"(\d+(?:[._]\d+)*)([kKmM]?)")
_MOST_NESTING = 8


class Fit(IntEnum):
    """How well something fits. ASKED also lets in variants: somebody named them."""

    NO = 0
    YES = 1
    ASKED = 2


class Candidate:
    """Something to choose from: a preset, and what is known of its model."""

    def __init__(self, registry: Registry, model: str, preset: LLMConfig | None) -> None:
        self._registry = registry
        self.model = model
        self.preset = preset

    @cached_property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self._registry.describe(self.model)

    @property
    def slug(self) -> str:
        """The preset's slug; a model without a preset goes by its name."""
        return self.preset.slug if self.preset else self.model

    @property
    def effort(self) -> str:
        """The preset's own level of effort, or "default"."""
        if self.preset is None:
            return "default"
        return "none" if self.preset.thinking is False else self.preset.reasoning_effort or "default"


Test = Callable[[Candidate], Fit]


def select(registry: Registry, selectors: Sequence[str], among: Literal["presets", "models"]) -> list[LLMConfig]:
    """The presets that fit every selector; see :meth:`Registry.select`."""
    fitting = _chosen(registry, selectors, among)
    if not fitting:
        raise ConfigError(_nothing(registry, selectors, among))
    return [candidate.preset or _plain(candidate.info) for candidate in fitting]


def find(registry: Registry, selectors: Sequence[str]) -> list[ModelInfo]:
    """The models that fit every selector; see :meth:`Registry.find`."""
    return [candidate.info for candidate in _chosen(registry, selectors, "models")]


def _chosen(registry: Registry, selectors: Sequence[str], among: Literal["presets", "models"]) -> list[Candidate]:
    reader = _Reader(registry)
    tests = [reader.argument(selector) for selector in selectors]
    every: Iterable[Candidate]
    if among == "presets":
        every = (Candidate(registry, preset.model, preset) for preset in registry.presets().values())
    else:
        every = (Candidate(registry, name, None) for name in registry.names())
    chosen = []
    for candidate in every:
        fits = [test(candidate) for test in tests]
        needed = Fit.ASKED if candidate.preset and candidate.preset.variant_of else Fit.YES
        if all(fits) and max(fits, default=Fit.YES) >= needed:
            chosen.append(candidate)
    if among == "presets":
        chosen += reader.named_models({candidate.info.name for candidate in chosen}, tests)
    return chosen


def _plain(info: ModelInfo) -> LLMConfig:
    from .config import LLMConfig

    return LLMConfig(slug=re.sub(r"[^A-Za-z0-9._/:@-]", "-", info.name), model=info.name)


def _nothing(registry: Registry, selectors: Sequence[str], among: Literal["presets", "models"]) -> str:
    alone = [f"{selector!r} alone fits {len(_chosen(registry, [selector], among))}" for selector in selectors]
    hint = '; try among="models"' if among == "presets" else ""
    return f"no {among[:-1]} fits {' '.join(map(repr, selectors))} ({', '.join(alone)}){hint}"


class _Reader:
    """Turns selectors into tests."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._groups = registry.groups()
        self._newest: dict[str, tuple[tuple[int, ...], bool]] | None = None
        self._named: dict[str, str] = {}

    def argument(self, text: str, depth: int = 0) -> Test:
        """A test for one argument: its alternatives, of which one must fit."""
        if depth > _MOST_NESTING:
            raise ConfigError(f"selector {text!r}: groups that stand for each other lead nowhere")
        alternatives = [part.split() for part in re.split(r"[,|]", text)]
        if not all(alternatives):
            raise ConfigError(f"selector {text!r}: expected a term before and after each comma or |")
        every = [[self._term(term, depth) for term in terms] for terms in alternatives]

        def test(candidate: Candidate) -> Fit:
            best = Fit.NO
            for terms in every:
                fits = [term(candidate) for term in terms]
                if all(fits):
                    best = max(best, *fits)
            return best

        return test

    def named_models(self, chosen: set[str], tests: Sequence[Test]) -> list[Candidate]:
        """Models that were named outright and that no preset has, as plain presets, after the presets."""
        more = [Candidate(self._registry, model, None) for model in self._named.values() if model not in chosen]
        return [candidate for candidate in more if all(test(candidate) for test in tests)]

    def _term(self, term: str, depth: int) -> Test:
        if term.startswith("!"):
            inner = self._term(term[1:], depth) if len(term) > 1 else None
            if inner is None:
                raise ConfigError("selector '!': expected a term after it")
            return lambda candidate: Fit.NO if inner(candidate) else Fit.YES
        if term in self._groups:
            return self.argument(self._groups[term]["rule"], depth + 1)
        key, colon, value = term.partition(":")
        if colon and key in _TEXTS:
            return self._text(key, value.lower())
        match = _COMPARISON.fullmatch(term)
        if match and (match[1] in _NUMBERS or match[1] in _DATES):
            return _comparison(term, match[1], match[2], match[3])
        return self._name(term)

    def _name(self, term: str) -> Test:
        presets = self._registry.presets()
        if term in presets:
            return lambda candidate: Fit.ASKED if candidate.slug == term else Fit.NO
        if re.search(r"[*?\[]", term):
            pattern = term.lower()
            return lambda candidate: Fit.ASKED if _glob_fits(candidate, pattern) else Fit.NO
        try:
            model = self._registry.get(term).name
        except ConfigError as error:
            words = [*self._groups, *(f"{key}:" for key in _TEXTS), *_NUMBERS, *_DATES, *presets]
            near = difflib.get_close_matches(term, words, 3)
            if term.lower() in self._registry.rules.companies:
                near.insert(0, f"company:{term.lower()}")
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"selector {term!r}: neither a word, a slug nor a model{hint} ({error})") from None
        self._named[term] = model
        return lambda candidate: Fit.YES if candidate.info.name == model else Fit.NO

    def _text(self, key: str, value: str) -> Test:
        if key == "ability":
            _known(key, value, _ABILITIES)
            return lambda candidate: Fit(bool(getattr(candidate.info, value)))
        if key == "is":
            _known(key, value, _STATES)
            return lambda candidate: Fit(self._state(candidate.info, value))
        if key == "effort":
            return lambda candidate: Fit.ASKED if fnmatchcase(candidate.effort, value) else Fit.NO
        if key == "slug":
            return lambda candidate: Fit.ASKED if fnmatchcase(candidate.slug.lower(), value) else Fit.NO
        if key == "model":
            return lambda candidate: Fit(fnmatchcase(candidate.info.name.lower(), value))
        return lambda candidate: Fit(fnmatchcase((getattr(candidate.info, key) or "").lower(), value))

    def _state(self, info: ModelInfo, state: str) -> bool:
        today = self._registry.today()
        if state == "known":
            return info.known
        if state == "preview":
            return self._registry.rules.preview(info.name)
        if state == "deprecated":
            return info.is_deprecated(today)
        if state == "retiring":
            near = today + timedelta(days=_NEAR_DAYS)
            return info.deprecation_date is not None and today < info.deprecation_date <= near
        return self._is_current(info, today)

    def _is_current(self, info: ModelInfo, today: date) -> bool:
        kin = self._registry.rules.kin(info.name)
        if kin is None or info.is_deprecated(today):
            return False
        if self._newest is None:
            self._newest = self._find_newest(today)
        version, stable = self._newest.get(kin.family, ((), False))
        return kin.version >= version and not (stable and self._registry.rules.preview(info.name))

    def _find_newest(self, today: date) -> dict[str, tuple[tuple[int, ...], bool]]:
        """Each family's highest version at its maker's own provider, and whether it is out of preview."""
        rules = self._registry.rules
        newest: dict[str, tuple[tuple[int, ...], bool]] = {}
        for name in self._registry.names():
            kin: Kin | None = rules.kin(name)
            if kin is None:
                continue
            info = self._registry.describe(name)
            homes = rules.home(info.company)
            if (homes and info.provider not in homes) or info.is_deprecated(today):
                continue
            found = (kin.version, not rules.preview(name))
            newest[kin.family] = max(newest.get(kin.family, ((), False)), found)
        return newest


def _known(key: str, value: str, values: Sequence[str]) -> None:
    if value not in values:
        raise ConfigError(f"selector {key}:{value}: expected one of {', '.join(values)}")


def _glob_fits(candidate: Candidate, pattern: str) -> bool:
    names = {candidate.slug, candidate.model, candidate.info.name}
    names |= {bare(name) for name in names}
    return any(fnmatchcase(name.lower(), pattern) for name in names)


def _comparison(term: str, key: str, sign: str, text: str) -> Test:
    limit: float | date
    if key in _DATES:
        attribute = _DATES[key]
        padded = text + {4: "-01-01", 7: "-01"}.get(len(text), "")
        try:
            limit = date.fromisoformat(padded)
        except ValueError:
            raise ConfigError(f"selector {term!r}: expected a date such as 2026-11-23, found {text!r}") from None
    else:
        attribute = _NUMBERS[key]
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise ConfigError(f"selector {term!r}: expected a number such as 200k or 0.5, found {text!r}")
        limit = float(match[1].replace("_", "")) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()]

    def test(candidate: Candidate) -> Fit:
        value = getattr(candidate.info, attribute)
        return Fit(value is not None and _compare(value, sign, limit))

    return test


def _compare(value: float | date, sign: str, limit: float | date) -> bool:
    if isinstance(value, date) is not isinstance(limit, date):
        return False
    order = (value > limit) - (value < limit)  # type: ignore[operator] # both dates or both numbers, as checked above
    return {">=": order >= 0, "<=": order <= 0, ">": order > 0, "<": order < 0, "=": order == 0, "!=": order != 0}[sign]
