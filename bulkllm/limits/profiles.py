"""Which provider counts how: facts from ``profiles.toml``.

What may live here: reading that file and the user's, and finding a provider's profile. No provider's name stands in
code. Whoever runs an endpoint of their own registers a profile for it, or writes it into a file of the same shape,
``profiles.toml`` in the configuration directory.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..config import config_dir, read_toml
from ..errors import ConfigError
from .profile import Day, HeaderNames, Profile, SpentQuota, profile_from

__all__ = [
    "Day",
    "HeaderNames",
    "Profile",
    "SpentQuota",
    "check_profiles",
    "profile_for",
    "profile_from",
    "profile_of",
    "register_profile",
    "shipped",
    "when_registered",
]

# A provider of which nothing is known keeps what is careful, and what it says in OpenAI's names is read.
_CAREFUL: Final = "openai"

FILE_NAME: Final = "profiles.toml"

_registered: dict[str, Profile] = {}
_to_be_told: Final[list[Callable[[], None]]] = []


def register_profile(profile: Profile | Mapping[str, Any]) -> Profile:
    """Have a profile of your own used before those of your ``profiles.toml`` and those that are shipped.

    It holds for every endpoint on one of its ``hosts``, and for all calls to its ``providers`` (LiteLLM's names). Calls
    that begin afterwards are counted by it; one of the same name takes the place of the earlier one.

    Args:
        profile: the profile, or a mapping in the shape of a table of ``profiles.toml``.

    Returns:
        The profile.

    Raises:
        ConfigError: a field is wrong, or it is for nobody.
    """
    made = profile if isinstance(profile, Profile) else _given(profile)
    if not made.hosts and not made.providers:
        raise ConfigError(
            f"Profile {made.name!r} is for nobody: name the host of your endpoint, such as "
            f"hosts=['llm.example.org'], or one of LiteLLM's providers, such as providers=['hosted_vllm']"
        )
    _registered.pop(made.name, None)
    _registered[made.name] = made  # the latest one is the last
    for tell in _to_be_told:
        tell()
    return made


def _given(profile: object) -> Profile:
    if not isinstance(profile, Mapping):
        raise ConfigError(f"register_profile takes a Profile(name=..., hosts=[...]), or a mapping, not {profile!r}")
    return profile_from(profile)


def when_registered(tell: Callable[[], None]) -> None:
    """Have something called after each registration: whoever keeps profiles must look again."""
    _to_be_told.append(tell)


def check_profiles() -> None:
    """Read the user's file of profiles now, so that a mistake in it is told before the first call.

    Raises:
        ConfigError: there is one.
    """
    _own()


def _own() -> list[Profile]:
    """The user's profiles, those that go first at the beginning."""
    path = config_dir() / FILE_NAME
    try:
        written = path.stat().st_mtime_ns
    except OSError:
        return [*reversed(_registered.values())]
    return [*reversed(_registered.values()), *_read(path, written)]


@lru_cache(maxsize=4)
def _read(path: Path, written: int) -> tuple[Profile, ...]:  # noqa: ARG001 - a file that has changed is another one
    """The profiles of a user's file.

    Raises:
        ConfigError: something in it is wrong; the text names file, line and field.
    """
    file = read_toml(path)
    for key in file.data:
        if key != "profile":
            raise file.error((key,), "not a key that is known; expected [[profile]] tables")
    tables = file.data.get("profile", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise file.error(("profile",), "expected tables under [[profile]], with two brackets")
    found = []
    for number, table in enumerate(tables):
        try:
            made = profile_from(table)
        except ConfigError as error:
            raise file.error(("profile", number), str(error)) from None
        if not made.hosts and not made.providers:
            raise file.error(("profile", number), "it is for nobody; expected hosts, or LiteLLM's providers")
        found.append(made)
    return tuple(found)


def profile_of(provider: str) -> Profile:
    """The profile of a provider, by LiteLLM's name of it; a careful one for a provider that is not known."""
    return _own_of(provider, _own()) or shipped().get(provider) or _unknown()


def profile_for(provider: str, endpoint: str = "") -> Profile:
    """The profile of a provider at an endpoint.

    A profile of your own that names the endpoint's host among its ``hosts`` goes first. What stands behind any other
    address than the provider's own only speaks its language: its names of headers and of quotas are read, and nothing
    else is assumed.
    """
    own = _own()
    profile = shipped().get(provider) or _unknown()
    host = urlsplit(endpoint).hostname or ""
    if not host:
        return _own_of(provider, own) or profile
    place = urlsplit(endpoint).netloc.rpartition("@")[2].lower()
    for chosen in own:
        if any(known == place or _is_of(host, known) for known in chosen.hosts):
            return _in_words_of(provider, chosen)
    if (named := _own_of(provider, own)) is not None:
        return named
    if any(_is_of(host, known) for known in profile.hosts):
        return profile
    unknown = _unknown()
    return replace(
        unknown, headers=profile.headers or unknown.headers, day=profile.day, spent=profile.spent or unknown.spent
    )


def _in_words_of(provider: str, profile: Profile) -> Profile:
    """A profile of one's own; what it leaves open of headers and refusals is as the provider has it."""
    spoken = shipped().get(provider) or _unknown()
    return replace(profile, headers=profile.headers or spoken.headers, spent=profile.spent or spoken.spent)


def _own_of(provider: str, own: Iterable[Profile]) -> Profile | None:
    return next((_in_words_of(provider, profile) for profile in own if provider in profile.providers), None)


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
