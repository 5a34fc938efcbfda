"""A call that may have been paid for already: the cache stands before everything else, LiteLLM included.

What may live here: the order of looking up, following an identical call in flight, asking, and keeping. A hit touches
no limit, no budget and no retry; its record says that it was cached, and what it saved. Embeddings, which are kept item
by item, are :mod:`.cached_vectors`' business.

Who follows and who is followed:

- Identical calls in flight share one, whichever clients, threads and event loops make them, as long as they have the
  same credentials.
- A streamed call follows a plain one, but nobody follows a stream: it is read as slowly as its reader likes, perhaps
  never to the end.
- If the call that is followed fails for good (a 400, a wrong key), its followers raise the same. If it may pass (a 500
  after the last attempt), one follower asks for all; if that fails too, the others raise its error, for a call of their
  own, made meanwhile, would have ended no better. Errors of our own (a deadline, a budget) are each call's own: the
  followers ask one after the other.
- If it was cancelled, one follower asks for all. If its answer is none that could be kept (an empty one), each asks.
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
    StreamPieces,
    freeze_response,
    kind_of,
    replay_chunks,
    replay_events,
    thaw_response,
)
from .account import Account, attach_record
from .cached_vectors import cached_embedding_flow
from .call import Call
from .effects import Effect, Load, Lookup, Store
from .flow import call_flow
from .following import flight_key, follow, price_of, raise_if_shared, recorded
from .keys import keys_of
from .lane import Answer
from .parts import Parts
from .replay import ReplayedStream
from .stream import CallStream

Flow = Generator[Effect, Any, Any]

# What followers get is what would be kept; None where there is nothing to keep.
_flights: Final[SingleFlight[Entry | None]] = SingleFlight()


def cached_flow(parts: Parts, call: Call, cache: Cache, *, namespace: str | None = None, sample: int = 0) -> Flow:
    """As :func:`.flow.call_flow`, but an answer that is kept, or on its way for an identical call, is not asked for.

    Args:
        parts: what the flow works with.
        call: what is to be asked.
        cache: where answers are kept.
        namespace: keeps answers apart from others; the cache's own if None.
        sample: tells several answers to one prompt apart.
    """
    if call.operation == "embedding":
        return (yield from cached_embedding_flow(parts, call, cache, namespace=namespace, sample=sample))
    keys = keys_of(call, cache, namespace=namespace, sample=sample)
    if not keys:
        return (yield from call_flow(parts, call))
    key = keys[0]
    account = Account(call, parts.trackers, parts.clock)
    yield Load(parts.lane)
    failures = 0
    while True:
        ended = _flights.ended
        found = yield from _look(account, cache, key)
        if found is not None:
            return found
        claim = _flights.claim(flight_key(cache, key, call))
        if isinstance(claim, Leader):
            with claim:
                if _flights.ended != ended:  # the answer may have come between the look and the claim
                    found = yield from _look(account, cache, key)
                    if found is not None:
                        return found
                if not call.stream:
                    return (yield from _lead(parts, call, account, cache, key, claim))
            return (yield from _stream(parts, call, account, cache, key))
        outcome: Outcome[Entry | None] = yield from follow(parts, account, claim)
        if outcome.state == "answered" and outcome.result is not None:
            shared = outcome.result
            # Each caller owns what it gets, to the leaves.
            response = thaw_response(shared.kind, deepcopy(shared.value))
            if response is not None:
                return _hit(account, shared, response)
        if outcome.state in {"alone", "answered"}:
            return (yield from call_flow(parts, call, account))
        if outcome.state == "failed":
            failures += 1
            raise_if_shared(parts, account, outcome.error, failures)


def _look(account: Account, cache: Cache, key: str) -> Flow:
    """The response that is kept, as the caller gets it; None where none is."""
    entry: Entry | None = yield from recorded(account, Lookup(cache, key))
    response = None if entry is None else thaw_response(entry.kind, entry.value)
    return None if entry is None or response is None else _hit(account, entry, response)


def _lead(parts: Parts, call: Call, account: Account, cache: Cache, key: str, leader: Leader[Entry | None]) -> Flow:
    response = yield from call_flow(parts, call, account)
    frozen = freeze_response(response)
    kind = kind_of(response)
    if frozen is None or kind is None:
        leader.settle(None)
        return response
    cost = price_of(response)
    yield Store(cache, {key: (frozen, cost)}, kind)
    leader.settle(Entry(key, kind, frozen, cost, 0.0))
    return response


def _stream(parts: Parts, call: Call, account: Account, cache: Cache, key: str) -> Flow:
    stream = yield from call_flow(parts, call, account)
    if isinstance(stream, CallStream):
        stream.keep_with(StreamKeeper(cache, key))
    return stream


class StreamKeeper:
    """Collects what a stream brings, and keeps it when it has ended well."""

    def __init__(self, cache: Cache, key: str) -> None:
        self._cache = cache
        self._key = key
        self._pieces = StreamPieces()

    def add(self, chunk: Any) -> None:
        """One more chunk, the caller's to see or not."""
        self._pieces.add(chunk)

    def store(self, stream: CallStream) -> Store | None:
        """What is to be done when the stream is at its end; None where there is nothing to keep."""
        frozen = self._pieces.freeze() if _was_finished(stream) else None
        if frozen is None:
            return None
        kind, value = frozen
        return Store(self._cache, {self._key: (value, price_of(stream))}, kind)


def _was_finished(stream: CallStream) -> bool:
    """Whether the provider has said so: where it broke off without a word, LiteLLM says that it stopped."""
    told = [getattr(stream, name, "unknown") for name in ("received_finish_reason", "intermittent_finish_reason")]
    return any(told)


def _hit(account: Account, entry: Entry, response: Any) -> Any:
    call = account.call
    told = entry.value.get("usage")
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
