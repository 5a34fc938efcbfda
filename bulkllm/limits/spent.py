"""Which quota of a day or longer a refusal says is spent, and for how long. Pure: the time of day comes in.

How each provider says it stands in ``profiles.toml``. What a pool makes of it, :mod:`.discovery` decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import ConfigError
from .feedback import Observation
from .headers import LONGEST
from .pool import DIMENSIONS
from .profile import Day, HeaderNames, Profile
from .spec import DAY

LONG: Final = 600.0
"""Seconds. Whoever is told to wait longer than this has spent more than a minute's quota, whatever its name."""

DAYS: Final = {"requests per day": "rpd", "tokens per day": "tpd"}
"""The quotas of a day that have a name of their own among a limit's dimensions."""

# What each of a request's amounts is called.
_COUNTED: Final = ("requests", "tokens", "input tokens", "output tokens")

# So soon after a provider's midnight a refusal may speak of the day before: its clock is not ours, or its counters
# turn a little late. It is asked again after so many seconds.
_JUST_TURNED: Final = 600.0
_ASKED_AGAIN: Final = 30.0

# A reset that is later than a period from now, or than tomorrow, is something else, such as a time stamp.
_SOMEWHAT: Final = 1.1


class Spent(NamedTuple):
    """A quota of a day or longer that is spent.

    Attributes:
        quota: which, such as ``requests per day``; empty where the provider does not say.
        seconds: until the provider lets requests in again, by its word or else by its calendar; None where neither
            tells.
        turns_in: seconds until its day turns; None where its days are not known.
    """

    quota: str
    seconds: float | None
    turns_in: float | None = None


def patience_of(wait_for_quota: Any) -> float:
    """Seconds to wait at most for a quota of a day or longer that is spent: none for False, no end for True.

    Raises:
        ConfigError: it is neither True or False nor a number of seconds.
    """
    if isinstance(wait_for_quota, bool):
        return math.inf if wait_for_quota else 0.0
    if not isinstance(wait_for_quota, int | float) or not wait_for_quota >= 0:
        raise ConfigError(f"wait_for_quota={wait_for_quota!r} must be True, False or a number of seconds")
    return float(wait_for_quota)


def spent_by(
    profile: Profile,
    *,
    codes: Iterable[str],
    message: str,
    told: Iterable[Observation],
    retry_after: float | None,
    longest: float,
    now: float,
) -> Spent | None:
    """What a refusal says is spent; None for a refusal that passes within minutes.

    Args:
        profile: of the provider that refused.
        codes: the error's codes, types and names of quotas.
        message: what it says in words.
        told: what its headers say.
        retry_after: seconds that the provider asks to wait, if it does.
        longest: a wait up to so many seconds is none of a spent quota, if no quota of a day is named.
        now: seconds since the epoch, for the calendar.
    """
    empty = [seen for seen in told if seen.remaining is not None and seen.remaining < 1.0]
    of_day = [seen for seen in empty if seen.names.period >= DAY]
    resets = [seen.reset_in for seen in of_day or empty if seen.reset_in is not None and _credible(seen)]
    wait = retry_after if retry_after is not None else max(resets, default=None)
    wait = None if wait is None else min(wait, LONGEST)
    name = _named(profile, list(codes), message)
    if name is None and of_day:
        name = _name_of(of_day[0].names)
    if name is None:
        return None if wait is None or wait <= longest else Spent("", wait)
    if profile.day is None:
        return Spent(name, wait)
    since, left = _day(profile.day, now)
    if wait is None:
        wait = _ASKED_AGAIN if since < _JUST_TURNED else left
    return Spent(name, wait, left)


def _credible(seen: Observation) -> bool:
    return seen.reset_in is not None and seen.reset_in <= _SOMEWHAT * max(seen.names.period, DAY)


def _name_of(names: HeaderNames) -> str:
    """What a quota that headers speak of is called."""
    per = "per day" if names.period == DAY else f"in {names.period / DAY:g} days"
    return f"{_COUNTED[DIMENSIONS[names.dimension]]} {per}"


def _named(profile: Profile, codes: list[str], message: str) -> str | None:
    """The quota that the refusal names, by the profile."""
    for quota in profile.spent:
        if any(fnmatchcase(code, pattern) for pattern in quota.codes for code in codes):
            return quota.quota
        if any(fnmatchcase(message, pattern) for pattern in quota.words):
            return quota.quota
    return None


def _day(day: Day, now: float) -> tuple[float, float]:
    """Seconds since the provider's midnight, and until the next: a day may have 23 or 25 hours."""
    zone = _zone(day)
    today = datetime.fromtimestamp(now, zone).date()
    began, ends = (datetime.combine(date, time(), zone).timestamp() for date in (today, today + timedelta(days=1)))
    return now - began, ends - now


def _zone(day: Day) -> tzinfo:
    try:
        return UTC if day.zone == "UTC" else ZoneInfo(day.zone)
    except (ZoneInfoNotFoundError, ValueError):  # Windows and the smallest of containers have no time zones
        return timezone(timedelta(hours=day.utc_offset))
