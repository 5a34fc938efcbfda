"""Which rows are to be asked: each row of the input is met here once, and compared with what is done.

What may live here: that decision, and what it remembers. Nothing is sent, and the only thing ever written is a
finished row's line with other columns.
"""

from __future__ import annotations

import heapq
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import RequestFileError
from .changes import Changes
from .identity import key_of_bad, key_of_id, key_of_line, key_of_variant, nth_key
from .journal import Journal
from .keytable import KeyTable, State
from .lines import encode, encode_columns, head_of, with_columns
from .rawrow import CURE, RawRow
from .request import Draft, Shaper
from .sources import Indexed
from .waiting import BadRow, Item, Met, PoolName, Waiting

logger = logging.getLogger(__name__)


class Intake:
    """Meets the rows of the input.

    Args:
        shapers: understand rows, one for each model that rows are to be asked of.
        table: what is known of rows; the journal's, if there is one.
        journal: the results file, if there is one.
        path: the input file, for error texts.
        redo_changed: ask again however many finished rows have changed.
        retry_failed: ask again for rows that failed for a reason that stays.
        skip_bad: a row that cannot be understood fails, instead of ending the run.

    Attributes:
        rows: rows met.
        total: what the rows come to: with several models, each row once for each.
        ok: rows met that have an answer from an earlier run.
        failed: rows met that failed in an earlier run for good.
    """

    def __init__(
        self,
        shapers: Sequence[Shaper],
        table: KeyTable,
        journal: Journal | None,
        *,
        path: Path | None = None,
        redo_changed: bool = False,
        retry_failed: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self._shapers = tuple(shapers)
        self._table = table
        self._journal = journal
        self._path = path
        self._retry_failed = retry_failed
        self._skip_bad = skip_bad
        self._mending = True  # until the disk refuses
        self._unnamed: array[int] | None = None  # by slot, how many of equal rows without a name have got one now
        self._changes = Changes(table.state.count(State.OK), len(self._shapers), allowed=redo_changed)
        self._looked_at: Counter[int] = Counter()
        self.rows = 0
        self.total = 0
        self.ok = 0
        self.failed = 0

    def meet(self, raw: RawRow) -> list[Met]:
        """Take a row in.

        Returns:
            The row, for each model that is to be asked for it; nothing if it is done.

        Raises:
            RequestFileError: it cannot be understood, or its ``custom_id`` was there before (unless bad rows may fail).
            ConfigError: it is one changed row too many.
        """
        index = self.rows
        self.rows += 1
        to_ask: list[Met] = []
        for number, shaper in enumerate(self._shapers):
            self.total += 1
            draft, key, print_, error = self._understand(raw, shaper)
            met = self._meet(raw, index, number, draft, key, print_, error)
            if met is not None:
                to_ask.append(met)
            if draft is None or draft.own.get("model"):
                break  # a row that nobody understands fails once, and one that names its model is asked of that
        if self._changes.finished:
            self._compare_by_name(to_ask, number + 1)
        return to_ask

    def _compare_by_name(self, to_ask: list[Met], models: int) -> bool:
        """See whether a row by this name was finished for one model where several are asked now, or the reverse.

        The very same request goes on under its new key; if nothing is known of the row under any, then it has changed.
        So has a row that was finished without a name, and has one now.

        Raises:
            ConfigError: it is one changed row too many.
        """
        table = self._table
        if len(to_ask) < models or any(table.state[met.slot] != State.NEW for met in to_ask):
            return False
        draft = to_ask[0].draft
        if draft is None or draft.custom_id is None:
            return False
        plain = key_of_id(draft.custom_id)
        for number, shaper in enumerate(self._shapers):
            slot = table.find(plain if shaper.variant is not None else key_of_variant(plain, shaper.label))
            if slot >= 0 and table.state[slot] == State.OK and not table.count[slot]:
                self._changes.met(number, changed=True)
                return True
        return sum(self._was_unnamed(met) for met in to_ask) > 0

    def _was_unnamed(self, met: Met) -> bool:
        """Whether a row that has a name was finished without one, as it would be asked now.

        Raises:
            ConfigError: it is one changed row too many.
        """
        if met.draft is None or met.error is not None:
            return False
        table, shaper = self._table, self._shapers[met.model]
        draft = replace(met.draft, custom_id=None)
        key, print_ = shaper.identify(draft)
        key = self._key_of(shaper, draft, key, print_)
        first = table.find(key)
        if self._unnamed is None:
            self._unnamed = array("I", bytes(4 * len(table)))
        if not 0 <= first < len(self._unnamed):
            return False
        slot = table.find(nth_key(key, self._unnamed[first]))
        if slot < 0 or table.state[slot] != State.OK or table.count[slot] or table.fingerprint(slot) != print_:
            return False
        self._unnamed[first] += 1
        self._changes.met_unnamed(met.model)
        return True

    def _meet(
        self,
        raw: RawRow,
        index: int,
        number: int,
        draft: Draft | None,
        key: bytes,
        print_: bytes,
        error: RequestFileError | None,
    ) -> Met | None:
        table = self._table
        slot = table.find(key)
        if slot < 0:
            slot = table.add(key)
        times = table.count[slot]
        table.count[slot] = times + 1
        if times:
            if draft is not None and draft.custom_id is not None and error is None:
                error = self._repeated(draft.custom_id, table.index[slot], raw)
                print_ = key
            key = nth_key(key, times)
            slot = table.find(key)
            if slot < 0:
                slot = table.add(key)
            table.count[slot] += 1
        if not self._to_be_asked(slot, draft, print_, index, number):
            return None
        return Met(slot, draft, error, None if draft is not None else name_of(raw.data), number)

    def _understand(self, raw: RawRow, shaper: Shaper) -> tuple[Draft | None, bytes, bytes, RequestFileError | None]:
        """The draft, key and fingerprint of a row, or why there is no draft."""
        data = raw.data
        if not isinstance(data, RequestFileError):
            try:
                draft = shaper.draft(data)
                key, print_ = shaper.identify(draft)
            except RequestFileError as problem:
                error = self.placed(problem, raw.line)
            else:
                return draft, self._key_of(shaper, draft, key, print_), print_, None
        else:
            error = data
        if not self._skip_bad:
            raise error
        # Under a key of its own: the good row of this name may have a paid answer, and is to be had when it is mended.
        custom_id = name_of(data)
        key = key_of_line(raw.text or _shown(data)) if custom_id is None else key_of_bad(custom_id)
        return None, key, key, error

    def _key_of(self, shaper: Shaper, draft: Draft, plain: bytes, print_: bytes) -> bytes:
        """The key under which a row is known.

        Of one model it is the row's own, of several each has one. If the very same request was finished under the
        other of the two, then that one goes on: a model may be added to a run, or asked alone after it.
        """
        several = shaper.variant is not None and not draft.own.get("model")
        if not several and not self._changes.finished:
            return plain
        own = key_of_variant(plain, shaper.label) if several else plain
        if not self._changes.finished:
            return own
        slot = self._table.find(own)
        if slot < 0 or self._table.fingerprint(slot) != print_:
            other = plain if several else key_of_variant(plain, shaper.label)
            slot = self._table.find(other)
            if slot >= 0 and self._table.fingerprint(slot) == print_:
                return other
        return own

    def _repeated(self, custom_id: str, first: int, raw: RawRow) -> RequestFileError:
        problem = f"custom_id {custom_id!r:.80} was there before, in row {first + 1}; each may stand only once"
        error = self.placed(RequestFileError(problem), raw.line)
        if not self._skip_bad:
            raise error
        return error

    def _to_be_asked(self, slot: int, draft: Draft | None, print_: bytes, index: int, number: int) -> bool:
        table = self._table
        state = table.state[slot]
        changed = state != State.NEW and table.fingerprint(slot) != print_
        ask = True
        if state == State.OK:
            self._changes.met(number, changed=changed)
            if not changed:
                ask = False
                self.ok += 1
        elif state == State.REFUSED and not changed and not self._retry_failed:
            ask = False
            self.failed += 1
        elif state == State.NEW and draft is not None and draft.custom_id is None:
            self._changes.met_new(number)
        if state != State.NEW and table.index[slot] != index and self._journal is not None:
            self._journal.moved = True
        table.index[slot] = index
        if ask:
            table.set_fingerprint(slot, print_)
        elif draft is not None and self._journal is not None:
            self._mend_columns(self._journal, slot, draft, index)
        return ask

    def _mend_columns(self, journal: Journal, slot: int, draft: Draft, index: int) -> None:
        """Give a finished row's line the columns that the row has now, if the disk lets us."""
        if not self._mending or encode_columns(draft.carried)[1] == self._table.crc[slot]:
            return
        try:
            line = with_columns(journal.read(slot), draft.carried, index)
            head = head_of(line)
            if head is not None:
                journal.append(slot, line, head)
        except OSError as error:
            self._mending = False
            logger.warning(
                "finished rows of %s keep the columns that they had (%s): mend that, and the next run of the same will"
                " bring them up to date", journal.path, error.strerror,
            )  # fmt: skip

    def count_all_changes(self) -> None:
        """Say how many finished rows have changed when all are met, and not at the first one too many."""
        self._changes.counts_all = True

    @property
    def looks_changed(self) -> bool:
        """Whether too many finished rows have changed, if none of those that were not met comes any more."""
        return self._changes.looks_changed

    def look(self, raw: RawRow) -> None:
        """See whether a row is there that was finished, and is not to be asked or counted now."""
        table = self._table
        for number, shaper in enumerate(self._shapers):
            try:
                draft = shaper.draft(raw.data)
                key, print_ = shaper.identify(draft)
            except RequestFileError:
                return
            first = self._key_of(shaper, draft, key, print_)
            slot = table.find(first)
            if slot >= 0:
                self._looked_at[slot] += 1
                slot = table.find(nth_key(first, table.count[slot] + self._looked_at[slot] - 1))
            if slot >= 0 and table.state[slot] == State.OK:
                self._changes.met(number, changed=False)
            if draft.own.get("model"):
                return

    def all_met(self) -> None:
        """The whole input has been met.

        Raises:
            ConfigError: too many finished rows have changed.
        """
        self._changes.all_met()

    def thin(self, sample: int, lines: Mapping[PoolName, Waiting]) -> None:
        """Leave only a sample of the rows met: those with the smallest keys, which are digests.

        So the same sample comes again, and a larger one holds the smaller one.
        """
        table = self._table
        met = [slot for slot in range(len(table)) if table.count[slot]]
        kept = set(heapq.nsmallest(sample, met, key=table.key))
        waiting: set[int] = set()
        for line in lines.values():
            line.keep(kept.__contains__)
            waiting.update(line.slots())
        done = kept - waiting
        self.total = len(kept)
        self.ok = sum(table.state[slot] == State.OK for slot in done)
        self.failed = len(done) - self.ok
        for slot in met:
            if slot not in kept:
                table.count[slot] = 0

    def item(self, met: Met) -> Item:
        """The request of a row that was just met."""
        index = self._table.index[met.slot]
        key = self._table.key(met.slot)
        if met.error is None and met.draft is not None:
            return self._shapers[met.model].request(
                met.draft, index=index, key=key, print_=self._table.fingerprint(met.slot)
            )
        error = met.error or RequestFileError("cannot be understood")
        draft = met.draft
        if draft is None:
            return BadRow(index, met.name, key, error, {})
        return BadRow(index, draft.custom_id, key, error, draft.carried)

    def item_again(self, source: Indexed, slot: int, place: int, line: int, model: int, *, bad: bool) -> Item:
        """The request of a row that was met in a scan, read again.

        Raises:
            RequestFileError: the source has changed since.
        """
        draft: Draft | None = None
        data: object = None
        try:
            data = source.read(place, line)
            source.verify()
            shaper = self._shapers[model]
            draft = shaper.draft(data)
            if not bad:
                return self.item(Met(slot, draft, None, None, model))
            shaper.identify(draft)
            error = RequestFileError("custom_id was there before; each may stand only once")
        except RequestFileError as problem:
            source.verify()
            if not bad:
                raise
            error = problem
        return self.item(Met(slot, draft, self.placed(error, line), name_of(data)))

    def placed(self, error: RequestFileError, line: int) -> RequestFileError:
        """The error with the place of its row."""
        if error.line is not None:
            return error
        return RequestFileError(error.problem + CURE, path=self._path, line=line)


def _shown(data: object) -> bytes:
    try:
        return repr(data).encode()
    except Exception:  # noqa: BLE001 - the row is the user's, and so is what its text raises
        return encode(data)


def name_of(data: object) -> str | None:
    """The ``custom_id`` that a row which cannot be understood gives itself, if it is one."""
    custom_id = data.get("custom_id") if isinstance(data, Mapping) else None
    if isinstance(custom_id, int) and not isinstance(custom_id, bool):
        custom_id = str(custom_id)
    return custom_id if isinstance(custom_id, str) and custom_id else None


def scan(source: Indexed, intake: Intake, *, limit: int | None, stop: Callable[[], bool]) -> dict[PoolName, Waiting]:
    """Meet all rows of a source that can be read again, before anything is asked.

    Args:
        source: the rows.
        intake: meets them.
        limit: only so many rows.
        stop: whether to give up.

    Returns:
        The rows to be asked, by pool, in the order of the input.
    """
    pools: dict[PoolName, Waiting] = {}
    whole = True
    intake.count_all_changes()
    for raw in source.scan():
        if stop():
            whole = False
            break
        if limit is not None and intake.rows >= limit:
            if not intake.looks_changed:
                whole = False
                break
            intake.look(raw)
            continue
        for met in intake.meet(raw):
            pools.setdefault(met.pool, Waiting()).append(met.slot, raw.place, raw.line, met.model)
    source.verify()  # a file that grew while it was read would look as if it ended there
    if whole:
        intake.all_met()
    return pools
