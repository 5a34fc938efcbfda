"""What a limiter says in the log: limits that it has learned, and pools that a provider has closed.

Sentences are made with the limiter's lock held, where nothing may be written, and said later without it by somebody
who is no finaliser. They name models, base URLs and numbers, never prompts or keys.

The levels: INFO once when a model's limit becomes known, or becomes quite another one; WARNING once when a pool is
closed for longer than :data:`LONG`; DEBUG for the rest. Nothing is said for each call above DEBUG.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from weakref import WeakKeyDictionary

from .discovery import Discovered
from .word import Word

logger = logging.getLogger(__name__)

LONG: Final = 60.0
"""Seconds; a pool that is closed for no longer than this waits for its provider's next minute, as may happen."""

_MUCH: Final = 1.25  # a limit that has become so many times as large, or as small, is worth telling again
_SELDOM: Final = 60.0  # seconds, at least, before that is told of a model again; twice as long each time
_SELDOMEST: Final = 3600.0
_MANY: Final = 256  # with more pools than this, one that is remembered is no news
_MOST: Final = 256  # sentences that wait to be said; more than these are dropped, the oldest first


class _Told:
    """What was said of one pool."""

    __slots__ = ("again_at", "closed_until", "crowd", "paced", "pause", "quotas", "warned_until")

    def __init__(self) -> None:
        self.quotas: dict[str, float] = {}
        self.paced = False
        self.again_at = -math.inf
        self.pause = _SELDOM
        self.closed_until = -math.inf
        self.warned_until = -math.inf
        self.crowd = math.inf


class Notices:
    """Prepares what is to be said, and says it. All methods but :meth:`say` are called with the limiter's lock held."""

    __slots__ = ("_told", "unsaid")

    def __init__(self) -> None:
        self.unsaid: deque[tuple[int, str]] = deque(maxlen=_MOST)
        self._told: WeakKeyDictionary[Discovered, _Told] = WeakKeyDictionary()

    def remembered(self, pool: Discovered) -> None:
        """A model's calls begin with what was learned in an earlier run."""
        known = pool.knowledge()
        told = self._of(pool)
        told.quotas.update({name: amount for name, (amount, _) in known.quotas.items()})
        told.paced = known.rate is not None
        what = _listed(told.quotas)
        what += [f"about {known.rate * 60:,.3g} requests a minute went well"] if known.rate is not None else []
        if what:
            # With thousands of accounts, those that are idle for a while come back to be remembered again and again.
            level = logging.INFO if len(self._told) < _MANY else logging.DEBUG
            self._note(level, f"limit of {_name(pool)} remembered from an earlier run: {', '.join(what)}")

    def learned(self, pool: Discovered, now: float) -> None:
        """Something was learned of a pool's limits."""
        told = self._of(pool)
        known = pool.knowledge()
        news = {name: amount for name, (amount, _) in known.quotas.items() if told.quotas.get(name) != amount}
        first = not told.quotas.keys() >= news.keys()
        much = any(_differ(amount, told.quotas.get(name, amount)) for name, amount in news.items())
        if news:
            loud = first or (much and now >= told.again_at)
            verb = "learned from the provider's answers" if first else "changed by the provider"
            text = f"limit of {_name(pool)} {verb}: {', '.join(_listed(news))}"
            self._note(logging.INFO if loud else logging.DEBUG, text)
            if loud:
                told.quotas.update(news)
                told.again_at = now + told.pause
                told.pause = told.pause if first else min(_SELDOMEST, 2 * told.pause)
        if known.rate is not None:
            level = logging.DEBUG if told.paced else logging.INFO
            self._note(
                level,
                f"{_name(pool)} refuses requests and tells no limit that explains it: going on with about "
                f"{known.rate * 60:,.3g} requests a minute, and more as they are let in",
            )
            told.paced = True

    def hindered(self, pool: Discovered, word: Word, now: float) -> None:
        """A request was refused, or met a provider without capacity."""
        told = self._of(pool)
        if word.verdict == "overloaded":
            if pool.max_in_flight < math.inf and pool.max_in_flight != told.crowd:
                told.crowd = pool.max_in_flight
                self._note(
                    logging.DEBUG,
                    f"{_name(pool)} lacks capacity: at most {pool.max_in_flight:.0f} requests under way at once",
                )
            return
        seconds = pool.closed_until - now
        if seconds <= 0 or pool.closed_until <= told.closed_until:
            return
        told.closed_until = pool.closed_until
        if seconds > LONG and pool.closed_until > told.warned_until + LONG:
            told.warned_until = pool.closed_until
            until = datetime.now(UTC) + timedelta(seconds=min(seconds, _FAR))
            closing = pool.spent(now)
            why = f" (the quota of {closing.quota} is spent)" if closing is not None and closing.quota else ""
            self._note(
                logging.WARNING,
                f"{_name(pool)} is closed by its provider for {seconds:,.0f} s, until {until:%Y-%m-%dT%H:%M:%SZ}{why}",
            )
        else:
            self._note(logging.DEBUG, f"{_name(pool)} refused a request: nothing goes for {seconds:,.3g} s")

    def say(self) -> None:
        """Write down what is to be said. The lock is not held; another thread may take some of it."""
        while True:
            try:
                level, text = self.unsaid.popleft()
            except IndexError:
                return
            logger.log(level, "%s", text)

    def _of(self, pool: Discovered) -> _Told:
        told = self._told.get(pool)
        if told is None:
            told = self._told[pool] = _Told()
        return told

    def _note(self, level: int, text: str) -> None:
        if logger.isEnabledFor(level):
            self.unsaid.append((level, text))


_FAR: Final = 366 * 86_400.0


def _differ(one: float, other: float) -> bool:
    return one >= _MUCH * other or other >= _MUCH * one


def _listed(quotas: Mapping[str, float]) -> list[str]:
    return [f"{amount:,g} {name}" for name, amount in quotas.items()]


def _name(pool: Discovered) -> str:
    return f"{pool.name} at {pool.origin.endpoint}" if pool.origin.endpoint else pool.name
