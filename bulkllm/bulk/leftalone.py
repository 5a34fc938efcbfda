"""What the garbage collector leaves alone while a run goes on.

What may live here: that, and giving it back. LiteLLM's modules alone are some 370,000 objects that live as long as the
process. CPython's collector goes through all of them again whenever enough has been made anew, which a run's calls do
every few hundred rows: a fifth of a second each time, almost a tenth of what a row costs, to find nothing.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

_FULL: Final = 2  # the generation of everything

_lock = threading.Lock()
_runs = 0


@contextmanager
def long_lived_left_alone() -> Iterator[None]:
    """While the block runs, what has lived through a full collection is not looked through again.

    The collector is not asked to do anything: the next full collection comes when it comes, and what is left after it
    is frozen (`gc.freeze`). What the run makes from then on is collected as ever, and all that is not part of a cycle
    is freed at once in any case. Several runs share this; the last one to end gives everything back. Where the program
    has frozen something itself, or has switched the collector off, nothing happens.
    """
    global _runs  # noqa: PLW0603 - there is one collector in a process
    with _lock:
        if _runs == 0 and gc.get_freeze_count() == 0:
            gc.callbacks.append(_collected)
        _runs += 1
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0 and _collected in gc.callbacks:
                gc.callbacks.remove(_collected)
                gc.unfreeze()


def _collected(phase: Literal["start", "stop"], info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] == _FULL and gc.get_freeze_count() == 0:
        gc.freeze()
