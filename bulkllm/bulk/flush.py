"""Having written data on the disk, without holding up whoever writes.

What may live here: the thread that flushes, and the flush of a directory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

SYNC_EVERY = 1.0
"""Seconds between two flushes to the disk."""


class Syncer(threading.Thread):
    """Flushes a file to the disk: soon after something was written, and at most once in `SYNC_EVERY` seconds."""

    def __init__(self, fd: int, *, sync: Callable[[int], None] = os.fsync, every: float = SYNC_EVERY) -> None:
        super().__init__(name="bulkllm-sync", daemon=True)
        self._fd = fd
        self._sync = sync
        self._every = every
        self._dirty = threading.Event()
        self._stopped = threading.Event()
        self._error: OSError | None = None

    def wake(self) -> None:
        """Say that something was written.

        Raises:
            OSError: what was written before could not be flushed.
        """
        if self._error is not None:
            raise self._error
        if not self._dirty.is_set():
            self._dirty.set()

    def stop(self) -> None:
        """End the thread; whoever stops it flushes a last time."""
        self._stopped.set()
        self._dirty.set()
        self.join()

    def run(self) -> None:
        """The thread's work."""
        while True:
            self._dirty.wait()
            if self._stopped.is_set():
                return
            self._dirty.clear()
            try:
                self._sync(self._fd)
            except OSError as error:
                self._error = error
                return
            self._stopped.wait(self._every)


def sync_directory(path: Path) -> None:
    """Have a rename on the disk. Windows cannot open a directory, and needs no such thing."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
