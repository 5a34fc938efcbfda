"""What the rows in a results file have used already, for the sake of a budget.

What may live here: adding it up. A row that was asked again keeps what its earlier lines had used under ``before``,
since these lines go when the file is compacted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..accounting import Amount
from .lines import head_of

if TYPE_CHECKING:
    from .journal import Journal
    from .keytable import KeyTable

_ABOUT: Final = b'"bulkllm":'
_BEFORE: Final = b'"before":'
_NOTHING: Final = Amount(0.0, 0.0, 0.0)


def spent_in(journal: Journal) -> Amount:
    """What all rows of a results file have used: with what may have been charged for attempts that nobody knows of."""
    return spent_by(journal.path, journal.table)


def spent_by(path: Path, table: KeyTable) -> Amount:
    """The same of a file that nobody has opened; the table knows where each row's latest line begins."""
    total, begin = _NOTHING, 0
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            head = head_of(line)
            if head is not None and table.place[table.find(head.key)] == begin:
                total = _sum(total, spent_on(line))
            begin += len(line)
    return total


def spent_on(line: bytes) -> Amount:
    """What one row has used, with its earlier lines."""
    about = _about(line)
    usage = about.get("usage") or {}
    tokens = 0 if about.get("cached") else usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    own = Amount(
        (about.get("cost") or 0.0) + (about.get("uncertain_cost") or 0.0),
        float(about.get("tokens", tokens) + about.get("uncertain_tokens", 0)),
        float(about.get("calls") or bool(about.get("attempts"))),
    )
    return _sum(own, _before(about))


def paid_before(line: bytes) -> float:
    """US dollars that a row's earlier lines had cost, which are not in the file any more."""
    return _before(_about(line)).cost if _BEFORE in line else 0.0


def superseded_in(path: Path) -> Amount:
    """What the rows of a results file had used before the asks that their latest lines tell of."""
    found: dict[bytes, Amount] = {}
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            head = head_of(line)
            if head is not None and (_BEFORE in line or head.key in found):
                found[head.key] = _before(_about(line))
    return reduce(_sum, found.values(), _NOTHING)


def _before(about: Mapping[str, Any]) -> Amount:
    before = about.get("before")
    return _NOTHING if before is None else Amount(before["cost"], before["tokens"], before["requests"])


def _about(line: bytes) -> Mapping[str, Any]:
    """What stands in a line under ``bulkllm``, if possible without parsing the answer."""
    try:
        found: Mapping[str, Any] = json.loads(line[line.rindex(_ABOUT) + len(_ABOUT) : line.rindex(b"}")])
    except ValueError:  # a column of that name, or another tool's writing
        found = json.loads(line)["bulkllm"]
    return found if "key" in found else json.loads(line)["bulkllm"]


def _sum(one: Amount, other: Amount) -> Amount:
    return Amount(*(mine + theirs for mine, theirs in zip(one, other, strict=True)))
