"""How a provider counts, as frozen values, and reading one from a table.

What may live here: the values, and what is wrong with one, by field and with the cure. Which provider has which is
:mod:`.profiles`' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import date
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import urlsplit

from ..errors import ConfigError

ResetFormat = Literal["duration", "seconds", "timestamp"]
ProfileWindow = Literal["bucket", "sliding", "unknown"]
Charges = Literal["max_tokens", "prompt+max_tokens", "output", "unknown"]
CachedInput = Literal["counts", "free"]
FailedTokens = Literal["count", "free"]

_DIMENSIONS: Final = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd")
_DAY: Final = 86_400.0
_LARGEST_OFFSET: Final = 14.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderNames:
    """Under which names a provider tells one dimension, in lower case.

    Attributes:
        dimension: ``rpm``, ``tpm``, ``itpm``, ``otpm``, ``rpd`` or ``tpd``.
        limit: the header with the quota.
        remaining: the header with what is left of it.
        reset: the header that says when it is whole again.
        reset_format: how that is written.
        period: seconds that the numbers speak of; a day for ``rpd`` and ``tpd``.
        rounding: how far a told number may be off.
    """

    dimension: str
    limit: str
    remaining: str
    reset: str
    reset_format: ResetFormat
    period: float = 60.0
    rounding: float = 1.0

    def __post_init__(self) -> None:
        _check_choice(self, "dimension", _DIMENSIONS)
        _check_choice(self, "reset_format", get_args(ResetFormat))
        if self.dimension.endswith("d"):
            object.__setattr__(self, "period", _DAY)
        for name in ("limit", "remaining", "reset"):
            header = getattr(self, name)
            if not isinstance(header, str) or not header or header != header.lower():
                such = header.lower() if isinstance(header, str) and header else "x-ratelimit-limit-requests"
                raise ConfigError(
                    f"HeaderNames({name}={header!r}) must be a header's name in lower case, such as {such!r}"
                )
        for name in ("period", "rounding"):
            _check_positive(f"HeaderNames of {self.dimension}", name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """When a provider's day turns, where all of a day's quota comes back at once.

    Attributes:
        zone: the time zone at whose midnight it does.
        utc_offset: hours, of that zone's winter, for machines that know no time zones: at most an hour late.
    """

    zone: str
    utc_offset: float

    def __post_init__(self) -> None:
        zone, offset = cast("object", self.zone), cast("object", self.utc_offset)  # from a file, or without a checker
        if not isinstance(zone, str) or not zone:
            raise ConfigError(f"Day(zone={zone!r}) must be the name of a time zone, such as 'UTC'")
        if not isinstance(offset, int | float) or not -_LARGEST_OFFSET <= offset <= _LARGEST_OFFSET:
            raise ConfigError(f"Day(utc_offset={offset!r}) must be hours from UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentQuota:
    """How a refusal says that a quota of a day or longer is spent. ``*`` stands for anything in codes and words.

    Attributes:
        quota: what status and errors call it.
        codes: the error's code or type, or the name of the quota in it.
        words: its message, where a provider says it in no other way.
    """

    quota: str
    codes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("codes", "words"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.codes and not self.words:
            raise ConfigError(f"SpentQuota({self.quota!r}) needs codes or words by which it is known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a provider counts.

    Attributes:
        name: what it is called.
        providers: LiteLLM's names of the providers whose calls it is for, all of them. Empty where it is for hosts.
        hosts: where the provider is at home, as ``llm.example.org`` (and all below it) or, for one port only, as
            ``127.0.0.1:8000``. At any other address nothing but the names of headers and quotas is taken from it,
            if it is one of those that are shipped.
        as_of: the day on which it was so.
        source: where that stands.
        window: ``bucket`` (refilled continuously), ``sliding`` (the trailing period, exactly) or ``unknown``: then that
            is found out.
        burst: seconds of a quota of requests that may safely start at once; 60 for all of a minute's.
        charges: what counts as tokens: ``max_tokens`` (the larger of the prompt and the request's bound), their sum as
            ``prompt+max_tokens``, what was really produced besides the prompt as ``output``, or ``unknown``.
        cached_input: whether input from the provider's prompt cache ``counts`` or is ``free``.
        failed_tokens: whether the tokens of a request that failed ``count`` or are ``free``. They count in any case
            where no answer came, and never where the provider refused it (429 and the like).
        output_multiplier: tokens of quota for a token of output.
        headers: under which names limits are told, one entry a dimension; where there is none, the names that calls to
            this provider have (OpenAI's, where it is not known).
        day: when the provider's day turns, if all of a day's quota comes back at once.
        spent: how a refusal says that a quota of a day or longer is spent; where there is nothing, as with ``headers``.

    Raises:
        ConfigError: a value is none of those allowed.
    """

    name: str
    providers: Sequence[str] = ()
    hosts: Sequence[str] = ()
    as_of: date | None = None
    source: str = ""
    window: ProfileWindow = "unknown"
    burst: float = 60.0
    charges: Charges = "unknown"
    cached_input: CachedInput = "counts"
    failed_tokens: FailedTokens = "count"
    output_multiplier: float = 1.0
    headers: Sequence[HeaderNames] = ()
    day: Day | None = None
    spent: Sequence[SpentQuota] = ()

    def __post_init__(self) -> None:
        called = cast("object", self.name)  # from a file, or without a checker
        if not isinstance(called, str) or not called:
            raise ConfigError(f"Profile: name = {called!r} must be text, such as 'our vLLM'")
        for field, kind in (("providers", str), ("hosts", str), ("headers", HeaderNames), ("spent", SpentQuota)):
            _check_several(self, field, kind)
        for host in self.hosts:
            bare = urlsplit(host if "://" in host else f"//{host}").netloc.rpartition("@")[2]
            if host != bare.lower() or not host:
                raise ConfigError(
                    f"Profile {self.name!r}: hosts has {host!r}; write the host alone, in lower case, such as "
                    f"{bare.lower() or 'llm.example.org'!r}"
                )
        _check_choice(self, "window", get_args(ProfileWindow))
        _check_choice(self, "charges", get_args(Charges))
        _check_choice(self, "cached_input", get_args(CachedInput))
        _check_choice(self, "failed_tokens", get_args(FailedTokens))
        for name in ("burst", "output_multiplier"):
            _check_positive(f"Profile {self.name!r}", name, getattr(self, name))


