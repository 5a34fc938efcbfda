"""HTTP/1.1 as bytes: requests out of what a socket brings, responses into what it takes.

What may live here: parsing and framing, with no socket in sight. Only what an HTTP client of an LLM provider sends is
understood: bodies with a length or in chunks, keep-alive, pipelining, ``Expect: 100-continue``.
"""

from __future__ import annotations

import dataclasses
import re
from http import HTTPStatus

_LARGEST_HEAD = 65_536
_LONGEST_CHUNK_LINE = 1024
_HEADER_LINE = re.compile(r"(?m)^([!#-'*+\-.^_`|~0-9A-Za-z]+):([^\r\n]*)\r\n")
_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


class HttpError(Exception):
    """Bytes that are no request; the connection cannot go on after them.

    Attributes:
        status: the HTTP status to answer with.
        path: the path of the request, as far as it was understood.
    """

    def __init__(self, status: int, message: str, path: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.path = path


@dataclasses.dataclass(slots=True)
class Request:
    """A request, whole.

    Attributes:
        method: in capitals, as it came.
        path: without the query.
        headers: by lower-case name; of repeated ones the values joined by commas.
        keep_alive: whether it wants to use the connection again.
        body: the decoded body.
    """

    method: str
    path: str
    headers: dict[str, str]
    keep_alive: bool
    body: bytes = b""


class RequestParser:
    """Turns bytes, in any slices, into requests.

    Args:
        largest_body: a larger body is an error 413.
    """

    def __init__(self, largest_body: int) -> None:
        self._largest = largest_body
        self._buffer = bytearray()
        self._head: Request | None = None
        self._length = 0
        self._chunks: bytearray | None = None
        self._in_trailer = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take in what came."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """The next request that is whole, or None while there is none.

        Raises:
            HttpError: what came is no request, or a body is too large.
        """
        if self._head is None and not self._read_head():
            return None
        head = self._head
        if head is None or not (self._read_chunks(head) if self._chunks is not None else self._read_body(head)):
            return None
        self._head = None
        return head

    def wants_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body; True once for each request."""
        if self._head is not None and self._head.headers.get("expect", "").lower() == "100-continue":
            self._head.headers["expect"] = ""
            return True
        return False

    def _read_head(self) -> bool:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # allowed between requests
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > _LARGEST_HEAD:
            if len(buffer) > _LARGEST_HEAD:
                raise HttpError(431, "the request's head is too large")
            return False
        first, _, rest = buffer[: end + 2].decode("latin-1").partition("\r\n")
        del buffer[: end + 4]
        try:
            method, target, version = first.split(" ")
        except ValueError:
            raise HttpError(400, "the request line is malformed") from None
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise HttpError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if "://" in target:
            target = "/" + target.partition("://")[2].partition("/")[2]
        path = target.partition("?")[0]
        pairs: list[tuple[str, str]] = _HEADER_LINE.findall(rest)
        if len(pairs) != rest.count("\n"):
            raise HttpError(400, "a header line is malformed", path)
        headers = {name.lower(): value.strip() for name, value in pairs}
        if len(headers) < len(pairs):
            headers = {}
            for name, value in pairs:
                known = headers.get(name.lower())
                headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
        connection = headers.get("connection", "").lower()
        modern = version == "HTTP/1.1"
        keep_alive = "close" not in connection if modern else "keep-alive" in connection
        self._head = Request(method, path, headers, keep_alive)
        self._frame(headers, path)
        return True

    def _frame(self, headers: dict[str, str], path: str) -> None:
        """Find out how the body is framed."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        self._chunks, self._in_trailer, self._length = None, False, 0
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise HttpError(400, "the body's framing is unclear", path)
            self._chunks = bytearray()
        elif length is not None:
            if not (length.isascii() and length.isdecimal()):
                raise HttpError(400, "Content-Length is no number", path)
            self._length = int(length)
            self._check_size(self._length, path)

    def _read_body(self, head: Request) -> bool:
        if len(self._buffer) < self._length:
            return False
        if self._length:
            head.body = bytes(self._buffer[: self._length])
            del self._buffer[: self._length]
        return True

    def _read_chunks(self, head: Request) -> bool:
        buffer, chunks = self._buffer, self._chunks
        if chunks is None:
            return False
        while (end := buffer.find(b"\r\n")) >= 0:
            if self._in_trailer:
                del buffer[: end + 2]
                if end == 0:
                    head.body = bytes(chunks)
                    self._chunks = None
                    return True
                continue
            size_text = bytes(buffer[:end]).partition(b";")[0].strip()
            if not size_text or size_text.strip(b"0123456789abcdefABCDEF"):
                raise HttpError(400, "a chunk's size is malformed", head.path)
            size = int(size_text, 16)
            self._check_size(len(chunks) + size, head.path)
            if size and len(buffer) < end + 2 + size + 2:
                return False
            if size and buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise HttpError(400, "a chunk does not end where it should", head.path)
            chunks += buffer[end + 2 : end + 2 + size]
            del buffer[: end + 2 + (size + 2 if size else 0)]
            self._in_trailer = size == 0
        if len(buffer) > _LONGEST_CHUNK_LINE:
            raise HttpError(400, "a chunk's size is malformed", head.path)
        return False

    def _check_size(self, size: int, path: str) -> None:
        if size > self._largest:
            raise HttpError(413, f"the request's body is larger than {self._largest:,} bytes", path)


def response_head(status: int, headers: list[tuple[str, str]], length: int | None, *, keep_alive: bool) -> bytes:
    """A response's head. With a length of None the body comes in chunks."""
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}",
        *(f"{name}: {value}" for name, value in headers),
        framing if keep_alive else f"{framing}\r\nconnection: close",
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """A piece of a body that comes in chunks."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
