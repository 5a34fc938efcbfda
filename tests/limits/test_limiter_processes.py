"""What can only be seen from outside a process: that it does not hang, ends, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest


def run(script: str, *options: str, limit: float = 60.0) -> float:
    """Run a script in a process of its own, which must end by itself and in peace. Tells the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return time.monotonic() - began


def test_neither_importing_nor_constructing_starts_a_thread_or_loads_much() -> None:
    run(
        """
        import sys, threading
        from bulkllm.limits import RateLimiter
        limiter = RateLimiter(rpm=2)
        with limiter.reserve("m") as r:
            r.reconcile()
        assert limiter.try_reserve("m") is not None
        assert threading.active_count() == 1
        assert not {"litellm", "pandas", "rich", "typer", "requests", "aiohttp", "pydantic"} & set(sys.modules)
        """
    )


@pytest.mark.parametrize("way", ["with limiter.reserve('m'): pass", "asyncio.run(limiter.reserve('m').aacquire())"])
def test_a_process_ends_promptly_while_somebody_waits_in_a_daemon_thread(way: str) -> None:
    took = run(
        f"""
        import asyncio, threading, time
        from bulkllm.limits import RateLimiter
        limiter = RateLimiter(rpm=1)
        def wait():
            {way}
        with limiter.reserve("m"):
            threading.Thread(target=wait, daemon=True).start()
            while not limiter.status().waiting:
                time.sleep(0.001)
        """
    )
    assert took < 30, "not the minute that the quota takes"


def test_cycles_that_are_collected_under_the_lock_do_not_deadlock() -> None:
    # The collector runs at allocations, also those under the lock, in whichever thread: with a low threshold
    # thousands of reservations are settled by it while the same thread, or another, holds the lock.
    run(
        """
        import asyncio, gc, threading
        from bulkllm.limits import RateLimit, RateLimiter
        gc.set_threshold(7, 2, 2)
        limiter = RateLimiter([
            RateLimit("a*", rpm=600_000, tpm=900_000_000, period=1.0, max_in_flight=50),
            RateLimit("*", rpm=500_000, period=1.0, window="sliding"),
        ])
        collected = []

        class Knot:
            def __init__(self, reservation):
                self.me, self.reservation = self, reservation
            def __del__(self):
                collected.append(limiter._lock.locked())

        def knots():
            for n in range(2500):
                Knot(limiter.reserve("ab", input_tokens=10, timeout=20).acquire())

        def plain():
            for n in range(2500):
                with limiter.reserve("a", input_tokens=5, timeout=20) as r:
                    r.reconcile(input_tokens=3)

        async def held():
            async with limiter.reserve("b", timeout=20):
                await asyncio.sleep(0)

        async def streams():
            for n in range(40):
                await asyncio.gather(*(held() for _ in range(20)))
                stream = aiter(endless())
                await anext(stream)
                knot = [stream]
                knot.append(knot)

        async def endless():
            async with limiter.reserve("b", timeout=20) as r:
                while True:
                    r.mark_sent()
                    yield 1

        threads = [threading.Thread(target=work, daemon=True)
                   for work in (knots, knots, plain, plain, lambda: asyncio.run(streams()))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
            assert not thread.is_alive(), "a deadlock"
        for _ in range(3):
            gc.collect()
        status = limiter.status()
        assert (status.waiting, status.in_flight) == (0, 0), status
        assert len(collected) == 5000
        assert any(collected), "none was collected under the lock: this shows nothing"
        """
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_uses_the_limiter_and_the_parent_goes_on() -> None:
    run(
        """
        import asyncio, os, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about: that is the point
        from bulkllm.limits import RateLimit, RateLimiter
        limiter = RateLimiter(RateLimit(rpm=400, period=0.2, burst=20, max_in_flight=10))
        stop = threading.Event()

        def hammer():
            while not stop.is_set():
                with limiter.reserve("m"):
                    pass

        def in_the_child():
            status = limiter.status()
            assert (status.waiting, status.in_flight) == (0, 0), status
            for _ in range(30):
                with limiter.reserve("m", timeout=20):
                    pass
            async def tasks():
                await asyncio.gather(*(limiter.reserve("m", timeout=20).aacquire() for _ in range(9)))
            asyncio.run(tasks())
            held.refund()  # what the parent held is the parent's
            assert limiter.status().in_flight == 0

        threads = [threading.Thread(target=hammer, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            with limiter.reserve("m") as held:
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        in_the_child()
                        code = 0
                    finally:
                        os._exit(code)
                end = time.monotonic() + 30
                while True:
                    done, code = os.waitpid(child, os.WNOHANG)
                    if done:
                        break
                    assert time.monotonic() < end, "the child hangs"
                    time.sleep(0.001)
                assert code == 0
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "the parent hangs"
        status = limiter.status()
        assert (status.waiting, status.in_flight) == (0, 0), status
        """
    )


def test_nothing_is_left_open() -> None:
    run(
        """
        import asyncio, gc, threading
        from bulkllm.errors import LimitTimeout
        from bulkllm.limits import RateLimiter
        limiter = RateLimiter(rpm=20, period=0.05, max_in_flight=4)

        async def call(n):
            async with limiter.reserve("m"):
                await asyncio.sleep(0)

        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60  # the debug mode tells of slow ones on stderr
            tasks = [asyncio.create_task(call(n)) for n in range(20)]
            await asyncio.sleep(0.001)
            for task in tasks[::3]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            kept = [await limiter.reserve("m").aacquire() for _ in range(4)]
            try:
                await limiter.reserve("m", timeout=0.01).aacquire()
            except LimitTimeout:
                pass

        for _ in range(3):
            asyncio.run(main())
        for _ in range(30):
            limiter.reserve("m").acquire()
        gc.collect()
        status = limiter.status()
        assert (status.waiting, status.in_flight) == (0, 0), status
        """,
        "-X",
        "dev",
        "-W",
        "error",
    )
