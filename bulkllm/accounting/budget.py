"""A budget: money, tokens or requests that calls may use, and no more.

What may live here: the books of a budget, who waits for room in it, and the scopes in which it is active. A call holds
an estimate while it is under way and spends what it really used when it is over. While the money that other calls
hold could still come free, a call waits, first come, first served; when what is spent leaves no room for it, it is
not made. So calls in flight overshoot by no more than their own estimates were wrong.
"""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from itertools import count
from types import TracebackType
from typing import Literal, Self

from .._mailbox import Mailbox
from ..errors import BudgetExceeded, ConfigError, LimitTimeout
from .hold import ADDED, HELD, NOTHING, OVER, REFUSED, Amount, Entry, Hold, Waiter

Unpriced = Literal["error", "free"]

_active: ContextVar[tuple[Budget, ...]] = ContextVar("bulkllm_active_budgets", default=())
_serials = count()
_budgets: weakref.WeakSet[Budget] = weakref.WeakSet()


class Budget:
    """What calls may use in all: of a client, of a run, or of a scope.

    ``Client(budget=...)`` bounds a client's calls and ``run(..., budget=...)`` a run's. ``with budget:`` or
    ``async with budget:`` bounds the calls made inside, in tasks and in ``asyncio.to_thread`` too; a thread that does
    not inherit its starter's context enters the budget itself. A call for which several budgets hold needs room in
    each. One budget may be shared by clients, scopes, threads and event loops.

    How far it may be passed: a call that bounds its answer (``max_tokens``) holds its bound, and is made only if that
    fits, so such calls pass the budget by no more than the input tokens of those under way were underestimated. A
    call without a bound holds one and a half times the longest answer of late (before there was any, the longest that
    its model gives), and if that is more than there is, it goes alone; so the budget may be passed by what one
    answer is longer than all before it.

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
        self._spent = NOTHING
        self._held = NOTHING
        self._under_way: set[Entry] = set()
        self._queue: deque[Entry] = deque()
        self._woken: list[Entry] = []
        self._mailbox: Mailbox[tuple[Entry, Amount]] = Mailbox(self._settled)
        self._sources: dict[str, Amount] = {}
        self._serial = next(_serials)
        _budgets.add(self)

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

    @property
    def remaining(self) -> Amount:
        """What is neither spent nor held; infinite where there is no maximum."""
        with self._mailbox:
            return Amount(*(max(0.0, most - own) for most, own in zip(self._most, self._taken(), strict=True)))

    def add(self, cost: float = 0.0, tokens: float = 0.0, requests: float = 0.0) -> None:
        """Count what was used elsewhere: by an earlier run, say."""
        self._post(Entry(NOTHING, NOTHING, ADDED), Amount(cost, tokens, requests))

    def carry(self, source: str, amount: Amount, *, counted: bool = False) -> None:
        """Count what a source, such as a results file, has used in all; what was counted of it before is not added.

        Args:
            source: its name.
            amount: all that it has used until now.
            counted: all of it is counted already, by the calls themselves; it is only noted.
        """
        with self._mailbox:
            known = self._sources.get(source, NOTHING)
            self._sources[source] = Amount(*map(max, known, amount))
        if not counted:
            self.add(*(max(0.0, now - before) for now, before in zip(amount, known, strict=True)))

    def carried(self, source: str) -> Amount:
        """What was counted of a source."""
        with self._mailbox:
            return self._sources.get(source, NOTHING)

    def hold(
        self, cost: float = 0.0, tokens: float = 0.0, requests: float = 1.0, *, likely: Amount | None = None
    ) -> Hold:
        """An estimate of one call to hold, with ``with`` or ``async with``; nothing is held before it is entered.

        Args:
            cost: US dollars that it may take at the most.
            tokens: tokens likewise.
            requests: 1, or 0 for a further attempt of a call that is counted already.
            likely: what it will probably take, where the most is far from it: if the most does not fit, it still
                goes when nothing else is under way and this fits.
        """
        return Hold(self, Amount(cost, tokens, requests), likely)

    # -- scopes ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        _active.set((*_active.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not by a token: two tasks may be inside one budget and leave in any order.
        budgets = _active.get()
        for place in reversed(range(len(budgets))):
            if budgets[place] is self:
                _active.set(budgets[:place] + budgets[place + 1 :])
                return

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        given = [f"{name}={value:g}" for name, value in zip(("max_cost", "max_tokens", "max_requests"), self._most,
                                                            strict=True) if value < math.inf]  # fmt: skip
        return f"Budget({', '.join(given)})"

    # -- the books -------------------------------------------------------------------------------------------

    def _enter(self, entry: Entry, make_waiter: Callable[[], Waiter]) -> None:
        with self._mailbox:
            if not self._queue and self._may_go(entry):
                self._grant(entry)
            elif not self._fits(NOTHING, entry.likely):
                entry.state = REFUSED
            else:
                entry.waiter = make_waiter()
                self._queue.append(entry)
        self._wake()

    def _post(self, entry: Entry, used: Amount) -> None:
        """A call is over. Never waits; safe in a finaliser."""
        self._mailbox.post((entry, used))
        self._wake()

    def _settled(self, news: tuple[Entry, Amount]) -> None:
        """With the lock: take a finished call in, and see who may go now."""
        entry, used = news
        if entry.state == HELD:
            self._under_way.discard(entry)
            left = (held - own for held, own in zip(self._held, entry.amount, strict=True))
            self._held = Amount(*left) if self._under_way else NOTHING  # or roundings would add up
        if entry.state in (HELD, ADDED):
            self._spent = Amount(*(spent + own for spent, own in zip(self._spent, used, strict=True)))
        entry.state = OVER
        queue = self._queue
        while queue:
            head = queue[0]
            if head.state == OVER:  # whoever it was has left
                queue.popleft()
            elif self._may_go(head):
                queue.popleft()
                self._grant(head)
                self._woken.append(head)
            elif not self._fits(NOTHING, head.likely):
                queue.popleft()
                head.state = REFUSED
                self._woken.append(head)
            else:
                break

    def _grant(self, entry: Entry) -> None:
        entry.state = HELD
        self._under_way.add(entry)
        self._held = Amount(*(held + own for held, own in zip(self._held, entry.amount, strict=True)))

    def _may_go(self, entry: Entry) -> bool:
        """Whether there is room: for the most that it may take or, for one call alone, for what it probably takes."""
        return self._fits(self._held, entry.amount) or (not self._under_way and self._fits(NOTHING, entry.likely))

    def _fits(self, held: Amount, amount: Amount) -> bool:
        """Whether an amount fits beside what is spent and what is held."""
        return all(
            spent + other + own <= most * (1 + 1e-12)  # sums of cents in binary
            for spent, other, own, most in zip(self._spent, held, amount, self._most, strict=True)
        )

    def _after_fork(self) -> None:
        """In a child process: what is under way or waits is the parent's, and is never settled here."""
        for entry in (*self._under_way, *self._queue):
            entry.state = OVER
        self._under_way = set()
        self._queue = deque()
        self._woken = []
        self._held = NOTHING

    def _taken(self) -> tuple[float, ...]:
        return tuple(spent + held for spent, held in zip(self._spent, self._held, strict=True))

    def _wake(self) -> None:
        """Without the lock: tell those whose turn came."""
        while self._woken:
            try:
                entry = self._woken.pop()
            except IndexError:  # another thread was quicker
                return
            if entry.waiter is not None and not entry.waiter.wake():
                self._mailbox.post((entry, NOTHING))

    def _refusal(self, amount: Amount) -> BudgetExceeded:
        parts = [
            f"{name}: {unit}{spent:g} of {unit}{most:g} is spent, the call may take {unit}{own:g}"
            for name, unit, most, spent, own in self._figures(amount)
            if spent + own > most
        ]
        return BudgetExceeded(
            f"the call would break the budget ({'; '.join(parts)}); it was not made. Raise the budget to go on"
        )

    def _timeout(self, amount: Amount, seconds: float) -> LimitTimeout:
        parts = [
            f"{name}: {unit}{spent:g} of {unit}{most:g} is spent and more is held by calls under way, "
            f"the call may take {unit}{own:g}"
            for name, unit, most, spent, own in self._figures(amount)
            if most < math.inf
        ]
        return LimitTimeout(f"no room came free in the budget within {seconds:g} s ({'; '.join(parts)})")

    def _figures(self, amount: Amount) -> list[tuple[str, str, float, float, float]]:
        return list(zip(Amount._fields, ("$", "", ""), self._most, self._spent, amount, strict=True))


def active_budgets() -> tuple[Budget, ...]:
    """The budgets whose scopes this code runs in, each once."""
    return tuple(dict.fromkeys(_active.get()))


def in_order(*budgets: Budget) -> tuple[Budget, ...]:
    """Each once, and in the order in which all callers hold them: or two could wait for each other for ever."""
    return tuple(sorted(dict.fromkeys(budgets), key=lambda budget: budget._serial))


def _after_fork_in_child() -> None:
    for budget in list(_budgets):
        budget._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
