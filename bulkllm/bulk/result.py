"""What a run gives back.

What may live here: the values, and reading them out of a results file. Nothing writes.
"""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from ..accounting import UsageRecord, UsageTracker
from ..errors import ConfigError
from .keytable import KeyTable
from .lines import encode, head_of

_NOT_THERE = (1 << 64) - 1
_DUMPS: Final[tuple[dict[str, Any], ...]] = (
    {"mode": "json"}, {"mode": "python"}, {"mode": "json", "round_trip": True}, {"mode": "python", "round_trip": True},
)  # fmt: skip
"""Ways to write a pydantic model, the better first; a round trip leaves out what is computed."""


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no answer.

    Attributes:
        code: the name of the error's class, such as ``RateLimitError``.
        message: its text, shortened and without keys.
        status: the provider's HTTP status, if it answered.
    """

    code: str
    message: str
    status: int | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ResultRow:
    """One finished row.

    Attributes:
        custom_id: the row's own name, or None.
        key: what identifies the row from run to run.
        index: its position in the input, from 0.
        error: why there is no answer, or None.
        record: tokens, cost and times, or None where no call was made.
        columns: the input row's other columns.
        variant: which of the run's models it was for, if there were several: its name, or its preset's.
        parsed: with ``response_format`` or ``validate``, the answer as an object: of the model's class if one was
            given, else as plain JSON; plain JSON too for a row that was read from a file.
    """

    __slots__ = (
        "_body", "_response", "columns", "custom_id", "error", "index", "key", "parsed", "record", "variant",
    )  # fmt: skip

    def __init__(
        self,
        *,
        custom_id: str | None,
        key: str,
        index: int,
        error: RowError | None,
        record: UsageRecord | None,
        columns: Mapping[str, Any],
        response: Any = None,
        body: Mapping[str, Any] | None = None,
        variant: str | None = None,
        parsed: Any = None,
    ) -> None:
        self.custom_id = custom_id
        self.key = key
        self.index = index
        self.error = error
        self.record = record
        self.columns = columns
        self._response = response
        self._body = body
        self.variant = variant
        self.parsed = parsed

    @classmethod
    def from_line(cls, line: bytes | str) -> ResultRow:
        """Read a line of a results file.

        Raises:
            ConfigError: it is none.
        """
        try:
            row = json.loads(line)
            about = row["bulkllm"]
            error, response = row["error"], row["response"]
            return cls(
                custom_id=row["custom_id"],
                key=about["key"],
                index=about["index"],
                error=None if error is None else RowError(error["code"], error["message"], error.get("status")),
                record=UsageRecord.from_dict(about) if "model" in about else None,
                columns=about.get("columns", {}),
                body=None if response is None else response["body"],
                variant=about.get("variant"),
                parsed=about.get("parsed"),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
            raise ConfigError(f"this is no line of a results file: {problem}") from problem

    @property
    def ok(self) -> bool:
        """Whether the row has an answer."""
        return self.error is None

    @property
    def body(self) -> Mapping[str, Any] | None:
        """The answer as plain JSON, or None."""
        if self._body is None and self._response is not None:
            self._body = plain(self._response)
        return self._body

    @property
    def parsed_json(self) -> Any:
        """`parsed` as plain JSON."""
        return plain(self.parsed)

    @property
    def response(self) -> Any:
        """The answer as LiteLLM's object, or None. For a row that was read from a file it is built anew."""
        if self._response is None and self._body is not None:
            self._response = _litellm_object(self._body)
        return self._response

    @property
    def text(self) -> str | None:
        """The answer's text; None where there is none (a failed row, an embedding, a bare tool call)."""
        return text_of(self.body)

    def __repr__(self) -> str:
        name = f"custom_id={self.custom_id!r}" if self.custom_id is not None else f"key={self.key!r}"
        return f"ResultRow({name}, index={self.index}, {'ok' if self.error is None else self.error.code})"


