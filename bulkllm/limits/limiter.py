"""The rate limiter, as programs call it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import ConfigError, QuotaExhausted
from .clock import monotonic
from .lanes import Ticket
from .learned import LearnedLimits
from .memory import DEFAULT_MEMORY, LimitMemory
from .origin import Origin
from .pool import Amounts
from .reservation import Reservation, amounts_of
from .sharing import SharedThrough, sharing_of
from .shell import Shell
from .spec import RateLimit
from .spent import patience_of
from .status import LimitStatus, status_of


class RateLimiter(Shell):
    """Holds requests back until all limits that match their model let them go.

    One limiter serves threads, tasks of any number of event loops, and plain synchronous code at the same time.

    Args:
        limits: the limits; a single one may stand without a list.
        clock: seconds, monotonic; they go on while the machine sleeps. Tests pass their own.
        learn: whether to learn from what providers answer to a client's calls: limits that nobody configured, what is
            left of them, refusals. What is learned is remembered in the user's state directory.
        memory: where that is remembered instead; None in a limiter that is to forget.
        store: where limits are shared with other processes: a path, a URL such as ``redis://host:6379/0``, a
            :class:`~.stores.Store`, or a :class:`Sharing`, which says more. None shares them with nobody. What is
            learned is not shared.
        **limit: instead of ``limits``, the keywords of one :class:`RateLimit` for all models: ``RateLimiter(rpm=500)``.

    Raises:
        ConfigError: a limit or the store is wrong.
        StoreUnavailable: the store's file cannot be opened or made.
    """

    def __init__(
        self,
        limits: RateLimit | Iterable[RateLimit] | None = None,
        *,
        clock: Callable[[], float] = monotonic,
        learn: bool = True,
        memory: LimitMemory | None = DEFAULT_MEMORY,
        store: SharedThrough | None = None,
        **limit: float | None,
    ) -> None:
        specs = [limits] if isinstance(limits, RateLimit) else list(limits or ())
        if limit:
            specs.append(RateLimit(**limit))  # type: ignore[arg-type]  # RateLimit checks each of them itself
        for spec in specs:
            if not isinstance(spec, RateLimit):
                raise ConfigError(f"RateLimiter takes RateLimit objects, not {spec!r}")
        sharing = None if store is None else sharing_of(store)
        super().__init__(tuple(specs), clock, memory if learn else None, sharing)
        self.learns = learn

    def reserve(
        self,
        model: str,
        *,
        input_tokens: float = 0,
        output_tokens: float = 0,
        timeout: float | None = None,
        priority: float = 0,
        front: bool = False,
        origin: Origin | None = None,
        wait_for_quota: bool | float = False,
    ) -> Reservation:
        """A reservation to enter: ``with limiter.reserve(...)`` or ``async with limiter.reserve(...)``.

        Nothing is taken before it is entered (or acquired).

        Args:
            model: LiteLLM's name of the model.
            input_tokens: an estimate, or the real number.
            output_tokens: an estimate, or ``max_tokens`` where the provider charges that.
            timeout: seconds to wait at most; None waits as long as it takes.
            priority: each level counts as having arrived a minute earlier.
            front: go before all others, as a retry of a request that the provider refused.
            origin: whose limits the request falls under, if the reservation will be told what the provider answers:
                then limits are learned besides those that were configured.
            wait_for_quota: what to do while the provider says that a quota of a day or longer is spent. With False
                entering raises :exc:`QuotaExhausted` at once, for those who stand in line already too; with True it
                waits until the quota is renewed; a number is for so many seconds at most: if it is known to take
                longer than that, or than the timeout, entering raises at once. What was configured (``rpd=``) is
                waited for in any case: it is ours to keep.

        Raises:
            ConfigError: a number of tokens is negative or not a number.
        """
        amounts = amounts_of(input_tokens, output_tokens)
        patience = 0.0 if wait_for_quota is False else patience_of(wait_for_quota)
        return Reservation(self, model, amounts, timeout, priority, front, origin, patience)

    def reserve_for(
        self,
        model: str,
        origin: Origin,
        amounts: Amounts,
        *,
        timeout: float | None,
        priority: float,
        front: bool,
        patience: float,
    ) -> Reservation:
        """As :meth:`reserve`, for whoever knows already what the provider counts, and how long to wait for a day."""
        return Reservation(self, model, amounts, timeout, priority, front, origin, patience)

    def try_reserve(self, model: str, *, input_tokens: float = 0, output_tokens: float = 0) -> Reservation | None:
        """A reservation that is granted already, or None if it would have to wait or to overtake somebody.

        Raises:
            ImpossibleRequest: it needs more than a limit's whole quota.
        """
        reservation = self.reserve(model, input_tokens=input_tokens, output_tokens=output_tokens)
        core = self._core
        lane = self._lane(model)
        try:
            with self._lock:
                self._take_in()
                now = self._clock()
                ticket = Ticket(lane, reservation._amounts)
                granted = core.try_request(ticket, now)
                if granted:
                    core.stamp(ticket, now)
                    reservation._ticket = ticket
                elif self._keeper is not None:
                    self._keeper.start()
        finally:
            self._after()
        return reservation if granted else None

    def status(self, model: str | None = None) -> LimitStatus:
        """How the limits of a model (or, without one, all limits) stand at this moment."""
        core = self._core
        with self._lock:
            self._take_in()
            now = self._clock()
            core.due(now)
            status = status_of(core, model, now)
        self._after()
        self._notices.say()
        return status

    def close(self) -> None:
        """Give back now what is held of shared limits; otherwise that happens about a second after the last request.

        It may take as long as the store takes to answer, and the limiter may be used again. Limits that are not
        shared need no closing.
        """
        if self._keeper is not None:
            self._keeper.give_back()

    def holds(self, model: str, origin: Origin | None = None) -> bool:
        """Whether any limit holds for a model, or one may be learned. Cheap."""
        return bool(self._lane(model, origin).pools)

    def counts_tokens(self, model: str, origin: Origin | None = None) -> bool:
        """Whether any limit of a model counts tokens, so that an estimate is worth making. Cheap."""
        return self._lane(model, origin).counts_tokens

    def remembered(self, model: str, origin: Origin) -> LearnedLimits | None:
        """What is known of a model's limits from the answers to earlier calls, if it may still be believed."""
        return None if self._memory is None else self._memory.recall(origin, model)

    def exhausted(self, model: str, origin: Origin | None, patience: float = 0.0) -> QuotaExhausted | None:
        """The error for a call now, if a quota of a day or longer is spent and it does not wait so long. Cheap."""
        lane = self._core.known_lanes.get(model if origin is None else (model, origin))
        if lane is None or lane.discovered is None or lane.discovered.closing is None:
            return None
        now = self._clock()
        closing = lane.discovered.spent(now)
        return None if closing is None or closing.until <= now + patience else self._exhausted(model, closing)

    def __repr__(self) -> str:
        return f"RateLimiter([{', '.join(repr(limit) for limit in self.limits)}])"
