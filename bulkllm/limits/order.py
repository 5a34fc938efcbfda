"""Who holds whom up, in one round of grants: the rule that nobody overtakes a ticket where it is held up.

Only arithmetic may live here, as in :mod:`.core`, which says what the rule is for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._waits import reason_of
from .lanes import Lane, Ticket
from .pool import Amounts, Pool


class Round:
    """What one round of grants has learnt of the heads that may not go yet.

    Attributes:
        alarm: when the first of the pools that hold a head up lets go of it.
    """

    __slots__ = ("_claims", "_held", "_watched", "alarm")

    def __init__(self) -> None:
        self.alarm = math.inf
        self._held: set[Pool] = set()
        # Pools that would let a head go which others hold up: they may cease to, as this round goes on.
        self._watched: list[tuple[Pool, Amounts, float]] = []
        # Such pools that must let a strict head go by the time that the others do.
        self._claims: list[tuple[Pool, Amounts, float]] = []

    def ready_at(self, ticket: Ticket, now: float, as_of: float) -> float:
        """Since when a head may go; infinity if it may not.

        Then nobody may overtake it in the pools that hold it up, and the alarm is due when the first of them lets
        go of it: then others may use that pool. Where it only stands behind others, their going is what to wait for.
        """
        ready = -math.inf
        behind = False
        holding: list[Pool] = []
        for pool in ticket.lane.pools:
            at = pool.ready_at(ticket.amounts, as_of)
            if at > ready:
                ready = at
            if pool in self._held:
                holding.append(pool)
                behind = True
            elif at > now:
                holding.append(pool)
                if at < self.alarm:
                    self.alarm = at
            elif self._claims and self._claimed(pool, ticket.amounts, now):
                holding.append(pool)
                behind = True
        if not holding:
            return ready
        self._hold_up(ticket, holding, ready, as_of, behind)
        return math.inf

    def granted(self, lane: Lane, now: float) -> None:
        """See whom this grant leaves too little for: from here on that pool holds it up too."""
        for pool, amounts, as_of in self._watched:
            if pool in lane.pools and pool not in self._held and (at := pool.ready_at(amounts, as_of)) > now:
                self._held.add(pool)
                if at < self.alarm:
                    self.alarm = at

    def _hold_up(self, ticket: Ticket, holding: list[Pool], ready: float, as_of: float, behind: bool) -> None:
        ticket.lane.held_by = reason(holding, ticket.amounts, as_of)
        if not ticket.strict:
            before = ticket.held_throughout
            ticket.held_throughout = frozenset(holding) if before is None else before.intersection(holding)
            ticket.strict = not ticket.held_throughout
        self._held.update(holding)
        for pool in ticket.lane.pools:
            if pool not in holding:
                self._watched.append((pool, ticket.amounts, as_of))
                if ticket.strict and not behind:
                    self._claims.append((pool, ticket.amounts, ready))

    def _claimed(self, pool: Pool, amounts: Amounts, now: float) -> bool:
        """Whether taking this from a pool would make a strict head go later."""
        return any(pool is other and pool.delays(amounts, wanted, until, now) for other, wanted, until in self._claims)


def reason(holding: Sequence[Pool], amounts: Amounts, now: float) -> str:
    """What holds a request up longest: a limit and its dimension."""
    pool = max(holding, key=lambda pool: pool.ready_at(amounts, now)) if len(holding) > 1 else holding[0]
    return reason_of(pool.bottleneck(amounts, now), pool.name)
