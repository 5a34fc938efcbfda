"""A call that may have been paid for already: the cache stands before everything else, LiteLLM included.

What may live here: the order of looking up, following an identical call in flight, asking, and keeping. A hit touches
no limit, no budget and no retry; its record says that it was cached, and what it saved.
"""

from __future__ import annotations

from collections.abc import Generator
from copy import deepcopy
from typing import Any, Final

from ..accounting import Usage
from ..caching import (
    Cache,
    Entry,
    Leader,
    Outcome,
    SingleFlight,
    freeze_response,
    kind_of,
    replay_chunks,
    replay_events,
    request_key,
    thaw_response,
)
from .account import Account, attach_record, attach_to_error, record_of
from .call import Call
from .effects import Effect, Follow, Load, Lookup, Store
from .flow import call_flow
from .lane import Answer
from .parts import Parts
from .replay import ReplayedStream

Flow = Generator[Effect, Any, Any]

# Identical calls in flight share one, whichever clients make them. What followers get is what would be kept.
_flights: Final[SingleFlight[Entry]] = SingleFlight()


def cached_flow(parts: Parts, call: Call, cache: Cache) -> Flow:
    """As :func:`.flow.call_flow`, but an answer that is kept, or on its way for an identical call, is not asked for.

    If the call that is followed fails, its followers ask themselves, one after the other.
    """
    key = request_key(call.operation, call.model, None, call.options, namespace=cache.namespace)
    if key is None:
        return (yield from call_flow(parts, call))
    account = Account(call, parts.trackers, parts.clock)
    yield Load(parts.lane)
    while True:
        entry: Entry | None = yield from _recorded(account, Lookup(cache, key))
        if entry is not None:
            response = thaw_response(entry.kind, entry.value)
            if response is not None:
                return _hit(call, account, entry, response)
        if call.stream:  # read bit by bit: it could make its followers wait for ever
            return (yield from call_flow(parts, call))
        claim = _flights.claim(f"{id(cache)}:{key}")
        if isinstance(claim, Leader):
            with claim:
                return (yield from _lead(parts, call, cache, key, claim))
        outcome: Outcome[Entry] = yield from _recorded(account, Follow(claim))
        if outcome.state == "alone":
            return (yield from call_flow(parts, call))
        if outcome.state == "answered" and outcome.result is not None:
            shared = outcome.result
            response = thaw_response(
                shared.kind, deepcopy(shared.value)
            )  # each caller owns what it gets, to the leaves
            if response is not None:
                return _hit(call, account, shared, response)


def _recorded(account: Account, effect: Effect) -> Flow:
    """An effect before anything is asked; the call has its record if it ends here."""
    try:
        return (yield effect)
    except Exception as error:
        attach_to_error(error, account.close(type(error).__name__))
        raise
    except BaseException:
        account.close("cancelled")
        raise


def _lead(parts: Parts, call: Call, cache: Cache, key: str, leader: Leader[Entry]) -> Flow:
    response = yield from call_flow(parts, call)
    frozen = freeze_response(response)
    kind = kind_of(response)
    if frozen is not None and kind is not None:
        cost = record_of(response).cost
        yield Store(cache, key, frozen, cost, kind)
        leader.settle(Entry(key, kind, frozen, cost, 0.0))
    return response


def _hit(call: Call, account: Account, entry: Entry, response: Any) -> Any:
    told = getattr(response, "usage", None)
    answer = Answer(
        usage=None if told is None else Usage.from_litellm(told),
        cost=entry.cost,
        model=getattr(response, "model", None),
        from_cache=True,
    )
    record = account.close("ok", answer)
    if call.stream:
        pieces = replay_events(response) if call.operation == "responses" else replay_chunks(response)
        return ReplayedStream(pieces, record, swallow_usage=call.adds_usage_chunk)
    hidden = getattr(response, "_hidden_params", None)
    if isinstance(hidden, dict):
        hidden["cache_hit"] = True
    attach_record(response, record)
    return response
