"""Bulk runs: the three ways to start one.

What may live here: the public functions, and the client that they use.
"""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import inspect
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any, Final, Literal, TypeAlias, cast

from ..accounting import Budget, UsageRecord
from ..calls import record_of
from ..client import Client, default_client
from ..errors import ConfigError, RowFailed, RunStopped
from .asking import Call
from .deployments import Deployments, places
from .engine import Emit
from .fallbacks import Fallbacks, alternatives
from .interrupts import interrupts
from .job import Job, Settings
from .options import ROW_OPTIONS
from .progress import Progress
from .request import BulkRequest
from .result import ResultRow, RunResult
from .sources import Requests
from .standing import StatusOf
from .structured import Structured

OnResult: TypeAlias = Callable[[ResultRow], Any]

_OWN: Final = (*Settings.__dataclass_fields__, "budget", "client", "on_result", "handle_signals")
_CLIENTS: Final = ("limits", "retry", "cache")
_CLOSE: Final = 0.8  # how like an argument of ours an unknown one must be to be taken for a slip of the pen
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
        client: makes the calls; the default one unless given. ``limits``, ``retry`` and ``cache`` (not a dict, which is
            LiteLLM's) make one for this run instead.
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
        RowFailed: a row failed, with ``on_error="raise"``. The rows in flight were finished.
    """
    settings = Settings(
        model=model,
        output=output,
        max_in_flight=max_in_flight,
        endpoint=endpoint,
        system=system,
        prompt=prompt,
        redo_changed=redo_changed,
        retry_failed=retry_failed,
        skip_bad=skip_bad,
        limit=limit,
        sample=sample,
        fallbacks=fallbacks,
        deployments=deployments,
        validate=validate,
        reasks=reasks,
        on_error=on_error,
        progress=progress,
    )
    inner = _caller(call, client, options, budget)
    call = _asked(inner, settings, options, client)
    job = Job(
        requests,
        settings,
        options,
        call=call,
        emit=_emit(on_result, settings.on_error),
        keep=output is None,
        budget=budget,
        status_of=_status_of(inner),
    )
    with interrupts(job.interrupt) if handle_signals else nullcontext():
        return await job.go()


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
    settings = Settings(
        model=model,
        output=output,
        max_in_flight=max_in_flight,
        endpoint=endpoint,
        system=system,
        prompt=prompt,
        redo_changed=redo_changed,
        retry_failed=retry_failed,
        skip_bad=skip_bad,
        limit=limit,
        sample=sample,
        fallbacks=fallbacks,
        deployments=deployments,
        validate=validate,
        reasks=reasks,
        on_error=on_error,
        progress=progress,
    )
    inner = _caller(call, client, options, budget)
    call = _asked(inner, settings, options, client)
    job = Job(
        requests,
        settings,
        options,
        call=call,
        emit=_emit(on_result, settings.on_error),
        keep=output is None,
        budget=budget,
        status_of=_status_of(inner),
    )
    with interrupts(job.interrupt) if handle_signals else nullcontext():
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(job.go())
        return _in_own_thread(job)


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
    settings = Settings(
        model=model,
        output=output,
        max_in_flight=max_in_flight,
        endpoint=endpoint,
        system=system,
        prompt=prompt,
        redo_changed=redo_changed,
        retry_failed=retry_failed,
        skip_bad=skip_bad,
        limit=limit,
        sample=sample,
        fallbacks=fallbacks,
        deployments=deployments,
        validate=validate,
        reasks=reasks,
        on_error=on_error,
        ordered=ordered,
        progress=progress,
    )
    finished: asyncio.Queue[ResultRow | None] = asyncio.Queue(_STREAMED)
    reading = True

    async def work() -> RunResult:
        try:
            return await job.go()
        finally:
            if reading:
                await finished.put(None)

    inner = _caller(call, client, options, budget)
    call = _asked(inner, settings, options, client)
    job = Job(
        requests,
        settings,
        options,
        call=call,
        emit=_emit(finished.put, settings.on_error),
        keep=False,
        budget=budget,
        status_of=_status_of(inner),
    )
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


def _caller(call: Call | None, client: Client | None, options: dict[str, Any], budget: Budget | None) -> Call:
    """What asks a row; what belongs to a client is taken out of the options."""
    if call is not None and budget is not None:
        raise ConfigError("call, budget exclude each other: what calls of one's own cost is not known before")
    names = [name for name in _CLIENTS if options.get(name) is not None]
    if "cache" in names and isinstance(options["cache"], dict):
        names.remove("cache")
    made_of = {name: options.pop(name) for name in names}
    for name in options.keys() - ROW_OPTIONS:
        close = difflib.get_close_matches(name, _OWN, n=1, cutoff=_CLOSE)
        if close:
            raise ConfigError(f"there is no option {name!r}; {close[0]!r} was meant, it seems")
    given = [*(["call"] if call else []), *(["client"] if client else []), *made_of]
    if call is not None or client is not None:
        if len(given) > 1:
            raise ConfigError(f"{', '.join(given)} exclude each other: a client has its own limits, retries and cache")
        return ClientCall(client) if client is not None else cast("Call", call)
    return ClientCall(Client(**made_of) if made_of else default_client())


def _asked(call: Call, settings: Settings, options: Mapping[str, Any], client: Client | None) -> Call:
    """A call with what stands around it: several places, the form of answers, other models for rows that fail."""
    if settings.deployments is not None:
        if not isinstance(settings.model, str):
            raise ConfigError("deployments= are places of one model: give model=, the name that all of them answer to")
        among = places(settings.deployments, settings.model, client or default_client(), ClientCall)
        call = Deployments(settings.model, among, call)
    form = options.get("response_format")
    call = Structured(call, validate=settings.validate, reasks=settings.reasks, given=form)
    others = alternatives(settings.fallbacks)
    return Fallbacks(call, others) if others else call


class ClientCall:
    """What asks a row through a client.

    Attributes:
        status_of: how the limits of a model stand, in that client.
    """

    def __init__(self, client: Client) -> None:
        self.status_of = client.limiter.status
        self._ways: dict[str, Callable[..., Awaitable[Any]]] = {
            "completion": client.acompletion,
            "embedding": client.aembedding,
            "responses": client.aresponses,
        }

    async def __call__(self, request: BulkRequest) -> tuple[Any, UsageRecord | None]:
        """Ask a row."""
        response = await self._ways[request.operation](**request.body)
        return response, record_of(response)


def _status_of(call: Call) -> StatusOf | None:
    return call.status_of if isinstance(call, ClientCall) else None


def _emit(on_result: OnResult | None, on_error: str) -> Emit | None:
    raising = on_error == "raise"
    if on_result is None and not raising:
        return None

    async def emit(row: ResultRow) -> None:
        if raising and row.error is not None:
            name = "" if row.custom_id is None else f" ({row.custom_id})"
            raise RowFailed(f"row {row.index + 1}{name} failed: {row.error}", index=row.index, code=row.error.code)
        told = None if on_result is None else on_result(row)
        if inspect.isawaitable(told):
            await told

    return emit


def _in_own_thread(job: Job) -> RunResult:
    """Run on a loop of its own in another thread, in this one's context, and wait for it."""
    future: Future[RunResult] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(asyncio.run, job.go()))
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
