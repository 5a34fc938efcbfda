"""Layers of facts over LiteLLM's map, and how they are read from TOML.

What may live here: what a layer is, and the tables that a ``models.toml`` may have. The packaged data files and the
user's own file have the same tables and are read by the same code:

    [[model]]             name or names, any of LiteLLM's fields, and: release_date, company, family, display_name,
                          replacement, deprecated, aliases, source, as_of
    [aliases]             short = "litellm/name"
    [[preset]]            slug, model, efforts, and whatever LLMConfig has
    [group.word]          rule, meaning
    [provider.name]       a row as in data/providers.toml

A mistake in one table is kept as a problem with file, line, key and what was expected; the other tables count.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from ..config import TomlFile, dotted, read_toml, shown
from ..errors import ConfigError

_COUNTS = frozenset(
    {"max_input_tokens", "max_output_tokens", "max_tokens", "output_vector_size", "prompt_cache_min_tokens"}
)
_NUMBERS = frozenset({"rpm", "tpm"})
_TEXTS = frozenset(
    {
        "source",
        "litellm_provider",
        "mode",
        "company",
        "family",
        "display_name",
        "replacement",
        "default_reasoning_effort",
    }
)
_DATES = frozenset({"release_date", "deprecation_date", "as_of"})
_FLAGS = frozenset({"deprecated", "thinking_always_on"})
_LISTS = frozenset(
    {"reasoning_effort_levels", "supported_endpoints", "supported_modalities", "supported_output_modalities"}
)
_TOLD = frozenset({"max_input_tokens", "max_output_tokens", "max_tokens", "litellm_provider", "mode", "rpm", "tpm"})
_KNOWN = (
    _COUNTS
    | _NUMBERS
    | _TEXTS
    | _DATES
    | _FLAGS
    | _LISTS
    | {
        "input_cost_per_token",
        "output_cost_per_token",
        "cache_read_input_token_cost",
        "supports_function_calling",
        "supports_prompt_caching",
        "supports_reasoning",
        "supports_response_schema",
        "supports_vision",
    }
)
"""What is offered where a key is not known; LiteLLM has more supports_... and ..._cost... than these, and all count."""

_NOTES = frozenset({"name", "names", "aliases"})
_TABLES = ("model", "aliases", "preset", "group", "provider", "source", "as_of")


@dataclass(frozen=True, slots=True)
class Statement:
    """What one table says about its models."""

    fields: Mapping[str, Any]
    source: str | None = None
    as_of: date | None = None


class Table(NamedTuple):
    """A table as it stands in a file, and what makes an error about one of its keys ("" for the table as a whole)."""

    values: Mapping[str, Any]
    error_at: Callable[[str, str], ConfigError]


@dataclass(slots=True)
class Layer:
    """One layer: statements by model, in the order in which they were made, and the names it adds."""

    kind: str
    """As in :class:`~bulkllm.models.info.Origin`."""
    path: Path | None = None
    statements: dict[str, list[Statement]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    presets: list[Table] = field(default_factory=list)
    groups: dict[str, Mapping[str, str]] = field(default_factory=dict)
    providers: dict[str, Table] = field(default_factory=dict)
    problems: list[ConfigError] = field(default_factory=list)

    def say(self, name: str, statement: Statement) -> None:
        """Add a statement about a model; the later one wins."""
        self.statements.setdefault(name, []).append(statement)


def for_litellm(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of a statement's fields, those that LiteLLM is told: prices, limits, abilities and the provider.

    The rest is not for it: some of it LiteLLM does not know, and some (levels of effort) changes what it lets through.
    """
    return {
        key: value
        for key, value in fields.items()
        if "cost" in key or key in _TOLD or (key.startswith("supports_") and key != "supports_batch")
    }


def expectation(key: str, value: object) -> str | None:
    """What a field should be, where ``value`` is not that; None where all is well."""
    if key in _COUNTS:
        return None if _is_number(value) and isinstance(value, int) and value > 0 else "a whole number above 0"
    if key in _NUMBERS:
        return None if _is_number(value) else "a number of at least 0"
    if key in _TEXTS:
        return None if isinstance(value, str) and value else "text"
    if key in _DATES:
        return None if isinstance(value, date) else "a date such as 2026-11-23, without quotes"
    if key in _FLAGS or key.startswith("supports_"):
        return None if isinstance(value, bool) else "true or false"
    if key in _LISTS:
        return None if _is_texts(value) else 'a list of texts such as ["low", "high"]'
    if "cost" in key:
        fits = _is_number(value) or (isinstance(value, dict) and "per_token" not in key)
        return None if fits else "a price in US dollars for one unit (a token, an image): a number of at least 0"
    near = difflib.get_close_matches(key, _KNOWN | _NOTES, 1)
    return "a key that is known" + (f"; did you mean {near[0]}?" if near else "")


