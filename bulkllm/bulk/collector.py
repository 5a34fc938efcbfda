"""How much the garbage collector is put to while a run goes on.

What may live here: that, and giving it back. A call of LiteLLM makes some seventy objects more than it has let go of
when the next begins, and with many calls in flight they die only later. CPython looks through the youngest objects for
each 700 made: every ten rows, to find nothing, and then through those that lived on, and now and again through
everything: LiteLLM's modules alone are some 370,000 objects that live as long as the process, a fifth of a second each
time. All in all that is an eighth of what a row costs.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

_FULL: Final = 2  # the generation of everything
# Objects made and not let go of before the youngest are looked through: a few megabytes, and some 150 rows. More gains
# nothing that could be measured.
_YOUNG: Final = 10_000

# CPython 3.12 begins with some hundreds of its own objects frozen; a program that freezes has many more.
_INTERPRETERS: Final = 1_000

_lock = threading.Lock()
_runs = 0
_before: tuple[int, int, int] | None = None  # the program's thresholds, while ours hold


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """While the block runs, the young are looked through less often, and what has lived long is left alone.

    Nothing is switched off: what the run makes is collected as ever, only later, and all that is not part of a cycle is
    freed at once in any case. The collector is not asked to do anything, either: the next full collection comes when it
    comes, and what is left after it is frozen (`gc.freeze`), so that a cycle among that is collected after the run.
    Several runs share this; the last one to end gives everything back. Where the program had frozen something before,
    or has a threshold as high or none, that is left as it is.
    """
    global _runs  # noqa: PLW0603 - there is one collector in a process
    with _lock:
        if _runs == 0:
            _begin()
        _runs += 1
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0:
                _end()


def _begin() -> None:
    global _before  # noqa: PLW0603 - there is one collector in a process
    if gc.get_freeze_count() < _INTERPRETERS:
        gc.callbacks.append(_collected)
    young, middle, old = gc.get_threshold()
    if 0 < young < _YOUNG:
        _before = (young, middle, old)
        gc.set_threshold(_YOUNG, middle, old)


def _end() -> None:
    global _before  # noqa: PLW0603 - there is one collector in a process
    if _collected in gc.callbacks:
        gc.callbacks.remove(_collected)
        gc.unfreeze()
    if _before is not None and gc.get_threshold() == (_YOUNG, *_before[1:]):  # else the program has set its own since
        gc.set_threshold(*_before)
    _before = None


def _collected(phase: Literal["start", "stop"], info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] == _FULL and gc.get_freeze_count() < _INTERPRETERS:
        gc.freeze()
