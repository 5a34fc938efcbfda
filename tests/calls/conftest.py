"""A server that answers what a test tells it to, byte for byte, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bulkllm import Client
from bulkllm.testing import FakeProvider

# LiteLLM's types warn about themselves when the first of them is made, its sessions and its bookkeeping when their
# event loop is gone; none of it is ours to mend.
NOT_OURS = (
    "ignore:.*`ReadOnly` qualifier:UserWarning",
    "ignore:Unclosed (connector|client session):ResourceWarning",
    r"ignore:coroutine '(?!Client|CallStream)\w+\.\w+' was never awaited:RuntimeWarning",
)
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            for warning in NOT_OURS:
                item.add_marker(pytest.mark.filterwarnings(warning))


class Exchange:
    """One request, and what can be answered to it."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        self._handler = handler
        self.path = handler.path
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.body = body
        self.gone = False
        self.moment = 0.0

    def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.begin(status, {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})})
        self.write(data)

    def events(self, *events: Any) -> None:
        """Server-sent events; None ends them."""
        self.begin(200, {"content-type": "text/event-stream", "connection": "close"})
        for event in events:
            self.event(event)

    def event(self, event: Any) -> None:
        """One more event."""
        data = event if isinstance(event, str) else json.dumps(event)
        self.write(f"data: {data}\n\n".encode())

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of an answer."""
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def write(self, data: bytes) -> None:
        """Some of the body, if the client is still there."""
        try:
            self._handler.wfile.write(data)
            self._handler.wfile.flush()
        except OSError:
            self.gone = True

    def trickle(self, data: bytes, *, seconds: float = 20.0, pause: float = 0.01) -> None:
        """The same bytes again and again, until the client leaves or the time is over."""
        end = time.monotonic() + seconds
        while not self.gone and time.monotonic() < end:
            self.write(data)
            time.sleep(pause)

    def silence(self, *, seconds: float = 20.0, pause: float = 0.01) -> None:
        """Nothing at all, until the client leaves or the time is over."""
        end = time.monotonic() + seconds
        while not self.gone and time.monotonic() < end:
            if select.select([self._handler.connection], [], [], pause)[0]:  # a client asks but once: this is its end
                self.gone = True


Script = Callable[[Exchange], None]


class CannedServer(ThreadingHTTPServer):
    """A loopback server with one script for all requests."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: Script = lambda exchange: exchange.answer(500, {"error": {"message": "no script"}})
        self.seen: list[Exchange] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves half way is what many a test is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CannedServer

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        exchange = Exchange(self, body)
        self.server.seen.append(exchange)
        self.server.script(exchange)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Into nobody's standard error."""


@pytest.fixture
def canned() -> Iterator[CannedServer]:
    server = CannedServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture(scope="session")
def warm() -> None:
    """LiteLLM's first calls, which take it seconds, are over: for tests that look at the clock."""
    messages = [{"role": "user", "content": "hi"}]
    client = Client()

    def warm_up(model: str, base: str) -> None:
        options: dict[str, Any] = {"api_base": base, "api_key": "k"}
        client.completion(model, messages, **options)
        list(client.completion(model, messages, stream=True, **options))
        asyncio.run(client.acompletion(model, messages, **options))

    with FakeProvider(reply_tokens=(1, 1)) as server, ThreadPoolExecutor(1) as thread:
        for model in ("openai/m", "anthropic/m", "deepseek/m"):
            base = server.url if model.startswith("anthropic") else server.openai_base
            thread.submit(warm_up, model, base).result()
