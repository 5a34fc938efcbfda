"""A synchronous call in the event loop of a bulk run: it would stop the calls whose places it waits for.

What may live here: knowing that, and saying what to do instead.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Final

from .._scope import Scope
from ..errors import ConfigError

_run: Final = Scope("bulkllm_in_run")


def run_under_way() -> AbstractContextManager[None]:
    """What is called in here, in this event loop, is called by a bulk run."""
    return _run.entered()


def refuse_to_block() -> None:
    """Nothing, but for a synchronous call out of a function that a bulk run has called in its event loop.

    Raises:
        ConfigError: it is one: the run would stand still, and for ever if the call has to wait for one of its rows.
    """
    if not _run:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # a thread that was started there: it may wait
        return
    raise ConfigError(
        "a synchronous call in a function that a bulk run calls (validate=, on_result=, progress=, call=) would stop"
        " the run that it waits for; make the function async def, and await acompletion, amap or arun there"
    )
