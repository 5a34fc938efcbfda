"""Keys of deployments and of fallbacks, which no row has, stay out of results too, even if a server says them back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bulkllm import Client, RetryPolicy
from bulkllm.bulk import run

KEY = "east0of0house0f00d"  # looks like no provider's key


class Echo(BaseHTTPRequestHandler):
    """Refuses every request, and says which key it came with."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        key = self.headers["authorization"].removeprefix("Bearer ")
        answer = json.dumps({"error": {"message": f"nobody here knows {key}, sorry", "code": "x"}}).encode()
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("way", ["deployment", "fallback"])
def test_a_key_that_a_server_says_back_is_not_kept(echo: str, out: Path, way: str) -> None:
    place = {"model": "openai/m", "api_base": echo, "api_key": KEY}
    more: dict[str, Any] = {"deployments": [place]} if way == "deployment" else {"fallbacks": [place]}
    client = Client(retry=RetryPolicy(max_attempts=1))
    result = run(
        [f"row {number}" for number in range(12)], model="openai/m", api_base=echo, api_key="sk-x", output=out,
        client=client, progress=False, max_in_flight=1, **more,
    )  # fmt: skip
    (row, *_) = result
    assert row.error is not None
    assert "nobody here knows [redacted], sorry" in row.error.message
    assert KEY not in out.read_text() + str(result.stopped)
