"""Limits that were learned from what providers answered, and the file that keeps them for the next run.

What may live here: the values, and reading and writing their file (``learned-limits.json`` in the state directory).
What is learned, and when it is believed, is the limiter's business. An account is a fingerprint here: no key, and no
part of an address that may hold one, is ever written.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from .._atomic import write_whole
from ..config import state_dir
from ..errors import ConfigError
from .spec import Window

_logger = logging.getLogger(__name__)

FILE_NAME: Final = "learned-limits.json"
VERSION: Final = 1

_DIMENSIONS: Final = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd")
_SCOPE: Final = re.compile(r"[0-9a-f]{12}")


class LearnedQuota(NamedTuple):
    """At most ``amount`` in ``period`` seconds."""

    amount: float
    period: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLimits:
    """What one account may do with one model at one endpoint, as far as answers told.

    Attributes:
        scope: the account's fingerprint, twelve hexadecimal digits. Never a key.
        endpoint: the base URL; credentials, query and fragment are taken off.
        provider: LiteLLM's name of the provider.
        model: LiteLLM's name of the model.
        quotas: by ``rpm``, ``tpm``, ``itpm``, ``otpm``, ``rpd`` or ``tpd``; those that were told.
        window: how the provider counts, once that was learned.
        rate: requests a second that went well where nothing was told.
        learned_at: when; aware, in UTC.
        expires_at: from when on it is not to be believed any more.

    Raises:
        ConfigError: a value is none of those allowed.
    """

    scope: str
    endpoint: str
    provider: str
    model: str
    quotas: Mapping[str, LearnedQuota]
    window: Window | None = None
    rate: float | None = None
    learned_at: datetime
    expires_at: datetime

    def __post_init__(self) -> None:
        for name in ("scope", "endpoint", "provider", "model"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"LearnedLimits({name}=...) must be text")
        if not _SCOPE.fullmatch(self.scope):
            raise ConfigError("LearnedLimits(scope=...) must be twelve hexadecimal digits: a fingerprint, never a key")
        object.__setattr__(self, "endpoint", _bare(self.endpoint))
        for name, quota in self.quotas.items():
            if name not in _DIMENSIONS:
                raise ConfigError(f"LearnedLimits(quotas=...): {name!r} is none of {', '.join(_DIMENSIONS)}")
            if not (_positive(quota.amount) and _positive(quota.period)):
                raise ConfigError(f"LearnedLimits(quotas=...): {name} must be positive numbers")
        if self.window not in (None, "bucket", "sliding"):
            raise ConfigError("LearnedLimits(window=...) must be 'bucket', 'sliding' or None")
        if self.rate is not None and not _positive(self.rate):
            raise ConfigError("LearnedLimits(rate=...) must be a positive number or None")
        for name in ("learned_at", "expires_at"):
            moment = getattr(self, name)
            if not isinstance(moment, datetime) or moment.tzinfo is None:
                raise ConfigError(f"LearnedLimits({name}=...) must be a time with its time zone")
            object.__setattr__(self, name, moment.astimezone(UTC))

    def holds_at(self, now: datetime) -> bool:
        """Whether it may still be believed."""
        return now < self.expires_at

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scope": self.scope,
            "endpoint": self.endpoint,
            "provider": self.provider,
            "model": self.model,
            "quotas": {name: {"amount": q.amount, "period": q.period} for name, q in self.quotas.items()},
            "window": self.window,
            "rate": self.rate,
            "learned_at": _written(self.learned_at),
            "expires_at": _written(self.expires_at),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> LearnedLimits:
        """What :meth:`to_dict` gave. Keys that a later version may add are passed over.

        Raises:
            ConfigError: it is not such an entry.
        """
        try:
            quotas = {name: LearnedQuota(told["amount"], told["period"]) for name, told in entry["quotas"].items()}
            return cls(
                scope=entry["scope"],
                endpoint=entry["endpoint"],
                provider=entry["provider"],
                model=entry["model"],
                quotas=quotas,
                window=entry.get("window"),
                rate=entry.get("rate"),
                learned_at=datetime.fromisoformat(entry["learned_at"]),
                expires_at=datetime.fromisoformat(entry["expires_at"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"not an entry of learned limits ({type(error).__name__})") from None


def learned_path(path: str | Path | None = None) -> Path:
    """The file: the argument, or its usual place in the state directory."""
    return Path(path).expanduser() if path is not None else state_dir() / FILE_NAME


def load(path: Path) -> list[LearnedLimits]:
    """What the file keeps, expired entries too; nothing if there is no file.

    Learning again is cheap, so a damaged file stops nobody: it is set aside under a name of its own, with a warning.
    So is one of another version. A damaged entry is left out, with a warning, and the others count.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        _logger.warning("%s: cannot be read (%s): limits are learned anew", path, error.strerror)
        return []
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):  # not JSON, not UTF-8
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("entries"), list):
        _set_aside(path, "is damaged")
        return []
    if content.get("version") != VERSION:
        _set_aside(path, "is of another version")
        return []
    found = []
    for number, entry in enumerate(content["entries"]):
        try:
            found.append(LearnedLimits.from_dict(entry))
        except ConfigError as error:
            _logger.warning("%s: entry %d is left out: %s", path, number, error)
    return found


def save(path: Path, entries: Iterable[LearnedLimits]) -> None:
    """Put these entries in the file's place, whole or not at all.

    Raises:
        ConfigError: it cannot be written; the old file is as it was.
    """
    content = {"version": VERSION, "entries": [entry.to_dict() for entry in entries]}
    write_whole(path, json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def _set_aside(path: Path, why: str) -> None:
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
    except OSError as error:  # somebody else was quicker, or the directory cannot be written
        _logger.warning("%s %s and cannot be set aside (%s): limits are learned anew", path, why, error.strerror)
    else:
        _logger.warning("%s %s: set aside as %s, limits are learned anew", path, why, aside.name)


def _bare(endpoint: str) -> str:
    """A URL without user, password, query and fragment: those may hold a key."""
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        raise ConfigError("LearnedLimits(endpoint=...) must be a base URL such as https://example.org/v1") from None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _positive(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < math.inf


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
