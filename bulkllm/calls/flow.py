"""One call from beginning to end, as a generator of effects.

Here is decided what happens in which order, and nothing is done: a driver performs each effect and sends the result
in, or throws the error in. So threads and tasks run the same code, and a test needs no network and no clock.

The rule of settling: what was not sent is refunded whole; what was sent stays counted. Settling, learning and
recording never wait and never await, so that they may follow a cancellation or stand in a finaliser.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from .._waits import BUDGET, RETRIES
from ..accounting import Usage, active_budgets, in_order
from ..errors import BudgetExceeded, BulkLLMError, LimitTimeout, QuotaExhausted
from ..limits import Reservation
from ..limits.estimate import Estimate
from .account import Account, attach_record, attach_to_error
from .call import Call
from .effects import Count, Effect, HoldBudget, Load, Send, Sleep
from .fold import guessed_usage
from .hearing import word_of_answer
from .parts import Parts
from .quota import attach_quota, check_open, hear_failure, patience_left, reserve, settle, stay_counted
from .spending import expected_cost, hold_of
from .stream import CallStream

logger = logging.getLogger(__name__)

Flow = Generator[Effect, Any, Any]

_NOTHING: Final = Estimate(0, 0, 0)

# The errors' own texts are left out: they may hold the prompt.
_TRIED_AGAIN: Final = "attempt %d of a call to %s failed (%s: %s), the next one comes in %.3g s"
_GIVEN_UP: Final = "attempt %d of a call to %s failed (%s: %s), and is not tried again"


def call_flow(parts: Parts, call: Call, account: Account | None = None) -> Flow:
    """Make a call: wait for the limits, send, try again as the policy says, settle, record.

    Args:
        parts: what the flow works with.
        call: what is to be asked.
        account: the call's books, where they were opened before; time that has passed since counts.

    Returns:
        LiteLLM's response, or a :class:`CallStream` that carries its reservation along.

    Raises:
        Exception: the last attempt's, as the lane raised it; or one of :mod:`bulkllm.errors` before anything was sent.
    """
    if account is None:
        account = Account(call, parts.trackers, parts.clock)
    try:
        return (yield from _attempts(parts, call, account))
    except BaseException as error:
        record = account.close(type(error).__name__ if isinstance(error, Exception) else "cancelled")
        if isinstance(error, (Exception, CancelledError)):
            attach_to_error(error, record)
        raise


def _attempts(parts: Parts, call: Call, account: Account) -> Flow:
    budgets = in_order(*active_budgets(), *(() if parts.budget is None else (parts.budget,)))
    yield Load(parts.lane)
    estimate = _estimate(parts, call, needed=bool(budgets))
    if parts.counter is not None and estimate is not _NOTHING:
        estimate = estimate.counted((yield Count(parts.counter, call)))
    account.expect = lambda usage: _expected(parts, call, estimate, usage)
    failed: Exception | None = None
    refused = False
    spent_at: float | None = None  # when the provider first said that a quota of a day or longer is spent
    spared = 0  # attempts that were refused for that, and that the policy does not count
    while True:
        reservation: Reservation | None = None
        over: Exception | None = None
        try:
            patience = patience_left(call, account, spent_at)
            check_open(parts, call, patience)
            if not account.holds:
                for budget in budgets:
                    hold = hold_of(
                        budget, parts.lane, parts.lengths, call, estimate, requests=0.0 if account.attempts else 1.0
                    )
                    account.holds = (*account.holds, hold)
                    began = parts.clock()
                    try:
                        yield HoldBudget(hold, account.left)
                    finally:
                        account.wait(BUDGET, parts.clock() - began)
            reservation = yield from reserve(parts, call, account, estimate, front=refused, patience=patience)
        except BulkLLMError as error:
            # If time or money is over, then what the attempt before said is why there was to be another at all.
            over = error
            if failed is not None and isinstance(error, LimitTimeout | BudgetExceeded | QuotaExhausted):
                over = failed
                if isinstance(error, QuotaExhausted):
                    attach_quota(failed, error)
        if over is not None:
            try:
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
            raise
        else:
            if call.stream:
                if reservation is not None and (word := word_of_answer(parts.lane, call, response)) is not None:
                    reservation.heard(word)
                return CallStream(parts, attempt, account, reservation, estimate, response)
            try:
                _settle_answer(parts, call, account, reservation, estimate, response)
            except Exception:  # the answer is paid: books that break must not take it away
                logger.exception("the books of a call to %s broke: its tokens and its cost are unknown", call.model)
                if reservation is not None:
                    reservation.release()
                attach_record(response, account.close("ok"))
            return response

        # Outside the handler: or each attempt's error would drag the ones before it along as its context.
        failure = parts.lane.failure(failed)
        refused = failure.refused
        account.failed(failure)
        spent = False
        if reservation is not None:
            spent = hear_failure(
                parts, call, failure, failed, partial(reservation.release, keep_tokens=stay_counted(call, failure))
            )
        if spent and call.patience > 0:
            spent_at = account.elapsed if spent_at is None else spent_at
            spared += 1
            continue  # the limiter knows until when, and whether this call waits so long
        delay = None if spent else call.retry.decide(failure, account.attempts - spared, account.elapsed)
        if delay is None or (call.deadline is not None and account.elapsed + delay >= call.deadline):
            logger.debug(_GIVEN_UP, account.attempts, call.model, failure.kind, type(failed).__name__)
            try:
                raise failed
            finally:
                failed = None  # or the error's traceback would hold this frame, and this frame the error
        if failure.kind == "rate_limit" and failure.retry_after is not None and call.origin is not None:
            continue  # the limiter knows until when nothing goes, and this one stands in front
        logger.debug(_TRIED_AGAIN, account.attempts, call.model, failure.kind, type(failed).__name__, delay)
        began = parts.clock()
        try:
            yield Sleep(delay)
        finally:
            account.spend(RETRIES, parts.clock() - began)


def _estimate(parts: Parts, call: Call, *, needed: bool) -> Estimate:
    if not needed and not parts.limiter.counts_tokens(call.model, call.origin):
        return _NOTHING
    return _estimate_of(parts, call)


def _estimate_of(parts: Parts, call: Call) -> Estimate:
    return parts.estimator.estimate(call.operation, call.model, call.options)


def _expected(parts: Parts, call: Call, estimate: Estimate, usage: Usage | None) -> tuple[float, float | None]:
    """What tokens an attempt probably takes, and what it costs, of which nobody knows more than what had come of it."""
    known: Usage | Estimate = estimate
    if usage is not None:
        known = usage
    elif estimate is _NOTHING:
        known = _estimate_of(parts, call)
    taken = known.input_tokens, known.output_tokens
    return sum(taken), expected_cost(parts.lane, call, *taken)


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
    account.response = response
    answer = parts.lane.answer(call, response)
    used = answer.usage
    guess: Usage | None = None
    if used is None:
        known = estimate if estimate is not _NOTHING else _estimate_of(parts, call)
        guess = guessed_usage(response, known.input_tokens)
    if reservation is not None:
        word = word_of_answer(parts.lane, call, response)
        if answer.from_cache:
            reservation.refund()
        elif used is None:
            reservation.release(word=word)
        else:
            settle(call, reservation, estimate, used, word)
    if estimate is not _NOTHING and used is not None:
        parts.estimator.learn(call.model, estimate.characters, used.input_tokens, used.output_tokens)
        parts.lengths.learn(call.model, used.output_tokens)
    attach_record(response, account.close("ok", answer, estimated=guess))
