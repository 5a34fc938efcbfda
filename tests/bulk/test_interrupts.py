"""Signals that come while there are several runs."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from bulkllm.bulk import RunResult, arun
from bulkllm.bulk.interrupts import interrupts


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_the_third_interrupt_is_pythons_own() -> None:
    told: list[int] = []
    with interrupts(lambda: told.append(1)):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert len(told) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("leaves", ["the first", "the last"])
def test_whoever_is_there_is_told_and_the_last_to_leave_gives_the_signals_back(leaves: str) -> None:
    before = handlers()
    told: Counter[str] = Counter()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(interrupts(lambda: told.update(["first"])))
        second.enter_context(interrupts(lambda: told.update(["second"])))
        signal.raise_signal(signal.SIGINT)
        assert told == {"first": 1, "second": 1}
        (first if leaves == "the first" else second).close()
        assert not set(handlers()) & set(before)
        signal.raise_signal(signal.SIGTERM)
        assert told == {"first": 1, "second": 2} if leaves == "the first" else {"first": 2, "second": 1}
        (second if leaves == "the first" else first).close()
        assert handlers() == before


def test_a_run_that_began_later_has_its_own_two_interrupts() -> None:
    told: list[str] = []
    with interrupts(lambda: told.append("first")):
        signal.raise_signal(signal.SIGINT)
    with interrupts(lambda: told.append("second")):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert told == ["first", "second", "second"]


def test_a_handler_that_the_program_sets_meanwhile_stays() -> None:
    before = handlers()
    told: list[Any] = []
    try:
        with interrupts(lambda: told.append("run")):
            signal.signal(signal.SIGINT, own := lambda number, frame: told.append(number))
            with interrupts(lambda: told.append("another run")):
                signal.raise_signal(signal.SIGINT)
        assert handlers() == [own, before[1]]
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert told == [signal.SIGINT]


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_ends_all_runs_of_a_loop(calls: Any, times: int) -> None:
    before = handlers()
    calls.gate = asyncio.Event()

    def interrupt(request: Any) -> None:
        if calls.in_flight == 6:  # both runs are full
            signal.raise_signal(signal.SIGINT)
            if times == 1:
                calls.gate.set()
            else:
                asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)

    async def both() -> list[RunResult]:
        calls.on_call = interrupt
        options: dict[str, Any] = {"call": calls, "model": "m", "max_in_flight": 3, "progress": False}
        return await asyncio.gather(*(arun([f"{name}{number}" for number in range(40)], **options) for name in "ab"))

    results = asyncio.run(both())
    assert [(result.interrupted, result.ok) for result in results] == [(True, 3 if times == 1 else 0)] * 2
    assert calls.asked == 6
    assert handlers() == before
