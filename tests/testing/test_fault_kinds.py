"""Every kind of fault as a client meets it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from bulkllm.testing import FakeProvider, Fault

Post = Callable[..., Any]
BODY = {"model": "m", "max_tokens": 40, "messages": [{"role": "user", "content": "hi"}]}
DATA = json.dumps(BODY).encode()
AS_BYTES = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA


def failed(server: FakeProvider, kind: str) -> None:
    """One request, spoilt by that fault."""
    report = server.report()
    assert (report.requests, report.successes, report.failed, report.in_flight) == (1, 0, 1, 0)
    assert report.faults == {kind: 1}


@contextlib.contextmanager
def open_stream(server: FakeProvider, **fields: Any) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps({**BODY, "stream": True, **fields}))
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "invalid_request_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "invalid_request_error", "not_found_error"),
        (429, "rate_limit_exceeded", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (529, "server_error", "overloaded_error"),
    ],
)
def test_status(status: int, openai: str, anthropic: str, chat: Post, post: Post) -> None:
    with FakeProvider(faults=[Fault("status", status=status)]) as server:
        answer = chat(server)
        assert (answer.status, answer.json["error"]["type"]) == (status, openai)
        failed(server, "status")
        assert server.report().statuses == {status: 1}
        theirs = post(server, "/v1/messages", BODY)
        assert (theirs.status, theirs.json["error"]["type"]) == (status, anthropic)


@pytest.mark.parametrize(
    ("hint", "headers"),
    [
        (1, {"retry-after": "1"}),
        ("0.5", {"retry-after": "0.5"}),
        ("1500ms", {"retry-after-ms": "1500"}),
        (None, {}),
    ],
)
def test_status_with_each_form_of_retry_after(hint: Any, headers: dict[str, str], chat: Post) -> None:
    with FakeProvider(faults=[Fault("status", status=429, retry_after=hint)]) as server:
        told = chat(server).headers
    assert {name: value for name, value in told.items() if name.startswith("retry")} == headers


def test_status_with_a_date_in_retry_after(chat: Post) -> None:
    with FakeProvider(faults=[Fault("status", status=429, retry_after="date+5")]) as server:
        before = time.time()
        moment = parsedate_to_datetime(chat(server).headers["retry-after"]).timestamp()
        assert before + 4 < moment <= time.time() + 6


def test_status_with_a_gateways_page_and_after_a_while(chat: Post) -> None:
    page = "<html>Bad gateway</html>"
    with FakeProvider(faults=[Fault("status", status=502, body=page, delay=0.05)]) as server:
        began = time.monotonic()
        answer = chat(server)
        assert time.monotonic() - began >= 0.05
    assert (answer.status, answer.body.decode(), answer.headers["content-type"]) == (502, page, "text/html")


def test_quota(chat: Post, post: Post) -> None:
    with FakeProvider(faults=[Fault("quota")]) as server:
        answer = chat(server)
        assert answer.status == 429
        assert (answer.json["error"]["type"], answer.json["error"]["code"]) == ("insufficient_quota",) * 2
        failed(server, "quota")
        theirs = post(server, "/v1/messages", BODY)
        assert theirs.status == 400
        assert "credit balance is too low" in theirs.json["error"]["message"]


@pytest.mark.parametrize("fault", ["reset", "close"])
def test_reset_and_close(fault: Any) -> None:
    with (
        FakeProvider(faults=[Fault(fault)]) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer,
    ):
        peer.sendall(AS_BYTES)
        if fault == "reset":
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        else:
            assert peer.recv(1) == b""
        failed(server, fault)


def test_hang_lasts_until_the_client_leaves(chat: Post) -> None:
    with FakeProvider(faults=[Fault("hang")]) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as peer:
            peer.sendall(AS_BYTES)
            until(lambda: server.report().in_flight == 1)
            with pytest.raises(TimeoutError):
                peer.recv(1)
            assert server.report().in_flight == 1
        until(lambda: server.report().in_flight == 0)
        failed(server, "hang")


def test_hang_with_a_delay_is_answered_late(chat: Post) -> None:
    with FakeProvider(faults=[Fault("hang", delay=0.05)]) as server:
        began = time.monotonic()
        assert chat(server).status == 200
        assert time.monotonic() - began >= 0.05
        report = server.report()
    assert (report.successes, report.failed, report.faults) == (1, 0, {"hang": 1})


def test_truncate(chat: Post, post: Post) -> None:
    with FakeProvider(faults=[Fault("truncate")]) as server:
        answer = chat(server)
        assert (answer.status, int(answer.headers["content-length"])) == (200, len(answer.body))
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.body)
        failed(server, "truncate")
        streamed = chat(server, stream=True)
        assert b"[DONE]" not in streamed.body
        with pytest.raises(json.JSONDecodeError):
            streamed.events  # noqa: B018 - reading it is the test
        assert server.report().streams_cut == 1


def test_cut_body(chat: Post) -> None:
    with FakeProvider(faults=[Fault("cut_body")]) as server:
        with pytest.raises(http.client.IncompleteRead):
            chat(server)
        failed(server, "cut_body")
        with pytest.raises(http.client.IncompleteRead):
            chat(server, stream=True)
        assert server.report().streams_cut == 1


@pytest.mark.parametrize(
    ("path", "fields", "empty"),
    [
        ("/v1/chat/completions", {}, "choices"),
        ("/v1/completions", {"prompt": "x"}, "choices"),
        ("/v1/embeddings", {"input": "x"}, "data"),
        ("/v1/responses", {"input": "x"}, "output"),
        ("/v1/messages", {}, "content"),
    ],
)
def test_empty_choices(path: str, fields: dict[str, Any], empty: str, post: Post) -> None:
    with FakeProvider(faults=[Fault("empty_choices")]) as server:
        answer = post(server, path, {**BODY, **fields})
        assert (answer.status, answer.json[empty]) == (200, [])
        failed(server, "empty_choices")
        assert server.report().output_tokens == 0
        if empty != "data":
            events = post(server, path, {**BODY, **fields, "stream": True}).events
            assert not [event for event in events if event != "[DONE]" and (event.get("delta") or {}).get("text")]


def test_trickle(chat: Post) -> None:
    with FakeProvider(faults=[Fault("trickle", delay=0.005)]) as server:
        for fields in ({}, {"stream": True}):
            began = time.monotonic()
            answer = chat(server, **fields)
            assert time.monotonic() - began >= 0.05
            assert answer.status == 200
        report = server.report()
    assert (report.successes, report.failed, report.faults) == (2, 0, {"trickle": 2})


def test_cut_stream() -> None:
    with FakeProvider(faults=[Fault("cut_stream", after_chunks=3)]) as server:
        with open_stream(server) as response, pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        events = [json.loads(line[6:]) for line in caught.value.partial.decode().split("\n") if line]
        assert [len(event["choices"][0]["delta"]["content"]) for event in events] == [0, 4, 4, 4]
        failed(server, "cut_stream")
        report = server.report()
    assert (report.output_tokens, report.streams_cut) == (3, 1)


def test_stream_error(chat: Post, post: Post) -> None:
    with FakeProvider(faults=[Fault("stream_error", status=529, after_chunks=2)]) as server:
        events = chat(server, stream=True).events
        assert len(events) == 1 + 2 + 1
        assert "Overloaded" in events[-1]["error"]["message"]
        failed(server, "stream_error")
        theirs = post(server, "/v1/messages", {**BODY, "stream": True})
        assert theirs.events[-1]["error"]["type"] == "overloaded_error"
        assert b"event: error\n" in theirs.body
        assert post(server, "/v1/messages", BODY).status == 200


def test_a_client_that_leaves_in_the_middle_of_a_stream_is_counted_to_the_token() -> None:
    with FakeProvider(reply="1234" * 1000, time_per_token=0.02) as server:
        with open_stream(server, max_tokens=1000) as response:
            got = b""
            while got.count(b'"content":"1234"') < 5:
                got += response.read1(1000)
        until(lambda: server.report().in_flight == 0)
        report = server.report()
    assert (report.requests, report.abandoned, report.successes, report.streams_cut) == (1, 1, 0, 1)
    assert 5 <= report.output_tokens < 500
    assert report.input_tokens == 8


def test_a_client_that_leaves_before_a_slow_answer_is_counted() -> None:
    with FakeProvider(latency=5) as server:
        peer = socket.create_connection(("127.0.0.1", server.port))
        peer.sendall(AS_BYTES)
        until(lambda: server.report().in_flight == 1)
        peer.close()
        until(lambda: server.report().in_flight == 0)
        report = server.report()
    assert (report.abandoned, report.output_tokens, report.input_tokens, report.statuses) == (1, 0, 0, {})


def test_latency_and_pace_are_kept(chat: Post) -> None:
    with FakeProvider(latency=(0.03, 0.06), time_per_token=0.001, reply="1234" * 40) as server:
        began = time.monotonic()
        chat(server)
        middle = time.monotonic()
        chat(server, stream=True)
        end = time.monotonic()
    assert middle - began >= 0.03
    assert 0.03 + 0.04 <= end - middle < 8


def until(condition: Callable[[], bool]) -> None:
    """The server learns that a client has left when the network tells it, a moment later."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)
