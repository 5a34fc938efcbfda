"""A group's books: what is left, who holds how much of it, who waits, and what is closed. Pure.

What may live here: what a store does in one atomic step, with the time coming in and the state as plain data, so that
any store can keep it. ``lease.lua`` says the same in the language of Redis; the tests hold the two together.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from .base import Claim, Lease, Meter, View
from .gauge import Gauge, definition_of
from .revival import Settling, settles_in
from .shares import Rival, share, water_level

DEMAND_LASTS: Final = 2.0
"""Seconds for which a share is kept for somebody who asked, and then for when it was told to ask again."""

LOOK_AGAIN: Final = 0.1
"""When to ask again where it is not time that helps, but what others do."""

SOONEST: Final = 0.001
"""Nobody is told to ask again earlier than after this."""

CLOCK_STEP: Final = 1.0
"""A clock that goes back by less stands still until it has caught up; by more, it was set, and counts on from there."""


class Demand(NamedTuple):
    """What an owner asked for, and will probably ask for again in a moment.

    Attributes:
        want: how much.
        need: less than this is of no use to it.
        until: when this is forgotten.
        since: since when it has been waiting for it.
        waiting: whether it did not get all of it.
    """

    want: float
    need: float
    until: float
    since: float
    waiting: bool


class _Ask(NamedTuple):
    """What is asked of one meter, and what could be had."""

    key: str
    gauge: Gauge
    want: float
    least: float
    own: Rival
    held: float
    free: float
    offer: float
    reserved: float
    now: float

    @property
    def fails(self) -> bool:
        return self.offer < self.own.need - self.gauge.slack

    @property
    def short(self) -> bool:
        return self.offer < self.want - self.gauge.slack


class Tenant:
    """One owner.

    Attributes:
        until: when it is taken for dead.
        serial: its last report that was booked.
        held: what it holds, by meter.
        served: how much it had so far, by meter (its standing among those who ask).
        demands: by meter.
    """

    __slots__ = ("demands", "held", "serial", "served", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.serial = 0
        self.held: dict[str, float] = {}
        self.served: dict[str, float] = {}
        self.demands: dict[str, Demand] = {}


class Ledger:
    """All of one group. Moments are in the store's seconds, as its clock gives them.

    Attributes:
        epoch: the name of this life of the group: it begins anew where a store lost it.
        past: the lives that it goes on from.
        written: how often it was written, in all of its lives.
        settling: set while a state that was brought back may not be the newest.
    """

    __slots__ = ("closed", "epoch", "gauges", "now", "offset", "past", "settling", "tenants", "written")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.past: list[str] = []
        self.written = 0
        self.settling: Settling | None = None
        self.now = -math.inf
        self.offset = 0.0
        self.gauges: dict[str, Gauge] = {}
        self.tenants: dict[str, Tenant] = {}
        self.closed: dict[str, float] = {}

    # -- what stores call ------------------------------------------------------------------------------------

    def lease(self, claim: Claim, clock: float) -> Lease | float:
        """See :class:`~.base.Claim` and :class:`~.base.Lease`.

        Or, while the state settles, the seconds after which to come again: nothing was booked.
        """
        if wait := settles_in(self, clock):
            return wait
        now = self.tick(clock)
        for meter in claim.meters:
            self._gauge(meter, now)
        tenant = self.tenants.get(claim.owner)
        if tenant is None:
            tenant = self.tenants[claim.owner] = Tenant(now)
        self._settle(tenant, claim, now)
        if claim.leaving:
            del self.tenants[claim.owner]
            return Lease({}, left=self._left(claim.meters, now))
        tenant.until = now + claim.ttl
        wanted = [meter for meter in claim.meters if claim.want.get(meter.key) or claim.least.get(meter.key)]
        closed_for = max((self._closed_for(meter.pool, now) for meter in wanted), default=0.0)
        lease = Lease({}, closed_for, closed_for=closed_for) if closed_for > 0 else self._grant(tenant, claim, now)
        return replace(lease, left=self._left(claim.meters, now), excess=self._excess(tenant, now))

    def correct(self, meter: Meter, at_least: float | None, at_most: float | None, ago: float, clock: float) -> bool:
        """See :meth:`~.base.Store.correct`."""
        if settles_in(self, clock):
            return False
        now = self.tick(clock)
        return self._gauge(meter, now).correct(at_least, at_most, now - ago, now)

    def close(self, pool: str, seconds: float, replace: bool, clock: float) -> float:
        """See :meth:`~.base.Store.close`."""
        now = self.tick(clock)
        until = now + seconds
        if replace or until > self.closed.get(pool, -math.inf):
            self.closed[pool] = until
        return self._closed_for(pool, now)

    def look(self, clock: float) -> View:
        """See :meth:`~.base.Store.look`."""
        now = self.tick(clock)
        return View(
            {key: gauge.left(now) - self._held(key) for key, gauge in self.gauges.items()},
            {name: dict(tenant.held) for name, tenant in self.tenants.items()},
            {pool: until - now for pool, until in self.closed.items()},
        )

    def as_new_in(self) -> float:
        """Seconds until a state that was never written down would be the same."""
        waits = [gauge.as_new_in(self.now) for gauge in self.gauges.values()]
        waits += [tenant.until - self.now for tenant in self.tenants.values()]
        waits += [until - self.now for until in self.closed.values()]
        waits += [self.settling.until - self.now] if self.settling is not None else []
        return max(waits, default=0.0)

    # -- a claim, step by step -------------------------------------------------------------------------------

    def tick(self, clock: float) -> float:
        """The moment that it is, which never goes back; and who is dead at that moment is forgotten."""
        moment = clock + self.offset
        if moment < self.now - CLOCK_STEP:
            self.offset += self.now - moment
        self.now = now = max(moment, self.now)
        self.tenants = {name: tenant for name, tenant in self.tenants.items() if tenant.until > now}
        self.closed = {pool: until for pool, until in self.closed.items() if until > now}
        return now

    def _gauge(self, meter: Meter, now: float) -> Gauge:
        gauge = self.gauges.get(meter.key)
        definition = definition_of(meter)
        if gauge is None:
            gauge = self.gauges[meter.key] = Gauge(definition, now)
        else:
            gauge.adopt(definition, now)
        return gauge

    def _settle(self, tenant: Tenant, claim: Claim, now: float) -> None:
        """Book what was spent, and what is held from here on."""
        back = dict(tenant.held)
        for serial, spendings in claim.reports:
            if serial > tenant.serial:
                tenant.serial = serial
                for key, amount, ago in spendings:
                    self.gauges[key].spend(amount, now - ago)
                    back[key] = back.get(key, 0.0) - amount
        tenant.held = {key: amount for key, amount in claim.keep.items() if amount > 0}
        for key, amount in back.items():
            unused = amount - claim.keep.get(key, 0.0)
            if unused > 0 and key in tenant.served:
                tenant.served[key] -= unused

    def _grant(self, tenant: Tenant, claim: Claim, now: float) -> Lease:
        """Grant what can be, and take a place in line for the rest."""
        rivals: set[str] = set()
        asks = []
        for meter in claim.meters:
            want, least = claim.want.get(meter.key, 0.0), claim.least.get(meter.key, 0.0)
            if want > 0 or least > 0:
                asks.append(self._ask(meter.key, tenant, max(want, least), least, now, rivals))
            elif meter.key in claim.want:
                tenant.demands.pop(meter.key, None)
        refused = any(ask.fails for ask in asks)
        granted = {} if refused else _proportional(asks)
        retry_after = 0.0
        held_up = []
        for ask in asks:
            amount = granted.get(ask.key, 0.0)
            until = now + DEMAND_LASTS
            if ask.fails if refused else ask.short:
                held_up.append(ask.key)
                wait = _hint(ask, amount)
                retry_after = max(retry_after, wait)
                until += min(wait, claim.ttl)
            elif refused:
                continue  # held up elsewhere only: others may have this
            self._hand_out(tenant, ask, amount, until, now)
        return Lease({k: a for k, a in granted.items() if a > 0}, retry_after, tuple(held_up), rivals=len(rivals))

    def _ask(self, key: str, tenant: Tenant, want: float, least: float, now: float, seen: set[str]) -> _Ask:
        gauge = self.gauges[key]
        if gauge.whole:
            least = max(least, min(want, 1.0))
        need = min(least, gauge.capacity)
        old = tenant.demands.get(key)
        since = old.since if old is not None and old.until > now and old.waiting else now
        own = Rival(self._standing(key, tenant, now), since, want, need)
        rivals = self._rivals(key, tenant, now, seen)
        free = gauge.left(now) - self._held(key)
        offer, reserved = share(own, rivals, free, gauge.slack)
        if gauge.whole and offer >= 1:
            offer = float(math.floor(offer + gauge.slack))
        if offer >= need - gauge.slack and least > offer and gauge.kind != "slots":
            offer = least  # larger than the whole meter: into debt
        return _Ask(key, gauge, want, least, own, tenant.held.get(key, 0.0), free, offer, reserved, now)

    def _hand_out(self, tenant: Tenant, ask: _Ask, amount: float, until: float, now: float) -> None:
        """Book what is granted, and remember what else is wanted."""
        key, gauge = ask.key, ask.gauge
        tenant.served[key] = ask.own.standing + amount
        if amount > 0:
            tenant.held[key] = tenant.held.get(key, 0.0) + amount
            gauge.top = max(gauge.top, tenant.served[key])
        want = ask.want if ask.short else amount
        if gauge.kind == "slots":  # whoever has its slots keeps them; it will not want as many again
            want = ask.want - amount if ask.short else 0.0
        if want > 0:
            since = now if amount > 0 else ask.own.since
            tenant.demands[key] = Demand(want, ask.least, until, since, ask.short)
        else:
            tenant.demands.pop(key, None)

    # -- who asks --------------------------------------------------------------------------------------------

    def _standing(self, key: str, tenant: Tenant, now: float) -> float:
        """How much an owner had. Who did not wait has no old claims, but to its share of the last moment."""
        gauge = self.gauges[key]
        if gauge.kind == "slots":
            return tenant.held.get(key, 0.0)
        served = tenant.served.get(key, 0.0)
        demand = tenant.demands.get(key)
        if demand is not None and demand.until > now and demand.waiting:
            return served
        return max(served, gauge.top - gauge.quota / gauge.period * DEMAND_LASTS / len(self.tenants))

    def _rivals(self, key: str, tenant: Tenant, now: float, seen: set[str]) -> list[Rival]:
        """All others who ask for a meter; their names are added to those seen."""
        capacity = self.gauges[key].capacity
        rivals = []
        for name, other in self.tenants.items():
            demand = other.demands.get(key)
            if demand is not None and demand.until > now and other is not tenant:
                seen.add(name)
                standing = self._standing(key, other, now)
                rivals.append(Rival(standing, demand.since, demand.want, min(demand.need, capacity)))
        return rivals

    def _held(self, key: str) -> float:
        return sum(tenant.held.get(key, 0.0) for tenant in self.tenants.values())

    def _excess(self, tenant: Tenant, now: float) -> dict[str, float]:
        """Slots above the owner's share, where others who have fewer wait for some."""
        excess: dict[str, float] = {}
        for key, held in tenant.held.items():
            gauge = self.gauges[key]
            if gauge.kind != "slots":
                continue
            totals = [(0.0, other.held.get(key, 0.0)) for other in self.tenants.values()]
            poorer = False
            for place, other in enumerate(self.tenants.values()):
                demand = other.demands.get(key)
                if demand is not None and demand.until > now:
                    totals[place] = (0.0, totals[place][1] + demand.want)
                    poorer = poorer or other.held.get(key, 0.0) < held
            if poorer:
                level = water_level(gauge.capacity, totals)
                fair = (math.ceil(level) if level >= 1 else 0) if level < math.inf else held
                if held > fair:
                    excess[key] = held - fair
        return excess

    def _left(self, meters: Iterable[Meter], now: float) -> dict[str, float]:
        return {meter.key: self.gauges[meter.key].left(now) - self._held(meter.key) for meter in meters}

    def _closed_for(self, pool: str, now: float) -> float:
        return max(0.0, self.closed.get(pool, now) - now)

    # -- as plain data ---------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Forget what is of no use any more; it is written after this."""
        self.written += 1
        for key, gauge in list(self.gauges.items()):
            gauge.forget(self.now)
            used = any(key in tenant.held or key in tenant.served for tenant in self.tenants.values())
            if not used and gauge.is_idle(self.now):
                del self.gauges[key]

    def dump(self) -> dict[str, Any]:
        """As plain data, for a store to keep."""
        return {
            "epoch": self.epoch,
            "past": self.past,
            "written": self.written,
            "settling": self.settling,
            "now": self.now,
            "offset": self.offset,
            "closed": self.closed,
            "gauges": {key: gauge.dump() for key, gauge in self.gauges.items()},
            "tenants": {
                name: [tenant.until, tenant.serial, tenant.held, tenant.served, tenant.demands]
                for name, tenant in self.tenants.items()
            },
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> Ledger:
        """What :meth:`dump` gave."""
        ledger = cls()
        ledger.epoch, ledger.past = data["epoch"], data["past"]
        ledger.written = data["written"]
        ledger.settling = None if data["settling"] is None else Settling(*data["settling"])
        ledger.now, ledger.offset, ledger.closed = data["now"], data["offset"], data["closed"]
        ledger.gauges = {key: Gauge.load(gauge) for key, gauge in data["gauges"].items()}
        for name, (until, serial, held, served, demands) in data["tenants"].items():
            tenant = ledger.tenants[name] = Tenant(until)
            tenant.serial, tenant.held, tenant.served = serial, held, served
            tenant.demands = {key: Demand(*demand) for key, demand in demands.items()}
        return ledger


def _proportional(asks: list[_Ask]) -> dict[str, float]:
    """What is granted where every meter has something: no more of one than goes with what there is of the others."""
    ratio = min([ask.offer / ask.want for ask in asks], default=1.0)
    granted = {}
    for ask in asks:
        amount = ask.want * min(ratio, 1.0)
        if ask.gauge.whole:
            amount = float(math.floor(amount + ask.gauge.slack))
        granted[ask.key] = max(amount, min(ask.least, ask.offer))
    return granted


def _hint(ask: _Ask, amount: float) -> float:
    """When to ask again: when those before are served too, or soon after it would be one's turn without them."""
    rest = ask.want - amount
    missing = min(rest, ask.least or rest, ask.gauge.capacity) - (ask.free - amount)
    # Supposing that the owner spends what it holds, and nobody else does.
    spent = ask.gauge.left(ask.now) - ask.held - amount
    if ask.gauge.kind == "bucket" and spent + missing > ask.gauge.capacity + ask.gauge.slack:
        return LOOK_AGAIN  # it is full, but for what others hold
    in_line = ask.gauge.wait(missing + ask.reserved, ask.now)
    wait = min(in_line, ask.gauge.wait(missing, ask.now) + DEMAND_LASTS)
    return LOOK_AGAIN if wait == math.inf else max(wait, SOONEST)
