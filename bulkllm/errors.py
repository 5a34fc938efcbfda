"""Every exception that bulkllm raises on its own account.

    BulkLLMError
    ├── ConfigError             a setting, an argument or a configuration file is wrong
    ├── IncompatibleLiteLLM     the installed LiteLLM cannot be used, or cannot do what was asked
    ├── LimitError
    │   ├── ImpossibleRequest   larger than a configured limit's whole quota: it could never run
    │   ├── LimitTimeout        quota did not come free within the time given
    │   ├── QuotaExhausted      the quota of a day (or longer) is spent, and the call does not wait for the next
    │   └── StoreUnavailable    the store through which processes share limits cannot be used now
    ├── BudgetExceeded          the call would break the budget, and was not made
    ├── CacheError              the cache cannot be used as asked
    ├── RequestFileError        a request file is malformed: file, line, column, what was expected
    ├── RunLocked               another run is writing to the same results file
    ├── RunStopped              a bulk run ended before its input did: what stopped it, and the cure
    ├── RowFailed               a row of a bulk run failed, and none was to fail
    └── InvalidAnswer           an answer is not what `response_format` or `validate` asks for

A provider's own errors are LiteLLM's exceptions and are raised as they are. No text in here ever holds a key,
a prompt or a completion.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path


class BulkLLMError(Exception):
    """The root of the tree: catch it to catch all that bulkllm itself raises."""


class ConfigError(BulkLLMError, ValueError):
    """A setting, an argument or a configuration file is wrong; the text names it and the cure."""


class IncompatibleLiteLLM(BulkLLMError):
    """The installed LiteLLM cannot be imported, or lacks what was asked for."""


class LimitError(BulkLLMError):
    """The rate limiter cannot let a request through."""


class ImpossibleRequest(LimitError, ValueError):
    """The request needs more than a configured limit's whole quota: no wait would ever be long enough."""


class LimitTimeout(LimitError, TimeoutError):
    """Quota did not come free within the time given. Nothing was sent, nothing is held."""


class QuotaExhausted(LimitError):
    """A quota of a day or longer is spent, says the provider, and the call was not to wait. Nothing was sent.

    Attributes:
        model: LiteLLM's name of the model whose quota it is.
        quota: which one, such as ``requests per day``; empty where the provider does not say.
        until: when requests go again, in UTC.
        retry_after: seconds until then.
    """

    def __init__(self, model: str, quota: str, until: datetime, retry_after: float) -> None:
        self.model = model
        self.quota = quota
        self.until = until
        self.retry_after = retry_after
        super().__init__(
            f"{self.problem}; call again then, raise the quota with the provider, or have calls wait for it: "
            f"Client(wait_for_quota=True)"
        )

    @property
    def problem(self) -> str:
        """What is wrong, without the cure."""
        which = f"the quota of {self.quota}" if self.quota else "a quota that the provider does not name"
        moment = self.until.strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"{which} is spent for {self.model}: nothing goes before {moment}"

    def __reduce__(self) -> tuple[object, ...]:
        return QuotaExhausted, (self.model, self.quota, self.until, self.retry_after)


class StoreUnavailable(LimitError):
    """The store through which several processes share limits cannot be reached, or cannot be used now.

    Attributes:
        retry_after: seconds after which it probably can be used; None where nobody knows.
    """

    def __init__(self, problem: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(problem)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_store_unavailable, (str(self), self.retry_after)


class BudgetExceeded(BulkLLMError):
    """The call would have broken the budget. It was not made and costs nothing."""


class CacheError(BulkLLMError):
    """The cache cannot be used as asked (a cache that merely broke is set aside with a warning instead)."""


class RequestFileError(BulkLLMError, ValueError):
    """A request file is malformed.

    Attributes:
        path: the file, or None where the rows came from an iterable.
        line: 1-based line (or row) number, or None.
        column: 1-based column, or None.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        self.problem = problem
        self.path = None if path is None else Path(path)
        self.line = line
        self.column = column
        place = ":".join(str(part) for part in (path or "requests", line, column) if part is not None)
        super().__init__(f"{place}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_request_file_error, (self.problem, self.path, self.line, self.column)


class RunLocked(BulkLLMError):
    """Another run is writing to the same results file."""


class RunStopped(BulkLLMError):
    """A bulk run ended before its input did; the rows left undone are done by running the same again."""


class RowFailed(BulkLLMError):
    """A row of a bulk run failed, and the run was told that none may (``on_error="raise"``).

    Attributes:
        index: the row's position in the input, from 0.
        code: the name of the class of the error that it failed with.
    """

    def __init__(self, text: str, *, index: int, code: str) -> None:
        super().__init__(text)
        self.index = index
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_row_failed, (str(self), self.index, self.code)


class InvalidAnswer(BulkLLMError):
    """An answer is not what ``response_format`` or ``validate`` asks for, however often the model was told.

    Attributes:
        answer: the last answer, as it came.
    """

    def __init__(self, text: str, *, answer: object = None) -> None:
        super().__init__(text)
        self.answer = answer


def _rebuild_row_failed(text: str, index: int, code: str) -> RowFailed:
    return RowFailed(text, index=index, code=code)


def _rebuild_request_file_error(
    problem: str, path: Path | None, line: int | None, column: int | None
) -> RequestFileError:
    return RequestFileError(problem, path=path, line=line, column=column)


def _rebuild_store_unavailable(problem: str, retry_after: float | None) -> StoreUnavailable:
    return StoreUnavailable(problem, retry_after=retry_after)
