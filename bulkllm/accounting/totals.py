"""Sums over records: what a tracker holds for each model, provider, outcome and tag.

What may live here: :class:`Totals`, how a record is added to it and how two of them are combined. Sums of money
and time are kept as whole numbers, so that they are exact and do not depend on the order of adding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

from .._waits import LIMITS, NOT_WAITED, PROVIDER, advice, lumped, shares_of
from ..errors import ConfigError
from .record import UsageRecord
from .response import number
from .sketch import EXACT, LARGEST, Quantiles
from .usage import COUNTS as TOKENS
from .usage import Usage

_CALLS = (
    "requests",
    "ok",
    "cached",
    "failed",
    "cancelled",
    "unpriced",
    "estimated",
    "charge_unknown",
    "contradictory",
    "attempts",
    "refused",
    "uncertain_tokens",
)
_MONEY_AND_TIME = ("_cost", "_saved", "_uncertain_cost", "_waited")
_SKETCHES = ("latency", "time_to_first_token", "input_per_call", "output_per_call", "cost_per_call")
_SUMS = (*_CALLS, *TOKENS, *_MONEY_AND_TIME)
_of_tokens = attrgetter(*TOKENS)
_RARE = TOKENS[5:]
_rare_tokens = attrgetter(*_RARE)

MAX_REASONS: Final = 32
"""How many things that calls waited for are told apart; those beyond are counted by their kind only."""

_UNTOLD: Final = 0.01  # of the time waited: taking a free place in a budget is noted in it, and in no reason


class Totals:
    """Sums and quantiles over calls; a copy of a tracker's state that does not change any more.

    ``requests`` counts calls, cached and failed ones too; the counts after it say how many of them were what.
    ``ok``, ``failed`` and ``cancelled`` add up to ``requests``. Tokens are in the fields of :class:`Usage`.

    Attributes:
        requests: calls.
        ok: calls that gave an answer.
        cached: calls that a cache answered.
        failed: calls that ended in an error.
        cancelled: calls that were given up.
        unpriced: calls whose cost is not known; they are not in ``cost``.
        estimated: calls whose tokens are an estimate.
        charge_unknown: calls of which an attempt may have been charged without anybody knowing.
        contradictory: calls for which the provider's numbers contradict each other.
        attempts: requests sent to providers.
        refused: those among them that were turned away for a limit or for money.
        uncertain_tokens: tokens that may be charged besides, for attempts of which nobody knows: an estimate.
        latency: seconds of the last attempt, over calls that were sent.
        time_to_first_token: seconds to the first chunk, over streams that were sent.
        input_per_call: input tokens, over calls that were sent and used any tokens.
        output_per_call: output tokens, over the same.
        cost_per_call: US dollars, over calls that cost something.
    """

    __slots__ = (*_SUMS, "_waits", *_SKETCHES)
    __hash__ = None  # type: ignore[assignment]  # it compares by what it holds

    requests: int
    ok: int
    cached: int
    failed: int
    cancelled: int
    unpriced: int
    estimated: int
    charge_unknown: int
    contradictory: int
    attempts: int
    refused: int
    uncertain_tokens: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    input_audio_tokens: int
    input_image_tokens: int
    output_audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    unexplained_tokens: int
    _cost: int
    _saved: int
    _uncertain_cost: int
    _waited: int
    _waits: dict[str, int]
    latency: Quantiles
    time_to_first_token: Quantiles
    input_per_call: Quantiles
    output_per_call: Quantiles
    cost_per_call: Quantiles

    def __init__(self) -> None:
        for name in _SUMS:
            setattr(self, name, 0)
        self._waits = {}
        for name in _SKETCHES:
            setattr(self, name, Quantiles())

    @property
    def cost(self) -> float:
        """US dollars, over the calls whose cost is known."""
        return self._cost / EXACT

    @property
    def saved(self) -> float:
        """US dollars that cached answers cost when they were paid for, where that is known."""
        return self._saved / EXACT

    @property
    def uncertain_cost(self) -> float:
        """US dollars that may be charged besides ``cost``, for attempts of which nobody knows: an estimate."""
        return self._uncertain_cost / EXACT

    @property
    def waited(self) -> float:
        """Seconds spent waiting for limits and budgets, over all calls."""
        return self._waited / EXACT

    @property
    def waits(self) -> dict[str, float]:
        """Seconds that went on other things than last attempts, by what: the limits waited for, budgets, retries.

        At most 32 limits are told apart, and further ones counted together, as "rpm of (other)" and the like.
        """
        return {reason: seconds / EXACT for reason, seconds in self._waits.items()}

    @property
    def shares(self) -> dict[str, float]:
        """Which share of the calls' time went on what, the largest first: on each of ``waits``, and on "provider".

        It is the time of all calls added up, not the time that has passed. Empty where there was none.
        """
        return shares_of(self._time())

    def _time(self) -> dict[str, float]:
        """Seconds by what they went on, the provider too.

        Waiting of which no record says what it was for (an earlier version's) goes under "limits".
        """
        spent = self.waits
        unexplained = self.waited - sum(seconds for reason, seconds in spent.items() if reason not in NOT_WAITED)
        if unexplained > _UNTOLD * self.waited:
            spent[LIMITS] = spent.get(LIMITS, 0.0) + unexplained
        spent[PROVIDER] = self.latency.sum
        return spent

    @property
    def advice(self) -> list[str]:
        """Why it was slow: what most of the time went on and what to raise, in sentences."""
        return advice(self.shares)

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    @property
    def usage(self) -> Usage:
        """All tokens as one value."""
        tokens: dict[str, Any] = dict(zip(TOKENS, _of_tokens(self), strict=True))
        return replace(Usage(contradictory=bool(self.contradictory)), **tokens)

    def _add(self, record: UsageRecord) -> None:
        """Count a sound record; nothing in here can fail half way."""
        usage, cost, attempts = record.usage, record.cost, record.attempts
        self.requests += 1
        if record.outcome == "ok":
            self.ok += 1
        elif record.outcome == "cancelled":
            self.cancelled += 1
        else:
            self.failed += 1
        if record.estimated:
            self.estimated += 1
        if record.charge_unknown:
            self.charge_unknown += 1
            self.uncertain_tokens += record.uncertain_tokens
            if record.uncertain_cost:
                self._uncertain_cost += int(record.uncertain_cost * EXACT)
        if usage.contradictory:
            self.contradictory += 1
        self.attempts += attempts
        if record.refused:
            self.refused += record.refused
        used_input, used_output = usage.input_tokens, usage.output_tokens
        self.input_tokens += used_input
        self.output_tokens += used_output
        self.cache_read_tokens += usage.cache_read_tokens
        self.cache_write_tokens += usage.cache_write_tokens
        self.reasoning_tokens += usage.reasoning_tokens
        rare = _rare_tokens(usage)
        if any(rare):
            for name, count in zip(_RARE, rare, strict=True):
                setattr(self, name, getattr(self, name) + count)
        if cost is None:
            self.unpriced += 1
        elif cost:
            self._cost += int(cost * EXACT)
            self.cost_per_call.add(cost)
        if record.waited:
            self._waited += int(record.waited * EXACT)
        if record.waits:
            for reason, seconds in record.waits.items():
                self._wait(reason, int(seconds * EXACT))
        if record.saved:  # also by a call whose answer was known in part
            self._saved += int(record.saved * EXACT)
        if record.cached:
            self.cached += 1
        elif attempts:
            self.latency.add(record.latency)
            if record.time_to_first_token is not None:
                self.time_to_first_token.add(record.time_to_first_token)
            if used_input or used_output:
                self.input_per_call.add(used_input)
                self.output_per_call.add(used_output)

    def _wait(self, reason: str, amount: int) -> None:
        waits = self._waits
        if reason not in waits and len(waits) >= MAX_REASONS:
            reason = lumped(reason)
        waits[reason] = waits.get(reason, 0) + amount

    def _merge(self, other: Totals) -> None:
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, amount in other._waits.items():
            self._wait(reason, amount)
        for name in _SKETCHES:
            getattr(self, name).merge(getattr(other, name))

    def _copy(self) -> Totals:
        twin = Totals()
        twin._merge(self)
        return twin

    def _since(self, earlier: Totals) -> Totals:
        rest = Totals()
        for name in _SUMS:
            setattr(rest, name, getattr(self, name) - getattr(earlier, name))
        rest._waits = {
            reason: more for reason, amount in self._waits.items() if (more := amount - earlier._waits.get(reason, 0))
        }
        for name in _SKETCHES:
            setattr(rest, name, getattr(self, name).since(getattr(earlier, name)))
        return rest

    def to_dict(self) -> dict[str, Any]:
        """The sums, and the quantiles' main figures; fit for JSON."""
        told: dict[str, Any] = {name: getattr(self, name) for name in (*_CALLS, *TOKENS)}
        told["total_tokens"] = self.total_tokens
        told |= {name[1:]: getattr(self, name[1:]) for name in _MONEY_AND_TIME}
        told |= {"waits": self.waits, "shares": self.shares}
        for name in _SKETCHES:
            sketch: Quantiles = getattr(self, name)
            told[name] = {
                figure: getattr(sketch, figure) for figure in ("count", "mean", "min", "p50", "p95", "p99", "max")
            }
        return told

    def _state(self) -> dict[str, Any]:
        """All that is needed to go on counting; fit for JSON."""
        state: dict[str, Any] = {name: count for name in (*_CALLS, *TOKENS) if (count := getattr(self, name))}
        state |= {name[1:]: f"{getattr(self, name):x}" for name in _MONEY_AND_TIME}
        if self._waits:
            state["waits"] = {reason: f"{amount:x}" for reason, amount in self._waits.items()}
        for name in _SKETCHES:
            sketch: Quantiles = getattr(self, name)
            if sketch.count:
                state[name] = sketch.to_dict()
        return state

    @classmethod
    def _from_state(cls, state: Mapping[str, Any]) -> Totals:
        totals = cls()
        try:
            for name in (*_CALLS, *TOKENS):
                setattr(totals, name, int(state.get(name, 0)))
            for name in _MONEY_AND_TIME:
                setattr(totals, name, int(state.get(name[1:], "0"), 16))
            for reason, amount in state.get("waits", {}).items():
                totals._wait(str(reason), int(amount, 16))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"not the totals of a tracker: {type(error).__name__}: {error}") from error
        for name in _SKETCHES:
            if name in state:
                setattr(totals, name, Quantiles.from_dict(state[name]))
        return totals

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Totals) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        return (
            f"Totals(requests={self.requests}, ok={self.ok}, input_tokens={self.input_tokens}, "
            f"output_tokens={self.output_tokens}, cost={self.cost:.6g}, unpriced={self.unpriced})"
        )


