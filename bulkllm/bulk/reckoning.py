"""What rows would take, as a plan counts them: a few numbers for each, and what is known of their answers.

What may live here: rows as numbers, and what a results file tells of answers. Nothing is sent and no file is written.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from math import sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..caching import Cache
from ..client import Client, Foreseen
from ..errors import ConfigError, RequestFileError
from ..limits.estimate import Size, TokenEstimator, size_of
from .intake import Intake
from .keytable import KeyTable, State
from .lines import head_of
from .plans import Range
from .rawrow import RawRow
from .request import Draft, Shaper
from .shapes import Operation
from .simulate import Ask
from .waiting import Met, PoolName

_ENOUGH: Final = 5  # answers of a model that are to be had before its tokens are reckoned from them
_LEARNT: Final = 5000  # answers that are looked at for it
_ANSWER: Final = 512.0  # tokens of an answer, where nothing bounds it and none was seen
_TOKENS_A_SECOND: Final = 100.0  # of an answer, after a second, where none was seen
_FEWEST: Final = 0.6
_MOST: Final = 1.8
"""How far the tokens of a prompt may lie from four characters (at the most: bytes) each."""

_LOOKS: Final = 500  # rows that the cache is asked for at once
AS_ANOTHER: Final = -1.0
"""Stands for what a row would cost that asks the same as another."""

_FRESH: Final = TokenEstimator()


class Fate(IntEnum):
    """What becomes of a row."""

    ASKED = 0
    DONE = 1  # the results file has it
    KEPT = 2  # the cache has it, or another row asks the same


class Answer(NamedTuple):
    """What is known of an answer: tokens, seconds that it took, and when it was asked for, in seconds since 1970."""

    input_tokens: float
    output_tokens: float
    cached_tokens: float
    seconds: float
    began: float


class Known(NamedTuple):
    """What a results file knows.

    Attributes:
        path: the file; None if there is none.
        table: of rows.
        answers: some of its answers, by slot.
        costs: what each row has cost, by slot; NaN where nobody knows.
    """

    path: Path | None
    table: KeyTable
    answers: Mapping[int, Answer]
    costs: Sequence[float]


@dataclass(slots=True)
class Habits:
    """How one model answers, as far as it is known: what was guessed of a prompt, and what came."""

    seen: list[tuple[float, Answer]] = field(default_factory=list)

    @property
    def calibrated(self) -> bool:
        """Whether there are enough answers to go by."""
        return len(self.seen) >= _ENOUGH

    def inputs(self) -> Range:
        """Real tokens of a prompt for a guessed one."""
        if not self.calibrated:
            return Range(_FEWEST, 1.0, _MOST)
        guessed = sum(guess for guess, _ in self.seen)
        ratio = sum(answer.input_tokens for _, answer in self.seen) / guessed if guessed else 1.0
        spread = _spread([answer.input_tokens / guess for guess, answer in self.seen if guess] or [ratio])
        return Range(max(0.0, ratio - spread), ratio, ratio + spread)

    def outputs(self) -> Range:
        """Tokens of an answer that nothing bounds."""
        if not self.calibrated:
            return Range(1.0, _ANSWER, None)
        lengths = [answer.output_tokens for _, answer in self.seen]
        mean, spread = sum(lengths) / len(lengths), _spread(lengths)
        return Range(max(0.0, mean - spread), mean, mean + spread)

    def latencies(self) -> list[float]:
        """Seconds of those answers that are typical.

        The first ones are not: they were asked for all at once, and while connections were opened. So what was asked
        for before the first answer was there is left out, if enough remains.
        """
        answers = [answer for _, answer in self.seen]
        first = min((answer.began + answer.seconds for answer in answers), default=0.0)
        later = [answer.seconds for answer in answers if answer.began >= first]
        return later if len(later) >= _ENOUGH else [answer.seconds for answer in answers]


class Rows:
    """The rows that stand in one line, as a few numbers each.

    Attributes:
        call: whom they go to, and under whose limits.
        model: whom they are asked of.
        price: what is charged for each.
        cache: where their answers are looked for.
        habits: how the model answers.
        slots: who they are.
        fates: what becomes of each.
        paid: US dollars that a row has cost once; NaN where nobody knows; `AS_ANOTHER` where another asks the same.
    """

    def __init__(self, foreseen: Foreseen, habits: Habits) -> None:
        self.call = replace(foreseen.call, options={})  # not the key, and no prompt
        self.model = foreseen.call.model
        self.price = foreseen.price
        self.cache = foreseen.cache
        self.habits = habits
        self.slots = array("I")
        self.fates = bytearray()
        self.paid = array("d")
        self._characters = array("Q")
        self._messages = array("I")
        self._bounds = array("d")  # tokens of the answer at most; NaN where nothing bounds them, -1 for a vector
        self._weights = array("d")  # what the prompt weighs in UTF-8, in fours

    def __len__(self) -> int:
        return len(self.slots)

    def note(
        self, slot: int, operation: Operation, body: Mapping[str, Any], fate: Fate, paid: float = math.nan
    ) -> Size:
        """A row of this line."""
        size = size_of(operation, body)
        self.slots.append(slot)
        self.fates.append(fate)
        self.paid.append(paid)
        self._characters.append(size.characters)
        self._messages.append(size.messages)
        self._bounds.append(-1.0 if size.vectors else math.nan if size.bound is None else size.bound)
        self._weights.append(_weight(body) / 4)
        return size

    def keep(self, at: int, paid: float | None) -> None:
        """A row that need not be asked after all; ``paid`` is None where another row asks the same."""
        self.fates[at] = Fate.KEPT
        self.paid[at] = AS_ANOTHER if paid is None else paid

    def size(self, at: int) -> Size:
        """What an estimate of a row is made of."""
        bound = self._bounds[at]
        vectors = bound < 0
        return Size(self._characters[at], self._messages[at], None if vectors or bound != bound else bound, vectors)  # noqa: PLR0124 - NaN

    def guess(self, at: int) -> float:
        """Tokens of a row's prompt, by four characters each."""
        return _FRESH.estimate_of("", self.size(at)).input_tokens

    def inputs(self, at: int, habits: Range) -> Range:
        """Tokens of a row's prompt."""
        guess = self.guess(at)
        most = guess if self.habits.calibrated else max(guess, self._weights[at])
        return Range(guess * habits.low, guess * habits.likely, most * (habits.high or 1.0))

    def outputs(self, at: int, habits: Range) -> Range:
        """Tokens of a row's answer."""
        _, _, bound, vectors = self.size(at)
        if vectors:
            return Range(0.0, 0.0, 0.0)
        if bound is None:
            return habits
        return Range(min(habits.low, bound), min(habits.likely, bound), min(habits.high or bound, bound))

    def asks(self, places: Sequence[int]) -> list[Ask]:
        """Rows as the limiter would meet them. Each in its turn is answered as one that has been answered."""
        inputs, outputs = self.habits.inputs(), self.habits.outputs()
        found = []
        seen, latencies = self.habits.seen, self.habits.latencies()
        for number, at in enumerate(places):
            size = self.size(at)
            tokens = self.guess(at) * inputs.likely
            if self.habits.calibrated:
                _, like = seen[number % len(seen)]
                output = 0.0 if size.vectors else min(like.output_tokens, size.bound or math.inf)
                cached = like.cached_tokens / like.input_tokens if like.input_tokens else 0.0
                found.append(Ask(size, tokens, output, latencies[number % len(latencies)], tokens * cached))
            else:
                output = self.outputs(at, outputs).likely
                found.append(Ask(size, tokens, output, 1.0 + output / _TOKENS_A_SECOND))
        return found


