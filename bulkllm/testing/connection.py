"""One client's connection: takes requests off the wire, answers what is quick, and has the rest played.

What may live here: what needs a transport. What is to be sent is the engine's decision.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import TypeAlias, cast

from .answer import Answer
from .engine import Engine
from .player import play
from .wire import CONTINUE, LAST_CHUNK, HttpError, Request, RequestParser, chunk, response_head

Control: TypeAlias = Callable[[Request], Answer | None]

# Longer streams are written bit by bit, so that a slow reader slows the writer.
_EVENTS_AT_ONCE = 512
# A buffer of our own: a plain Protocol is handed 256 KiB that are allocated anew for each read, which outside the main
# thread costs as much as all the rest of a request.
_READ_AT_ONCE = 32_768
_RESET_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Connection(asyncio.BufferedProtocol):
    """A connection; requests on it are answered one after the other, in order.

    Args:
        engine: decides.
        control: answers what is asked about the server itself, and None for everything else.
        largest_body: the parser's bound.
        pace: seconds for each token of a stream.
        everyone: the server's connections; this one adds and removes itself.
    """

    def __init__(
        self, engine: Engine, control: Control, largest_body: int, pace: float, everyone: set[Connection]
    ) -> None:
        self._engine = engine
        self._control = control
        self._parser = RequestParser(largest_body)
        self._pace = pace
        self._everyone = everyone
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._incoming = bytearray(_READ_AT_ONCE)
        self._incoming_view = memoryview(self._incoming)
        self._writable = asyncio.Event()
        self._writable.set()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast("asyncio.Transport", transport)
        self._everyone.add(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client has left, or has been shown out; half a connection counts as left, too."""
        self._transport = None
        self._everyone.discard(self)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        """Where bytes may be put."""
        return self._incoming

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._parser.feed(self._incoming_view[:nbytes])
        if self._task is None:
            self._serve()

    # What the player calls.

    def write(self, data: bytes) -> None:
        """Send, or keep until it can be sent."""
        if data and self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has caught up."""
        await self._writable.wait()

    def reset(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    # What the server calls.

    def drop(self) -> None:
        """End at once, whatever is being waited for."""
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    def _serve(self) -> None:
        """Answer what is there, until an answer takes time or nothing is left."""
        out: list[bytes] = []
        goes_on = True
        while goes_on:
            try:
                request = self._parser.next_request()
            except HttpError as error:
                answer = self._engine.reject(error.path, error.status, str(error))
                request = Request("", error.path, {}, keep_alive=False)
            else:
                if request is None:
                    if self._parser.wants_continue():
                        out.append(CONTINUE)
                    break
                answer = self._control(request) or self._engine.respond(request)
            at_once = self._at_once(request, answer)
            if at_once is None:
                self.write(b"".join(out))
                self._task = asyncio.get_running_loop().create_task(self._play(request, answer))
                return
            out += at_once
            self._engine.sent_whole(answer)
            goes_on = request.keep_alive
        self.write(b"".join(out))
        if not goes_on and self._transport is not None:
            self._transport.close()

    def _at_once(self, request: Request, answer: Answer) -> tuple[bytes, ...] | None:
        """The whole answer as bytes, or None if it takes time or must be torn."""
        if answer.wait or (answer.fault is not None and answer.fault.kind not in ("status", "quota", "empty_choices")):
            return None
        events = None if answer.reply is None else answer.reply.events
        if events is None:
            length = len(answer.body)
            return response_head(answer.status, answer.headers, length, keep_alive=request.keep_alive), answer.body
        if self._pace or len(events) > _EVENTS_AT_ONCE:
            return None
        head = response_head(answer.status, answer.headers, None, keep_alive=request.keep_alive)
        return head, *[chunk(event.data) for event in events], LAST_CHUNK

    async def _play(self, request: Request, answer: Answer) -> None:
        """Have an answer played that takes time or goes wrong, then go on with what has come in the meantime."""
        goes_on = False
        try:
            goes_on = await play(self, self._engine, request, answer, self._pace)
        finally:
            if answer.ticket is not None:  # whoever played it to its end has said so already
                self._engine.ended(answer.ticket, "failed" if answer.is_bad else "abandoned")
            self._task = None
        if goes_on and request.keep_alive:
            self._serve()
        elif self._transport is not None:
            self._transport.close()
