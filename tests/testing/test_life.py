"""Starting, stopping, and living in another process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.testing import FakeProvider, Fault, ProviderLimits, ProviderReport, SpawnedProvider

Post = Callable[..., Any]
ROOT = str(Path(__file__).parents[2])


def _python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def refuses(port: int) -> bool:
    with socket.socket() as peer:
        return peer.connect_ex(("127.0.0.1", port)) != 0


def test_addresses() -> None:
    server = FakeProvider()
    with pytest.raises(ConfigError, match="has not been started"):
        _ = server.url
    with server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert (server.openai_base, server.anthropic_base) == (f"{server.url}/v1", server.url)
        with pytest.raises(ConfigError, match="running already"):
            server.start()
    assert refuses(server.port)
    assert server.report().requests == 0
    server.stop()


def test_a_server_can_be_started_again_and_goes_on_counting(chat: Post) -> None:
    server = FakeProvider()
    for _ in range(2):
        with server:
            chat(server)
    assert server.report().repeated_prompts == 1


def test_a_fixed_port_and_one_that_is_taken(chat: Post) -> None:
    with FakeProvider() as first:
        with pytest.raises(ConfigError, match=rf"port {first.port} on 127.0.0.1 cannot be had .*port=0"):
            FakeProvider(port=first.port).start()
        port = first.port
    with FakeProvider(port=port) as second:
        assert second.port == port
        assert chat(second).status == 200


async def test_a_blocked_event_loop_does_not_hold_the_server_up(chat: Post) -> None:
    async with FakeProvider() as server:
        # This call blocks the loop that the server was started from.
        assert chat(server).status == 200
    assert refuses(server.port)


@pytest.mark.parametrize("fault", [Fault("hang"), Fault("hang", delay=60), Fault("trickle", delay=60)])
def test_stopping_is_prompt_whatever_is_waited_for_and_leaves_nothing(fault: Fault, chat: Post) -> None:
    before = set(threading.enumerate())
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            chat(server)
        except (OSError, http.client.HTTPException) as error:
            errors.append(error)

    with FakeProvider(faults=[fault]) as server:
        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        while server.report().in_flight < 3:
            time.sleep(0.001)
        idle = socket.create_connection(("127.0.0.1", server.port))
        began = time.monotonic()
    assert time.monotonic() - began < 8  # the clients themselves lose patience after 10
    for client in clients:
        client.join()
    assert len(errors) == 3
    with idle, contextlib.suppress(ConnectionResetError):
        assert idle.recv(1) == b""
    assert server.report().in_flight == 0
    assert not set(threading.enumerate()) - before
    gc.collect()  # an unclosed socket, transport or loop would warn here, and warnings are errors


def test_stopping_is_prompt_though_clients_keep_coming(chat: Post) -> None:
    over = threading.Event()

    def hammer() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                chat(server)

    server = FakeProvider(latency=0.001).start()
    clients = [threading.Thread(target=hammer) for _ in range(4)]
    for client in clients:
        client.start()
    while server.report().successes < 20:
        time.sleep(0.001)
    began = time.monotonic()
    server.stop()
    took = time.monotonic() - began
    over.set()
    for client in clients:
        client.join()
    assert took < 8
    assert server.report().in_flight == 0


def test_serve_forever_ends_at_a_signal_and_puts_handlers_back(chat: Post) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    server = FakeProvider().start()
    statuses: list[int] = []

    def visit() -> None:
        statuses.append(chat(server).status)
        os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    visitor.start()
    server.serve_forever()
    visitor.join()
    assert statuses == [200]
    assert refuses(server.port)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_spawned_server_has_the_same_options_and_answers_the_same_questions(post: Post, chat: Post) -> None:
    options: dict[str, Any] = {
        "rpm": 100,
        "limits": {"small": ProviderLimits(rpm=1)},
        "faults": [Fault("status", status=529, match="bad", retry_after="date")],
        "keys": {"sk-good", "sk-two"},
        "seed": 5,
        "reply_tokens": (3, 3),
        "latency": (0.0, 0.001),
    }
    with FakeProvider.spawn(**options) as server, FakeProvider(**options) as twin:
        assert server.pid != os.getpid()
        os.kill(server.pid, signal.SIGINT)  # Ctrl-C reaches the child too, and is its parent's to act on
        assert chat(server, key="sk-no").status == 401
        assert chat(server, "bad", key="sk-good").status == 529
        assert chat(server, key="sk-good").json["choices"] == chat(twin, key="sk-good").json["choices"]
        assert [chat(server, model="small", key="sk-good").status for _ in range(2)] == [200, 429]
        report = server.report()
        assert (report.requests, report.successes, report.faults, report.refused) == (5, 2, {"status": 1}, 1)
        server.set_limits("small", rpm=None)
        assert chat(server, model="small", key="sk-good").status == 200
        with pytest.raises(ConfigError, match="'rps' is no limit"):
            server.set_limits(rps=3)
        server.revoke("sk-two")
        assert chat(server, key="sk-two").status == 401
        server.reset()
        assert server.report().requests == 0
        assert server.openai_base == f"{server.anthropic_base}/v1"
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_spawned_server_in_async_with(chat: Post) -> None:
    async with SpawnedProvider() as server:
        assert chat(server).status == 200


def test_what_cannot_be_spawned_says_so() -> None:
    with pytest.raises(ConfigError, match="reply: a function cannot be sent"):
        SpawnedProvider(reply=lambda body: "x")
    with pytest.raises(ConfigError, match="rpm=0"):
        SpawnedProvider(rpm=0)
    with pytest.raises(ConfigError, match="has not been started"):
        _ = SpawnedProvider().url
    with FakeProvider() as taken, pytest.raises(ConfigError, match="cannot be had"):
        SpawnedProvider(port=taken.port).start()


def test_the_child_ends_when_its_parent_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from bulkllm.testing import SpawnedProvider\n"
        "server = SpawnedProvider().start()\n"
        "print(server.pid, server.port, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = _python(code)
    assert parent.returncode == -signal.SIGKILL
    port = int(parent.stdout.split()[1])
    end = time.monotonic() + 5
    while not refuses(port):
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.01)


def test_importing_is_light() -> None:
    code = (
        "import sys; import bulkllm.testing; early = 'asyncio' in sys.modules\n"
        "from bulkllm.testing import *\n"
        "heavy = [x for x in ('litellm', 'aiohttp', 'pydantic', 'rich', 'bulkllm.limits') if x in sys.modules]\n"
        "print(early, heavy, FakeProvider.__name__, sorted(bulkllm.testing.__all__) == bulkllm.testing.__all__)"
    )
    done = _python(code)
    assert done.stdout.split() == ["False", "[]", "FakeProvider", "True"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    import bulkllm.testing

    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = bulkllm.testing.Nonsense
    assert "FakeProvider" in dir(bulkllm.testing)


async def test_many_connections_at_once() -> None:
    async def ask(port: int, number: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"model":"m","messages":[{"role":"user","content":"%d"}]}' % number
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
        return got

    async def many(latency: float) -> tuple[list[bytes], ProviderReport]:
        async with FakeProvider(latency=latency) as server:
            return await asyncio.gather(*(ask(server.port, number) for number in range(200))), server.report()

    answers, report = await many(0.2)
    if report.peak_in_flight < 200:  # the machine was too slow to have them all open by then
        answers, report = await many(5.0)
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
    assert (report.successes, report.peak_in_flight) == (200, 200)