class Reckoning(Intake):
    """Meets rows as a run does, and notes what they would take.

    Attributes:
        lines: the rows, by model and by where they stand in line.
        wants_redo: whether a run would end for too many changed rows, and not ask them again.
    """

    def __init__(
        self,
        shapers: Sequence[Shaper],
        known: Known,
        path: Path | None,
        *,
        client: Client,
        deployed: str | None = None,
        redo_changed: bool,
        retry_failed: bool,
        skip_bad: bool,
    ) -> None:
        super().__init__(
            shapers,
            known.table,
            None,
            path=path,
            redo_changed=redo_changed,
            retry_failed=retry_failed,
            skip_bad=skip_bad,
        )
        self._known = known
        self._client = client
        self._deployed = deployed  # each of its places keeps answers of its own, and which is asked is not known
        self._habits: dict[str, Habits] = {}
        self._asked: set[int] = set()  # the first eight bytes of the keys under which the cache will have answers
        self._looks: list[tuple[Rows, int, Cache, list[str]]] = []
        self._changed = array("I")  # slots of finished rows whose request is another one now
        self._repeats = False  # whether the row being met has the custom_id of an earlier one
        self.lines: dict[PoolName, Rows] = {}
        self.wants_redo = False

    @property
    def changed(self) -> int:
        """Finished rows that would be asked again, since their request is another one; those of the sample."""
        return sum(self._table.count[slot] > 0 for slot in self._changed)

    def all_met(self) -> None:
        """The whole input has been met: where a run would raise, that is noted."""
        self.wants_redo = self.looks_changed

    def _compare_by_name(self, to_ask: list[Met], models: int) -> bool:
        changed = super()._compare_by_name(to_ask, models)
        if changed:
            self._changed.append(to_ask[0].slot)
        return changed

    def _repeated(self, custom_id: str, first: int, raw: RawRow) -> RequestFileError:
        self._repeats = True
        return super()._repeated(custom_id, first, raw)

    def _to_be_asked(self, slot: int, draft: Draft | None, print_: bytes, index: int, number: int) -> bool:
        finished = self._table.state[slot] == State.OK
        ask = super()._to_be_asked(slot, draft, print_, index, number)
        if finished and ask:
            self._changed.append(slot)
        repeats, self._repeats = self._repeats, False
        if draft is not None and not repeats:  # nobody is asked for a repeated row
            body = self._shapers[number].body(draft)
            line = self.lines.get(draft.pool)
            if line is None:
                foreseen = self._client.foresee(draft.operation, **body)
                habits = self._habits.setdefault(foreseen.call.model, Habits())
                line = self.lines[draft.pool] = Rows(foreseen, habits)
            if ask:
                line.note(slot, draft.operation, body, Fate.ASKED)
                if line.cache is not None and draft.model != self._deployed:
                    self._look(line, self._client.foresee(draft.operation, **body))
            else:
                size = line.note(slot, draft.operation, body, Fate.DONE, self._known.costs[slot])
                if (answer := self._known.answers.get(slot)) is not None:
                    line.habits.seen.append((_FRESH.estimate_of("", size).input_tokens, answer))
        return ask

    def _look(self, line: Rows, foreseen: Foreseen) -> None:
        """See whether the cache has the row just noted; many at a time."""
        if foreseen.cache is not None and foreseen.keys:
            self._looks.append((line, len(line) - 1, foreseen.cache, foreseen.keys))
            if len(self._looks) >= _LOOKS:
                self.look_up()

    def look_up(self) -> None:
        """Ask the cache for the rows noted since the last time."""
        looks, self._looks = self._looks, []
        found: dict[str, float | None] = {}
        for cache in dict.fromkeys(cache for _, _, cache, _ in looks):
            found |= cache.costs([key for _, _, its, keys in looks if its is cache for key in keys])
        for line, at, _, keys in looks:
            if all(key in found for key in keys):
                costs = [found[key] for key in keys]
                line.keep(at, math.nan if None in costs else sum(cost for cost in costs if cost is not None))
            else:
                digests = {int(key[:16], 16) for key in keys}
                if digests <= self._asked:
                    line.keep(at, None)
                self._asked |= digests


