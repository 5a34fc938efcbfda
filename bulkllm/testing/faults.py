"""What goes wrong on purpose, and with which requests.

What may live here: the description of a fault and the choice of the requests that meet it. How a fault is played is
the connection's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from hashlib import blake2b
from typing import Literal, TypeAlias, get_args

from ..errors import ConfigError
from .headers import RetryAfter

FaultKind: TypeAlias = Literal[
    "status",
    "quota",
    "reset",
    "close",
    "hang",
    "truncate",
    "cut_body",
    "empty_choices",
    "trickle",
    "cut_stream",
    "stream_error",
]
# These stand in for the whole answer; the others spoil a reply on its way.
INSTEAD_OF_REPLY = frozenset({"status", "quota", "reset", "close"})
ONLY_STREAMS = frozenset({"cut_stream", "stream_error"})
_CERTAIN = 2.0**64


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, and when. All conditions given must hold; with none given it is every request.

    A request that a limit refuses meets no fault, and does not count in ``every``, ``first`` and ``after``. If several
    faults want the same request, the first in the list has it.

    Attributes:
        kind: what happens:

            * ``status``: an error of the provider's shape with ``status`` (or with ``body``, as it stands).
            * ``quota``: out of money: 429 ``insufficient_quota``; 400 "credit balance" in Anthropic's dialect.
            * ``reset``: the connection is reset before a byte of an answer.
            * ``close``: the connection is closed instead, in good order.
            * ``hang``: no answer until the client leaves; with ``delay`` a good answer after so long.
            * ``truncate``: the answer's JSON stops half way, in a complete HTTP response (a stream: one of its
              events).
            * ``cut_body``: the HTTP body stops half way and the connection is closed.
            * ``empty_choices``: a well-formed answer with nothing in it.
            * ``trickle``: a good answer, in some twenty pieces with ``delay`` (0.05 s) before each.
            * ``cut_stream``: a stream's connection is closed after ``after_chunks`` tokens. Streams only.
            * ``stream_error``: an error event after ``after_chunks`` tokens, then the end. Streams only.

        status: the HTTP status of ``status``, and of what ``stream_error`` tells of.
        rate: the share of requests, from 0 to 1. Which ones depends on the seed, the prompt, and how often it was
            asked before, and not on the order in which requests arrive.
        every: every Nth request of those that ``match``, ``model`` and ``after`` leave.
        first: only the first N of those.
        after: not the first N that match.
        match: only prompts that contain this text.
        model: only requests to this model.
        retry_after: for ``status``: the hint to wait, see :func:`~bulkllm.testing.headers.retry_headers`. A
            number or its text are seconds, ``"1500ms"`` is ``retry-after-ms``, ``"date"`` and ``"date+30"`` are
            HTTP dates.
        delay: seconds before the fault acts (``trickle``: before each piece).
        after_chunks: how many tokens a stream sends first.
        body: for ``status``: this body instead of the provider's error shape, such as a gateway's HTML page.

    Raises:
        ConfigError: an unknown kind, or a condition that can never hold.
    """

    kind: FaultKind
    status: int = 500
    rate: float | None = None
    every: int | None = None
    first: int | None = None
    after: int = 0
    match: str | None = None
    model: str | None = None
    retry_after: RetryAfter = None
    delay: float = 0.0
    after_chunks: int = 3
    body: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ConfigError(
                f"Fault({self.kind!r}): there is no such kind; there are: {', '.join(get_args(FaultKind))}"
            )
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise ConfigError(f"Fault({self.kind!r}, rate={self.rate!r}): a rate is a share from 0 to 1")
        for name, least in (("every", 1), ("first", 1), ("after", 0), ("delay", 0), ("after_chunks", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"Fault({self.kind!r}, {name}={value!r}): give a number from {least}")
        if not 200 <= self.status <= 599:  # noqa: PLR2004 - the statuses that an answer can have
            raise ConfigError(f"Fault({self.kind!r}, status={self.status!r}): give an HTTP status from 200 to 599")

    @property
    def spoils(self) -> bool:
        """Whether no good answer comes of it; the other faults only slow one."""
        return not (self.kind == "trickle" or (self.kind == "hang" and self.delay > 0))


class FaultPlan:
    """Chooses the requests that meet a fault. Not safe for several threads: its server calls it under a lock.

    Args:
        faults: in the order in which they are asked.
        seed: what ``rate`` is drawn from.
    """

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self.faults = tuple(faults)
        for fault in self.faults:
            if not isinstance(fault, Fault):
                raise ConfigError(f"faults= takes Fault objects, not {type(fault).__name__}")
        self.needs_text = any(fault.match is not None for fault in self.faults)
        self._key = str(seed).encode()[:32]
        self._counts = [0] * len(self.faults)

    def choose(self, model: str, prompt: str, digest: bytes, asked_before: int, *, stream: bool) -> Fault | None:
        """The fault that this request meets, if any.

        Args:
            model: what was asked.
            prompt: its text; only looked at if :attr:`needs_text`.
            digest: stands for the prompt.
            asked_before: how many requests with this prompt were let in before.
            stream: whether the reply is to be streamed.
        """
        chosen = None
        for index, fault in enumerate(self.faults):
            if fault.model is not None and fault.model != model:
                continue
            if fault.match is not None and fault.match not in prompt:
                continue
            if fault.kind in ONLY_STREAMS and not stream:
                continue
            self._counts[index] += 1
            count = self._counts[index] - fault.after
            if chosen is None and count > 0 and self._meets(index, fault, count, digest, asked_before):
                chosen = fault
        return chosen

    def _meets(self, index: int, fault: Fault, count: int, digest: bytes, asked_before: int) -> bool:
        if fault.first is not None and count > fault.first:
            return False
        if fault.every is not None and count % fault.every:
            return False
        if fault.rate is None:
            return True
        drawn = blake2b(digest + bytes([index % 256]) + asked_before.to_bytes(8, "big"), digest_size=8, key=self._key)
        return int.from_bytes(drawn.digest()) < fault.rate * _CERTAIN
