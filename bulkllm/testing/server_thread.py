"""A listening socket with an event loop of its own in a thread of its own.

What may live here: starting and ending it. The thread is the server's own so that a test may block, stop or close its
own event loop without the server noticing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

from ..errors import ConfigError
from .connection import Connection

HOST = "127.0.0.1"
_BACKLOG = 4096


class ServerThread:
    """Serves connections until it is stopped.

    Args:
        port: to listen at; 0 picks a free one.
        connect: makes the protocol of a new connection, which adds itself to the set that is given.

    Raises:
        ConfigError: the port cannot be had.
    """

    def __init__(self, port: int, connect: Callable[[set[Connection]], Connection]) -> None:
        self._connect = connect
        self._connections: set[Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        started: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(port, started), name="bulkllm-fake-provider", daemon=True
        )
        self._thread.start()
        try:
            self.port = started.result()
        except OSError as error:
            self._thread.join()
            raise ConfigError(
                f"port {port} on {HOST} cannot be had ({error.strerror}); port=0 picks a free one"
            ) from error

    def stop(self) -> None:
        """End all connections and the thread, and wait for it; a second time does nothing."""
        loop, stop = self._loop, self._stop
        if self._thread.is_alive() and loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have been closed in the meantime
                loop.call_soon_threadsafe(stop.set)
        self._thread.join()

    def _run(self, port: int, started: Future[int]) -> None:
        try:
            asyncio.run(self._serve(port, started))
        except OSError as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, port: int, started: Future[int]) -> None:
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop = loop
        server = await loop.create_server(lambda: self._connect(self._connections), HOST, port, backlog=_BACKLOG)
        started.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        # No more clients; but the server is closed last, for asyncio loses the socket of a client whom it has accepted
        # and not yet given a transport if the server is closed in between.
        with contextlib.suppress(NotImplementedError):  # Windows' loop has no readers; there clients may still come
            loop.remove_reader(server.sockets[0].fileno())
        while self._connections or asyncio.all_tasks() - {asyncio.current_task()}:
            for connection in list(self._connections):
                connection.drop()
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
