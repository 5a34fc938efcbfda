"""Who stands in line for which limits: tickets, and the lanes they stand in.

Only values and queues may live here; who may go is decided in :mod:`.core`.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final, Protocol

from .bucket import Grain, TokenBucket
from .discovery import Discovered, Passage
from .pool import Amounts, Pool
from .spec import REQUESTS
from .undecided import Probe
from .word import Closing

if TYPE_CHECKING:
    from .groups import Group

# A ticket's life.
NEW: Final = 0
WAITING: Final = 1
GRANTED: Final = 2
SETTLED: Final = 3
TURNED_AWAY: Final = 4  # a quota of a day or longer is spent, and it does not wait for the next


class Waiter(Protocol):
    """Whoever stands behind a ticket that waits; called without any lock held."""

    def is_away(self) -> bool:
        """Whether it could not go on now if it were woken (its event loop stands still)."""

    def wake(self) -> bool:
        """Tell it that its ticket was granted or turned away. False if it never will hear of it: its loop is closed."""


class Ticket:
    """One request's claim. Belongs to the core: nobody else changes it.

    It has only what it needs (most never wait, and many lanes are plain): making one is part of each call's price.
    """

    __slots__ = (
        "amounts",
        "closing",
        "full",
        "grains",
        "held_by",
        "held_throughout",
        "lane",
        "opens_by",
        "order",
        "passage",
        "patience",
        "probes",
        "since",
        "state",
        "strict",
        "waiter",
    )

    def __init__(self, lane: Lane, amounts: Amounts) -> None:
        self.lane = lane
        self.amounts = amounts
        self.waiter: Waiter | None = None
        self.state = NEW
        if lane.buckets is None:
            self.grains: list[Grain] | None = None
            self.passage: Passage | None = None  # as the discovered pool sees it
            self.full: tuple[tuple[TokenBucket, float], ...] = ()  # buckets that it found full, and when
            self.probes: list[Probe] = []  # which it was sent to answer

    def stand_in_line(self, order: tuple[float, int], patience: float) -> None:
        """It has to wait, before all that have a greater order; so many seconds at most for a quota that is spent."""
        self.order = order
        self.patience = patience
        self.opens_by: float | None = None  # until when it waits for that
        self.closing: Closing | None = None  # what it was turned away for
        self.since = 0.0
        self.held_throughout: frozenset[Pool] | None = None
        self.strict = False
        self.held_by = ""  # what it waited for in the end

    def gives_up(self, now: float) -> bool:
        """Whether a quota of a day or longer is spent, and it does not wait until the next."""
        discovered = self.lane.discovered
        closing = None if discovered is None else discovered.spent(now)
        if closing is None:
            return False
        if self.opens_by is None:
            self.opens_by = now + self.patience
        self.closing = closing
        return closing.until > self.opens_by


class Lane:
    """The queue of those who need the same set of pools."""

    __slots__ = (
        "buckets",
        "counts_in_flight",
        "discovered",
        "forgotten",
        "group",
        "held_by",
        "impatient",
        "in_flight",
        "pools",
        "queue",
        "used_at",
        "waiting",
        "windows",
    )

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        self.pools = pools
        for pool in pools:
            pool.in_use = True
        self.discovered = next((pool for pool in pools if isinstance(pool, Discovered)), None)
        self.windows = tuple(window for pool in pools for window in pool.windows)
        self.buckets = _plain(pools)  # None where there is more to a grant than to take from these
        self.counts_in_flight = any(pool.max_in_flight < math.inf for pool in pools)
        self.held_by = ""  # what its head waits for
        self.queue: list[tuple[tuple[float, int], Ticket]] = []
        self.waiting = 0
        self.impatient = 0  # how many of those who wait do not wait for ever
        self.in_flight = 0
        self.used_at = -math.inf  # when somebody last asked for a grant, or had used one
        self.forgotten = True  # it is in no group, now or again
        self.group: Group

    @property
    def counts_output_late(self) -> bool:
        """Whether the provider counts output when it is produced, and not when the request arrives, as far as known."""
        return self.discovered is not None and self.discovered.counts_output_late

    @property
    def has_windows(self) -> bool:
        """Whether anything counts a sliding window, in which what is granted has no end before it is sent."""
        return bool(self.windows) or (self.discovered is not None and self.discovered.has_windows)

    @property
    def counts_tokens(self) -> bool:
        """Whether any limit counts tokens."""
        return any(meter.dimension != REQUESTS for pool in self.pools for meter in pool.live)

    def head(self) -> Ticket | None:
        """The first that still waits. Those who left are dropped here."""
        queue = self.queue
        while queue:
            ticket = queue[0][1]
            if ticket.state == WAITING:
                return ticket
            heapq.heappop(queue)
        return None

    def ready_at(self, amounts: Amounts, now: float) -> float:
        """When all pools of the lane could let the amounts in."""
        ready = -math.inf
        for pool in self.pools:
            at = pool.ready_at(amounts, now)
            if at > ready:
                ready = at
        return ready


def _plain(pools: tuple[Pool, ...]) -> tuple[TokenBucket, ...] | None:
    """All meters of the pools, where they are nothing but token buckets."""
    if any(type(pool) is not Pool for pool in pools):
        return None
    meters = [meter for pool in pools for meter in pool.meters]
    buckets = tuple(meter for meter in meters if type(meter) is TokenBucket)
    return buckets if len(buckets) == len(meters) else None
