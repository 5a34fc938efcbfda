"""The keywords of a run that are its own, and neither LiteLLM's nor a client's.

What may live here: their values, their defaults, and what is wrong with them by themselves; and of the keywords of
every call, what is wrong with those that are bulkllm's. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from ..caching.choosing import chosen
from ..calls.arguments import priority_of, retry_of, seconds_of, tags_of
from ..calls.retry import RetryPolicy
from ..errors import ConfigError
from .progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The run's own keywords; `bulkllm.bulk.runner.arun` says what they mean."""

    model: Any = None
    output: str | os.PathLike[str] | None = None
    max_in_flight: int = 256
    endpoint: str | None = None
    system: str | None = None
    prompt: str | None = None
    redo_changed: bool = False
    retry_failed: bool = False
    skip_bad: bool = False
    limit: int | None = None
    progress: bool | Callable[[Progress], Any] = True
    fallbacks: Sequence[Any] = ()
    deployments: Sequence[Mapping[str, Any]] | None = None
    validate: Callable[[Any], Any] | None = None
    reasks: int = 2
    on_error: Literal["keep", "raise"] = "keep"
    sample: int | None = None
    ordered: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for what is wrong; users without a type checker are helped too."""
        for name in ("redo_changed", "retry_failed", "skip_bad", "ordered"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be True or False")
        for name in ("endpoint", "system", "prompt"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigError(f"{name}= must be text, not {type(getattr(self, name)).__name__}")
        if not isinstance(self.output, str | os.PathLike | None):
            raise ConfigError(f"output= must be the path of a file, not {type(self.output).__name__}")
        if not _is_whole(self.max_in_flight, 1):
            raise ConfigError(f"max_in_flight={self.max_in_flight!r} must be a whole number, at least 1")
        if not _is_whole(self.reasks, 0):
            raise ConfigError(f"reasks={self.reasks!r} must be a whole number, 0 or more")
        if self.limit is not None and not _is_whole(self.limit, 0):
            raise ConfigError(f"limit={self.limit!r} must be a whole number of rows, 0 or more")
        if self.sample is not None and not _is_whole(self.sample, 1):
            raise ConfigError(
                f"sample={self.sample!r} must be at least 1, for it is how many rows a run asks; what tells several "
                "answers to one request apart in the cache is cache_sample="
            )
        if self.on_error not in ("keep", "raise"):
            raise ConfigError(f"on_error={self.on_error!r} is neither 'keep' nor 'raise'")


def check_options(options: Mapping[str, Any]) -> None:
    """Look through what a run gives to each call, so that a wrong one is told before the first row.

    Raises:
        ConfigError: the timeout, the retries, tags, priority, deadline or namespace is wrong.
    """
    if isinstance(timeout := options.get("timeout"), int | float | str):
        seconds_of("timeout", timeout)
    if (deadline := options.get("deadline")) is not None:
        seconds_of("deadline", deadline)
    retry_of(RetryPolicy(), dict(options))
    tags_of(options.get("tags"))
    priority_of(options.get("priority", 0.0))
    chosen({"namespace": options.get("namespace")}, None)


def _is_whole(value: Any, least: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least
