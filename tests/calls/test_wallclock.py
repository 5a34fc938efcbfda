"""A blocking call that its caller waits for so long and no longer."""

from __future__ import annotations

import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from bulkllm.calls import wallclock
from bulkllm.calls.wallclock import OutOfTimeError, run_within

LONG = 30.0


def never(result: Any) -> None:
    raise AssertionError(f"discarded: {result!r}")


def soon(what: Callable[[], bool]) -> bool:
    """Whether something becomes true within a few seconds."""
    end = time.monotonic() + 10
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def test_a_result_comes_back() -> None:
    assert run_within(LONG, lambda: 7, discard=never) == 7


def test_without_a_limit_it_runs_here() -> None:
    assert run_within(None, threading.get_ident, discard=never) == threading.get_ident()
    assert run_within(LONG, threading.get_ident, discard=never) != threading.get_ident()


def test_a_limit_may_be_longer_than_a_lock_can_wait() -> None:
    assert run_within(1e300, lambda: 7, discard=never) == 7


def test_an_error_comes_back_as_it_is() -> None:
    error = ValueError("no")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="no") as caught:
        run_within(LONG, fail, discard=never)
    assert caught.value is error
    assert caught.value.__context__ is None


def test_even_a_stop_iteration_comes_back() -> None:
    with pytest.raises(StopIteration):
        run_within(LONG, lambda: next(iter(())), discard=never)


def test_the_callers_context_is_there() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("mine")
    assert run_within(LONG, variable.get, discard=never) == "mine"


def test_a_call_that_takes_too_long_is_given_up_and_what_it_brings_discarded() -> None:
    go_on = threading.Event()
    discarded: list[str] = []

    def slow() -> str:
        go_on.wait(LONG)
        return "late"

    began = time.monotonic()
    with pytest.raises(OutOfTimeError):
        run_within(0.02, slow, discard=discarded.append)
    assert time.monotonic() - began < 5
    assert discarded == []
    go_on.set()
    assert soon(lambda: discarded == ["late"])


def test_an_error_that_comes_too_late_troubles_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    go_on, done = threading.Event(), threading.Event()

    def slow() -> None:
        go_on.wait(LONG)
        done.set()
        raise ValueError("late")

    with pytest.raises(OutOfTimeError):
        run_within(0.02, slow, discard=never)
    go_on.set()
    assert done.wait(10)
    assert run_within(LONG, lambda: 1, discard=never) == 1
    assert capfd.readouterr().err == ""


def test_the_thread_of_a_call_that_was_given_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wallclock, "_LINGER", 0.01)
    monkeypatch.setattr(wallclock, "_idle", [])
    go_on = threading.Event()
    threads: list[threading.Thread] = []

    def slow() -> None:
        threads.append(threading.current_thread())
        go_on.wait(LONG)

    with pytest.raises(OutOfTimeError):
        run_within(0.02, slow, discard=lambda _: None)
    assert soon(lambda: bool(threads))
    assert threads[0].daemon, "it must not hold up the interpreter's end"
    go_on.set()
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert wallclock._idle == []


def test_workers_are_used_again() -> None:
    idents = {run_within(LONG, threading.get_ident, discard=never) for _ in range(50)}
    assert len(idents) < 10


def test_calls_from_many_threads_get_their_own_results() -> None:
    results: dict[int, list[int]] = {}

    def calls(number: int) -> None:
        results[number] = [run_within(LONG, lambda n=n: number * 1000 + n, discard=never) for n in range(100)]  # type: ignore[misc]  # bound at once

    threads = [threading.Thread(target=calls, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {number: [number * 1000 + n for n in range(100)] for number in range(8)}


def test_a_result_is_let_go_of() -> None:
    """An idle worker that kept the last response would keep a whole answer in memory."""

    class Response:
        pass

    response = run_within(LONG, Response, discard=never)
    held = weakref.ref(response)
    del response
    assert soon(lambda: held() is None)


def test_an_error_is_let_go_of() -> None:
    class Odd(Exception):
        pass

    def fail() -> None:
        raise Odd

    gc.collect()
    gc.disable()
    try:
        held: list[weakref.ref[Odd]] = []
        try:
            run_within(LONG, fail, discard=never)
        except Odd as error:
            held.append(weakref.ref(error))
        assert soon(lambda: held[0]() is None)
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_has_workers_of_its_own() -> None:
    run_within(LONG, lambda: 1, discard=never)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if run_within(5.0, lambda: 7, discard=never) == 7 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_interpreters_end_waits_for_a_call_that_is_about_to_end_and_not_for_long() -> None:
    program = """
        import threading, time
        from bulkllm.calls.wallclock import OutOfTimeError, run_within

        given_up = threading.Event()

        def soon():
            given_up.wait(30)
            time.sleep(0.3)
            print("ended", flush=True)

        for slow in (soon, lambda: time.sleep(60)):
            try:
                run_within(0.01, slow, discard=print)
            except OutOfTimeError:
                given_up.set()
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=50, check=True
    )
    assert time.monotonic() - began < 40
    assert done.stdout == "ended\nNone\n"
