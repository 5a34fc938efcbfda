"""What an answer says of a provider's limits, for the limiter: from headers, and from failures."""

from __future__ import annotations

import time
from typing import Any

from ..limits.feedback import observe
from ..limits.spent import LONG, spent_by
from ..limits.word import LET_IN, Word
from .call import Call
from .failure import Failure
from .lane import Lane


def word_of_answer(lane: Lane, call: Call, response: Any) -> Word | None:
    """What a response says, or the beginning of a stream; None where nobody listens."""
    if call.origin is None:
        return None
    headers = lane.headers(response)
    if headers is None or not call.origin.profile.headers:
        return LET_IN
    told = observe(call.origin.profile, headers, time.time())
    return Word("let in", tuple(told)) if told else LET_IN


def word_of_failure(call: Call, failure: Failure) -> Word | None:
    """What a failure says; None where it says nothing of limits, or nobody listens."""
    if call.origin is None:
        return None
    if failure.kind == "capacity":
        return Word("overloaded")
    if failure.kind not in ("rate_limit", "quota"):
        return None
    profile, now = call.origin.profile, time.time()
    told = tuple(observe(profile, failure.headers, now))
    spent = spent_by(
        profile,
        codes=failure.codes,
        message=failure.message,
        told=told,
        retry_after=failure.retry_after,
        longest=max(LONG, call.retry.max_retry_after),
        now=now,
    )
    if spent is None and failure.kind == "quota":  # money: nobody knows until when
        return None
    return Word("refused", told, failure.retry_after, spent)
