"""Owners that share limits in any way they like, before a provider that counts to the letter and refuses nothing."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bulkllm.limits.stores import Account, Claim, Lease, Meter, Report, Spending, Store
from bulkllm.limits.stores.memory import MemoryStore
from bulkllm.limits.stores.redis import RedisStore
from bulkllm.limits.stores.sqlite import SQLiteStore

SHADE = 1e-5
TTL = 5.0

Kind = Literal["bucket", "sliding"]

spans = st.integers(0, 64 * 30).map(lambda ticks: ticks / 64) | st.integers(0, 64).map(lambda ticks: ticks / 512)
fractions = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0])


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Provider:
    """Counts one dimension from when it sees a request. ``forgiven`` is what nobody could know of."""

    meter: Meter
    level: float = 0.0
    looked: float = 0.0
    seen: deque[tuple[float, float]] = field(default_factory=deque)
    forgiven: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.meter.size

    def left(self, now: float) -> float:
        meter = self.meter
        if meter.kind == "bucket":
            self.level = min(meter.size, self.level + (now - self.looked) * meter.quota / meter.period)
            self.looked = now
            return self.level
        while self.seen and self.seen[0][0] <= now - meter.period:
            self.seen.popleft()
        return meter.size - sum(amount for _, amount in self.seen)

    def admit(self, amount: float, now: float) -> None:
        self.left(now)
        self.level -= amount
        self.seen.append((now, amount))


@dataclass
class Owner:
    account: Account
    clock: Clock
    in_flight: int = 0
    outlived: bool = False  # calls of its go on that the store could not know of
    unreported: dict[str, float] = field(default_factory=dict)
    estimates: list[tuple[str, float, float]] = field(default_factory=list)  # too high by this much, sent then


class Sharing(RuleBasedStateMachine):
    """Each owner follows the rules of an Account; answers are lost, owners die, stall and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store: Store = MemoryStore(clock=self.clock)
        self.names = itertools.count()

    @initialize(
        requests=st.integers(1, 12),
        burst=st.none() | st.integers(1, 12),
        tokens=st.integers(50, 500),
        kinds=st.tuples(st.sampled_from(["bucket", "sliding"]), st.sampled_from(["bucket", "sliding"])),
        period=st.sampled_from([1.0, 10.0, 60.0]),
        slots=st.integers(1, 6),
    )
    def begin(
        self, requests: int, burst: int | None, tokens: int, kinds: tuple[Kind, Kind], period: float, slots: int
    ) -> None:
        self.meters = (
            Meter("rpm", kinds[0], requests, period, capacity=burst, whole=True, pool="p"),
            Meter("tpm", kinds[1], tokens, period, pool="p"),
            Meter("in flight", "slots", slots, pool="p"),
        )
        self.slots = slots
        self.providers = {meter.key: Provider(meter, looked=self.clock.now) for meter in self.meters[:2]}
        self.owners = [self._owner() for _ in range(3)]

    def _owner(self) -> Owner:
        return Owner(Account(self.meters, owner=f"owner {next(self.names)}", ttl=TTL), self.clock)

    @rule(span=spans)
    def pass_time(self, span: float) -> None:
        self.clock.now += span
        for owner in self.owners:
            owner.outlived |= owner.in_flight > 0 and self.clock.now >= owner.account.expires_at

    @rule(
        which=st.integers(0, 2),
        want=st.integers(0, 8),
        least=st.integers(0, 3),
        each=st.integers(1, 60),
        keep=st.none() | fractions,
        fate=st.sampled_from(["answered", "answered", "answered", "answer lost", "lost"]),
    )
    def claim(self, which: int, want: int, least: int, each: int, keep: float | None, fate: str) -> None:
        owner = self.owners[which]
        now = self.clock.now
        amounts = {"p/rpm": 1.0, "p/tpm": float(each), "p/in flight": 1.0}
        kept = None if keep is None else {key: math.floor(owner.account.held(key, now) * keep) for key in amounts}
        claim = owner.account.claim(
            now,
            want={key: want * amount for key, amount in amounts.items()},
            least={key: min(least * amount, self._size(key)) for key, amount in amounts.items()},
            keep={key: float(amount) for key, amount in kept.items()} if kept is not None else None,
        )
        if fate == "lost":
            return
        lease = self.store.lease("g", claim)
        assert lease.retry_after >= 0
        assert set(lease.held_up) <= {meter.key for meter in self.meters}
        if want:
            assert bool(lease.held_up) == (lease.retry_after > 0)
        if fate == "answered":
            owner.account.take_in(lease)
            owner.unreported.clear()

    def _size(self, key: str) -> float:
        return next(meter.size for meter in self.meters if meter.key == key)

    @rule(which=st.integers(0, 2), part=fractions, less=fractions)
    def send(self, which: int, part: float, less: float) -> None:
        """Some requests go out, as many as there is quota for, and their tokens turn out to be fewer."""
        owner = self.owners[which]
        now = self.clock.now
        count = min(owner.account.held("p/rpm", now), owner.account.held("p/in flight", now))
        for _ in range(math.floor(count * part + 1e-6)):
            tokens = owner.account.held("p/tpm", now) * part
            actual = tokens * less
            owner.account.spend({"p/rpm": 1.0, "p/tpm": tokens, "p/in flight": 1.0}, now)
            owner.in_flight += 1
            for key, estimate, amount in (("p/rpm", 1.0, 1.0), ("p/tpm", tokens, actual)):
                owner.unreported[key] = owner.unreported.get(key, 0.0) + estimate
                self.providers[key].admit(amount, now)
            if actual < tokens:
                owner.estimates.append(("p/tpm", actual - tokens, now))
        self._check()

    @precondition(lambda self: any(owner.in_flight for owner in self.owners))
    @rule(which=st.integers(0, 2))
    def answer(self, which: int) -> None:
        owner = self.owners[which]
        if owner.in_flight:
            owner.in_flight -= 1
            owner.outlived &= owner.in_flight > 0
            owner.account.finish("p/in flight", 1.0, self.clock.now)
            if owner.estimates:
                key, amount, sent_at = owner.estimates.pop(0)
                owner.account.amend(key, amount, sent_at)

    @rule(which=st.integers(0, 2))
    def die(self, which: int) -> None:
        owner = self.owners[which]
        for key, amount in owner.unreported.items():
            self.providers[key].forgiven += amount
        self.owners[which] = self._owner()

    @rule(which=st.integers(0, 2))
    def leave(self, which: int) -> None:
        owner = self.owners[which]
        self.store.lease("g", owner.account.claim(self.clock.now, leaving=True))
        self.owners[which] = self._owner()

    def _check(self) -> None:
        now = self.clock.now
        for provider in self.providers.values():
            assert provider.left(now) >= -provider.forgiven - SHADE
        if not any(owner.outlived for owner in self.owners):
            assert sum(owner.in_flight for owner in self.owners) <= self.slots

    def teardown(self) -> None:
        """Everything comes back."""
        if not hasattr(self, "owners"):
            return
        dead, *alive = self.owners
        for owner in alive:
            self.store.lease("g", owner.account.claim(self.clock.now, leaving=True))
        del dead
        self.clock.now += TTL
        assert self.store.look("g").held == {}
        self.clock.now += 1000 * 60
        claim = Claim("z", self.meters, TTL)
        assert self.store.lease("g", claim).left == {meter.key: pytest.approx(meter.size) for meter in self.meters}


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


