"""Ctrl-C and SIGTERM while a run is going on.

What may live here: taking signals over while there are runs, telling each of them, and giving the signals back.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 2


@dataclass(slots=True, eq=False)
class _Run:
    """Who is to be told, and how often that has happened."""

    told: Callable[[], None]
    times: int = 0


_runs: list[_Run] = []
_previous: dict[int, Any] = {}  # the handlers in whose place ours stands


@contextmanager
def interrupts(told: Callable[[], None]) -> Iterator[None]:
    """Have a function called at each Ctrl-C or SIGTERM while the block runs.

    Only in the main thread (elsewhere Python allows no handlers), and only where the signal has its usual effect:
    a program that handles it itself goes on doing so. Of several blocks at once, as those of tasks, each is told; the
    last one to end, whichever that is, gives the signals back. From the third time on it is a KeyboardInterrupt, so
    that nobody is at the mercy of a disk that hangs.

    Args:
        told: is called between two instructions of the main thread; it must neither block nor raise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    run = _Run(told)
    _runs.append(run)
    try:
        _take()
        yield
    finally:
        _runs.remove(run)
        if not _runs:
            _give_back()


def _take() -> None:
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if _is_usual(handler):
            _previous[number] = handler
            signal.signal(number, _handle)


def _give_back() -> None:
    """Put back the handlers that were there, except where the program has set one of its own meanwhile."""
    while _previous:
        number, handler = _previous.popitem()
        if signal.getsignal(number) is _handle:
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    if not _runs or any(run.times >= _PATIENCE for run in _runs):
        signal.default_int_handler(number, frame)
    for run in _runs:
        run.times += 1
        run.told()


def _is_usual(handler: Any) -> bool:
    """Whether a handler is Python's own or asyncio.run's."""
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return True
    bound = getattr(handler, "func", handler)
    return isinstance(getattr(bound, "__self__", None), asyncio.Runner)
