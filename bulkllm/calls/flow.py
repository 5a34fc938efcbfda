"""One call from beginning to end, as a generator of effects.

Here is decided what happens in which order, and nothing is done: a driver performs each effect and sends the result
in, or throws the error in. So threads and tasks run the same code, and a test needs no network and no clock.

The rule of settling: what was not sent is refunded whole; what was sent stays counted. Settling, learning and
recording never wait and never await, so that they may follow a cancellation or stand in a finaliser.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from ..errors import BulkLLMError, LimitTimeout
from ..limits import Reservation
from ..limits.estimate import Estimate
from .account import ERROR_ATTRIBUTE, Account, attach_record
from .call import Call
from .effects import Effect, Load, Reserve, Send, Sleep
from .failure import Failure
from .parts import Parts
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
    failed: Exception | None = None
    refused = False
    while True:
        try:
            reservation, estimate = yield from _reserve(parts, call, account, front=refused)
        except BulkLLMError as error:
            if failed is not None and isinstance(error, LimitTimeout):
                raise failed from None  # the deadline is over, and this is why there was a second attempt at all
            _record_failure(account, error, unknown_charge=False)
            raise
        except BaseException:
            account.close("cancelled")
            raise

        if reservation is not None:
            reservation.mark_sent()
        account.sent()
        try:
            response = yield Send(parts.lane, call, _attempt_seconds(call, account))
        except Exception as error:  # noqa: BLE001 - the policy decides below, and what it does not retry is raised
            failed = error
        except BaseException:  # cancelled or closed while it was under way: it stays counted
            if reservation is not None:
                reservation.release()
            account.close("cancelled", unknown_charge=True)
            raise
        else:
            if call.stream:
                return CallStream(parts, call, account, reservation, estimate, response)
            _settle_answer(parts, call, account, reservation, estimate, response)
            return response

        # Outside the handler: or each attempt's error would drag the ones before it along as its context.
        failure = parts.lane.failure(failed)
        refused = failure.refused
        if reservation is not None:
            reservation.release(keep_tokens=not refused)
        delay = call.retry.decide(failure, account.attempts, account.elapsed)
        if delay is None or (call.deadline is not None and account.elapsed + delay >= call.deadline):
            _record_failure(account, failed, unknown_charge=_unknown_charge(failure))
            raise failed
        try:
            yield Sleep(delay)
        except BaseException:
            account.close("cancelled", unknown_charge=_unknown_charge(failure))
            raise


def _reserve(
    parts: Parts, call: Call, account: Account, *, front: bool
) -> Generator[Effect, Any, tuple[Reservation | None, Estimate]]:
    limiter = parts.limiter
    if not limiter.holds(call.model):
        return None, _NOTHING
    estimate = parts.estimator.estimate(call.model, call.options) if limiter.counts_tokens(call.model) else _NOTHING
    reservation = limiter.reserve(
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
    return reservation, estimate


def _attempt_seconds(call: Call, account: Account) -> float | None:
    if call.deadline is None:
        return call.timeout
    left = max(0.001, call.deadline - account.elapsed)
    return left if call.timeout is None else min(left, call.timeout)


def _settle_answer(
    parts: Parts, call: Call, account: Account, reservation: Reservation | None, estimate: Estimate, response: Any
) -> None:
    """A whole answer is here."""
    answer = parts.lane.answer(call, response)
    if reservation is not None:
        if answer.from_cache:
            reservation.refund()
        elif answer.usage is None:
            reservation.release()
        else:
            used = answer.usage
            reservation.reconcile(input_tokens=used.input_tokens, output_tokens=used.output_tokens)
            if estimate is not _NOTHING:
                parts.estimator.learn(call.model, estimate.characters, used.input_tokens, used.output_tokens)
    attach_record(response, account.close("ok", answer))


def _record_failure(account: Account, error: Exception, *, unknown_charge: bool) -> None:
    record = account.close(type(error).__name__, unknown_charge=unknown_charge)
    try:
        setattr(error, ERROR_ATTRIBUTE, record)
    except AttributeError:  # an exception with slots: its record is in the trackers all the same
        return


def _unknown_charge(failure: Failure) -> bool:
    """Whether the provider may have worked, and bill, although no answer came."""
    return failure.kind in {"timeout", "connection"}