def known_of(output: str | os.PathLike[str] | None) -> Known:
    """What a results file knows of rows, and of some of its answers.

    Raises:
        ConfigError: it cannot be read.
    """
    table = KeyTable()
    answers: dict[int, Answer] = {}
    costs = array("d")
    path = None if output is None else Path(output).resolve()
    try:
        if path is None or not path.exists():
            return Known(None, table, answers, costs)
        opened = path.open("rb", buffering=1 << 20)
    except OSError as error:
        raise ConfigError(f"{output} cannot be read ({error.strerror}); give the results file of a run") from error
    begin = end = 0
    with opened as file:
        for line in file:
            begin, end = end, end + len(line)
            head = head_of(line)
            if head is None:
                continue
            slot = table.find(head.key)
            if slot < 0:
                slot = table.add(head.key)
                costs.append(math.nan)
            table.set_fingerprint(slot, head.fingerprint)
            table.state[slot], table.index[slot], table.place[slot] = head.state, head.position, begin
            costs[slot] = math.nan if head.cost is None else head.cost
            if head.state == State.OK and len(answers) < _LEARNT and (answer := _answer_in(line)) is not None:
                answers[slot] = answer
    return Known(path, table, answers, costs)


def _answer_in(line: bytes) -> Answer | None:
    about = json.loads(line)["bulkllm"]
    usage = about.get("usage") or {}
    if not usage.get("input_tokens") or about.get("cached"):
        return None
    return Answer(
        float(usage["input_tokens"]),
        float(usage.get("output_tokens", 0)),
        float(usage.get("cache_read_tokens", 0)),
        float(about.get("latency", 0.0)),
        datetime.fromisoformat(about["started_at"]).timestamp() if about.get("started_at") else 0.0,
    )


def _weight(body: Mapping[str, Any]) -> float:
    """Bytes of a request's text."""
    return float(len(json.dumps(body.get("messages", body.get("input")), ensure_ascii=False, default=str).encode(
        "utf-8", "surrogatepass")))  # fmt: skip


def _spread(values: Sequence[float]) -> float:
    """How far a mean over many rows may lie from that of these: four times its standard error, and a twentieth."""
    mean = sum(values) / len(values)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return 4 * deviation / sqrt(len(values)) + mean / 20
