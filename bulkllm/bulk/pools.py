"""Rows that share their luck: one model at one endpoint with one key.

What may live here: a pool's line of waiting rows and its circuit breaker. Pure.
"""

from __future__ import annotations

import contextlib
import re
from asyncio import Task
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from ..accounting import UsageRecord
from .asking import attach_all
from .verdict import Verdict
from .waiting import Met, PoolName, Waiting

REFUSALS = 10
"""So many rows in a row, refused for a reason that will meet every other row too, stop their pool."""

ALIKE: Final = 100
"""So many rows that follow each other, refused in the same words for whatever reason, stop their pool."""

_REMEMBERED: Final = 4096  # refusals whose place in the order of the rows is known
_OPEN: Final = "bulkllm_may_pass"  # where an error says that another place may still answer its row
_OWN_WORDS: Final = re.compile(r"\S*\d\S*")  # words of an error that may speak of one row: its numbers and names


class Refusal(NamedTuple):
    """That a row failed at one of several places, and what that says of the place."""

    breaker: Breaker
    verdict: Verdict
    error: Exception

    @property
    def is_the_rows(self) -> bool:
        """Whether the place is sound, so that other rows may be asked there."""
        verdict = self.verdict
        return self.breaker.stopped is None and not verdict.ends_pool and verdict.cure is None


def last_word(refusals: list[Refusal], records: Sequence[UsageRecord | None], *, untried: bool) -> Exception:
    """What a row fails with that was refused at several places, with the record of all that it was asked.

    It is what a sound place said last, if there is one: an empty account or a refused key speaks for all other rows
    too, and they may still be asked at that place. Otherwise what was said last. It is to be raised outside of the
    handlers, or it would get another context than it came with. Takes the refusals away, so that no frame keeps them.

    Args:
        refusals: what each place said, in order; at least one.
        records: of all that the row was asked.
        untried: there is a place that was not asked, since it refuses everybody for now.
    """
    word = next((one.error for one in reversed(refusals) if one.is_the_rows), refusals[-1].error)
    attach_all(word, records)
    leave_open(word, refusals, untried=untried)
    refusals.clear()
    return word


def leave_open(error: Exception, refusals: Sequence[Refusal], *, untried: bool) -> None:
    """Leave word for `may_pass`, where an error that may be final is not all that became of its row."""
    if untried or any(one.verdict.passing or may_pass(one.error) for one in refusals):
        with contextlib.suppress(AttributeError):  # an exception with slots: then it counts as what it is itself
            setattr(error, _OPEN, True)


def may_pass(error: BaseException) -> bool:
    """Whether a place that did not have this error's row in the end may have it later, whatever the error itself is."""
    return getattr(error, _OPEN, False) is True


Line: TypeAlias = "Waiting | deque[Met]"


class Streak:
    """Rows that follow each other in the order in which they were begun, and were refused in the same words.

    Not in the order in which they end: a refusal comes sooner than an answer, so that of many rows in flight the
    refused ones always end first, whatever becomes of the others. A row that is still being asked, or had an answer,
    keeps what stands before it apart from what comes after.
    """

    __slots__ = ("_lengths", "_words")

    def __init__(self) -> None:
        self._words = ""
        self._lengths: dict[int, int] = {}  # right at the two ends of each stretch

    def add(self, number: int, problem: str) -> int:
        """A row was refused; how many it now stands among."""
        words = _OWN_WORDS.sub("", problem)
        lengths = self._lengths
        if words != self._words:
            self._words = words
            lengths.clear()
        elif len(lengths) >= _REMEMBERED:
            for old in sorted(lengths)[: _REMEMBERED // 2]:
                del lengths[old]
        before, after = lengths.get(number - 1, 0), lengths.get(number + 1, 0)
        length = before + 1 + after
        lengths[number] = lengths[number - before] = lengths[number + after] = length
        return length


class Breaker:
    """Counts refusals that will meet everybody, and says when there are enough of them in a row.

    Attributes:
        stopped: why nobody is to be asked any more, and the cure, or None.
    """

    __slots__ = ("_refusals", "_streak", "stopped")

    def __init__(self) -> None:
        self.stopped: str | None = None
        self._refusals = 0
        self._streak = Streak()

    def answered(self, record: UsageRecord | None = None) -> None:
        """There was an answer: key, model and money are good, unless it was known already and nobody was asked."""
        if record is None or not record.cached:
            self._refusals = 0

    def failed(self, verdict: Verdict, who: str, problem: str, number: int | None = None) -> bool:
        """A row failed.

        Args:
            verdict: what that means.
            who: what is to be stopped, for the reason that is given then.
            problem: the error's text.
            number: where the row stands in the order in which rows were begun; without it no suspicion is followed.

        Returns:
            Whether this was one too many.
        """
        if verdict.answered:
            self._refusals = 0
        if self.stopped is not None:
            return False
        if verdict.ends_pool:
            self.stopped = f"{who} was stopped: {verdict.problem or problem}; {verdict.cure}"
            return True
        if verdict.cure is not None:
            self._refusals += 1
            count, enough, alike, cure = self._refusals, REFUSALS, "", verdict.cure
        elif verdict.suspicion is not None and number is not None:
            count, enough, alike = self._streak.add(number, problem), ALIKE, " in the same words"
            cure = verdict.suspicion
        else:
            return False
        if count < enough:
            return False
        self.stopped = f"{who} was stopped: {count} rows in a row were refused{alike} ({problem}); {cure}"
        return True


class Pool:
    """One pool.

    Attributes:
        line: rows that wait.
        active: rows that are being asked.
        started: their tasks, in order, with their positions in the input.
        begun: how many rows have been begun, all in all.
        ok: rows of this run with an answer.
        failed_rows: rows of this run with an error.
        tokens: that they used.
        cost: US dollars that they cost, as far as known.
        model: the name that the limits know the model by, once a row has told it.
    """

    __slots__ = (
        "_breaker", "active", "begun", "cost", "failed_rows", "line", "model", "name", "ok", "started", "tokens",
    )  # fmt: skip

    def __init__(self, name: PoolName, line: Line) -> None:
        self.name = name
        self.line = line
        self.active = 0
        self.started: dict[Task[None], int] = {}
        self.begun = 0
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
            self.spend(record)
            if ok and record.requested_model in (self.name or ()):
                self.model = record.model

    def spend(self, record: UsageRecord) -> None:
        """A row has used something."""
        self.tokens += record.total_tokens
        self.cost += record.cost or 0.0

    @property
    def stopped(self) -> str | None:
        """Why no more rows are asked, and the cure, or None."""
        return self._breaker.stopped

    def __str__(self) -> str:
        if self.name is None:
            return "bad rows"
        model, endpoint, _ = self.name
        return model if endpoint is None else f"{model} at {endpoint}"

    def answered(self, record: UsageRecord | None) -> None:
        """A row had an answer."""
        self._breaker.answered(record)

    def stop(self, reason: str) -> None:
        """Ask no more rows."""
        self._breaker.stopped = self._breaker.stopped or reason

    def failed(self, verdict: Verdict, problem: str, number: int) -> bool:
        """The row that was begun as this one failed; whether that has just stopped the pool."""
        return self._breaker.failed(verdict, str(self), problem, number)
