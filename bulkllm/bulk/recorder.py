"""What becomes of a finished row: its line in the results file, and the sums.

What may live here: turning answers and errors into lines, counting them, and what is done when the disk refuses.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..accounting import UsageRecord
from .asking import calls_of, tokens_of
from .journal import Journal
from .keytable import State
from .lines import Head, encode, encode_columns, result_line
from .result import RowError, plain
from .spent import spent_on
from .waiting import Item

logger = logging.getLogger(__name__)

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ID_HEADERS = ("llm_provider-x-request-id", "llm_provider-request-id", "llm_provider-apim-request-id")


class Recorder:
    """Writes finished rows down, and counts them.

    Attributes:
        ok: rows of this run with an answer.
        failed: rows of this run with an error.
        tokens: used by this run.
        cost: US dollars that this run cost, as far as known.
        unpriced: answers whose cost is not known.
        failures: failed rows by the error's class.
        trouble: why finished rows could not be written, and what to do, or None.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._unwritten: list[tuple[int, bytes, Head]] = []
        self._lossy = False
        self.ok = 0
        self.failed = 0
        self.tokens = 0
        self.cost = 0.0
        self.unpriced = 0
        self.failures: Counter[str] = Counter()
        self.trouble: str | None = None

    def answered(
        self, slot: int, item: Item, response: Any, record: UsageRecord | None, print_: bytes, parsed: Any = None
    ) -> None:
        """A row has an answer."""
        self.ok += 1
        self._count(record)
        if self._journal is None:
            return
        self._write(
            slot,
            item,
            State.OK,
            "ok",
            print_,
            record,
            body=_json(response),
            request_id=_request_id(response),
            parsed=parsed,
        )

    @property
    def writes(self) -> bool:
        """Whether there is a results file."""
        return self._journal is not None

    def refused(
        self,
        slot: int,
        item: Item,
        error: RowError,
        record: UsageRecord | None,
        print_: bytes,
        *,
        passing: bool,
        response: Any = None,
    ) -> None:
        """A row has an error in the answer's place, or beside an answer that cannot be used but was paid."""
        self.failed += 1
        self.failures[error.code] += 1
        self._count(record)
        if self._journal is None:
            return
        told: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.status is not None:
            told["status"] = error.status
        state = State.FAILED if passing else State.REFUSED
        body = None if response is None else _json(response)
        self._write(slot, item, state, error.code, print_, record, body=body, error=told)

    def given_up(self, slot: int, item: Item, error: RowError, record: UsageRecord, print_: bytes) -> None:
        """A row stays undone, and what it has cost, or may have, is written down."""
        self._count(record)
        told = {"code": error.code, "message": error.message}
        self._write(slot, item, State.FAILED, error.code, print_, record, body=None, error=told)

    def rescue(self) -> None:
        """Try once more to write what could not be written; failing that, put it where there is room."""
        journal = self._journal
        if journal is None or not self._unwritten:
            return
        left = self._unwritten
        try:
            while left:
                journal.append(*left[0])
                del left[0]
        except OSError as error:
            logger.warning("%d finished row(s) still cannot be written: %s", len(left), error.strerror)
        if not left:
            return
        try:
            fd, name = tempfile.mkstemp(prefix=f"{journal.path.stem}-", suffix=".jsonl")
            with os.fdopen(fd, "wb") as file:
                file.writelines(line for _, line, _ in left)
                os.fsync(fd)
        except OSError as error:
            self.trouble = (
                f"{self.trouble}; {len(left)} answers are lost: there was no room for them anywhere ({error})"
            )
            return
        self.trouble = (
            f"{self.trouble}; {len(left)} finished rows were kept in {name}:"
            f" append that file to {journal.path} before the next run"
        )

    def _count(self, record: UsageRecord | None) -> None:
        if record is None:
            return
        self.tokens += record.total_tokens
        if record.cost is None:
            self.unpriced += 1
        else:
            self.cost += record.cost

    def _write(
        self,
        slot: int,
        item: Item,
        state: State,
        outcome: str,
        print_: bytes,
        record: UsageRecord | None,
        *,
        body: bytes | None = None,
        request_id: str | None = None,
        error: dict[str, Any] | None = None,
        parsed: Any = None,
    ) -> None:
        assert self._journal is not None  # noqa: S101 - both callers have looked
        cost = None if record is None else record.cost
        told = {} if record is None else _told(record)
        if self._journal.table.state[slot] != State.NEW:
            told |= _before(self._journal, slot)
        variant = getattr(item, "variant", None)
        if variant is not None:
            told["variant"] = variant
        lost: list[str] = []
        if parsed is not None:
            told["parsed"] = plain(parsed, lost)
        columns, crc = encode_columns(item.carried, lost)
        if lost and not self._lossy:
            self._lossy = True
            logger.warning(
                "row %d holds what cannot be written as JSON (%s), and so may others: the answer is whole in %s, a"
                " column has the name of its type there, and `parsed` what could be written of it",
                item.index + 1, ", ".join(dict.fromkeys(lost)), self._journal.path,
            )  # fmt: skip
        head = Head(item.key, print_, state, item.index, crc, outcome, cost)
        line = result_line(
            custom_id=item.custom_id,
            head=head,
            columns=columns,
            record=told,
            body=body,
            request_id=request_id,
            error=error,
        )
        try:
            self._journal.append(slot, line, head)
        except OSError as problem:
            self._unwritten.append((slot, line, head))
            if self.trouble is None:
                self.trouble = _trouble(self._journal.path, problem)


def _told(record: UsageRecord) -> dict[str, Any]:
    told = record.to_dict()
    if (calls := calls_of(record)) > 1:
        told["calls"] = calls
    if not record.cached and (tokens := tokens_of(record)) != record.total_tokens:
        told["tokens"] = tokens
    return told


def _before(journal: Journal, slot: int) -> dict[str, Any]:
    """What the line that is superseded now had cost: a budget counts it."""
    try:
        used = spent_on(journal.read(slot))
    except (OSError, ValueError):
        logger.warning("what a row of %s had cost before cannot be read again, and is not counted", journal.path)
        return {}
    return {"before": used._asdict()} if any(used) else {}


def _trouble(path: Path, error: OSError) -> str:
    if error.errno in _NO_ROOM:
        return f"no room to write to {path} ({error.strerror}): free some, then run the same again"
    return f"cannot write to {path} ({error.strerror}): mend that, then run the same again"


def _json(response: Any) -> bytes:
    """An answer as JSON."""
    dump = getattr(response, "model_dump_json", None)
    if dump is None:
        return encode(response)
    with contextlib.suppress(Exception):
        text: str = dump(warnings=False)
        return text.encode()
    with contextlib.suppress(Exception):  # pydantic writes no half surrogate pairs; we write them escaped
        return encode(response.model_dump(warnings=False))
    return encode(plain(response))


def _request_id(response: Any) -> str | None:
    """The provider's own name for the request, as its support asks for it."""
    hidden = getattr(response, "_hidden_params", None)
    headers = hidden.get("additional_headers") if isinstance(hidden, Mapping) else None
    if headers:
        for name in _ID_HEADERS:
            if name in headers:
                return str(headers[name])
    told = response.get("id") if isinstance(response, dict) else getattr(response, "id", None)
    return told if isinstance(told, str) else None
