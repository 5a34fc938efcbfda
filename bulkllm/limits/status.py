"""What a limiter tells of itself: frozen values, made on request."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .core import Core
from .discovery import Discovered
from .pool import Pool
from .spec import RateLimit, Window


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """One dimension of one limit.

    Attributes:
        limit: the quota of one period.
        remaining: what could start now; negative in debt.
        period: seconds.
        others: what somebody else seems to use of it, a second.
    """

    limit: float
    remaining: float
    period: float
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One limit, as it stands.

    Attributes:
        name: what the limit is called; a learned one has the name of its model.
        limit: the limit as it was configured; None for one that was learned from the provider's answers.
        window: how it counts; None while that is not known.
        quotas: by the names ``rpm``, ``tpm``, ``itpm``, ``otpm``, ``rpd``, ``tpd``; ``pace`` for requests a minute
            that were found by trying.
        in_flight: requests that hold a reservation of this limit.
        max_in_flight: how many may; None for any number.
        waiting: requests that stand in line for it (and perhaps for others too).
        closed_for: seconds until the provider lets requests in again; 0 if it is open.
        endpoint: the base URL that a learned limit holds for; empty for the provider's own.
        account: the fingerprint of the account that a learned limit holds for.
    """

    name: str
    limit: RateLimit | None
    window: Window | None
    quotas: Mapping[str, QuotaStatus]
    in_flight: int
    max_in_flight: int | None
    waiting: int
    closed_for: float = 0.0
    endpoint: str = ""
    account: str = ""

    @property
    def learned(self) -> bool:
        """Whether nobody configured it."""
        return self.limit is None


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """All limits of one model (or all of a limiter), as they stand.

    Attributes:
        model: whose; None for all.
        limits: one status a limit; learned ones of which nothing is known yet are left out.
        waiting: requests in line.
        in_flight: requests under way that hold a reservation.
        waits: seconds that requests of the limiter have waited in all, by what for: ``"rpm of openai/*"``.
    """

    model: str | None
    limits: tuple[PoolStatus, ...]
    waiting: int
    in_flight: int
    waits: Mapping[str, float] = field(default_factory=dict)

    @property
    def remaining(self) -> dict[str, float]:
        """What could start now by dimension: the least that any of the limits leaves."""
        least: dict[str, float] = {}
        for pool in self.limits:
            for name, quota in pool.quotas.items():
                least[name] = min(quota.remaining, least.get(name, quota.remaining))
        return least

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = "".join(
            f"<tr><td>{html.escape(pool.name)}</td><td>{'learned' if pool.learned else 'configured'}</td>"
            f"<td>{name}</td><td>{quota.limit:,.0f} in {quota.period:g} s</td><td>{quota.remaining:,.0f}</td>"
            f"<td>{pool.waiting:,}</td><td>{pool.in_flight:,}</td>"
            f"<td>{f'{pool.closed_for:,.1f} s' if pool.closed_for else ''}</td></tr>"
            for pool in self.limits
            for name, quota in (pool.quotas.items() or [("in flight", QuotaStatus(*_flights(pool), 0.0))])
        )
        heads = ("limit", "from", "of", "quota", "left", "waiting", "in flight", "closed for")
        return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>"


def _flights(pool: PoolStatus) -> tuple[float, float]:
    most = math.inf if pool.max_in_flight is None else float(pool.max_in_flight)
    return most, most - pool.in_flight


def status_of(core: Core, model: str | None, now: float) -> LimitStatus:
    """The status of a model's limits, or of all. The caller holds the limiter's lock."""
    if model is None:
        pools, waiting, in_flight = core.all_pools(), core.waiting, core.in_flight
    else:
        lanes = core.lanes_of(model)
        pools = tuple(dict.fromkeys(pool for lane in lanes for pool in lane.pools))
        waiting, in_flight = sum(lane.waiting for lane in lanes), sum(lane.in_flight for lane in lanes)
    states = tuple(_pool_status(core, pool, now) for pool in pools if not _knows_nothing(pool, now))
    return LimitStatus(model, states, waiting, in_flight, dict(core.waits))


def _knows_nothing(pool: Pool, now: float) -> bool:
    return isinstance(pool, Discovered) and not pool.live and pool.closed_until <= now


def _pool_status(core: Core, pool: Pool, now: float) -> PoolStatus:
    found = pool if isinstance(pool, Discovered) else None
    drifts = {name: tracked.drift for name, tracked in found.tracked.items()} if found is not None else {}
    return PoolStatus(
        name=pool.name,
        limit=pool.spec,
        window=pool.question.answer,
        quotas={
            meter.name: QuotaStatus(meter.quota, meter.remaining(now), meter.period, drifts.get(meter.name, 0.0))
            for meter in pool.live
        },
        in_flight=pool.in_flight,
        max_in_flight=None if pool.max_in_flight == math.inf else int(pool.max_in_flight),
        waiting=core.waiting_for(pool),
        closed_for=0.0 if found is None else max(0.0, found.closed_until - now),
        endpoint="" if found is None else found.origin.endpoint,
        account="" if found is None else found.origin.scope,
    )
