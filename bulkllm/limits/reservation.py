"""One request's claim on quota, as its owner sees it: waiting for it, using it up, giving it back.

What may live here: waiting in threads and tasks, and what becomes of a reservation. The books are the limiter's.
"""

from __future__ import annotations

import math
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast

from .._waiters import TaskWaiter, ThreadWaiter
from ..errors import ConfigError, LimitTimeout
from .lanes import GRANTED, TURNED_AWAY, Ticket
from .origin import Origin
from .pool import Amounts
from .word import Word

if TYPE_CHECKING:
    from .shell import Shell

# What may be told of a ticket through the deque.
SETTLE: Final = 0
STAMP: Final = 1
PASS_OVER: Final = 2
SENT: Final = 3
HEARD: Final = 4


class Reservation:
    """A claim on the quota of one request, to be used with ``with`` or ``async with``.

    Entering waits until all limits let the request go. Leaving settles it: what :meth:`reconcile` said counts;
    without it the estimate does; leaving by an exception gives everything back, unless :meth:`mark_sent` was called:
    a request that was sent stays counted. Settling never waits and never awaits; once settled, further calls
    change nothing. A reservation that is dropped is settled by the garbage collector.
    """

    __slots__ = (
        "__weakref__",
        "_amounts",
        "_limiter",
        "_patience",
        "_sent",
        "_ticket",
        "_timeout",
        "front",
        "model",
        "origin",
        "priority",
        "waited",
        "waited_for",
    )

    def __init__(
        self,
        limiter: Shell,
        model: str,
        amounts: Amounts,
        timeout: float | None,
        priority: float,
        front: bool,
        origin: Origin | None = None,
        patience: float = 0.0,
    ) -> None:
        self.model = model
        self.origin = origin
        self.priority = priority
        self.front = front
        self.waited = 0.0
        self.waited_for = ""
        self._limiter = limiter
        self._amounts = amounts
        self._timeout = timeout
        self._patience = patience if timeout is None or patience < timeout else timeout
        self._ticket: Ticket | None = None
        self._sent = False

    # -- getting it ------------------------------------------------------------------------------------------

    def acquire(self) -> Self:
        """Wait in this thread until the request may go.

        Raises:
            LimitTimeout: it may not within the timeout; nothing is held.
            QuotaExhausted: a quota of a day or longer is spent, and is not waited for; nothing is held.
            ImpossibleRequest: it never may.
        """
        if self._ticket is None:
            waiter = self._limiter._request(self, ThreadWaiter)
            if waiter is not None:
                self._wait_in_thread(cast("ThreadWaiter", waiter))
        return self

    async def aacquire(self) -> Self:
        """Wait in this task until the request may go. Raises as :meth:`acquire` does."""
        if self._ticket is None:
            waiter = self._limiter._request(self, TaskWaiter)
            if waiter is not None:
                await self._wait_in_task(cast(TaskWaiter, waiter))
        return self

    def _wait_in_thread(self, waiter: ThreadWaiter) -> None:
        began = time.monotonic()
        longest = -1 if self._timeout is None else min(max(self._timeout, 0.0), threading.TIMEOUT_MAX)
        try:
            waiter.gate.acquire(timeout=longest)
        except BaseException:  # interrupted: whatever happened meanwhile, nothing is held
            self._note(time.monotonic() - began)
            self.refund()
            raise
        self._begin(time.monotonic() - began)

    async def _wait_in_task(self, waiter: TaskWaiter) -> None:
        began = time.monotonic()
        timer = None if self._timeout is None else waiter.loop.call_later(self._timeout, waiter.resolve)
        try:
            await waiter.future
            while waiter.away and (ticket := self._ticket) is not None:
                if timer is not None and timer.when() <= waiter.loop.time():
                    break  # its time ran out while its loop stood still: the timer will not ring again
                waiter.renew()
                self._limiter._resume(ticket)
                await waiter.future
        except BaseException:  # cancelled or closed: whatever happened meanwhile, nothing is held
            self._note(time.monotonic() - began)
            self.refund()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        self._limiter._help_from(waiter.loop)
        self._begin(time.monotonic() - began)

    def _note(self, waited: float) -> None:
        """Keep how long it waited, and what for: in the end, or until it gave up."""
        self.waited = waited
        ticket = self._ticket
        if ticket is not None:
            self.waited_for = ticket.held_by or ticket.lane.held_by

    def _begin(self, waited: float) -> None:
        """The caller goes on: with a grant, or because its time is over."""
        self._note(waited)
        ticket = self._ticket
        if ticket is None or ticket.state != GRANTED:
            turned_away = ticket is not None and ticket.state == TURNED_AWAY
            self.refund()
            if ticket is not None and turned_away and ticket.closing is not None:
                raise self._limiter._exhausted(self.model, ticket.closing)
            raise LimitTimeout(
                f"no quota for {self.model} within {self._timeout:g} s; raise the limit or the timeout, or ask for less"
            )
        if ticket.lane.windows or ticket.lane.discovered is not None:
            self._limiter._post(STAMP, ticket)

    # -- using it up -----------------------------------------------------------------------------------------

    def mark_sent(self) -> None:
        """Say that the request goes out now. From here on it stays counted, whatever becomes of it."""
        self._sent = True
        ticket = self._ticket
        if ticket is not None and (ticket.lane.windows or ticket.lane.discovered is not None):
            self._limiter._post(SENT, ticket)

    def is_overtaken(self) -> bool:
        """Whether the provider has refused something since this was granted, so that nothing may go now."""
        ticket = self._ticket
        return ticket is not None and self._limiter._is_closed(ticket)

    def heard(self, word: Word) -> None:
        """Say what the provider's answer says of its limits, while the request is still under way (a stream)."""
        ticket = self._ticket
        if ticket is not None and ticket.lane.discovered is not None:
            self._limiter._post(HEARD, ticket, None, word)

    def reconcile(
        self, *, input_tokens: float | None = None, output_tokens: float | None = None, word: Word | None = None
    ) -> None:
        """Settle with what the request really used; what is not given counts as estimated. May go into debt.

        ``word``: what the provider's answer says of its limits.

        Raises:
            ConfigError: a number of tokens is negative or not a number; nothing is settled.
        """
        _, _, estimated_input, estimated_output = self._amounts
        used_input = estimated_input if input_tokens is None else input_tokens
        used_output = estimated_output if output_tokens is None else output_tokens
        self._settle(amounts_of(used_input, used_output), word)

    def charge(self, amounts: Amounts, word: Word | None = None) -> None:
        """Settle with what the provider counted, in all dimensions."""
        self._settle(amounts, word)

    def release(self, *, keep_tokens: bool = True, word: Word | None = None) -> None:
        """Settle a request that was sent and failed: it stays counted, its tokens if ``keep_tokens``."""
        self._settle(self._amounts if keep_tokens else (1.0, 0.0, 0.0, 0.0), word)

    def refund(self) -> None:
        """Settle a request that was never sent: everything is given back."""
        self._settle(None)

    def _settle(self, actual: Amounts | None, word: Word | None = None) -> None:
        ticket = self._ticket
        if ticket is not None:
            self._ticket = None
            self._sent = False  # it may be entered again
            self._limiter._settle(ticket, actual, word)

    # -- as a context ----------------------------------------------------------------------------------------

    __enter__ = acquire
    __aenter__ = aacquire

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticket is not None:
            self._settle(self._amounts if kind is None or self._sent else None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticket is not None:
            self._settle(self._amounts if kind is None or self._sent else None)

    def __del__(self) -> None:
        if self._ticket is not None:
            self._settle(self._amounts if self._sent else None)


def amounts_of(input_tokens: float, output_tokens: float) -> Amounts:
    """What a request of so many tokens takes of each dimension."""
    total = input_tokens + output_tokens
    if not (input_tokens >= 0 and output_tokens >= 0 and total < math.inf):  # this way round NaN does not pass
        raise ConfigError(
            f"tokens must be numbers of 0 or more: input_tokens={input_tokens}, output_tokens={output_tokens}"
        )
    return (1.0, total, input_tokens, output_tokens)
