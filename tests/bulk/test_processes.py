"""Runs in processes of their own, which are interrupted and killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# A run whose "provider" is a log file: one line for each row that was asked, written in one piece. It may be told to
# send itself a signal at the so-manieth of them (whoever sends it from outside may come too late), or a moment later.
PROGRAM = textwrap.dedent(
    """
    import asyncio, json, os, sys, threading
    import bulkllm.bulk as bulk

    requests, output, log, seconds, more = sys.argv[1:]
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    more = json.loads(more)
    left, number, later = more.pop("signal_at", (0, 0, 0))

    async def call(request):
        global left
        prompt = request.body["messages"][0]["content"]
        os.write(fd, (prompt + "\\n").encode())
        left -= 1
        if left == 0 and later:
            timer = threading.Timer(later, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
        elif left == 0:
            os.kill(os.getpid(), number)
        await asyncio.sleep(float(seconds))
        return {"id": prompt, "choices": [{"message": {"content": "re: " + prompt}}]}, None

    result = bulk.run(requests, call=call, model="m", output=output, progress=True, **more)
    print(json.dumps({"ok": result.ok, "undone": result.undone, "skipped": result.skipped,
                      "interrupted": result.interrupted}))
    """
)


class Program:
    """Starts runs over one input."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.requests = folder / "in.jsonl"
        self.output = folder / "results.jsonl"
        self.log = folder / "log.txt"
        self.requests.write_text("".join(json.dumps({"prompt": f"p{number}"}) + "\n" for number in range(rows)))
        self.log.touch()
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *, seconds: float, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, *map(str, (self.requests, self.output, self.log, seconds))]
        process = subprocess.Popen(
            [*command, json.dumps(options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
        )
        self.running.append(process)
        return process

    def wait_until(self, true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 60
        while not true():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.002)

    def asked(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())

    def answers(self) -> list[str]:
        rows = [json.loads(line) for line in self.output.read_bytes().splitlines()]
        return [row["response"]["body"]["id"] for row in rows]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[int], Program]]:
    made: list[Program] = []

    def make(rows: int) -> Program:
        made.append(Program(tmp_path, rows))
        return made[-1]

    yield make
    for one in made:
        for process in one.running:
            process.kill()
            process.communicate()


