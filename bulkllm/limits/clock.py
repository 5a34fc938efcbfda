"""The limiter's clock: seconds that never go back, and that go on while the machine sleeps.

Providers renew quotas while a laptop is closed. ``time.monotonic`` stands still meanwhile on Linux and macOS, so that a
pool that is closed for hours would be opened hours too late.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final


def _clock() -> Callable[[], float]:
    # On macOS the system's CLOCK_MONOTONIC goes on, and Python's monotonic is another one; on Windows that one does.
    name = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(sys.platform)
    number = None if name is None else getattr(time, name, None)
    if number is None:
        return time.monotonic
    try:
        time.clock_gettime(number)
    except OSError:  # a sandbox that does not know it
        return time.monotonic
    return partial(time.clock_gettime, number)


monotonic: Final[Callable[[], float]] = _clock()
"""Seconds since some moment of the past, the time that the machine slept included."""
