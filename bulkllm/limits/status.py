"""What a limiter tells of itself: frozen values, made on request."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from .._waits import LIMITS, advice, described, limit_of, shares_of
from .core import Core
from .discovery import Discovered
from .leased import LeasedPool
from .pool import Pool
from .spec import RateLimit, Window

_HEADS: Final = ("limit", "from", "of", "quota", "left", "waiting", "in flight", "closed until (UTC)")
_MINUTE: Final = 60.0
_ROUNDING: Final = 1e-9  # what arithmetic with floats may lack of a whole request
_FAR: Final = 366 * 86_400.0


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
        closed_until: when that is, in UTC; None if it is open.
        closed_because: the quota of a day or longer that is spent, such as ``requests per day``; empty if none is.
        endpoint: the base URL that a learned limit holds for; empty for the provider's own.
        account: the fingerprint of the account that a learned limit holds for.
        leased: where the limit is shared with other processes, what this one holds of it and has not used yet, by the
            names of ``quotas`` and ``in flight``; ``remaining`` is then what is left for all, as of the last word.
            None where it is not shared.
        away: the store through which it is shared cannot be reached.
    """

    name: str
    limit: RateLimit | None
    window: Window | None
    quotas: Mapping[str, QuotaStatus]
    in_flight: int
    max_in_flight: int | None
    waiting: int
    closed_for: float = 0.0
    closed_until: datetime | None = None
    closed_because: str = ""
    endpoint: str = ""
    account: str = ""
    leased: Mapping[str, float] | None = None
    away: bool = False

    @property
    def learned(self) -> bool:
        """Whether nobody configured it."""
        return self.limit is None


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """All limits of one model (or all of a limiter), as they stand; ``print`` it, or let a notebook show it.

    Attributes:
        model: whose; None for all.
        limits: one status a limit; learned ones of which nothing is known yet are left out.
        waiting: requests in line.
        in_flight: requests under way that hold a reservation.
        waits: seconds that requests have waited in all until they were let go, by what for: ``"rpm of openai/*"``.
        waiting_for: how many of those in line stand behind one that waits for this, now.
    """

    model: str | None
    limits: tuple[PoolStatus, ...]
    waiting: int
    in_flight: int
    waits: Mapping[str, float] = field(default_factory=dict)
    waiting_for: Mapping[str, int] = field(default_factory=dict)

    @property
    def remaining(self) -> dict[str, float]:
        """What could start now by dimension: the least that any of the limits leaves."""
        least: dict[str, float] = {}
        for pool in self.limits:
            for name, quota in pool.quotas.items():
                least[name] = min(quota.remaining, least.get(name, quota.remaining))
        return least

    @property
    def shares(self) -> dict[str, float]:
        """Which share of the time that was waited went on what, the largest first."""
        return shares_of(self.waits)

    @property
    def advice(self) -> list[str]:
        """What most of the waiting was for, and what to raise; the provider's own time is known to usage only."""
        return advice(self.shares, of="waiting time")

    def __str__(self) -> str:
        """The limits as a table of text, what is waited for now, and what has been waited for."""
        rows = [_HEADS, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if not self.limits:
            lines = ["no limits are configured, and none are known"]
        return "\n".join([*lines, *self._told()])

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        told = "".join(f"<p>{html.escape(line)}</p>" for line in self._told())
        return f"<table><tr>{''.join(f'<th>{head}</th>' for head in _HEADS)}</tr>{rows}</table>{told}"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for pool in self.limits:
            for name, quota, left in _dimensions(pool):
                until = "" if pool.closed_until is None else f"{pool.closed_until:%Y-%m-%d %H:%M:%S}"
                if pool.closed_because:
                    until += f" ({pool.closed_because})"
                learned = "learned" if pool.learned else "configured"
                if pool.leased is not None:
                    learned = "shared, store away" if pool.away else "shared"
                yield pool.name, learned, name, quota, left, f"{pool.waiting:,}", f"{pool.in_flight:,}", until

    def _told(self) -> list[str]:
        now = [f"{count:,} for {described(reason)}" for reason, count in self.waiting_for.items()]
        return [*([f"{self.waiting:,} wait: {', '.join(now)}"] if now else []), *self.advice]


def _dimensions(pool: PoolStatus) -> Iterator[tuple[str, str, str]]:
    """What a limit counts: the name, how much may go, and what is left."""
    for name, quota in pool.quotas.items():
        period = "" if quota.period == _MINUTE else f" in {quota.period:g} s"
        yield name, f"{quota.limit:,.4g}{period}" if quota.limit < 1 else f"{quota.limit:,.0f}{period}", _left(quota)
    if pool.max_in_flight is not None:
        yield "in flight", f"{pool.max_in_flight:,}", f"{pool.max_in_flight - pool.in_flight:,}"
    elif not pool.quotas:
        yield "in flight", "any number", ""


def _left(quota: QuotaStatus) -> str:
    return f"{math.floor(quota.remaining + _ROUNDING):,}"


def status_of(core: Core, model: str | None, now: float) -> LimitStatus:
    """The status of a model's limits, or of all. The caller holds the limiter's lock."""
    if model is None:
        lanes = list(dict.fromkeys(core.known_lanes.values()))
        pools, waiting, in_flight, waits = core.all_pools(), core.waiting, core.in_flight, dict(core.waits)
    else:
        lanes, pools = core.lanes_of(model), core.pools_of(model)
        waiting, in_flight = sum(lane.waiting for lane in lanes), sum(lane.in_flight for lane in lanes)
        names = {pool.name for pool in pools}
        waits = {reason: seconds for reason, seconds in core.waits.items() if limit_of(reason) in names}
    waiting_for: dict[str, int] = {}
    for lane in lanes:
        if lane.waiting:
            reason = lane.held_by or LIMITS
            waiting_for[reason] = waiting_for.get(reason, 0) + lane.waiting
    states = tuple(_pool_status(core, pool, now) for pool in pools if not _knows_nothing(pool, now))
    return LimitStatus(model, states, waiting, in_flight, waits, waiting_for)


def _knows_nothing(pool: Pool, now: float) -> bool:
    return isinstance(pool, Discovered) and not pool.live and pool.closed_until <= now


def _pool_status(core: Core, pool: Pool, now: float) -> PoolStatus:
    found = pool if isinstance(pool, Discovered) else None
    drifts = {name: tracked.drift for name, tracked in found.tracked.items()} if found is not None else {}
    closed_for = 0.0 if found is None else max(0.0, found.closed_until - now)
    return PoolStatus(
        name=pool.name,
        limit=pool.spec,
        window=pool.window,
        quotas={
            meter.name: QuotaStatus(meter.quota, meter.remaining(now), meter.period, drifts.get(meter.name, 0.0))
            for meter in pool.live
        },
        in_flight=pool.in_flight,
        max_in_flight=_most(pool),
        waiting=core.waiting_for(pool),
        closed_for=closed_for,
        closed_until=_moment(closed_for),
        closed_because=_spent(found, now),
        endpoint="" if found is None else found.origin.endpoint,
        account="" if found is None else found.origin.scope,
        leased=pool.held(now) if isinstance(pool, LeasedPool) else None,
        away=isinstance(pool, LeasedPool) and pool.away,
    )


def _most(pool: Pool) -> int | None:
    if pool.spec is not None:
        return pool.spec.max_in_flight  # what is lent of it at this moment is not the limit
    return None if pool.max_in_flight == math.inf else int(pool.max_in_flight)


def _spent(found: Discovered | None, now: float) -> str:
    """The quota of a day or longer that is spent."""
    closing = None if found is None else found.spent(now)
    return "" if closing is None else closing.quota or "a quota that the provider does not name"


def _moment(seconds: float) -> datetime | None:
    """The time of day in so many seconds."""
    return datetime.now(UTC) + timedelta(seconds=min(seconds, _FAR)) if seconds else None
