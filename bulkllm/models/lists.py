"""What a provider's list of models says, in the registry's fields.

What may live here: applying a provider's field map to the raw answers, and reading the answers that are kept. Pure but
for reading files; fetching is in :mod:`bulkllm.models.refresh`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from .layers import Layer, Statement
from .providers import ProviderList


class Kept(NamedTuple):
    """A provider's answers as they are kept in a file."""

    provider: str
    url: str
    fetched_at: datetime
    """When the answers last changed."""
    checked_at: datetime
    """When the provider was last asked; it may have said that nothing changed."""
    pages: tuple[Mapping[str, Any], ...]
    """Each page's ``body`` as it was answered, with the ``etag`` and ``last_modified`` that came with it."""


def read_lists(rows: Mapping[str, ProviderList], directory: Path) -> Layer:
    """The layer that the kept lists make. A damaged file is a problem and says nothing."""
    layer = Layer("refreshed")
    for name, row in rows.items():
        try:
            kept = read_kept(directory / f"{name}.json")
            models = models_of(row, [page["body"] for page in kept.pages]) if kept else {}
        except ConfigError as error:
            layer.problems.append(error)
            continue
        for model, fields in models.items():
            aliases = fields.pop("aliases", [])
            layer.say(model, Statement(fields, *((kept.url, kept.checked_at.date()) if kept else ())))
            for alias in aliases:
                layer.aliases.setdefault(row.prefix + alias, model)
    return layer


def read_kept(path: Path) -> Kept | None:
    """The answers kept in a file, or None where there is none.

    Raises:
        ConfigError: the file is damaged; the text says to refresh again.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Kept(
            kept["provider"],
            kept["url"],
            datetime.fromisoformat(kept["fetched_at"]),
            datetime.fromisoformat(kept["checked_at"]),
            tuple({**page, "body": page["body"]} for page in kept["pages"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a kept list ({type(error).__name__}); refresh {path.stem} again, or delete it"
        ) from error


def models_of(row: ProviderList, bodies: Sequence[object]) -> dict[str, dict[str, Any]]:
    """The models in a provider's answers: LiteLLM's name, and the fields that the row's map finds.

    Raises:
        ConfigError: an answer does not have the documented shape.
    """
    models: dict[str, dict[str, Any]] = {}
    for body in bodies:
        for item in items_of(row, body):
            name = at(item, row.id)
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{row.name}: a model has no {row.id!r}; {_documented(row)}")
            fields = _fields(row, item)
            prefix = row.prefixes.get(str(fields.get("mode")), row.prefix)
            replacement = fields.get("replacement")
            if isinstance(replacement, str) and not replacement.startswith(prefix):
                fields["replacement"] = prefix + replacement
            models[prefix + name.removeprefix(row.strip)] = fields
    return models


def items_of(row: ProviderList, body: object) -> list[Mapping[str, Any]]:
    """The list in an answer.

    Raises:
        ConfigError: it is not where it is documented to be.
    """
    items = body.get(row.items) if isinstance(body, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ConfigError(f"{row.name}: the answer has no list of models under {row.items!r}; {_documented(row)}")
    return items


def at(value: object, path: str) -> Any:
    """What is at a dotted path, or None."""
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _documented(row: ProviderList) -> str:
    return f"expected the shape documented at {row.docs}" if row.docs else "expected the shape of its row"


def _fields(row: ProviderList, item: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, rules in row.fields.items():
        for rule in rules:
            value = _value(at(item, rule["path"]), rule)
            if value is not None:
                fields[key] = value
                break
    return fields


def _value(found: object, rule: Mapping[str, Any]) -> Any:
    """What a rule makes of what its path leads to; None where that says nothing."""
    if found is None:
        return None
    if "contains" in rule:
        return _told(rule["contains"] in found, rule) if isinstance(found, list) else None
    if "is" in rule:
        return _told(found in rule["is"], rule) if isinstance(found, str) else None
    value = _converted(found, rule["as"], float(rule.get("scale", 1)))
    return _told(value, rule) if isinstance(value, bool) else value


def _told(yes: bool, rule: Mapping[str, Any]) -> Any:
    return (rule["then"] if yes else None) if "then" in rule else yes


def _converted(found: object, kind: str, scale: float) -> Any:
    if kind == "present":
        return True
    if kind == "bool":
        return found if isinstance(found, bool) else None
    if kind == "text":
        return found if isinstance(found, str) and found else None
    if kind == "list":
        return [part for part in found if isinstance(part, str)] if isinstance(found, list) else None
    if kind == "supported":  # {"low": {"supported": true}, "supported": true, ...}
        if not isinstance(found, Mapping) or found.get("supported") is False:
            return [] if isinstance(found, Mapping) else None
        return [name for name, told in found.items() if isinstance(told, Mapping) and told.get("supported") is True]
    if kind == "date":
        return _date(found)
    number = _number(found)
    if kind == "unix":
        return datetime.fromtimestamp(number, UTC).date() if number else None
    if kind == "int":
        return int(number) if number else None
    return None if number is None else float(f"{number * scale:.12g}")


def _number(found: object) -> float | None:
    """A number that is not negative; providers write -1 for what they do not tell, and prices as text."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        number = float(found)
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number < 1e15 else None  # noqa: PLR2004 - no date or limit is larger


def _date(found: object) -> date | None:
    """A date from RFC 3339 or ISO 8601; 1970 stands for a date that is not known."""
    try:
        day = date.fromisoformat(found[:10]) if isinstance(found, str) else None
    except ValueError:
        return None
    return day if day is not None and day.year > 1970 else None  # noqa: PLR2004 - the epoch
