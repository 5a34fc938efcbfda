"""A budget: money, tokens or requests that calls may use, and no more.

A call holds an estimate while it is under way and spends what it really used when it is over. While the money that
other calls hold could still come free, a call waits, first come, first served; when what is spent leaves no room for
it, it is not made. So calls in flight overshoot by no more than their own estimates were wrong.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, NamedTuple, Protocol, Self

from .._mailbox import Mailbox
from .._waiters import TaskWaiter, ThreadWaiter
from ..errors import BudgetExceeded, ConfigError

Unpriced = Literal["error", "free"]

_WAITING: Final = 0
_HELD: Final = 1
_REFUSED: Final = 2
_OVER: Final = 3


class Amount(NamedTuple):
    """What a call takes of a budget: US dollars, tokens, requests."""

    cost: float = 0.0
    tokens: float = 0.0
    requests: float = 1.0


class _Waiter(Protocol):
    def wake(self) -> bool: ...


class _Entry:
    """One call's place in a budget's books; only the budget changes it."""

    __slots__ = ("amount", "state", "waiter")

    def __init__(self, amount: Amount) -> None:
        self.amount = amount
        self.state = _WAITING
        self.waiter: _Waiter | None = None


class Budget:
    """What calls may use in all. One budget may be shared by clients, threads and event loops.

    Args:
        max_cost: US dollars.
        max_tokens: input and output tokens together.
        max_requests: calls, each with all its attempts.
        unpriced: with ``max_cost``, a call whose price is not known is an ``"error"``, or counted as ``"free"``.

    Raises:
        ConfigError: no maximum is given, or one is not positive.
    """

    def __init__(
        self,
        max_cost: float | None = None,
        *,
        max_tokens: float | None = None,
        max_requests: int | None = None,
        unpriced: Unpriced = "error",
    ) -> None:
        given = {"max_cost": max_cost, "max_tokens": max_tokens, "max_requests": max_requests}
        if all(value is None for value in given.values()):
            raise ConfigError("Budget() limits nothing: give max_cost, max_tokens or max_requests")
        for name, value in given.items():
            if value is not None and (isinstance(value, bool) or not 0 < value < math.inf):
                raise ConfigError(f"Budget({name}={value!r}) must be a positive number")
        if unpriced not in ("error", "free"):
            raise ConfigError(f"Budget(unpriced={unpriced!r}) must be 'error' or 'free'")
        self.max_cost = max_cost
        self.max_tokens = max_tokens
        self.max_requests = max_requests
        self.unpriced = unpriced
        self._most = Amount(*(math.inf if value is None else value for value in given.values()))
        self._spent = Amount(0.0, 0.0, 0.0)
        self._held = Amount(0.0, 0.0, 0.0)
        self._queue: deque[_Entry] = deque()
        self._woken: list[_Entry] = []
        self._mailbox: Mailbox[tuple[_Entry, Amount]] = Mailbox(self._settled)

    # -- what users see --------------------------------------------------------------------------------------

    @property
    def spent(self) -> Amount:
        """What finished calls used."""
        with self._mailbox:
            return self._spent

    @property
    def held(self) -> Amount:
        """What calls under way are estimated to use."""
        with self._mailbox:
            return self._held

    def add(self, cost: float = 0.0, tokens: float = 0.0, requests: float = 0.0) -> None:
        """Count what was used elsewhere: by an earlier run, say."""
        entry = _Entry(Amount(0.0, 0.0, 0.0))
        entry.state = _HELD
        self._post(entry, Amount(cost, tokens, requests))

    def hold(self, cost: float = 0.0, tokens: float = 0.0) -> Hold:
        """An estimate of one call to hold, with ``with`` or ``async with``; nothing is held before it is entered."""
        return Hold(self, Amount(cost, tokens, 1.0))

    def __repr__(self) -> str:
        given = [f"{name}={value:g}" for name, value in zip(("max_cost", "max_tokens", "max_requests"), self._most,
                                                            strict=True) if value < math.inf]  # fmt: skip
        return f"Budget({', '.join(given)})"

    # -- the books -------------------------------------------------------------------------------------------

    def _enter(self, amount: Amount, make_waiter: Callable[[], _Waiter]) -> _Entry:
        entry = _Entry(amount)
        with self._mailbox:
            if not self._queue and self._fits(self._held, amount):
                self._grant(entry)
            elif not self._fits(Amount(0.0, 0.0, 0.0), amount):
                entry.state = _REFUSED
            else:
                entry.waiter = make_waiter()
                self._queue.append(entry)
        self._wake()
        return entry

    def _post(self, entry: _Entry, used: Amount) -> None:
        """A call is over. Never waits; safe in a finaliser."""
        self._mailbox.post((entry, used))
        self._wake()

    def _settled(self, news: tuple[_Entry, Amount]) -> None:
        """With the lock: take a finished call in, and see who may go now."""
        entry, used = news
        if entry.state == _HELD:
            self._held = Amount(*(held - own for held, own in zip(self._held, entry.amount, strict=True)))
            self._spent = Amount(*(spent + own for spent, own in zip(self._spent, used, strict=True)))
        entry.state = _OVER
        queue = self._queue
        while queue:
            head = queue[0]
            if head.state == _OVER:  # whoever it was has left
                queue.popleft()
            elif self._fits(self._held, head.amount):
                queue.popleft()
                self._grant(head)
                self._woken.append(head)
            elif not self._fits(Amount(0.0, 0.0, 0.0), head.amount):
                queue.popleft()
                head.state = _REFUSED
                self._woken.append(head)
            else:
                break

    def _grant(self, entry: _Entry) -> None:
        entry.state = _HELD
        self._held = Amount(*(held + own for held, own in zip(self._held, entry.amount, strict=True)))

    def _fits(self, held: Amount, amount: Amount) -> bool:
        """Whether an amount fits beside what is spent and what is held."""
        return all(
            spent + other + own <= most * (1 + 1e-12)  # sums of cents in binary
            for spent, other, own, most in zip(self._spent, held, amount, self._most, strict=True)
        )

    def _wake(self) -> None:
        """Without the lock: tell those whose turn came."""
        while self._woken:
            try:
                entry = self._woken.pop()
            except IndexError:  # another thread was quicker
                return
            if entry.waiter is not None and not entry.waiter.wake():
                self._mailbox.post((entry, Amount(0.0, 0.0, 0.0)))

    def _refusal(self, amount: Amount) -> BudgetExceeded:
        parts = []
        for name, unit, most, spent, own in zip(
            Amount._fields, ("$", "", ""), self._most, self._spent, amount, strict=True
        ):
            if spent + own > most:
                parts.append(f"{name}: {unit}{spent:g} of {unit}{most:g} is spent, the call may take {unit}{own:g}")
        return BudgetExceeded(
            f"the call would break the budget ({'; '.join(parts)}); it was not made. Raise the budget to go on"
        )


class Hold:
    """One call's estimate, held while it is under way.

    Settling never waits; once settled, further calls change nothing. A hold that is dropped counts as spent whole: the
    call may have been paid.
    """

    __slots__ = ("__weakref__", "_amount", "_budget", "_entry")

    def __init__(self, budget: Budget, amount: Amount) -> None:
        self._budget = budget
        self._amount = amount
        self._entry: _Entry | None = None

    def acquire(self) -> Self:
        """Wait in this thread until there is room.

        Raises:
            BudgetExceeded: there is none, and none will come free.
        """
        entry = self._entry = self._budget._enter(self._amount, ThreadWaiter)
        if isinstance(entry.waiter, ThreadWaiter):
            try:
                entry.waiter.gate.acquire()
            except BaseException:
                self.refund()
                raise
        return self._begin(entry)

    async def aacquire(self) -> Self:
        """Wait in this task until there is room. Raises as :meth:`acquire` does."""
        entry = self._entry = self._budget._enter(self._amount, TaskWaiter)
        if isinstance(entry.waiter, TaskWaiter):
            try:
                await entry.waiter.future
            except BaseException:
                self.refund()
                raise
        return self._begin(entry)

    def _begin(self, entry: _Entry) -> Self:
        if entry.state != _HELD:
            self._entry = None
            raise self._budget._refusal(self._amount)
        return self

    def settle(self, cost: float | None = None, tokens: float | None = None) -> None:
        """Spend what the call really used; what is not given (an unknown charge) counts as estimated."""
        self._settle(
            Amount(self._amount.cost if cost is None else cost, self._amount.tokens if tokens is None else tokens, 1.0)
        )

    def refund(self) -> None:
        """The call was not made: nothing is spent."""
        self._settle(Amount(0.0, 0.0, 0.0))

    def _settle(self, used: Amount) -> None:
        entry = self._entry
        if entry is not None:
            self._entry = None
            self._budget._post(entry, used)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    async def __aenter__(self) -> Self:
        await self.aacquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def __del__(self) -> None:
        if self._entry is not None:
            self.settle()
