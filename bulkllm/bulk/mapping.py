"""Prompts in, answers out: a run for those who want neither file nor rows.

What may live here: `map` and `amap`, which are thin over `runner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..errors import RunStopped
from .result import ResultRow, RunResult
from .runner import arun, run
from .sources import Requests


def map(  # noqa: A001 - what it is, only over models
    prompts: Requests,
    *,
    model: Any = None,
    on_error: Literal["raise", "keep"] = "raise",
    progress: Any = False,
    **options: Any,
) -> list[Any]:
    """Answers to prompts, in their order.

    Args:
        prompts: anything that `run` takes: prompts, messages, dicts, a file.
        model: a LiteLLM name or an `LLMConfig`. With a list of them the answers of each prompt follow each other.
        on_error: with "raise" the first row that fails ends it all; "keep" puts its `RowError` in the answer's place.
        progress: as for `run`.
        **options: as for `run`, and LiteLLM's.

    Returns:
        A text each; with ``response_format`` the parsed object; for an embedding its vector; for a bare tool call the
        answer as it came.

    Raises:
        RowFailed: a row failed, with ``on_error="raise"``. With ``output`` what was answered is kept.
        RunStopped: the run was stopped or interrupted before all rows were done; the text names the cure.
    """
    return _answers(run(prompts, model=model, on_error=on_error, progress=progress, **options))


async def amap(
    prompts: Requests,
    *,
    model: Any = None,
    on_error: Literal["raise", "keep"] = "raise",
    progress: Any = False,
    **options: Any,
) -> list[Any]:
    """:func:`map` in an event loop."""
    return _answers(await arun(prompts, model=model, on_error=on_error, progress=progress, **options))


def _answers(result: RunResult) -> list[Any]:
    if not result.complete:
        reason = result.stopped or f"it was interrupted with {result.undone} rows undone"
        raise RunStopped(reason)
    return [_answer(row) for row in result]


def _answer(row: ResultRow) -> Any:
    if row.error is not None:
        return row.error
    if row.parsed is not None:
        return row.parsed
    if row.text is not None:
        return row.text
    data = (row.body or {}).get("data")
    if isinstance(data, Sequence) and data and "embedding" in data[0]:
        vectors = [item["embedding"] for item in data]
        return vectors[0] if len(vectors) == 1 else vectors
    return row.response
