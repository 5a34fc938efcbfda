"""Calls that begin at once in an event loop are started one after the other.

A call is some milliseconds of work in LiteLLM before its request is on the wire, in several steps with the steps of
others in between. A hundred tasks that begin together would all take their first step, then all the second: no
request would go out before the last of them is ready, a quarter of a second after the limits let the first one go. All
answers would be late by that, a provider's sliding window would count the requests later than ours does, and a refusal
would be heard when all of them are sent. So a few at a time are brought to the wire, in the order in which they came.

What may live here: whose turn it is in a loop, and when a call is on the wire.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Coroutine, Generator
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

Result = TypeVar("Result")

_AT_ONCE: Final = 16
"""So many are brought to the wire at a time. With 4 of them, calls that take all of the CPU cost a third more of it:
each step of LiteLLM then finds the processor's caches full of another one. With 16 it is a few hundredths at most."""

_WAITS: Final = 2
"""Where a call waits for the second time, it waits for its answer; the first time for that thread."""

_SURELY: Final = 0.01
"""Other providers' ways differ: after so many seconds a call need not be waited for. 1,600 a second may start so."""


class _Line:
    """Those of one event loop who are about to start. Used in the loop's own thread only."""

    __slots__ = ("_looks", "_starting", "_waiting")

    def __init__(self) -> None:
        self._starting: dict[asyncio.Task[Any], float] = {}  # since when, by the loop's clock
        self._waiting: deque[tuple[asyncio.Future[None], asyncio.Task[Any]]] = deque()
        self._looks = False

    async def turn(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self._starting.pop(task, None)
        if len(self._starting) < _AT_ONCE and not self._waiting:
            self._starting[task] = loop.time()
            return
        gate = loop.create_future()
        self._waiting.append((gate, task))
        if not self._looks:
            self._looks = True
            loop.call_later(_SURELY, self._look, loop)
        try:
            await gate
        except BaseException:  # cancelled, perhaps when its turn had just come
            self.over(loop, task)
            raise

    def over(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """It is on the wire, or does not go."""
        if self._starting.pop(task, None) is not None and self._waiting:
            self._fill(loop)

    def _fill(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._waiting
        while waiting and len(self._starting) < _AT_ONCE:
            gate, task = waiting.popleft()
            if not gate.done():
                self._starting[task] = loop.time()
                gate.set_result(None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass over those who take too long."""
        late = loop.time() - _SURELY
        for task in [task for task, since in self._starting.items() if since <= late]:
            del self._starting[task]
        self._fill(loop)
        self._looks = bool(self._waiting)
        if self._looks:
            loop.call_later(_SURELY, self._look, loop)


class _Watched:
    """Awaits a call, and counts how often it waits."""

    __slots__ = ("_call", "_line", "_loop", "_task")

    def __init__(
        self, call: Coroutine[Any, Any, Any], line: _Line, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]
    ) -> None:
        self._call = call
        self._line = line
        self._loop = loop
        self._task = task

    def __await__(self) -> Generator[Any, Any, Any]:
        call, step, given, waits = self._call, self._call.send, None, 0
        try:
            while True:
                try:
                    awaited = step(given)
                except StopIteration as done:
                    return done.value
                waits += 1
                if waits == _WAITS:
                    self._line.over(self._loop, self._task)
                try:
                    if waits == 1:
                        yield from _prepared(awaited)
                    else:
                        yield awaited
                    step, given = call.send, None
                except GeneratorExit:
                    call.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the call's
                    step, given = call.throw, error
        finally:
            given = None  # an error's traceback would hold this frame, and this frame the error
            self._line.over(self._loop, self._task)


def _prepared(awaited: Any) -> Generator[Any, Any, None]:
    """Wait for the first time: a thread prepares the call, and hands over a coroutine that sends it.

    A thread does not stop where the call is cancelled. What it hands over then nobody awaits, and Python would warn.
    """
    if not asyncio.isfuture(awaited):
        yield awaited
        return
    try:
        yield from asyncio.shield(awaited)
    except (asyncio.CancelledError, GeneratorExit):
        awaited.add_done_callback(_close)
        raise


def _close(prepared: asyncio.Future[Any]) -> None:
    if not prepared.cancelled() and prepared.exception() is None and inspect.iscoroutine(prepared.result()):
        prepared.result().close()


_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()


def _here() -> tuple[_Line, asyncio.AbstractEventLoop, asyncio.Task[Any]] | None:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None
    if task is None:
        return None
    loop = task.get_loop()
    line = _lines.get(loop)
    if line is None:
        line = _lines[loop] = _Line()
    return line, loop, task


async def turn() -> float:
    """Wait until those who came before are on the wire. Returns the seconds that took, by the loop's clock."""
    here = _here()
    if here is None:
        return 0.0
    line, loop, task = here
    began = loop.time()
    await line.turn(loop, task)
    return loop.time() - began


def passed() -> None:
    """The task whose turn it is does not start a call after all."""
    here = _here()
    if here is not None:
        line, loop, task = here
        line.over(loop, task)


async def starting(call: Coroutine[Any, Any, Result]) -> Result:
    """Await the call that a task's turn was for: when it waits for its answer, the next may start."""
    here = _here()
    return await (call if here is None else _Watched(call, *here))