def read_layer(path: Path, kind: str, *, into: Layer | None = None) -> Layer:
    """A layer from a TOML file; what is wrong in it is in its ``problems``. A file that is not there is empty."""
    layer = into or Layer(kind, path)
    try:
        file = read_toml(path)
    except FileNotFoundError:
        return layer
    except ConfigError as error:
        layer.problems.append(error)
        return layer
    for key in file.data:
        if key not in _TABLES:
            near = difflib.get_close_matches(key, _TABLES, 1)
            expected = f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(_TABLES[:5])
            layer.problems.append(file.error((key,), f"not a table that is known; {expected}"))
    notes = {key: file.data[key] for key in ("source", "as_of") if key in file.data}
    for key, value in list(notes.items()):
        wanted = expectation(key, value)
        if wanted is not None:
            layer.problems.append(file.error((key,), f"expected {wanted}, found {shown(key, notes.pop(key))}"))
    whole_file = Statement({}, **notes)
    for index, table in _tables(file, "model", layer):
        _read_model(layer, file, index, table, whole_file)
    _read_aliases(layer, file)
    for index, table in _tables(file, "preset", layer):
        layer.presets.append(Table(table, _error_at(file, ("preset", index))))
    for word, table in _named(file, "group", layer):
        rule = table.get("rule")
        if isinstance(rule, str) and rule.strip():
            layer.groups[word] = {"rule": rule, "meaning": str(table.get("meaning", rule))}
        else:
            layer.problems.append(file.error(("group", word, "rule"), 'expected a selector such as "price<=1 vision"'))
    for name, table in _named(file, "provider", layer):
        layer.providers[name] = Table(table, _error_at(file, ("provider", name)))
    return layer


def _read_model(layer: Layer, file: TomlFile, index: int, table: Mapping[str, Any], whole: Statement) -> None:
    place = ("model", index)
    names = table.get("names", [table["name"]] if "name" in table else None)
    if not _is_texts(names) or not names:
        layer.problems.append(file.error(place, 'expected name = "provider/model", or names with a list of them'))
        return
    fields: dict[str, Any] = {}
    for key, value in table.items():
        if key in ("name", "names", "aliases"):
            continue
        expected = expectation(key, value)
        if expected is None:
            fields[key] = value
        else:
            layer.problems.append(file.error((*place, key), f"expected {expected}, found {shown(key, value)}"))
    source, as_of = fields.pop("source", whole.source), fields.pop("as_of", whole.as_of)
    statement = Statement(fields, source or str(file.path), as_of)
    for name in names:
        layer.say(name, statement)
    aliases = table.get("aliases", [])
    if not _is_texts(aliases) or (aliases and len(names) > 1):
        layer.problems.append(file.error((*place, "aliases"), "expected a list of texts, in a table with one name"))
        return
    for alias in aliases:
        layer.aliases[alias] = names[0]


def _read_aliases(layer: Layer, file: TomlFile) -> None:
    for alias, target in _entries(file, "aliases", layer):
        if isinstance(target, str) and target:
            layer.aliases[alias] = target
        else:
            problem = f'expected "provider/model", found {shown(alias, target)}'
            layer.problems.append(file.error(("aliases", alias), problem))


def _tables(file: TomlFile, key: str, layer: Layer) -> Iterator[tuple[int, Mapping[str, Any]]]:
    found = file.data.get(key, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        layer.problems.append(file.error((key,), f"expected tables that begin with [[{key}]]"))
        return
    yield from enumerate(found)


def _entries(file: TomlFile, key: str, layer: Layer) -> Iterator[tuple[str, Any]]:
    found = file.data.get(key, {})
    if not isinstance(found, dict):
        layer.problems.append(file.error((key,), f"expected a table that begins with [{key}]"))
        return
    yield from found.items()


def _named(file: TomlFile, key: str, layer: Layer) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for word, table in _entries(file, key, layer):
        if isinstance(table, dict):
            yield word, table
        else:
            layer.problems.append(file.error((key, word), f"expected a table that begins with [{key}.{word}]"))


def _error_at(file: TomlFile, place: tuple[str | int, ...]) -> Callable[[str, str], ConfigError]:
    return lambda key, problem: file.error((*place, key) if key else place, problem)


def in_program(place: tuple[str | int, ...]) -> Callable[[str, str], ConfigError]:
    """What makes errors about something that the program itself said."""
    return lambda key, problem: ConfigError(f"{dotted((*place, key) if key else place)}: {problem}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) and part for part in value)
