"""Prompts in, answers out: a run for those who want neither file nor rows.

What may live here: `map` and `amap`, which are thin over `runner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
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
        A text each; with ``response_format`` the parsed object, with ``output`` too; for an embedding its vector; for a
        bare tool call the answer as it came.

    Raises:
        RowFailed: a row failed, with ``on_error="raise"``. With ``output`` what was answered is kept; a row that fails
            for good raises in each later call, unless ``retry_failed=True`` has it asked again.
        RunStopped: the run was stopped or interrupted before all rows were done; the text names the cure.
    """
    result = run(prompts, model=model, on_error=on_error, progress=progress, **options)
    return _answers(result, options.get("response_format"))


async def amap(
    prompts: Requests,
    *,
    model: Any = None,
    on_error: Literal["raise", "keep"] = "raise",
    progress: Any = False,
    **options: Any,
) -> list[Any]:
    """:func:`map` in an event loop."""
    result = await arun(prompts, model=model, on_error=on_error, progress=progress, **options)
    return _answers(result, options.get("response_format"))


def _answers(result: RunResult, form: Any) -> list[Any]:
    if not result.complete:
        reason = result.stopped or f"it was interrupted with {result.undone} rows undone"
        raise RunStopped(reason)
    # Rows in memory hold the very objects; a results file holds plain JSON, whichever run has asked the row.
    by_class = result.output is not None and isinstance(form, type) and hasattr(form, "model_validate_json")
    return [_object(row, form) if by_class and row.parsed is not None else _answer(row) for row in result]


def _object(row: ResultRow, form: Any) -> Any:
    """The row's object, of a pydantic class; as it is in the file if it is none: the row asked for a form of its own.

    It is read out of the answer's text as it was then. What the file has is by the fields' names and not their
    aliases, without what a class leaves out when it is written, and has gone through its checks already.
    """
    text = (row.text or "").strip()
    for json in (text, text.strip("`").partition("\n")[2]):  # some models put a fence around it
        with suppress(Exception):  # pydantic's own, or what a check of the user's raises
            return form.model_validate_json(json)
    with suppress(Exception):
        return form.model_validate(row.parsed)
    return row.parsed


def _answer(row: ResultRow) -> Any:
    if row.error is not None:
        return row.error
    if row.parsed is not None:
        return row.parsed
    if row.text or (row.text is not None and not _calls_tool(row.body)):
        return row.text
    data = (row.body or {}).get("data")
    if isinstance(data, Sequence) and data and "embedding" in data[0]:
        vectors = [item["embedding"] for item in data]
        return vectors[0] if len(vectors) == 1 else vectors
    return row.response


def _calls_tool(body: Any) -> bool:
    try:
        return bool(body["choices"][0]["message"]["tool_calls"])
    except (KeyError, IndexError, TypeError):
        return False
