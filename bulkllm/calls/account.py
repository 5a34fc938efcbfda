"""The books of one call: what is known of it while it is under way, and the one record that it ends as."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from .._waits import RETRIES
from ..accounting import Hold, Usage, UsageRecord, UsageTracker, active_trackers, public_endpoint
from .call import Call
from .failure import Failure
from .lane import Answer
from .observer import NOBODY, Watches

# Where the record of a call is left: in a response's hidden parameters (a ModelResponse cannot be hashed), and on an
# exception as an attribute.
RECORD_KEY: Final = "bulkllm_record"
ERROR_ATTRIBUTE: Final = "bulkllm_record"

_NO_USAGE: Final = Usage()
_ATTEMPT_LOST: Final = "it was sent and no whole answer came: whether it is charged is not known"
# Seconds below which nobody has waited: taking a free place takes some time too.
_WORTH_NOTING: Final = 0.001
_REFUSED: Final = frozenset({"rate_limit", "quota"})


def _nobody_knows(usage: Usage | None) -> tuple[float, float | None]:  # noqa: ARG001 - the shape of Account.expect
    return 0.0, None


class Account:
    """Books of one call. :meth:`close` may be called often, from any thread and from a finaliser: the first counts.

    Attributes:
        call: what is asked.
        attempts: requests sent.
        refused: those that the provider turned away for its limits.
        waited: seconds, for limits and budgets.
        waits: seconds that went on other things than the last attempt, by what.
        saved: what the part of the answer that is known already cost when it was paid.
        holds: what is held of budgets for the next attempt, or for the one under way.
        expect: the tokens that an attempt probably takes, and what it costs; given what is known of its tokens.
        record: the one record, when it is closed.
        response: the whole answer, if one has come; observers are shown it.
        watches: the observers of this call.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_failed_at",
        "_first_token_at",
        "_holds_sent",
        "_sent_at",
        "_started_at",
        "_trackers",
        "_uncertain",
        "_uncertain_cost",
        "_uncertain_tokens",
        "_under_way",
        "attempts",
        "call",
        "expect",
        "holds",
        "record",
        "refused",
        "response",
        "saved",
        "waited",
        "waits",
        "watches",
    )

    def __init__(self, call: Call, trackers: tuple[UsageTracker, ...], clock: Callable[[], float]) -> None:
        self.call = call
        self.attempts = 0
        self.refused = 0
        self.waited = 0.0
        self.waits: dict[str, float] = {}
        self.saved: float | None = None
        self.holds: tuple[Hold, ...] = ()
        self.expect: Callable[[Usage | None], tuple[float, float | None]] = _nobody_knows
        self.response: Any = None
        self.watches = Watches(call.observers, call) if call.observers else NOBODY
        self.record: UsageRecord | None = None
        self._clock = clock
        self._began = clock()
        self._sent_at: float | None = None
        self._failed_at: float | None = None
        self._first_token_at: float | None = None
        self._under_way = False
        self._holds_sent = False
        self._uncertain = False
        self._uncertain_cost: float | None = 0.0
        self._uncertain_tokens = 0
        self._started_at = datetime.now(UTC)
        # Taken now, for a stream may be finished by another task and dropped by the garbage collector.
        scopes = active_trackers()
        self._trackers = scopes + tuple(tracker for tracker in trackers if all(tracker is not s for s in scopes))

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return self._clock() - self._began

    @property
    def left(self) -> float | None:
        """Seconds until the call's deadline; None without one."""
        deadline = self.call.deadline
        return None if deadline is None else max(0.0, deadline - self.elapsed)

    @property
    def since_sent(self) -> float:
        """Seconds since the last attempt was sent."""
        return 0.0 if self._sent_at is None else self._clock() - self._sent_at

    def wait(self, reason: str, seconds: float) -> None:
        """The call has waited for limits or a budget."""
        self.waited += seconds
        self.spend(reason, seconds)

    def spend(self, reason: str, seconds: float) -> None:
        """Time of the call went on something else than its last attempt."""
        if seconds >= _WORTH_NOTING:
            self.waits[reason] = self.waits.get(reason, 0.0) + seconds

    def sent(self) -> None:
        """One more attempt goes out."""
        if self._sent_at is not None and self._failed_at is not None:
            self.spend(RETRIES, self._failed_at - self._sent_at)
        self.attempts += 1
        self._sent_at = self._clock()
        self._under_way = self._holds_sent = True

    def failed(self, failure: Failure) -> None:
        """The attempt under way ended in an error."""
        self._under_way = False
        self._failed_at = self._clock()
        if failure.kind in _REFUSED:
            self.refused += 1
        if failure.charge_unknown:
            self._give_up(None)

    def _give_up(self, usage: Usage | None) -> None:
        """An attempt may be billed and nobody knows: it stays spent as estimated, and the next one is held anew."""
        (tokens, cost), so_far = self.expect(usage), self._uncertain_cost
        self._uncertain = True
        self._uncertain_cost = None if cost is None or so_far is None else so_far + cost
        if usage is None and tokens < math.inf:  # what is known of them stands in the record's usage
            self._uncertain_tokens += math.ceil(tokens)
        for hold in self.holds:
            hold.settle()
        self.holds = ()
        self._holds_sent = False

    def first_token(self) -> None:
        """The stream's first content is here."""
        if self._first_token_at is None:
            self._first_token_at = self._clock()

    def close(self, outcome: str, answer: Answer | None = None, *, estimated: Usage | None = None) -> UsageRecord:
        """End as one record, and have it counted. Later calls change nothing.

        An attempt that is still under way and has no answer may be billed: nobody knows.

        Args:
            outcome: ``ok``, ``cancelled``, or the name of the error's class.
            answer: what the provider said, if it answered.
            estimated: tokens, where the provider told none.
        """
        if self.record is not None:
            return self.record
        if answer is None and self._under_way:
            self._give_up(estimated)
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
            cost=0.0 if cached else answer.cost if answer is not None else None if self._uncertain else 0.0,
            cost_note=self._note(answer),
            saved=None if answer is None else answer.cost if cached else self.saved,
            cached=cached,
            outcome=outcome,
            latency=0.0 if sent is None else self._ended() - sent,
            time_to_first_token=None if first is None or sent is None else first - sent,
            waited=self.waited,
            waits=self.waits,
            attempts=max(0, self.attempts - cached),  # the attempt that LiteLLM's cache answered was not sent
            refused=self.refused,
            tags=call.tags,
            started_at=self._started_at,
            estimated=usage is None and estimated is not None,
            charge_unknown=self._uncertain,
            uncertain_cost=self._uncertain_cost,
            uncertain_tokens=self._uncertain_tokens,
        )
        for hold in self.holds:
            if cached or not self._holds_sent:
                hold.refund()
            else:
                hold.settle(cost=record.cost if answer is not None else 0.0, tokens=record.total_tokens)
        for tracker in self._trackers:
            tracker.record(record)
        self.watches.ended(record, self.response)
        return record

    def _ended(self) -> float:
        """When the last attempt ended: now, or when it failed; what came after that was waiting."""
        return self._clock() if self._under_way or self._failed_at is None else self._failed_at

    def _note(self, answer: Answer | None) -> str | None:
        """Why the cost is not known."""
        if answer is None:
            return _ATTEMPT_LOST if self._uncertain else None
        return None if answer.from_cache else answer.cost_note


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
        return
    try:
        setattr(hidden, RECORD_KEY, record)
    except (AttributeError, TypeError, ValueError):  # it takes no more: the record is in the trackers all the same
        return


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
