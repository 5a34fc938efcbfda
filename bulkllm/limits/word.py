"""What an answer says of a provider's limits, and how long a pool is closed for a day's quota that is spent.

Only values may live here, and what follows from them alone.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from .feedback import Observation
from .spent import Spent

UNTOLD: Final = 900.0
"""Seconds that nothing goes after a refusal for a quota of a day or longer, where nobody knows until when. Where the
time that was told turned out to be too short, the next pause is twice as long, up to this."""
_SHORTEST: Final = 1.0
_MOST_DOUBLINGS: Final = 10


class Word(NamedTuple):
    """What an answer said of the limits.

    Attributes:
        verdict: the request was let in, refused for now, or met a provider without capacity.
        told: what the headers say.
        retry_after: seconds that the provider asks to wait, if it does.
        spent: the quota of a day or longer that a refusal says is spent.
    """

    verdict: Literal["let in", "refused", "overloaded"]
    told: tuple[Observation, ...] = ()
    retry_after: float | None = None
    spent: Spent | None = None


LET_IN: Final = Word("let in")


class Closing(NamedTuple):
    """A pool is closed, for a quota of a day or longer is spent.

    Attributes:
        quota: which; empty where the provider does not say.
        until: when requests go again.
        again: how often it was still spent when it was to open.
    """

    quota: str
    until: float
    again: int = 0


def closing_for(before: Closing | None, spent: Spent, sent_at: float, now: float) -> Closing:
    """The closing after a request was refused for a quota of a day or longer.

    Where it is spent still when the pool was to open, the next attempt comes later and later, for some providers name a
    few seconds for what comes back at midnight.

    Args:
        before: the one before it, if nothing was let in since.
        spent: what the refusal said.
        sent_at: when the request was sent.
        now: seconds.
    """
    pause = UNTOLD if spent.seconds is None else spent.seconds
    if before is None:
        return Closing(spent.quota, now + pause)
    if sent_at < before.until:  # it was under way: this is still the same closing
        return before._replace(until=max(before.until, now + pause))
    again = min(before.again + 1, _MOST_DOUBLINGS)
    longer = min(max(pause, _SHORTEST) * 2.0**again, UNTOLD)
    if spent.turns_in is not None:
        longer = min(longer, spent.turns_in)
    return Closing(spent.quota, now + max(pause, longer), again)
