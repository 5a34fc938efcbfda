"""What a row's failure means for the row, for its pool and for the run.

What may live here: the decision, which is pure. What a provider's error is, `calls.failure` tells; this module tells
what a bulk run makes of it.
"""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import dataclass

from ..calls.failure import failure_of
from ..errors import (
    BudgetExceeded,
    BulkLLMError,
    ConfigError,
    ImpossibleRequest,
    IncompatibleLiteLLM,
    InvalidAnswer,
    LimitTimeout,
)

ASK_AGAIN = "then run the same again: the rows left undone will be asked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement on one failure.

    Attributes:
        passing: the reason may pass, so a rerun asks for the row again.
        cure: set where the same will happen to every row of the pool until somebody does this.
        ends_run: nothing in this run can go on, and the row was not asked: it stays undone.
        status: the provider's HTTP status, if it answered.
        answered: the provider took the key, the model and the money, and so the pool is sound.
    """

    passing: bool
    cure: str | None = None
    ends_run: bool = False
    status: int | None = None
    answered: bool = False


def judge(error: BaseException) -> Verdict:
    """What to make of the exception that a call ended with."""
    if isinstance(error, BulkLLMError):
        return _own(error)
    if isinstance(error, CancelledError):  # from below; a row that is given up is judged by nobody
        return Verdict(passing=True)
    failure = failure_of(error)
    status = failure.status
    if any(isinstance(link, ImportError) for link in (error, error.__cause__, error.__context__)):
        return Verdict(passing=True, cure=f"install what is missing, {ASK_AGAIN}", status=status)
    match failure.kind:
        case "auth":
            return Verdict(passing=True, cure=f"check the API key and what it may do, {ASK_AGAIN}", status=status)
        case "not_found":
            return Verdict(passing=True, cure=f"check the model's name and the endpoint, {ASK_AGAIN}", status=status)
        case "quota":
            return Verdict(
                passing=True, cure=f"raise the quota or wait until it is renewed, {ASK_AGAIN}", status=status
            )
        case "request" if type(error).__name__ == "BadRequestError" and getattr(error, "llm_provider", None) == "":
            # LiteLLM's own refusal: it knows no provider for this name and has sent nothing.
            return Verdict(passing=True, cure=f"give the model's name with its provider (openai/...), {ASK_AGAIN}")
        case "request":
            return Verdict(passing=False, status=status, answered=status is not None)
        case _:
            return Verdict(passing=True, status=status)


def _own(error: BulkLLMError) -> Verdict:
    if isinstance(error, BudgetExceeded):
        return Verdict(passing=True, cure=f"raise the budget, {ASK_AGAIN}", ends_run=True)
    if isinstance(error, IncompatibleLiteLLM):
        return Verdict(passing=True, cure=f"install a LiteLLM that works, {ASK_AGAIN}", ends_run=True)
    if isinstance(error, ImpossibleRequest):
        return Verdict(passing=False)
    if isinstance(error, ConfigError):
        return Verdict(passing=True, cure=f"mend the setting, {ASK_AGAIN}")
    if isinstance(error, LimitTimeout):
        return Verdict(passing=True)
    if isinstance(error, InvalidAnswer):
        return Verdict(passing=False, answered=True)
    return Verdict(passing=False)
