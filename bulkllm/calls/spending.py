"""What a call may cost at the most, before it is made, for the sake of a budget."""

from __future__ import annotations

from ..accounting import Budget, Hold
from ..errors import ConfigError
from ..limits.estimate import Estimate
from .call import Call
from .lane import Lane


def hold_of(budget: Budget, lane: Lane, call: Call, estimate: Estimate) -> Hold:
    """The estimate that a call has to hold of a budget.

    Raises:
        ConfigError: the budget is one of money, and nobody knows what the model costs.
    """
    cost = 0.0
    if budget.max_cost is not None:
        price = lane.price(call)
        if price is not None:
            per_input, per_output = price
            cost = estimate.input_tokens * per_input + estimate.output_tokens * per_output
        elif budget.unpriced == "error":
            raise ConfigError(
                f"the price of {call.model} is unknown, so that a budget of money cannot be kept; count its calls as "
                f"free with Budget(..., unpriced='free'), or tell LiteLLM the price with litellm.register_model"
            )
    return budget.hold(cost=cost, tokens=estimate.input_tokens + estimate.output_tokens)
