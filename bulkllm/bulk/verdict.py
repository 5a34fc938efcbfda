"""What a row's failure means for the row, for its pool and for the run.

What may live here: the decision, and what the row says of it; pure. What a provider's error is, `calls.failure` tells;
this module tells what a bulk run makes of it.
"""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import dataclass
from typing import Final

from ..accounting import UsageRecord
from ..calls.failure import failure_of
from ..calls.quota import quota_of
from ..errors import (
    BudgetExceeded,
    BulkLLMError,
    ConfigError,
    ImpossibleRequest,
    IncompatibleLiteLLM,
    InvalidAnswer,
    LimitTimeout,
)
from .redact import redact
from .result import RowError

ASK_AGAIN = "then run the same again: the rows left undone will be asked"
_WAIT_FOR_IT: Final = (
    "run the same again after that, and the rows left undone will be asked, or have a run wait for it itself:"
    " wait_for_quota=True (--wait-for-quota)"
)

_READ_IT: Final = (
    "do what that says, then run the same again: the rows left undone will be asked, and with retry_failed"
    " (--retry-failed) those that were refused, too"
)

# With these a provider turns a row away for what is in it, however many of them come in a row.
_OF_THE_ROW: Final = frozenset({"ContextWindowExceededError", "ContentPolicyViolationError"})
_FORBIDDEN: Final = 403  # of one request, and not of a key: by a moderation


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement on one failure.

    Attributes:
        passing: the reason may pass, so a rerun asks for the row again.
        cure: set where the same will happen to every row of the pool until somebody does this.
        suspicion: set where that may be so, and only many rows that are refused alike can tell: what to do then.
        ends_pool: nothing in this pool can go on, and the row was not asked: it stays undone.
        problem: what is wrong with the pool, where the error's own text says it worse.
        ends_run: the same for the whole run.
        too_large: the budget has no room for the row, which was not asked and stays undone; a smaller one may fit.
        status: the provider's HTTP status, if it answered.
        answered: the model has worked, or has looked at the row at least, and so the pool is sound.
    """

    passing: bool
    cure: str | None = None
    suspicion: str | None = None
    ends_pool: bool = False
    problem: str | None = None
    ends_run: bool = False
    too_large: bool = False
    status: int | None = None
    answered: bool = False


def judge(error: BaseException) -> Verdict:
    """What to make of the exception that a call ended with."""
    exhausted = quota_of(error)
    if exhausted is not None:  # whether the provider said so now, or the limiter knew
        return Verdict(passing=True, cure=_WAIT_FOR_IT, ends_pool=True, problem=exhausted.problem)
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
        case "request" if status == _FORBIDDEN or _OF_THE_ROW & {cls.__name__ for cls in type(error).__mro__}:
            return Verdict(passing=False, status=status, answered=True)
        case "request":
            return Verdict(passing=False, suspicion=_READ_IT, status=status)
        case "rate_limit":
            return Verdict(passing=True, suspicion=f"look whether a quota is used up, {ASK_AGAIN}", status=status)
        case _:
            return Verdict(passing=True, status=status)


def _own(error: BulkLLMError) -> Verdict:
    if isinstance(error, BudgetExceeded):
        return Verdict(passing=True, too_large=True)
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


def was_paid(record: UsageRecord | None) -> bool:
    """Whether something was paid before the row came to its end: then that must be written down."""
    return record is not None and (record.total_tokens > 0 or bool(record.cost) or record.charge_unknown)


def row_error(problem: BaseException, verdict: Verdict, secrets: tuple[str, ...]) -> RowError:
    """What a row says of its failure, with the secrets taken out."""
    text = str(problem) or "it was cancelled from within: something that the call waited for was given up"
    return RowError(type(problem).__name__, redact(text, secrets), verdict.status)
