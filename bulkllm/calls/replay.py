"""A kept answer, given as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from ..accounting import UsageRecord
from .fold import StreamFold


class ReplayedStream:
    """Chunks of an answer that was kept, for ``for`` and ``async for``; used as :class:`.stream.CallStream` is."""

    def __init__(self, pieces: Sequence[Any], record: UsageRecord, *, swallow_usage: bool) -> None:
        fold = StreamFold()
        shown = [piece for piece in pieces if not (fold.add(piece)[1] and swallow_usage)]
        self._pieces = iter(shown)
        self.record = record

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._pieces)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    def close(self) -> None:
        """Read no more."""
        self._pieces = iter(())

    async def aclose(self) -> None:
        """Read no more."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
