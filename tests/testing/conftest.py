"""What the tests of the fake provider share: a plain HTTP client, and LiteLLM."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import pytest

from bulkllm import _litellm


class HasPort(Protocol):
    @property
    def port(self) -> int: ...


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events; ``[DONE]`` stays a text."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


Post = Callable[..., Answer]


def _send(server: HasPort, path: str, body: Any = None, *, method: str = "POST", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if path.startswith("/v1/messages"):
            sent.setdefault("anthropic-version", "2023-06-01")
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture
def post() -> Post:
    """Send a request on a connection of its own."""
    return _send


@pytest.fixture
def chat() -> Post:
    """Ask for a chat completion: ``chat(server, "prompt", **fields of the body)``."""

    def ask(server: HasPort, prompt: str = "hello", *, key: str | None = None, **fields: Any) -> Answer:
        body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return _send(server, "/v1/chat/completions", body, **headers)

    return ask


@pytest.fixture(scope="session")
def litellm() -> Any:
    return _litellm.load()
