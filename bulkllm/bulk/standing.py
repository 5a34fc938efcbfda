"""How each model of a run stands, and what it waits for.

What may live here: reading it off the pools and the limits, for whoever shows progress.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from .._waits import kind_of, limit_of
from ..limits import LimitStatus
from .pools import Pool

StatusOf: TypeAlias = Callable[[str], LimitStatus]


class LimitName(NamedTuple):
    """Which limit it is: its name, and where it was learned; the latter two are empty for one that was configured."""

    name: str
    endpoint: str = ""
    account: str = ""


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
        tokens_limits: its limits on tokens, a minute.
        waits_for: what its rows wait for now, such as "rpm of openai/*", and until when if a provider has closed it;
            None if for answers only.
    """

    ok: int
    failed: int
    in_flight: int
    left: int
    tokens: int
    cost: float
    tokens_limits: Mapping[LimitName, float] = field(default_factory=dict, repr=False)
    waits_for: str | None = None

    @property
    def tokens_limit(self) -> float | None:
        """The least of its limits on tokens, a minute; None where there is none."""
        return min(self.tokens_limits.values(), default=None)

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
        limits: dict[LimitName, float] = {}
        waits: str | None = None
        if pool.stopped is not None:
            waits = "nothing any more: it was stopped"
        elif status_of is not None:
            status = status_of(pool.model)
            limits, waits = _tokens_limits(status, pool.name[1]), _holding(status)
        found[str(pool)] = ModelProgress(
            pool.ok, pool.failed_rows, pool.active, len(pool.line), pool.tokens, pool.cost, limits, waits
        )
    return found


def waits(models: Mapping[str, ModelProgress]) -> str | None:
    """What the run waits for: what any model waits for, each thing once."""
    return "; ".join(dict.fromkeys(model.waits_for for model in models.values() if model.waits_for)) or None


def tokens_together(models: Mapping[str, ModelProgress]) -> float | None:
    """Tokens a minute that the limits of all models allow together; None where one has no such limit.

    A limit that several models or endpoints stand under counts once.
    """
    accounts: dict[LimitName, float] = {}  # what each may use by what was learned of it
    quotas: dict[LimitName, float] = {}
    under: dict[LimitName, set[LimitName]] = {}
    for name, model in models.items():
        learned = {limit: quota for limit, quota in model.tokens_limits.items() if limit.account}
        here = learned or {LimitName(name): math.inf}
        accounts |= here
        for limit in model.tokens_limits.keys() - learned.keys():
            quotas[limit] = model.tokens_limits[limit]
            under.setdefault(limit, set()).update(here)
    groups: list[tuple[set[LimitName], float]] = [({account}, quota) for account, quota in accounts.items()]
    for limit in sorted(under, key=lambda name: len(under[name])):  # of limits within limits the inner ones first
        inside = [group for group in groups if group[0] <= under[limit]]
        groups = [group for group in groups if not group[0] <= under[limit]]
        whole = min(quotas[limit], sum(quota for _, quota in inside))
        groups.append((set().union(*(members for members, _ in inside)), whole))
    together = sum(quota for _, quota in groups)
    return together if groups and together < math.inf else None


def _tokens_limits(status: LimitStatus, endpoint: str | None) -> dict[LimitName, float]:
    """A model's limits on tokens at an endpoint; at all of its endpoints where that is a name which stands for one."""
    declared = endpoint is not None and "://" not in endpoint
    found: dict[LimitName, float] = {}
    for pool in status.limits:
        quota = pool.quotas.get("tpm")
        elsewhere = pool.learned and not declared and pool.endpoint.rstrip("/") != (endpoint or "")
        if quota is not None and quota.period > 0 and not elsewhere:
            name = LimitName(pool.name, pool.endpoint, pool.account)
            found[name] = min(quota.limit * 60 / quota.period, found.get(name, math.inf))
    return found


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
