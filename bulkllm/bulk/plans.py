"""What a plan says: values only.

What may live here: the figures of a plan, their sums, and the same as text and as JSON has it. How they are found is
told in `planning` and `reckoning`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .progress import span


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


NOTHING = Range(0.0, 0.0, 0.0)


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
    input_tokens: Range = NOTHING
    output_tokens: Range = NOTHING
    cost: Range | None = None
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class Saving:
    """Rows that need not be asked.

    Attributes:
        rows: how many.
        cost: US dollars that they have cost when they were asked, or would cost; None where one of them has no price.
        seconds: how much longer the run would take with them.
    """

    rows: int = 0
    cost: float | None = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """How far a budget goes.

    Attributes:
        spent: US dollars that it is used up by already, those of the rows in the results file among them.
        left: US dollars; None for a budget that does not count money.
        rows: of those to be asked, how many it pays for; None where a price is not known.
    """

    spent: float = 0.0
    left: float | None = None
    rows: Range | None = None


@dataclass(slots=True)
class Plan:
    """What a run would take.

    Attributes:
        total: rows of the input; with several models, each row once for each.
        done: those that the results file has, and that are not asked again.
        changed: finished rows whose request is not the same any more: they would be asked again.
        wants_redo_changed: whether so many finished rows have changed that a run refuses to ask them again unless it is
            told to; those beside the sample count too.
        models: the rows to be asked, by model.
        seconds: until the last answer, under the limits that are known. Loading LiteLLM (two seconds) is not in it.
        limited: whether any limit is known for these models; if not, the time hangs on the provider alone.
        seconds_per_answer: what was assumed for one answer, by model: as lately in the results file, or a guess.
        resume: what the results file saves.
        cache: what the cache saves: rows that it answers, and rows that ask the same as another one.
        budget: how far the budget goes, if there is one.
    """

    total: int = 0
    done: int = 0
    changed: int = 0
    wants_redo_changed: bool = False
    models: dict[str, ModelPlan] = field(default_factory=dict)
    seconds: float = 0.0
    limited: bool = False
    seconds_per_answer: dict[str, float] = field(default_factory=dict)
    resume: Saving = Saving()
    cache: Saving = Saving()
    budget: BudgetPlan | None = None

    @property
    def to_ask(self) -> int:
        """Rows that would be asked."""
        return sum(model.rows for model in self.models.values())

    @property
    def input_tokens(self) -> Range:
        """Of all models."""
        return sum((model.input_tokens for model in self.models.values()), NOTHING)

    @property
    def output_tokens(self) -> Range:
        """Of all models."""
        return sum((model.output_tokens for model in self.models.values()), NOTHING)

    @property
    def cost(self) -> Range | None:
        """US dollars for all models, or None where the price of one is not known."""
        total = NOTHING
        for model in self.models.values():
            if model.cost is None:
                return None
            total += model.cost
        return total

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "total": self.total, "done": self.done, "changed": self.changed,
            "wants_redo_changed": self.wants_redo_changed, "to_ask": self.to_ask,
            "input_tokens": _told(self.input_tokens), "output_tokens": _told(self.output_tokens),
            "cost": _told(self.cost), "seconds": self.seconds, "limited": self.limited,
            "resume": _saved(self.resume), "cache": _saved(self.cache),
            "budget": self.budget and {
                "spent": self.budget.spent, "left": self.budget.left, "rows": _told(self.budget.rows),
            },
            "models": {
                name: {
                    "rows": model.rows, "input_tokens": _told(model.input_tokens),
                    "output_tokens": _told(model.output_tokens), "cost": _told(model.cost),
                    "calibrated": model.calibrated, "seconds_per_answer": self.seconds_per_answer.get(name),
                }
                for name, model in self.models.items()
            },
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"rows      {self.total:,}: {self.to_ask:,} to be asked"]
        if self.changed or self.wants_redo_changed:
            which = f"{self.changed:,} of them" if self.changed else "finished rows"
            wants = ": a run wants --redo-changed" if self.wants_redo_changed else ""
            lines.append(f"          {which} were asked in another way before{wants}")
        lines += _worth(self.resume, "are done already", "a resume")
        lines += _worth(self.cache, "are in the cache, or ask the same as another", "the cache")
        if not self.to_ask:
            return "\n".join(lines)
        lines += _amounts(self.input_tokens, self.output_tokens, self.cost)
        if self.budget is not None:
            lines.append(f"budget    {_lasts(self.budget, self.to_ask)}")
        assumed = " and ".join(f"{seconds:.1f} s" for seconds in sorted(set(self.seconds_per_answer.values())))
        under = "under these limits" if self.limited else "with no limit given"
        lines.append(f"time      {span(self.seconds)} {under}, if an answer takes {assumed}")
        if len(self.models) > 1:
            for name, model in self.models.items():
                amounts = _amounts(model.input_tokens, model.output_tokens, model.cost)
                lines += ["", f"{name}: {model.rows:,} rows", *(f"  {line}" for line in amounts)]
        if not all(model.calibrated for model in self.models.values()):
            lines.append(
                "A guess from the length of the prompts: run a sample (--sample 50) and plan again with its --output."
            )
        return "\n".join(lines)


def _told(value: Range | None) -> dict[str, float | None] | None:
    return None if value is None else value._asdict()


def _saved(value: Saving) -> dict[str, float | None]:
    return {"rows": value.rows, "cost": value.cost, "seconds": value.seconds}


def _worth(saving: Saving, why: str, what: str) -> list[str]:
    """What need not be asked."""
    if not saving.rows:
        return []
    money = "what they cost is not known" if saving.cost is None else f"${saving.cost:,.4f}"
    return [f"          {saving.rows:,} {why}: {what} saves {money}, and {span(saving.seconds)}"]


def _lasts(budget: BudgetPlan, rows: int) -> str:
    """How far a budget goes."""
    left = "" if budget.left is None else f"${budget.left:,.4f} left (${budget.spent:,.4f} spent): "
    if budget.rows is None:
        return f"{left}price unknown; a run refuses that"
    if budget.rows.low >= rows:
        return f"{left}enough for all rows"
    return f"{left}enough for {_shown(budget.rows, ',.0f')} of {rows:,} rows"


def _amounts(inputs: Range, outputs: Range, cost: Range | None) -> list[str]:
    return [
        f"tokens    {_shown(inputs, ',.0f')} in, {_shown(outputs, ',.0f')} out",
        f"cost      {'price unknown' if cost is None else _shown(cost, ',.4f', '$')}",
    ]


def _shown(value: Range, form: str, unit: str = "") -> str:
    high = "no bound" if value.high is None else f"{unit}{value.high:{form}}"
    return f"{unit}{value.likely:{form}} ({unit}{value.low:{form}} to {high})"