@dataclass(slots=True, kw_only=True)
class RunResult:
    """How a run ended. Iterating gives the rows that have finished, in the order of the input, and then of the models.

    A row whose request has changed, and that was not asked again, is undone: its old answer is not given.

    ``total`` is ``ok + failed + undone``; earlier runs' rows count as this run's do.

    Attributes:
        total: rows of the input (of a stream: rows read from it).
        ok: rows with an answer.
        failed: rows with an error in the answer's place.
        skipped: those among ``ok`` and ``failed`` that an earlier run had finished and this one did not ask.
        stopped: why the run ended before its input did, and what to do, or None.
        interrupted: it was ended by Ctrl-C or SIGTERM.
        usage: what this run used and cost. Earlier runs' use is not in it.
        spent_before: US dollars that the rows in the results file had cost before this run, as far as known.
        output: the results file, or None where the rows are in memory.
    """

    total: int
    ok: int
    failed: int
    skipped: int
    stopped: str | None
    interrupted: bool
    usage: UsageTracker
    spent_before: float
    output: Path | None
    _rows: list[ResultRow] = field(default_factory=list, repr=False)
    _table: KeyTable | None = field(default=None, repr=False)
    _variants: tuple[str | None, ...] = field(default=(), repr=False)

    @property
    def undone(self) -> int:
        """Rows that were not finished: the next run of the same does them."""
        return self.total - self.ok - self.failed

    @property
    def complete(self) -> bool:
        """Whether every row was finished, with an answer or with an error."""
        return self.undone == 0 and self.stopped is None and not self.interrupted

    def __iter__(self) -> Iterator[ResultRow]:
        if self.output is None:
            return iter(self._rows)
        return in_order(read_results(self.output, only=self._table), self._variants)

    def to_pandas(self) -> Any:
        """The finished rows as a pandas DataFrame, in the order of the input.

        A column each for ``custom_id``, ``index``, the input's own columns, the answer's text, the error, tokens, cost
        and times; a column of the input that has the name of one of these is called ``column_<name>`` (and one that is
        called so, ``column_column_<name>``).

        Raises:
            ConfigError: pandas is not installed.
        """
        from .frames import to_pandas

        return to_pandas(self)

    def to_polars(self) -> Any:
        """The finished rows as a polars DataFrame; as `to_pandas`, but what polars has no type for is JSON text.

        Raises:
            ConfigError: polars is not installed.
        """
        from .frames import to_polars

        return to_polars(self)

    def __repr__(self) -> str:
        ended = "interrupted, " if self.interrupted else "stopped, " if self.stopped else ""
        where = "memory" if self.output is None else str(self.output)
        return (
            f"RunResult({ended}{self.total} rows: {self.ok} ok, {self.failed} failed, {self.undone} undone,"
            f" {self.skipped} of them from earlier runs; {where})"
        )


def read_results(path: str | Path, *, only: KeyTable | None = None, ordered: bool = True) -> Iterator[ResultRow]:
    """The rows of a results file, the latest line of each.

    Args:
        path: the file.
        only: rows that a run has met in its input; others are left out, and those that it asks in another way.
        ordered: in the order of the input; otherwise as they stand in the file, which a disk reads faster.

    Raises:
        ConfigError: the file holds something that is no result.
    """
    path = Path(path)
    table = KeyTable() if only is None else only
    places = array("Q", [_NOT_THERE]) * len(table)
    begin = 0
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            head = head_of(line)
            if head is not None:
                slot = table.find(head.key)
                if slot < 0 and only is None:
                    slot = table.add(head.key)
                    places.append(_NOT_THERE)
                if only is None:
                    places[slot] = begin
                    table.index[slot] = head.position
                elif slot >= 0 and table.count[slot]:
                    places[slot] = begin if head.fingerprint == table.fingerprint(slot) else _NOT_THERE
            elif line.endswith(b"\n") and not line.isspace():
                raise ConfigError(f"{path} is no results file of bulkllm, or is damaged; running into it mends that")
            begin += len(line)
        found = (slot for slot, place in enumerate(places) if place != _NOT_THERE)
        for slot in sorted(found, key=table.index.__getitem__ if ordered else places.__getitem__):
            file.seek(places[slot])
            yield ResultRow.from_line(file.readline())


def in_order(rows: Iterable[ResultRow], variants: Sequence[str | None]) -> Iterator[ResultRow]:
    """Rows in the order of the input, those of one row of the input in the order of the models.

    Args:
        rows: in the order of the input.
        variants: the models, as rows call them. A row that was asked before there were several has none: it is taken
            for the one that is missing.
    """
    if len(variants) < 2:  # noqa: PLR2004 - several
        yield from rows
        return
    for _, group in groupby(rows, key=lambda row: row.index):
        together = list(group)
        there = {row.variant for row in together}
        missing = next((place for place, variant in enumerate(variants) if variant not in there), len(variants))
        if len(together) == len(there) == len(variants) and None in there and missing < len(variants):
            next(row for row in together if row.variant is None).variant = variants[missing]
        places = {None: missing} | {variant: place for place, variant in enumerate(variants)}
        yield from sorted(together, key=lambda row: places.get(row.variant, len(variants)))


def plain(value: Any, lost: list[str] | None = None) -> Any:
    """An object that was parsed out of an answer, as plain JSON; as text what a model of its own cannot write.

    Where a computed field raises, only the declared ones; None where these cannot be written either.

    Args:
        value: the object.
        lost: is given the type of an object that is not whole.
    """
    dump = getattr(value, "model_dump", None)
    if dump is None:
        return value
    lost = [] if lost is None else lost
    for way in _DUMPS:
        with contextlib.suppress(Exception):  # what a model's own code raises
            found = dump(**way)
            found = found if way["mode"] == "json" else json.loads(encode(found))
            if "round_trip" in way:
                lost.append(type(value).__name__)
            return found
    lost.append(type(value).__name__)
    return None


def text_of(body: Any) -> str | None:
    """The text of an answer given as plain JSON: a chat completion or a response of the Responses API."""
    try:
        if "choices" in body:
            text = body["choices"][0]["message"]["content"]
        else:
            parts = [part for item in body["output"] if item["type"] == "message" for part in item["content"]]
            text = "".join(part["text"] for part in parts if part["type"] == "output_text")
    except (KeyError, IndexError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _litellm_object(body: Mapping[str, Any]) -> Any:
    from .. import _litellm

    litellm = _litellm.load()
    kind = body.get("object")
    if kind == "list":
        return litellm.EmbeddingResponse(**body)
    if kind == "response":
        return litellm.types.llms.openai.ResponsesAPIResponse(**body)
    return litellm.ModelResponse(**body)
