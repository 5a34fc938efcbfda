"""What a call may cost, before it is made: for the sake of budgets, and of attempts of which nobody knows the charge.

What may live here: expectations in money and tokens. What a call really used is said by its answer.
"""

from __future__ import annotations

from typing import Final

from ..accounting import Amount, Budget, Hold
from ..errors import ConfigError
from ..limits.estimate import Estimate
from .call import Call
from .lane import Lane, Rates

# A call that does not bound its answer holds this many times the longest answer of late.
_SAFETY: Final = 1.5
# How much of the longest answer is still believed in after each further one: half of it after some 70.
_FADING: Final = 0.99
# The longest answer of a model of which nothing is known.
_UNKNOWN_LENGTH: Final = 4096.0
# What is held of money where nothing bounds it, or where what has no price counts as free.
_FREE: Final = Rates(0.0, 0.0)


class AnswerLengths:
    """How long the longest answers have been of late, by model. A race between threads costs at most one sample."""

    def __init__(self) -> None:
        self._longest: dict[str, float] = {}

    def learn(self, model: str, output_tokens: int) -> None:
        """Take an answer into account."""
        self._longest[model] = max(float(output_tokens), _FADING * self._longest.get(model, 0.0))

    def most(self, lane: Lane, call: Call) -> float:
        """Output tokens of a call that does not say: one and a half times the longest, or the longest there can be."""
        longest = self._longest.get(call.model)
        if longest is not None:
            return _SAFETY * longest
        return lane.longest_answer(call) or _UNKNOWN_LENGTH


def hold_of(
    budget: Budget, lane: Lane, lengths: AnswerLengths, call: Call, estimate: Estimate, *, requests: float
) -> Hold:
    """The estimate that a call has to hold of a budget.

    Raises:
        ConfigError: the budget is one of money, and nobody knows what the model costs.
    """
    inputs, outputs = estimate.input_tokens, estimate.output_tokens
    bounded = estimate.bounded or call.operation == "embedding"  # which has no output
    most = outputs if bounded else max(outputs, lengths.most(lane, call))
    rates = None if budget.max_cost is None else lane.price(call)
    if rates is None:
        if budget.max_cost is not None and budget.unpriced == "error":
            raise ConfigError(
                f"the price of {call.model} is unknown, so that a budget of money cannot be kept; give it as "
                f"Client(prices={{{call.model!r}: Price(...)}}), or count its calls as free with "
                f"Budget(..., unpriced='free')"
            )
        rates = _FREE
    likely = Amount(rates.cost(inputs, outputs), inputs + outputs, requests)
    return budget.hold(rates.cost(inputs, most), inputs + most, requests, likely=likely)


def expected_cost(lane: Lane, call: Call, input_tokens: float, output_tokens: float) -> float | None:
    """What an attempt with so many tokens costs, by the model's plain prices; None where these are not known."""
    rates = lane.price(call)
    return None if rates is None else rates.cost(input_tokens, output_tokens)
