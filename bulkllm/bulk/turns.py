"""Rows given out in the order of the input, though they finish in any.

What may live here: whose turn it is. A row that waits for its turn keeps its place in its pool, so that no more rows
are finished ahead than may be in flight: memory stays bounded. Each pool starts its rows in the order of the input, so
the first row that is not over always is in flight or about to be, and nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable


class Turns:
    """Who may go, among rows of several pools.

    Args:
        ahead: for each pool, the position of the first of its rows that is not over; nothing for a pool without any.
    """

    def __init__(self, ahead: Callable[[], Iterable[int]]) -> None:
        self._ahead = ahead
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = 0

    async def wait(self, position: int) -> None:
        """Wait until every row before this one is over."""
        if self._may_go(position):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        heapq.heappush(self._waiting, (position, self._serial, turn))
        await turn

    def look(self) -> None:
        """Let those go whose turn it is; called whenever a row is over."""
        waiting = self._waiting
        while waiting and (waiting[0][2].done() or self._may_go(waiting[0][0])):
            turn = heapq.heappop(waiting)[2]
            if not turn.done():
                turn.set_result(None)

    def _may_go(self, position: int) -> bool:
        return all(first >= position for first in self._ahead())
