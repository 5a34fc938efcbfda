"""A store in this process's memory: several limiters of one process share limits; and the others are tested by it."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from .kept import LedgerStore
from .ledger import Ledger

Result = TypeVar("Result")


class MemoryStore(LedgerStore):
    """Limits that are shared within one process.

    Args:
        clock: seconds. Tests pass their own.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ledgers: dict[str, Ledger] = {}

    def _with_ledger(self, group: str, work: Callable[[Ledger, float], Result], *, change: bool = True) -> Result:
        with self._lock:
            ledger = self._ledgers.get(group) or Ledger()
            if not change:
                return work(copy.deepcopy(ledger), self._clock())
            self._ledgers[group] = ledger
            result = work(ledger, self._clock())
            ledger.tidy()
            return result

    def disconnect(self) -> None:
        """There is nothing to close."""
