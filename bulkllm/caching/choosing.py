"""Which cache a call uses, and as whose answer: what users say about it, put in order.

What may live here: reading what was said, in an argument, in a call's options, in the environment or in
``config.toml``; and the one default cache, opened at the first use.

Settings (see :mod:`bulkllm.config`): ``BULKLLM_CACHE=1``, or ``enabled = true`` under ``[cache]``, is what
``cache=True`` is for every client that is not told otherwise. ``max_bytes`` and ``max_age`` (seconds) bound the default
cache.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..config import Settings
from ..errors import ConfigError
from .store import MAX_BYTES, Cache


@dataclass(frozen=True, slots=True)
class Chosen:
    """Where a call's answer is kept and looked for.

    Attributes:
        cache: None for nowhere.
        namespace: keeps answers apart from others in the same cache; the cache's own if None.
        sample: tells several answers to one prompt apart.
    """

    cache: Cache | None
    namespace: str | None = None
    sample: int = 0


_default: Cache | None = None
_default_lock: Final = threading.Lock()


def default_cache() -> Cache:
    """The cache that ``cache=True`` means: the one in the user's cache directory, opened at the first use."""
    global _default  # noqa: PLW0603 - the one default
    with _default_lock:
        if _default is None:
            _default = open_cache()
        return _default


def open_cache(path: Path | None = None) -> Cache:
    """The cache in a directory, or in the usual one, with the bounds that the settings say."""
    settings = Settings()
    return Cache(
        path,
        max_bytes=settings.get("cache.max_bytes", int, MAX_BYTES),
        max_age=settings.get("cache.max_age", float, None),
    )


def clients_cache(cache: Cache | bool | None) -> Cache | None:
    """The cache of a client: as it was told, else as the environment or ``config.toml`` say, else none.

    Raises:
        ConfigError: it is neither a Cache nor True, False or None.
    """
    if cache is None:
        cache = Settings().get("cache.enabled", bool, default=False, variable="BULKLLM_CACHE")
    return _cache_of(cache)


def chosen(options: dict[str, Any], default: Cache | None) -> Chosen:
    """Where one call's answer goes; what is ours is taken out of its options. A dict as ``cache`` is LiteLLM's.

    Raises:
        ConfigError: one of them makes no sense.
    """
    if not ("cache" in options or "namespace" in options or "sample" in options):
        return Chosen(default)
    cache = default
    wanted = options.get("cache")
    if not isinstance(wanted, Mapping):
        options.pop("cache", None)
        cache = default if wanted is None else _cache_of(wanted)
    namespace, sample = options.pop("namespace", None), options.pop("sample", 0)
    if namespace is not None and not isinstance(namespace, str):
        raise ConfigError(f"namespace= takes a text, not {type(namespace).__name__}")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise ConfigError(f"sample={sample!r} must be a whole number, 0 or more: which of several answers it is to be")
    return Chosen(cache, namespace, sample)


def _cache_of(cache: Cache | bool) -> Cache | None:
    if isinstance(cache, Cache):
        return cache
    if isinstance(cache, bool):
        return default_cache() if cache else None
    raise ConfigError(f"cache= takes a Cache, True or False, not {type(cache).__name__}")
