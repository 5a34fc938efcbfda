"""One run, from its arguments to its result.

What may live here: the parts of a run put together, started, interrupted and taken apart. The order of rows is
`engine`'s business, the results file `journal`'s, the input `sources`' and `intake`'s.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..accounting import Amount, Budget, UsageTracker
from ..errors import ConfigError
from .asking import Call
from .collector import collector_at_rest
from .engine import Emit, Engine
from .intake import Intake, scan
from .journal import Journal
from .keytable import KeyTable
from .progress import Progress, Silence, Speed, display_for, unobtrusive
from .recorder import Recorder
from .result import ResultRow, RunResult, in_order
from .settings import Settings
from .sources import Indexed, Requests, Streamed, files_of, open_source
from .spent import spent_in
from .standing import StatusOf, standing
from .variants import shapers_of
from .verdict import ASK_AGAIN
from .waiting import PoolName, Waiting

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a run consists of once its files are open."""

    journal: Journal | None
    intake: Intake
    recorder: Recorder
    engine: Engine


class Job:
    """One run. Used once.

    Args:
        requests: the rows.
        settings: the run's own keywords.
        options: LiteLLM's keywords for every row.
        call: asks one row.
        emit: is given each finished row.
        keep: keep the finished rows for the result.
        budget: what the rows may use in all, those of earlier runs included.
        status_of: how the limits of a model stand, for progress.
    """

    def __init__(
        self,
        requests: Requests,
        settings: Settings,
        options: Mapping[str, Any],
        *,
        call: Call,
        emit: Emit | None,
        keep: bool,
        budget: Budget | None = None,
        status_of: StatusOf | None = None,
    ) -> None:
        self._status_of = status_of
        self._shapers = shapers_of(
            settings.model, options, endpoint=settings.endpoint, system=settings.system, prompt=settings.prompt
        )
        self._variants = tuple(shaper.variant for shaper in self._shapers)
        self._settings = settings
        self._call = call
        self._user_emit = emit
        self._emit = self._keep_and_emit if keep else emit
        self._kept: list[ResultRow] = []
        self._usage = UsageTracker("run")
        self._budget = budget
        self._before = Amount(0.0, 0.0, 0.0)
        self._table = KeyTable()
        self._source: Indexed | Streamed = open_source(requests)
        if settings.sample is not None and not isinstance(self._source, Indexed):
            raise ConfigError("a stream cannot be sampled, for its end is not known; give limit, or a file or a list")
        self._output = None if settings.output is None else Path(settings.output)
        self._parts: _Parts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupts = 0
        self._given_up = False
        self._display = Silence() if settings.progress is False else unobtrusive(display_for(settings.progress))

    # -- interrupting ----------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """The first time: start no more rows. The second time: give up those in flight. Safe in any thread."""
        self._interrupts += 1
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._interrupted)

    def _interrupted(self) -> None:
        if self._parts is None:
            return
        engine = self._parts.engine
        if self._interrupts > 1:
            engine.cancel()
            return
        engine.halt()
        self._display.say(
            f"interrupted; {engine.under_way} rows in flight are finished first (once more ends the run at once)"
        )

    # -- the run ---------------------------------------------------------------------------------------------

    async def go(self) -> RunResult:
        """Run.

        Raises:
            ConfigError: an argument, the results file or too many changed rows forbid it.
            RequestFileError: a row cannot be understood.
            RunLocked: another run is writing to the results file.
            Exception: what the input, or the user's ``on_result``, raised; the rows in flight were finished first.
        """
        self._loop = asyncio.get_running_loop()
        speed = Speed(self._loop.time)
        whole = False
        try:
            with self._usage, nullcontext() if self._budget is None else self._budget:
                parts, lines = await self._in_thread(self._open)
                with collector_at_rest():
                    whole = await self._ask(parts, lines, speed)
        finally:
            if self._parts is not None:
                await self._end(self._parts, whole=whole)
            else:
                self._display.close()
        engine = parts.engine
        progress = self._progress(parts, speed)
        self._display.end(progress)
        if engine.error is not None:
            raise engine.error
        return RunResult(
            total=parts.intake.total,
            ok=progress.ok,
            failed=progress.failed,
            skipped=progress.skipped,
            stopped=engine.stopped or self._unexplained(parts, progress),
            interrupted=self._interrupts > 0,
            usage=self._usage,
            spent_before=0.0 if parts.journal is None else parts.journal.cost,
            output=self._output,
            _rows=list(in_order(sorted(self._kept, key=lambda row: row.index), self._variants)),
            _table=None if parts.journal is None else self._table,
            _variants=self._variants,
        )

    async def _end(self, parts: _Parts, *, whole: bool) -> None:
        """Have nothing going on and no file open any more, however often this task is cancelled meanwhile."""
        try:
            await parts.engine.clear()
        finally:
            if self._budget is not None and parts.journal is not None:
                self._budget.carry(str(parts.journal.path), self._used(), counted=True)
            try:
                await self._in_thread(lambda: self._close(parts, whole=whole))
            finally:
                self._display.close()

    def _used(self) -> Amount:
        """What this run and the earlier ones into the same file have used."""
        total, before = self._usage.total, self._before
        sent = total.input_per_call.sum + total.output_per_call.sum  # without what a cache answered
        return Amount(
            before.cost + total.cost + total.uncertain_cost,
            before.tokens + sent + total.uncertain_tokens,
            before.requests + total.latency.count,
        )

    def _unexplained(self, parts: _Parts, progress: Progress) -> str | None:
        """Rows that nobody has accounted for: there should be none, and if there are, the run does not look whole."""
        undone = parts.intake.total - progress.done
        if undone == 0 or self._interrupts:
            return None
        return f"{undone} rows were left undone for a reason that is not known, {ASK_AGAIN}"

    async def _ask(self, parts: _Parts, lines: dict[PoolName, Waiting], speed: Speed) -> bool:
        """Ask all rows; whether the whole input was seen."""
        engine = parts.engine
        ticker = asyncio.create_task(self._tick(parts, speed))
        try:
            if self._interrupts:
                engine.halt()
            if isinstance(self._source, Indexed):
                await engine.ask_scanned(self._source, lines)
            else:
                await engine.ask_stream(self._source)
        finally:
            ticker.cancel()
        return self._settings.limit is None and self._settings.sample is None and not engine.halting

    def _open(self) -> tuple[_Parts, dict[PoolName, Waiting]]:
        """Open the results file and, if the input can be read twice, find out what is to be done."""
        settings, source = self._settings, self._source
        path = source.path if isinstance(source, Indexed) else None
        journal: Journal | None = None
        try:
            if self._output is not None:
                journal = Journal(self._output, self._table, inputs=files_of(source))
                if self._budget is not None:
                    self._before = spent_in(journal)
                    self._budget.carry(str(journal.path), self._before)
                journal.start()
            intake = Intake(
                self._shapers,
                self._table,
                journal,
                path=path,
                redo_changed=settings.redo_changed,
                retry_failed=settings.retry_failed,
                skip_bad=settings.skip_bad,
            )
            lines: dict[PoolName, Waiting] = {}
            if isinstance(source, Indexed):
                lines = scan(source, intake, limit=settings.limit, stop=self._must_stop)
                if settings.sample is not None:
                    intake.thin(settings.sample, lines)
        except BaseException:
            if journal is not None:
                journal.finish()
            if isinstance(source, Indexed):
                source.close()
            raise
        recorder = Recorder(journal)
        engine = Engine(
            intake=intake,
            call=self._call,
            table=self._table,
            recorder=recorder,
            cap=settings.max_in_flight,
            emit=self._emit,
            limit=settings.limit,
            ordered=settings.ordered,
        )
        self._parts = _Parts(journal, intake, recorder, engine)
        return self._parts, lines

    def _must_stop(self) -> bool:
        return self._given_up or self._interrupts > 0

    def _close(self, parts: _Parts, *, whole: bool) -> None:
        """Write what is left to write and let go of all files."""
        try:
            parts.recorder.rescue()
            if parts.journal is not None:
                # If the whole input was seen, those rows that could not be read and now are gone were mended.
                parts.journal.finish(forget_bad=whole)
        finally:
            if isinstance(self._source, Indexed):
                self._source.close()

    async def _keep_and_emit(self, row: ResultRow) -> None:
        self._kept.append(row)
        if self._user_emit is not None:
            await self._user_emit(row)

    async def _tick(self, parts: _Parts, speed: Speed) -> None:
        while True:
            await asyncio.sleep(self._display.every)
            try:
                self._display.show(self._progress(parts, speed))
            except Exception as error:  # noqa: BLE001 - the user's own hook: the run ends in order, then it is raised
                parts.engine.fail(error)
                return

    def _progress(self, parts: _Parts, speed: Speed) -> Progress:
        intake, recorder = parts.intake, parts.recorder
        done, skipped = recorder.ok + recorder.failed, intake.ok + intake.failed
        elapsed, rows, tokens = speed.measure(done, recorder.tokens)
        total = intake.total if isinstance(self._source, Indexed) else None
        return Progress(
            total=total,
            ok=intake.ok + recorder.ok,
            failed=intake.failed + recorder.failed,
            skipped=skipped,
            in_flight=parts.engine.active,
            tokens=recorder.tokens,
            cost=recorder.cost,
            unpriced=recorder.unpriced,
            failures=dict(recorder.failures),
            elapsed=elapsed,
            rows_per_second=rows,
            tokens_per_minute=tokens,
            seconds_left=None if total is None or rows <= 0 else (total - skipped - done) / rows,
            stopped=parts.engine.stopped,
            models=standing(parts.engine.pools, self._status_of),
        )

    async def _in_thread(self, work: Callable[[], Value]) -> Value:
        """Do blocking work in a thread; a cancellation waits until it is done, for it holds files open."""
        assert self._loop is not None  # noqa: S101 - go() has set it
        future = self._loop.run_in_executor(None, contextvars.copy_context().run, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._given_up = True
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError:
                    continue
            raise
