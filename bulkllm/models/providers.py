"""The table of providers whose lists of models can be fetched.

What may live here: a row of ``data/providers.toml`` as a value, and the check that it is whole. What a row means for an
answer is in :mod:`bulkllm.models.lists`, how it is fetched in :mod:`bulkllm.models.refresh`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from ..config import is_secret
from ..errors import ConfigError

if TYPE_CHECKING:
    from .layers import Layer

_CONVERSIONS = ("int", "bool", "text", "list", "unix", "date", "price", "present", "supported")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Paging:
    """How the next page of an answer is asked for."""

    param: str
    next: str
    more: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderList:
    """Where one provider lists its models, and what its answer means; the fields are explained in the data file."""

    name: str
    url: str
    items: str
    id: str
    prefix: str
    auth: str | None = None
    keys: tuple[str, ...] = ()
    key_optional: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    strip: str = ""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    paging: Paging | None = None
    fields: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    docs: str | None = None


def provider_lists(layers: Sequence[Layer]) -> tuple[dict[str, ProviderList], list[ConfigError]]:
    """The rows of all layers by name, the later layer's winning, and what is wrong with those that are left out."""
    rows: dict[str, ProviderList] = {}
    problems: list[ConfigError] = []
    for layer in layers:
        for name, table in layer.providers.items():
            try:
                rows[name] = _row(name, table.values)
            except ConfigError as error:
                key, _, what = str(error).partition(": ")
                problems.append(table.error_at(*((key, what) if what and "." not in key else ("", str(error)))))
    return rows, problems


def _is_text(told: object) -> bool:
    return isinstance(told, str)


def _is_address(told: object) -> bool:
    return isinstance(told, str) and re.match(r"https?://[^/@]+(/|$)", told) is not None


def _is_auth(told: object) -> bool:
    return isinstance(told, str) and re.fullmatch(r"[\w-]+: .*\{key\}.*", told) is not None


def _are_texts(told: object) -> bool:
    return isinstance(told, dict) and all(isinstance(value, str) for value in told.values())


def _is_paging(told: object) -> bool:
    return isinstance(told, dict) and _are_texts(told) and told.keys() - {"more"} == {"param", "next"}


_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "url": (_is_address, "an address such as https://example.org/v1/models, without a password"),
    "items": (_is_text, "text"),
    "id": (_is_text, "text"),
    "prefix": (_is_text, "text"),
    "strip": (_is_text, "text"),
    "docs": (_is_text, "text"),
    "as_of": (lambda told: isinstance(told, date), "a date such as 2026-11-23, without quotes"),
    "auth": (_is_auth, 'a header such as "Authorization: Bearer {key}"'),
    "keys": (lambda told: isinstance(told, list) and all(map(_is_text, told)), "a list of texts"),
    "key_optional": (lambda told: isinstance(told, bool), "true or false"),
    "headers": (_are_texts, "a table of texts"),
    "params": (_are_texts, "a table of texts"),
    "prefixes": (_are_texts, "a table of texts"),
    "paging": (_is_paging, 'a table such as { param = "page_token", next = "next_page_token" }'),
    "fields": (lambda told: isinstance(told, dict), "a table"),
}
"""Every key of a row, what it may be, and how that is said."""


def _row(name: str, table: Mapping[str, Any]) -> ProviderList:
    if not _NAME.fullmatch(name):
        raise ConfigError("expected a name of letters, digits, _ and -, for a file is named after it")
    for key in ("url", "items", "id", "prefix", *table):
        fits, expected = _KINDS.get(key, (None, ""))
        if fits is None:
            raise ConfigError(f"{key}: not a key that is known; expected one of {', '.join(_KINDS)}")
        if not fits(table.get(key)):
            raise ConfigError(f"{key}: expected {expected}")
    for key in ("headers", "params"):
        for told in table.get(key, {}):
            if is_secret(told):
                raise ConfigError(f"{key}: {told} looks like a key; a key goes through keys and auth")
    given = {key: value for key, value in table.items() if key not in ("keys", "paging", "fields", "as_of")}
    return ProviderList(
        name=name,
        keys=tuple(table.get("keys", ())),
        paging=Paging(**table["paging"]) if "paging" in table else None,
        fields={key: _rules(key, told) for key, told in table.get("fields", {}).items()},
        **given,
    )


def _rules(key: str, told: object) -> list[Mapping[str, Any]]:
    rules: list[Any] = told if isinstance(told, list) else [told]
    for rule in rules:
        if not isinstance(rule, dict) or not isinstance(rule.get("path"), str):
            raise ConfigError(f'fields.{key}: expected {{ path = "...", as = "..." }}, found {rule!r}')
        kinds = {"as", "contains", "is"} & rule.keys()
        known = rule.get("as", "int") in _CONVERSIONS and isinstance(rule.get("is", []), list)
        if len(kinds) != 1 or not known or not isinstance(rule.get("scale", 1.0), int | float):
            raise ConfigError(f"fields.{key}: expected one of contains, is, or as = {', '.join(_CONVERSIONS)}")
    return rules
