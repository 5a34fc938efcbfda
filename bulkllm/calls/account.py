"""The books of one call: what is known of it while it is under way, and the one record that it ends as."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from ..accounting import Hold, Usage, UsageRecord, UsageTracker, active_trackers, public_endpoint
from .call import Call
from .lane import Answer

# Where the record of a call is left: in a response's hidden parameters (a ModelResponse cannot be hashed), and on an
# exception as an attribute.
RECORD_KEY: Final = "bulkllm_record"
ERROR_ATTRIBUTE: Final = "bulkllm_record"

_NO_USAGE: Final = Usage()


class Account:
    """Books of one call. :meth:`close` may be called often, from any thread and from a finaliser: the first counts."""

    __slots__ = (
        "_began",
        "_clock",
        "_first_token_at",
        "_sent_at",
        "_started_at",
        "_trackers",
        "attempts",
        "call",
        "hold",
        "record",
        "waited",
    )

    def __init__(self, call: Call, trackers: tuple[UsageTracker, ...], clock: Callable[[], float]) -> None:
        self.call = call
        self.attempts = 0
        self.waited = 0.0
        self.hold: Hold | None = None
        self.record: UsageRecord | None = None
        self._clock = clock
        self._began = clock()
        self._sent_at: float | None = None
        self._first_token_at: float | None = None
        self._started_at = datetime.now(UTC)
        # Taken now, for a stream may be finished by another task and dropped by the garbage collector.
        scopes = active_trackers()
        self._trackers = scopes + tuple(tracker for tracker in trackers if all(tracker is not s for s in scopes))

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return self._clock() - self._began

    @property
    def since_sent(self) -> float:
        """Seconds since the last attempt was sent."""
        return 0.0 if self._sent_at is None else self._clock() - self._sent_at

    def sent(self) -> None:
        """One more attempt goes out."""
        self.attempts += 1
        self._sent_at = self._clock()

    def first_token(self) -> None:
        """The stream's first content is here."""
        if self._first_token_at is None:
            self._first_token_at = self._clock()

    def close(
        self,
        outcome: str,
        answer: Answer | None = None,
        *,
        estimated: Usage | None = None,
        unknown_charge: bool = False,
    ) -> UsageRecord:
        """End as one record, and have it counted. Later calls change nothing.

        Args:
            outcome: ``ok``, ``cancelled``, or the name of the error's class.
            answer: what the provider said, if it answered.
            estimated: tokens, where the provider told none.
            unknown_charge: it was sent, and nobody knows what of it will be billed.
        """
        if self.record is not None:
            return self.record
        call = self.call
        usage = answer.usage if answer is not None else None
        cached = answer is not None and answer.from_cache
        sent, first = None if cached else self._sent_at, self._first_token_at
        self.record = record = UsageRecord(
            operation=call.operation,
            model=call.model,
            requested_model=call.requested_model,
            response_model=answer.model if answer is not None else None,
            provider=call.provider,
            endpoint=_configured_endpoint(call) if answer is None else answer.endpoint,
            usage=usage or estimated or _NO_USAGE,
            cost=0.0 if cached else answer.cost if answer is not None else None if unknown_charge else 0.0,
            cost_note=answer.cost_note if answer is not None and not cached else None,
            saved=answer.cost if answer is not None and cached else None,
            cached=cached,
            outcome=outcome,
            latency=0.0 if sent is None else self._clock() - sent,
            time_to_first_token=None if first is None or sent is None else first - sent,
            waited=self.waited,
            attempts=max(0, self.attempts - cached),  # the attempt that LiteLLM's cache answered was not sent
            tags=call.tags,
            started_at=self._started_at,
            estimated=usage is None and estimated is not None,
            charge_unknown=unknown_charge,
        )
        if self.hold is not None:
            self._settle_hold(self.hold, record)
        for tracker in self._trackers:
            tracker.record(record)
        return record

    def _settle_hold(self, hold: Hold, record: UsageRecord) -> None:
        """Spend what is known; what is not known, though it may be billed, stays spent as estimated."""
        if not record.attempts and not record.cached:
            hold.refund()
        elif record.charge_unknown:
            hold.settle()
        else:
            hold.settle(cost=record.cost, tokens=record.total_tokens)


def _configured_endpoint(call: Call) -> str | None:
    base = call.options.get("api_base") or call.options.get("base_url")
    return public_endpoint(str(base)) if base else None


def attach_record(response: Any, record: UsageRecord) -> None:
    """Leave a record where :func:`record_of` finds it."""
    hidden = getattr(response, "_hidden_params", None)
    if hidden is None:
        return
    if isinstance(hidden, dict):
        hidden[RECORD_KEY] = record
    else:
        setattr(hidden, RECORD_KEY, record)


def attach_to_error(error: BaseException, record: UsageRecord) -> None:
    """Leave a record where :func:`record_of_error` finds it."""
    try:
        setattr(error, ERROR_ATTRIBUTE, record)
    except AttributeError:  # an exception with slots: its record is in the trackers all the same
        return


def record_of(response: Any) -> UsageRecord:
    """The record of a response that came from bulkllm; for one that came from elsewhere it is read from its usage.

    A stream has one when it is finished or closed.

    Raises:
        ValueError: a stream that is still being read.
    """
    own = getattr(response, "record", None)
    if isinstance(own, UsageRecord):
        return own
    hidden = getattr(response, "_hidden_params", None)
    found = hidden.get(RECORD_KEY) if isinstance(hidden, dict) else getattr(hidden, RECORD_KEY, None)
    if isinstance(found, UsageRecord):
        return found
    if hasattr(response, "__next__") or hasattr(response, "__anext__"):
        raise ValueError("this stream is not finished: its record is made when it is exhausted or closed")
    return UsageRecord.from_response(response)


def record_of_error(error: BaseException) -> UsageRecord | None:
    """The record of the call that ended with this exception, or None if none did."""
    found = getattr(error, ERROR_ATTRIBUTE, None)
    return found if isinstance(found, UsageRecord) else None
