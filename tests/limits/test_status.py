"""What a limiter tells of itself: what stands, what is waited for, and what was."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from bulkllm.errors import LimitTimeout
from bulkllm.limits import RateLimit, RateLimiter
from bulkllm.limits.origin import origins
from bulkllm.limits.status import LimitStatus
from bulkllm.limits.word import Word
from bulkllm.testing import FakeClock

FIVES = RateLimit(["openai/gpt-5*"], rpm=2, max_in_flight=1, name="the fives", window="bucket")
CLAUDE = RateLimit(["anthropic/*"], tpm=1000, window="bucket")


async def in_line(limiter: RateLimiter, model: str, count: int) -> list[asyncio.Task[object]]:
    """So many tasks that wait for a model's limits."""
    before = limiter.status().waiting
    tasks: list[asyncio.Task[object]] = [
        asyncio.ensure_future(limiter.reserve(model, input_tokens=600).aacquire()) for _ in range(count)
    ]
    while limiter.status().waiting < before + count:
        await asyncio.sleep(0)
    return tasks


async def give_up(tasks: list[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_those_in_line_wait_for_is_told_now() -> None:
    limiter = RateLimiter([FIVES, CLAUDE], clock=FakeClock(10.0))
    with limiter.reserve("openai/gpt-5"), limiter.reserve("anthropic/c", input_tokens=600):
        tasks = await in_line(limiter, "openai/gpt-5", 3)
        tasks += await in_line(limiter, "openai/gpt-5-mini", 2)
        tasks += await in_line(limiter, "anthropic/c", 1)
        status = limiter.status()
        assert status.waiting_for == {"in flight of the fives": 5, "tpm of anthropic/*": 1}
        assert limiter.status("anthropic/c").waiting_for == {"tpm of anthropic/*": 1}
        told = str(status)
        assert "6 wait: 5 for requests in flight of the fives, 1 for tokens per minute of anthropic/*" in told
        await give_up(tasks)
    assert limiter.status().waiting_for == {}


async def test_what_was_waited_for_is_told_by_model_and_with_what_to_raise() -> None:
    clock = FakeClock(10.0)
    limiter = RateLimiter([FIVES, CLAUDE], clock=clock)
    for model, seconds in (("openai/gpt-5", 30.0), ("anthropic/c", 10.0)):
        with limiter.reserve(model, input_tokens=600):
            (task,) = await in_line(limiter, model, 1)
            clock.advance(seconds)
        await task if model == "openai/gpt-5" else await give_up([task])
    status = limiter.status()
    assert status.waits == {"in flight of the fives": 30.0}
    assert status.shares == {"in flight of the fives": 1.0}
    assert limiter.status("openai/gpt-5").waits == status.waits
    assert limiter.status("anthropic/c").waits == {}
    (told,) = status.advice
    assert told.startswith("Most of the waiting time (100%) went on waiting for requests in flight of the fives: ")
    assert told in str(status)


def test_a_status_is_a_table_for_people() -> None:
    limiter = RateLimiter([FIVES, CLAUDE], clock=FakeClock(10.0))
    with limiter.reserve("openai/gpt-5", input_tokens=5), limiter.reserve("anthropic/c", input_tokens=250):
        lines = [re.split(r"\s{2,}", line) for line in str(limiter.status()).splitlines()]
    assert lines == [
        ["limit", "from", "of", "quota", "left", "waiting", "in flight", "closed until (UTC)"],
        ["the fives", "configured", "rpm", "2", "1", "0", "1"],
        ["the fives", "configured", "in flight", "1", "0", "0", "1"],
        ["anthropic/*", "configured", "tpm", "1,000", "750", "0", "1"],
    ]
    assert str(RateLimiter().status()) == "no limits are configured, and none are known"


def test_names_from_outside_do_not_become_markup() -> None:
    limiter = RateLimiter(RateLimit(["<b>*"], rpm=1.5, period=2.0))
    shown = limiter.status()._repr_html_()
    assert "&lt;b&gt;*" in shown
    assert "<b>" not in shown
    assert "<td>2 in 2 s</td>" in shown


def test_a_pool_that_the_provider_closed_says_until_when() -> None:
    clock = FakeClock(10.0)
    limiter = RateLimiter(clock=clock, memory=None)
    origin = origins.of("openai", {"api_key": "sk-secret"})
    with limiter.reserve("openai/gpt-5", origin=origin) as reservation:
        reservation.mark_sent()
        reservation.release(word=Word("refused", (), 90.0))
    (pool,) = limiter.status().limits
    assert (pool.closed_for, pool.learned, pool.max_in_flight is None or pool.max_in_flight > 0) == (90.0, True, True)
    assert pool.closed_until is not None
    assert abs(pool.closed_until - datetime.now(UTC) - timedelta(seconds=90)) < timedelta(seconds=30)
    told = str(limiter.status())
    assert f"{pool.closed_until:%Y-%m-%d %H:}" in told
    assert "sk-secret" not in told + repr(limiter.status())
    clock.advance(100.0)
    assert [pool.closed_until for pool in limiter.status().limits] in ([], [None])


OPENAI = origins.of("openai", {"api_key": "sk-secret"})


async def started(limiter: RateLimiter, word: Word, clock: FakeClock | None = None, count: int = 40) -> LimitStatus:
    """How it stands when so many began at once, and the first three have their answers, with a clock a moment later."""

    async def call() -> None:
        async with limiter.reserve("openai/m", origin=OPENAI) as reservation:
            reservation.mark_sent()
            await answers.acquire()
            reservation.release(word=word)

    answers = asyncio.Semaphore(0)
    calls = [asyncio.ensure_future(call()) for _ in range(count)]
    while limiter.status().in_flight + limiter.status().waiting < count:
        await asyncio.sleep(0)
    if clock is not None:
        clock.advance(0.25)
    for _ in range(3):
        answers.release()
    for _ in range(20):
        await asyncio.sleep(0)
    status = limiter.status()
    await give_up(calls)  # type: ignore[arg-type]  # their results are of no interest
    return status


@pytest.mark.parametrize("limits", [[RateLimit("*", rpm=1200, window="bucket")], []])
async def test_the_start_is_no_closing_and_no_lack_of_capacity(limits: list[RateLimit]) -> None:
    clock = FakeClock(10.0)
    limiter = RateLimiter(limits, clock=clock, memory=None)
    status = await started(limiter, Word("let in"), clock)
    assert {*status.waiting_for, *status.waits} == {"start of openai/m"}
    (told,) = status.advice
    assert "waiting for the start, when few go at once until answers tell the limits of openai/m: " in told
    assert "429" not in told


async def test_what_the_provider_closed_at_the_start_is_told_as_closed() -> None:
    limiter = RateLimiter(RateLimit("*", rpm=1200, window="bucket"), clock=FakeClock(10.0), memory=None)
    assert set((await started(limiter, Word("refused", (), 30.0))).waiting_for) == {"closed of openai/m"}


async def test_a_provider_without_capacity_is_told_as_requests_in_flight() -> None:
    limiter = RateLimiter(clock=FakeClock(10.0), memory=None)
    assert set((await started(limiter, Word("overloaded"))).waiting_for) == {"in flight of openai/m"}


def test_who_gives_up_waiting_says_for_how_long_and_what_for() -> None:
    limiter = RateLimiter([FIVES])
    with limiter.reserve("openai/gpt-5"):
        reservation = limiter.reserve("openai/gpt-5", timeout=0.01)
        with pytest.raises(LimitTimeout):
            reservation.acquire()
    assert reservation.waited > 0
    assert reservation.waited_for == "in flight of the fives"


async def test_so_does_who_is_cancelled() -> None:
    limiter = RateLimiter([FIVES])
    with limiter.reserve("openai/gpt-5"):
        reservation = limiter.reserve("openai/gpt-5")
        task = asyncio.ensure_future(reservation.aacquire())
        while not limiter.status().waiting:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert reservation.waited > 0
    assert reservation.waited_for == "in flight of the fives"


def test_a_status_made_by_hand_needs_no_more_than_before() -> None:
    assert LimitStatus(None, (), 0, 0).advice == []
