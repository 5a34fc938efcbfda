"""The keywords of a run that are its own, and neither LiteLLM's nor a client's.

What may live here: their values, their defaults, and what is wrong with them by themselves. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
        if self.max_in_flight < 1:
            raise ConfigError(f"max_in_flight={self.max_in_flight} must be at least 1")
        if self.limit is not None and self.limit < 0:
            raise ConfigError(f"limit={self.limit} must not be negative")
        sample: object = self.sample  # users without a type checker are helped too
        if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int) or sample < 1):
            raise ConfigError(
                f"sample={self.sample!r} must be at least 1, for it is how many rows a run asks; what tells several "
                "answers to one request apart in the cache is cache_sample="
            )
        if self.on_error not in ("keep", "raise"):
            raise ConfigError(f"on_error={self.on_error!r} is neither 'keep' nor 'raise'")
