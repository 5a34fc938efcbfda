"""Disk work for coroutines: one thread does it in batches, the loops stay free.

What may live here: handing items from coroutines of any loop to a worker thread and their results back.

Measured against ``asyncio.to_thread`` on two cores: alone a trip takes as long (0.15 ms, nearly all of it the two
threads waking each other up), but a hundred at once take 25 µs each instead of 110 to 160, for the worker answers
everybody who is waiting in one go, in one transaction and with one wake-up of each loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_BATCH = 512


class Lane(Generic[Item, Result]):
    """A worker thread for one kind of work. The thread starts with the first item and ends with the lane.

    Args:
        name: of the thread.
        work: takes a batch and gives one result for each item, in order. What it raises, everybody of the batch gets.
    """

    def __init__(self, name: str, work: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        self._work = work
        self._name = name
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._busy = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)

    async def submit(self, item: Item) -> Result:
        """The result of one item. A cancelled caller does not stop the work."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((item, future))
            start = not self._busy
            self._busy = True
        if start:
            try:
                self._executor.submit(self._drain)
            except RuntimeError:  # the interpreter is shutting down: there are no more threads, and no one to hold up
                self._drain()
        return await future

    def close(self) -> None:
        """Finish what was handed in, and end the thread."""
        self._executor.shutdown(wait=True)

    def renew(self) -> None:
        """Start again in a child process, which has inherited everything but the thread."""
        self._start_afresh()

    def _drain(self) -> None:
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                if not batch:
                    self._busy = False
                    return
            results: Sequence[Result] | BaseException
            try:
                results = self._work([item for item, _ in batch])
            except BaseException as error:  # noqa: BLE001 - it is not swallowed: it is handed to those who wait
                results = error
            by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Result], int]]] = {}
            for place, (_, future) in enumerate(batch):
                by_loop.setdefault(future.get_loop(), []).append((future, place))
            for loop, waiting in by_loop.items():
                try:
                    loop.call_soon_threadsafe(_deliver, waiting, results)
                except RuntimeError:  # the loop was closed meanwhile: nobody waits there any more
                    continue


def _deliver(waiting: list[tuple[asyncio.Future[Result], int]], results: Sequence[Result] | BaseException) -> None:
    for future, place in waiting:
        if future.done():  # cancelled
            continue
        if isinstance(results, BaseException):
            future.set_exception(results)
        else:
            future.set_result(results[place])
