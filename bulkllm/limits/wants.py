"""What those who wait need of shared limits, and what will be needed in a moment if things go on as they did.

Only arithmetic may live here, as in :mod:`.leases`, which sees to it that it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from .lanes import WAITING, Lane, Ticket
from .leased import LeasedMeter, LeasedPool
from .pool import Amounts, Pool

AHEAD: Final = 0.25
"""Seconds of what goes out that are held in advance."""

_SAMPLE: Final = 64  # tickets that are looked at to know how large those are that wait
_FIRST_SLOTS: Final = 8  # slots that are asked for at first; then as many again as are in use


@dataclass(slots=True)
class Ask:
    """Something to be asked for.

    Attributes:
        name: what for, to know when it was asked for last.
        want: as :class:`~.stores.Claim` has it.
        least: likewise.
        over: meters of which all that is held is given up, and asked for together: two processes that hold a part each
            wait for ever otherwise.
        over_slots: likewise, pools with slots.
    """

    name: Hashable
    want: dict[str, float]
    least: dict[str, float] = field(default_factory=dict)
    over: tuple[LeasedMeter, ...] = ()
    over_slots: tuple[LeasedPool, ...] = ()


@dataclass(slots=True)
class Demand:
    """What those of a lane who wait could use at once.

    Attributes:
        lane: theirs.
        head: the first of them.
        pools: the shared limits among the lane's.
        count: how many could go, were it for shared limits only.
        average: how large they are.
    """

    lane: Lane
    head: Ticket
    pools: tuple[LeasedPool, ...]
    count: float
    average: Amounts

    @property
    def free_slots(self) -> float:
        """How many more may be in flight with what is held."""
        return min((pool.max_in_flight - pool.in_flight for pool in self.pools), default=math.inf)

    @property
    def meters(self) -> Iterator[LeasedMeter]:
        """All that counts over time."""
        return (meter for pool in self.pools for meter in pool.leased_meters)


def demands_of(lanes: Iterable[Lane], now: float) -> list[Demand]:
    """Who waits and could go at once, were it for shared limits only; the first in line first."""
    found = []
    for lane in lanes:
        if not lane.waiting or (head := lane.head()) is None:
            continue
        pools = tuple(pool for pool in lane.pools if isinstance(pool, LeasedPool))
        if not pools:
            continue
        count = min([float(lane.waiting), *(_room(pool, head.amounts, now) for pool in lane.pools)])
        if count >= 1:
            found.append(Demand(lane, head, pools, count, _average(lane)))
    return sorted(found, key=lambda demand: demand.head.order)


def asks_of(
    demands: Sequence[Demand], used: Iterable[LeasedPool], excess: Mapping[str, float], now: float
) -> list[Ask]:
    """What to ask for, each by itself: what one of them cannot have must not keep the others from theirs.

    Args:
        demands: who waits.
        used: the limits that this process uses.
        excess: by slots' key, how many are held that others wait for.
        now: seconds.
    """
    asks: list[Ask] = []
    seen: set[Pool] = set()
    for demand in demands:
        slots = _slots_for(demand, excess)
        if slots is not None:
            asks.append(slots)
        ask = _time_for(demand, now)
        if ask is not None:
            asks.append(ask)
            seen.update(demand.pools)
    waiting = {pool for demand in demands for pool in demand.pools}
    for pool in used:
        missed = None if pool in waiting else pool.missed
        if pool not in seen and (ask := _ahead_for(pool, missed, now)) is not None:
            asks.append(ask)
    return asks


def _slots_for(demand: Demand, excess: Mapping[str, float]) -> Ask | None:
    """Slots for those who wait: a few at first, then as many again as are in use."""
    lacking = demand.free_slots < 1
    want: dict[str, float] = {}
    over: list[LeasedPool] = []
    for pool in demand.pools:
        if pool.slots is None:
            continue
        if excess.get(pool.slots.key):
            return None
        free = pool.max_in_flight - pool.in_flight
        most = min(demand.count, max(_FIRST_SLOTS, 2 * pool.in_flight), pool.slots.quota - pool.in_flight)
        more = most if lacking else most - free
        if more >= 1:
            want[pool.slots.key] = float(math.floor(more))
            over.append(pool)
        elif lacking:
            return None  # all of them are ours, and in use
    least = dict.fromkeys(want, 1.0) if lacking else {}
    return Ask(("slots", demand.lane), want, least, over_slots=tuple(over) if lacking else ()) if want else None


def _time_for(demand: Demand, now: float) -> Ask | None:
    """Quota for those who wait and have slots, where what is held does not do for the first of them."""
    count = min(demand.count, demand.free_slots)
    meters = tuple(demand.meters)
    amounts = demand.head.amounts
    if count < 1 or all(meter.ready_at(amounts[meter.dimension], now) <= now for meter in meters):
        return None
    want: dict[str, float] = {}
    least: dict[str, float] = {}
    for meter in meters:
        need = amounts[meter.dimension]
        wanted = max(need, demand.average[meter.dimension] * count + meter.rate * AHEAD)
        if wanted > 0:
            key = meter.meter.key
            want[key] = float(math.floor(wanted)) if meter.meter.whole else wanted
            least[key] = need
    return Ask(("time", demand.lane), want, least, meters)


def _ahead_for(pool: LeasedPool, missed: Amounts | None, now: float) -> Ask | None:
    """Quota for what will be asked for in the next moment, if it goes on as it did."""
    want: dict[str, float] = {}
    least: dict[str, float] = {}
    short = False
    for meter in pool.leased_meters:
        free = max(0.0, meter.free(now))
        need = 0.0 if missed is None else missed[meter.dimension]
        ahead = max(meter.rate * AHEAD, need)
        short = short or free < max(meter.low, need)
        more = ahead - free
        if meter.meter.whole:
            more = float(math.floor(more + 0.5))
        if more > 0:
            want[meter.meter.key] = more
            if need > free:
                least[meter.meter.key] = need - free
    if pool.slots is not None and missed is not None and pool.max_in_flight - pool.in_flight < 1:
        want[pool.slots.key] = least[pool.slots.key] = 1.0
        short = True
    return Ask(("ahead", pool), want, least) if short and want else None


def _room(pool: Pool, amounts: Amounts, now: float) -> float:
    """How many more a pool that is not shared would let go at this moment."""
    if isinstance(pool, LeasedPool):
        return math.inf
    return pool.max_in_flight - pool.in_flight if pool.ready_at(amounts, now) <= now else 0.0


def _average(lane: Lane) -> Amounts:
    """How large those are that wait, going by the first of them."""
    waiting = [ticket.amounts for _, ticket in islice(lane.queue, _SAMPLE) if ticket.state == WAITING]
    sums = [sum(amounts) / len(waiting) for amounts in zip(*waiting, strict=True)] if waiting else [0.0] * 4
    return (sums[0], sums[1], sums[2], sums[3])
