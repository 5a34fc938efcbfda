"""What a night's run must stand, at full size: on a quiet machine, by ``pytest -m soak -s``, which prints what it saw.

The same things are asked in small in test_provider.py, which always runs.
"""
# ruff: noqa: T201 - what they measure is printed

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import RunResult, run
from bulkllm.calls import RetryPolicy
from bulkllm.limits import RateLimit
from bulkllm.testing import FakeProvider, Fault, ProviderLimits

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

FAULTS = [
    Fault("status", status=500, rate=0.05),
    Fault("reset", rate=0.05),
    Fault("truncate", rate=0.02),
    Fault("hang", rate=0.02),
    Fault("status", status=429, rate=0.05, retry_after="50ms"),
]


def bulk(requests: Any, base: str, output: Path, **options: Any) -> RunResult:
    options = {"model": "openai/fake-model", "api_key": "sk-fake", "progress": False, "endpoint": "fake", **options}
    return run(requests, output=output, api_base=base, **options)


def write(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"prompt": f"Tell me of {number}.", "label": number}) + "\n")
    return path


def labels(path: Path) -> list[int]:
    with path.open("rb") as file:
        return [json.loads(line)["bulkllm"]["columns"]["label"] for line in file]


def test_ten_thousand_rows_against_faults(tmp_path: Path, out: Path) -> None:
    path = write(tmp_path / "in.jsonl", 10_000)
    with FakeProvider.spawn(seed=3, faults=FAULTS) as server:
        began = time.monotonic()
        result = bulk(path, server.openai_base, out, timeout=5, retry=RetryPolicy(max_attempts=8, base_delay=0.05))
        took = time.monotonic() - began
        report = server.report()
    told = Counter(row.error.code for row in result if row.error is not None)
    print(f"\n{result.ok} ok, {dict(told)} in {took:.0f} s; {report.requests} requests, faults {report.faults}")
    assert result.stopped is None
    assert result.ok + result.failed == 10_000
    assert sorted(labels(out)) == list(range(10_000))
    assert report.repeated_prompts == 0


def test_a_key_that_expires_at_row_400_of_100_000(tmp_path: Path, out: Path) -> None:
    path = write(tmp_path / "in.jsonl", 100_000)
    with FakeProvider.spawn(faults=[Fault("status", status=401, after=400)]) as server:
        began = time.monotonic()
        result = bulk(path, server.openai_base, out)
        took = time.monotonic() - began
        asked = server.report().requests
    print(
        f"\nstopped after {took:.1f} s: {result.ok} ok, {result.failed} failed of {asked} asked, {result.undone} undone"
    )
    assert result.stopped is not None
    assert result.ok == 400
    assert result.ok + result.failed == asked < 1000
    with FakeProvider.spawn() as server:
        again = bulk(path, server.openai_base, out, limit=2000)
        assert (again.ok, again.skipped, server.report().requests) == (2000, 400, 1600)


def test_a_fast_model_beside_one_with_a_twentieth_of_its_limit(out: Path) -> None:
    rows = [{"prompt": f"s{number}", "model": "openai/slow"} for number in range(150)]
    rows += [{"prompt": f"f{number}", "model": "openai/fast"} for number in range(1500)]
    ideal = (1500 - 100) / (3000 / 60)
    last = {"openai/fast": 0.0, "openai/slow": 0.0}
    enforced = {"fast": ProviderLimits(rpm=3000, burst=100), "slow": ProviderLimits(rpm=150, burst=5)}
    limits = [RateLimit("openai/fast", rpm=3000, burst=100), RateLimit("openai/slow", rpm=150, burst=5)]
    with FakeProvider.spawn(limits=enforced) as server:
        bulk(["warm up"], server.openai_base, out.with_name("warm.jsonl"))
        began = time.monotonic()

        def finished(row: Any) -> None:
            last[row.record.model] = time.monotonic() - began

        result = bulk(rows, server.openai_base, out, on_result=finished, limits=limits)
        report = server.report()
    print(f"\nfast: {last['openai/fast']:.2f} s, ideally {ideal:.2f} s; slow: {last['openai/slow']:.2f} s; "
          f"{report.refused} refused")  # fmt: skip
    assert result.ok == len(rows)
    assert last["openai/fast"] < 1.05 * ideal


