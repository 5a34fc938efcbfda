"""A quota of a day that is spent, as threads and tasks meet it that wait for a grant."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from bulkllm.errors import ConfigError, LimitTimeout, QuotaExhausted
from bulkllm.limits import RateLimit, RateLimiter, Reservation
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import profile_of
from bulkllm.limits.spent import Spent
from bulkllm.limits.word import LET_IN, Word
from bulkllm.testing import FakeClock

MODEL = "gemini/m"
ORIGIN = Origin("gemini", "", "0" * 12, profile_of("gemini"))
SPENT = Word("refused", (), None, Spent("requests per day", 14 * 3_600.0))


def limiter_of(**limit: float) -> RateLimiter:
    return RateLimiter(RateLimit("*", **limit) if limit else None, memory=None)  # type: ignore[arg-type]


def reserve(limiter: RateLimiter, wait_for_quota: bool | float = False, timeout: float | None = None) -> Reservation:
    return limiter.reserve(MODEL, origin=ORIGIN, wait_for_quota=wait_for_quota, timeout=timeout)


def spend(reservation: Reservation, word: Word = SPENT) -> None:
    reservation.mark_sent()
    reservation.release(word=word)


def until(condition: Callable[[], bool]) -> None:
    """Let other threads get on until something holds."""
    for _ in range(100_000):
        if condition():
            return
        threading.Event().wait(0.0005)
    pytest.fail("it never came to that")


def test_the_next_one_is_told_at_once_in_threads_and_tasks() -> None:
    limiter = limiter_of()
    spend(reserve(limiter).acquire())
    with pytest.raises(QuotaExhausted) as caught:
        reserve(limiter).acquire()
    error = caught.value
    assert (error.model, error.quota) == (MODEL, "requests per day")
    assert 0 <= 14 * 3_600 - error.retry_after < 60
    assert abs((error.until - datetime.now(UTC)).total_seconds() - error.retry_after) < 60
    assert error.until.microsecond == 0

    async def ask() -> None:
        async with reserve(limiter):
            raise AssertionError("it was let go")

    with pytest.raises(QuotaExhausted):
        asyncio.run(ask())
    assert limiter.status(MODEL).in_flight == 0


def test_all_who_stand_in_line_are_told_wherever_they_stand() -> None:
    limiter = limiter_of(max_in_flight=1)
    holder = reserve(limiter).acquire()
    told: list[type[BaseException]] = []

    def wait_in_thread() -> None:
        try:
            reserve(limiter).acquire()
        except QuotaExhausted as error:
            told.append(type(error))

    async def wait_in_task() -> None:
        try:
            async with reserve(limiter):
                pass
        except QuotaExhausted as error:
            told.append(type(error))

    async def wait_in_tasks() -> None:
        await asyncio.gather(*(wait_in_task() for _ in range(20)))

    threads = [threading.Thread(target=wait_in_thread, daemon=True) for _ in range(20)]
    threads += [threading.Thread(target=asyncio.run, args=(wait_in_tasks(),), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: limiter.status(MODEL).waiting == 80)
    spend(holder)
    for thread in threads:
        thread.join(20)
    assert told == [QuotaExhausted] * 80
    status = limiter.status(MODEL)
    assert (status.waiting, status.in_flight) == (0, 0)


def test_a_task_whose_loop_stood_still_is_told_when_it_runs_again() -> None:
    limiter = limiter_of(max_in_flight=1)
    holder = reserve(limiter).acquire()
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(reserve(limiter).aacquire())
        loop.run_until_complete(asyncio.sleep(0))
        assert limiter.status(MODEL).waiting == 1
        spend(holder)
        with pytest.raises(QuotaExhausted):
            loop.run_until_complete(task)
    finally:
        loop.close()
    assert (limiter.status(MODEL).waiting, limiter.status(MODEL).in_flight) == (0, 0)


def test_whoever_waits_for_it_goes_when_it_opens() -> None:
    clock = FakeClock(100.0)
    limiter = RateLimiter(clock=clock, memory=None)
    spend(reserve(limiter).acquire())
    waited_for: list[str] = []

    async def ask() -> None:
        reservation = reserve(limiter, wait_for_quota=True)
        async with reservation:
            reservation.mark_sent()
            reservation.release(word=LET_IN)
        waited_for.append(reservation.waited_for)

    thread = threading.Thread(target=lambda: asyncio.run(ask()), daemon=True)
    thread.start()
    until(lambda: limiter.status(MODEL).waiting == 1)
    clock.advance(14 * 3_600.0 - 1)
    limiter._alarm._pokes.put(None)  # it looks at the clock again
    thread.join(0.1)
    assert thread.is_alive()
    clock.advance(2)
    limiter._alarm._pokes.put(None)
    thread.join(20)
    assert waited_for == [f"rpd of {MODEL}"]
    with reserve(limiter) as again:
        again.mark_sent()


@pytest.mark.parametrize(("seconds", "timeout"), [(60, None), (True, 60.0), (24 * 3_600, 60.0)])
def test_a_wait_that_is_known_to_be_too_short_is_not_begun(seconds: bool | float, timeout: float | None) -> None:
    limiter = limiter_of()
    spend(reserve(limiter).acquire())
    with pytest.raises(QuotaExhausted):
        reserve(limiter, wait_for_quota=seconds, timeout=timeout).acquire()


def test_a_timeout_for_any_other_reason_is_one() -> None:
    limiter = limiter_of(max_in_flight=1)
    holder = reserve(limiter).acquire()
    with pytest.raises(LimitTimeout):
        reserve(limiter, timeout=0.01).acquire()
    holder.release()


def test_what_would_be_refused_is_known_without_asking() -> None:
    clock = FakeClock(100.0)
    limiter = RateLimiter(clock=clock, memory=None)
    assert limiter.exhausted(MODEL, ORIGIN) is None
    reservation = reserve(limiter).acquire()
    assert limiter.exhausted(MODEL, ORIGIN) is None
    spend(reservation)
    exhausted = limiter.exhausted(MODEL, ORIGIN)
    assert exhausted is not None
    assert exhausted.retry_after == 14 * 3_600
    assert limiter.exhausted(MODEL, ORIGIN, patience=14 * 3_600) is None
    clock.advance(14 * 3_600)
    assert limiter.exhausted(MODEL, ORIGIN) is None


@pytest.mark.parametrize("wrong", [-1, "yes", float("nan"), None])
def test_what_is_no_time_to_wait_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="wait_for_quota="):
        limiter_of().reserve(MODEL, wait_for_quota=wrong)  # type: ignore[arg-type]
