"""What a store of shared limits is: the values that go in and come out, and the interface.

What may live here: values, their checks, and the abstract :class:`Store`. No arithmetic, no I/O.

Terms. A *group* is what is shared: limits that some request may need together. Its *meters* count one dimension of
one limit each. A process (an *owner*) asks for quota in advance, holds it for ``ttl`` seconds at most, spends it with
no I/O at all, and tells afterwards what it spent: that is a *lease*. All seconds that go in or come out are
durations: a process's own clock is never compared with the store's.

What is left of a meter is what is left in the shared bucket or window (which is told of spending after the fact)
less what all owners hold. So quota that is held can be granted to nobody else, and a bucket that idles does not
refill beyond its capacity for the sake of quota that is held and not spent: what is granted, spent whenever its
owner likes within the ``ttl``, never exceeds what the provider's own bucket or window gives.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, NamedTuple, Self

from ...errors import ConfigError, StoreUnavailable

Kind = Literal["bucket", "sliding", "slots"]
"""``slots`` counts what is under way at once, the others what goes out over time."""


@dataclass(frozen=True, slots=True)
class Meter:
    """One dimension of one limit, as all who share it must define it.

    Where the owners' definitions differ, each call is judged by the caller's own. A changed definition takes effect
    at once and keeps what was counted.

    Attributes:
        name: which dimension of its pool (``rpm``, ``tpm``, ``in flight``).
        kind: a bucket that refills continuously, an exact sliding window, or slots.
        quota: how much in ``period`` seconds; for slots, how many at once.
        period: seconds.
        capacity: how much a bucket holds; one period's quota unless said otherwise.
        pool: the limit that it belongs to; a pool is closed as a whole.
        whole: never grant fractions (half a request is of no use to anybody). Slots are always whole.
        key: its name within the group, made of pool and name.
        size: the most that can be left: a bucket's capacity, a window's quota, the number of slots.
    """

    name: str
    kind: Kind
    quota: float
    period: float = 60.0
    capacity: float | None = None
    pool: str = ""
    whole: bool = False
    key: str = field(init=False, repr=False)
    size: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in ("bucket", "sliding", "slots"):
            raise ConfigError(f"Meter(kind={self.kind!r}) must be 'bucket', 'sliding' or 'slots'")
        for name, value in (("quota", self.quota), ("period", self.period), ("capacity", self.capacity)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"Meter({self.name!r}, {name}={value!r}) must be a positive number")
        if self.kind == "slots":
            object.__setattr__(self, "whole", True)
        size = self.capacity if self.kind == "bucket" and self.capacity is not None else self.quota
        object.__setattr__(self, "size", float(size))
        object.__setattr__(self, "key", f"{self.pool}/{self.name}" if self.pool else self.name)


class Spending(NamedTuple):
    """Quota that was used up (or, if negative, turned out not to be: an estimate was too high).

    Attributes:
        meter: the meter's key.
        amount: how much.
        ago: seconds since it was sent; for a correction, since that was sent which it corrects.
    """

    meter: str
    amount: float
    ago: float


class Report(NamedTuple):
    """What an owner spent. It is booked once, however often it is sent.

    Attributes:
        serial: counts an owner's reports, from 1 upwards.
        spendings: what was spent since the one before.
    """

    serial: int
    spendings: tuple[Spending, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """What an owner tells and asks in one step. All amounts are by the meter's key.

    A claim that wants nothing renews, reports and gives back. Quota that the owner held and neither keeps nor
    reports as spent is given back.

    Attributes:
        owner: a name that no other process has.
        meters: the meters of the group that this owner knows, all of them, each time.
        ttl: seconds for which the owner may spend what it holds after this claim, counted from *before* the call.
        want: how much more would be of use now. 0 says that nothing more is.
        least: less than this much more is of no use (what the next request needs): all of it is granted, in all
            meters at once, or nothing in any. A ``least`` above a meter's size is granted when nothing of that
            meter is used or held, into debt.
        keep: what the owner goes on holding: quota not spent yet, and slots in use.
        reports: what was spent, in the order of their serials; those that may not have arrived are sent again.
        leaving: the owner holds nothing any more and asks for nothing: forget it.
    """

    owner: str
    meters: tuple[Meter, ...]
    ttl: float
    want: Mapping[str, float] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    keep: Mapping[str, float] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    leaving: bool = False

    def __post_init__(self) -> None:
        if not self.owner:
            raise ConfigError("Claim(owner='') needs a name that no other process has")
        if not 0 < self.ttl < math.inf:
            raise ConfigError(f"Claim(ttl={self.ttl!r}) must be a positive number of seconds")
        keys = {meter.key for meter in self.meters}
        if len(keys) != len(self.meters):
            raise ConfigError("two meters of one claim have the same pool and name; give one of the pools another name")
        for what, amounts in (("want", self.want), ("least", self.least), ("keep", self.keep)):
            for key, amount in amounts.items():
                if key not in keys or not 0 <= amount < math.inf:
                    raise ConfigError(f"Claim({what}={{{key!r}: {amount!r}}}): expected an amount of one of its meters")
        for report in self.reports:
            for key, amount, ago in report.spendings:
                if key not in keys or not math.isfinite(amount) or not 0 <= ago < math.inf:
                    raise ConfigError(f"a report says {amount!r} of {key!r} {ago!r} s ago: that cannot be booked")


@dataclass(frozen=True, slots=True)
class Lease:
    """What a claim brought.

    Attributes:
        granted: how much more the owner holds now, by meter; empty where nothing could be granted. Where less is
            granted than was wanted, all meters are granted in the proportion in which they were wanted.
        retry_after: 0 where all that was wanted is granted; else seconds after which asking for more may help. It
            is a good moment, not a promise, and asking earlier does no harm. Whoever wants to keep its turn while it
            waits longer asks again before its ``ttl`` is over.
        held_up: keys of the meters that were short.
        closed_for: seconds for which a pool of the wanted meters is closed; 0 where all are open.
        left: what is left of each meter for everybody, after this; negative in debt.
        rivals: how many other owners ask, or asked a moment ago, for one of the meters that were wanted.
        excess: slots that the owner holds above its share while others wait for them: to be kept no longer than
            until what they are used for is over.
    """

    granted: Mapping[str, float]
    retry_after: float = 0.0
    held_up: tuple[str, ...] = ()
    closed_for: float = 0.0
    left: Mapping[str, float] = field(default_factory=dict)
    rivals: int = 0
    excess: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """How a group stands.

    Attributes:
        left: by meter, what could be granted at this moment; negative in debt.
        held: by owner, what each holds, by meter.
        closed: by pool, seconds until it opens.
    """

    left: Mapping[str, float]
    held: Mapping[str, Mapping[str, float]]
    closed: Mapping[str, float]


class Store(ABC):
    """Where several processes share limits.

    All methods may be called from any thread, and all of them may block for as long as the disk or the network
    takes: none may be called on an event loop or under a lock that others need soon.

    Every method raises :class:`~bulkllm.errors.StoreUnavailable` where the store cannot be reached or used now. The
    call may have been carried out nevertheless: the same claim can be made again, its reports are booked once, and
    what was granted unheard of goes back with the owner's next claim.

    What happens to a dead owner's quota: an owner which has made no claim for its ``ttl`` (by the store's clock)
    holds nothing any more. Its slots are free, and what it was granted and never reported as spent is left for
    others from that moment on. What it spent since its last report is then missing from the books: at most one
    lease, once. Should the owner turn out to be alive, its late reports are booked, into debt if need be.

    What happens when a store loses its state, or comes back with an older one (a server is restarted, a snapshot or a
    damaged file replaces what was there): whoever used it in this process remembers it, from a second before at most,
    and the first claim brings it back, with nothing added for the time in between. Others may remember a newer state,
    and have two seconds to come: until then nothing is booked, and claims raise
    :class:`~bulkllm.errors.StoreUnavailable` with a ``retry_after``. Only where nobody who comes remembers it, all
    meters start full. What is not noticed: a replica that lacks the last few writes, where others have made as many by
    the time that somebody comes who remembers them.
    """

    @abstractmethod
    def lease(self, group: str, claim: Claim) -> Lease:
        """Report, renew, give back and ask, in one atomic step."""

    @abstractmethod
    def correct(
        self,
        group: str,
        meter: Meter,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        ago: float = 0.0,
    ) -> bool:
        """Correct what is left by what the provider said, for everybody.

        What is left (including what owners hold) is moved into the bounds; give the same number twice where the
        provider is exact, and only ``at_most`` where it may only go down. Spending after that moment is taken off
        the provider's number, and spending before it that is not reported yet is not counted again.

        Args:
            group: which group.
            meter: a bucket or a sliding window.
            at_least: there was at least this much left.
            at_most: there was at most this much left.
            ago: seconds since the moment of which the provider speaks.

        Returns:
            False if a newer correction is there already, or this one is older than a period: nothing was changed.
        """

    @abstractmethod
    def close(self, group: str, pool: str, seconds: float, *, replace: bool = False) -> float:
        """Close a pool for everybody: nothing of it is granted. What is held already may be spent.

        Args:
            group: which group.
            pool: which of its pools.
            seconds: for how long from now.
            replace: open it earlier than it was to open, too (0 opens it now); by default the later moment stands.

        Returns:
            Seconds until it opens.
        """

    @abstractmethod
    def closed_for(self, group: str, pool: str) -> float:
        """Seconds until a pool opens; 0 if it is open."""

    @abstractmethod
    def look(self, group: str) -> View:
        """How a group stands. Nothing is changed by looking."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close files and connections. Nothing that is held is given back by this."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()


def settles(store: Store, wait: float) -> StoreUnavailable:
    """What a claim raises while a state that was lost is brought back."""
    return StoreUnavailable(f"{store!r} lost its state, and waits for those who remember it", retry_after=wait)


def check_correction(meter: Meter, bounds: Iterable[float | None], ago: float) -> None:
    """Refuse a correction that says nothing, or nothing that can be true.

    Raises:
        ConfigError: the text says what is wrong.
    """
    told = [bound for bound in bounds if bound is not None]
    if meter.kind == "slots":
        raise ConfigError(f"{meter.key!r} counts what is under way: there is nothing that a provider could correct")
    if not told or not all(math.isfinite(bound) for bound in told) or told != sorted(told):
        raise ConfigError(f"a correction of {meter.key!r} needs at_least <= at_most, or one of them")
    if not 0 <= ago < math.inf:
        raise ConfigError(f"a correction of {meter.key!r} cannot be {ago!r} s old")


def check_closing(seconds: float) -> None:
    """Refuse a time that is none.

    Raises:
        ConfigError: the text says what is wrong.
    """
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"a pool cannot be closed for {seconds!r} s")
