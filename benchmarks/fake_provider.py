"""How many requests a second the fake provider serves, and what one costs it.

The server runs in a process of its own with limits on and headers sent; this process is a client of bare sockets, with
keep-alive, once with one request at a time on each connection and once with several (pipelined). ``CPU/request`` is
the server process's own time, so it is true also where the client is the slower of the two.

    python benchmarks/fake_provider.py [--seconds 2] [--connections 32]
"""

from __future__ import annotations

import argparse
import json
import resource
import selectors
import socket
import time

from bulkllm.testing import SpawnedProvider

_NO_LIMIT = 10**12
_PROMPT = "Summarise the following in three sentences. " + "The quick brown fox jumps over the lazy dog. " * 12


def request_bytes(port: int, *, stream: bool) -> bytes:
    body = json.dumps(
        {"model": "fake-model", "messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 200, "stream": stream}
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\n"
        "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n"
        "User-Agent: AsyncOpenAI/Python 2.0\r\nAuthorization: Bearer sk-fake\r\nX-Stainless-Async: async:asyncio\r\n"
        f"X-Stainless-Lang: python\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def drive(port: int, seconds: float, connections: int, depth: int, *, stream: bool) -> tuple[int, float]:
    """Keep ``depth`` requests on the way on each connection; tells how many were answered, in how long."""
    request = request_bytes(port, stream=stream)
    end_mark = b"\r\n0\r\n\r\n" if stream else b"HTTP/1.1 200 OK\r\n"
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(peer, selectors.EVENT_READ, bytearray())
        peer.sendall(request * depth)
    answered = 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        for key, _ in selector.select(1):
            kept, source = key.data, key.fileobj
            assert isinstance(source, socket.socket)
            kept += source.recv(262_144)
            whole = 0
            while (length := _whole_response(kept, end_mark, stream=stream)) > 0:
                del kept[:length]
                whole += 1
            if whole:
                answered += whole
                source.sendall(request * whole)
    for registered in list(selector.get_map().values()):
        assert isinstance(registered.fileobj, socket.socket)
        registered.fileobj.close()
    selector.close()
    return answered, now - began


def _whole_response(kept: bytearray, end_mark: bytes, *, stream: bool) -> int:
    """The length of the first response if it is whole, else 0."""
    if not kept:
        return 0
    if stream:
        end = kept.find(end_mark)
        return end + len(end_mark) if end >= 0 else 0
    head_end = kept.find(b"\r\n\r\n")
    if head_end < 0:
        return 0
    assert kept.startswith(end_mark), bytes(kept[:100])
    mark = kept.find(b"content-length: ") + 16
    length = head_end + 4 + int(kept[mark : kept.index(b"\r\n", mark)])
    return length if len(kept) >= length else 0


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(seconds: float, connections: int, depth: int, *, stream: bool) -> tuple[float, float]:
    before = children_seconds()
    with SpawnedProvider(rpm=_NO_LIMIT, tpm=_NO_LIMIT) as server:
        answered, took = drive(server.port, seconds, connections, depth, stream=stream)
        seen = server.report()
    assert seen.refused == 0
    assert seen.successes >= answered
    idle = children_seconds()
    with SpawnedProvider(rpm=_NO_LIMIT):
        pass
    start_up = children_seconds() - idle
    return answered / took, (idle - before - start_up) / seen.successes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line (default 2)")
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    print(f"{'':34}requests/s   CPU/request   requests per CPU second")
    kinds = (("keep-alive", 1, False), ("pipelined by 8", 8, False), ("stream, keep-alive", 1, True))
    for name, depth, stream in kinds:
        rate, cost = measure(options.seconds, options.connections, depth, stream=stream)
        print(f"{name + f', {options.connections} connections':34}{rate:10,.0f}{cost * 1e6:11.1f} µs{1 / cost:20,.0f}")


if __name__ == "__main__":
    main()
