"""One model at several places (keys, regions, servers), each used according to what it has left.

What may live here: which place is asked next, and which is not asked any more. Each place has a limiter of its own, so
a full or a slow one holds no row up that another could take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..accounting import UsageRecord
from ..calls import record_of_error
from ..client import Client
from ..errors import BulkLLMError, ConfigError
from ..limits import RateLimit
from .asking import Call, Reply, charge, together
from .fallbacks import PLACE
from .pools import Breaker
from .request import BulkRequest
from .verdict import judge

_LIMITS: Final = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "max_in_flight", "burst", "window", "period")


@dataclass(slots=True)
class Place:
    """One deployment.

    Attributes:
        options: model, address and key. Never to be logged or stored.
        client: makes its calls, under its limits.
        call: asks a row through that client.
        breaker: stops asking it when it refuses everybody.
        active: rows that are being asked of it, or wait for its limits.
    """

    options: Mapping[str, Any] = field(repr=False)
    client: Client = field(repr=False)
    call: Call = field(repr=False)
    breaker: Breaker = field(default_factory=Breaker)
    active: int = 0

    def wait(self) -> tuple[float, float]:
        """About how many seconds a row would wait here, and how busy the place is: the smaller, the better."""
        longest, fullest = 0.0, 0.0
        for pool in self.client.limiter.status().limits:
            if pool.max_in_flight is not None:
                fullest = max(fullest, self.active / pool.max_in_flight)
                longest = max(longest, float(self.active >= pool.max_in_flight))
            for quota in pool.quotas.values():
                if quota.limit > 0:
                    fullest = max(fullest, 1.0 - quota.remaining / quota.limit)
                    short = 1.0 + pool.waiting - quota.remaining
                    longest = max(longest, short * quota.period / quota.limit)
        return longest, fullest if fullest > 0 else float(self.active)


def places(deployments: Any, model: str | None, client: Client, make_call: Any) -> list[Place]:
    """The deployments of a run.

    Args:
        deployments: dicts with ``api_base``, ``api_key``, LiteLLM's name of the model there as ``model``, and the
            limits of that place (``rpm``, ``tpm``, ``max_in_flight``, ...).
        model: the model's name where one does not say it.
        client: whose retries, cache and tracker they share.
        make_call: what asks a row through a client.

    Raises:
        ConfigError: one of them is wrong.
    """
    if isinstance(deployments, str | Mapping) or not isinstance(deployments, Sequence) or not deployments:
        raise ConfigError('deployments= takes a list of dicts such as {"api_base": ..., "api_key": ..., "rpm": 500}')
    found = []
    for one in deployments:
        if not isinstance(one, Mapping):
            raise ConfigError(f"deployments= takes dicts with api_base, api_key and limits, not a {type(one).__name__}")
        limits = {name: one[name] for name in _LIMITS if one.get(name) is not None}
        options = {name: value for name, value in one.items() if name not in _LIMITS}
        if not options.get("model", model):
            raise ConfigError("deployments= needs a model: give the run one, or each deployment")
        its_client = Client(
            RateLimit("*", **limits) if limits else None,
            retry=client.retry, usage=client.usage, cache=client.cache,
        )  # fmt: skip
        found.append(Place({"model": model, **options}, its_client, make_call(its_client)))
    return found


class Deployments:
    """A call that asks whichever place can answer soonest, and another one if that fails.

    Args:
        model: rows that are asked of this model may go to any place; all others go through ``other``.
        among: the places.
        other: asks rows of other models.
    """

    def __init__(self, model: str, among: Sequence[Place], other: Call) -> None:
        self._model = model
        self._places = tuple(among)
        self._other = other

    async def __call__(self, request: BulkRequest) -> tuple[Any, ...]:
        """Ask a row."""
        if request.model != self._model:
            return await self._other(request)
        left = [place for place in self._places if place.breaker.stopped is None] or list(self._places)
        records: list[UsageRecord | None] = []
        while True:
            place = left[0] if len(left) == 1 else min(left, key=_soonest)
            left.remove(place)
            place.active += 1
            try:
                reply = await place.call(_at(place, request))
            except Exception as error:
                verdict = judge(error)
                place.breaker.failed(verdict, "a deployment", type(error).__name__)
                # What the request itself is to blame for, and what is ours, is the same everywhere.
                if not left or not verdict.passing or isinstance(error, BulkLLMError):
                    charge(error, records)
                    raise
                records.append(record_of_error(error))
            else:
                place.breaker.answered()
                return reply if not records else Reply(reply[0], together([*records, reply[1]]))
            finally:
                place.active -= 1


def _soonest(place: Place) -> tuple[float, float, int]:
    return (*place.wait(), place.active)


def _at(place: Place, request: BulkRequest) -> BulkRequest:
    body = {name: value for name, value in request.body.items() if name not in PLACE}
    body.update(place.options)
    return replace(request, model=place.options["model"], body=body)
