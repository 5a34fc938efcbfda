"""The state of a limit that several processes share: a pool that spends what its process holds of a lease.

Only arithmetic may live here, as in :mod:`.bucket`. What is asked of the store, and when, is :mod:`.leases`' business.

A leased meter goes by the rules of a window, whatever the store counts by: what is granted is pending, and is told to
the store with the moment at which it was sent. So a provider's full bucket stays full until the request is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from .bucket import LARGEST_DEBT, Grain, SlidingWindow, TokenBucket
from .pool import WHOLE, Amounts, Pool
from .spec import DAY, REQUESTS, RateLimit, Window
from .stores import Account, Meter

# Of a window's period: what leaves the provider's window may leave ours this much later (see SlidingWindow.margin).
_MARGIN: Final = 200

# What rounding may get wrong, in requests or tokens: nothing that a provider would count.
_SLACK: Final = 1e-6

SLOTS: Final = "in flight"
STORE: Final = "store"

Stir = Callable[[float, bool], None]
"""Told that the store should be asked: now, and whether there is time."""


class _SharedGrain(Grain):
    """What was sent at one moment, as the account has it, and as the process's own share has it."""

    __slots__ = ("own",)

    def __init__(self, stamp: float, own: Grain | None) -> None:
        super().__init__(stamp)
        self.own = own


class LeasedMeter(SlidingWindow):
    """One dimension of a shared limit.

    Attributes:
        meter: what the store knows it as.
        low: where less than this is left of the lease, more is asked for ahead of time.
        rate: how much of it goes out a second, of late.
        taken: all that was granted of it since that was last looked at.
        own: counts what this process sends, against a share of the quota: what it may do while the store is away.
        everywhere: what was left for everybody when the store last said so.
        told: what the provider said to be left, and when that request was sent, if the store should hear of it.
        corrected_at: when the store last did.
    """

    __slots__ = ("_account", "_stir", "corrected_at", "everywhere", "low", "meter", "own", "rate", "taken", "told")

    def __init__(
        self,
        meter: Meter,
        dimension: int,
        period: float,
        account: Account,
        stir: Stir,
        share: float | None,
    ) -> None:
        super().__init__(meter.name, dimension, meter.quota, period)
        self._account = account
        self._stir = stir
        self.margin = 0.0  # the store's window is wider by that
        self.low = 0.0
        self.rate = 0.0
        self.taken = 0.0
        self.told: tuple[float, float] | None = None
        self.corrected_at = -math.inf
        self.everywhere = meter.size
        self.redefine(meter)
        self.own: TokenBucket | SlidingWindow | None = None
        if share is not None:
            least = 1.0 if dimension == REQUESTS else 0.0
            quota = max(least, share * meter.quota)
            if meter.kind == "bucket":
                capacity = max(least, share * meter.size)
                self.own = TokenBucket(meter.name, dimension, quota, period, capacity=capacity)
            else:
                self.own = SlidingWindow(meter.name, dimension, quota, meter.period)

    def redefine(self, meter: Meter) -> None:
        """Be this meter from now on: of the same name and kind."""
        self.meter = meter
        self.capacity = meter.size

    @property
    def pending(self) -> float:
        """What is granted and not sent yet."""
        return self._pending

    def free(self, now: float) -> float:
        """What is held and promised to nobody."""
        return self._account.held(self.meter.key, now) - self._pending

    # -- as the core asks --------------------------------------------------------------------------------------

    def ready_at(self, amount: float, now: float, after: float = 0.0) -> float:
        """Minus infinity where so much is held, infinity where it is not: that hangs on the store."""
        return -math.inf if after + amount <= self.free(now) + _SLACK else math.inf

    def take(self, amount: float, now: float) -> None:
        """Take an amount: pending until it is sent."""
        super().take(amount, now)
        self.taken += amount
        if self.own is not None:
            self.own.take(amount, now)
        if self.low and self.free(now) < self.low:
            self._stir(now, False)

    def send(self, amount: float, now: float) -> Grain:
        """What was pending was sent."""
        super().give_pending(amount)
        self._account.settle(self.meter.key, amount, now, now)
        own = self.own.send(amount, now) if isinstance(self.own, SlidingWindow) else None
        grain = _SharedGrain(now, own)
        grain.amount = amount
        return grain

    def unsend(self, amount: float, grain: Grain, now: float) -> None:
        """What was stamped turns out not to be sent yet: it is pending again."""
        self._account.settle(self.meter.key, -amount, grain.stamp, now)
        super().take(amount, now)
        if isinstance(self.own, SlidingWindow) and isinstance(grain, _SharedGrain) and grain.own is not None:
            self.own.unsend(amount, grain.own, now)

    def give_pending(self, amount: float) -> None:
        """Give back what was never sent."""
        super().give_pending(amount)
        if isinstance(self.own, SlidingWindow):
            self.own.give_pending(amount)
        elif self.own is not None:
            self.own.give(amount, 0.0)  # giving needs no time

    def give(self, amount: float, grain: Grain, now: float) -> None:
        """Correct what was sent at ``grain`` (negative: it was more): for everybody, and first of all for us.

        What has left a window is past correcting; a bucket has more, or less, from now on.
        """
        amount = max(amount, -LARGEST_DEBT * self.meter.quota)
        if self.meter.kind == "bucket":
            self._account.settle(self.meter.key, -amount, now, now)
        elif grain.stamp + self.meter.period > now:
            self._account.settle(self.meter.key, -amount, grain.stamp, now)
        if isinstance(self.own, TokenBucket):
            self.own.give(amount, now)
        elif self.own is not None and isinstance(grain, _SharedGrain) and grain.own is not None:
            self.own.give(amount, grain.own, now)
        self._stir(now, True)

    def count_later(self, amount: float, grain: Grain, now: float) -> None:
        """So much of what was sent at ``grain`` counts from now on only; a bucket has it booked as it is."""
        if self.meter.kind == "bucket":
            return
        self.give(amount, grain, now)
        self._account.settle(self.meter.key, amount, now, now)
        if isinstance(self.own, SlidingWindow):
            self.own.take(amount, now)
            self.own.send(amount, now)

    def remaining(self, now: float) -> float:
        """What is left for everybody, as far as the store has told, and what is held here."""
        return self.everywhere + self.free(now)

    def widen(self, sent_at: float, now: float) -> bool:  # noqa: ARG002 - as any window's
        """A margin of ours alone would be of no use: the store counts for everybody."""
        return False

    # -- while the store is away -------------------------------------------------------------------------------

    def begin_alone(self, now: float) -> None:
        """From now on the process goes by its own share; a bucket of that begins empty."""
        if isinstance(self.own, TokenBucket):
            self.own.set_remaining(0.0, now)


