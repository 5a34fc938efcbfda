"""Who counts what: trackers, and the scopes in which they are active.

What may live here: :class:`UsageTracker`, the context variable that holds the active ones, and how a record reaches
them. A record is handed in without ever waiting (see ``_mailbox``), so a finaliser may do it; whoever reads takes
the lock and finds all news counted.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from .._mailbox import Mailbox
from .._waits import by_kind, kind_of
from ..errors import ConfigError
from .record import UsageRecord
from .sinks import Sink, sink_at
from .totals import Totals, sound

_log = logging.getLogger(__name__)
_active: ContextVar[tuple[UsageTracker, ...]] = ContextVar("bulkllm_active_trackers", default=())

MAX_GROUPS = 512
"""How many combinations of model, provider and outcome, and how many tags, a tracker tells apart."""
OTHER = "(other)"
"""Where those beyond MAX_GROUPS are counted."""
UNKNOWN = "unknown"
"""The provider of calls that know of none."""
_VERSION = 1

By = Literal["model", "provider", "outcome", "tag"]
_Cell = tuple[str, str, str]


class UsageTracker:
    """Counts calls: in all, and by model, provider, outcome and tag.

    With ``with tracker:`` or ``async with tracker:`` it counts the calls made inside, in tasks and in
    ``asyncio.to_thread`` too; scopes nest, and each counts. A thread that does not inherit its caller's context
    calls :meth:`attach`. However often one tracker is active at once, a call counts once in it.

    Memory is constant: beyond 512 combinations of model, provider and outcome, and beyond 512 tags, further ones
    are counted together as "(other)", which is logged once.

    Reading copies and sums up (in the order of a millisecond), and must not be done in a finaliser; recording may.

    Args:
        name: what the tracker is called in reports.
        sink: is handed each record besides: the path of a JSONL file (or of an SQLite database: ``.sqlite``, ``.db``),
            or a :class:`JSONLSink`, a :class:`SQLiteSink` or one of one's own. One made from a path is complete after
            :meth:`close`, or at the end of the program.

    Raises:
        ConfigError: the sink cannot be written to.
    """

    def __init__(self, name: str | None = None, *, sink: Sink | str | os.PathLike[str] | None = None) -> None:
        self.name = name
        self._owns_sink = isinstance(sink, str | os.PathLike)
        self._sink: Sink | None = sink_at(sink) if isinstance(sink, str | os.PathLike) else sink
        self._cells: dict[_Cell, Totals] = {}
        self._tags: dict[str, Totals] = {}
        self._unsaid: deque[str] = deque(maxlen=8)
        self._said: set[str] = set()
        self._mailbox: Mailbox[UsageRecord] = Mailbox(self._count)

    # Counting

    def record(self, record: UsageRecord) -> None:
        """Count a call. Never waits and never raises; safe in a finaliser."""
        self._mailbox.post(record)
        if self._sink is not None:
            self._sink.put(record)
        if self._unsaid:
            self._say()

    def close(self) -> None:
        """Have all records written to the sink, if it was made from a path. The tracker goes on counting.

        Raises:
            OSError: some cannot be written.
        """
        sink = self._sink
        if sink is not None and self._owns_sink:
            self._sink = None
            sink.close()

    def _count(self, record: UsageRecord) -> None:
        """Take a record in; the lock is held, so nothing is logged here."""
        try:
            fit = sound(record)
            key = (fit.model, fit.provider or UNKNOWN, fit.outcome)
            cell = self._cells.get(key) or self._cell(key)
            tags = {self._tag_key(f"{name}={value}") for name, value in fit.tags.items()} if fit.tags else ()
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            self._unsaid.append(f"a call was not counted, for its record is none: {type(error).__name__}")
            return
        if fit is not record:
            self._unsaid.append("a record held impossible numbers; they were counted as 0, its cost as unknown")
        cell._add(fit)
        for tag in tags:
            self._tags[tag]._add(fit)

    def _cell(self, key: _Cell) -> Totals:
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= MAX_GROUPS:
                self._unsaid.append(f"more than {MAX_GROUPS} models, providers and outcomes: {_LUMPED}")
                key = (OTHER, OTHER, key[2] if key[2] in _OUTCOMES else OTHER)
            cell = self._cells.setdefault(key, Totals())
        return cell

    def _tag_key(self, key: str) -> str:
        if key not in self._tags:
            if len(self._tags) >= MAX_GROUPS:
                self._unsaid.append(f"more than {MAX_GROUPS} values of tags: {_LUMPED}")
                key = OTHER
            self._tags.setdefault(key, Totals())
        return key

    def _say(self) -> None:
        """Log each warning once; no lock is held here, and another thread may take them first."""
        while True:
            try:
                warning = self._unsaid.popleft()
            except IndexError:
                return
            if warning not in self._said:
                self._said.add(warning)
                _log.warning("usage tracker %s: %s", self.name or "without a name", warning)

    # Scopes

    def __enter__(self) -> Self:
        _active.set((*_active.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not by a token: two tasks may be inside one tracker and leave in any order.
        trackers = _active.get()
        for place in reversed(range(len(trackers))):
            if trackers[place] is self:
                _active.set(trackers[:place] + trackers[place + 1 :])
                return

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    @contextmanager
    def attach(self) -> Iterator[UsageTracker]:
        """Make this tracker active in a thread that did not inherit its starter's context.

        ``with usage.attach(): ...`` inside that thread, or ``Thread(target=usage.attach()(work))``.
        """
        with self:
            yield self

    # Reading

    @property
    def total(self) -> Totals:
        """Over all calls."""
        return next(iter(self._grouped(lambda _: "").values()), Totals())

    @property
    def by_model(self) -> Mapping[str, Totals]:
        """By canonical LiteLLM name."""
        return self._grouped(lambda cell: cell[0])

    @property
    def by_provider(self) -> Mapping[str, Totals]:
        """By LiteLLM's name of the provider; "unknown" where the record has none."""
        return self._grouped(lambda cell: cell[1])

    @property
    def by_outcome(self) -> Mapping[str, Totals]:
        """By "ok", "cancelled" or the name of the error's class."""
        return self._grouped(lambda cell: cell[2])

    @property
    def by_tag(self) -> Mapping[str, Totals]:
        """By "name=value"; a call with two tags is in two groups, one without tags in none."""
        with self._mailbox:
            return {key: totals._copy() for key, totals in self._tags.items()}

    def groups(self, by: By = "model") -> Mapping[str, Totals]:
        """One of the breakdowns, by its name.

        Raises:
            ConfigError: there is no such breakdown.
        """
        if by not in ("model", "provider", "outcome", "tag"):
            raise ConfigError(f"usage is counted by model, provider, outcome and tag, not by {by!r}")
        found: Mapping[str, Totals] = getattr(self, f"by_{by}")
        return found

    def _grouped(self, name_of: Callable[[_Cell], str]) -> dict[str, Totals]:
        groups: dict[str, Totals] = {}
        with self._mailbox:
            for cell, totals in self._cells.items():
                groups.setdefault(name_of(cell), Totals())._merge(totals)
        return groups

    # Combining

    def snapshot(self) -> UsageTracker:
        """A tracker of its own with the counts of this moment."""
        twin = UsageTracker(self.name)
        with self._mailbox:
            twin._cells = {cell: totals._copy() for cell, totals in self._cells.items()}
            twin._tags = {key: totals._copy() for key, totals in self._tags.items()}
        return twin

    def merge(self, other: UsageTracker) -> None:
        """Count all that another tracker has counted.

        Raises:
            ConfigError: it is this tracker itself.
        """
        if other is self:
            raise ConfigError("a tracker cannot be merged into itself: all would count twice")
        theirs = other.snapshot()  # so that never two locks are held
        with self._mailbox:
            for cell, totals in theirs._cells.items():
                self._cell(cell)._merge(totals)
            for key, totals in theirs._tags.items():
                self._tags[self._tag_key(key)]._merge(totals)

    def diff(self, earlier: UsageTracker) -> UsageTracker:
        """What this tracker has counted since ``earlier = tracker.snapshot()``.

        Raises:
            ConfigError: ``earlier`` is no earlier state of this tracker.
        """
        mine, theirs, rest = self.snapshot(), earlier.snapshot(), UsageTracker(self.name)
        rest._cells = _since(mine._cells, theirs._cells)
        rest._tags = _since(mine._tags, theirs._tags)
        return rest

    # Handing on

    def to_dict(self) -> dict[str, Any]:
        """The sums and breakdowns for a reader, and under "state" what :meth:`from_dict` goes on from."""
        now = self.snapshot()
        told: dict[str, Any] = {"version": _VERSION, "name": now.name, "total": now.total.to_dict()}
        for by in ("model", "provider", "outcome", "tag"):
            told[f"by_{by}"] = {name: group.to_dict() for name, group in now.groups(by).items()}
        told["state"] = {
            "cells": [[*cell, totals._state()] for cell, totals in now._cells.items()],
            "tags": {key: totals._state() for key, totals in now._tags.items()},
        }
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> UsageTracker:
        """The reverse of :meth:`to_dict`; the tracker can go on counting.

        Raises:
            ConfigError: it is not what :meth:`to_dict` gives.
        """
        if told.get("version") != _VERSION:
            raise ConfigError(f"not a usage tracker of version {_VERSION}: version is {told.get('version')!r}")
        tracker = cls(told.get("name"))
        try:
            for model, provider, outcome, state in told["state"]["cells"]:
                tracker._cells[(model, provider, outcome)] = Totals._from_state(state)
            for key, state in told["state"]["tags"].items():
                tracker._tags[key] = Totals._from_state(state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"not a usage tracker: {type(error).__name__}: {error}") from error
        return tracker

    def __reduce__(self) -> tuple[object, ...]:
        return UsageTracker.from_dict, (self.to_dict(),)

    def to_json(self, *, indent: int | None = None) -> str:
        """:meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_pandas(self, by: By = "model") -> Any:
        """One of the breakdowns as a pandas DataFrame, one row a group.

        Raises:
            ConfigError: pandas is not installed, or there is no such breakdown.
        """
        return _frames("pandas").DataFrame(rows(self.groups(by), by))

    def to_polars(self, by: By = "model") -> Any:
        """One of the breakdowns as a polars DataFrame, one row a group.

        Raises:
            ConfigError: polars is not installed, or there is no such breakdown.
        """
        return _frames("polars").DataFrame(rows(self.groups(by), by), infer_schema_length=None)

    def report(self, by: By = "model") -> Any:
        """A table for people: ``rich.print(tracker.report())``.

        Raises:
            ConfigError: there is no such breakdown.
        """
        from .report import table

        return table(self, by)

    def _repr_html_(self) -> str:
        from .report import html

        return html(self)

    def __repr__(self) -> str:
        return f"UsageTracker({self.name!r})"


_LUMPED = f"further ones are counted together as {OTHER!r}"
_OUTCOMES = ("ok", "cancelled")
_Key = TypeVar("_Key")


def active_trackers() -> tuple[UsageTracker, ...]:
    """The trackers whose scopes this code runs in, each once, the outermost first."""
    return tuple(dict.fromkeys(_active.get()))


def publish(record: UsageRecord, *extra: UsageTracker) -> None:
    """Count a call once in each of the active trackers and of those given. Never waits and never raises."""
    for tracker in dict.fromkeys((*extra, *_active.get())):
        tracker.record(record)


def rows(groups: Mapping[str, Totals], by: str) -> list[dict[str, Any]]:
    """A breakdown as flat rows: the group's name, its sums, and the quantiles as ``latency_p50`` and the like.

    What was waited for is told by kind, as ``waits_rpm`` and the like, where any group has waited for it.
    """
    flat = []
    kinds = sorted({kind_of(reason) for totals in groups.values() for reason in totals.waits})
    for name, totals in groups.items():
        row: dict[str, Any] = {by: name}
        for field, value in totals.to_dict().items():
            if field == "shares":  # they follow from the rest
                continue
            if field == "waits":
                waits = by_kind(value)
                row |= {f"waits_{kind.replace(' ', '_')}": waits.get(kind, 0.0) for kind in kinds}
            elif isinstance(value, dict):
                row |= {f"{field}_{figure}": number for figure, number in value.items()}
            else:
                row[field] = value
        flat.append(row)
    return flat


def _since(mine: Mapping[_Key, Totals], theirs: Mapping[_Key, Totals]) -> dict[_Key, Totals]:
    rest = {key: totals._since(theirs.get(key, Totals())) for key, totals in mine.items()}
    if theirs.keys() - mine.keys() or any(totals.requests < 0 for totals in rest.values()):
        raise ConfigError("diff takes an earlier snapshot of the same tracker; this one counts what it lacks")
    return {key: totals for key, totals in rest.items() if totals.requests}


def _frames(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"to_{package} needs {package}; install it with: pip install {package}") from error
