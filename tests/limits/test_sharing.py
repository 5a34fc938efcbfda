"""A limiter that shares its limits: the thread that keeps the leases, on real stores."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkllm.errors import ConfigError, ImpossibleRequest, LimitTimeout, StoreUnavailable
from bulkllm.limits import RateLimit, RateLimiter, Sharing
from bulkllm.limits.stores import Claim, Lease, Store, open_store
from bulkllm.limits.stores.memory import MemoryStore
from bulkllm.limits.stores.redis import RedisStore
from bulkllm.limits.stores.sqlite import SQLiteStore

PATIENCE = 30.0


class Watched(MemoryStore):
    """A store that can be away, and sees who asks."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[Claim] = []
        self.threads: set[str] = set()
        self.trouble: Exception | None = None
        self.limiter: RateLimiter | None = None

    def lease(self, group: str, claim: Claim) -> Lease:
        self.claims.append(claim)
        self.threads.add(threading.current_thread().name)
        if self.limiter is not None:
            assert self.limiter._lock.acquire(timeout=PATIENCE), "the limiter's lock is held while the store is asked"
            self.limiter._lock.release()
        if self.trouble is not None:
            raise self.trouble
        return super().lease(group, claim)


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.005)


def held(store: Store, group: str = "default") -> dict[str, Any]:
    return {owner: dict(amounts) for owner, amounts in store.look(group).held.items() if amounts}