class LeasedPool(Pool):
    """The state of a shared limit.

    Args:
        spec: the limit.
        name: what the store calls it.
        account: the process's side of the books.
        stir: called where the store should be asked soon.
        share: of the limit, what the process may use by itself while the store is away; None for nothing.

    Attributes:
        fresh: slots that were granted and never used: they are for one request each at least, whoever waits.
    """

    __slots__ = (
        "_in_flight",
        "_overdue",
        "_share",
        "_stir",
        "_suited",
        "account",
        "alone",
        "away",
        "fresh",
        "kind",
        "missed",
        "peak",
        "slots",
        "store_name",
    )

    def __init__(self, spec: RateLimit, name: str, account: Account, stir: Stir, share: float | None) -> None:
        self.fresh = 0.0
        self._in_flight = 0
        self._overdue = 0.0  # slots in use that others wait for
        super().__init__(None, spec.name)
        self.spec = spec
        self.store_name = name
        self.account = account
        self.away = False  # the store is
        self.alone = False  # and so the process uses a share by itself
        self.missed: Amounts | None = None  # what somebody asked for who could not have it, and did not wait
        self._stir = stir
        self._share = share
        self._suited = False
        self.peak = 0.0  # how many were in flight at most, of late
        self.slots: Meter | None = None
        if spec.max_in_flight is not None:
            self.slots = Meter(SLOTS, "slots", float(spec.max_in_flight), pool=name)
            self.max_in_flight = 0
        self.kind: Window = "bucket"
        self._define(spec.window or "bucket", None)

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def leased_meters(self) -> tuple[LeasedMeter, ...]:
        """All that counts over time."""
        return self.windows  # type: ignore[return-value]  # all of them are

    @property
    def store_meters(self) -> tuple[Meter, ...]:
        """What the store knows of it."""
        meters = tuple(leased.meter for leased in self.leased_meters)
        return meters if self.slots is None else (*meters, self.slots)

    def suit(self, window: Window | None, burst: float, now: float) -> None:  # noqa: ARG002 - a bucket needs to know when
        """Take over how a provider counts, where the user did not say.

        Where nobody knows, it is counted as a window, which a bucket's provider lets in too: processes that each
        tried for themselves would disagree.
        """
        spec = self.spec
        if spec is None:
            return
        safe = burst if spec.burst is None and burst < WHOLE else None
        if not self._suited:
            self._suited = True
            self._define(spec.window or window or "sliding", safe)
        elif safe is not None:
            for leased in self.leased_meters:
                if leased.name == "rpm" and leased.meter.kind == "bucket" and safe < leased.period:
                    size = max(1.0, leased.quota * safe / leased.period)
                    if size < leased.meter.size:
                        leased.redefine(_meter(self.store_name, "rpm", leased, "bucket", size))

    def _define(self, kind: Window, safe: float | None) -> None:
        spec = self.spec
        if spec is None:
            return
        self.kind = kind
        meters: list[LeasedMeter] = []
        for name, dimension, amount, period in spec.quotas:
            burst = spec.burst if name == "rpm" else None
            if name == "rpm" and safe is not None and safe < period:
                burst = max(1.0, amount * safe / period)
            day = spec.window is None and period >= DAY
            counts: Window = "bucket" if day else kind
            meters.append(self._leased(name, dimension, amount, period, counts, burst if counts == "bucket" else None))
            if counts == "sliding" and burst is not None and burst < amount:
                meters.append(self._leased(f"{name} burst", dimension, amount, period, "bucket", burst))
        self.meters = self.windows = tuple(meters)

    def _leased(
        self, name: str, dimension: int, amount: float, period: float, kind: Window, capacity: float | None
    ) -> LeasedMeter:
        width = period * (1 + 1 / _MARGIN) if kind == "sliding" else period
        meter = Meter(name, kind, amount, width, capacity, pool=self.store_name, whole=dimension == REQUESTS)
        return LeasedMeter(meter, dimension, period, self.account, self._stir, self._share)

    # -- may it go? --------------------------------------------------------------------------------------------

    def ready_at(self, amounts: Amounts, now: float) -> float:
        """Minus infinity is at once, infinity hangs on the store or on who is in flight."""
        if self.alone:
            if self.in_flight >= self.max_in_flight:
                return math.inf
            owns = [(meter.own, meter.dimension) for meter in self.leased_meters if meter.own is not None]
            return max((own.ready_at(amounts[dimension], now) for own, dimension in owns), default=-math.inf)
        if self.in_flight < self.max_in_flight and (self.slots is None or now < self.account.expires_at):
            for meter in self.leased_meters:
                if meter.ready_at(amounts[meter.dimension], now) > now:
                    break
            else:
                return -math.inf
        self.missed = amounts
        self._stir(now, False)
        return math.inf

    def bottleneck(self, amounts: Amounts, now: float) -> str:
        """What of it holds a request up longest."""
        if self.away and not self.alone:
            return STORE
        if self.in_flight >= self.max_in_flight or not self.meters:
            return SLOTS
        if self.alone:
            owns = [(meter.own, meter) for meter in self.leased_meters if meter.own is not None]
            slowest = max(owns, key=lambda pair: pair[0].ready_at(amounts[pair[1].dimension], now))
            return slowest[1].name
        return max(self.leased_meters, key=lambda meter: amounts[meter.dimension] - meter.free(now)).name

    # -- while the store is away -------------------------------------------------------------------------------

    def lose(self, now: float) -> None:
        """The store is away from now on."""
        self.away = True
        if self._share is not None:
            self.alone = True
            for meter in self.leased_meters:
                meter.begin_alone(now)

    def regain(self) -> None:
        """The store is back."""
        self.away = self.alone = False

    # -- what others may know ----------------------------------------------------------------------------------

    @property
    def window(self) -> Window | None:
        """How it counts."""
        return self.kind

    def held(self, now: float) -> dict[str, float]:
        """What the process holds and has not promised to anybody, by dimension."""
        held = {meter.name: max(0.0, meter.free(now)) for meter in self.leased_meters}
        if self.slots is not None:
            self.account.use(self.slots.key, self.in_flight, now)
            held[SLOTS] = self.account.held(self.slots.key, now)
        return held

    # -- slots -------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many requests hold a grant."""
        return self._in_flight

    @in_flight.setter
    def in_flight(self, count: int) -> None:
        if count > self._in_flight:
            self.fresh = max(0.0, self.fresh - 1)
        elif count < self._in_flight and self._overdue >= 1:  # this slot goes to somebody else
            self._overdue -= 1
            self.max_in_flight -= 1
            self._stir(-math.inf, False)
        self._in_flight = count

    def lend(self, excess: float, now: float) -> None:
        """So many requests may be in flight from now on: what is held, less what others wait for."""
        if self.slots is None:
            return
        if self.alone:
            self._overdue = 0.0
            self.max_in_flight = max(1, math.floor(self.slots.quota * (self._share or 0.0) + _SLACK))
            return
        self.account.use(self.slots.key, self.in_flight, now)
        free = self.account.held(self.slots.key, now)
        self.fresh = min(self.fresh, free)
        goes_back = min(excess, free - self.fresh)
        self._overdue = excess - goes_back
        self.max_in_flight = math.floor(self.in_flight + free - goes_back + _SLACK)


def _meter(pool: str, name: str, leased: LeasedMeter, kind: Window, capacity: float) -> Meter:
    return Meter(name, kind, leased.meter.quota, leased.meter.period, capacity, pool=pool, whole=leased.meter.whole)


def store_names(specs: Sequence[RateLimit]) -> list[str]:
    """What the store calls each limit: its name, with a number where several have the same."""
    names: list[str] = []
    for spec in specs:
        same = sum(1 for earlier in specs[: len(names)] if earlier.name == spec.name)
        names.append(f"{spec.name} ({same + 1})" if same else spec.name)
    return names
