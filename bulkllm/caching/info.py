"""What a cache says about itself.

What may live here: values, and adding up what is in memory. What is on disk is added up by SQLite, in :mod:`.entries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .entries import KindSummary, Summary
from .shelf import Row


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache holds.

    Attributes:
        path: the file, or None for one in memory only.
        entries: how many answers.
        bytes: how large they are together, which is what ``max_bytes`` bounds.
        file_bytes: how large the file is; 0 in memory.
        max_bytes: the bound.
        max_age: seconds after which an answer is not used any more, or None.
        worth: what the answers cost when they were paid, in USD, as far as that is known.
        kinds: the same by kind of answer.
        oldest: when the oldest was kept, in seconds since 1970; None where there is none.
        newest: when the newest was kept.
        last_used: when one was used last, as far as that was written down (uses are noted by the hour).
        damaged: files that were set aside because they were damaged; they can be deleted.
    """

    path: Path | None
    entries: int
    bytes: int
    file_bytes: int
    max_bytes: int
    max_age: float | None
    worth: float
    kinds: Mapping[str, KindSummary] = field(default_factory=dict)
    oldest: float | None = None
    newest: float | None = None
    last_used: float | None = None
    damaged: tuple[Path, ...] = ()


def summary_of(rows: Iterable[Row]) -> Summary:
    """What there is among these rows, by kind."""
    kinds: dict[str, KindSummary] = {}
    created: list[float] = []
    used: list[float] = []
    for row in rows:
        so_far = kinds.get(row.kind, KindSummary(0, 0, 0.0))
        kinds[row.kind] = KindSummary(so_far.count + 1, so_far.size + row.size, so_far.cost + (row.cost or 0.0))
        created.append(row.created)
        used.append(row.used)
    return Summary(kinds, min(created, default=None), max(created, default=None), max(used, default=None))
