"""Sources that can be read once: iterables, and standard input.

What may live here: reading them without holding up the event loop, and closing them when they are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from ..errors import RequestFileError
from .rawrow import BOM, RawRow, raw_row


class SyncStream:
    """Any iterable. It is advanced on the event loop: one that blocks for long is better made an async iterator."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = rows

    async def rows(self) -> AsyncIterator[RawRow]:
        """All rows as they come."""
        rows = iter(self._rows)
        try:
            for number, row in enumerate(rows, 1):
                yield RawRow(0, number, row)
        finally:
            if hasattr(rows, "close"):
                rows.close()


class AsyncStream:
    """Any async iterable."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    async def rows(self) -> AsyncIterator[RawRow]:
        """All rows as they come."""
        rows = aiter(self._rows)
        number = 0
        try:
            async for row in rows:
                number += 1
                yield RawRow(0, number, row)
        finally:
            if hasattr(rows, "aclose"):
                await rows.aclose()


class StandardInput:
    """JSONL from standard input, which may be slow to come.

    Args:
        fd: another file descriptor to read instead.

    Raises:
        RequestFileError: standard input is closed.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = _standard_input() if fd is None else fd

    async def rows(self) -> AsyncIterator[RawRow]:
        """All rows as they come."""
        line = 0
        rest = b""
        while True:
            chunk = await self._read()
            *lines, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
            for text in lines:
                line += 1
                body = text.removeprefix(BOM) if line == 1 else text
                if body and not body.isspace():
                    yield raw_row(body, place=0, line=line, path=Path("-"))
            if not chunk:
                return

    async def _read(self) -> bytes:
        """What has come, or empty bytes at the end.

        Not with the loop's own threads: the end of the loop would wait for a read that nobody answers. Not through
        sys.stdin: its lock, held by a thread at the end of the process, is a fatal error.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Future[bytes] = loop.create_future()

        def tell(chunk: bytes, error: OSError | None) -> None:
            if came.cancelled():
                return
            if error is None:
                came.set_result(chunk)
            else:
                came.set_exception(error)

        def read() -> None:
            chunk, problem = b"", None
            try:
                chunk = os.read(self._fd, 1 << 16)
            except OSError as error:
                problem = error
            with contextlib.suppress(RuntimeError):  # the loop has gone in the meantime
                loop.call_soon_threadsafe(tell, chunk, problem)

        threading.Thread(target=read, name="bulkllm-stdin", daemon=True).start()
        return await came


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # none at all, one without a descriptor, one that was closed
        raise RequestFileError("standard input is closed; send the requests to it, or give a file", path="-") from None
