"""Whether code runs on behalf of something that is still under way.

What may live here: that mark, and nothing of what goes by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar


class _Entry:
    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


class Scope:
    """A mark on all that is called or awaited in a block, and on the tasks and threads that inherit its context.

    What was started in the block, a callback or a task for instance, may outlive it, and is not marked any more then.

    Args:
        name: of the context variable.
    """

    __slots__ = ("_entry",)

    def __init__(self, name: str) -> None:
        self._entry: ContextVar[_Entry | None] = ContextVar(name, default=None)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The block."""
        entry = _Entry()
        token = self._entry.set(entry)
        try:
            yield
        finally:
            entry.over = True
            with suppress(
                ValueError
            ):  # a task that was dropped with its loop is closed elsewhere: nothing was set there
                self._entry.reset(token)

    def __bool__(self) -> bool:
        """Whether this is called in such a block."""
        entry = self._entry.get()
        return entry is not None and not entry.over
