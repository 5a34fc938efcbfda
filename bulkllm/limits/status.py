"""What a limiter tells of itself: frozen values, made on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .spec import RateLimit, Window


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """One dimension of one limit.

    Attributes:
        limit: the quota of one period.
        remaining: what could start now; negative in debt.
        period: seconds.
    """

    limit: float
    remaining: float
    period: float


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One limit, as it stands.

    Attributes:
        limit: the limit as it was configured.
        quotas: by the names ``rpm``, ``tpm``, ``itpm``, ``otpm``, ``rpd``, ``tpd``.
        in_flight: requests that hold a reservation of this limit.
        waiting: requests that stand in line for it (and perhaps for others too).
    """

    limit: RateLimit
    quotas: Mapping[str, QuotaStatus]
    in_flight: int
    waiting: int

    @property
    def name(self) -> str:
        """What the limit is called."""
        return self.limit.name

    @property
    def window(self) -> Window:
        """How it counts."""
        return self.limit.window


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """All limits of one model (or all of a limiter), as they stand.

    Attributes:
        model: whose; None for all.
        limits: one status a limit.
        waiting: requests in line.
        in_flight: requests under way that hold a reservation.
    """

    model: str | None
    limits: tuple[PoolStatus, ...]
    waiting: int
    in_flight: int

    @property
    def remaining(self) -> dict[str, float]:
        """What could start now by dimension: the least that any of the limits leaves."""
        least: dict[str, float] = {}
        for pool in self.limits:
            for name, quota in pool.quotas.items():
                least[name] = min(quota.remaining, least.get(name, quota.remaining))
        return least
