"""A streamed answer on its way to the caller: what it adds up to, and its books.

The stream carries its reservation along, and settles it when it is exhausted, closed or dropped: whichever comes
first. Settling never waits and never awaits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from ..accounting import Usage, UsageRecord
from ..limits import Reservation
from ..limits.estimate import Estimate
from ..limits.word import Word
from .account import Account, attach_to_error
from .call import Call
from .closing import aclose_source, close_source
from .effects import Effect
from .fold import StreamFold
from .lane import Answer
from .parts import Parts
from .quota import hear_failure, settle
from .wallclock import OutOfTimeError, run_within

logger = logging.getLogger(__name__)


class Keeper(Protocol):
    """Whoever keeps what a stream brings."""

    def add(self, chunk: Any) -> None:
        """One more chunk."""

    def store(self, stream: CallStream) -> Effect | None:
        """What is to be done at the end of the stream, whose books are closed; it must not raise."""


class CallStream:
    """LiteLLM's stream, with the same chunks, for ``for`` or ``async for`` as the call was made.

    It ends as one record: :attr:`record`, None until then. Closing it, leaving its ``with`` block, breaking off and
    dropping it each end it too; its record then says ``cancelled`` and counts what had come. Attributes that are not
    here are those of LiteLLM's stream.
    """

    def __init__(
        self,
        parts: Parts,
        call: Call,
        account: Account,
        reservation: Reservation | None,
        estimate: Estimate,
        source: Any,
    ) -> None:
        self._parts = parts
        self._call = call
        self._account = account
        self._reservation = reservation
        self._estimate = estimate
        self._source = source
        self._fold = StreamFold()
        self._keeper: Keeper | None = None
        self._ends_at = None if call.timeout is None else parts.clock() + call.timeout - account.since_sent

    @property
    def record(self) -> UsageRecord | None:
        """What the call used and cost; None while the stream is being read."""
        return self._account.record

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_source":
            raise AttributeError(name)
        return getattr(self._source, name)

    # -- in a thread -----------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                chunk = self._next()
            except StopIteration:
                store = self._finish()
                if store is not None:
                    store.perform()
                raise
            except BaseException as error:
                self._break(error)
                close_source(self._source)
                raise
            if self._take(chunk):
                return chunk

    def _next(self) -> Any:
        if self._ends_at is None:
            return next(self._source)
        left = self._ends_at - self._parts.clock()
        if left <= 0:
            raise self._parts.lane.timed_out(self._call)
        try:
            return run_within(left, lambda: next(self._source), discard=_forget)
        except OutOfTimeError:
            raise self._parts.lane.timed_out(self._call) from None

    def close(self) -> None:
        """Stop reading: the record is made, and then the connection given back."""
        self._abandon()
        close_source(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- in a task -------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while True:
            try:
                chunk = await self._anext()
            except StopAsyncIteration:
                store = self._finish()
                if store is not None:
                    await store.aperform()
                raise
            except BaseException as error:
                self._break(error)
                raise
            if self._take(chunk):
                return chunk

    async def _anext(self) -> Any:
        left = None if self._ends_at is None else max(0.0, self._ends_at - self._parts.clock())
        scope = asyncio.timeout(left)
        try:
            async with scope:
                return await anext(self._source)
        except TimeoutError:
            if scope.expired():
                raise self._parts.lane.timed_out(self._call) from None
            raise

    async def aclose(self) -> None:
        """Stop reading: the record is made, and then the connection given back."""
        self._abandon()
        await aclose_source(self._source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- the books -------------------------------------------------------------------------------------------

    def keep_with(self, keeper: Keeper) -> None:
        """Have what comes kept, if it comes to its end."""
        self._keeper = keeper

    def _take(self, chunk: Any) -> bool:
        """Book a chunk. Whether the caller is to see it."""
        content, only_usage = self._fold.add(chunk)
        self._account.watches.chunk(chunk)
        if self._keeper is not None:
            self._keeper.add(chunk)
        if content:
            self._account.first_token()
        return not (only_usage and self._call.adds_usage_chunk)

    def _finish(self) -> Effect | None:
        """The books of a stream that came to its end; what is to be done so that it is kept."""
        if self._account.record is not None:
            return None
        try:
            self._settle_whole()
        except Exception:  # the answer is paid: books that break must not take it away
            logger.exception("the books of a stream of %s broke: its cost is unknown", self._call.model)
            self._end_early("ok")
            return None
        keeper, self._keeper = self._keeper, None
        return None if keeper is None else keeper.store(self)

    def _settle_whole(self) -> None:
        call, estimate = self._call, self._estimate
        answer = self._parts.lane.streamed_answer(call, self._fold, self._source)
        used = answer.usage
        guess = self._fold.usage or self._guess() if used is None else None
        self._settle(None if answer.from_cache else used or guess)
        if used is not None and estimate.characters and not answer.from_cache:
            self._parts.estimator.learn(call.model, estimate.characters, used.input_tokens, used.output_tokens)
            self._parts.lengths.learn(call.model, used.output_tokens)
        self._account.close("ok", answer, estimated=guess)

    def _break(self, error: BaseException) -> None:
        """The provider broke off, or the reader was cancelled: counted with what had come."""
        if isinstance(error, Exception):
            if self._reservation is not None:  # some of LiteLLM's streams are sent when they are first read
                failure = self._parts.lane.failure(error)
                hear_failure(self._parts, self._call, failure, error, self._tell)
            self._end_early(type(error).__name__)
            if self._account.record is not None:
                attach_to_error(error, self._account.record)
        else:
            self._end_early("cancelled")

    def _tell(self, word: Word | None) -> None:
        if word is not None and self._reservation is not None:
            self._reservation.heard(word)

    def _abandon(self) -> None:
        self._end_early("cancelled")

    def _end_early(self, outcome: str) -> None:
        self._keeper = None
        if self._account.record is None and self._parts.lane.from_cache(self._source):
            self._settle(None)
            self._account.close(outcome, Answer(self._fold.usage, None, model=self._fold.model, from_cache=True))
        elif self._account.record is None:
            usage = self._guess()
            self._settle(usage)
            self._account.close(outcome, estimated=usage)

    def _guess(self) -> Usage:
        estimate = self._estimate
        if not estimate.characters:
            estimate = self._parts.estimator.estimate(self._call.operation, self._call.model, self._call.options)
        return self._fold.estimated(estimate.input_tokens)

    def _settle(self, usage: Usage | None) -> None:
        """Settle with what it used; None where nothing was sent, for LiteLLM's own cache answered."""
        reservation, self._reservation = self._reservation, None
        if reservation is None:
            return
        if usage is None:
            reservation.refund()
        else:
            settle(self._call, reservation, self._estimate, usage)

    def __del__(self) -> None:
        if "_account" in self.__dict__ and self._account.record is None:
            self._abandon()


def _forget(chunk: Any) -> None:
    """A chunk that came after its reader had gone."""
