"""Rows that a budget has no room for: they are left undone, and after how many of them nobody else is tried.

What may live here: counting them. Pure.
"""

from __future__ import annotations

from typing import Final

from .verdict import ASK_AGAIN

IN_A_ROW: Final = 100
"""So many rows of a pool without an answer in between were too large: the next ones will be too."""


class LeftOut:
    """Rows that may take more than is left of a budget.

    What is spent never becomes less, so that such a row will not fit later in this run either. A smaller one may.

    Attributes:
        rows: how many there were.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._problem = ""
        self._in_a_row: dict[object, int] = {}

    def add(self, pool: object, problem: str) -> bool:
        """A row of a pool was too large; whether there were so many that the pool is to be given up."""
        self.rows += 1
        self._problem = problem.partition(";")[0]
        self._in_a_row[pool] = count = self._in_a_row.get(pool, 0) + 1
        return count >= IN_A_ROW

    def answered(self, pool: object) -> None:
        """A row of a pool was small enough."""
        self._in_a_row.pop(pool, None)

    @property
    def reason(self) -> str | None:
        """Why rows were left undone, and what to do; None if none was."""
        if not self.rows:
            return None
        what = "1 row was" if self.rows == 1 else f"{self.rows:,} rows were"
        return f"{what} left undone, too large for what is left: {self._problem}; raise the budget, {ASK_AGAIN}"
