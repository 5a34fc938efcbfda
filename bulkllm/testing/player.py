"""Sends an answer that takes time or goes wrong.

What may live here: pauses, pieces and cuts. Whoever plays is cancelled when the client leaves, so nothing here has to
look whether it is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from .answer import Answer
from .dialects import Event, error_body, family_of, sse
from .engine import Engine
from .wire import LAST_CHUNK, Request, chunk, response_head

# A stream without pauses is written in groups of so many events, so that a slow reader slows the writer.
_EVENTS_AT_ONCE = 256
_TRICKLE_PIECES = 20
_TRICKLE_DELAY = 0.05
# Below this a pause is not worth a turn of the event loop; the tokens are sent together.
_SHORTEST_PAUSE = 0.0005


class Link(Protocol):
    """What a player needs of a connection."""

    def write(self, data: bytes) -> None:
        """Send, or keep until it can be sent."""

    async def drain(self) -> None:
        """Wait until the client has caught up."""

    def reset(self) -> None:
        """Reset the connection: what was not sent yet is lost, and the client gets an error."""


async def play(link: Link, engine: Engine, request: Request, answer: Answer, pace: float) -> bool:
    """Send an answer.

    Args:
        link: where to.
        engine: is told what was sent.
        request: what is answered.
        answer: what to send.
        pace: seconds for each token of a stream.

    Returns:
        Whether the connection may be used again.
    """
    fault = answer.fault
    kind = None if fault is None else fault.kind
    if answer.wait:
        await asyncio.sleep(answer.wait)
    elif kind == "hang":
        await asyncio.Event().wait()
    if kind in ("reset", "close"):
        _over(engine, answer)
        if kind == "reset":
            link.reset()
        return False
    engine.answered(answer)
    if answer.reply is not None and answer.reply.events is not None:
        return await _Stream(link, engine, request, answer, pace).play(answer.reply.events)
    body = answer.body
    if kind == "truncate":
        body = body[: len(body) // 2]
    link.write(response_head(answer.status, answer.headers, len(body), keep_alive=request.keep_alive))
    if kind == "cut_body":
        body = body[: len(body) // 2]
    elif fault is not None and kind == "trickle":
        size = -(-len(body) // _TRICKLE_PIECES)
        while len(body) > size:
            await asyncio.sleep(fault.delay or _TRICKLE_DELAY)
            link.write(body[:size])
            body = body[size:]
        await asyncio.sleep(fault.delay or _TRICKLE_DELAY)
    if answer.ticket is not None and answer.reply is not None:
        engine.sent(answer.ticket, answer.reply.output_tokens)
    _over(engine, answer)
    link.write(body)
    await link.drain()
    return kind != "cut_body"


def _over(engine: Engine, answer: Answer) -> None:
    """The request has ended. This is told before the last bytes go out, so that who has read them finds it counted."""
    if answer.ticket is not None:
        engine.ended(answer.ticket, "failed" if answer.is_bad else "successes")


class _Stream:
    """A stream on its way."""

    def __init__(self, link: Link, engine: Engine, request: Request, answer: Answer, pace: float) -> None:
        self._link = link
        self._engine = engine
        self._request = request
        self._answer = answer
        self._pace = pace

    async def play(self, events: tuple[Event, ...]) -> bool:
        """Send it, as far as its fault lets it go."""
        link, answer, fault = self._link, self._answer, self._answer.fault
        link.write(response_head(answer.status, answer.headers, None, keep_alive=self._request.keep_alive))
        kind = None if fault is None else fault.kind
        if fault is not None and kind == "trickle":
            size = -(-len(events) // _TRICKLE_PIECES)
            for start in range(0, len(events), size):
                await asyncio.sleep(fault.delay or _TRICKLE_DELAY)
                await self._send(events[start : start + size])
        elif fault is not None and kind in ("cut_stream", "stream_error"):
            await self._send(_first_tokens(events, fault.after_chunks))
            if kind == "cut_stream":
                _over(self._engine, answer)
                return False
            family = family_of(self._request.path)
            error = error_body(family, fault.status, "Overloaded. (A fault of FakeProvider's.)").decode()
            link.write(chunk(sse(error, "error" if family == "anthropic" else None)))
        elif kind in ("truncate", "cut_body"):
            half = len(events) // 2
            await self._send(events[:half])
            torn = events[half].data
            _over(self._engine, answer)
            link.write(chunk(torn[: len(torn) // 2]))
            if kind == "cut_body":
                return False
        else:
            await self._send(events)
        _over(self._engine, answer)
        link.write(LAST_CHUNK)
        await link.drain()
        return True

    async def _send(self, events: Iterable[Event]) -> None:
        """Send events at the stream's pace, several at once where the pace is faster than pauses can be."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        waiting: list[bytes] = []
        tokens = 0
        for event in events:
            due += event.tokens * self._pace
            pause = due - loop.time()
            if (self._pace and event.tokens and pause > _SHORTEST_PAUSE) or len(waiting) >= _EVENTS_AT_ONCE:
                await self._flush(waiting, tokens)
                waiting, tokens = [], 0
                if pause > _SHORTEST_PAUSE:
                    await asyncio.sleep(pause)
            waiting.append(chunk(event.data))
            tokens += event.tokens
        await self._flush(waiting, tokens)

    async def _flush(self, chunks: list[bytes], tokens: int) -> None:
        await self._link.drain()
        if tokens and self._answer.ticket is not None:
            self._engine.sent(self._answer.ticket, tokens)
        self._link.write(b"".join(chunks))


def _first_tokens(events: tuple[Event, ...], tokens: int) -> list[Event]:
    """The events up to and with so many tokens."""
    taken: list[Event] = []
    for event in events:
        if event.tokens and tokens <= 0:
            break
        taken.append(event)
        tokens -= event.tokens
    return taken
