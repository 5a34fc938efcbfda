"""Which API keys are good. What may live here: the check, and nothing that would show a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b


class Keys:
    """Which keys are good. Keys are kept as hashes, so that no dump of memory shows one.

    Args:
        good: all others are refused; None lets any key in, and none at all.
    """

    def __init__(self, good: Iterable[str] | None) -> None:
        self._good = None if good is None else {_hashed(key) for key in good}
        self._revoked: set[bytes] = set()

    def revoke(self, key: str) -> None:
        """Refuse this key from now on."""
        self._revoked.add(_hashed(key))

    def accept(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers may come in."""
        if self._good is None and not self._revoked:
            return True
        key = headers.get("x-api-key") or headers.get("api-key")
        if key is None:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            key = token.strip() if scheme.lower() == "bearer" else ""
        hashed = _hashed(key)
        return hashed not in self._revoked and (self._good is None or hashed in self._good)


def _hashed(key: str) -> bytes:
    return blake2b(key.encode(errors="surrogateescape"), digest_size=16).digest()
