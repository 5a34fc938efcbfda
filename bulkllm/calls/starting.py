"""Calls that begin at once in an event loop are started one after the other.

A call is some milliseconds of work in LiteLLM before its request is on the wire, in several steps with the steps of
others in between. A hundred tasks that begin together would all take their first step, then all the second: no
request would go out before the last of them is ready, a quarter of a second after the limits let the first one go. All
answers would be late by that, and a provider's sliding window would count the requests later than ours does. So one
call is started in each round of the loop: the first is on the wire while the next ones begin.

What may live here: whose turn it is in a loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary


class _Line:
    """Those of one event loop who are to start. Used in the loop's own thread only."""

    __slots__ = ("_moving", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._moving = False  # somebody has started in this round of the loop

    async def turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._moving:
            self._moving = True
            loop.call_soon(self._next, loop)
            return
        gate = loop.create_future()
        self._waiting.append(gate)
        await gate  # whoever is cancelled here is passed over

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """A round of the loop is over."""
        waiting = self._waiting
        while waiting:
            gate = waiting.popleft()
            if not gate.done():
                gate.set_result(None)
                loop.call_soon(self._next, loop)
                return
        self._moving = False


_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()


async def turn() -> float:
    """Wait until those who came before have started. Returns the seconds that took, by the loop's clock."""
    loop = asyncio.get_running_loop()
    line = _lines.get(loop)
    if line is None:
        line = _lines[loop] = _Line()
    began = loop.time()
    await line.turn(loop)
    return loop.time() - began
