"""Whose limits a request falls under: the provider, the endpoint and the account, and how that provider counts.

An account is told by a fingerprint of its key; the key itself is neither kept in an origin nor written anywhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from .profiles import Profile, profile_for, when_registered

_FINGERPRINT: Final = 12

# With more accounts than this all are looked up anew: those that nobody uses any more are forgotten.
_MOST: Final = 4096


class Origin:
    """Whose limits a request falls under. Two of them are the same if they are the same object.

    Attributes:
        provider: LiteLLM's name of it.
        endpoint: the base URL that was configured, without credentials and query; empty for the provider's own.
        scope: the fingerprint of provider, endpoint and account.
        profile: how the provider counts.
    """

    __slots__ = ("__weakref__", "endpoint", "profile", "provider", "scope")

    def __init__(self, provider: str, endpoint: str, scope: str, profile: Profile) -> None:
        self.provider = provider
        self.endpoint = endpoint
        self.scope = scope
        self.profile = profile

    def __repr__(self) -> str:
        return f"Origin({self.provider!r}, endpoint={self.endpoint!r}, scope={self.scope!r})"


class Origins:
    """Finds the origin of a call. Cheap after the first time."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, object, object, object], Origin] = {}
        self._by_scope: WeakValueDictionary[str, Origin] = WeakValueDictionary()

    def of(self, provider: str, options: Mapping[str, Any]) -> Origin:
        """The origin of a call with LiteLLM's keywords."""
        base = options.get("api_base") or options.get("base_url")
        key = options.get("api_key")
        organization = options.get("organization")
        look_up = (provider, base, key, organization)
        try:
            found = self._found.get(look_up)
        except TypeError:  # something that cannot be hashed: LiteLLM will say what it thinks of it
            return self._make(provider, str(base or ""), str(key or ""), str(organization or ""))
        if found is None:
            if len(self._found) > _MOST:
                self._found.clear()
            found = self._make(
                provider,
                str(base or base_in_environment(provider)),
                str(key or _key_of(provider)),
                str(organization or ""),
            )
            self._found[look_up] = found
        return found

    def look_again(self) -> None:
        """Forget the origins whose provider counts otherwise than was thought: calls from now on have new ones."""
        for reference in self._by_scope.valuerefs():  # a list, which other threads do not change
            origin = reference()
            if origin is not None and profile_for(origin.provider, origin.endpoint) != origin.profile:
                self._by_scope.pop(origin.scope, None)
        self._found.clear()

    def _make(self, provider: str, base: str, key: str, organization: str) -> Origin:
        text = f"{provider}\0{base}\0{key}\0{organization}"
        scope = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_FINGERPRINT]
        origin = self._by_scope.get(scope)
        if origin is None:
            endpoint = _without_credentials(base)
            origin = self._by_scope[scope] = Origin(provider, endpoint, scope, profile_for(provider, endpoint))
        return origin


def _key_of(provider: str) -> str:
    """The key in the environment that LiteLLM takes for a provider, by the usual name."""
    return os.environ.get(f"{provider.upper()}_API_KEY", "")


def base_in_environment(provider: str) -> str:
    """The base URL in the environment that LiteLLM takes for a provider, by the usual names."""
    name = provider.upper()
    return os.environ.get(f"{name}_BASE_URL") or os.environ.get(f"{name}_API_BASE", "")


def _without_credentials(base: str) -> str:
    """A base URL as it may be shown."""
    plain = base.partition("?")[0].partition("#")[0]
    scheme, separator, rest = plain.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else plain


origins: Final = Origins()
"""The origins of this process: an account is the same for all clients."""
when_registered(origins.look_again)
