from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.testing.wire import HttpError, Request, RequestParser, chunk, response_head

PLAIN = b"POST /v1/x?api-version=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Two: 1\r\nx-two:  2 \r\n\r\nhello"
CHUNKED = (
    b"POST /v1/y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;ext=1\r\nhello\r\nA\r\n, wor\r\nld!\r\n0\r\nTrailer: 1\r\n\r\n"
)
BARE = b"GET http://127.0.0.1/v1/models HTTP/1.1\r\n\r\n"


def parsed(data: bytes, *, cuts: tuple[int, ...] = (), largest: int = 1000) -> list[Request]:
    parser = RequestParser(largest)
    requests = []
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        parser.feed(data[start:end])
        while (request := parser.next_request()) is not None:
            requests.append(request)
    return requests


@given(st.lists(st.integers(0, len(PLAIN + CHUNKED + BARE)), max_size=6).map(lambda cuts: tuple(sorted(cuts))))
def test_requests_are_the_same_however_the_bytes_are_sliced(cuts: tuple[int, ...]) -> None:
    plain, chunked, bare = parsed(PLAIN + CHUNKED + BARE, cuts=cuts)
    assert (plain.method, plain.path, plain.body) == ("POST", "/v1/x", b"hello")
    assert plain.headers == {"host": "a", "content-length": "5", "x-two": "1, 2"}
    assert (chunked.path, chunked.body) == ("/v1/y", b"hello, wor\r\nld!")
    assert (bare.method, bare.path, bare.body, bare.keep_alive) == ("GET", "/v1/models", b"", True)


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [("1.1", "keep-alive", True), ("1.1", "close", False), ("1.0", "x", False), ("1.0", "Keep-Alive", True)],
)
def test_a_connection_is_kept_as_the_client_wishes(version: str, connection: str, keeps: bool) -> None:
    (request,) = parsed(f"GET / HTTP/{version}\r\nConnection: {connection}\r\n\r\n".encode())
    assert request.keep_alive is keeps


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: 1\r\nspace : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, 400),
        (b"POST /big HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST /big HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n", 413),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000, 431),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        parsed(data)
    assert caught.value.status == status
    assert (caught.value.path == "/big") == (status == 413)


def test_a_client_that_waits_for_a_word_is_told_once() -> None:
    parser = RequestParser(1000)
    parser.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert parser.next_request() is None
    assert (parser.wants_continue(), parser.wants_continue()) == (True, False)
    parser.feed(b"ok")
    request = parser.next_request()
    assert request is not None
    assert request.body == b"ok"


def test_responses_are_framed() -> None:
    assert (
        response_head(200, [("a", "b")], 3, keep_alive=True) == b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 3\r\n\r\n"
    )
    head = response_head(529, [], None, keep_alive=False)
    assert head == b"HTTP/1.1 529 Overloaded\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