# Has LiteLLM imported once, and then forks for each run that it is told of: what is killed is a whole process, and the
# time that its start would take goes into runs.
PROGRAM = """
import os, sys, traceback
import bulkllm.bulk as bulk
from bulkllm import _litellm

_litellm.load()
requests, flight = sys.argv[1], int(sys.argv[2])
for line in sys.stdin:
    output, base = line.split()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            result = bulk.run(requests, model="openai/fake-model", api_base=base, api_key="sk-fake", endpoint="fake",
                              output=output, max_in_flight=flight, progress=False)
            code = 0 if result.ok == result.total == 2000 else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forks:
    """Runs in processes of their own, one after the other."""

    def __init__(self, requests: Path, flight: int) -> None:
        command = [sys.executable, "-c", PROGRAM, str(requests), str(flight)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, output: Path, base: str, *, kill_after: float | None) -> tuple[int, float]:
        """Run, and give the exit code (negative for a signal) and the seconds that it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(output, base, file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        began = time.monotonic()
        if kill_after is not None:
            ended, _, _ = select.select([self._process.stdout], [], [], kill_after)
            if not ended:
                os.kill(pid, signal.SIGKILL)  # it is still there: its parent waits for it
        return int(self._process.stdout.readline()), time.monotonic() - began

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
@pytest.mark.timeout(4 * 3600)
def test_runs_of_2_000_rows_killed_at_random_moments(tmp_path: Path) -> None:
    """SOAK_RUNS says how many. The moments are drawn from the whole time that a run takes from its first step on."""
    runs, flight, count = int(os.environ.get("SOAK_RUNS", "10")), 64, 2000
    rng = random.Random(11)  # noqa: S311 - a seed for a test
    path = write(tmp_path / "in.jsonl", count)
    kills = twice = most = early = 0
    forks = Forks(path, flight)
    try:
        with FakeProvider.spawn(latency=(0.01, 0.05)) as server:
            _, whole = forks.run(tmp_path / "warm.jsonl", server.openai_base, kill_after=None)
            _, whole = forks.run(tmp_path / "whole.jsonl", server.openai_base, kill_after=None)
        for number in range(runs):
            output = tmp_path / f"out{number}.jsonl"
            with FakeProvider.spawn(seed=number, latency=(0.01, 0.05)) as server:
                lost = before = asked = 0
                code = -signal.SIGKILL
                while code != 0:
                    moment = rng.uniform(0, whole)
                    code, _ = forks.run(output, server.openai_base, kill_after=moment)
                    assert code in (0, -signal.SIGKILL)
                    while server.report().in_flight:
                        time.sleep(0.01)
                    asked = server.report().requests
                    # What the server has been asked and the file does not know is what was in flight.
                    gone = asked - _whole_lines(output) - lost
                    assert 0 <= gone <= flight
                    lost += gone
                    most = max(most, gone)
                    before += code != 0
                    early += code != 0 and asked == 0
            assert asked == count + lost <= count + flight * before
            kills += before
            assert sorted(labels(output)) == list(range(count))
            twice += lost
            output.unlink()
            print(f"run {number + 1}: {kills} kills so far, {twice} rows asked twice", flush=True)
    finally:
        forks.close()
    print(
        f"\n{runs} runs of {count} rows ({whole:.1f} s undisturbed), {kills} kills, {early} of them before the first"
        f" request: every row once in the results; {twice} rows asked twice, at most {most} of them for one kill, of"
        f" {flight} in flight"
    )


def _whole_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_run_of_a_million_rows_is_as_cheap_at_its_end_and_resumed_quickly_in_little_memory(tmp_path: Path) -> None:
    """Without LiteLLM: what is measured is ours. A row costs the same at the end as at the beginning."""
    script = """
import resource, sys, time
import bulkllm.bulk as bulk

asked, tenths, before = 0, [], (time.process_time(), 0)

async def call(request):
    global asked, before
    asked += 1
    if asked % (count // 10) == 0:
        now = time.process_time(), asked
        with open("/proc/self/statm") as file:
            megabytes = int(file.read().split()[1]) * resource.getpagesize() / 1e6
        tenths.append((1e6 * (now[0] - before[0]) / (now[1] - before[1]), megabytes))
        before = now
    return {"id": "x", "choices": [{"message": {"content": "re"}}]}, None

count = int(sys.argv[3])
began, cpu = time.monotonic(), time.process_time()
result = bulk.run(sys.argv[1], call=call, model="openai/m", output=sys.argv[2], progress=False)
took, worked = time.monotonic() - began, time.process_time() - cpu
print(sys.argv[4], result.ok, result.skipped, f"{took:.1f} s, {worked:.1f} s CPU,",
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MB at most")
for number, (cost, megabytes) in enumerate(tenths, 1):
    print(f"{number}/10: {cost:.0f} us of CPU a row, {megabytes:.0f} MB")
assert result.total == result.ok == count, result
"""
    count = int(os.environ.get("SOAK_ROWS", "1000000"))
    path = write(tmp_path / "in.jsonl", count)
    told: dict[str, list[str]] = {}
    for note in ("first", "again"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), str(tmp_path / "out.jsonl"), str(count), note],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        print("\n" + done.stdout)
        told[note] = done.stdout.splitlines()
    again = told["again"][0].split()
    assert float(again[5]) < 30  # of CPU: what else the machine does is not to count
    assert int(again[-4]) < 300
    costs = [float(line.split()[1]) for line in told["first"][1:]]
    megabytes = [float(line.split()[-2]) for line in told["first"][1:]]
    assert sum(costs[5:]) < 1.3 * sum(costs[1:5]) * 5 / 4  # the first has the scan of the input in it
    assert megabytes[-1] < 1.2 * megabytes[0]
