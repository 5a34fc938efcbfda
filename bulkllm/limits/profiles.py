"""How providers count: facts from ``profiles.toml``, as frozen values.

What may live here: reading and checking that file, and finding a provider's profile. No provider's name stands in
code. Whoever runs an endpoint of their own registers a profile for it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from datetime import date
from functools import cache
from importlib.resources import files
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
            if not isinstance(header, str) or header != header.lower():
                raise ConfigError(f"HeaderNames({name}={header!r}) must be a header's name in lower case")


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
    """How a provider counts. The fields are explained at the top of ``profiles.toml``.

    Raises:
        ConfigError: a value is none of those allowed.
    """

    name: str
    providers: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    as_of: date | None = None
    source: str = ""
    window: ProfileWindow = "unknown"
    burst: float = 60.0
    charges: Charges = "max_tokens"
    cached_input: CachedInput = "counts"
    failed_tokens: FailedTokens = "count"
    output_multiplier: float = 1.0
    headers: tuple[HeaderNames, ...] = ()
    day: Day | None = None
    spent: tuple[SpentQuota, ...] = ()

    def __post_init__(self) -> None:
        _check_choice(self, "window", get_args(ProfileWindow))
        _check_choice(self, "charges", get_args(Charges))
        _check_choice(self, "cached_input", get_args(CachedInput))
        _check_choice(self, "failed_tokens", get_args(FailedTokens))
        for name in ("burst", "output_multiplier"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"Profile {self.name!r}: {name} = {value!r} must be a positive number")


# A provider of which nothing is known keeps what is careful, and what it says in OpenAI's names is read.
_CAREFUL: Final = "openai"

_registered: dict[str, Profile] = {}


def register_profile(profile: Profile) -> None:
    """Have a profile of your own used before those that are shipped.

    It holds for its ``providers`` (LiteLLM's names), and for every endpoint on one of its ``hosts``.
    """
    for provider in profile.providers or (profile.name,):
        _registered[provider] = profile


def profile_of(provider: str) -> Profile:
    """The profile of a provider, by LiteLLM's name of it; a careful one for a provider that is not known."""
    return _registered.get(provider) or shipped().get(provider) or _unknown()


def profile_for(provider: str, endpoint: str = "") -> Profile:
    """The profile of a provider at an endpoint.

    A profile of your own that names the endpoint's host among its ``hosts`` goes first. What stands behind any other
    address than the provider's own only speaks its language: its names of headers and of quotas are read, and nothing
    else is assumed.
    """
    host = urlsplit(endpoint).hostname or ""
    if not host:
        return profile_of(provider)
    for profile in _registered.values():
        if any(_is_of(host, known) for known in profile.hosts):
            return profile
    profile = profile_of(provider)
    if provider in _registered or any(_is_of(host, known) for known in profile.hosts):
        return profile
    unknown = _unknown()
    return replace(
        unknown, headers=profile.headers or unknown.headers, day=profile.day, spent=profile.spent or unknown.spent
    )


def _is_of(host: str, known: str) -> bool:
    return host == known or host.endswith(f".{known}")


@cache
def shipped() -> Mapping[str, Profile]:
    """The profiles that come with the package, by LiteLLM's names of the providers."""
    text = files(__package__).joinpath("profiles.toml").read_text(encoding="utf-8")
    profiles = [profile_from(entry) for entry in tomllib.loads(text)["profile"]]
    return {provider: profile for profile in profiles for provider in profile.providers}


@cache
def _unknown() -> Profile:
    known = shipped()[_CAREFUL]
    return Profile(
        name="unknown", window="unknown", burst=60.0, charges="unknown", headers=known.headers, spent=known.spent
    )


def profile_from(entry: Mapping[str, Any]) -> Profile:
    """A profile from a table of TOML.

    Raises:
        ConfigError: a key is unknown or missing, or a value is wrong.
    """
    known = dict(entry)
    where = f"profile {known.get('name', '?')!r}"
    headers = tuple(_made(HeaderNames, table, f"{where}, header") for table in known.pop("header", ()))
    spent = tuple(_made(SpentQuota, table, f"{where}, spent") for table in known.pop("spent", ()))
    if "day" in known:
        known["day"] = _made(Day, known["day"], f"{where}, day")
    for several in ("providers", "hosts"):
        known[several] = tuple(known.get(several, ()))
    profile: Profile = _made(Profile, {**known, "headers": headers, "spent": spent}, where)
    return profile


def _made(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    names = {field.name for field in fields(kind)}
    for name in values:
        if name not in names:
            raise ConfigError(f"{where}: there is no {name!r}; known are {', '.join(sorted(names))}")
    for field in fields(kind):
        if field.default is MISSING and field.name not in values:
            raise ConfigError(f"{where}: {field.name!r} is missing")
    return kind(**values)


def _check_choice(thing: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(thing, name)
    if value not in choices:
        raise ConfigError(f"{type(thing).__name__}: {name} = {value!r} must be one of {', '.join(choices)}")
