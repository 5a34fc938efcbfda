"""Rows that share their luck: one model at one endpoint with one key.

What may live here: a pool's line of waiting rows and its circuit breaker. Pure.
"""

from __future__ import annotations

from asyncio import Task
from collections import deque
from typing import TypeAlias

from ..accounting import UsageRecord
from .verdict import Verdict
from .waiting import Met, PoolName, Waiting

REFUSALS = 10
"""So many rows in a row, refused for a reason that will meet every other row too, stop their pool."""

Line: TypeAlias = "Waiting | deque[Met]"


class Breaker:
    """Counts refusals that will meet everybody, and says when there are enough of them in a row.

    Attributes:
        stopped: why nobody is to be asked any more, and the cure, or None.
    """

    __slots__ = ("_refusals", "stopped")

    def __init__(self) -> None:
        self.stopped: str | None = None
        self._refusals = 0

    def answered(self) -> None:
        """There was an answer: key, model and money are good."""
        self._refusals = 0

    def failed(self, verdict: Verdict, who: str, problem: str) -> bool:
        """A row failed.

        Returns:
            Whether this was one too many.
        """
        if verdict.answered:
            self._refusals = 0
        if verdict.cure is None or self.stopped is not None:
            return False
        self._refusals += 1
        if self._refusals < REFUSALS:
            return False
        self.stopped = f"{who} was stopped: {self._refusals} rows in a row were refused ({problem}); {verdict.cure}"
        return True


class Pool:
    """One pool.

    Attributes:
        line: rows that wait.
        active: rows that are being asked.
        started: their tasks, in order, with their positions in the input.
        ok: rows of this run with an answer.
        failed_rows: rows of this run with an error.
        tokens: that they used.
        cost: US dollars that they cost, as far as known.
        model: the name that the limits know the model by, once a row has told it.
    """

    __slots__ = ("_breaker", "active", "cost", "failed_rows", "line", "model", "name", "ok", "started", "tokens")

    def __init__(self, name: PoolName, line: Line) -> None:
        self.name = name
        self.line = line
        self.active = 0
        self.started: dict[Task[None], int] = {}
        self._breaker = Breaker()
        self.ok = 0
        self.failed_rows = 0
        self.tokens = 0
        self.cost = 0.0
        self.model = None if name is None else name[0]

    def count(self, record: UsageRecord | None, *, ok: bool) -> None:
        """A row of this pool is finished."""
        if ok:
            self.ok += 1
        else:
            self.failed_rows += 1
        if record is not None:
            self.tokens += record.total_tokens
            self.cost += record.cost or 0.0
            if ok and record.requested_model in (self.name or ()):
                self.model = record.model

    @property
    def stopped(self) -> str | None:
        """Why no more rows are asked, and the cure, or None."""
        return self._breaker.stopped

    def __str__(self) -> str:
        if self.name is None:
            return "bad rows"
        model, endpoint, _ = self.name
        return model if endpoint is None else f"{model} at {endpoint}"

    def answered(self) -> None:
        """A row had an answer."""
        self._breaker.answered()

    def failed(self, verdict: Verdict, problem: str) -> bool:
        """A row failed; whether this has just stopped the pool."""
        return self._breaker.failed(verdict, str(self), problem)
