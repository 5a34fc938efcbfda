"""How each model of a run stands, and what it waits for.

What may live here: reading it off the pools and the limits, for whoever shows progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .._waits import kind_of, limit_of
from ..limits import LimitStatus
from .pools import Pool

StatusOf: TypeAlias = Callable[[str], LimitStatus]


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """How one model stands.

    Attributes:
        ok: rows of this run with an answer.
        failed: rows of this run with an error.
        in_flight: rows being asked, or waiting for the limits.
        left: rows that wait for their turn, as far as they are read.
        tokens: used by this run.
        cost: US dollars that they cost, as far as known.
        tokens_limit: the least of its limits on tokens, a minute; None where there is none.
        waits_for: what its rows wait for now, such as "rpm of openai/*", and until when if a provider has closed it;
            None if for answers only.
    """

    ok: int
    failed: int
    in_flight: int
    left: int
    tokens: int
    cost: float
    tokens_limit: float | None = None
    waits_for: str | None = None

    def __str__(self) -> str:
        waits = "" if self.waits_for is None else f", waits for {self.waits_for}"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.ok + self.failed} done{failed}, {self.in_flight} in flight, {self.left} left{waits}"


def standing(pools: Iterable[Pool], status_of: StatusOf | None) -> dict[str, ModelProgress]:
    """How each model stands, by its name; several endpoints of one model are told apart by their addresses."""
    found = {}
    for pool in pools:
        if pool.name is None or pool.model is None:
            continue
        limit: float | None = None
        waits: str | None = None
        if pool.stopped is not None:
            waits = "nothing any more: it was stopped"
        elif status_of is not None:
            status = status_of(pool.model)
            limit, waits = _tokens_limit(status), _holding(status)
        found[str(pool)] = ModelProgress(
            pool.ok, pool.failed_rows, pool.active, len(pool.line), pool.tokens, pool.cost, limit, waits
        )
    return found


def waits(models: Mapping[str, ModelProgress]) -> str | None:
    """What the run waits for: what any model waits for, each thing once."""
    return "; ".join(dict.fromkeys(model.waits_for for model in models.values() if model.waits_for)) or None


def _tokens_limit(status: LimitStatus) -> float | None:
    limits = [
        quota.limit * 60 / quota.period
        for pool in status.limits
        for name, quota in pool.quotas.items()
        if name == "tpm" and quota.period > 0
    ]
    return min(limits, default=None)


def _holding(status: LimitStatus) -> str | None:
    """What most of the rows in line wait for."""
    if not status.waiting_for:
        return None
    reason = max(status.waiting_for, key=lambda name: status.waiting_for[name])
    limit = limit_of(reason)
    closed = next((pool for pool in status.limits if pool.name == limit and pool.closed_until is not None), None)
    if closed is not None:
        why = f" ({closed.closed_because})" if closed.closed_because else ""
        return f"{limit}, closed by its provider until {closed.closed_until:%Y-%m-%d %H:%M:%S} UTC{why}"
    return f"{kind_of(reason)} of {limit}" if limit else reason
