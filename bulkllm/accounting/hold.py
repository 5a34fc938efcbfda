"""One call's estimate, held of a budget while the call is under way.

What may live here: an amount and its place in the books, waiting for room in a thread or in a task, and settling. The
books are the budget's.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from .._waiters import TaskWaiter, ThreadWaiter

if TYPE_CHECKING:
    from .budget import Budget

# How an entry in a budget's books stands.
WAITING: Final = 0
HELD: Final = 1
REFUSED: Final = 2
OVER: Final = 3
ADDED: Final = 4  # used elsewhere: it was never held


class Amount(NamedTuple):
    """What a call takes of a budget: US dollars, tokens, requests."""

    cost: float = 0.0
    tokens: float = 0.0
    requests: float = 1.0


NOTHING: Final = Amount(0.0, 0.0, 0.0)


class Waiter(Protocol):
    """Wakes whoever waits for room."""

    def wake(self) -> bool:
        """Let it go on; False if it never will."""


class Entry:
    """One call's place in a budget's books; only the budget changes it.

    Attributes:
        amount: the most that it may take; held while it is under way.
        likely: what it will probably take.
        state: one of the constants above.
        waiter: wakes it, if it has to wait.
    """

    __slots__ = ("amount", "likely", "state", "waiter")

    def __init__(self, amount: Amount, likely: Amount, state: int = WAITING) -> None:
        self.amount = amount
        self.likely = likely
        self.state = state
        self.waiter: Waiter | None = None


class Hold:
    """One call's estimate, held while it is under way.

    Settling never waits; once settled, further calls change nothing. A hold that is dropped counts as spent whole: the
    call may have been paid.
    """

    __slots__ = ("__weakref__", "_amount", "_budget", "_entry", "_likely")

    def __init__(self, budget: Budget, amount: Amount, likely: Amount | None = None) -> None:
        self._budget = budget
        self._amount = amount
        self._likely = amount if likely is None else likely
        self._entry: Entry | None = None

    def acquire(self, timeout: float | None = None) -> Self:
        """Wait in this thread until there is room.

        Args:
            timeout: seconds to wait at the most; None for as long as it takes.

        Raises:
            BudgetExceeded: there is none, and none will come free.
            LimitTimeout: none came free in time.
        """
        entry = self._begin(ThreadWaiter)
        if isinstance(entry.waiter, ThreadWaiter):
            try:
                seconds = -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
                woken = entry.waiter.gate.acquire(timeout=seconds)
            except BaseException:
                self.refund()
                raise
            if not woken and timeout is not None:
                self.refund()
                raise self._budget._timeout(self._likely, timeout)
        return self._held(entry)

    async def aacquire(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109 - a driver passes it on
        """Wait in this task until there is room. Arguments and errors are those of :meth:`acquire`."""
        entry = self._begin(TaskWaiter)
        if isinstance(entry.waiter, TaskWaiter):
            scope = asyncio.timeout(timeout)
            try:
                async with scope:
                    await entry.waiter.future
            except BaseException as error:
                self.refund()
                if isinstance(error, TimeoutError) and scope.expired() and timeout is not None:
                    raise self._budget._timeout(self._likely, timeout) from None
                raise
        return self._held(entry)

    def settle(self, cost: float | None = None, tokens: float | None = None) -> None:
        """Spend what the call really used; what is not given (an unknown charge) counts as what it probably took."""
        likely = self._likely
        self._settle(
            likely._replace(
                cost=likely.cost if cost is None else cost, tokens=likely.tokens if tokens is None else tokens
            )
        )

    def refund(self) -> None:
        """The call was not made: nothing is spent."""
        self._settle(self._likely._replace(cost=0.0, tokens=0.0, requests=0.0))

    def _begin(self, waiter: type[ThreadWaiter | TaskWaiter]) -> Entry:
        entry = self._entry = Entry(self._amount, self._likely)
        self._budget._enter(entry, waiter)
        return entry

    def _held(self, entry: Entry) -> Self:
        if entry.state != HELD:
            self._entry = None
            raise self._budget._refusal(self._likely)
        return self

    def _settle(self, used: Amount) -> None:
        entry = self._entry
        if entry is not None:
            self._entry = None
            self._budget._post(entry, used)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    async def __aenter__(self) -> Self:
        return await self.aacquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def __del__(self) -> None:
        if self._entry is not None:
            self.settle()
