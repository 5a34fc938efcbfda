"""The thread that keeps a limiter's leases: all that a limiter says to a store of shared limits is said in here.

What may live here: carrying claims to the store, and what becomes of that when a process forks, forgets or ends. What
to claim is :mod:`.leases`' business. The thread is started when somebody has to wait, and ends when nothing is held
and nobody is under way. The limiter's lock is never held while the store is asked.
"""

from __future__ import annotations

import atexit
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..errors import StoreUnavailable
from .alarm import Alarm
from .lanes import Ticket
from .leases import PAUSE, TELL_AFTER, Correction, Leases
from .sharing import Sharing
from .stores import Claim, open_store
from .word import Word

if TYPE_CHECKING:
    from .shell import Shell

_log = logging.getLogger(__name__)

# The same is asked for again after this many times as long as the store took to answer: it may be busy.
_PATIENCE: Final = 4.0

_AFTER_A_MISTAKE: Final = 1.0  # seconds

# Seconds that the end of a process waits for a claim under way, and for a store that says when it is back.
_LAST_WAIT: Final = 1.0
_LAST_PATIENCE: Final = 2.5


class Keeper:
    """Keeps the leases of one limiter.

    Args:
        limiter: whose. Its lock guards the leases.
        sharing: how its limits are shared.
        clock: seconds, monotonic: the limiter's.
    """

    def __init__(self, limiter: Shell, sharing: Sharing, clock: Callable[[], float]) -> None:
        self.sharing = sharing
        self.leases = Leases(limiter.limits, sharing, self._stir)
        self._limiter = limiter
        self._clock = clock
        self._store = open_store(sharing.store)
        self._alarm = Alarm(clock, self._round, self._may_end, name="bulkllm-leases")
        self._turn = threading.Lock()  # whoever talks to the store
        self._quiet_until = 0.0
        _watch(self)

    def start(self) -> None:
        """Have the thread running; under the limiter's lock. Not for finalisers."""
        self._alarm.start()

    def successor(self) -> Keeper:
        """In a forked child: another one, who holds nothing. What the parent holds is the parent's."""
        _keepers.discard(self)
        return Keeper(self._limiter, replace(self.sharing, store=self._store), self._clock)

    def give_back(self, *, leaving: bool = False) -> None:
        """Give back all that is held and not in use; ``leaving``: and what is in use, for the process ends.

        It is no error if the store is away: then it will see by itself that nobody renews the lease.
        """
        if not self._turn.acquire(timeout=_LAST_WAIT):
            return
        try:
            limiter, leases = self._limiter, self.leases
            for _ in range(2 if leaving else 1):
                if leaving and leases.back_at is not None:  # it takes its state up again, and nobody tells it later
                    time.sleep(min(_LAST_PATIENCE, max(0.0, leases.back_at - self._clock())))
                with limiter._lock:
                    limiter._take_in()
                    claim = leases.give_back(self._clock(), leaving=leaving) if leases.anything_left else None
                if claim is None or (leases.away and leases.back_at is None):
                    break
                self._say(claim, self._clock())
                if not leases.away:
                    break
        finally:
            self._turn.release()
        limiter._after()

    def hear(self, ticket: Ticket, word: Word) -> Word:
        """Under the limiter's lock: what is left of an answer's word for the process itself to learn from."""
        passage = ticket.passage if ticket.lane.buckets is None else None
        if not word.told or passage is None:
            return word
        told = self.leases.hear(ticket.lane.pools, word.told, passage.sent_at, self._clock())
        return word._replace(told=tuple(told))

    # -- in the thread ---------------------------------------------------------------------------------------

    def _stir(self, now: float, later: bool) -> None:
        """Under the limiter's lock: something changed of which the store should hear. Safe in a finaliser."""
        self._alarm.forward(now + TELL_AFTER if later else max(now, self._quiet_until))

    def _round(self) -> None:
        """Ask for all that is due."""
        limiter = self._limiter
        try:
            self._ask()
        except Exception:  # noqa: BLE001 - a mistake of ours; a thread that dies would leave everybody waiting
            _log.exception("the leases of shared limits cannot be renewed: trying again")
            with limiter._lock:
                now = self._clock()
                self.leases.failed(now)
                self._alarm.reset(now + _AFTER_A_MISTAKE)
        limiter._after()

    def _ask(self) -> None:
        limiter = self._limiter
        with self._turn:
            began = self._clock()
            while True:
                with limiter._lock:
                    limiter._take_in()
                    now = self._clock()
                    claim = self.leases.next(limiter._core.lanes, now)
                    correction = self.leases.correction(now) if claim is None else None
                    if claim is None and correction is None:
                        self._quiet_until = now + PAUSE
                        self._alarm.reset(self.leases.wake_at)
                        break
                limiter._after()
                if claim is not None:
                    self._say(claim, began)
                elif correction is not None:
                    self._correct(correction)

    def _say(self, claim: Claim, began: float) -> None:
        limiter = self._limiter
        leases = self.leases
        retry_after: float | None = None
        try:
            lease = self._store.lease(self.sharing.group, claim)
        except Exception as error:  # noqa: BLE001 - whatever it is: a thread that dies would leave everybody waiting
            if not leases.away:
                self._tell_away(error)
            lease = None
            retry_after = error.retry_after if isinstance(error, StoreUnavailable) else None
        back = leases.away and lease is not None
        with limiter._lock:
            limiter._take_in()
            now = self._clock()
            if lease is None:
                leases.failed(now, random.random(), retry_after)  # noqa: S311 - spreads processes, keeps no secret
            else:
                leases.took(lease, now, max(PAUSE, _PATIENCE * (now - began)))
            limiter._core.changed(now)
            if limiter._core.waiting:
                limiter._alarm.forward(limiter._core.next_alarm())
        if back:
            _log.warning("%r is back: limits are shared again", self._store)
        limiter._after()

    def _correct(self, correction: Correction) -> None:
        """Tell the store that somebody else spends too; whether it is there is seen with the next claim."""
        try:
            self._store.correct(self.sharing.group, correction.meter, at_most=correction.at_most, ago=correction.ago)
        except StoreUnavailable as error:
            _log.debug("%r did not hear what the provider said: %s", self._store, error)

    def _tell_away(self, error: Exception) -> None:
        sharing = self.sharing
        policy = "requests wait for it" if sharing.when_away == "wait" else f"going on with {sharing.share:.0%} of each"
        known = isinstance(error, StoreUnavailable)
        _log.log(
            logging.WARNING if known else logging.ERROR,
            "%s; once what is held of the shared limits is spent, %s",
            error if known else f"{self._store!r} failed with {type(error).__name__}: {error}",
            policy,
            exc_info=None if known else error,
        )

    def _may_end(self) -> bool:
        limiter = self._limiter
        with limiter._lock:
            limiter._take_in()
            idle = limiter._core.waiting == 0 and self.leases.may_rest
            if idle:
                self._alarm.end()
        limiter._after()
        return idle


# -- the end of a process ----------------------------------------------------------------------------------------------

_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
_hooked = False


def _watch(keeper: Keeper) -> None:
    global _hooked  # noqa: PLW0603 - the hook is set once for a process, and not at import
    _keepers.add(keeper)
    if not _hooked:  # no lock, which a forked child might find held; to leave twice does no harm
        _hooked = True
        atexit.register(_leave)


def _leave() -> None:
    for keeper in list(_keepers):
        keeper.give_back(leaving=True)
