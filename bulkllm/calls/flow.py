"""One call from beginning to end, as a generator of effects.

Here is decided what happens in which order, and nothing is done: a driver performs each effect and sends the result
in, or throws the error in. So threads and tasks run the same code, and a test needs no network and no clock.

The rule of settling: what was not sent is refunded whole; what was sent stays counted. Settling, learning and
recording never wait and never await, so that they may follow a cancellation or stand in a finaliser.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any, Final

from ..accounting import Usage
from ..errors import BulkLLMError, LimitTimeout
from ..limits import Reservation
from ..limits.estimate import Estimate
from .account import Account, attach_record, attach_to_error
from .call import Call
from .effects import Effect, HoldBudget, Load, Reserve, Send, Sleep
from .fold import guessed_usage
from .parts import Parts
from .spending import hold_of
from .stream import CallStream

Flow = Generator[Effect, Any, Any]

_NOTHING: Final = Estimate(0, 0, 0)


def call_flow(parts: Parts, call: Call) -> Flow:
    """Make a call: wait for the limits, send, try again as the policy says, settle, record.

    Returns:
        LiteLLM's response, or a :class:`CallStream` that carries its reservation along.

    Raises:
        Exception: the last attempt's, as the lane raised it; or one of :mod:`bulkllm.errors` before anything was sent.
    """
    account = Account(call, parts.trackers, parts.clock)
    yield Load(parts.lane)
    estimate = _estimate(parts, call)
    failed: Exception | None = None
    refused = False
    unknown_charge = False
    while True:
        reservation: Reservation | None = None
        over: Exception | None = None
        try:
            if parts.budget is not None and account.hold is None:
                account.hold = hold_of(parts.budget, parts.lane, call, estimate)
                yield HoldBudget(account.hold)
            reservation = yield from _reserve(parts, call, account, estimate, front=refused)
        except BulkLLMError as error:
            # If the deadline is over, then what the attempt before said is why there was to be another at all.
            over = failed if failed is not None and isinstance(error, LimitTimeout) else error
        except BaseException:
            account.close("cancelled", unknown_charge=unknown_charge)
            raise
        if over is not None:
            try:
                _record_failure(account, over, unknown_charge=unknown_charge)
                raise over
            finally:
                failed = over = None

        if reservation is not None:
            reservation.mark_sent()
        account.sent()
        attempt = _within_deadline(call, account)
        try:
            response = yield Send(parts.lane, attempt, attempt.timeout)
        except Exception as error:  # noqa: BLE001 - the policy decides below, and what it does not retry is raised
            failed = error
        except BaseException:  # cancelled or closed while it was under way: it stays counted
            if reservation is not None:
                reservation.release()
            account.close("cancelled", unknown_charge=True)
            raise
        else:
            if call.stream:
                return CallStream(parts, attempt, account, reservation, estimate, response)
            _settle_answer(parts, call, account, reservation, estimate, response)
            return response

        # Outside the handler: or each attempt's error would drag the ones before it along as its context.
        failure = parts.lane.failure(failed)
        refused = failure.refused
        unknown_charge = unknown_charge or failure.charge_unknown
        if reservation is not None:
            reservation.release(keep_tokens=not refused)
        delay = call.retry.decide(failure, account.attempts, account.elapsed)
        if delay is None or (call.deadline is not None and account.elapsed + delay >= call.deadline):
            try:
                _record_failure(account, failed, unknown_charge=unknown_charge)
                raise failed
            finally:
                failed = None  # or the error's traceback would hold this frame, and this frame the error
        try:
            yield Sleep(delay)
        except BaseException:
            account.close("cancelled", unknown_charge=unknown_charge)
            raise


def _estimate(parts: Parts, call: Call) -> Estimate:
    if parts.budget is None and not parts.limiter.counts_tokens(call.model):
        return _NOTHING
    return parts.estimator.estimate(call.model, call.options)


def _reserve(
    parts: Parts, call: Call, account: Account, estimate: Estimate, *, front: bool
) -> Generator[Effect, Any, Reservation | None]:
    if not parts.limiter.holds(call.model):
        return None
    reservation = parts.limiter.reserve(
        call.model,
        input_tokens=estimate.input_tokens,
        output_tokens=estimate.output_tokens,
        timeout=None if call.deadline is None else max(0.0, call.deadline - account.elapsed),
        priority=call.priority,
        front=front,
    )
    try:
        yield Reserve(reservation)
    finally:
        account.waited += reservation.waited
    return reservation


def _within_deadline(call: Call, account: Account) -> Call:
    """The call as this attempt makes it: the deadline may leave it less time than its timeout."""
    if call.deadline is None:
        return call
    left = max(0.001, call.deadline - account.elapsed)
    return call if call.timeout is not None and call.timeout <= left else replace(call, timeout=left)


def _settle_answer(
    parts: Parts, call: Call, account: Account, reservation: Reservation | None, estimate: Estimate, response: Any
) -> None:
    """A whole answer is here."""
    answer = parts.lane.answer(call, response)
    used = answer.usage
    guess: Usage | None = None
    if used is None:
        known = estimate if estimate is not _NOTHING else parts.estimator.estimate(call.model, call.options)
        guess = guessed_usage(response, known.input_tokens)
    if reservation is not None:
        if answer.from_cache:
            reservation.refund()
        elif used is None:
            reservation.release()
        else:
            reservation.reconcile(input_tokens=used.input_tokens, output_tokens=used.output_tokens)
    if estimate is not _NOTHING and used is not None:
        parts.estimator.learn(call.model, estimate.characters, used.input_tokens, used.output_tokens)
    attach_record(response, account.close("ok", answer, estimated=guess))


def _record_failure(account: Account, error: Exception, *, unknown_charge: bool) -> None:
    attach_to_error(error, account.close(type(error).__name__, unknown_charge=unknown_charge))
