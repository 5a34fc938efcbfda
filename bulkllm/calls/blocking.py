"""A synchronous call in the event loop of a bulk run: it would stop the calls whose places it waits for.

What may live here: knowing that, and saying what to do instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from ..errors import ConfigError


class _Run:
    """A run. What it has started, a task of the user's for instance, may outlive it."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


_in_run: ContextVar[_Run | None] = ContextVar("bulkllm_in_run", default=None)


@contextmanager
def run_under_way() -> Iterator[None]:
    """What is called in here, in this event loop, is called by a bulk run."""
    run = _Run()
    token = _in_run.set(run)
    try:
        yield
    finally:
        run.over = True
        with suppress(ValueError):  # a task that was dropped with its loop is closed elsewhere, where nothing was set
            _in_run.reset(token)


def refuse_to_block() -> None:
    """Nothing, but for a synchronous call out of a function that a bulk run has called in its event loop.

    Raises:
        ConfigError: it is one: the run would stand still, and for ever if the call has to wait for one of its rows.
    """
    run = _in_run.get()
    if run is None or run.over:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # a thread that was started there: it may wait
        return
    raise ConfigError(
        "a synchronous call in a function that a bulk run calls (validate=, on_result=, progress=, call=) would stop"
        " the run that it waits for; make the function async def, and await acompletion, amap or arun there"
    )
