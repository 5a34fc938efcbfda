"""What a run would take, before a cent is spent: rows, tokens, money and time.

What may live here: a plan put together. Nothing is sent and no file is written. Tokens are reckoned from characters; if
the results file already holds answers (of a sample, say), then by what these really used.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..accounting import Amount, Budget
from ..calls.call import Call
from ..client import Client
from ..errors import ConfigError
from ..limits import RateLimit, RateLimiter
from .callers import client_of, deployed_model, places_of
from .intake import scan
from .places import Deployment
from .plans import NOTHING, BudgetPlan, ModelPlan, Plan, Range, Saving
from .reckoning import AS_ANOTHER, Fate, Reckoning, Rows, known_of
from .settings import Settings
from .simulate import SIMULATED, Ask, Door, Line, seconds_for
from .sources import Indexed, Requests, open_source
from .spent import spent_by
from .variants import shapers_of

_NOTHING_USED: Final = Amount(0.0, 0.0, 0.0)
_GOLDEN: Final = (math.sqrt(5) - 1) / 2  # multiples of it, without their whole numbers, lie evenly in any stretch
_OF_NO_CONCERN: Final = ("on_result", "handle_signals")
"""Keywords of a run that are none of its `Settings` and change nothing in a plan."""


def plan(
    requests: Requests,
    *,
    model: Any = None,
    output: str | os.PathLike[str] | None = None,
    deployments: Sequence[Mapping[str, Any]] | None = None,
    budget: Budget | None = None,
    client: Client | None = None,
    **options: Any,
) -> Plan:
    """What a run with the same arguments would take. Nothing is sent, and no file is written.

    Args:
        requests: as for `run`, but nothing that can be read only once.
        model: as for `run`.
        output: the results file, if there is one already: what is done is not counted, and what its answers took
            makes the estimate better. Run a sample first (``run(..., sample=50)``), then plan.
        deployments: as for `run`.
        budget: as for `run`; then the plan tells for how many rows it lasts.
        client: whose limits, prices and cache hold; the default one unless given. ``limits`` and ``cache`` may be given
            instead. A client has its cache and its store made when it is made itself.
        **options: the other keywords of `run`, and LiteLLM's, for every row.

    Raises:
        ConfigError: an argument is wrong, or the requests can be read only once.
        RequestFileError: a row cannot be understood.
        ImpossibleRequest: a row needs more than a limit's whole quota.
    """
    for name in _OF_NO_CONCERN:
        options.pop(name, None)
    own = {name: options.pop(name) for name in Settings.__dataclass_fields__ if name in options}
    settings = Settings(model=model, output=output, deployments=deployments, **own)
    client = client_of(client, options)
    known = known_of(output)
    source = open_source(requests)
    if not isinstance(source, Indexed):
        raise ConfigError("planning would use these requests up, for they can be read only once; give a file or a list")
    deployed = None if deployments is None else deployed_model(settings, options)
    intake = Reckoning(
        shapers_of(model, options, endpoint=settings.endpoint, system=settings.system, prompt=settings.prompt),
        known,
        source.path,
        client=client,
        deployed=deployed,
        redo_changed=settings.redo_changed,
        retry_failed=settings.retry_failed,
        skip_bad=settings.skip_bad,
    )
    try:
        lines = scan(source, intake, limit=settings.limit, stop=lambda: False)
        intake.look_up()
        if settings.sample is not None:
            intake.thin(settings.sample, lines)
    finally:
        source.close()
    among = places_of(settings, deployed)
    reckoned = [
        _Reckoned(rows, client, among if pool is not None and pool[0] == deployed else [])
        for pool, rows in intake.lines.items()
    ]
    found = Plan(
        total=intake.total,
        done=intake.ok + intake.failed,
        changed=intake.changed,
        wants_redo_changed=intake.wants_redo,
    )
    for one in reckoned:
        one.tell(found, known.table.count)
    found.limited = any(one.limited for one in reckoned if one.counts[Fate.ASKED])
    found.seconds = _seconds(reckoned, settings)
    found.resume = _saving(reckoned, settings, Fate.DONE, found.seconds, rows=found.done)
    found.cache = _saving(reckoned, settings, Fate.KEPT, found.seconds)
    budget = budget or client.budget
    if budget is not None:
        used = _NOTHING_USED if known.path is None else spent_by(known.path, known.table)
        found.budget = _budget(found, budget, used, str(known.path))
    return found


class _Reckoned:
    """One line of rows, reckoned up.

    Attributes:
        counts: how many rows there are, by what becomes of them.
        doors: where they are let in.
        limited: whether a limit is known there.
        paid: US dollars that rows have cost or would, by what becomes of them; None where one is not known.
    """

    def __init__(self, rows: Rows, client: Client, among: Sequence[Deployment]) -> None:
        self._rows = rows
        self.counts = dict.fromkeys(Fate, 0)
        self._asks: dict[Fate, list[Ask]] = {}
        self.paid: dict[Fate, float | None] = dict.fromkeys(Fate, 0.0)
        self._prices = [rows.price]
        if among:
            calls = [client.foresee("completion", messages=[], **one.options) for one in among]
            self._prices = [foreseen.price for foreseen in calls]
            self.doors = [
                _door(foreseen.call, [] if one.limits is None else [one.limits], client.limiter)
                for one, foreseen in zip(among, calls, strict=True)
            ]
        else:
            self.doors = [_door(rows.call, client.limiter.limits, client.limiter)]

    @property
    def limited(self) -> bool:
        """Whether any limit is known at any of the doors."""
        return any(
            any(limit.matches(door.model) for limit in door.limits)
            or (door.known is not None and bool(door.known.quotas or door.known.rate))
            for door in self.doors
        )

    def tell(self, plan: Plan, count: Sequence[int]) -> None:
        """Put the rows into a plan.

        Args:
            plan: what to put them into.
            count: by slot, whether a row is among those that are wanted.
        """
        rows = self._rows
        inputs, outputs = rows.habits.inputs(), rows.habits.outputs()
        input_tokens, output_tokens = NOTHING, NOTHING
        where = {fate: array("L") for fate in Fate}
        for at, slot in enumerate(rows.slots):
            if not count[slot]:
                continue
            fate = Fate(rows.fates[at])
            where[fate].append(at)
            taken = rows.inputs(at, inputs), rows.outputs(at, outputs)
            if fate is Fate.ASKED:
                input_tokens += taken[0]
                output_tokens += taken[1]
            else:
                self._pay(fate, rows.paid[at], taken)
        self.counts = {fate: len(places) for fate, places in where.items()}
        self._asks = {fate: rows.asks(_spread(places)) for fate, places in where.items()}
        if self.counts[Fate.ASKED]:
            self._tell(plan, input_tokens, output_tokens)

    def line(self, *fates: Fate) -> Line:
        """The rows that these things become of, as the limiter would meet them."""
        asks = [ask for fate in fates for ask in self._asks[fate]]
        return Line(self.doors, asks, sum(self.counts[fate] for fate in fates))

    def _tell(self, plan: Plan, input_tokens: Range, output_tokens: Range) -> None:
        count = self.counts[Fate.ASKED]
        model = plan.models.get(self._rows.model)
        cost = self._cost(count, input_tokens, output_tokens)
        if model is None:
            model = plan.models[self._rows.model] = ModelPlan(self._rows.model, cost=NOTHING)
        model.rows += count
        model.calibrated = self._rows.habits.calibrated
        model.input_tokens += input_tokens
        model.output_tokens += output_tokens
        model.cost = None if cost is None or model.cost is None else model.cost + cost
        asks = self._asks[Fate.ASKED]
        share = count / model.rows  # of all rows of this model
        so_far = plan.seconds_per_answer.get(model.model, 0.0)
        mean = sum(ask.seconds for ask in asks) / len(asks)
        plan.seconds_per_answer[model.model] = so_far * (1 - share) + mean * share

    def _pay(self, fate: Fate, paid: float, taken: tuple[Range, Range]) -> None:
        """Count what a row has cost that need not be asked, or would."""
        if paid == AS_ANOTHER:
            cost = self._cost(1, *taken)
            paid = math.nan if cost is None else cost.likely
        so_far = self.paid[fate]
        self.paid[fate] = None if so_far is None or math.isnan(paid) else so_far + paid

    def _cost(self, rows: int, input_tokens: Range, output_tokens: Range) -> Range | None:
        """US dollars of so many rows; at several places by the mean of their prices."""
        prices = [price for price in self._prices if price is not None]
        if len(prices) < len(self._prices):
            return None
        given, taken, asked = (sum(part) / len(prices) for part in zip(*prices, strict=True))
        return input_tokens.times(given) + output_tokens.times(taken) + Range(*[rows * asked] * 3)


def _door(call: Call, limits: Sequence[RateLimit], limiter: RateLimiter) -> Door:
    known = None if call.origin is None else limiter.remembered(call.model, call.origin)
    return Door(call.model, limits, call.origin, known)


def _seconds(reckoned: Sequence[_Reckoned], settings: Settings, *more: Fate) -> float:
    """Seconds that a run takes which asks those that are to be asked, and more."""
    return seconds_for([one.line(Fate.ASKED, *more) for one in reckoned], in_flight=settings.max_in_flight)


def _spread(places: Sequence[int]) -> Sequence[int]:
    """As many places as are simulated, spread over all of them, and so are those of each stretch."""
    if len(places) <= SIMULATED:
        return places
    return [places[int(number * _GOLDEN % 1.0 * len(places))] for number in range(SIMULATED)]


def _saving(
    reckoned: Sequence[_Reckoned], settings: Settings, fate: Fate, seconds: float, *, rows: int | None = None
) -> Saving:
    """What is saved by not asking rows of this fate; ``rows`` if more of them are known than can be reckoned."""
    count = sum(one.counts[fate] for one in reckoned)
    if not (count or rows):
        return Saving()
    paid = [one.paid[fate] for one in reckoned]
    cost = None if None in paid else math.fsum(part for part in paid if part is not None)
    return Saving(rows or count, cost, max(0.0, _seconds(reckoned, settings, fate) - seconds))


def _budget(plan: Plan, budget: Budget, used: Amount, source: str) -> BudgetPlan:
    """How far a budget goes. What it has counted of the results file already is not counted again."""
    spent = Amount(
        *(
            before + max(0.0, own - known)
            for before, own, known in zip(budget.spent, used, budget.carried(source), strict=True)
        )
    )
    tokens = plan.input_tokens + plan.output_tokens
    wanted = {
        "cost": (budget.max_cost, spent.cost, plan.cost if budget.unpriced == "error" or plan.cost else NOTHING),
        "tokens": (budget.max_tokens, spent.tokens, tokens),
        "requests": (budget.max_requests, spent.requests, Range(*[float(plan.to_ask)] * 3)),
    }
    rows: Range | None = Range(*[float(plan.to_ask)] * 3)
    for most, gone, wants in wanted.values():
        if most is None or rows is None:
            continue
        rows = None if wants is None else _least(rows, _affordable(plan.to_ask, most - gone, wants))
    left = None if budget.max_cost is None else max(0.0, budget.max_cost - spent.cost)
    return BudgetPlan(spent.cost, left, rows)


def _affordable(rows: int, left: float, wants: Range) -> Range:
    """How many rows are paid by what is left, if all of them together want so much."""

    def share(amount: float | None) -> float:
        if amount is None:
            return 0.0
        return float(rows) if amount <= max(0.0, left) else math.floor(rows * max(0.0, left) / amount)

    return Range(share(wants.high), share(wants.likely), share(wants.low))


def _least(one: Range, other: Range) -> Range:
    return Range(min(one.low, other.low), min(one.likely, other.likely), min(one.high or 0.0, other.high or 0.0))
