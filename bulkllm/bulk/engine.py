"""The rows' way through: which is asked next, how many at once, and how it all ends.

What may live here: the order of things. What a row means, where it is written and what a failure tells is known
elsewhere. All of it runs on one event loop, so there are no locks.

Each pool has its own line of waiting rows and its own number of rows in flight, so a slow or a stopped pool holds
nobody else up. A row that finishes starts the next one of its pool: nothing polls, and nothing looks at all rows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

from ..accounting import UsageRecord
from ..calls import record_of_error
from ..errors import InvalidAnswer, RunStopped
from .asking import Call, secrets_in
from .intake import Intake
from .keytable import KeyTable, State
from .leftout import LeftOut
from .pools import Pool, may_pass
from .recorder import Recorder
from .request import secrets_of
from .resting import at_rest
from .result import ResultRow, RowError
from .sources import Indexed, Streamed
from .turns import Turns
from .verdict import ASK_AGAIN, Verdict, judge, row_error, was_paid
from .waiting import BadRow, Item, Met, PoolName, Waiting

logger = logging.getLogger(__name__)

Emit: TypeAlias = Callable[[ResultRow], Awaitable[None]]

_SHOWN = 300  # characters of the error that stopped a pool
_READ_AHEAD = 4  # how many times the rows in flight a stream's rows may wait in memory for other pools' sake
_BREATHE = 200  # rows of a stream that are passed over before others have their turn


class Engine:
    """Asks rows until there are no more, or until it is told to stop.

    Args:
        intake: has met, or will meet, the rows.
        call: asks one row.
        table: what is known of rows.
        recorder: writes finished rows down.
        cap: rows in flight in each pool at most.
        emit: is given each finished row; while it waits, the row's place stays taken.
        limit: of a stream, only so many rows.
        ordered: give rows out in the order of the input.

    Attributes:
        error: what ended the run and is to be raised when the rows in flight are done.
        halting: no more rows are started.
        active: rows in flight.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        call: Call,
        table: KeyTable,
        recorder: Recorder,
        cap: int,
        emit: Emit | None,
        limit: int | None,
        ordered: bool = False,
    ) -> None:
        self._turns = Turns(self._first_rows) if ordered else None
        self._intake = intake
        self._call = call
        self._table = table
        self._recorder = recorder
        self._cap = cap
        self._emit = emit
        self._limit = limit
        self._pools: dict[PoolName, Pool] = {}
        self._source: Indexed | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._rows: dict[asyncio.Task[None], Pool] = {}
        self._given_up: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._room = asyncio.Event()
        self._waiting = 0  # rows of a stream that wait in memory
        self._stopped: list[str] = []
        self._left_out = LeftOut()
        self._cancelled = 0  # rows whose task somebody else has cancelled
        self.error: BaseException | None = None
        self.halting = False
        self.active = 0

    @property
    def under_way(self) -> int:
        """Rows in flight that have not been given up."""
        return len(self._rows) - len(self._given_up)

    @property
    def stopped(self) -> str | None:
        """What was stopped and what is to be done, or None."""
        reasons = [*self._stopped, *(told for told in (self._left_out.reason, self._recorder.trouble) if told)]
        if self._cancelled:
            reasons.append(f"{self._cancelled} rows were cancelled by somebody outside the run, {ASK_AGAIN}")
        return "; ".join(reasons) or None

    @property
    def pools(self) -> Iterable[Pool]:
        """The pools that were met."""
        return self._pools.values()

    async def ask_scanned(self, source: Indexed, lines: Mapping[PoolName, Waiting]) -> None:
        """Ask the rows that a scan has found."""
        self._source = source
        self._pools = {name: Pool(name, line) for name, line in lines.items()}
        for pool in self._pools.values():
            self._top_up(pool)
        self._look_whether_over()
        await self._over.wait()

    async def ask_stream(self, source: Streamed) -> None:
        """Ask rows as they come."""
        if self._limit == 0:
            return
        self._feeder = asyncio.create_task(self._feed(source))
        self._feeder.add_done_callback(self._feeder_over)
        await self._over.wait()

    def halt(self) -> None:
        """Start no more rows; those being asked are finished, those that only wait for the limits are given up."""
        if not self.halting:
            self.halting = True
            self._sweep()
        if self._feeder is not None and self._feeder is not asyncio.current_task():
            self._feeder.cancel()
        self._room.set()
        self._look_whether_over()

    def fail(self, error: BaseException) -> None:
        """End in order, for this reason: the first one given is raised when the rows in flight are done."""
        if self.error is None:
            self.error = error
        self.halt()

    def cancel(self) -> None:
        """Give the rows in flight up; they stay undone."""
        self.halt()
        self._give_up(list(self._rows))

    async def clear(self) -> None:
        """Give up whatever is still going on, and wait until it is gone; a cancellation waits for that too."""
        self.cancel()
        pending = {*self._rows, *([self._feeder] if self._feeder is not None else [])}
        cancelled: asyncio.CancelledError | None = None
        while pending := {task for task in pending if not task.done()}:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as again:
                cancelled = again
        if cancelled is not None:
            raise cancelled

    # -- starting rows ---------------------------------------------------------------------------------------

    def _top_up(self, pool: Pool) -> None:
        while pool.line and pool.active < self._cap and not self.halting:
            try:
                slot, item = self._next(pool)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows in flight are paid: end in order
                self.fail(error)
                return
            pool.active += 1
            pool.begun += 1
            self.active += 1
            task = asyncio.create_task(self._ask(pool, pool.begun, slot, item))
            pool.started[task] = item.index
            self._rows[task] = pool
            # Not in the coroutine's own finally: one that is cancelled before its first step never gets there.
            task.add_done_callback(partial(self._row_over, pool))

    def _next(self, pool: Pool) -> tuple[int, Item]:
        line = pool.line
        if isinstance(line, Waiting):
            assert self._source is not None  # noqa: S101 - lines of numbers come from a scan
            slot, place, number, model = line.pop()
            return slot, self._intake.item_again(self._source, slot, place, number, model, bad=pool.name is None)
        met = line.popleft()
        self._waiting -= 1
        return met.slot, self._intake.item(met)

    async def _feed(self, source: Streamed) -> None:
        passed_over = 0
        try:
            async with aclosing(source.rows()) as rows:  # type: ignore[type-var]  # they are async generators
                async for raw in rows:
                    to_ask = self._intake.meet(raw)
                    if not to_ask:
                        passed_over += 1
                        if passed_over % _BREATHE == 0:
                            await asyncio.sleep(0)
                    for met in to_ask:
                        await self._queue(met)
                    if self.halting or (self._limit is not None and self._intake.rows >= self._limit):
                        break
        except Exception as error:  # noqa: BLE001 - the source is the user's: the rows in flight end, then it is raised
            self.fail(error)

    def _feeder_over(self, task: asyncio.Task[None]) -> None:
        self._feeder = None
        if not self.halting:
            self._must_have_ended(task, "reading the requests")
        self._look_whether_over()

    async def _queue(self, met: Met) -> None:
        pool = self._pools.get(met.pool)
        if pool is None:
            pool = self._pools[met.pool] = Pool(met.pool, deque())
        if pool.stopped is not None:
            return
        assert isinstance(pool.line, deque)  # noqa: S101 - lines of rows come from a stream
        pool.line.append(met)
        self._waiting += 1
        self._top_up(pool)
        # With one pool there is nobody to read ahead for.
        ahead = _READ_AHEAD * self._cap if len(self._pools) > 1 else 0
        while self._waiting > ahead and not self.halting:
            self._room.clear()
            await self._room.wait()

    # -- one row ---------------------------------------------------------------------------------------------

    async def _ask(self, pool: Pool, number: int, slot: int, item: Item) -> None:
        try:
            row = await self._finish(pool, number, slot, item)
            if row is not None and self._emit is not None:
                if self._turns is not None:
                    await self._turns.wait(item.index)
                await self._emit(row)
        except asyncio.CancelledError:
            if asyncio.current_task() not in self._given_up:
                logger.warning("row %d was cancelled by somebody else; it stays undone", item.index + 1)
                self._cancelled += 1
            raise
        except Exception as error:  # noqa: BLE001 - ours or the user's on_result: the rows in flight end, then it is raised
            self.fail(error)

    def _row_over(self, pool: Pool, task: asyncio.Task[None]) -> None:
        del self._rows[task]
        del pool.started[task]
        self._given_up.discard(task)
        if not task.cancelled():
            self._must_have_ended(task, "asking a row")
        pool.active -= 1
        self.active -= 1
        self._room.set()
        self._top_up(pool)
        if self._turns is not None:
            self._turns.look()
        self._look_whether_over()

    def _first_rows(self) -> Iterator[int]:
        """The position of the first row of each pool that is not over."""
        for pool in self._pools.values():
            if pool.started:
                yield next(iter(pool.started.values()))
            elif pool.line and not self.halting:
                slot = pool.line.first() if isinstance(pool.line, Waiting) else pool.line[0].slot
                yield self._table.index[slot]

    async def _finish(self, pool: Pool, number: int, slot: int, item: Item) -> ResultRow | None:
        recorder = self._recorder
        print_ = self._table.fingerprint(slot)
        response: Any = None
        error: RowError | None = None
        record: UsageRecord | None = None
        parsed: Any = None
        try:
            reply = await self._answer(item)
            response, record = reply[0], reply[1]
            parsed = reply[2] if len(reply) > 2 else None  # noqa: PLR2004 - a Reply
        except (Exception, asyncio.CancelledError) as problem:  # a row's failure is the row's: it is recorded in it
            if isinstance(problem, asyncio.CancelledError) and _cancelled_from_outside():
                self._given_up_after(problem, pool, slot, item)
                raise
            logger.info("row %d failed: %s", item.index + 1, type(problem).__name__)
            verdict = judge(problem)
            error = row_error(problem, verdict, _secrets_of(item, self._call))
            record = record_of_error(problem)
            if verdict.too_large and not was_paid(record):
                self._too_large(pool, error)
                return None
            self._told(pool, number, verdict, error)
            if (verdict.ends_run or verdict.ends_pool) and not was_paid(record):
                return None
            response = problem.answer if isinstance(problem, InvalidAnswer) else None
            pool.count(record, ok=False)
            passing = verdict.passing or may_pass(problem)
            recorder.refused(slot, item, error, record, print_, passing=passing, response=response)
        else:
            pool.answered(record)
            self._left_out.answered(pool)
            pool.count(record, ok=True)
            recorder.answered(slot, item, response, record, print_, parsed)
        if recorder.trouble is not None and not self.halting:
            self.halt()
        if self._emit is None:
            return None
        return ResultRow(
            custom_id=item.custom_id,
            key=item.key.hex(),
            index=item.index,
            error=error,
            record=record,
            columns=item.carried,
            response=response,
            variant=None if isinstance(item, BadRow) else item.variant,
            parsed=parsed,
        )

    def _given_up_after(self, problem: asyncio.CancelledError, pool: Pool, slot: int, item: Item) -> None:
        """A row is given up that may have cost something: it stays undone, and that is not forgotten.

        But for one that was answered before its request changed: its answer is worth more than these books.
        """
        record = record_of_error(problem)
        if record is None or not was_paid(record) or not self._recorder.writes:
            return
        pool.spend(record)
        if self._table.state[slot] != State.OK:
            error = RowError("RunStopped", f"the run ended before it was answered; {ASK_AGAIN}", None)
            self._recorder.given_up(slot, item, error, record, self._table.fingerprint(slot))

    async def _answer(self, item: Item) -> tuple[Any, ...]:
        if isinstance(item, BadRow):
            raise item.error
        return await self._call(item)

    def _told(self, pool: Pool, number: int, verdict: Verdict, error: RowError) -> None:
        """Draw the consequences of a failure for its pool and for the run."""
        if verdict.ends_run:
            reason = f"{error.message}: {verdict.cure}"
            if reason not in self._stopped:
                self._stopped.append(reason)
            self.halt()
        elif pool.failed(verdict, str(error)[:_SHOWN], number):
            assert pool.stopped is not None  # noqa: S101 - it has just said so
            self._stopped.append(pool.stopped)
            self._empty(pool)

    def _too_large(self, pool: Pool, error: RowError) -> None:
        """A row was left undone for the budget's sake; smaller ones may fit, up to a point."""
        if self._left_out.add(pool, error.message) and pool.stopped is None:
            pool.stop("the budget is used up")
            self._empty(pool)

    def _empty(self, pool: Pool) -> None:
        """Nobody else of a pool that was stopped is asked."""
        if isinstance(pool.line, deque):
            self._waiting -= len(pool.line)
        pool.line = deque()
        self._give_up([task for task, its in self._rows.items() if its is pool and at_rest(task)])
        if all(other.stopped is not None for other in self._pools.values() if other.name is not None):
            self.halt()

    # -- ending ----------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Give up rows at rest, now and, since a row may come to rest later, every second until the end."""
        self._give_up([task for task in self._rows if at_rest(task)])
        if not self._over.is_set():
            asyncio.get_running_loop().call_later(1.0, self._sweep)

    def _give_up(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            self._given_up.add(task)
            task.cancel()

    def _must_have_ended(self, task: asyncio.Task[None], what: str) -> None:
        """A task that did not come to its own end must not look as if the input had ended there."""
        if task.cancelled():
            self.fail(RunStopped(f"{what} was cancelled by somebody outside the run, {ASK_AGAIN}"))
        elif (error := task.exception()) is not None:
            self.fail(error)

    def _look_whether_over(self) -> None:
        if self.active or self._feeder is not None:
            return
        if self.halting or not any(pool.line for pool in self._pools.values()):
            self._over.set()


def _cancelled_from_outside() -> bool:
    """Whether this task was told to end. If not, then something that the call waited for was cancelled below it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _secrets_of(item: Item, call: Call) -> tuple[str, ...]:
    others = secrets_in(call)
    return others if isinstance(item, BadRow) else (*others, *secrets_of(item.body))