# -- the script says what the ledger says ------------------------------------------------------------------------------

KEYS = ("p/rpm", "p/tpm", "q/tpd", "q/in flight")
amounts = st.one_of(st.integers(0, 40).map(float), st.floats(0, 3000).map(lambda value: round(value, 3)))


@st.composite
def definitions(draw: st.DrawFn) -> tuple[Meter, ...]:
    kinds: st.SearchStrategy[Kind] = st.sampled_from(["bucket", "sliding"])
    every = (
        Meter("rpm", draw(kinds), draw(st.integers(1, 50)), draw(st.sampled_from([1.0, 60.0])), whole=True, pool="p"),
        Meter("tpm", draw(kinds), draw(st.sampled_from([900, 1e9 / 3])), 60.0, pool="p"),
        Meter("tpd", "bucket", 5000, 86_400.0, capacity=draw(st.sampled_from([None, 1000.5])), pool="q"),
        Meter("in flight", "slots", draw(st.integers(1, 9)), pool="q"),
    )
    return every[draw(st.integers(0, 1)) : draw(st.integers(2, 4))]


def by_key(draw: st.DrawFn, meters: tuple[Meter, ...]) -> dict[str, float]:
    few = st.integers(0, 12).map(float)
    return {meter.key: draw(few if meter.whole else amounts) for meter in meters if draw(st.booleans())}


