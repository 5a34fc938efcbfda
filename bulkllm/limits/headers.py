"""What providers say about waiting, read into seconds. Pure: the time of day comes in.

Sources: the providers' documentation of ``retry-after`` (RFC 9110: seconds or an HTTP date), OpenAI's and Azure's
``retry-after-ms``, and Google's ``google.rpc.RetryInfo``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_DURATION: Final = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?"
                              r"(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")  # fmt: skip
_UNITS: Final = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)

LONGEST: Final = 366 * 86_400.0
"""Seconds. Whoever asks to wait longer has sent something else, such as a time stamp."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the provider asks to wait; None where it does not say, or says nonsense.

    Args:
        headers: with names in lower case.
        now: seconds since the epoch, for HTTP dates.
    """
    in_ms = _number(headers.get("retry-after-ms"))
    seconds = _said(headers.get("retry-after"), now) if in_ms is None else in_ms / 1000
    return seconds if seconds is not None and seconds <= LONGEST else None


def _said(text: str | None, now: float) -> float | None:
    """Seconds of a ``retry-after`` in any of its forms."""
    if text is None:
        return None
    seconds = _number(text)
    if seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # the old form without a zone, and "-0000": HTTP's dates are all in UTC
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return duration(text)


def duration(text: str) -> float | None:
    """Seconds of a duration such as ``6m0s``, ``12ms``, ``2m59.56s`` or ``41.5s``; None if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return None
    return sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)


def _number(text: str | None) -> float | None:
    try:
        value = float(text)  # type: ignore[arg-type]  # None raises TypeError as it should
    except (TypeError, ValueError):
        return None
    return value if 0 <= value < math.inf else None
