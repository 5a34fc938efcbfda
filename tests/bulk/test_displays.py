"""A display of ours that cannot be written to ends no run; what a function of the user's raises does."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import progress as displays
from bulkllm.bulk import run


class Broken(io.StringIO):
    """It takes some lines, and then nothing more."""

    def __init__(self, lines: int, error: type[Exception], *, tty: bool) -> None:
        super().__init__()
        self.left = lines
        self.error = error
        self.tty = tty

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error("nobody reads it")
        return super().write(text)

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError])
@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_run_outlives_its_display(
    calls: Any, out: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], tty: bool, lines: int
) -> None:
    monkeypatch.setattr(displays, "PLAIN_EVERY", 0.0)
    monkeypatch.setattr(displays.PlainLines, "every", 0.0, raising=False)
    monkeypatch.setattr(sys, "stderr", Broken(lines, error, tty=tty))
    result = run([f"q {number}" for number in range(200)], model="openai/m", call=calls, output=out)
    assert (result.ok, result.undone) == (200, 0)
    assert len(out.read_text().splitlines()) == 200


def test_so_does_one_whose_pipe_is_closed(calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    nobody = os.fdopen(write, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", nobody)
    assert len(list(run(["a", "b"], model="openai/m", call=calls))) == 2
    with contextlib.suppress(BrokenPipeError):  # of what it could not get rid of
        nobody.close()


def test_after_that_it_is_silent_and_is_told_of_no_more() -> None:
    class Once(displays.Silence):
        def __init__(self) -> None:
            self.asked: list[str] = []

        def say(self, text: str) -> None:
            self.asked.append(text)
            raise OSError(5, "Input/output error")

        def close(self) -> None:
            self.asked.append("closed")
            raise OSError(5, "Input/output error")

    once = Once()
    shown = displays.unobtrusive(once)
    for text in ("one", "two"):
        shown.say(text)
    shown.close()
    assert once.asked == ["one", "closed"]


def test_what_the_users_own_function_raises_ends_the_run(calls: Any) -> None:
    def told(_: Any) -> None:
        raise BrokenPipeError("the user's own")

    with pytest.raises(BrokenPipeError, match="the user's own"):
        run(["a"], model="openai/m", call=calls, progress=told)
