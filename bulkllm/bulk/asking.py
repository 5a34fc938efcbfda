"""What asking a row gives, and the sum of several asks for one row.

What may live here: these values. Who asks, and whom, is told in `structured`, `fallbacks` and `deployments`, each
of which stands around a call and is a call itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias

from .._waits import RETRIES
from ..accounting import UsageRecord
from ..calls import record_of_error
from ..calls.account import attach_to_error
from .request import BulkRequest


class Reply(NamedTuple):
    """An answer to a row; a plain pair of the first two is one too.

    Attributes:
        response: as LiteLLM gave it.
        record: of all that was asked for the row.
        parsed: the object that was read out of it.
    """

    response: Any
    record: UsageRecord | None
    parsed: Any = None


Call: TypeAlias = Callable[[BulkRequest], Awaitable[tuple[Any, ...]]]
"""Asks a row; gives a pair of the response and its record, or a `Reply`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRecord(UsageRecord):
    """The record of several calls made for one row."""

    calls: int
    """How many of them asked a provider: so many requests they are to a budget."""
    tokens: int
    """Input and output of those that no cache answered: so many tokens they are to a budget."""


def calls_of(record: UsageRecord) -> int:
    """How many calls a row's record tells of that asked a provider."""
    return record.calls if isinstance(record, RowRecord) else int(record.attempts > 0)


def tokens_of(record: UsageRecord) -> int:
    """What the calls that a row's record tells of have used, but for those that a cache answered."""
    if isinstance(record, RowRecord):
        return record.tokens
    return 0 if record.cached else record.total_tokens


def secrets_in(call: Call) -> tuple[str, ...]:
    """Keys that a call has besides those of the rows that it asks, to be kept out of error texts."""
    found: tuple[str, ...] = getattr(call, "secrets", ())
    return found


async def forget_answer(call: Call, request: BulkRequest) -> None:
    """Have the cache of a call, if it has one, forget its answer to a request: it will not do."""
    forget = getattr(call, "forget_answer", None)
    if forget is not None:
        await forget(request)


_FIELDS = tuple(entry.name for entry in fields(UsageRecord))


def together(records: Sequence[UsageRecord | None]) -> UsageRecord | None:
    """The record of several calls made for one row: the last one's, with what all of them used and cost.

    If what an answer cost is unknown, so is the sum. An ask that failed without a charge counts as free.
    """
    known = [record for record in records if record is not None]
    if len(known) < 2:  # noqa: PLR2004 - nothing to add up
        return known[0] if known else None
    last = known[-1]
    paid = [record for record in known if record.ok or record.cost]
    usage = known[0].usage
    for record in known[1:]:
        usage += record.usage
    summed = RowRecord(
        **{name: getattr(last, name) for name in _FIELDS},
        calls=sum(map(calls_of, known)),
        tokens=sum(map(tokens_of, known)),
    )
    return replace(
        summed,
        usage=usage,
        cost=_sum(record.cost for record in paid or [last]),
        cost_note=next((record.cost_note for record in paid if record.cost is None), last.cost_note),
        saved=None if last.saved is None else _sum(record.saved or 0.0 for record in known),
        uncertain_cost=_sum(record.uncertain_cost for record in known),
        uncertain_tokens=sum(record.uncertain_tokens for record in known),
        cached=all(record.cached for record in known),
        waited=sum(record.waited for record in known),
        waits=_waits(known),
        attempts=sum(record.attempts for record in known),
        refused=sum(record.refused for record in known),
        started_at=known[0].started_at,
        estimated=any(record.estimated for record in known),
        charge_unknown=any(record.charge_unknown for record in known),
    )


def _waits(records: Sequence[UsageRecord]) -> dict[str, float]:
    """What all of them waited for; what the asks before the last took went on asking again."""
    waits = {RETRIES: again} if (again := sum(record.latency for record in records[:-1])) else {}
    for record in records:
        for reason, seconds in record.waits.items():
            waits[reason] = waits.get(reason, 0.0) + seconds
    return waits


def charge(error: BaseException, before: Sequence[UsageRecord | None]) -> None:
    """Have an error's record count what was asked for the same row before."""
    attach_all(error, [*before, record_of_error(error)])


def attach_all(error: BaseException, records: Sequence[UsageRecord | None]) -> None:
    """Have an error's record count all that was asked for its row."""
    record = together(records)
    if record is not None:
        attach_to_error(error, record if record.outcome != "ok" else replace(record, outcome=type(error).__name__))


def _sum(numbers: Any) -> float | None:
    total = 0.0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total
