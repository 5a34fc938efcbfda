"""A store whose ledgers are kept by this process: all that such stores have in common.

What may live here: the interface of a :class:`~.base.Store` in terms of "do this with that group's ledger".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from .base import Claim, Lease, Meter, Store, View, check_closing, check_correction, settles
from .ledger import Ledger

Result = TypeVar("Result")


class LedgerStore(Store):
    """A store that can lay hands on a group's ledger."""

    @abstractmethod
    def _with_ledger(self, group: str, work: Callable[[Ledger, float], Result], *, change: bool = True) -> Result:
        """What ``work`` returns, given the ledger and the clock, while nobody else has that ledger.

        Args:
            group: whose.
            work: called once, or twice if the first time came to nothing.
            change: whether the ledger is to be kept as ``work`` leaves it.
        """

    def lease(self, group: str, claim: Claim) -> Lease:
        """See :meth:`.base.Store.lease`."""
        lease = self._with_ledger(group, lambda ledger, clock: ledger.lease(claim, clock))
        if isinstance(lease, float):
            raise settles(self, lease)
        return lease

    def correct(
        self,
        group: str,
        meter: Meter,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        ago: float = 0.0,
    ) -> bool:
        """See :meth:`.base.Store.correct`."""
        check_correction(meter, (at_least, at_most), ago)
        return self._with_ledger(group, lambda ledger, clock: ledger.correct(meter, at_least, at_most, ago, clock))

    def close(self, group: str, pool: str, seconds: float, *, replace: bool = False) -> float:
        """See :meth:`.base.Store.close`."""
        check_closing(seconds)
        return self._with_ledger(group, lambda ledger, clock: ledger.close(pool, seconds, replace, clock))

    def closed_for(self, group: str, pool: str) -> float:
        """See :meth:`.base.Store.closed_for`."""
        return self.look(group).closed.get(pool, 0.0)

    def look(self, group: str) -> View:
        """See :meth:`.base.Store.look`."""
        return self._with_ledger(group, lambda ledger, clock: ledger.look(clock), change=False)
