"""The usual cache, only looked at: what a plan knows it by.

What may live here: looking. No file is made, mended or set aside, and nothing is kept.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..caching import FILE_NAME, Cache, entries
from ..config import Settings, cache_dir

logger = logging.getLogger(__name__)

_PATIENCE: Final = 10.0  # seconds to wait for another process that writes


class Onlooker(Cache):
    """Tells what the cache in the user's cache directory holds, whether or not there is one."""

    def __init__(self) -> None:
        self._age = Settings().get("cache.max_age", float, None)
        super().__init__(memory=True, max_age=self._age)
        self._file: Path | None = cache_dir() / FILE_NAME

    def costs(self, keys: Sequence[str]) -> dict[str, float | None]:
        """As :meth:`Cache.costs`; nothing where the file cannot be read as it is.

        Raises:
            CacheError: it is a database of something else, or of a newer bulkllm.
        """
        if self._file is None or not self._file.exists():
            return {}
        place = f"{self._file.resolve().as_uri()}?mode=ro"
        try:
            with contextlib.closing(sqlite3.connect(place, uri=True, timeout=_PATIENCE, isolation_level=None)) as db:
                entries.prepare(db)
                db.execute("BEGIN")  # one lock for all keys
                found = entries.read(db, keys)
        except sqlite3.Error as error:
            logger.warning("the cache %s cannot be read as it is (%s): what it saves is left out", self._file, error)
            self._file = None
            return {}
        oldest = -math.inf if self._age is None else time.time() - self._age
        return {key: row.cost for key, (row, _) in found.items() if row.created >= oldest}


def usual_cache() -> Cache | bool:
    """What a client has for a cache that is not told which, only to be looked at; False for none."""
    enabled = Settings().get("cache.enabled", bool, default=False, variable="BULKLLM_CACHE")
    return Onlooker() if enabled else False
