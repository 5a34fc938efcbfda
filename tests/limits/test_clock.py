"""The clock that goes on while the machine sleeps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from bulkllm import RateLimiter
from bulkllm.limits import clock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no such clock")
def test_on_linux_the_time_counts_that_the_machine_slept() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= clock.monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_limiter_goes_by_it() -> None:
    assert RateLimiter()._clock is clock.monotonic


@pytest.mark.parametrize("platform", ["win32", "sunos5"])
def test_elsewhere_pythons_own_is_as_good_as_any(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert clock._clock() is time.monotonic


def test_a_sandbox_without_it_has_pythons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> float:
        raise OSError(22, f"no clock {number}")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", refuse)
    assert clock._clock() is time.monotonic


def test_macos_has_another_one_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(number: int) -> float:
        asked.append(number)
        return 1.0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", 6, raising=False)
    monkeypatch.setattr(time, "clock_gettime", read)
    found: Callable[[], Any] = clock._clock()
    assert found() == 1.0
    assert set(asked) == {6}
