from __future__ import annotations

import asyncio
import gc
import math
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from bulkllm.errors import ConfigError, ImpossibleRequest, LimitTimeout
from bulkllm.limits import RateLimit, RateLimiter, Reservation, alarm


class Clock:
    """Stands still until a test moves it on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def until(condition: Callable[[], object]) -> None:
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


def pass_time(limiter: RateLimiter, clock: Clock, seconds: float) -> None:
    """Move the clock on, and have the alarm look at it again."""
    clock.now += seconds
    limiter._alarm._pokes.put(None)


def left(limiter: RateLimiter, model: str = "m") -> dict[str, float]:
    return {name: round(value, 3) for name, value in limiter.status(model).remaining.items()}


def busy(limiter: RateLimiter) -> tuple[int, int]:
    status = limiter.status()
    return status.waiting, status.in_flight


# -- what a reservation takes, and what it gives back ------------------------------------------------------------


def test_nothing_is_taken_before_it_is_entered() -> None:
    limiter = RateLimiter(rpm=10, tpm=100, clock=Clock())
    reservation = limiter.reserve("m", input_tokens=30, output_tokens=20)
    assert left(limiter) == {"rpm": 10, "tpm": 100}
    with reservation as entered:
        assert entered is reservation
        assert left(limiter) == {"rpm": 9, "tpm": 50}
        assert busy(limiter) == (0, 1)
    assert busy(limiter) == (0, 0)
    assert left(limiter) == {"rpm": 9, "tpm": 50}, "without better knowledge the estimate counts"


def test_reconciling_counts_what_was_used() -> None:
    limiter = RateLimiter(rpm=10, itpm=100, otpm=100, clock=Clock())
    with limiter.reserve("m", input_tokens=30, output_tokens=50) as reservation:
        reservation.reconcile(input_tokens=40, output_tokens=10)
        assert busy(limiter) == (0, 0)
        reservation.reconcile(input_tokens=90, output_tokens=90)
        reservation.refund()
    assert left(limiter) == {"rpm": 9, "itpm": 60, "otpm": 90}
    with limiter.reserve("m", input_tokens=30, output_tokens=50) as reservation:
        reservation.reconcile(output_tokens=200)
    assert left(limiter) == {"rpm": 8, "itpm": 30, "otpm": -110}, "into debt if need be"


def test_an_exception_gives_everything_back_unless_the_request_was_sent() -> None:
    limiter = RateLimiter(RateLimit(rpm=10, tpm=100, window="sliding"), clock=Clock())
    with pytest.raises(ZeroDivisionError), limiter.reserve("m", input_tokens=30):
        raise ZeroDivisionError
    assert left(limiter) == {"rpm": 10, "tpm": 100}

    def send_and_fail() -> None:
        with limiter.reserve("m", input_tokens=30) as reservation:
            reservation.mark_sent()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        send_and_fail()
    assert left(limiter) == {"rpm": 9, "tpm": 70}
    with limiter.reserve("m", input_tokens=30) as reservation:
        reservation.release(keep_tokens=False)
    assert left(limiter) == {"rpm": 8, "tpm": 70}
    assert busy(limiter) == (0, 0)


async def test_the_same_in_a_task() -> None:
    limiter = RateLimiter(rpm=10, tpm=100, clock=Clock())
    with pytest.raises(ZeroDivisionError):
        async with limiter.reserve("m", input_tokens=30):
            raise ZeroDivisionError
    assert left(limiter) == {"rpm": 10, "tpm": 100}

    async def send_and_fail() -> None:
        async with limiter.reserve("m", input_tokens=30) as reservation:
            reservation.mark_sent()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await send_and_fail()
    assert left(limiter) == {"rpm": 9, "tpm": 70}
    async with limiter.reserve("m", input_tokens=30) as reservation:
        reservation.reconcile(input_tokens=10)
    assert left(limiter) == {"rpm": 8, "tpm": 60}


def test_a_reservation_may_be_entered_again_and_forgets_what_was_before() -> None:
    limiter = RateLimiter(rpm=10, clock=Clock())
    reservation = limiter.reserve("m")
    with reservation:
        reservation.mark_sent()
    assert left(limiter) == {"rpm": 9}
    with pytest.raises(ZeroDivisionError), reservation:
        raise ZeroDivisionError
    assert left(limiter) == {"rpm": 9}, "the second request was not sent"


def test_a_reservation_that_is_dropped_settles_itself() -> None:
    limiter = RateLimiter(rpm=10, max_in_flight=5, clock=Clock())
    kept: list[Reservation] = [limiter.reserve("m").acquire() for _ in range(4)]
    kept[0].mark_sent()
    knot: list[object] = [kept[3]]
    knot.append(knot)
    del knot
    kept.clear()
    gc.collect()
    assert busy(limiter) == (0, 0)
    assert left(limiter) == {"rpm": 9}, "what was sent stays counted"


@pytest.mark.parametrize("tokens", [(-1, 0), (0, -1), (math.nan, 0), (0, math.nan), (math.inf, 0)])
def test_numbers_that_are_none_are_refused_and_spoil_nothing(tokens: tuple[float, float]) -> None:
    limiter = RateLimiter(rpm=10, tpm=100, clock=Clock())
    with pytest.raises(ConfigError, match="tokens must be"):
        limiter.reserve("m", input_tokens=tokens[0], output_tokens=tokens[1])
    with pytest.raises(ConfigError, match="tokens must be"):
        limiter.try_reserve("m", input_tokens=tokens[0], output_tokens=tokens[1])
    with limiter.reserve("m", input_tokens=5) as reservation, pytest.raises(ConfigError, match="tokens must be"):
        reservation.reconcile(input_tokens=tokens[0], output_tokens=tokens[1])
    assert left(limiter) == {"rpm": 9, "tpm": 95}


def test_limits_are_given_one_by_one_in_a_list_or_as_keywords() -> None:
    limit = RateLimit("a", rpm=1)
    assert RateLimiter(limit).limits == RateLimiter([limit]).limits == (limit,)
    assert RateLimiter(rpm=5).limits == (RateLimit(rpm=5),)
    assert RateLimiter(limit, max_in_flight=2).limits == (limit, RateLimit(max_in_flight=2))
    assert RateLimiter().limits == ()
    with pytest.raises(ConfigError, match="takes RateLimit objects, not 'rpm'"):
        RateLimiter(["rpm"])  # type: ignore[list-item]  # users without a type checker
    with pytest.raises(ConfigError, match="rpm=0"):
        RateLimiter(rpm=0)


def test_what_no_limit_matches_goes_through_and_is_counted() -> None:
    limiter = RateLimiter(RateLimit("a", rpm=1), clock=Clock())
    with limiter.reserve("b"), limiter.reserve("b"):
        assert limiter.status("b").in_flight == 2
        assert limiter.status("a").in_flight == 0
        assert limiter.status().in_flight == 2
    assert limiter.status().in_flight == 0


def test_status_tells_how_the_limits_stand() -> None:
    clock = Clock()
    narrow = RateLimit("a*", rpm=60, tpm=100, name="narrow")
    limiter = RateLimiter([narrow, RateLimit(rpm=600, window="sliding")], clock=clock)
    with limiter.reserve("ab", input_tokens=40), limiter.reserve("c"):
        status = limiter.status("ab")
        assert (status.model, status.waiting, status.in_flight) == ("ab", 0, 1)
        assert [pool.name for pool in status.limits] == ["narrow", "*"]
        assert [pool.window for pool in status.limits] == ["bucket", "sliding"]
        assert [pool.in_flight for pool in status.limits] == [1, 2]
        assert status.limits[0].quotas["tpm"].limit == 100
        assert status.limits[0].quotas["tpm"].period == 60
        assert status.remaining == {"rpm": 59, "tpm": 60}
        assert limiter.status().in_flight == 2
        assert [pool.name for pool in limiter.status("c").limits] == ["*"]
    clock.now += 6
    assert limiter.status("ab").remaining == pytest.approx({"rpm": 60, "tpm": 70})
    assert limiter.status("unheard of/c").limits == limiter.status("c").limits


# -- trying ------------------------------------------------------------------------------------------------------


def test_trying_gives_a_reservation_or_nothing() -> None:
    limiter = RateLimiter(rpm=2, tpm=100, clock=Clock())
    first = limiter.try_reserve("m", input_tokens=60)
    assert first is not None
    assert limiter.try_reserve("m", input_tokens=60) is None
    assert busy(limiter) == (0, 1)
    with first as entered:
        assert entered is first, "it is granted already"
        assert left(limiter) == {"rpm": 1, "tpm": 40}
        first.reconcile(input_tokens=10)
    second = limiter.try_reserve("m")
    assert second is not None
    del second
    assert left(limiter) == {"rpm": 1, "tpm": 90}


def test_trying_stamps_a_sliding_window() -> None:
    clock = Clock()
    limiter = RateLimiter(RateLimit(rpm=1, window="sliding"), clock=clock)
    reservation = limiter.try_reserve("m")
    assert reservation is not None
    clock.now += 60
    assert limiter.try_reserve("m") is not None
    del reservation


# -- what can never be, and what takes too long ------------------------------------------------------------------


def test_the_impossible_is_refused_each_time_it_is_asked_for() -> None:
    limiter = RateLimiter(tpm=100, clock=Clock())
    reservation = limiter.reserve("m", input_tokens=101)
    for _ in range(2):
        with pytest.raises(ImpossibleRequest, match="101 of tpm"):
            reservation.acquire()
    with pytest.raises(ImpossibleRequest):
        limiter.try_reserve("m", input_tokens=101)
    assert busy(limiter) == (0, 0)


@pytest.mark.parametrize("way", ["acquire", "try_reserve"])
def test_news_that_comes_while_an_impossible_request_is_refused_is_not_left_lying(way: str) -> None:
    # Whoever posts news never waits for the lock: who holds it must look afterwards, also when it leaves by an error.
    held: list[Reservation] = []

    def clock() -> float:  # called under the lock, as a finaliser may be
        if held and under_way:
            held.pop().refund()
        return 0.0

    under_way = False
    limiter = RateLimiter(tpm=100, max_in_flight=1, clock=clock)
    held.append(limiter.reserve("m").acquire())
    waiting = in_thread(limiter.reserve("m").acquire)
    until(lambda: limiter.status().waiting == 1)
    under_way = True
    ask = limiter.try_reserve if way == "try_reserve" else lambda *a, **k: limiter.reserve(*a, **k).acquire()
    with pytest.raises(ImpossibleRequest) as caught:  # whose traceback keeps the reservation: no finaliser helps
        ask("m", input_tokens=101)
    assert not held
    join(waiting)
    assert caught.tb is not None


@pytest.mark.parametrize("timeout", [0.02, 0, -1, -0.5])
def test_a_timeout_holds_nothing_and_says_what_to_do(timeout: float) -> None:
    limiter = RateLimiter(rpm=1)
    with limiter.reserve("m"):
        reservation = limiter.reserve("m", timeout=timeout)
        with pytest.raises(LimitTimeout, match="raise the limit or the timeout") as caught, reservation:
            pytest.fail("it was let in")
        assert isinstance(caught.value, TimeoutError)
        assert busy(limiter) == (0, 1)
        assert reservation.waited >= min(timeout, 0)
    assert busy(limiter) == (0, 0)


@pytest.mark.parametrize("timeout", [0.02, 0, -1, -0.5])
async def test_a_timeout_in_a_task(timeout: float) -> None:
    limiter = RateLimiter(rpm=1)
    async with limiter.reserve("m"):
        with pytest.raises(LimitTimeout):
            await limiter.reserve("m", timeout=timeout).aacquire()
        assert busy(limiter) == (0, 1)
    assert busy(limiter) == (0, 0)


@pytest.mark.parametrize("timeout", [math.inf, 1e12, 20])
def test_a_long_timeout_is_as_good_as_none(timeout: float) -> None:
    clock = Clock()
    limiter = RateLimiter(rpm=1, clock=clock)

    def let_in(wait: Callable[[], object]) -> None:
        waiting = in_thread(wait)
        until(lambda: limiter.status().waiting == 1)
        pass_time(limiter, clock, 61.0)  # the thread gives a loop a moment in which to ring itself
        join(waiting)
        assert limiter.status().waiting == 0

    with limiter.reserve("m"):
        second = limiter.reserve("m", timeout=timeout)
        let_in(second.acquire)
        assert second.waited > 0
        third = limiter.reserve("m", timeout=timeout)
        let_in(lambda: asyncio.run(third.aacquire()))
        assert third.waited > 0


def test_whoever_times_out_makes_way_for_the_next() -> None:
    def both_waited(timeout: float) -> bool:
        limiter = RateLimiter(tpm=100, clock=Clock())
        first = limiter.reserve("m", input_tokens=90).acquire()
        small: list[Reservation] = []

        def ask_for_little() -> None:
            small.append(limiter.reserve("m", input_tokens=10).acquire())

        outcome: list[type[BaseException]] = []

        def ask_for_much() -> None:
            try:
                limiter.reserve("m", input_tokens=100, timeout=timeout).acquire()
            except LimitTimeout as error:
                outcome.append(type(error))

        large = in_thread(ask_for_much)
        until(lambda: limiter.status().waiting == 1 or outcome)
        little = in_thread(ask_for_little)
        until(lambda: limiter.status().waiting == 2 or outcome)
        in_time = not outcome
        join(large, little)
        assert outcome == [LimitTimeout]
        assert left(limiter) == {"tpm": 0}
        first.refund()
        return in_time

    assert both_waited(0.3) or both_waited(6.0), "the large one has left before the small one came"


# -- threads -----------------------------------------------------------------------------------------------------


def test_threads_are_served_in_the_order_of_their_coming() -> None:
    limiter = RateLimiter(max_in_flight=1)
    served: list[int] = []

    def call(index: int) -> None:
        with limiter.reserve("m"):
            served.append(index)

    with limiter.reserve("m"):
        threads = []
        for index in range(12):
            threads.append(in_thread(lambda index=index: call(index)))  # type: ignore[misc]  # a lambda's default
            until(lambda: limiter.status().waiting == len(threads))
    join(*threads)
    assert served == list(range(12))
    assert busy(limiter) == (0, 0)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to a thread here")
def test_an_interrupt_while_waiting_leaves_nothing_behind() -> None:
    limiter = RateLimiter(rpm=1)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: limiter.status().waiting == 1)
        time.sleep(0.02)  # it is in line, and will sleep in a moment
        signal.pthread_kill(main, signal.SIGINT)

    with limiter.reserve("m"):
        thread = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt), limiter.reserve("m"):
            pytest.fail("it was let in")
        assert busy(limiter) == (0, 1)
    join(thread)


def test_no_thread_before_somebody_waits_and_none_for_long_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    others = set(threading.enumerate())

    def alarms() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in others]

    clock = Clock()
    limiter = RateLimiter(rpm=1, clock=clock)
    for _ in range(2):
        monkeypatch.setattr(alarm, "_LINGER", 600.0)
        with limiter.reserve("m"):
            pass
        assert limiter.try_reserve("m") is None
        assert alarms() == []
        reservation = limiter.reserve("m")
        waiting = in_thread(reservation.acquire)
        until(lambda: limiter.status().waiting == 1)
        pass_time(limiter, clock, 60.0)
        join(waiting)
        with reservation:
            assert reservation.waited > 0
            assert [thread.name for thread in alarms()] == ["bulkllm-limiter"]
            assert all(thread.daemon for thread in alarms())
        monkeypatch.setattr(alarm, "_LINGER", 0.02)
        pass_time(limiter, clock, 60.0)  # from now on it lingers for so long
        until(lambda: not alarms())
        assert limiter.status().remaining["rpm"] == 1.0


def test_the_alarm_outlives_a_pause_as_long_as_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm, "_LINGER", 0.01)
    limiter = RateLimiter(max_in_flight=1, rpm=1, period=0.05)
    first = limiter.reserve("m").acquire()
    waiting = in_thread(limiter.reserve("m").acquire)
    until(lambda: limiter.status().waiting == 1)
    time.sleep(0.05)  # several lingerings, with no alarm set: an event is being waited for
    first.release()
    join(waiting)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are newer")
async def test_eager_tasks() -> None:
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        limiter = RateLimiter(rpm=5, period=0.05, burst=1)
        await asyncio.gather(*(limiter.reserve("m").aacquire() for _ in range(5)))
        assert busy(limiter)[0] == 0


def test_a_coroutine_without_an_event_loop_stays_in_no_line() -> None:
    limiter = RateLimiter(rpm=1, clock=Clock())
    with limiter.reserve("m"):
        lost = limiter.reserve("m")
        with pytest.raises(RuntimeError, match="no running event loop"):
            lost.aacquire().send(None)
        assert busy(limiter) == (0, 1)


def test_a_thread_that_cannot_be_had_leaves_nobody_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    clock = Clock()
    limiter = RateLimiter(rpm=1, clock=clock)
    with limiter.reserve("m"):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            waiting = limiter.reserve("m")
            with pytest.raises(RuntimeError, match="can't start"):
                waiting.acquire()
        assert busy(limiter) == (0, 1)
        asking = in_thread(waiting.acquire)  # and when there are threads again, it works again
        until(lambda: limiter.status().waiting == 1)
        pass_time(limiter, clock, 60.0)
        join(asking)
        assert busy(limiter) == (0, 2)
