"""The server as a peer on the network: raw sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bulkllm.testing import FakeProvider, Fault

Post = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FakeProvider]:
    with FakeProvider(reply="12345678", largest_body=10_000) as running:
        yield running


def request(prompt: str = "hi", *, extra: str = "", **fields: Any) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def talk(server: FakeProvider, data: bytes, until: bytes | None = None) -> bytes:
    """Send, and read until the server closes, or until something has come."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        peer.sendall(data)
        got = b""
        while not (until is not None and until in got) and (more := peer.recv(65_536)):
            got += more
        return got


def test_pipelined_requests_are_answered_in_order_also_around_slow_ones() -> None:
    with FakeProvider(
        reply=lambda body: body["messages"][0]["content"].upper(),
        latency=lambda body: 0.05 if body["messages"][0]["content"] == "slow" else 0.0,
    ) as server:
        sent = (
            request("one")
            + request("slow")
            + request("two", stream=True)
            + request("three", extra="Connection: close\r\n")
        )
        got = talk(server, sent).decode()
    places = [got.index(word) for word in ("ONE", "SLOW", "TWO", "THREE")]
    assert places == sorted(places)
    assert got.count("HTTP/1.1 200 OK") == 4
    assert got.count("connection: close") == 1
    assert server.report().successes == 4


def test_a_body_may_come_late_and_in_chunks(server: FakeProvider) -> None:
    body = request().partition(b"\r\n\r\n")[2]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        peer.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert peer.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(b"%x\r\n%b\r\n" % (10, body[:10]))
        peer.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - 10, body[10:]))
        assert peer.recv(10_000).startswith(b"HTTP/1.1 200 OK")


def test_http_1_0_gets_its_answer_and_the_end(server: FakeProvider) -> None:
    got = talk(server, request().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b"connection: close" in got
    assert got.endswith(b"}}}")


def test_bad_http_is_answered_in_the_providers_shape_and_ends_the_connection(server: FakeProvider) -> None:
    got = talk(server, b"NONSENSE\r\n\r\n" + request())
    assert got.startswith(b"HTTP/1.1 400 Bad Request")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    large = talk(server, b"POST /v1/messages HTTP/1.1\r\nContent-Length: 20000\r\n\r\n")
    assert large.startswith(b"HTTP/1.1 413 ")
    assert json.loads(large.partition(b"\r\n\r\n")[2])["error"]["type"] == "request_too_large"
    report = server.report()
    assert (report.requests, report.rejected, report.statuses) == (2, 2, {400: 1, 413: 1})


@pytest.mark.parametrize(
    ("path", "method", "body", "status", "words"),
    [
        ("/chat/completions", "POST", {}, 404, "openai_base"),
        ("/v1/unknown", "POST", {}, 404, "/v1/unknown"),
        ("/openai/deployments/d/messages", "POST", {}, 404, "Unknown path"),
        ("/v1/chat/completions", "GET", None, 405, "POST"),
        ("/v1/models", "DELETE", None, 405, "GET"),
        ("/v1/chat/completions", "POST", b"{", 400, "could not parse the JSON"),
        ("/v1/chat/completions", "POST", b"[" * 100_000, 413, "larger than"),
        ("/v1/chat/completions", "POST", b"[" * 9_000, 400, "could not parse the JSON"),
        ("/v1/chat/completions", "POST", b"\xff\xfe", 400, "could not parse the JSON"),
        ("/v1/chat/completions", "POST", [1], 400, "must be an object"),
        ("/v1/chat/completions", "POST", {"messages": []}, 400, "model"),
        ("/v1/chat/completions", "POST", {"model": "m"}, 400, "messages"),
        ("/v1/chat/completions", "POST", {"model": "m", "messages": ["x"]}, 400, "'role'"),
        ("/v1/chat/completions", "POST", {"model": "m", "messages": [{"role": "user"}], "n": 0}, 400, "'n'"),
        (
            "/v1/chat/completions",
            "POST",
            {"model": "m", "messages": [{"role": "user"}], "max_tokens": 1.5},
            400,
            "max_tok",
        ),
        ("/v1/completions", "POST", {"model": "m"}, 400, "'prompt'"),
        ("/v1/embeddings", "POST", {"model": "m", "input": ""}, 400, "'input'"),
        ("/v1/embeddings", "POST", {"model": "m", "input": "a", "encoding_format": "x"}, 400, "'encoding_format'"),
        ("/v1/responses", "POST", {"model": "m"}, 400, "'input'"),
        ("/v1/messages", "POST", {"model": "m", "messages": []}, 400, "max_tokens: Field required"),
        ("/v1/messages", "POST", {"model": "m", "max_tokens": 1, "messages": []}, 400, "at least one message"),
        ("/v1/messages", "POST", {"model": "m", "max_tokens": 1, "messages": [{"role": "x"}]}, 400, "messages.0.role"),
    ],
)
def test_requests_that_make_no_sense_are_told_why(
    server: FakeProvider, post: Post, path: str, method: str, body: Any, status: int, words: str
) -> None:
    answer = post(server, path, body, method=method)
    assert answer.status == status
    error = answer.json["error"]
    assert words in error["message"]
    if path == "/v1/messages":
        assert (answer.json["type"], error["type"]) == ("error", "invalid_request_error")
    assert server.report().rejected == server.report().requests == 1


def test_json_of_any_depth_gets_an_answer(server: FakeProvider, post: Post) -> None:
    statuses = set()
    for depth in (10, 400, 900, 940, 960, 970, 980, 990, 1000, 3000):
        content = b"[" * depth + b"]" * depth
        answer = post(server, "/v1/chat/completions", b'{"model":"m","messages":[{"role":"u","content":%b}]}' % content)
        assert answer.status == 200 or "JSON body" in answer.json["error"]["message"]
        statuses.add(answer.status)
    assert 200 in statuses


def test_anthropic_wants_its_version_header(server: FakeProvider, post: Post) -> None:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    assert post(server, "/v1/messages", body).status == 200
    data = json.dumps(body).encode()
    head = b"POST /v1/messages HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data)
    assert b"anthropic-version: header is required" in talk(server, head + data)


def test_a_thousand_keep_alive_requests_on_one_connection(server: FakeProvider) -> None:
    got = talk(server, request("again") * 999 + request("last", extra="Connection: close\r\n"))
    assert got.count(b"HTTP/1.1 200 OK") == 1000
    report = server.report()
    assert (report.requests, report.successes, report.repeated_prompts) == (1000, 1000, 998)


def test_a_slow_reader_slows_the_writer_and_loses_nothing() -> None:
    text = "word" * 50_000
    with FakeProvider(reply=text) as server, socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", server.port))
        peer.sendall(request(stream=True, extra="Connection: close\r\n"))
        sent = -1
        while sent != (sent := server.report().output_tokens) or sent == 0:
            time.sleep(0.02)
        # What the system buffers for a reader who does not read is megabytes, but not all of this.
        assert sent < 50_000
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        got = bytearray()
        while more := peer.recv(1 << 20):
            got += more
        report = server.report()
    assert got.count(b'"content":"word"') == 50_000
    assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert (report.successes, report.output_tokens) == (1, 50_000)


def test_two_clients_do_not_wait_for_each_other() -> None:
    with (
        FakeProvider(faults=[Fault("hang", match="hang")]) as server,
        socket.create_connection(("127.0.0.1", server.port)) as hanging,
    ):
        hanging.sendall(request("hang"))
        began = time.monotonic()
        assert b"200 OK" in talk(server, request("quick", extra="Connection: close\r\n"))
        assert time.monotonic() - began < 9
