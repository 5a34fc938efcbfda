"""Bulk runs: the three ways to start one.

What may live here: the public functions. Their keywords become a run in one place, `_job`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any, Final, Literal, TypeAlias

from ..accounting import Budget
from ..calls.blocking import refuse_to_block, run_under_way
from ..calls.connections import close_connections
from ..client import Client
from ..errors import RowFailed, RunStopped
from .asking import Call
from .callers import asked, caller, status_of
from .engine import Emit
from .interrupts import interrupts
from .job import Job
from .lines import BAD_ROW
from .progress import Progress
from .result import ResultRow, RowError, RunResult
from .settings import Settings, check_options
from .sources import Requests

OnResult: TypeAlias = Callable[[ResultRow], Any]

_STREAMED: Final = 64  # finished rows that wait for a reader of `stream`


async def arun(
    requests: Requests,
    *,
    model: Any = None,
    output: str | os.PathLike[str] | None = None,
    max_in_flight: int = 256,
    endpoint: str | None = None,
    system: str | None = None,
    prompt: str | None = None,
    redo_changed: bool = False,
    retry_failed: bool = False,
    skip_bad: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    fallbacks: Sequence[Any] = (),
    deployments: Sequence[Mapping[str, Any]] | None = None,
    validate: Callable[[Any], Any] | None = None,
    reasks: int = 2,
    on_error: Literal["keep", "raise"] = "keep",
    progress: bool | Callable[[Progress], Any] = True,
    budget: Budget | None = None,
    client: Client | None = None,
    on_result: OnResult | None = None,
    call: Call | None = None,
    handle_signals: bool = True,
    **options: Any,
) -> RunResult:
    """Ask many rows, and write each answer down as it comes. The same again goes on where this one ended.

    Args:
        requests: a JSONL, CSV, TSV or Parquet file (``-`` for JSONL from standard input), a pandas or polars frame, a
            dataset, or an (async) iterable of rows. A row is a prompt, a list of messages, or a dict such as a line of
            a file.
        model: for rows that name none: a LiteLLM name or an `LLMConfig`; or a list of them, then each row is asked of
            each, at its own speed, and `RunResult.total` counts rows times models.
        output: the results file, in the Batch API's shape. Each finished row is with the operating system at once and
            on the disk within about a second. Without it the rows are kept in memory.
        max_in_flight: rows of one model at one endpoint that are under way at once.
        endpoint: a name that stands for the base URL when rows are compared with earlier ones.
        system: a system message for rows without one.
        prompt: a template over a row's columns: ``Translate to {{lang}}: {{text}}``.
        redo_changed: ask again however many finished rows were asked in another way before; without it more than one
            in a hundred end the run.
        retry_failed: ask again for rows that failed for a reason that stays, too.
        skip_bad: a row that cannot be understood fails, instead of ending the run before the first call.
        limit: only the first so many rows.
        sample: only so many rows, spread over the input; the same ones each time, and among those of a larger sample.
            With several models each row counts once for each.
        fallbacks: models to ask, in order, for a row that fails: names, presets, or dicts with ``model`` and its
            options (``api_base``, ``api_key``). Another provider is not told the key and the address of the first.
        deployments: places where ``model`` can be asked: dicts with ``api_base``, ``api_key``, the ``model``'s name
            there, and limits (``rpm``, ``tpm``, ``max_in_flight``, ...). Each row goes to whichever can answer soonest,
            and to another one if that fails. Which of them answers does not count as a change of the request.
        validate: is given each answer (its text, or with ``response_format`` the parsed object), and raises ValueError
            or AssertionError, or returns False, if it is wrong. May be a coroutine function.
        reasks: how often an answer that is not what ``response_format`` (a pydantic model or a JSON schema) or
            ``validate`` asks for is asked for again, with what was wrong. Each ask counts in the row's record.
        on_error: "keep" makes a row that fails a result with an error; with "raise" the first one ends the run.
        progress: True for standard error, False for nothing, or a function that takes a `Progress` every second.
        budget: what the rows may use in all. What the results file has cost before counts: the same run with a larger
            budget goes on where this one stopped.
        client: makes the calls; the default one unless given. ``limits``, ``store``, ``retry``, ``cache`` (not a dict,
            which is LiteLLM's) and ``wait_for_quota`` make one for this run instead.
        on_result: is given each row that this run finishes; may be a coroutine function. While it waits, so does the
            row's place. If it raises, the rows in flight are finished and the error is raised.
        call: asks a row in the client's place: ``async def call(request) -> (response, record or None)``.
        handle_signals: Ctrl-C and SIGTERM once end the run when the rows in flight are done, twice at once. Only in
            the main thread, and only where nobody else handles them.
        **options: LiteLLM's, for every row. A row's own win.

    Returns:
        What came of it. A run that was interrupted, or stopped by a circuit breaker or a full disk, returns too, and
        says so.

    Raises:
        ConfigError: an argument is wrong, the results file cannot be used, or too many rows have changed.
        RequestFileError: a row cannot be understood, or a ``custom_id`` stands twice.
        RunLocked: another run is writing to the results file.
        RowFailed: a row failed, with ``on_error="raise"``. The rows in flight were finished. If it failed for good in
            an earlier run, then all others are finished first.
    """
    job = _job(**locals(), keep=output is None)
    with interrupts(job.interrupt) if handle_signals else nullcontext():
        return await _go(job, on_error)


def run(
    requests: Requests,
    *,
    model: Any = None,
    output: str | os.PathLike[str] | None = None,
    max_in_flight: int = 256,
    endpoint: str | None = None,
    system: str | None = None,
    prompt: str | None = None,
    redo_changed: bool = False,
    retry_failed: bool = False,
    skip_bad: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    fallbacks: Sequence[Any] = (),
    deployments: Sequence[Mapping[str, Any]] | None = None,
    validate: Callable[[Any], Any] | None = None,
    reasks: int = 2,
    on_error: Literal["keep", "raise"] = "keep",
    progress: bool | Callable[[Progress], Any] = True,
    budget: Budget | None = None,
    client: Client | None = None,
    on_result: OnResult | None = None,
    call: Call | None = None,
    handle_signals: bool = True,
    **options: Any,
) -> RunResult:
    """`arun` from ordinary code.

    Inside a running event loop (a notebook) the run has a thread and a loop of its own, and this one waits.
    """
    keywords = locals()
    refuse_to_block()
    job = _job(**keywords, keep=output is None)
    with interrupts(job.interrupt) if handle_signals else nullcontext():
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_alone(job, on_error))
        return _in_own_thread(job, on_error)


async def stream(
    requests: Requests,
    *,
    model: Any = None,
    output: str | os.PathLike[str] | None = None,
    max_in_flight: int = 256,
    endpoint: str | None = None,
    system: str | None = None,
    prompt: str | None = None,
    redo_changed: bool = False,
    retry_failed: bool = False,
    skip_bad: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    fallbacks: Sequence[Any] = (),
    deployments: Sequence[Mapping[str, Any]] | None = None,
    validate: Callable[[Any], Any] | None = None,
    reasks: int = 2,
    on_error: Literal["keep", "raise"] = "keep",
    ordered: bool = False,
    progress: bool | Callable[[Progress], Any] = False,
    budget: Budget | None = None,
    client: Client | None = None,
    call: Call | None = None,
    **options: Any,
) -> AsyncIterator[ResultRow]:
    """The rows as they finish, in bounded memory: a slow reader slows the run down.

    The arguments are those of `arun`. With ``ordered=True`` rows come in the order of the input; of each model at most
    ``max_in_flight`` are finished ahead, and then wait. With ``output`` the rows that an earlier run
    finished are not given again. Leaving the loop early gives the rows in flight up; leave it with
    ``contextlib.aclosing`` to have that done at once.

    Raises:
        RunStopped: at the end, if the run was stopped before its input ended; and what `arun` raises.
    """
    keywords = locals()
    finished: asyncio.Queue[ResultRow | None] = asyncio.Queue(_STREAMED)
    job = _job(**keywords, on_result=finished.put, keep=False)
    reading = True

    async def work() -> RunResult:
        try:
            with run_under_way():
                return await job.go()
        finally:
            if reading:
                await finished.put(None)

    task = asyncio.create_task(work())
    try:
        while (row := await finished.get()) is not None:
            yield row
        result = await task
    finally:
        reading = False
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    if result.stopped is not None:
        raise RunStopped(result.stopped)


def _job(
    requests: Requests,
    *,
    options: dict[str, Any],
    keep: bool,
    call: Call | None,
    client: Client | None,
    budget: Budget | None,
    on_result: OnResult | None,
    handle_signals: bool = False,  # noqa: ARG001 - it stands among the keywords, and is the callers' business
    **own: Any,
) -> Job:
    """The run that some keywords describe: what is not named here is the run's own, and becomes its `Settings`."""
    settings = Settings(**own)
    check_options(options)
    inner = caller(call, client, options, budget)
    return Job(
        requests,
        settings,
        options,
        call=asked(inner, settings, options),
        emit=_emit(on_result, settings.on_error),
        keep=keep,
        budget=budget,
        status_of=status_of(inner),
    )


def _emit(on_result: OnResult | None, on_error: str) -> Emit | None:
    raising = on_error == "raise"
    if on_result is None and not raising:
        return None

    async def emit(row: ResultRow) -> None:
        if raising and row.error is not None:
            raise _failure(row, row.error)
        told = None if on_result is None else on_result(row)
        if inspect.isawaitable(told):
            await told

    return emit


async def _go(job: Job, on_error: str) -> RunResult:
    """What a run comes to. Where no row may fail, one that an earlier run has refused for good is met at the end.

    A run that was stopped or interrupted returns all the same: its rows left undone are what is to be seen to first.

    Raises:
        RowFailed: such a row, the first in the order of the input; and what the run itself raises.
    """
    with run_under_way():
        result = await job.go()
    if on_error == "raise" and result.complete and result.failed:
        error = await asyncio.to_thread(_first_failure, result)  # it reads the results file
        if error is not None:
            raise error
    return result


async def _alone(job: Job, on_error: str) -> RunResult:
    """The same, in an event loop that ends with it."""
    try:
        return await _go(job, on_error)
    finally:
        await close_connections()


def _first_failure(result: RunResult) -> RowFailed | None:
    for row in result:
        if row.error is not None:
            cure = "" if row.error.code == BAD_ROW else "; that was in an earlier run: retry_failed=True asks it again"
            return _failure(row, row.error, cure)
    return None


def _failure(row: ResultRow, error: RowError, cure: str = "") -> RowFailed:
    name = "" if row.custom_id is None else f" ({row.custom_id})"
    return RowFailed(f"row {row.index + 1}{name} failed: {error}{cure}", index=row.index, code=error.code)


def _in_own_thread(job: Job, on_error: str) -> RunResult:
    """Run on a loop of its own in another thread, in this one's context, and wait for it."""
    future: Future[RunResult] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(asyncio.run, _alone(job, on_error)))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            future.set_exception(error)

    thread = threading.Thread(target=work, name="bulkllm-run")
    thread.start()
    try:
        return future.result()
    except KeyboardInterrupt:  # somebody else's handler raised it here
        job.interrupt()
        job.interrupt()
        raise
    finally:
        thread.join()
