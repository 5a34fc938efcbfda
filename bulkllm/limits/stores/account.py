"""One process's side of a shared group: what it holds, what it spent and has to report, and until when. Pure.

What may live here: bookkeeping between two claims, with the process's own monotonic clock coming in. No I/O, no lock:
whoever shares an account between threads guards it. A step with the store goes like this, and only the middle of it
takes time::

    claim = account.claim(now, want={...}, least={...})     # under the lock
    try:
        lease = store.lease(group, claim)                   # without it
    except StoreUnavailable:
        ...                                                 # nothing is lost: the next claim tells all of it again
    else:
        account.take_in(lease)                              # under the lock
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from typing import Final

from .base import Claim, Lease, Meter, Report, Spending

_TICK: Final = 0.02
"""Spending within this time (or a thousandth of the meter's period) is reported as one, by the moment of the latest."""

_REPORTS: Final = 16
"""Of more reports than this that nobody answered, the oldest become one (which could at worst be booked twice)."""

_Spent = dict[tuple[str, int], tuple[float, float]]
"""By meter and tick: how much, and the moment of the latest."""


class Account:
    """What one process has of one group.

    Quota that is held may be spent until the lease runs out, ``ttl`` after the last claim that was answered; then
    what is left of it is forgotten here, and a moment later by the store. Slots in use are not: their calls go on, and
    the next claim says so.

    Args:
        meters: of the group, as :class:`~.base.Claim` wants them.
        owner: a name that no other process has; made up unless given.
        ttl: seconds for which a lease may be spent. Claims should be made several times in that time.
    """

    def __init__(self, meters: Iterable[Meter], *, owner: str | None = None, ttl: float = 5.0) -> None:
        self.owner = owner or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.ttl = ttl
        self.expires_at = -math.inf
        self.define(meters)
        self._held: dict[str, float] = {}
        self._in_use: dict[str, float] = {}
        self._spent: _Spent = {}
        self._reports: list[tuple[int, _Spent]] = []  # as claimed, and not known to be booked
        self._serial = 0
        self._claimed_at: float | None = None

    def define(self, meters: Iterable[Meter]) -> None:
        """Which meters there are from now on; none may be missing that was there before."""
        self.meters = tuple(meters)
        self._slots = frozenset(meter.key for meter in self.meters if meter.kind == "slots")
        self._ticks = {meter.key: max(_TICK, meter.period / 1000) for meter in self.meters}
        # Older spending than this means nothing to a bucket that is full again, nor to a window.
        self._horizons = {m.key: max(m.period, m.size / m.quota * m.period, 2 * self.ttl) for m in self.meters}

    @property
    def unreported(self) -> bool:
        """Whether something was spent of which the store does not know, or may not."""
        return bool(self._spent or self._reports)

    def held(self, key: str, now: float) -> float:
        """What may be spent now: 0 once the lease has run out."""
        return self._held.get(key, 0.0) if now < self.expires_at else 0.0

    def spend(self, amounts: Mapping[str, float], now: float) -> None:
        """Something goes out now. Of slots: they are in use from now on.

        Whoever spends more than is held (because the store is away and the caller may go on) has it reported too.
        """
        for key, amount in amounts.items():
            if amount:
                self._held[key] = max(0.0, self.held(key, now) - amount)
                if key in self._slots:
                    self._in_use[key] = self._in_use.get(key, 0.0) + amount
                else:
                    self._note(key, amount, now, self._spent)

    def finish(self, key: str, amount: float, now: float) -> None:
        """Slots are not in use any more; they stay held until the next claim."""
        self._in_use[key] = max(0.0, self._in_use.get(key, 0.0) - amount)
        if now < self.expires_at:
            self._held[key] = self._held.get(key, 0.0) + amount

    def use(self, key: str, count: float, now: float) -> None:
        """So many slots are in use at this moment: instead of telling each that is taken and finished."""
        total = self.held(key, now) + self._in_use.get(key, 0.0)
        self._in_use[key] = count
        self._held[key] = max(0.0, total - count)

    def amend(self, key: str, amount: float, sent_at: float) -> None:
        """What was spent at a moment turns out to be this much more (negative: less)."""
        if amount:
            self._note(key, amount, sent_at, self._spent)

    def settle(self, key: str, amount: float, sent_at: float, now: float) -> None:
        """As :meth:`amend`, and what turns out not to be spent may be spent here once more, while the lease lasts."""
        self.amend(key, amount, sent_at)
        if amount > 0 or now < self.expires_at:
            self._held[key] = max(0.0, self._held.get(key, 0.0) - amount)

    def claim(
        self,
        now: float,
        *,
        want: Mapping[str, float] | None = None,
        least: Mapping[str, float] | None = None,
        keep: Mapping[str, float] | None = None,
        leaving: bool = False,
    ) -> Claim:
        """What to tell and to ask the store.

        Args:
            now: seconds, monotonic.
            want: as :class:`~.base.Claim` has it.
            least: likewise. Where the next request cannot go with what is held, give up what is held
                (``keep={}``) and ask for all it needs: two processes that hold a part each wait for ever otherwise.
            keep: how much of what is held (and not in use) is not given back; all of it unless said otherwise.
            leaving: give back all and be forgotten. Slots in use are given up too.
        """
        if now >= self.expires_at or leaving:
            self._held.clear()
        if keep is not None:
            self._held = {key: min(amount, keep.get(key, 0.0)) for key, amount in self._held.items()}
        if self._spent:
            self._serial += 1
            self._reports.append((self._serial, self._spent))
            self._spent = {}
        if len(self._reports) > _REPORTS:
            (_, eldest), (serial, second), *others = self._reports
            for (key, _), (amount, moment) in eldest.items():
                self._note(key, amount, moment, second)
            fresh = {tick: spent for tick, spent in second.items() if now - spent[1] <= self._horizons[tick[0]]}
            self._reports = [(serial, fresh), *others]
        self._claimed_at = now
        kept = {} if leaving else dict(self._held)
        if not leaving:
            for key, amount in self._in_use.items():
                kept[key] = kept.get(key, 0.0) + amount
        return Claim(
            self.owner,
            self.meters,
            self.ttl,
            want=want or {},
            least=least or {},
            keep=kept,
            reports=tuple(Report(serial, self._spendings(spent, now)) for serial, spent in self._reports),
            leaving=leaving,
        )

    def take_in(self, lease: Lease) -> None:
        """The store's answer to the last claim."""
        if self._claimed_at is None:
            return
        self._reports.clear()
        self.expires_at = self._claimed_at + self.ttl
        self._claimed_at = None
        for key, amount in lease.granted.items():
            self._held[key] = self._held.get(key, 0.0) + amount

    def _spendings(self, spent: _Spent, now: float) -> tuple[Spending, ...]:
        return tuple(
            Spending(key, amount, max(0.0, now - moment))
            for (key, _), (amount, moment) in spent.items()
            if amount and now - moment <= self._horizons[key]
        )

    def _note(self, key: str, amount: float, moment: float, spent: _Spent) -> None:
        tick = (key, math.floor(moment / self._ticks[key]))
        before, latest = spent.get(tick, (0.0, -math.inf))
        spent[tick] = (before + amount, max(latest, moment))