@st.composite
def steps(draw: st.DrawFn, meters: tuple[Meter, ...]) -> tuple[str, dict[str, Any]]:
    verb = draw(st.sampled_from(["lease"] * 8 + ["wait"] * 4 + ["correct", "close", "redefine"]))
    if verb == "wait":
        return verb, {"seconds": draw(spans | st.sampled_from([-0.5, -300.0, 100.0, 9000.0]))}
    if verb == "redefine":
        return verb, {"meters": draw(definitions())}
    if verb == "close":
        seconds, pool = draw(st.floats(0, 30)), draw(st.sampled_from("pq"))
        return verb, {"pool": pool, "seconds": seconds, "replace": draw(st.booleans())}
    if verb == "correct":
        meter = draw(st.sampled_from([meter for meter in meters if meter.kind != "slots"] or [meters[0]]))
        low, high = sorted((draw(amounts), draw(amounts)))
        which = draw(st.sampled_from(["both", "low", "high"]))
        bounds = {"at_least": low if which != "high" else None, "at_most": high if which != "low" else None}
        return verb, {"meter": meter, "ago": draw(st.floats(0, 70)), **bounds}
    spendings = st.builds(
        Spending, st.sampled_from([m.key for m in meters]), amounts | amounts.map(lambda a: -a), st.floats(0, 90)
    )
    reports = draw(st.lists(st.lists(spendings, max_size=3).map(tuple), max_size=2))
    return verb, {
        "owner": draw(st.sampled_from("abc")),
        "want": by_key(draw, meters),
        "least": by_key(draw, meters) if draw(st.booleans()) else {},
        "keep": by_key(draw, meters),
        "reports": reports,
        "leaving": draw(st.integers(0, 9)) == 0,
    }


def same(one: Any, other: Any) -> bool:
    """Equal but for the last digits, which depend on the order in which a table's entries are added up."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)
    return bool(one == other)


def fields(lease: Lease) -> dict[str, Any]:
    return {name: getattr(lease, name) for name in Lease.__dataclass_fields__}


_groups = itertools.count()


@pytest.fixture(scope="module")
def kept(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return tmp_path_factory.mktemp("stores") / "limits.sqlite3", valkey


@pytest.mark.timeout(600)  # a counterexample takes a while to shrink
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_all_stores_say_the_same(kept: tuple[Path, str], data: st.DataObject) -> None:
    clock = Clock()
    path, url = kept
    stores: list[Store] = [
        MemoryStore(clock=clock), SQLiteStore(path, clock=clock), RedisStore(url, timeout=30, clock=clock)
    ]  # fmt: skip
    group = f"same {next(_groups)}"
    meters = data.draw(definitions())
    serials = itertools.count(1)
    for _ in range(data.draw(st.integers(1, 25))):
        verb, what = data.draw(steps(meters))
        answers: list[Any] = []
        if verb == "wait":
            clock.now += what["seconds"]
        elif verb == "redefine":
            meters = what["meters"]
        elif verb == "close":
            answers = [store.close(group, **what) for store in stores]
        elif verb == "correct":
            answers = [store.correct(group, **what) for store in stores if what["meter"].kind != "slots"]
        else:
            reports = tuple(Report(next(serials), report) for report in what.pop("reports"))
            claim = Claim(meters=meters, ttl=TTL, reports=reports, **what)
            answers = [fields(store.lease(group, claim)) for store in stores]
        assert all(same(answers[0], other) for other in answers[1:]), answers
        one, *more = [store.look(group) for store in stores]
        for view in more:
            assert same(one.left, view.left)
            assert same(one.held, view.held)
            assert same(one.closed, view.closed)
    for store in stores:
        store.disconnect()
