"""Where an admin key reads an account's limits, and what the answers mean: rows of ``admin.toml``, as frozen values.

What may live here: reading and checking that file, and turning an answer into limits. How it is asked for is in
:mod:`bulkllm.limits.fetch`. No provider's name stands in code.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Final

from ..errors import ConfigError
from .configured import ConfiguredLimit, window_of
from .spec import RateLimit

_DIMENSIONS: Final = frozenset({"rpm", "tpm", "itpm", "otpm", "rpd", "tpd"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One address that answers with a list; the fields are explained at the top of ``admin.toml``."""

    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    paging: Mapping[str, str] = field(default_factory=dict)
    items: str = ""
    id: str = ""
    label: str = ""
    word: str = ""
    variables: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRow:
    """One provider whose limits can be read; the fields are explained at the top of ``admin.toml``."""

    name: str
    docs: str
    as_of: date
    keys: tuple[str, ...]
    key_hint: str
    auth: str
    prefix: str
    items: str
    models: str
    dimensions: Mapping[str, str]
    quotas: Mapping[str, str] = field(default_factory=dict)
    snapshots: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    account: Listing | None = None
    part: Listing | None = None
    parts: Listing | None = None

    @property
    def key_optional(self) -> bool:
        """Nobody tells limits without a key."""
        return False


@cache
def admin_rows() -> Mapping[str, AdminRow]:
    """The rows that come with the package, by LiteLLM's names of the providers."""
    text = files(__package__).joinpath("admin.toml").read_text(encoding="utf-8")
    return {name: row_from(name, table) for name, table in tomllib.loads(text)["provider"].items()}


def row_from(name: str, table: Mapping[str, Any]) -> AdminRow:
    """A row from a table of TOML.

    Raises:
        ConfigError: a key is unknown or missing, or what it says makes no sense.
    """
    known = dict(table)
    for key in ("account", "part", "parts"):
        if key in known:
            listing = {**known[key], "variables": tuple(known[key].get("variables", ()))}
            known[key] = _made(Listing, listing, f"{name}.{key}")
    row: AdminRow = _made(AdminRow, {**known, "name": name, "keys": tuple(table.get("keys", ()))}, name)
    if row.account is None and (row.part is None or not row.part.required):
        raise ConfigError(f"{name}: neither account nor a required part: there is nothing to ask")
    if row.part is not None and "{part}" not in row.part.url:
        raise ConfigError(f"{name}.part: the url lacks {{part}}")
    if not set(row.dimensions.values()) <= _DIMENSIONS:
        raise ConfigError(f"{name}: dimensions may be {', '.join(sorted(_DIMENSIONS))}")
    return row


def _made(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    names = {one.name for one in fields(kind)}
    for name in values:
        if name not in names:
            raise ConfigError(f"{where}: there is no {name!r}; known are {', '.join(sorted(names))}")
    for one in fields(kind):
        if one.default is MISSING and one.default_factory is MISSING and one.name not in values:
            raise ConfigError(f"{where}: {one.name!r} is missing")
    return kind(**values)


def entries_of(where: str, items: str, body: object) -> list[Mapping[str, Any]]:
    """The entries of one page.

    Raises:
        ConfigError: the answer has another shape.
    """
    found = body.get(items) if isinstance(body, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ConfigError(f"{where}: the answer has no list of entries under {items!r}")
    return found


def limits_of(
    row: AdminRow, pages: Iterable[object], *, source: str, as_of: date, part: str = ""
) -> tuple[list[ConfiguredLimit], list[str]]:
    """The limits that the pages of an answer tell, and what else they told that is no limit of ours.

    Args:
        row: whose answer it is.
        pages: the pages, in order.
        source: the address that was asked.
        as_of: the day.
        part: the project or workspace that they are the limits of.

    Raises:
        ConfigError: the answer has another shape.
    """
    entries = [entry for page in pages for entry in entries_of(row.name, row.items, page)]
    groups = [(_names(row, entry), _quotas(row, entry)) for entry in entries]
    every = {name for names, _ in groups for name in names}
    told = window_of(row.name)
    limits: list[ConfiguredLimit] = []
    ignored: dict[str, None] = {}
    for names, quotas in groups:
        ours: dict[str, Any] = {
            row.dimensions[name]: value for name, value in quotas.items() if name in row.dimensions and value > 0
        }
        ignored |= dict.fromkeys(name for name in quotas if name not in row.dimensions)
        if not names or not ours:
            continue
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        label = f"{row.name}{f' {part}' if part else ''}: {names[0]}{more}"
        limit = RateLimit(_patterns(row, names, every), **ours, **told, name=label)
        limits.append(ConfiguredLimit(limit=limit, source=source, as_of=as_of, fetched=row.name))
    return limits, list(ignored)


def _names(row: AdminRow, entry: Mapping[str, Any]) -> list[str]:
    told = entry.get(row.models)
    if told is None:  # a limit of something other than models
        return []
    names = told if isinstance(told, list) else [told]
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{row.name}: an entry's {row.models!r} is no name of a model, nor a list of them")
    return names


def _quotas(row: AdminRow, entry: Mapping[str, Any]) -> dict[str, float]:
    """An entry's limits by the provider's names; what it leaves open is not in there."""
    pairs: list[tuple[object, object]]
    if row.quotas:
        where = f"{row.name}, {row.quotas['list']}"
        listed = entries_of(where, row.quotas["list"], entry)
        pairs = [(one.get(row.quotas["name"]), one.get(row.quotas["value"])) for one in listed]
    else:
        pairs = [(name, entry.get(name)) for name in row.dimensions]
        if all(value is None for _, value in pairs):
            raise ConfigError(f"{row.name}: an entry has none of {', '.join(row.dimensions)}")
    found: dict[str, float] = {}
    for name, value in pairs:
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ConfigError(f"{row.name}: a limit of an entry is not a name and a number")
        if value is not None:
            found[name] = value
    return found


def _patterns(row: AdminRow, names: list[str], every: set[str]) -> list[str]:
    patterns = [row.prefix + name for name in names]
    if row.snapshots:
        dated = row.snapshots.partition("[")[0]
        patterns += [
            f"{row.prefix}{name}{row.snapshots}"
            for name in names
            if not any(other.startswith(name + dated) for other in every)
        ]
    return patterns
