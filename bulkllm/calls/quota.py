"""How a call takes quota from the limiter and settles it, by the way its provider counts."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .._waits import LIMITS
from ..accounting import Usage
from ..limits import Reservation
from ..limits.charging import charged, expected
from ..limits.discovery import Word
from ..limits.estimate import Estimate
from .account import Account
from .call import Call
from .effects import Effect, Reserve
from .parts import Parts


def reserve(
    parts: Parts, call: Call, account: Account, estimate: Estimate, *, timeout: float | None, front: bool
) -> Generator[Effect, Any, Reservation | None]:
    """Wait until the limits let a call go; None where there are none and none can be learned."""
    limiter = parts.limiter
    if not limiter.holds(call.model, call.origin):
        return None
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
            call.model, call.origin, amounts, timeout=timeout, priority=call.priority, front=front
        )
    try:
        yield Reserve(reservation)
    finally:
        if reservation.waited:
            account.wait(reservation.waited_for or LIMITS, reservation.waited)
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
