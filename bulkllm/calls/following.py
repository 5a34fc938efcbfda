"""Identical calls in flight: which are one, how one waits for another, and what a failure means to those who waited.

What may live here: what :mod:`.cached` and :mod:`.cached_vectors` have in common; the rules are told there.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from .._waits import IDENTICAL
from ..caching import Cache, Follower, Outcome, is_secret
from ..errors import BulkLLMError
from .account import Account, attach_to_error, record_of, record_of_error
from .call import Call
from .effects import Effect, Follow
from .parts import Parts

Flow = Generator[Effect, Any, Any]
Kept = TypeVar("Kept")


def flight_key(cache: Cache, key: str, call: Call) -> str:
    """Which calls in flight are one: same request, same cache, same credentials (of which only a hash is used)."""
    place = str(cache.path or id(cache))
    return f"{place}:{key}:{_credentials(call.options)}"


def _credentials(options: Mapping[str, Any]) -> int:
    held: list[tuple[str, object]] = []
    for name, value in options.items():
        if name in {"extra_headers", "headers"} and isinstance(value, Mapping):
            held += [(f"{name}:{header}", str(text)) for header, text in value.items()]
        elif is_secret(name):
            held.append((name, value if isinstance(value, str) else id(value)))
    return hash(frozenset(held))


def recorded(account: Account, effect: Effect) -> Flow:
    """An effect before anything is asked; the call has its record if it ends here."""
    try:
        return (yield effect)
    except Exception as error:
        attach_to_error(error, account.close(type(error).__name__))
        raise
    except BaseException:
        account.close("cancelled")
        raise


def follow(parts: Parts, account: Account, follower: Follower[Kept]) -> Generator[Effect, Any, Outcome[Kept]]:
    """How the call that is followed ended.

    Raises:
        Exception: the lane's timeout, where this call's deadline comes first.
    """
    deadline = account.call.deadline
    left = None if deadline is None else max(0.0, deadline - account.elapsed)
    began = parts.clock()
    try:
        outcome: Outcome[Kept] | None = yield from recorded(account, Follow(follower, left))
    finally:
        account.spend(IDENTICAL, parts.clock() - began)
    if outcome is None:
        error = parts.lane.timed_out(replace(account.call, timeout=deadline))
        attach_to_error(error, account.close(type(error).__name__))
        raise error
    return outcome


def raise_if_shared(parts: Parts, account: Account, error: BaseException | None, failures: int) -> None:
    """Raise the error of the call that was followed, if it is this call's as well.

    An error of bulkllm's own never is, nor a timeout of an attempt that had less time than one of this call would have.

    Args:
        parts: what the flow works with.
        account: of this call.
        error: that with which the other call ended.
        failures: how many calls that this one has followed have failed; all but the first of them began after it.
    """
    if not isinstance(error, Exception) or isinstance(error, BulkLLMError):
        return
    failure = parts.lane.failure(error)
    if failure.kind == "timeout" and _had_less_time(error, account):
        return
    if failures > 1 or not failure.retryable:
        own = _twin(error)
        attach_to_error(own, account.close(type(own).__name__))
        raise own


def _had_less_time(error: Exception, account: Account) -> bool:
    """Whether the attempt that ended with this error ended sooner than one of this call would have to."""
    record = record_of_error(error)
    own = (seconds for seconds in (account.call.timeout, account.left) if seconds is not None)
    return record is not None and record.latency < min(own, default=math.inf)


def _twin(error: Exception) -> Exception:
    """The same error for another caller: each has a record and a traceback of its own."""
    twin = type(error).__new__(type(error), *error.args)
    twin.args = error.args
    vars(twin).update(vars(error))
    twin.__cause__, twin.__suppress_context__ = error.__cause__, True
    return twin


def price_of(response: Any) -> float | None:
    """What an answer cost when it was paid; if LiteLLM's cache gave it, that was earlier."""
    record = record_of(response)
    return record.saved if record.cached else record.cost