def profile_from(entry: Mapping[str, Any]) -> Profile:
    """A profile from a table of TOML.

    Raises:
        ConfigError: a key is unknown or missing, or a value is wrong.
    """
    known = dict(entry)
    where = f"profile {known.get('name', '?')!r}"
    if "header" in known:
        known["headers"] = known.pop("header")
    for several, kind in (("headers", HeaderNames), ("spent", SpentQuota)):
        tables = known.get(several, ())
        if not isinstance(tables, list | tuple):
            raise ConfigError(f"{where}: {several} = {tables!r} must be several tables, such as [[profile.header]]")
        known[several] = [_made(kind, table, f"{where}, {several}") for table in tables]
    if "day" in known:
        known["day"] = _made(Day, known["day"], f"{where}, day")
    profile: Profile = _made(Profile, known, where)
    return profile


def _made(kind: type[Any], values: Any, where: str) -> Any:
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a table, found {values!r}")
    names = {field.name for field in fields(kind)}
    for name in values:
        if name not in names:
            raise ConfigError(f"{where}: there is no {name!r}; known are {', '.join(sorted(names))}")
    for field in fields(kind):
        if field.default is MISSING and field.name not in values:
            raise ConfigError(f"{where}: {field.name!r} is missing")
    try:
        return kind(**values)
    except ConfigError as error:
        if kind is Profile:  # which says itself whose it is
            raise
        raise ConfigError(f"{where}: {error}") from None


def _check_choice(thing: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(thing, name)
    if value not in choices:
        raise ConfigError(f"{type(thing).__name__}: {name} = {value!r} must be one of {', '.join(choices)}")


def _check_positive(where: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{where}: {name} = {value!r} must be a positive number")


def _check_several(profile: Profile, name: str, kind: type[Any]) -> None:
    """Make a tuple of a list, and see what is in it."""
    values = getattr(profile, name)
    if isinstance(values, str) or not isinstance(values, list | tuple):
        such = '["..."]' if kind is str else f"[{kind.__name__}(...)]"
        raise ConfigError(f"Profile {profile.name!r}: {name} = {values!r} must be a list, such as {such}")
    wrong = next((value for value in values if not isinstance(value, kind)), None)
    if wrong is not None:
        wanted = "text" if kind is str else f"{kind.__name__}(...)"
        raise ConfigError(f"Profile {profile.name!r}: {name} has {wrong!r}; expected {wanted}")
    object.__setattr__(profile, name, tuple(values))
