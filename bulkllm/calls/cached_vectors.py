"""Embeddings that may have been paid for already: kept item by item, so that a batch asks only for what is not known.

What may live here: the order of looking up, following, asking and keeping, for a batch. Who follows whom, and what
becomes of failures, is as in :mod:`.cached`; a batch follows one that asks for the same items at the same time.

The record of a batch that was known in part tells what the rest used and cost, and what the known part saved; the
response has all vectors, and the usage of the whole batch.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from ..accounting import Usage
from ..caching import (
    VECTOR,
    Cache,
    Entry,
    Leader,
    Outcome,
    SingleFlight,
    embedding_items,
    is_vector,
    join_embedding,
    split_embedding,
)
from .account import Account, attach_record, record_of
from .call import Call
from .effects import Effect, Load, LookupMany, Store
from .flow import call_flow
from .following import flight_key, follow, price_of, raise_if_shared, recorded
from .keys import keys_of
from .lane import Answer
from .parts import Parts

Flow = Generator[Effect, Any, Any]
Known = dict[str, Entry]

# What followers get: the vectors by key; None where the answer could not be taken apart.
_flights: Final[SingleFlight[Known | None]] = SingleFlight()


def cached_embedding_flow(
    parts: Parts, call: Call, cache: Cache, *, namespace: str | None = None, sample: int = 0
) -> Flow:
    """As :func:`.cached.cached_flow`, for embeddings."""
    keys = keys_of(call, cache, namespace=namespace, sample=sample)
    if not keys:
        return (yield from call_flow(parts, call))
    items = embedding_items(call.options["input"])
    account = Account(call, parts.trackers, parts.clock)
    yield Load(parts.lane)
    known: Known = {}
    failures = 0
    while True:
        ended = _flights.ended
        yield from _look(account, cache, keys, known)
        missing = _missing(keys, known)
        if not missing:
            return _hit(account, keys, known)
        claim = _flights.claim(flight_key(cache, sha256("".join(missing).encode()).hexdigest(), call))
        if isinstance(claim, Leader):
            with claim:
                if _flights.ended != ended:  # some may have come between the look and the claim
                    yield from _look(account, cache, keys, known)
                if _missing(keys, known) == missing:
                    return (yield from _lead(parts, account, cache, keys, items, known, claim))
            continue
        outcome: Outcome[Known | None] = yield from follow(parts, account, claim)
        if outcome.state == "failed":
            failures += 1
            raise_if_shared(parts, account, outcome.error, failures)
        elif outcome.state == "answered" and outcome.result is not None:
            known |= outcome.result
        elif outcome.state != "abandoned":
            return (yield from call_flow(parts, call, account))


def _look(account: Account, cache: Cache, keys: Sequence[str], known: Known) -> Flow:
    """Add what is kept to what is known."""
    found: Known = yield from recorded(account, LookupMany(cache, _missing(keys, known)))
    known.update((key, entry) for key, entry in found.items() if is_vector(entry))


def _missing(keys: Sequence[str], known: Mapping[str, Entry]) -> list[str]:
    return [key for key in dict.fromkeys(keys) if key not in known]


def _lead(
    parts: Parts,
    account: Account,
    cache: Cache,
    keys: Sequence[str],
    items: Sequence[Any],
    known: Known,
    leader: Leader[Known | None],
) -> Flow:
    """Ask for what is not known, each item once."""
    call = account.call
    asked = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
    whole = len(asked) == len(items)
    account.saved = _worth(keys, known) if known else None
    part = call if whole else replace(call, options={**call.options, "input": list(asked.values())})
    response = yield from call_flow(parts, part, account)
    vectors = split_embedding(response, list(asked.values()), price_of(response))
    if not vectors:  # not one vector for each item: nobody can say which is whose
        leader.settle(None)
        return response if whole else (yield from call_flow(parts, call))
    answers = dict(zip(asked, vectors, strict=True))
    yield Store(cache, answers, VECTOR)
    fresh = {key: Entry(key, VECTOR, value, cost, 0.0) for key, (value, cost) in answers.items()}
    leader.settle(fresh)
    if whole:
        return response
    together = _joined(keys, known | fresh)
    together._hidden_params = dict(response._hidden_params)
    attach_record(together, record_of(response))
    return together


def _hit(account: Account, keys: Sequence[str], known: Known) -> Any:
    response = _joined(keys, known)
    answer = Answer(
        usage=Usage.from_litellm(response.usage), cost=_worth(keys, known), model=response.model, from_cache=True
    )
    response._hidden_params = {"cache_hit": True}
    attach_record(response, account.close("ok", answer))
    return response


def _joined(keys: Sequence[str], known: Mapping[str, Entry]) -> Any:
    return join_embedding([known[key].value for key in keys])


def _worth(keys: Sequence[str], known: Mapping[str, Entry]) -> float | None:
    """What the known items cost when they were paid; None if that of one of them is not known."""
    costs = [known[key].cost for key in keys if key in known]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
