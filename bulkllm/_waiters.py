"""How a thread or a task that waits for a grant is woken, from any thread and also from a finaliser.

What may live here: waking, and nothing of what is waited for.
"""

from __future__ import annotations

import asyncio
import threading


class ThreadWaiter:
    """Wakes a thread: a raw lock, for releasing it is safe in a finaliser."""

    __slots__ = ("gate",)

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()

    def is_away(self) -> bool:
        """Whether it could not go on now if it were woken: a thread always can."""
        return False

    def wake(self) -> bool:
        """Let the thread go on."""
        self.gate.release()
        return True


class TaskWaiter:
    """Wakes a task of the event loop that it was made in."""

    __slots__ = ("away", "future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.renew()

    def renew(self) -> None:
        """Be ready to be woken (again)."""
        self.away = False
        self.future: asyncio.Future[None] = self.loop.create_future()

    def is_away(self) -> bool:
        """Whether it could not go on now if it were woken: its loop stands still."""
        self.away = not self.loop.is_running()
        return self.away

    def wake(self) -> bool:
        """Let the task go on, from any thread. False if its loop is closed, so that it never will."""
        try:
            if asyncio._get_running_loop() is self.loop:  # it needs no waking
                self.loop.call_soon(self.resolve)
            else:
                self.loop.call_soon_threadsafe(self.resolve)
        except RuntimeError:
            return False
        return True

    def resolve(self) -> None:
        """In the loop's own thread: let the task go on."""
        if not self.future.done():
            self.future.set_result(None)
