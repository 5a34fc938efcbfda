"""Stores through which several processes, or machines, share limits.

What may live here: the interface (:mod:`.base`), what a store does in one step (:mod:`.ledger` over :mod:`.gauge` and
:mod:`.shares`, and ``lease.lua``, which says the same to a Redis server), the stores, and a process's own side of the
bookkeeping (:mod:`.account`). Nothing here knows the limiter.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import ConfigError
from .account import Account
from .base import Claim, Lease, Meter, Report, Spending, Store, View

__all__ = ["Account", "Claim", "Lease", "Meter", "Report", "Spending", "Store", "View", "open_store"]


def open_store(where: str | Path | Store | None = None) -> Store:
    """The store that is meant.

    Args:
        where: a path or ``sqlite:///absolute/path`` for a file; ``redis://host:6379/0`` and its like for a server (see
            :class:`~.redis.RedisStore`); ``memory://`` for this process alone; None for a file in the user's state
            directory; a store is returned as it is.

    Raises:
        ConfigError: it is none of these, or what it needs is not installed.
        StoreUnavailable: the file cannot be opened or made.
    """
    if isinstance(where, Store):
        return where
    if where is None or isinstance(where, Path) or "://" not in where:
        if where == "":
            raise ConfigError("open_store('') says nothing; give a path, a URL, or None for the usual place")
        from .sqlite import SQLiteStore

        return SQLiteStore(where)
    scheme = where.partition("://")[0]
    if scheme == "sqlite":
        from .sqlite import SQLiteStore

        return SQLiteStore(_path_of(where))
    if scheme == "memory":
        from .memory import MemoryStore

        return MemoryStore()
    from .redis import SCHEMES, RedisStore

    if scheme in SCHEMES:
        return RedisStore(where)
    known = ", ".join(f"{name}://" for name in sorted(("sqlite", "memory", *SCHEMES)))
    raise ConfigError(f"open_store knows no {scheme}:// (it knows {known}); a path may stand without one")


def _path_of(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.netloc:
        raise ConfigError(
            f"{url!r} names a host; write sqlite:/// and an absolute path, or the path alone if it is relative"
        )
    path = unquote(parts.path)
    if path[2:3] == ":":  # /C:/Users/...
        path = path[1:]
    return path or None
