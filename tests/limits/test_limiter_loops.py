"""Event loops that run, are blocked, stand still or are gone, all on one limiter."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from bulkllm.errors import LimitTimeout
from bulkllm.limits import RateLimit, RateLimiter, Reservation
from bulkllm.limits.lanes import WAITING, Ticket


class Clock:
    """Stands still until a test moves it on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread: long enough for the busiest machine, and not longer than need be."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.001)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "it hangs"


def busy(limiter: RateLimiter) -> tuple[int, int]:
    status = limiter.status()
    return status.waiting, status.in_flight


async def in_line(limiter: RateLimiter, count: int) -> None:
    while limiter.status().waiting < count:
        await asyncio.sleep(0)


def advance(loop: asyncio.AbstractEventLoop, steps: int = 3) -> None:
    """Let a loop that stands still do what is ready."""
    for _ in range(steps):
        loop.run_until_complete(asyncio.sleep(0))


class Drained:
    """A limiter of one request a second whose first is taken, on a clock that stands still."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.limiter = RateLimiter(RateLimit(**{"rpm": 60, "burst": 1, **options}), clock=self.clock)
        self.first = self.limiter.reserve("m").acquire()

    def tick(self) -> None:
        """A second passes, and the alarm's thread sees it."""
        self.clock.now += 1.0
        self.limiter._ring()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs only when a test runs it."""
    one = asyncio.new_event_loop()
    yield one
    if not one.is_closed():
        for task in asyncio.all_tasks(one):
            task.cancel()
        advance(one)
        one.close()


# -- cancelled ---------------------------------------------------------------------------------------------------


async def test_a_task_that_is_cancelled_while_waiting_leaves_the_line() -> None:
    drained = Drained()
    limiter = drained.limiter
    tasks = [asyncio.create_task(limiter.reserve("m").aacquire()) for _ in range(5)]
    await in_line(limiter, 5)
    for index in (0, 2, 4):
        tasks[index].cancel()
    await asyncio.wait([tasks[index] for index in (0, 2, 4)])
    assert busy(limiter) == (2, 1)
    drained.tick()
    await tasks[1]
    assert not tasks[3].done()
    drained.tick()
    await tasks[3]
    assert busy(limiter) == (0, 3)


@pytest.mark.parametrize("window", ["bucket", "sliding"])
@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_task_that_is_cancelled_at_the_moment_of_its_grant_hands_it_on(steps: int, window: str) -> None:
    drained = Drained(window=window, rpm=1, period=1.0)
    limiter = drained.limiter
    entered: list[str] = []

    async def call(name: str) -> None:
        async with limiter.reserve("m"):
            entered.append(name)
            await asyncio.sleep(3600)

    first = asyncio.create_task(call("first"))
    await in_line(limiter, 1)
    second = asyncio.create_task(call("second"))
    await in_line(limiter, 2)
    drained.tick()  # granted, and its wake-up is under way
    assert busy(limiter) == (1, 2)
    for _ in range(steps):  # the future is set, or the task has even been let in
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    while "second" not in entered:
        await asyncio.sleep(0.001)
    assert busy(limiter) == (0, 2)
    second.cancel()
    await asyncio.wait([second])
    drained.first.refund()
    assert busy(limiter) == (0, 0)


async def test_cancelling_a_call_that_was_sent_keeps_it_counted() -> None:
    limiter = RateLimiter(rpm=10, max_in_flight=1, clock=Clock())

    async def call() -> None:
        async with limiter.reserve("m") as reservation:
            reservation.mark_sent()
            await asyncio.sleep(3600)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert busy(limiter) == (0, 0)
    assert limiter.status().remaining == {"rpm": 9}


async def test_a_timeout_of_asyncios_own_leaves_nothing_behind() -> None:
    limiter = RateLimiter(rpm=1)
    async with limiter.reserve("m"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.reserve("m").aacquire(), 0.01)
        assert busy(limiter) == (0, 1)


# -- blocked, stopped, closed ------------------------------------------------------------------------------------


def test_a_blocked_loop_at_the_head_holds_nobody_else_up() -> None:
    drained = Drained()
    limiter = drained.limiter
    blocked, go_on = threading.Event(), threading.Event()
    entered: list[str] = []

    async def call() -> None:
        async with limiter.reserve("m"):
            entered.append("task")

    async def blocks() -> None:
        task = asyncio.create_task(call())
        await in_line(limiter, 1)
        blocked.set()
        go_on.wait(30)
        await task

    def in_a_thread() -> None:
        with limiter.reserve("m"):
            entered.append("thread")

    one = in_thread(lambda: asyncio.run(blocks()))
    blocked.wait(30)
    other = in_thread(in_a_thread)
    until(lambda: limiter.status().waiting == 2)
    drained.tick()
    drained.tick()
    join(other)
    assert entered == ["thread"]
    go_on.set()
    join(one)
    assert entered == ["thread", "task"]
    drained.first.refund()
    assert busy(limiter) == (0, 0)


def test_a_stopped_loop_at_the_head_is_passed_over_and_gets_its_turn_when_it_runs_again(
    loop: asyncio.AbstractEventLoop,
) -> None:
    drained = Drained()
    limiter = drained.limiter
    served: list[tuple[str, Reservation]] = [("first", drained.first)]

    def ask(name: str) -> threading.Thread:
        return in_thread(lambda: served.append((name, limiter.reserve("m").acquire())))

    task = loop.create_task(limiter.reserve("m").aacquire())
    advance(loop)
    assert limiter.status().waiting == 1
    threads = [ask("one"), ask("two")]
    until(lambda: limiter.status().waiting == 3)
    drained.tick()
    until(lambda: len(served) == 2)  # one of the threads, at the very moment that was the task's
    assert limiter.status().waiting == 1, "whoever stands still is not in line"
    advance(loop)
    assert not task.done()
    assert limiter.status().waiting == 2, "it is back"
    threads.append(ask("later"))
    until(lambda: limiter.status().waiting == 3)
    loop.call_soon(drained.tick)
    served.append(("task", loop.run_until_complete(asyncio.wait_for(task, 20))))
    assert len(served) == 3, "in its old place, before those who came after it"
    for count in (4, 5):
        drained.tick()
        until(lambda count=count: len(served) == count)  # type: ignore[misc]  # a lambda's default
    join(*threads)
    assert served[-1][0] == "later"
    for _, reservation in served:
        reservation.refund()
    assert busy(limiter) == (0, 0)


def test_a_timeout_that_ran_out_while_the_loop_stood_still_is_kept(loop: asyncio.AbstractEventLoop) -> None:
    drained = Drained()
    limiter = drained.limiter
    task = loop.create_task(limiter.reserve("m", timeout=0.02).aacquire())
    advance(loop)
    drained.tick()  # granted and passed over: the quota goes to the next
    taken = limiter.reserve("m").acquire()
    time.sleep(0.03)
    with pytest.raises(LimitTimeout):
        loop.run_until_complete(asyncio.wait_for(task, 20))
    assert busy(limiter) == (0, 2)
    taken.refund()


def test_a_task_cancelled_while_its_loop_stands_still_leaves_nothing_behind(loop: asyncio.AbstractEventLoop) -> None:
    drained = Drained()
    limiter = drained.limiter
    task = loop.create_task(limiter.reserve("m").aacquire())
    advance(loop)
    drained.tick()
    assert busy(limiter) == (0, 1)
    task.cancel()
    advance(loop)
    assert task.cancelled()
    assert busy(limiter) == (0, 1)
    assert limiter.status().remaining["rpm"] == 1.0, "the quota of the passed-over is there for others"


def test_a_closed_loop_at_the_head_holds_nobody_else_up(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="asyncio")  # it rightly complains of the tasks that we drop
    drained = Drained()
    limiter = drained.limiter
    for _ in range(3):
        loop.create_task(limiter.reserve("m", timeout=3600).aacquire())
    advance(loop)
    thread = in_thread(limiter.reserve("m").acquire)
    until(lambda: limiter.status().waiting == 4)
    loop.close()
    drained.tick()
    join(thread)
    assert busy(limiter) == (0, 1)
    gc.collect()
    drained.first.refund()
    assert busy(limiter) == (0, 0)


def test_a_coroutine_that_is_collected_with_its_loop_gives_back_what_it_holds(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="asyncio")
    limiter = RateLimiter(rpm=10, max_in_flight=1, clock=Clock())

    async def call(*, sent: bool) -> None:
        async with limiter.reserve("m") as reservation:
            if sent:
                reservation.mark_sent()
            await asyncio.get_running_loop().create_future()

    for sent in (False, True):
        task = loop.create_task(call(sent=sent))
        advance(loop)
        assert busy(limiter) == (0, 1)
        del task
        gc.collect()
        assert busy(limiter) == (0, 0)
    assert limiter.status().remaining == {"rpm": 9}
    waiting = loop.create_task(call(sent=False))
    advance(loop)
    in_second_line = loop.create_task(call(sent=False))
    advance(loop)
    assert busy(limiter) == (1, 1)
    loop.close()
    del waiting, in_second_line
    gc.collect()
    assert busy(limiter) == (0, 0)


# -- many at once ------------------------------------------------------------------------------------------------


class Witness:
    """Writes down, under the limiter's lock, the order in which those who waited are granted."""

    def __init__(self, limiter: RateLimiter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waited: list[tuple[float, int]] = []
        self.most_in_flight = 0
        core = limiter._core
        grant = core._grant

        def watched(ticket: Ticket, now: float) -> None:
            if ticket.state == WAITING:
                self.waited.append(ticket.order)
            grant(ticket, now)
            self.most_in_flight = max(self.most_in_flight, core.pools[0].in_flight)

        monkeypatch.setattr(core, "_grant", watched)


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_threads_and_loops_at_once_keep_one_limit(window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RateLimit(rpm=120, period=0.25, burst=60, max_in_flight=20, window=window)
    limiter = RateLimiter(limit)
    witness = Witness(limiter, monkeypatch)
    starts: list[float] = []

    def calls_in_a_thread() -> None:
        for _ in range(50):
            with limiter.reserve("m") as reservation:
                reservation.mark_sent()
                starts.append(time.monotonic())

    async def call() -> None:
        async with limiter.reserve("m") as reservation:
            reservation.mark_sent()
            starts.append(time.monotonic())
            await asyncio.sleep(0)

    async def calls_in_a_loop() -> None:
        await asyncio.gather(*(call() for _ in range(50)))

    began = time.monotonic()
    threads = [in_thread(calls_in_a_thread) for _ in range(3)]
    threads += [in_thread(lambda: asyncio.run(calls_in_a_loop())) for _ in range(3)]
    join(*threads)
    assert len(starts) == 300
    assert busy(limiter) == (0, 0)
    assert witness.waited == sorted(witness.waited), "first come, first served"
    assert len(witness.waited) >= 100
    assert witness.most_in_flight <= 20
    # A busy machine starts calls later than they were granted, never earlier.
    for index, start in enumerate(sorted(starts)):
        if window == "bucket":
            assert start - began >= (index + 1 - 60) * 0.25 / 120 - 0.05 - 0.001
        else:
            assert start - began >= index // 120 * 0.25 - 0.001


def test_a_hundred_thousand_mixed_operations_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter(
        [
            RateLimit("a*", rpm=6_000, tpm=2_000_000, period=0.5, max_in_flight=20),
            RateLimit("*b", rpm=9_000, itpm=1_500_000, period=0.4, burst=500, max_in_flight=10),
            RateLimit("*", rpm=15_000, otpm=3_000_000, tpd=10_000_000_000, period=0.5, window="sliding"),
        ]
    )
    witness = Witness(limiter, monkeypatch)
    done: list[int] = []

    def ask(rng: random.Random) -> Reservation:
        return limiter.reserve(
            rng.choice(("a", "b", "ab", "c")),
            input_tokens=rng.randrange(300),
            output_tokens=rng.randrange(200),
            timeout=rng.choice((None, None, None, 0.002, 0.05)),
            priority=rng.choice((0, 0, 0, 1)),
            front=rng.random() < 0.02,
        )

    def use(reservation: Reservation, rng: random.Random) -> None:
        match rng.randrange(6):
            case 0:
                reservation.refund()
            case 1:
                reservation.release(keep_tokens=False)
            case 2:
                reservation.mark_sent()
                reservation.reconcile(output_tokens=rng.randrange(300))
            case 3:
                reservation.mark_sent()
                raise InterruptedError
            case 4:
                raise InterruptedError
            case _:
                pass  # leaving it settles it

    def in_a_thread(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - it hides nothing
        operations = 0
        while operations < 12_500:
            operations += 2
            kind = rng.random()
            try:
                if kind < 0.1:
                    limiter.try_reserve("ab", input_tokens=100)  # and drop it
                elif kind < 0.2:
                    limiter.status(rng.choice(("a", None)))
                elif kind < 0.3:
                    ask(rng).acquire()  # and drop it
                else:
                    with ask(rng) as reservation:
                        use(reservation, rng)
            except (LimitTimeout, InterruptedError):
                pass
        done.append(operations)

    async def call(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - it hides nothing
        try:
            async with ask(rng) as reservation:
                if rng.random() < 0.6:
                    await asyncio.sleep(0)
                use(reservation, rng)
        except (LimitTimeout, InterruptedError):
            pass

    async def in_a_loop(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - it hides nothing
        operations = 0
        while operations < 12_500:
            tasks = [asyncio.create_task(call(rng.getrandbits(32))) for _ in range(100)]
            operations += 200
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice((0, 0, 0.001)))
                for task in tasks:
                    if rng.random() < 0.3:
                        task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                assert task.cancelled() or task.exception() is None
        done.append(operations)

    def start(work: Callable[[int], object], seed: int) -> threading.Thread:
        return in_thread(lambda: work(seed))

    def run(coroutine: Callable[[int], Coroutine[Any, Any, None]]) -> Callable[[int], None]:
        return lambda seed: asyncio.run(coroutine(seed))

    threads = [start(in_a_thread, seed) for seed in range(4)] + [start(run(in_a_loop), seed) for seed in range(4, 8)]
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive(), "it hangs"
    assert sum(done) >= 100_000
    assert len(done) == 8
    gc.collect()
    status = limiter.status()
    assert (status.waiting, status.in_flight) == (0, 0)
    assert all((pool.waiting, pool.in_flight) == (0, 0) for pool in status.limits)
    assert len(witness.waited) > 1_000, "it was not all given at once"
    core = limiter._core
    with limiter._lock:
        for pool in core.pools:
            for meter in pool.meters:
                assert meter.remaining(time.monotonic() + 100_000) == meter.capacity
        assert all(lane.head() is None and not lane.waiting for lane in core.lanes)
    with limiter.reserve("ab", timeout=30):
        pass  # and it still works
