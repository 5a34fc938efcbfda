"""One model at several places (keys, regions, servers), each used according to what it has left.

What may live here: which place is asked next, and which is not asked any more. Each place has a limiter of its own, so
a full or a slow one holds no row up that another could take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .. import models
from ..accounting import UsageRecord
from ..calls import record_of_error
from ..calls.quota import quota_of
from ..client import Client
from ..errors import BulkLLMError, QuotaExhausted
from ..limits import LimitStatus
from ..limits.estimate import TokenEstimator
from ..limits.pool import DIMENSIONS, Amounts
from ..limits.reservation import amounts_of
from ..limits.spec import REQUESTS
from .asking import Call, Reply, charge, forget_answer, secrets_in, together
from .fallbacks import PLACE, provider_of
from .options import is_another_s_secret
from .places import Deployment
from .pools import Breaker, Refusal, last_word, leave_open
from .request import BulkRequest, secrets_of
from .verdict import Verdict, judge

_WHO: Final = "a deployment"


@dataclass(slots=True)
class Place:
    """One deployment.

    Attributes:
        options: model, address and key. Never to be logged or stored.
        client: makes its calls, under its limits.
        call: asks a row through that client; if there are several places, one that waits for no quota of a day.
        patient: the same, for a row that is to wait for that; None where none is to.
        breaker: stops asking it when it refuses everybody.
        active: rows that are being asked of it, or wait for its limits.
    """

    options: Mapping[str, Any] = field(repr=False)
    client: Client = field(repr=False)
    call: Call = field(repr=False)
    patient: Call | None = field(default=None, repr=False)
    breaker: Breaker = field(default_factory=Breaker)
    active: int = 0


def places(deployments: Sequence[Deployment], client: Client, make_call: Callable[[Client], Call]) -> list[Place]:
    """The deployments of a run, each with a client of its own limits which shares all else with the run's client.

    Args:
        deployments: what they are.
        client: whose budget, prices, cache, retries, timeout and trackers they share.
        make_call: what asks a row through a client.
    """
    found = []
    for one in deployments:
        its_client = client.under(one.limits)
        call = patient = make_call(its_client)
        if len(deployments) > 1:  # a row does not wait for tomorrow where another place has something left today
            call = make_call(its_client.hasty())
        found.append(Place(one.options, its_client, call, patient if client.waits_for_quota else None))
    return found


class Deployments:
    """A call that asks whichever place can answer soonest, and another one if that fails.

    Args:
        model: rows that are asked of this model, by this name or its provider's with it, may go to any place; others go
            through ``other``.
        among: the places.
        other: asks rows of other models.
    """

    def __init__(self, model: str, among: Sequence[Place], other: Call) -> None:
        self._names = {model, models.registry().canonical(model)}
        self._places = tuple(among)
        self._other = other
        self._estimator = TokenEstimator()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys of the places."""
        return tuple(key for place in self._places for key in secrets_of(place.options)) + secrets_in(self._other)

    async def forget_answer(self, request: BulkRequest) -> None:
        """Have the cache forget the answer to a row, whichever place has given it."""
        if self._is_elsewhere(request):
            await forget_answer(self._other, request)
            return
        for place in self._places:
            await forget_answer(place.call, _at(place, request))

    def _is_elsewhere(self, request: BulkRequest) -> bool:
        return request.model not in self._names and models.registry().canonical(request.model) not in self._names

    def _soonest(self, left: Sequence[Place], request: BulkRequest) -> Place:
        if len(left) == 1:
            return left[0]
        guess = self._estimator.estimate(request.operation, request.model, request.body)
        amounts = amounts_of(guess.input_tokens, guess.output_tokens)
        return min(left, key=lambda place: soonest(place.client.limiter.status(), place.active, amounts))

    async def __call__(self, request: BulkRequest) -> tuple[Any, ...]:
        """Ask a row."""
        if self._is_elsewhere(request):
            return await self._other(request)
        open_ = [place for place in self._places if place.breaker.stopped is None] or list(self._places)
        left, untried = list(open_), len(open_) < len(self._places)
        records: list[UsageRecord | None] = []
        refusals: list[Refusal] = []
        suspects: list[tuple[Place, Verdict, str]] = []
        while True:
            waits = not left  # the day is spent everywhere: the row waits where the next begins first
            place = self._soonest(left or open_, request)
            if not waits:
                left.remove(place)
            place.active += 1
            ask = place.patient if waits and place.patient is not None else place.call
            try:
                reply = await ask(_at(place, request))
            except asyncio.CancelledError as error:  # given up between two places, perhaps
                if records:
                    charge(error, records)
                raise
            except Exception as error:
                verdict = judge(error)
                suspected = verdict.suspicion is not None and not verdict.passing
                spent = place.patient is not None and quota_of(error) is not None
                if suspected:
                    suspects.append((place, verdict, type(error).__name__))
                elif waits or not spent:  # a place whose day is spent is asked again when it opens
                    place.breaker.failed(verdict, _WHO, type(error).__name__)
                # What the request itself is to blame for, and what is ours, is the same everywhere.
                ours = isinstance(error, BulkLLMError) and not isinstance(error, QuotaExhausted)
                if ours or not (verdict.passing or suspected):
                    charge(error, records)
                    leave_open(error, refusals, untried=untried)
                    raise
                records.append(record_of_error(error))
                refusals.append(Refusal(place.breaker, verdict, error))
                left = [other for other in left if other.breaker.stopped is None]  # other rows may have met that
                over = waits or not (left or spent)
            else:
                place.breaker.answered(reply[1])
                for refuser, verdict, problem in suspects:  # so it was not the request's fault
                    refuser.breaker.failed(replace(verdict, cure=verdict.suspicion), _WHO, problem)
                return reply if not records else Reply(reply[0], together([*records, reply[1]]))
            finally:
                place.active -= 1
            if over:
                raise last_word(refusals, records, untried=untried)


def soonest(status: LimitStatus, active: int, amounts: Amounts) -> tuple[float, float, int]:
    """How soon a place would answer: the smaller, the better.

    Args:
        status: of its limits.
        active: rows that are being asked of it, or wait for its limits.
        amounts: what a row takes of them. Those that wait there already are taken to be like it.

    Returns:
        About how many seconds it would wait, how full the place is, and how many are there.
    """
    longest, fullest = 0.0, 0.0
    for pool in status.limits:
        longest = max(longest, pool.closed_for)
        if pool.max_in_flight is not None:
            fullest = max(fullest, active / pool.max_in_flight)
            longest = max(longest, float(active >= pool.max_in_flight))
        for name, quota in pool.quotas.items():
            if quota.limit > 0:
                need = amounts[DIMENSIONS.get(name.partition(" ")[0], REQUESTS)] * (1.0 + pool.waiting)
                fullest = max(fullest, 1.0 - quota.remaining / quota.limit)
                longest = max(longest, (need - quota.remaining) * quota.period / quota.limit)
    return longest, fullest if fullest > 0 else float(active), active


def _at(place: Place, request: BulkRequest) -> BulkRequest:
    model = place.options["model"]
    body = {name: value for name, value in request.body.items() if name not in PLACE}
    provider = provider_of(model, place.options)
    if provider != provider_of(request.model, request.body):
        body = {name: value for name, value in body.items() if not is_another_s_secret(name, provider)}
    body.update(place.options)
    return replace(request, model=model, body=body)