@pytest.fixture(params=["memory", "sqlite", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "sqlite":
        return SQLiteStore(tmp_path / "s.db")
    return RedisStore(request.getfixturevalue("valkey"), timeout=PATIENCE)


# -- what callers see --------------------------------------------------------------------------------------------------


def test_threads_and_tasks_share_a_lease_and_all_is_given_back(store: Store, request: pytest.FixtureRequest) -> None:
    group = request.node.name
    limits = [
        RateLimit(rpm=60_000, tpm=10_000_000, max_in_flight=50, period=1e6),  # nothing to speak of comes back in time
        RateLimit("a*", rpm=60_000, window="sliding", period=1e6),
    ]
    two = [RateLimiter(limits, store=Sharing(store, group=group)) for _ in range(2)]
    done: list[int] = []

    def in_thread(limiter: RateLimiter, model: str) -> None:
        for number in range(50):
            with limiter.reserve(model, input_tokens=10, timeout=PATIENCE) as reservation:
                reservation.reconcile(input_tokens=number)
            done.append(1)

    async def in_task(limiter: RateLimiter, model: str) -> None:
        async with limiter.reserve(model, input_tokens=10, timeout=PATIENCE) as reservation:
            reservation.mark_sent()
            await asyncio.sleep(0)
        done.append(1)

    async def tasks() -> None:
        await asyncio.gather(*(in_task(limiter, model) for limiter in two for model in "ab" for _ in range(50)))

    threads = [threading.Thread(target=in_thread, args=(limiter, model)) for limiter in two for model in "ab"]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(done) == 400
    for limiter in two:
        limiter.close()
        status = limiter.status()
        assert (status.waiting, status.in_flight) == (0, 0)
        assert all(not any((pool.leased or {"": 1.0}).values()) for pool in status.limits)
    assert held(store, group) == {}
    left = store.look(group).left
    spent = 4 * sum(range(50)) + 200 * 10
    assert left.get("*/in flight", 50) == 50  # what is as new is forgotten
    assert left["a*/rpm"] == 60_000 - 200
    assert 60_000 - 400 <= left["*/rpm"] < 60_000 - 390
    assert 10_000_000 - spent - 1 <= left["*/tpm"] < 10_000_000 - spent + 1_000


def test_the_first_limiter_leaves_the_second_what_it_did_not_use(store: Store, request: pytest.FixtureRequest) -> None:
    sharing = Sharing(store, group=request.node.name)
    first, second = (RateLimiter(rpm=10, period=3600.0, store=sharing) for _ in range(2))
    for limiter, count in ((first, 6), (second, 4)):
        for _ in range(count):
            with limiter.reserve("m", timeout=PATIENCE):
                pass
        first.close()
    with pytest.raises(LimitTimeout):
        second.reserve("m", timeout=0.05).acquire()
    assert second.try_reserve("m") is None


def test_a_refund_is_everybodys_again(store: Store, request: pytest.FixtureRequest) -> None:
    sharing = Sharing(store, group=request.node.name)
    first, second = (RateLimiter(rpm=1, period=3600.0, store=sharing) for _ in range(2))
    reservation = first.reserve("m", timeout=PATIENCE).acquire()
    with pytest.raises(LimitTimeout):
        second.reserve("m", timeout=0.05).acquire()
    reservation.refund()
    first.close()
    second.reserve("m", timeout=PATIENCE).acquire()


def test_a_request_that_never_fits_is_told_so_at_once() -> None:
    limiter = RateLimiter(tpm=100, store=MemoryStore())
    with pytest.raises(ImpossibleRequest):
        limiter.reserve("m", input_tokens=101).acquire()


def test_what_is_leased_is_to_be_seen() -> None:
    limiter = RateLimiter(RateLimit(rpm=600, max_in_flight=5, name="mine"), store=MemoryStore())
    (before,) = limiter.status().limits
    assert before.leased == {"rpm": 0, "in flight": 0}
    assert before.quotas["rpm"].remaining == 600
    with limiter.reserve("m", timeout=PATIENCE):
        (pool,) = limiter.status().limits
        assert (pool.max_in_flight, pool.in_flight, pool.away, pool.window) == (5, 1, False, "bucket")
        assert pool.quotas["rpm"].limit == 600
        assert 599 <= pool.quotas["rpm"].remaining < 600.1
        assert "shared" in str(limiter.status())
    (plain,) = RateLimiter(rpm=600).status().limits
    assert plain.leased is None


def test_limits_of_one_name_are_told_apart() -> None:
    limits = [RateLimit("*", rpm=2, period=3600.0), RateLimit("*", rpm=1, period=7200.0)]
    limiter = RateLimiter(limits, store=MemoryStore())
    with limiter.reserve("m", timeout=PATIENCE):
        pass
    with pytest.raises(LimitTimeout):
        limiter.reserve("m", timeout=0.05).acquire()


def test_a_dropped_reservation_gives_its_slot_to_another_process(store: Store, request: pytest.FixtureRequest) -> None:
    sharing = Sharing(store, group=request.node.name)
    first, second = (RateLimiter(max_in_flight=1, store=sharing) for _ in range(2))
    reservation = [first.reserve("m", timeout=PATIENCE).acquire()]
    waiting = threading.Thread(target=lambda: second.reserve("m", timeout=PATIENCE).acquire())
    waiting.start()
    wait_for(lambda: second.status().waiting)
    reservation.clear()
    gc.collect()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()


# -- the thread --------------------------------------------------------------------------------------------------------


def test_the_store_is_asked_by_one_thread_and_never_under_the_lock() -> None:
    store = Watched()
    store.limiter = limiter = RateLimiter(rpm=600_000, max_in_flight=100, store=store)

    async def tasks() -> None:
        async def one() -> None:
            for _ in range(20):
                async with limiter.reserve("m", timeout=PATIENCE):
                    await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(tasks())
    assert store.threads == {"bulkllm-leases"}
    assert len(store.claims) < 500, "not one for each of a thousand calls"


def test_everything_is_given_back_by_itself_when_idle() -> None:
    store = Watched()
    limiter = RateLimiter(rpm=600, max_in_flight=10, store=store)
    with limiter.reserve("m", timeout=PATIENCE):
        pass
    wait_for(lambda: store.claims[-1].leaving)
    wait_for(lambda: limiter._keeper is not None and limiter._keeper.leases.may_rest)
    assert held(store) == {}
    with limiter.reserve("m", timeout=PATIENCE):
        pass


def test_while_the_store_is_away_they_wait_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bulkllm")
    store = Watched()
    store.trouble = StoreUnavailable("the store is away")
    limiter = RateLimiter(rpm=600, store=store)
    waiting = threading.Thread(target=lambda: limiter.reserve("m", timeout=PATIENCE).acquire())
    waiting.start()
    wait_for(lambda: len(store.claims) >= 3)
    (pool,) = limiter.status().limits
    assert pool.away
    assert limiter.status().waiting_for == {"store of *": 1}
    assert waiting.is_alive()
    store.trouble = None
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    wait_for(lambda: len(caplog.records) >= 2)
    away, back = (record.getMessage() for record in caplog.records)
    assert "the store is away" in away
    assert "requests wait for it" in away
    assert "is back" in back
    assert limiter.status().waits["store of *"] > 0


def test_or_they_go_on_with_a_share() -> None:
    store = Watched()
    store.trouble = StoreUnavailable("the store is away")
    limit = RateLimit("*", rpm=600_000, period=3600.0, window="sliding")
    limiter = RateLimiter(limit, store=Sharing(store, when_away="share", share=0.5))
    for _ in range(20):
        with limiter.reserve("m", timeout=PATIENCE):
            pass
    store.trouble = None
    wait_for(lambda: not limiter.status().limits[0].away)
    limiter.close()
    assert store.look("default").left["*/rpm"] == 600_000 - 20, "what was spent meanwhile is told"


def test_a_store_that_fails_as_nobody_thought_of_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    store = Watched()
    store.trouble = ZeroDivisionError("a mistake in a store of one's own")
    limiter = RateLimiter(rpm=600, store=store)
    waiting = threading.Thread(target=lambda: limiter.reserve("m", timeout=PATIENCE).acquire())
    waiting.start()
    wait_for(lambda: len(store.claims) >= 2)
    store.trouble = None
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert caplog.records[0].exc_info is not None
    assert "ZeroDivisionError" in caplog.text


def test_a_mistake_of_ours_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = RateLimiter(rpm=600, store=MemoryStore())
    assert limiter._keeper is not None
    leases = limiter._keeper.leases
    good, mistakes = leases.next, [ZeroDivisionError("a mistake")]

    def wrong(lanes: Any, now: float) -> Any:
        if mistakes:
            raise mistakes.pop()
        return good(lanes, now)

    monkeypatch.setattr(leases, "next", wrong)
    with limiter.reserve("m", timeout=PATIENCE):
        pass
    assert "a mistake" in caplog.text


# -- processes ---------------------------------------------------------------------------------------------------------


def run(code: str, *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_process_that_ends_while_the_store_takes_its_state_up_again_tells_it_afterwards() -> None:
    class Settling(Watched):
        def lease(self, group: str, claim: Claim) -> Lease:
            try:
                return super().lease(group, claim)
            except StoreUnavailable:
                self.trouble = None  # it has settled by the next time
                raise

    store = Settling()
    limiter = RateLimiter(RateLimit("*", rpm=60, period=3600.0), store=store)
    with limiter.reserve("m") as reservation:
        store.trouble = StoreUnavailable("it lost its state", retry_after=0.05)
        reservation.reconcile()
    keeper = limiter._keeper
    assert keeper is not None
    keeper.give_back(leaving=True)
    assert list(store.look("default").left.values()) == pytest.approx([59], abs=0.9)
    assert store.claims[-1].leaving


@pytest.mark.parametrize("where", ["sqlite", "valkey"])
def test_a_process_gives_everything_back_as_it_ends(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = str(tmp_path / "s.db") if where == "sqlite" else request.getfixturevalue("valkey")
    run(
        """
        import sys
        from bulkllm.limits import RateLimiter, Sharing
        sharing = Sharing(sys.argv[1], group="exit", ttl=60)
        limiter = RateLimiter(rpm=100, period=3600.0, max_in_flight=10, store=sharing)
        kept = [limiter.reserve("m", timeout=30).acquire() for _ in range(7)]
        for each in kept:
            each.mark_sent()
        """,
        url,
    )
    view = open_store(url).look("exit")
    assert view.held == {}
    assert 93 <= view.left["*/rpm"] < 94
    assert view.left.get("*/in flight", 10) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("where", ["sqlite", "valkey"])
def test_a_forked_child_has_leases_of_its_own(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = str(tmp_path / "s.db") if where == "sqlite" else request.getfixturevalue("valkey")
    run(
        """
        import os, sys, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about: that is the point
        from bulkllm.limits import RateLimiter, Sharing
        limiter = RateLimiter(rpm=100_000, max_in_flight=8, store=Sharing(sys.argv[1], group="fork"))
        stop = threading.Event()

        def hammer():
            while not stop.is_set():
                with limiter.reserve("m", timeout=30):
                    pass

        threads = [threading.Thread(target=hammer, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(8):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    assert limiter.status().in_flight == 0
                    for _ in range(10):
                        with limiter.reserve("m", timeout=30):
                            pass
                    limiter.close()
                    code = 0
                finally:
                    os._exit(code)
            end = time.monotonic() + 40
            while True:
                done, code = os.waitpid(child, os.WNOHANG)
                if done:
                    break
                assert time.monotonic() < end, "the child hangs"
                time.sleep(0.002)
            assert code == 0
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "the parent hangs"
        limiter.close()
        store = limiter._keeper._store
        assert not any(store.look("fork").held.values()), store.look("fork")
        """,
        url,
    )


# -- what is given as a store ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: RateLimiter(rpm=1, store=7), "a store is a path"),  # type: ignore[arg-type]
        (lambda: RateLimiter(rpm=1, store=""), "a store is a path"),
        (lambda: RateLimiter(rpm=1, store="ftp://here"), "knows no ftp://"),
        (lambda: Sharing("x", group=""), "group"),
        (lambda: Sharing("x", when_away="panic"), "when_away"),  # type: ignore[arg-type]
        (lambda: Sharing("x", share=0), "share"),
        (lambda: Sharing("x", share=1.5), "share"),
        (lambda: Sharing("x", ttl=0.1), "ttl"),
        (lambda: Sharing("x", ttl=math.nan), "ttl"),
    ],
)
def test_what_is_no_store_is_refused(wrong: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_a_path_and_a_url_are_stores(tmp_path: Path) -> None:
    for where in (tmp_path / "a.db", f"sqlite://{tmp_path / 'b.db'}", str(tmp_path / "c.db")):
        limiter = RateLimiter(rpm=600, store=where)
        with limiter.reserve("m", timeout=PATIENCE):
            pass
        limiter.close()
    assert {path.name for path in tmp_path.glob("*.db")} == {"a.db", "b.db", "c.db"}
