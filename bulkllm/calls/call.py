"""One call as a value: everything that the flow and a lane need to know of it. No behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..limits.origin import Origin
from .retry import RetryPolicy

if TYPE_CHECKING:
    from .observer import Observer

Operation = Literal["completion", "embedding", "responses"]

DEFAULT_TIMEOUT = 600.0
"""Seconds that one attempt may take unless said otherwise. LiteLLM's own default is 6,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, before it is made.

    Attributes:
        operation: which of LiteLLM's functions.
        model: the canonical name, with its provider: ``openai/gpt-5-mini``. Limits and usage go by it.
        requested_model: what the caller wrote.
        provider: LiteLLM's name of the provider; empty where LiteLLM does not know the model.
        options: LiteLLM's keywords, ``model`` and ``messages`` (or ``input``) among them, ours taken out.
        stream: whether the answer comes as a stream.
        adds_usage_chunk: we ask the provider for a usage chunk that the caller did not ask for, and swallow it.
        timeout: seconds for one attempt, wall clock; None where the caller passed LiteLLM a timeout of its own kind.
        deadline: seconds for the call with all its waiting and attempts; None for no end.
        patience: seconds to wait at most for a quota of a day or longer that is spent; 0 for not at all.
        priority: see :meth:`bulkllm.RateLimiter.reserve`.
        retry: which failures are tried again, and when.
        origin: whose limits it falls under; None where nothing is to be learned of them.
        tags: what the usage is to be counted under besides.
        observers: who else is told of it.
    """

    operation: Operation
    model: str
    requested_model: str
    provider: str
    options: Mapping[str, Any] = field(repr=False)  # holds prompts and keys
    stream: bool = False
    adds_usage_chunk: bool = False
    timeout: float | None = DEFAULT_TIMEOUT
    deadline: float | None = None
    patience: float = 0.0
    priority: float = 0.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    origin: Origin | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    observers: tuple[Observer, ...] = ()
