"""The file of limits (``limits.toml``): what a user writes down, and what was read from a provider.

What may live here: what a table of that file means, reading it with errors that name file, line and key, and putting
fetched tables into it without touching what a user wrote.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from .._atomic import write_whole
from ..config import TomlFile, config_dir, read_toml, shown
from ..errors import ConfigError
from .profiles import profile_of
from .spec import RateLimit

FILE_NAME: Final = "limits.toml"

_QUOTAS: Final = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "max_in_flight", "burst", "period")
_TEXTS: Final = ("name", "window", "source", "fetched")
_KEYS: Final = ("models", *_QUOTAS, *_TEXTS, "as_of")

_HEAD: Final = """\
# Limits, for bulkllm.load_limits() and `bulkllm run --limits`. Write tables of your own as you like: only those with
# `fetched` are replaced by the next `bulkllm limits fetch`. A model may match several tables: all of them hold.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredLimit:
    """One table of the file.

    Attributes:
        limit: the limit.
        source: where it comes from; empty where a user wrote it without saying.
        as_of: the day on which it was so.
        fetched: the provider whose next fetch replaces it; empty for a user's own.
    """

    limit: RateLimit
    source: str = ""
    as_of: date | None = None
    fetched: str = ""


def window_of(provider: str) -> dict[str, Any]:
    """How a provider counts, as a keyword of :class:`RateLimit`; none where nobody knows."""
    window = profile_of(provider).window
    return {} if window == "unknown" else {"window": window}


def limits_path(path: str | Path | None = None) -> Path:
    """The file: the argument, or its usual place in the configuration directory."""
    return Path(path).expanduser() if path is not None else config_dir() / FILE_NAME


def load_limits(path: str | Path | None = None) -> list[RateLimit]:
    """The limits that a TOML file says, for a :class:`~bulkllm.Client` or a :class:`~bulkllm.RateLimiter`.

    Args:
        path: the file; by default ``limits.toml`` in the configuration directory, as made by ``bulkllm limits fetch``.

    Raises:
        ConfigError: there is no such file, or something in it is wrong; the text names file, line and key.
    """
    return [configured.limit for configured in read_limits(path)]


def read_limits(path: str | Path | None = None) -> list[ConfiguredLimit]:
    """The same with where each limit comes from.

    Raises:
        ConfigError: there is no such file, or something in it is wrong; the text names file, line and key.
    """
    place = limits_path(path)
    try:
        file = read_toml(place)
    except FileNotFoundError:
        raise ConfigError(
            f"{place}: there is no such file; `bulkllm limits fetch` makes one, or write one with [[limit]] tables"
        ) from None
    found = _tables(file)
    if not found:
        raise ConfigError(f"{place}: it holds no limit; expected [[limit]] tables with models and rpm, tpm and so on")
    return found


def _tables(file: TomlFile) -> list[ConfiguredLimit]:
    for key in file.data:
        if key != "limit":
            raise file.error((key,), "not a key that is known; expected [[limit]] tables")
    tables = file.data.get("limit", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise file.error(("limit",), "expected tables under [[limit]], with two brackets")
    return [_table(file, number, table) for number, table in enumerate(tables)]


def _table(file: TomlFile, number: int, table: Mapping[str, Any]) -> ConfiguredLimit:
    here = ("limit", number)
    for key, value in table.items():
        expected = _expected(key, value)
        if expected:
            raise file.error((*here, key), f"expected {expected}, found {shown(key, value)}")
    if "models" not in table:
        raise file.error(here, 'models is missing; expected such as models = "openai/gpt-5*" (or "*" for all)')
    given = {key: value for key, value in table.items() if key not in ("models", "source", "as_of", "fetched")}
    try:
        limit = RateLimit(table["models"], **given)
    except ConfigError as error:
        raise file.error(here, str(error)) from None
    return ConfiguredLimit(
        limit=limit,
        source=table.get("source", ""),
        as_of=table.get("as_of"),
        fetched=table.get("fetched", ""),
    )


def _expected(key: str, value: object) -> str | None:
    """What should stand there, or None where it does."""
    if key in _QUOTAS:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        return None if number else "a positive number"
    if key in _TEXTS:
        return None if isinstance(value, str) else "text"
    if key == "as_of":
        return None if type(value) is date else "a date such as 2026-11-23, without quotes"
    if key == "models":
        several = value if isinstance(value, list) else [value]
        fits = bool(several) and all(isinstance(one, str) and one for one in several)
        return None if fits else 'a name or glob such as "openai/gpt-5*", or a list of them'
    return f"one of the keys {', '.join(_KEYS)}"


def save_fetched(path: Path, fetched: Iterable[ConfiguredLimit], providers: Iterable[str]) -> None:
    """Put what was fetched from these providers in the place of what was fetched from them before.

    All else in the file stays as it is, to the letter.

    Raises:
        ConfigError: the file that is there is wrong or cannot be written to; it is as it was.
    """
    replaced = frozenset(providers)
    try:
        before = read_toml(path)
    except FileNotFoundError:
        kept, own = _HEAD, []
    else:
        own = [one for one in _tables(before) if one.fetched not in replaced]
        kept = _without(path, path.read_text(encoding="utf-8"), replaced)
    new = list(fetched)
    text = "\n".join([kept.rstrip("\n") + "\n", *(as_toml(one) for one in new)])
    if _tables(TomlFile(path, text, _parsed(path, text))) != [*own, *new]:
        raise _cannot_tell(path)
    write_whole(path.resolve(), text)  # where it is a link, what it points to is written


_TABLE: Final = re.compile(r"^[ \t]*\[\[[ \t]*limit[ \t]*\]\]", re.MULTILINE)


def _without(path: Path, text: str, providers: frozenset[str]) -> str:
    """The text without the tables that were fetched from these providers, and with all else as it is."""
    cuts = [*(match.start() for match in _TABLE.finditer(text)), len(text)]
    head, pieces = text[: cuts[0]], [text[begin:end] for begin, end in pairwise(cuts)]
    kept = [_rest(piece) if _parsed(path, piece)["limit"][0].get("fetched") in providers else piece for piece in pieces]
    return head + "".join(kept)


def _rest(piece: str) -> str:
    """What stays when a table goes: comments at its end, which speak of the table after it."""
    lines = piece.splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#"))
    comment = next((number for number in range(last + 1, len(lines)) if lines[number].strip()), len(lines))
    return "".join(lines[comment:])


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise _cannot_tell(path) from None


def _cannot_tell(path: Path) -> ConfigError:
    return ConfigError(
        f"{path}: what was fetched and what you wrote cannot be told apart in it; give each limit a [[limit]] line"
        " of its own, or fetch into another file with --output"
    )


def as_toml(configured: ConfiguredLimit) -> str:
    """One table, as text.

    Raises:
        ConfigError: a pattern is a compiled regular expression, which the file cannot hold.
    """
    limit = configured.limit
    models = [pattern for pattern in limit.models if isinstance(pattern, str)]
    if len(models) != len(limit.models):
        raise ConfigError(f"the limit {limit.name!r} has a compiled pattern, which a file cannot hold; use a glob")
    usual = RateLimit(rpm=1)
    values: dict[str, object] = {
        "name": limit.name,
        "models": models if len(models) > 1 else models[0],
        **{key: getattr(limit, key) for key in _QUOTAS if key != "period"},
        "period": limit.period if limit.period != usual.period else None,
        "window": limit.window if limit.window != usual.window else None,
        "source": configured.source or None,
        "as_of": configured.as_of,
        "fetched": configured.fetched or None,
    }
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["[[limit]]", *lines, ""])


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's texts are JSON's but for this
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
