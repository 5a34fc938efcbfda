"""What an answer says of a provider's limits, for the limiter: from headers, and from failures."""

from __future__ import annotations

import time
from typing import Any

from ..limits.discovery import LET_IN, Word
from ..limits.feedback import observe
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
    if failure.kind == "rate_limit":
        told = observe(call.origin.profile, failure.headers, time.time())
        return Word("refused", tuple(told), failure.retry_after)
    if failure.kind == "capacity":
        return Word("overloaded")
    return None
