"""What a process asks of a store of shared limits, what it gives back, and when.

Only arithmetic may live here: no lock, no clock (``now`` comes in, in seconds), no I/O. :mod:`.keeper` carries the
claims to the store.

How much is asked for follows demand: what those who wait need and can use at once, and what goes out in the next
moment if it goes on as it did. What is held beyond that goes back with the next claim, and all of it when nothing
was wanted for a while. So whoever is busy among idle ones finds everything free, and busy ones share evenly: the store
sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Final, NamedTuple

from .feedback import Observation
from .lanes import Lane
from .leased import LeasedMeter, LeasedPool, Stir, store_names
from .pool import Pool
from .sharing import Sharing
from .spec import RateLimit
from .stores import Account, Claim, Lease, Meter
from .wants import AHEAD, Ask, Demand, asks_of, demands_of

PAUSE: Final = 0.03
"""Seconds between two claims for the same thing at least."""

TELL_AFTER: Final = 0.5
"""Seconds after which what was spent, and what is held in vain, is told at the latest."""

IDLE_AFTER: Final = 1.0
"""Seconds without any demand after which everything is given back."""

_FADES_IN: Final = 0.5  # seconds over which demand is averaged
_PEAK_FADES_IN: Final = 2.0
_SURELY: Final = 0.02  # of a quota: what must be missing at least before somebody else is suspected
_CORRECT_EVERY: Final = 1.0
_SAME_PERIOD: Final = 0.01
_FIRST_RETRY: Final = 0.1
_LONGEST_RETRY: Final = 1.0


class Correction(NamedTuple):
    """Of a meter there was at most so much left so many seconds ago."""

    meter: Meter
    at_most: float
    ago: float


class Leases:
    """A process's leases of all limits of a limiter.

    Args:
        limits: the limits.
        sharing: how they are shared.
        stir: called where the store should be asked.
        owner: a name that no other process has; made up unless given.
    """

    def __init__(self, limits: Iterable[RateLimit], sharing: Sharing, stir: Stir, *, owner: str | None = None) -> None:
        specs = list(limits)
        self.account = Account((), owner=owner, ttl=sharing.ttl)
        share = sharing.share if sharing.when_away == "share" else None
        self.pools = tuple(
            LeasedPool(spec, name, self.account, stir, share)
            for spec, name in zip(specs, store_names(specs), strict=True)
        )
        self.away = False
        self.back_at: float | None = None  # when it is back, where it says so
        self.wake_at = math.inf
        self._stir = stir
        self._used: tuple[LeasedPool, ...] = ()
        self._ask_at: dict[Hashable, float] = {}
        self._asked: Ask | None = None
        self._leaving = False
        self._known = False  # the store holds something of ours, or may
        self._told_at = -math.inf
        self._active_at = -math.inf
        self._measured_at = -math.inf
        self._retry_at = -math.inf
        self._retry = _FIRST_RETRY
        self._excess: dict[str, float] = {}

    # -- what the keeper calls -------------------------------------------------------------------------------

    def next(self, lanes: Iterable[Lane], now: float) -> Claim | None:
        """A claim to make now; or None, and ``wake_at`` says when to come again.

        After each claim either :meth:`took` or :meth:`failed` is called, and then this again.
        """
        lanes = list(lanes)
        self._see(lanes)
        self._lend(now)
        demands = demands_of(lanes, now)
        self._measure(demands, now)
        if self._is_idle(demands, now):
            return self._leave(now)
        if now < self._retry_at:
            self.wake_at = self._retry_at
            return None
        asks = asks_of(demands, self._used, self._excess, now)
        for ask in asks:
            if self._ask_at.get(ask.name, -math.inf) <= now:
                return self._claim(ask, demands, asks, now)
        if self.away or now >= self._tell_at(now):
            return self._claim(None, demands, asks, now)
        asking = [self._ask_at[ask.name] for ask in asks]
        idle = [self._active_at + IDLE_AFTER] if self._known and not self._in_flight else []
        heard = [
            meter.corrected_at + _CORRECT_EVERY
            for pool in self._used
            for meter in pool.leased_meters
            if meter.told is not None
        ]
        tell_at = self._tell_at(now)
        if self._known and tell_at == math.inf:  # the store will forget us by itself
            tell_at = self._told_at + self.account.ttl
            self._known = now < tell_at
            tell_at = tell_at if self._known else math.inf
        self.wake_at = min([*asking, *idle, *heard, tell_at])
        return None

    def took(self, lease: Lease, now: float, pause: float = PAUSE) -> None:
        """The store has answered.

        Args:
            lease: what it said.
            now: seconds.
            pause: seconds until the same may be asked for again.
        """
        self.account.take_in(lease)
        self._told_at = now
        self._known = not self._leaving
        self.back_at = None
        self._retry_at = -math.inf
        self._retry = _FIRST_RETRY
        self._excess = dict(lease.excess)
        for pool in self._used:
            if pool.slots is not None:
                pool.fresh += lease.granted.get(pool.slots.key, 0.0)
        if self._asked is not None:
            self._ask_at = {name: at for name, at in self._ask_at.items() if at > now}
            wait = min(lease.retry_after, self.account.ttl / 3)
            self._ask_at[self._asked.name] = now + max(wait, pause)
        for pool in self._used:
            for meter in pool.leased_meters:
                meter.everywhere = lease.left.get(meter.meter.key, meter.everywhere)
        if self.away:
            self.away = False
            for pool in self.pools:
                pool.regain()
        self._lend(now)

    def failed(self, now: float, chance: float = 0.5, retry_after: float | None = None) -> None:
        """The store is away.

        Args:
            now: seconds.
            chance: from 0 to 1; keeps processes from coming back all at once.
            retry_after: when to come again, where the store says so.
        """
        self._asked = None
        self.back_at = None if retry_after is None else now + retry_after
        if self.back_at is not None:
            self._retry_at = self.back_at
        else:
            self._retry_at = now + self._retry * (0.5 + chance)
            self._retry = min(_LONGEST_RETRY, 2 * self._retry)
        if not self.away:
            self.away = True
            for pool in self.pools:
                pool.lose(now)
        self._lend(now)

    def give_back(self, now: float, *, leaving: bool = False) -> Claim:
        """A claim that gives back all that is held; ``leaving``: slots in use too, for the process ends."""
        self._asked = None
        self._leaving = leaving or not self._in_flight
        for pool in self._used:
            pool.missed = None
            for meter in pool.leased_meters:
                meter.taken = meter.rate = meter.low = 0.0  # nothing is held ahead before somebody asks
            if pool.slots is not None:
                self.account.use(pool.slots.key, pool.in_flight, now)
        keep = {meter.meter.key: meter.pending for pool in self._used for meter in pool.leased_meters}
        want = {meter.key: 0.0 for pool in self._used for meter in pool.store_meters}
        claim = self.account.claim(now, want={} if self._leaving else want, keep=keep, leaving=self._leaving)
        self._lend(now)
        return claim

    # -- what the provider says ------------------------------------------------------------------------------

    def hear(self, pools: Iterable[Pool], told: Iterable[Observation], sent_at: float, now: float) -> list[Observation]:
        """Take in what an answer's headers say of shared limits.

        What the others use is in those numbers, so that a process by itself would take it for a stranger's. Only
        where less is left than all of them together know of, somebody else spends too: then the store is to hear it.

        Args:
            pools: the request's.
            told: the headers.
            sent_at: when the request was sent.
            now: seconds.

        Returns:
            What is not of a shared limit, or is of one that is smaller than was configured.
        """
        rest = []
        for seen in told:
            meter = _meant(pools, seen)
            if meter is None:
                rest.append(seen)
            elif seen.remaining is not None and now < self.account.expires_at:
                unknown = meter.quota / meter.period * (now - self._told_at + TELL_AFTER)
                slack = max(_SURELY * meter.quota, seen.names.rounding + unknown)
                if seen.remaining + slack < meter.remaining(now) and (meter.told is None or meter.told[1] < sent_at):
                    meter.told = (seen.remaining + seen.names.rounding, sent_at)
                    self._stir(max(now, meter.corrected_at + _CORRECT_EVERY), False)
        return rest

    def correction(self, now: float) -> Correction | None:
        """What the provider said that the store should hear now. Afterwards :meth:`next` is called again."""
        if self.away:
            return None
        for pool in self._used:
            for meter in pool.leased_meters:
                if meter.told is not None and now >= meter.corrected_at + _CORRECT_EVERY:
                    at_most, sent_at = meter.told
                    meter.told = None
                    meter.corrected_at = now
                    return Correction(meter.meter, at_most, max(0.0, now - sent_at))
        return None

    @property
    def anything_left(self) -> bool:
        """Whether the store should hear of this process once more before it ends."""
        return self._known or bool(self._used and self.account.unreported)

    @property
    def may_rest(self) -> bool:
        """Whether nothing is to be expected but what begins with somebody who waits."""
        return not self._known and not self._in_flight and not self.account.unreported

    # -- what is wanted --------------------------------------------------------------------------------------

    @property
    def _in_flight(self) -> bool:
        return any(pool.in_flight for pool in self._used)

    def _see(self, lanes: Iterable[Lane]) -> None:
        """Notice limits that are used for the first time, or count otherwise than before."""
        before = self._used  # a lane may be forgotten meanwhile: its limits are not
        used = tuple(p for p in self.pools if p in before or any(p in lane.pools for lane in lanes))
        meters = tuple(meter for pool in used for meter in pool.store_meters)
        if meters != self.account.meters:
            self._used = used
            self.account.define(meters)

    def _measure(self, demands: list[Demand], now: float) -> None:
        """See how much goes out a second, and whether anything is wanted at all."""
        if demands or any(pool.missed is not None for pool in self._used):
            self._active_at = now
        elapsed = now - self._measured_at
        if elapsed < PAUSE / 2:
            return
        fresh = self._measured_at == -math.inf
        self._measured_at = now
        for pool in self._used:
            pool.peak = max(pool.in_flight, pool.peak * (0.0 if fresh else math.exp(-elapsed / _PEAK_FADES_IN)))
            for meter in pool.leased_meters:
                if meter.taken:
                    self._active_at = now
                weight = 0.0 if fresh else 1 - math.exp(-elapsed / _FADES_IN)
                meter.rate += (meter.taken / max(elapsed, PAUSE) - meter.rate) * weight
                meter.taken = 0.0
                meter.low = meter.rate * AHEAD / 2 if meter.rate * AHEAD >= 1 else 0.0

    # -- claims ----------------------------------------------------------------------------------------------

    def _claim(self, ask: Ask | None, demands: list[Demand], asks: list[Ask], now: float) -> Claim:
        self._asked = ask
        self._leaving = False
        for pool in self._used:
            pool.missed = None
        keep = self._keep(demands, now)
        for meter in ask.over if ask is not None else ():
            keep[meter.meter.key] = meter.pending
        for pool in ask.over_slots if ask is not None else ():
            if pool.slots is not None:
                keep[pool.slots.key] = 0.0
        # Of what nothing more is wanted, the store need not keep a part for us.
        still = {key for each in asks for key in each.want}
        done = {meter.key: 0.0 for meter in self.account.meters if meter.key not in still}
        want, least = (ask.want, ask.least) if ask is not None else ({}, {})
        claim = self.account.claim(now, want=done | want, least=least, keep=keep)
        self._known = True
        self._lend(now)
        return claim

    def _keep(self, demands: list[Demand], now: float) -> dict[str, float]:
        """How much of what is held will be of use."""
        keep: dict[str, float] = {}
        for pool in self._used:
            mine = [demand for demand in demands if pool in demand.pools]
            for meter in pool.leased_meters:
                # Who has no slot holds nothing: whoever has one may be waiting for it.
                wanted = sum(
                    demand.average[meter.dimension] * min(demand.count, max(0.0, demand.free_slots)) for demand in mine
                )
                useful = max(0.0, wanted + 2 * meter.rate * AHEAD)
                useful = math.ceil(useful) if meter.meter.whole else useful
                keep[meter.meter.key] = meter.pending + min(max(0.0, meter.free(now)), useful)
            if pool.slots is not None:
                key = pool.slots.key
                wanted = sum(demand.count for demand in mine)
                useful = max(wanted, math.ceil(pool.peak) - pool.in_flight)
                keep[key] = max(0.0, min(self.account.held(key, now), useful, pool.max_in_flight - pool.in_flight))
        return keep

    def _leave(self, now: float) -> Claim | None:
        """Nothing was wanted for a while."""
        self.wake_at = math.inf
        if self.away and now < self._retry_at:
            self.wake_at = self._retry_at
            return None
        return self.give_back(now, leaving=True) if self.anything_left else None

    def _is_idle(self, demands: list[Demand], now: float) -> bool:
        return not demands and not self._in_flight and now >= self._active_at + IDLE_AFTER

    def _tell_at(self, now: float) -> float:
        """When to make a claim that asks for nothing."""
        if any(self._overstays(pool, now) for pool in self._used):
            return self._told_at + PAUSE
        holds = any(self.account.held(meter.key, now) > 0 for meter in self.account.meters)
        if self.account.unreported or (holds and now < self._active_at + 2 * IDLE_AFTER):
            return self._told_at + min(TELL_AFTER, self.account.ttl / 3)
        uses = any(pool.in_flight for pool in self._used if pool.slots is not None)
        return self._told_at + self.account.ttl / 3 if holds or uses else math.inf

    def _overstays(self, pool: LeasedPool, now: float) -> bool:
        """Whether slots are free that others wait for."""
        slots = pool.slots
        if slots is None or not self._excess.get(slots.key):
            return False
        self.account.use(slots.key, pool.in_flight, now)
        return self.account.held(slots.key, now) > max(0.0, pool.max_in_flight - pool.in_flight)

    def _lend(self, now: float) -> None:
        for pool in self._used:
            pool.lend(0.0 if pool.slots is None else self._excess.get(pool.slots.key, 0.0), now)


def _meant(pools: Iterable[Pool], seen: Observation) -> LeasedMeter | None:
    """The shared limit that a header speaks of, unless it tells a smaller quota than that."""
    meant = [
        meter
        for pool in pools
        if isinstance(pool, LeasedPool)
        for meter in pool.leased_meters
        if meter.name == seen.names.dimension and abs(meter.period / seen.names.period - 1) < _SAME_PERIOD
    ]
    smallest = min(meant, key=lambda meter: meter.quota, default=None)
    if smallest is None or (seen.limit is not None and seen.limit < smallest.quota * (1 - _SURELY)):
        return None
    return smallest