def end(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    told: dict[str, Any] = json.loads(out)
    return told, err.decode()


def test_a_run_killed_again_and_again_finishes_and_pays_no_row_twice(program: Callable[[int], Program]) -> None:
    rows, flight, kills = 600, 10, 0
    told: dict[str, Any] = {}
    run = program(rows)
    rng = random.Random(7)  # noqa: S311 - a seed for a test
    while not told:
        moment = (rng.randrange(1, 150), signal.SIGKILL, 0.005 * rng.random())
        process = run.start(seconds=0.005, max_in_flight=flight, signal_at=moment)
        if process.wait(timeout=60) == -signal.SIGKILL:
            kills += 1
        else:
            told, _ = end(process)
    assert kills >= 3
    assert told["ok"] == rows
    assert sorted(run.answers()) == sorted(f"p{number}" for number in range(rows))
    asked = run.asked()
    assert len(asked) == rows
    assert asked.total() - rows <= kills * flight
    told, _ = end(run.start(seconds=0.005))
    assert told["skipped"] == rows
    assert run.asked() == asked
    assert sorted(path.name for path in run.output.parent.glob("results*")) == ["results.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_finishes_the_rows_in_flight(program: Callable[[int], Program], number: signal.Signals) -> None:
    run = program(500)
    process = run.start(seconds=0.2, max_in_flight=10, signal_at=(15, number, 0))
    told, err = end(process)
    assert told["interrupted"]
    assert told["undone"] == 500 - told["ok"]
    assert "rows in flight are finished first" in err
    asked = run.asked()
    assert asked.total() < 40
    assert sorted(run.answers()) == sorted(asked)  # every row that was asked is kept
    told, _ = end(run.start(seconds=0))
    assert (told["ok"], told["interrupted"]) == (500, False)
    assert run.asked().total() == 500


def test_two_interrupts_end_the_run_at_once(program: Callable[[int], Program]) -> None:
    run = program(500)
    process = run.start(seconds=600, max_in_flight=10, signal_at=(10, signal.SIGINT, 0))
    assert process.stderr is not None
    said = b""
    while b"rows in flight are finished first" not in said:
        more = os.read(process.stderr.fileno(), 10_000)
        assert more, said.decode()
        said += more
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    os.kill(process.pid, signal.SIGINT)
    told, _ = end(process)
    assert (told["ok"], told["undone"], told["interrupted"]) == (0, 500, True)
    assert run.answers() == []


def test_the_answers_that_a_file_size_limit_leaves_no_room_for_are_kept(
    program: Callable[[int], Program], tmp_path: Path
) -> None:
    """A real refusal of the operating system: the file may not grow beyond 20 kB, nor may any other."""
    run = program(300)
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n{PROGRAM}"
    command = [sys.executable, "-c", limited, *map(str, (run.requests, run.output, run.log, 0.001))]
    done = subprocess.run(
        [*command, json.dumps({"max_in_flight": 5})],
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    told = json.loads(done.stdout)
    assert b"File too large" in done.stderr
    assert told["undone"] > 200
    whole = run.answers()  # each line can be read
    (kept,) = tmp_path.glob("results-*.jsonl")
    assert len(whole) + len(kept.read_bytes().splitlines()) == run.asked().total()
    with run.output.open("ab") as file:
        file.write(kept.read_bytes())
    told, _ = end(run.start(seconds=0))
    assert told["ok"] == 300
    assert run.asked().total() == 300
    assert sorted(run.answers()) == sorted(f"p{number}" for number in range(300))


def test_handlers_of_signals_are_given_back(calls: Any) -> None:
    program = textwrap.dedent(
        """
        import asyncio, signal
        import bulkllm.bulk as bulk

        async def call(request):
            seen.append(signal.getsignal(signal.SIGINT))
            return {}, None

        async def inside():
            before = signal.getsignal(signal.SIGINT)
            await bulk.arun(["a"], call=call, model="m", progress=False)
            assert signal.getsignal(signal.SIGINT) is before
            bulk.run(["a"], call=call, model="m", progress=False)

        seen = []
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        bulk.run(["a"], call=call, model="m", progress=False)
        asyncio.run(inside())
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        assert {handler.__qualname__ for handler in seen} == {"_handle"}, seen

        own = lambda number, frame: None
        signal.signal(signal.SIGINT, own)
        seen.clear()
        bulk.run(["a"], call=call, model="m", progress=False)
        assert seen == [own]
        bulk.run(["a"], call=call, model="m", progress=False, handle_signals=False)
        """
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_standard_input_is_an_input(program: Callable[[int], Program], tmp_path: Path) -> None:
    run = program(30)
    command = [sys.executable, "-c", PROGRAM, "-", *map(str, (run.output, run.log, 0)), "{}"]
    done = subprocess.run(command, input=run.requests.read_bytes(), capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["ok"] == 30
    assert len(run.answers()) == 30


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="this system does not tell what standard input is")
def test_a_file_that_is_sent_in_is_not_written_to(program: Callable[[int], Program]) -> None:
    run = program(3)
    before = run.requests.read_bytes()
    command = [sys.executable, "-c", PROGRAM, "-", *map(str, (run.requests, run.log, 0)), "{}"]
    with run.requests.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=False, timeout=60)
    assert b"is the input" in done.stderr
    assert run.requests.read_bytes() == before


def test_an_interrupt_does_not_wait_for_more_input(program: Callable[[int], Program]) -> None:
    run = program(3)
    command = [sys.executable, "-c", PROGRAM, "-", *map(str, (run.output, run.log, 0)), "{}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.running.append(process)
    assert process.stdin is not None
    process.stdin.write(run.requests.read_bytes())
    process.stdin.flush()
    run.wait_until(lambda: run.output.exists() and len(run.answers()) == 3, process)
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())  # the pipe is still open on our side
    assert (told["ok"], told["interrupted"]) == (3, True)
    process.communicate(timeout=30)
    assert process.returncode == 0
