"""Where a row is asked: the base URL of its options or of the environment, and what of it may be hashed and shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from .options import BASE_NAMES


def base_of(options: Mapping[str, Any]) -> str | None:
    """The base URL that options name."""
    for name in BASE_NAMES:
        base = options.get(name)
        if base is not None:
            return str(base)
    return None


def endpoint_of(options: Mapping[str, Any]) -> str | None:
    """The base URL among some options, as it may be shown.

    Raises:
        ConfigError: it is none.
    """
    for name in BASE_NAMES:
        if options.get(name) is not None:
            return _told(f'"{name}"', options[name])
    return None


def endpoint_in_environment(provider: str) -> str | None:
    """The base URL that the environment names for a provider, likewise.

    Raises:
        ConfigError: it is none.
    """
    for end in ("BASE_URL", "API_BASE"):
        name = f"{provider.upper()}_{end}"
        if base := os.environ.get(name):
            return _told(f"the environment variable {name}", base)
    return None


def _told(name: str, base: Any) -> str:
    try:
        return bare_url(str(base))
    except ConfigError as error:
        raise ConfigError(f"{name} cannot be used: {error}") from None


def bare_url(url: str) -> str:
    """A base URL without credentials, query and trailing slash: what may be hashed and shown.

    Raises:
        ConfigError: it is none. The text does not show it, for it may hold credentials.
    """
    try:
        parts = urlsplit(url if "://" in url else "//" + url)
    except ValueError:
        raise ConfigError('this is no URL; give one such as "http://localhost:8000/v1"') from None
    host = parts.netloc.rpartition("@")[2]
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    return f"{scheme}{host}{parts.path}".rstrip("/")
