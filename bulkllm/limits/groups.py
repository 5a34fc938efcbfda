"""All lanes of a limiter, and which of them share limits.

Lanes that share pools, directly or through others, form a group: whoever is granted in one of them may be in the way of
those in the others. Nothing in one group ever touches another.

What may live here: which lanes there are, and their groups; who may go is decided in :mod:`.core`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from .lanes import Lane
from .origin import Origin
from .pool import Pool

# With more lanes than this, those of accounts that were not used for so many seconds are forgotten.
_MANY: Final = 1024
_IDLE: Final = 600.0


class Group:
    """Lanes that are connected through shared pools.

    Attributes:
        lanes: all of them, in the order in which they were made.
        busy: those in which somebody waits.
        waiting: how many wait, in all of them.
        alarm: when the next of them may go.
    """

    __slots__ = ("alarm", "busy", "lanes", "waiting")

    def __init__(self) -> None:
        self.lanes: dict[Lane, None] = {}
        self.busy: dict[Lane, None] = {}
        self.waiting = 0
        self.alarm = math.inf


class Lanes:
    """All lanes, in the order in which they were made.

    Args:
        set_alarm: called where a group is to be seen to at a moment.

    Attributes:
        known: the lanes that were asked for, by model, or by model and origin.
    """

    def __init__(self, set_alarm: Callable[[Group, float], None]) -> None:
        self.known: dict[str | tuple[str, Origin], Lane] = {}
        self._by_pools: dict[tuple[Pool, ...], Lane] = {}
        self._groups: dict[Pool, Group] = {}  # that the lanes of a configured limit are in
        self._set_alarm = set_alarm
        self._sweep_at = _MANY

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._by_pools.values())

    def of(self, pools: tuple[Pool, ...], now: float) -> Lane:
        """The lane of those who need these pools; made if there is none."""
        lane = self._by_pools.get(pools)
        if lane is None:
            if len(self._by_pools) >= self._sweep_at:
                self._forget_idle(now)
            lane = Lane(pools)
            lane.used_at = now
            self.add(lane)
        return lane

    def add(self, lane: Lane) -> None:
        """Put a lane into the group of those it shares pools with, uniting groups that it connects."""
        self._by_pools[lane.pools] = lane
        shared = [pool for pool in lane.pools if pool is not lane.discovered]
        united = list(dict.fromkeys(self._groups[pool] for pool in shared if pool in self._groups))
        group = united[0] if united else Group()
        for absorbed in united[1:]:
            for other in absorbed.lanes:
                other.group = group
            group.lanes |= absorbed.lanes
            group.busy |= absorbed.busy
            group.waiting += absorbed.waiting
            if absorbed.alarm < group.alarm:
                self._set_alarm(group, absorbed.alarm)
            absorbed.alarm = math.inf  # its alarm would see to these lanes alone, past those who stand before them
            self._groups |= {pool: group for pool, other in self._groups.items() if other is absorbed}
        self._groups |= dict.fromkeys(shared, group)
        lane.group = group
        lane.forgotten = False
        group.lanes[lane] = None

    def _forget_idle(self, now: float) -> None:
        """Forget the lanes of accounts that nobody has used for a while; what was learned of them may be remembered."""
        idle = {lane for lane in self if _is_idle(lane, now)}
        for lane in idle:
            del self._by_pools[lane.pools]
            lane.group.lanes.pop(lane, None)
            lane.forgotten = True
        for key in [key for key, lane in self.known.items() if lane in idle]:
            del self.known[key]
        self._sweep_at = max(_MANY, 2 * len(self._by_pools))


def _is_idle(lane: Lane, now: float) -> bool:
    """Whether a lane of somebody's account holds nothing that matters."""
    discovered = lane.discovered
    if discovered is None or lane.waiting or lane.in_flight or lane.used_at >= now - _IDLE:
        return False
    return discovered.closed_until <= now and discovered.spent(now) is None
