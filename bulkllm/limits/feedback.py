"""What a provider's headers say of its limits. Pure: the time of day comes in.

Nonsense (a limit of 0 or -1, or beyond all bounds, something left of nothing, text) is as good as not told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .headers import duration
from .profiles import HeaderNames, Profile

# No quota is larger, and numbers beyond leave nothing of a float's exactness.
_MOST: Final = 1e15


@dataclass(frozen=True, slots=True)
class Observation:
    """One dimension, as the provider sees it when it lets a request in.

    Attributes:
        names: which dimension, and how exact the numbers are.
        limit: the quota of a period, if told.
        remaining: what is left of it, if told.
        reset_in: seconds until it is whole again, if told.
    """

    names: HeaderNames
    limit: float | None
    remaining: float | None
    reset_in: float | None


def observe(profile: Profile, headers: Mapping[str, str], now: float) -> list[Observation]:
    """Read a response's headers.

    Args:
        profile: the provider's.
        headers: with names in lower case.
        now: seconds since the epoch, for time stamps.
    """
    seen = []
    for names in profile.headers:
        limit = _number(headers.get(names.limit))
        remaining = _number(headers.get(names.remaining))
        if limit is not None and not 1 <= limit <= _MOST:
            limit = remaining = None  # Azure sends 0 and -1 where it does not know
        if remaining is not None and (remaining < 0 or (limit is not None and remaining > limit)):
            remaining = None
        if limit is not None or remaining is not None:
            seen.append(Observation(names, limit, remaining, _reset_in(headers.get(names.reset), names, now)))
    return seen


def _reset_in(text: str | None, names: HeaderNames, now: float) -> float | None:
    if not text:
        return None
    if names.reset_format == "timestamp":
        try:
            return max(0.0, datetime.fromisoformat(text).timestamp() - now)
        except ValueError:
            return None
    seconds = _number(text)
    if seconds is None:
        return duration(text)
    return seconds if seconds >= 0 else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text)  # type: ignore[arg-type]  # None raises TypeError as it should
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