def sound(record: UsageRecord) -> UsageRecord:
    """The record as it is, or with each number that cannot be summed up set to unknown or 0.

    Raises:
        AttributeError: it is no record.
    """
    usage, cost, saved, first = record.usage, record.cost, record.saved, record.time_to_first_token
    uncertain = record.uncertain_cost
    try:
        if (
            # Adding a float shows, besides, that each is of a kind that goes with floats.
            0.0 <= record.latency + 0.0 <= LARGEST
            and 0.0 <= record.waited + 0.0 <= LARGEST
            and (cost is None or 0.0 <= cost + 0.0 <= LARGEST)
            and (saved is None or 0.0 <= saved + 0.0 <= LARGEST)
            and (first is None or 0.0 <= first + 0.0 <= LARGEST)
            and (uncertain is None or 0.0 <= uncertain + 0.0 <= LARGEST)
            and record.attempts >= 0
            and record.refused >= 0
            and 0 <= record.uncertain_tokens <= LARGEST
            and 0 <= usage.input_tokens <= LARGEST
            and 0 <= usage.output_tokens <= LARGEST
            and (not record.waits or _sound_waits(record.waits))
        ):
            return record
    except TypeError:
        pass
    return _mended(record)


def _sound_waits(waits: Mapping[Any, float]) -> bool:
    return all(isinstance(reason, str) and 0.0 <= seconds + 0.0 <= LARGEST for reason, seconds in waits.items())


def _mended(record: UsageRecord) -> UsageRecord:
    def amount(value: object) -> float | None:
        fit = number(value)
        return fit if fit is not None and fit <= LARGEST else None

    def whole(value: object) -> int:
        return int(amount(value) or 0)

    cost, usage = amount(record.cost), record.usage
    note = record.cost_note if cost is not None or record.cost is None else f"no cost: {record.cost!r}"
    return replace(
        record,
        latency=amount(record.latency) or 0.0,
        waited=amount(record.waited) or 0.0,
        waits={str(reason): amount(seconds) or 0.0 for reason, seconds in dict(record.waits).items()},
        cost=cost,
        cost_note=note,
        saved=amount(record.saved),
        time_to_first_token=amount(record.time_to_first_token),
        attempts=whole(record.attempts),
        refused=whole(record.refused),
        uncertain_cost=amount(record.uncertain_cost),
        uncertain_tokens=whole(record.uncertain_tokens),
        usage=replace(
            usage, input_tokens=whole(usage.input_tokens), output_tokens=whole(usage.output_tokens), contradictory=True
        ),
    )
