"""A loopback server that answers as it is told, and registries that see no files but the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest

from bulkllm import _litellm
from bulkllm.models import Registry

TODAY = date(2026, 11, 23)


class Seen(NamedTuple):
    """A request as it arrived."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: Any


Answerer = Callable[[Seen], tuple[int, Any, dict[str, str]]]
"""Makes status, body (bytes go out as they are, all else as JSON) and headers of a request."""


class Server:
    """A server on the loopback interface; ``seen`` is what it was asked, in order."""

    def __init__(self, answer: Answerer) -> None:
        self.seen: list[Seen] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
                """Say nothing."""

            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                text = self.rfile.read(length)
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Seen(parts.path, dict(parse_qsl(parts.query)), headers, json.loads(text) if text else None)
                server.seen.append(asked)
                status, body, more = answer(asked)
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **more}.items():
                    self.send_header(name, value)
                if status != 304:
                    self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                if status != 304:
                    self.wfile.write(raw)

            do_GET = do_POST = _answer  # noqa: N815 - the base class's names for them

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Answerer], Server]]:
    """Starts servers that end with the test."""
    servers: list[Server] = []

    def start(answer: Answerer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def make_registry(tmp_path: Path) -> Callable[..., Registry]:
    """Makes registries over the installed LiteLLM, on a fixed day; the user's file is given as text."""

    def make(user: str | None = None, **more: Any) -> Registry:
        if user is not None:
            (tmp_path / "models.toml").write_text(user, encoding="utf-8")
        return Registry(**{"config_dir": tmp_path, "cache_dir": tmp_path / "cache", "today": lambda: TODAY, **more})

    return make


@pytest.fixture
def recent_litellm() -> None:
    """For tests of the packaged presets and aliases, whose models an older LiteLLM does not know."""
    if tuple(map(int, _litellm.version().split(".")[:2])) < (1, 105):
        pytest.skip("the packaged presets are held against LiteLLM 1.105 and later")


@pytest.fixture
def registry(make_registry: Callable[..., Registry]) -> Registry:
    """The registry of a user who has no files."""
    return make_registry()
