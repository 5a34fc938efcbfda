"""Ctrl-C and SIGTERM while a run is going on.

What may live here: taking signals over for the time of a run, and giving them back.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 2


@contextmanager
def interrupts(told: Callable[[], None]) -> Iterator[None]:
    """Have a function called at each Ctrl-C or SIGTERM while the block runs.

    Only in the main thread (elsewhere Python allows no handlers), and only where the signal has its usual effect:
    a program that handles it itself goes on doing so. From the third time on it is a KeyboardInterrupt, so that
    nobody is at the mercy of a disk that hangs.

    Args:
        told: is called between two instructions of the main thread; it must neither block nor raise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    times = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        if times > _PATIENCE:
            signal.default_int_handler(number, frame)
        told()

    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number in _SIGNALS if _is_usual(previous[number])]
    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, previous[number])


def _is_usual(handler: Any) -> bool:
    """Whether a handler is Python's own or asyncio.run's."""
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return True
    bound = getattr(handler, "func", handler)
    return isinstance(getattr(bound, "__self__", None), asyncio.Runner)
