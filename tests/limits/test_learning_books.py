"""Lanes that learn beside configured ones, from threads and event loops at once: in the end the books balance."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import threading
from collections import deque
from collections.abc import Callable

import pytest

from bulkllm.errors import LimitTimeout, QuotaExhausted
from bulkllm.limits import RateLimit, RateLimiter, Reservation
from bulkllm.limits.bucket import SlidingWindow
from bulkllm.limits.core import Core
from bulkllm.limits.discovery import Discovered
from bulkllm.limits.feedback import Observation
from bulkllm.limits.lanes import Ticket
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import profile_for
from bulkllm.limits.spec import OUTPUT_TOKENS
from bulkllm.limits.spent import Spent
from bulkllm.limits.undecided import Undecided
from bulkllm.limits.word import Word

OPERATIONS = 12_500  # of each of eight threads
PROFILES = {name: profile_for(name) for name in ("together_ai", "anthropic", "groq")}
ORIGINS = (
    None,
    Origin("openai", "http://127.0.0.1/v1", "1" * 12, profile_for("openai", "http://127.0.0.1/v1")),
    *(Origin(name, "", str(number) * 12, profile) for number, (name, profile) in enumerate(PROFILES.items())),
)


class Books:
    """A limiter, whoever asks it, and what each of them really used."""

    def __init__(self) -> None:
        # The last limit refills only when the test is long over: what is missing in it is what was used.
        self.limiter = RateLimiter(
            [
                RateLimit("a*", rpm=30_000, tpm=10_000_000, period=0.5, max_in_flight=20),
                RateLimit("*b", rpm=45_000, itpm=8_000_000, period=0.4, max_in_flight=10),
                RateLimit("*", rpm=10**9, tpm=10**12, otpm=10**12, window="sliding", period=80_000.0),
            ],
            memory=None,
        )
        self.used: deque[tuple[int, int, int]] = deque()  # requests, input tokens, output tokens
        self.done: deque[int] = deque()

    def ask(self, rng: random.Random, tokens: tuple[int, int]) -> Reservation:
        return self.limiter.reserve(
            rng.choice(("a", "b", "ab", "c")),
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            timeout=rng.choice((0.001, 0.002, 0.02)),
            priority=rng.choice((0, 0, 0, 1)),
            front=rng.random() < 0.02,
            origin=rng.choice(ORIGINS),
        )

    def word(self, rng: random.Random, reservation: Reservation) -> Word | None:
        """What the provider says: mostly something sensible."""
        if reservation.origin is None:
            return None
        told = tuple(
            Observation(names, limit, rng.choice((None, 0.0, limit / 2, limit - 1)), None)
            for names in reservation.origin.profile.headers
            if rng.random() < 0.8
            for limit in [rng.choice((2e6, 2e6, 3e6, 1e3)) * names.period]
        )
        match rng.randrange(60):
            case 0:
                return Word("refused", told, rng.choice((0.0, 0.001, 0.004)))
            case 1:
                return Word("refused", told, 0.001, Spent("requests per day", 0.003, None))
            case 2:
                return Word("overloaded", told)
            case _:
                return Word("let in", told)

    def use(self, reservation: Reservation, rng: random.Random, tokens: tuple[int, int]) -> None:
        """Settle in one of all the ways, and note what that leaves taken."""
        word = self.word(rng, reservation)
        match rng.randrange(7):
            case 0:
                reservation.refund()
            case 1:
                reservation.release(keep_tokens=False, word=word)
                self.used.append((1, 0, 0))
            case 2:
                reservation.mark_sent()
                if word is not None:
                    reservation.heard(word)
                used = (tokens[0], rng.randrange(300))
                reservation.reconcile(input_tokens=used[0], output_tokens=used[1], word=word)
                self.used.append((1, *used))
            case 3:
                reservation.mark_sent()
                self.used.append((1, *tokens))
                raise InterruptedError
            case 4:
                raise InterruptedError
            case 5:
                reservation.mark_sent()
                reservation.charge((1.0, 7.0, 3.0, 4.0), word)
                self.used.append((1, 3, 4))
            case _:
                self.used.append((1, *tokens))  # leaving it settles it

    def in_a_thread(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - it hides nothing
        operations = 0
        while operations < OPERATIONS:
            operations += 2
            tokens = (rng.randrange(300), rng.randrange(200))
            try:
                match rng.randrange(12):
                    case 0:
                        self.limiter.status(rng.choice(("a", None)))
                    case 1:
                        self.ask(rng, tokens).acquire()  # and drop it
                    case _:
                        with self.ask(rng, tokens) as reservation:
                            self.use(reservation, rng, tokens)
            except (LimitTimeout, QuotaExhausted, InterruptedError):
                pass
        self.done.append(operations)

    async def call(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - it hides nothing
        tokens = (rng.randrange(300), rng.randrange(200))
        try:
            async with self.ask(rng, tokens) as reservation:
                if rng.random() < 0.6:
                    await asyncio.sleep(0)
                self.use(reservation, rng, tokens)
        except (LimitTimeout, QuotaExhausted, InterruptedError):
            pass

    async def in_a_loop(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - it hides nothing
        operations = 0
        while operations < OPERATIONS:
            tasks = [asyncio.create_task(self.call(rng.getrandbits(32))) for _ in range(100)]
            operations += 200
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice((0, 0, 0.001)))
                for task in tasks:
                    if rng.random() < 0.3:
                        task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                assert task.cancelled() or task.exception() is None
        self.done.append(operations)

    def run(self) -> None:
        def loop(seed: int) -> None:
            asyncio.run(self.in_a_loop(seed))

        work: tuple[Callable[[int], None], ...] = (*[self.in_a_thread] * 4, *[loop] * 4)
        threads = [
            threading.Thread(target=each, args=(seed,), daemon=True) for seed, each in enumerate(work)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "it hangs"
        gc.collect()


def test_a_hundred_thousand_operations_on_lanes_that_learn() -> None:
    books = Books()
    books.run()
    assert len(books.done) == 8
    assert sum(books.done) >= 100_000
    assert len(books.used) > 3_000, "it was not all refused"
    status = books.limiter.status()
    assert (status.waiting, status.in_flight) == (0, 0)
    assert all((pool.waiting, pool.in_flight) == (0, 0) for pool in status.limits)
    core = books.limiter._core
    with books.limiter._lock:
        assert core.waiting == core.in_flight == 0
        now = books.limiter._clock()
        requests, given, made = (float(sum(each)) for each in zip(*books.used, strict=True))
        meters = [meter for meter in core.pools[-1].meters if meter.name != "rpm burst"]  # a profile's, and full again
        taken = {meter.name: meter.quota - meter.remaining(now) for meter in meters}
        assert taken == {"rpm": requests, "tpm": pytest.approx(given + made), "otpm": pytest.approx(made)}
        found = [pool for pool in core.all_pools() if isinstance(pool, Discovered)]
        assert len(found) >= 12, "four models of four accounts"
        for pool in core.all_pools():
            assert pool.in_flight == 0
            for meter in pool.live:
                assert not (isinstance(meter, SlidingWindow) and meter._pending), (
                    "granted, never sent, never given back"
                )
                assert not (isinstance(meter, Undecided) and meter.open)
                far = meter.remaining(now + 10_000_000.0)
                assert far == pytest.approx(meter.capacity), f"{meter.name} of {pool.name} is not whole again"
        for pool in found:
            assert pool.tracked, "it has learned"
            assert pool.closed_until < math.inf
            for tracked in pool.tracked.values():
                assert tracked._unsent == pytest.approx(0.0, abs=1e-6)
                if tracked.dimension == OUTPUT_TOKENS:
                    assert tracked._open == pytest.approx(0.0, abs=1e-6)
    with books.limiter.reserve("ab", timeout=30):
        pass  # and it still works


def test_a_lane_that_comes_later_changes_nothing_of_what_an_earlier_one_counts_with() -> None:
    """The one leaves open how a limit counts, the other knows: what is given back comes back to the same meter."""
    core = Core([RateLimit("*", rpm=60), RateLimit("*", rpm=100, window="sliding")])
    learns = core.lane("m", ORIGINS[-1])
    core.lane("m")
    tickets = [Ticket(learns, (1.0, 0.0, 0.0, 0.0)) for _ in range(3)]
    for ticket in tickets:
        assert core.request(ticket, 0.0)
        core.stamp(ticket, 0.1)
    assert [pool.meters[0].remaining(0.1) for pool in core.pools] == [pytest.approx(57, abs=0.2), 97]
    for ticket in tickets:
        core.settle(ticket, 0.2, None)
    assert [pool.meters[0].remaining(0.2) for pool in core.pools] == [60, 100]
    stays = Ticket(learns, (1.0, 0.0, 0.0, 0.0))
    assert core.request(stays, 0.5)
    core.stamp(stays, 0.5)
    core.settle(stays, 0.6, stays.amounts)
    assert core.pools[1].meters[0].remaining(60.3) == 99, "it is the only one that was sent"
