"""A wall-clock limit for a call that blocks.

An HTTP client's timeout counts from the last byte, so a server that sends a blank line now and then holds a caller
for ever (DeepSeek does, for up to half an hour, when it is busy). Nothing can interrupt a blocking call from
outside; so it runs in a worker thread, and its caller stops waiting when the time is over. The worker ends by itself
when the server lets go. Workers are daemons, kept for the next call: handing over costs some 50 µs.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

# Seconds that a worker waits for another job before it ends.
_LINGER: Final = 10.0

# Seconds that the interpreter's end waits for calls that were given up.
_GRACE: Final = 2.0


class OutOfTimeError(Exception):
    """The call did not end in time. What it returns later is handed to its ``discard``."""


def run_within(seconds: float | None, function: Callable[[], Result], *, discard: Callable[[Result], None]) -> Result:
    """Call a function, in the caller's context, and wait for it so long and no longer.

    Args:
        seconds: wall clock; None calls it here, without a limit.
        function: what may block.
        discard: gets the result if it comes too late, in the worker's thread.

    Raises:
        OutOfTimeError: the time is over; the function goes on in the background.
    """
    if seconds is None:
        return function()
    job = _Job(function, discard)
    _hand_over(job)
    try:
        in_time = job.done.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
    except BaseException:  # interrupted: nobody will fetch the result
        job.abandon()
        raise
    if not in_time and job.abandon():
        raise OutOfTimeError
    if job.error is not None:
        try:
            raise job.error
        finally:
            job.error = None  # or the traceback would hold the job, and the job the traceback
    result: Result = job.result
    return result


class _Job:
    __slots__ = ("abandoned", "context", "discard", "done", "error", "finished", "function", "guard", "result")

    def __init__(self, function: Callable[[], Any], discard: Callable[[Any], None]) -> None:
        self.context = contextvars.copy_context()
        self.function = function
        self.discard = discard
        self.done = threading.Lock()
        self.done.acquire()
        self.guard = threading.Lock()
        self.finished = False
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 - it is the caller's to see, whatever it is
            self.error = error
        with self.guard:
            self.finished = True
            abandoned = self.abandoned
        if abandoned and self.error is None:
            self.discard(self.result)
        self.done.release()

    def abandon(self) -> bool:
        """Nobody waits any more. False if the result is there after all."""
        with self.guard:
            self.abandoned = not self.finished
            return self.abandoned


class _Worker:
    __slots__ = ("inbox",)

    def __init__(self) -> None:
        self.inbox: SimpleQueue[_Job] = SimpleQueue()
        threading.Thread(target=self._run, name="bulkllm-call", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                job = self.inbox.get(timeout=_LINGER)
            except Empty:
                try:
                    _idle.remove(self)
                except ValueError:
                    continue  # somebody has just picked this worker: the job is on its way
                return
            _running.add(job)
            job.run()
            _running.discard(job)
            del job
            _idle.append(self)


_idle: list[_Worker] = []
_running: set[_Job] = set()


def _hand_over(job: _Job) -> None:
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    worker.inbox.put(job)


def _let_finish() -> None:
    """At the interpreter's end: give calls that were given up a moment, for most are about to end as well.

    A thread that is cut off in the middle of an import leaves the import lock held, and finalisers of LiteLLM's that
    import something then wait for it for ever. One that waits for its server holds nothing and may be cut off.
    """
    end = time.monotonic() + _GRACE
    for job in list(_running):
        if job.done.acquire(timeout=max(0.0, end - time.monotonic())):
            job.done.release()  # somebody may be waiting for it


def _after_fork() -> None:
    """Threads stay in the parent."""
    _idle.clear()
    _running.clear()


atexit.register(_let_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
