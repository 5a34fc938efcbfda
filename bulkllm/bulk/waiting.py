"""Rows on their way: met and not yet asked, waiting for their turn, and ready to be asked.

What may live here: these values, and the line in which rows of a file wait, of which a million fit into 20 MB. Pure.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import RequestFileError
from .request import BulkRequest, Draft

PoolName: TypeAlias = tuple[str, str | None, str | None] | None
"""Model, endpoint and the row's own key; None for rows that cannot be asked."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be asked, for the reason given."""

    index: int
    custom_id: str | None
    key: bytes
    error: RequestFileError
    carried: Mapping[str, Any]


Item: TypeAlias = BulkRequest | BadRow


@dataclass(slots=True)
class Met:
    """A row that is to be asked, as far as it is known yet."""

    slot: int
    draft: Draft | None
    error: RequestFileError | None
    name: str | None = None
    model: int = 0

    @property
    def pool(self) -> PoolName:
        """Where it stands in line."""
        return None if self.draft is None or self.error is not None else self.draft.pool


class Waiting:
    """Rows that wait for their turn as four numbers each, to be read again when it comes."""

    __slots__ = ("_lines", "_models", "_next", "_places", "_slots")

    def __init__(self) -> None:
        self._slots = array("I")
        self._places = array("Q")
        self._lines = array("I")
        self._models = array("H")
        self._next = 0

    def __len__(self) -> int:
        return len(self._slots) - self._next

    def append(self, slot: int, place: int, line: int, model: int) -> None:
        """Stand in line."""
        self._models.append(model)
        self._slots.append(slot)
        self._places.append(place)
        self._lines.append(line)

    def first(self) -> int:
        """The slot of the first in line."""
        return self._slots[self._next]

    def pop(self) -> tuple[int, int, int, int]:
        """The first in line: slot, place, line, and which of the run's models."""
        at = self._next
        self._next = at + 1
        return self._slots[at], self._places[at], self._lines[at], self._models[at]

    def slots(self) -> Sequence[int]:
        """The slots that stand in line."""
        return self._slots[self._next :]

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Let only those slots stand in line that are wanted."""
        kept = [at for at in range(self._next, len(self._slots)) if wanted(self._slots[at])]
        self._slots = array("I", [self._slots[at] for at in kept])
        self._places = array("Q", [self._places[at] for at in kept])
        self._lines = array("I", [self._lines[at] for at in kept])
        self._models = array("H", [self._models[at] for at in kept])
        self._next = 0
