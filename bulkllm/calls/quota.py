"""How a call takes quota from the limiter and settles it, by the way its provider counts.

And what becomes of it when the provider says that a quota of a day or longer is spent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from .._waits import LIMITS, PROGRAM
from ..accounting import Usage
from ..errors import LimitTimeout, QuotaExhausted
from ..limits import Reservation
from ..limits.charging import charged, expected
from ..limits.estimate import Estimate
from ..limits.word import UNTOLD, Word
from .account import Account
from .call import Call
from .effects import START, Effect, Reserve
from .failure import Failure
from .hearing import word_of_failure
from .parts import Parts

logger = logging.getLogger(__name__)

# Where an error of the provider's says which quota is spent, and until when.
_QUOTA_ATTRIBUTE: Final = "bulkllm_quota"


def reserve(
    parts: Parts,
    call: Call,
    account: Account,
    estimate: Estimate,
    *,
    front: bool,
    patience: float,
) -> Generator[Effect, Any, Reservation | None]:
    """Wait until the limits let a call go, and the calls that came before it have gone out.

    Returns:
        Its reservation; None where there are no limits, and none can be learned.

    Raises:
        LimitTimeout: its time was over before.
    """
    while True:
        reservation = None
        if parts.limiter.holds(call.model, call.origin):
            reservation = yield from _granted(parts, call, account, estimate, front=front, patience=patience)
        may_go = False
        try:
            account.spend(PROGRAM, (yield START))
            may_go = account.left != 0.0 and (reservation is None or not reservation.is_overtaken())
        finally:
            if not may_go:  # nothing was sent
                START.forgo()
                if reservation is not None:
                    reservation.refund()
        if may_go:
            return reservation
        if account.left == 0.0:
            raise LimitTimeout(f"no time was left for {call.model} when its turn had come; raise the deadline")
        front = True


def _granted(
    parts: Parts, call: Call, account: Account, estimate: Estimate, *, front: bool, patience: float
) -> Generator[Effect, Any, Reservation]:
    limiter, timeout = parts.limiter, account.left
    if call.origin is None:
        reservation = limiter.reserve(
            call.model,
            input_tokens=estimate.input_tokens,
            output_tokens=estimate.output_tokens,
            timeout=timeout,
            priority=call.priority,
            front=front,
        )
    else:
        amounts = expected(call.origin.profile, estimate)
        reservation = limiter.reserve_for(
            call.model,
            call.origin,
            amounts,
            timeout=timeout,
            priority=call.priority,
            front=front,
            patience=patience,
        )
    try:
        yield Reserve(reservation)
    finally:
        if reservation.waited:
            reason = reservation.waited_for or LIMITS
            account.wait(reason, reservation.waited)
            logger.debug("a call to %s waited %.3g s for %s", call.model, reservation.waited, reason)
    return reservation


def settle(call: Call, reservation: Reservation, estimate: Estimate, used: Usage, word: Word | None = None) -> None:
    """Settle with what the provider counts of what was used."""
    if call.origin is None:
        reservation.reconcile(input_tokens=used.input_tokens, output_tokens=used.output_tokens)
    else:
        amounts = charged(
            call.origin.profile, estimate, used.input_tokens, used.output_tokens, float(used.cache_read_tokens)
        )
        reservation.charge(amounts, word)


# -- a quota of a day or longer ------------------------------------------------------------------------------------


def patience_left(call: Call, account: Account, since: float | None) -> float:
    """Seconds that a call still waits for a quota that is spent.

    Args:
        call: what is asked.
        account: its books.
        since: how long it had taken when it was first refused for that; None if it was not.
    """
    left = call.patience if since is None else call.patience - (account.elapsed - since)
    for end in (call.deadline, call.retry.max_elapsed):
        if end is not None:
            left = min(left, end - account.elapsed)
    return max(0.0, left)


def check_open(parts: Parts, call: Call, patience: float) -> None:
    """See that no quota is spent for longer than the call waits; asked before anything is held for it.

    Raises:
        QuotaExhausted: one is.
    """
    exhausted = parts.limiter.exhausted(call.model, call.origin, patience)
    if exhausted is not None:
        raise exhausted


def stay_counted(call: Call, failure: Failure) -> bool:
    """Whether the tokens of a failed attempt still count: as its provider's profile says, and if it may have worked."""
    if failure.refused:
        return False
    return failure.charge_unknown or call.origin is None or call.origin.profile.failed_tokens == "count"


def hear_failure(parts: Parts, call: Call, failure: Failure, error: Exception, tell: Callable[..., None]) -> bool:
    """Tell the limiter what a failure says, through ``tell(word=...)``.

    Returns:
        Whether a quota of a day or longer is spent; which one is then attached to the error.
    """
    word = word_of_failure(call, failure)
    if word is None or word.spent is None:
        tell(word=word)
        return False
    tell(word=word)
    spent = word.spent
    exhausted = parts.limiter.exhausted(call.model, call.origin)
    if exhausted is None:  # it has not come through yet: somebody else was at the books
        seconds = UNTOLD if spent.seconds is None else spent.seconds
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        exhausted = QuotaExhausted(call.model, spent.quota, until, seconds)
    attach_quota(error, exhausted)
    return True


def attach_quota(error: Exception, exhausted: QuotaExhausted) -> None:
    """Leave word of the quota where :func:`quota_of` finds it."""
    try:
        setattr(error, _QUOTA_ATTRIBUTE, exhausted)
    except AttributeError:  # an exception with slots: the next call is told all the same
        return


def quota_of(error: BaseException) -> QuotaExhausted | None:
    """The quota of a day or longer that a call ended for, whether the provider said so or the limiter knew."""
    found = error if isinstance(error, QuotaExhausted) else getattr(error, _QUOTA_ATTRIBUTE, None)
    return found if isinstance(found, QuotaExhausted) else None
