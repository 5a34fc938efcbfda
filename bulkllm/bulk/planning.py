"""What a run would take, before a cent is spent: rows, tokens, money and time.

What may live here: the estimate. Nothing is sent and no file is written. Tokens are reckoned from characters; if the
results file already holds answers (of a sample, say), then by what these really used.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple

from .. import models
from ..client import Client, default_client
from ..errors import ConfigError
from ..limits.estimate import TokenEstimator
from .intake import Intake, scan
from .keytable import KeyTable, State
from .lines import head_of
from .request import Draft, Shaper
from .simulate import Ask, seconds_for
from .sources import Indexed, Requests, open_source
from .variants import shapers_of

_ENOUGH: Final = 5  # answers of a model that are to be had before its tokens are reckoned from them
_LEARNT: Final = 5000  # answers that are looked at for it
_ANSWER: Final = 512.0  # tokens of an answer, where nothing bounds it and none was seen
_BOUNDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_FEWEST: Final = 0.6
_MOST: Final = 1.8
"""How far the tokens of a prompt may lie from four characters (at the most: bytes) each."""


class Range(NamedTuple):
    """An estimate, and between what the truth should lie; `high` is None where nothing bounds it."""

    low: float
    likely: float
    high: float | None

    def __add__(self, other: Any) -> Range:
        high = None if self.high is None or other.high is None else self.high + other.high
        return Range(self.low + other.low, self.likely + other.likely, high)

    def times(self, factor: float) -> Range:
        """The range of so many times the amount."""
        return Range(self.low * factor, self.likely * factor, None if self.high is None else self.high * factor)


_NOTHING: Final = Range(0.0, 0.0, 0.0)


@dataclass(slots=True)
class ModelPlan:
    """What one model would take.

    Attributes:
        model: its name.
        rows: to be asked.
        input_tokens: of them.
        output_tokens: of them; without ``max_tokens`` nothing bounds it.
        cost: US dollars, or None where the price is not known.
        calibrated: reckoned from real answers in the results file.
    """

    model: str
    rows: int = 0
    input_tokens: Range = _NOTHING
    output_tokens: Range = _NOTHING
    cost: Range | None = None
    calibrated: bool = False


@dataclass(slots=True)
class Plan:
    """What a run would take.

    Attributes:
        total: rows of the input; with several models, each row once for each.
        done: those that the results file has, and that are not asked again.
        models: the rows to be asked, by model.
        seconds: until the last answer, under the limits that are configured.
        limited: whether any limit is configured for these models; if not, the time hangs on the provider alone.
        seconds_per_answer: what was assumed for one answer, by model: as lately in the results file, or a guess.
    """

    total: int = 0
    done: int = 0
    models: dict[str, ModelPlan] = field(default_factory=dict)
    seconds: float = 0.0
    limited: bool = False
    seconds_per_answer: dict[str, float] = field(default_factory=dict)

    @property
    def to_ask(self) -> int:
        """Rows that would be asked."""
        return sum(model.rows for model in self.models.values())

    @property
    def input_tokens(self) -> Range:
        """Of all models."""
        return sum((model.input_tokens for model in self.models.values()), _NOTHING)

    @property
    def output_tokens(self) -> Range:
        """Of all models."""
        return sum((model.output_tokens for model in self.models.values()), _NOTHING)

    @property
    def cost(self) -> Range | None:
        """US dollars for all models, or None where the price of one is not known."""
        total = _NOTHING
        for model in self.models.values():
            if model.cost is None:
                return None
            total += model.cost
        return total

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""

        def told(value: Range | None) -> dict[str, float | None] | None:
            return None if value is None else value._asdict()

        return {
            "total": self.total, "done": self.done, "to_ask": self.to_ask,
            "input_tokens": told(self.input_tokens), "output_tokens": told(self.output_tokens),
            "cost": told(self.cost), "seconds": self.seconds, "limited": self.limited,
            "models": {
                name: {
                    "rows": model.rows, "input_tokens": told(model.input_tokens),
                    "output_tokens": told(model.output_tokens), "cost": told(model.cost),
                    "calibrated": model.calibrated, "seconds_per_answer": self.seconds_per_answer.get(name),
                }
                for name, model in self.models.items()
            },
        }  # fmt: skip


def plan(
    requests: Requests,
    *,
    model: Any = None,
    output: str | os.PathLike[str] | None = None,
    max_in_flight: int = 256,
    endpoint: str | None = None,
    system: str | None = None,
    prompt: str | None = None,
    retry_failed: bool = False,
    skip_bad: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    client: Client | None = None,
    **options: Any,
) -> Plan:
    """What a run with the same arguments would take. Nothing is sent, and no file is written.

    Args:
        requests: as for `run`, but nothing that can be read only once.
        model: as for `run`.
        output: the results file, if there is one already: what is done is not counted, and what its answers took
            makes the estimate better. Run a sample first (``run(..., sample=50)``), then plan.
        max_in_flight: as for `run`.
        endpoint: as for `run`.
        system: as for `run`.
        prompt: as for `run`.
        retry_failed: as for `run`.
        skip_bad: as for `run`.
        limit: as for `run`.
        sample: as for `run`.
        client: whose limits hold; the default one unless given. ``limits`` may be given instead.
        **options: LiteLLM's, for every row.

    Raises:
        ConfigError: an argument is wrong, or the requests can be read only once.
        RequestFileError: a row cannot be understood.
        ImpossibleRequest: a row needs more than a limit's whole quota.
    """
    limits = options.pop("limits", None)
    if client is not None and limits is not None:
        raise ConfigError("client, limits exclude each other: a client has its own limits")
    client = client or (default_client() if limits is None else Client(limits))
    source = open_source(requests)
    if not isinstance(source, Indexed):
        raise ConfigError("planning would use these requests up, for they can be read only once; give a file or a list")
    table, seen = _known(output)
    shapers = shapers_of(model, options, endpoint=endpoint, system=system, prompt=prompt)
    intake = _Reckoning(shapers, table, source.path, seen, retry_failed=retry_failed, skip_bad=skip_bad)
    try:
        lines = scan(source, intake, limit=limit, stop=lambda: False)
        if sample is not None:
            intake.thin(sample, lines)
    finally:
        source.close()
    found = Plan(total=intake.total, done=intake.ok + intake.failed)
    asks: dict[str, list[Ask]] = {}
    for name, rows in intake.asked.items():
        asks[name] = rows.planned(found, name, table)
    found.limited = any(client.limiter.holds(name) for name in asks)
    found.seconds = seconds_for(client.limiter.limits, asks, in_flight=max_in_flight)
    return found


class _Rows:
    """The rows of one model, as a few numbers each, and what its answers took so far."""

    def __init__(self) -> None:
        self.slots = array("I")
        self.guessed = array("d")  # tokens of the prompt
        self.bytes = array("d")  # what they weigh in UTF-8, in fours
        self.bounds = array("d")  # tokens of the answer at most; 0 where nothing bounds them
        self.learnt: list[tuple[float, float, float, float]] = []  # guessed, input, output, seconds

    def note(self, slot: int, draft: Draft, options: Mapping[str, Any]) -> None:
        """A row that is to be asked."""
        body = {**options, **draft.own}
        guess = TokenEstimator().estimate(draft.model, body)
        bound = next((float(body[name]) for name in _BOUNDS if isinstance(body.get(name), int)), 0.0)
        self.slots.append(slot)
        self.guessed.append(guess.input_tokens)
        self.bytes.append(max(guess.input_tokens, _weight(body) / 4))
        self.bounds.append(bound * (body["n"] if isinstance(body.get("n"), int) else 1))
        if draft.operation == "embedding":
            self.bounds[-1] = -1.0

    def planned(self, plan: Plan, name: str, table: KeyTable) -> list[Ask]:
        """Put the rows into a plan; what the limiter would be asked for them."""
        told = ModelPlan(name, calibrated=len(self.learnt) >= _ENOUGH)
        inputs, outputs, seconds = self._taken()
        inputs_low = inputs_likely = inputs_high = outputs_likely = outputs_low = 0.0
        outputs_high: float | None = 0.0
        asks = []
        for at, slot in enumerate(self.slots):
            if not table.count[slot]:
                continue
            told.rows += 1
            guess, bound = self.guessed[at], self.bounds[at]
            likely = guess * inputs.likely
            inputs_low += guess * inputs.low
            inputs_likely += likely
            inputs_high += self._high(at, inputs)
            out = 0.0 if bound < 0 else min(outputs.likely, bound) if bound else outputs.likely
            outputs_likely += out
            outputs_low += 0.0 if bound < 0 else min(outputs.low, bound) if bound else outputs.low
            if outputs_high is not None and bound >= 0:
                high = min(bound or outputs.high or 0.0, outputs.high or bound)
                outputs_high = outputs_high + high if bound or outputs.high else None
            reserved = 0.0 if bound < 0 else bound or outputs.likely
            asks.append(
                Ask(guess if not told.calibrated else likely, reserved, likely, out, seconds or 1.0 + out / 100)
            )
        told.input_tokens = Range(inputs_low, inputs_likely, inputs_high)
        told.output_tokens = Range(outputs_low, outputs_likely, outputs_high)
        told.cost = _cost(name, told)
        if told.rows:
            plan.models[name] = told
            plan.seconds_per_answer[name] = sum(ask.seconds for ask in asks) / len(asks)
        return asks

    def _high(self, at: int, inputs: Range) -> float:
        most = self.guessed[at] if len(self.learnt) >= _ENOUGH else self.bytes[at]
        return most * (inputs.high or 1.0)

    def _taken(self) -> tuple[Range, Range, float | None]:
        """Real tokens of a prompt for a guessed one, tokens of an answer, and its seconds, by the answers so far."""
        known = self.learnt
        if len(known) < _ENOUGH:
            return Range(_FEWEST, 1.0, _MOST), Range(1.0, _ANSWER, None), None
        guessed, inputs, outputs = (sum(row[n] for row in known) for n in range(3))
        ratio = inputs / guessed if guessed else 1.0
        spread = _spread([row[1] / row[0] for row in known if row[0]])
        mean = outputs / len(known)
        around = _spread([row[2] for row in known])
        latencies = sorted(row[3] for row in known)
        return (
            Range(max(0.0, ratio - spread), ratio, ratio + spread),
            Range(max(0.0, mean - around), mean, mean + around),
            latencies[len(latencies) // 2] or None,
        )


class _Reckoning(Intake):
    """Meets rows as a run does, and notes what the ones to be asked would take."""

    def __init__(
        self,
        shapers: Sequence[Shaper],
        table: KeyTable,
        path: Path | None,
        seen: Mapping[int, tuple[float, float, float]],
        *,
        retry_failed: bool,
        skip_bad: bool,
    ) -> None:
        super().__init__(
            shapers, table, None, path=path, redo_changed=True, retry_failed=retry_failed, skip_bad=skip_bad
        )
        self._seen = seen
        self.asked: dict[str, _Rows] = {}

    def _to_be_asked(self, slot: int, draft: Draft | None, print_: bytes, index: int, number: int) -> bool:
        ask = super()._to_be_asked(slot, draft, print_, index, number)
        if draft is not None:
            name = models.resolve(draft.model, own_endpoint=draft.endpoint is not None)
            rows = self.asked.setdefault(name, _Rows())
            if ask:
                rows.note(slot, draft, self._shapers[number].options)
            elif slot in self._seen:
                body = {**self._shapers[number].options, **draft.own}
                rows.learnt.append((TokenEstimator().estimate(name, body).input_tokens, *self._seen[slot]))
        return ask


def _known(output: str | os.PathLike[str] | None) -> tuple[KeyTable, dict[int, tuple[float, float, float]]]:
    """What a results file knows of rows, and input tokens, output tokens and seconds of some of its answers."""
    table = KeyTable()
    seen: dict[int, tuple[float, float, float]] = {}
    path = None if output is None else Path(output)
    if path is None or not path.exists():
        return table, seen
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            head = head_of(line)
            if head is None:
                continue
            slot = table.find(head.key)
            if slot < 0:
                slot = table.add(head.key)
            table.set_fingerprint(slot, head.fingerprint)
            table.state[slot], table.index[slot] = head.state, head.position
            if head.state == State.OK and len(seen) < _LEARNT:
                about = json.loads(line)["bulkllm"]
                usage = about.get("usage") or {}
                if usage.get("input_tokens"):
                    tokens = float(usage["input_tokens"]), float(usage.get("output_tokens", 0))
                    seen[slot] = (*tokens, float(about.get("latency", 0.0)))
    return table, seen


def _cost(name: str, told: ModelPlan) -> Range | None:
    try:
        prices = models.get(name).prices
    except ConfigError:  # a name that nobody knows has no price either
        return None
    given, taken = prices.get("input_cost_per_token"), prices.get("output_cost_per_token")
    if given is None or taken is None:
        return None
    return told.input_tokens.times(float(given)) + told.output_tokens.times(float(taken))


def _weight(body: Mapping[str, Any]) -> float:
    """Bytes of a request's text."""
    return float(len(json.dumps(body.get("messages", body.get("input")), ensure_ascii=False, default=str).encode(
        "utf-8", "surrogatepass")))  # fmt: skip


def _spread(values: Sequence[float]) -> float:
    """How far a mean over many rows may lie from that of these: four times its standard error, and a twentieth."""
    mean = sum(values) / len(values)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return 4 * deviation / sqrt(len(values)) + mean / 20
