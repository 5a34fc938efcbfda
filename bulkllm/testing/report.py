"""What a server saw, and how it is counted.

What may live here: the report as a value, and the ledger behind it. Prompts are remembered as sixteen bytes each.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

Ending: TypeAlias = Literal["successes", "failed", "abandoned"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """What was seen of one model; the fields mean what they mean in :class:`ProviderReport`."""

    requests: int = 0
    successes: int = 0
    refused: int = 0
    rejected: int = 0
    failed: int = 0
    abandoned: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProviderReport:
    """What a :class:`~bulkllm.testing.FakeProvider` saw since it was started or reset.

    Each request ends in one of five ways: ``requests == successes + refused + rejected + failed + abandoned +
    in_flight``. Lists of models are not counted, nor are questions for this report.

    Attributes:
        requests: requests for output of a model.
        successes: good answers, handed to the socket whole.
        refused: 429s for a limit's sake.
        rejected: requests that were wrong themselves: malformed, an unknown path or model, a bad key.
        failed: requests that a fault spoiled.
        abandoned: requests whose client left before its good answer was sent whole.
        in_flight: requests being worked on.
        peak_in_flight: the most there were at the same time.
        faults: how many requests met a fault, by its kind; a fault that only slows counts here and in ``successes``.
        statuses: how many answers were begun with each HTTP status.
        repeated_prompts: successes for a prompt (model and messages or input) that already had one: what a client
            that never pays twice keeps at 0.
        repeated_requests: requests with a prompt that had been asked already, whatever came of it.
        streams_cut: streams that ended early, by a fault or because the client left.
        input_tokens: of the requests whose reply was begun.
        output_tokens: what was really sent, also of streams that were cut.
        cache_read_tokens: input tokens served from the prompt cache (Anthropic's dialect).
        cache_write_tokens: input tokens written to the prompt cache.
        first_at: when the first request came, in seconds of the server's clock; None if none came.
        last_at: when the last request came.
        models: the counts of each model; a request that could not be read or had a bad key has none.
        admitted_at: with ``record_times=True`` when each request was let in by the limits, else empty.
    """

    requests: int = 0
    successes: int = 0
    refused: int = 0
    rejected: int = 0
    failed: int = 0
    abandoned: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    statuses: Mapping[int, int] = dataclasses.field(default_factory=dict)
    repeated_prompts: int = 0
    repeated_requests: int = 0
    streams_cut: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    first_at: float | None = None
    last_at: float | None = None
    models: Mapping[str, ModelCounts] = dataclasses.field(default_factory=dict)
    admitted_at: tuple[float, ...] = ()

    @property
    def span(self) -> float:
        """Seconds from the first request to the last; 0 if there were fewer than two."""
        return 0.0 if self.first_at is None or self.last_at is None else self.last_at - self.first_at

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it; :meth:`from_dict` takes it back."""
        told: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        told["faults"] = dict(self.faults)
        told["statuses"] = {str(status): count for status, count in self.statuses.items()}
        told["models"] = {name: dataclasses.asdict(counts) for name, counts in self.models.items()}
        told["admitted_at"] = list(self.admitted_at)
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> ProviderReport:
        """The report that :meth:`to_dict` told of."""
        return cls(
            **{
                **told,
                "statuses": {int(status): count for status, count in told["statuses"].items()},
                "models": {name: ModelCounts(**counts) for name, counts in told["models"].items()},
                "admitted_at": tuple(told["admitted_at"]),
            }
        )


_COUNTED = tuple(field.name for field in dataclasses.fields(ModelCounts))


class Ledger:
    """Counts what happens. Not safe for several threads: its server calls it under a lock.

    Args:
        record_times: whether to remember when each request was let in.
    """

    def __init__(self, *, record_times: bool = False) -> None:
        self._record_times = record_times
        self._counts: dict[str | None, dict[str, int]] = {}  # by model; None for what could not be read
        self._in_flight = self._peak_in_flight = 0
        self._faults: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        # For each prompt: how often it was let in, times two, plus one if it had a success.
        self._prompts: dict[bytes, int] = {}
        self._repeated_prompts = self._repeated_requests = self._streams_cut = 0
        self._cache_read = self._cache_write = 0
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._admitted_at: list[float] = []

    def arrived(self, model: str | None, digest: bytes | None, now: float) -> None:
        """A request came; model and digest are None if it could not be read."""
        if self._first_at is None:
            self._first_at = now
        self._last_at = now
        self._of(model)["requests"] += 1
        if digest is not None:
            if digest in self._prompts:
                self._repeated_requests += 1
            else:
                self._prompts[digest] = 0

    def admitted(self, model: str, digest: bytes, now: float) -> int:
        """The limits let a request in; tells how often its prompt was let in before."""
        counts = self._of(model)
        counts["in_flight"] = in_flight = counts["in_flight"] + 1
        if in_flight > counts["peak_in_flight"]:
            counts["peak_in_flight"] = in_flight
        self._in_flight += 1
        if self._in_flight > self._peak_in_flight:
            self._peak_in_flight = self._in_flight
        if self._record_times:
            self._admitted_at.append(now)
        packed = self._prompts.get(digest, 0)
        self._prompts[digest] = packed + 2
        return packed >> 1

    def met(self, kind: str) -> None:
        """A fault was chosen for a request."""
        self._faults[kind] += 1

    def answered(self, status: int) -> None:
        """The head of an answer was sent."""
        self._statuses[status] += 1

    def replied(self, model: str, input_tokens: int, cache_read: int, cache_write: int) -> None:
        """A reply was begun."""
        self._of(model)["input_tokens"] += input_tokens
        self._cache_read += cache_read
        self._cache_write += cache_write

    def produced(self, model: str, tokens: int) -> None:
        """Output was sent."""
        self._of(model)["output_tokens"] += tokens

    def turned_away(self, model: str | None, outcome: Literal["refused", "rejected"]) -> None:
        """A request ended without having been let in."""
        self._of(model)[outcome] += 1

    def ended(self, model: str, digest: bytes, ending: Ending, *, stream_cut: bool) -> None:
        """A request that had been let in ended."""
        counts = self._of(model)
        counts["in_flight"] -= 1
        counts[ending] += 1
        self._in_flight -= 1
        self._streams_cut += stream_cut
        if ending == "successes":
            packed = self._prompts.get(digest, 0)
            self._repeated_prompts += packed & 1
            self._prompts[digest] = packed | 1

    def report(self) -> ProviderReport:
        """What was counted up to now."""
        totals = {name: sum(counts[name] for counts in self._counts.values()) for name in _COUNTED}
        totals["peak_in_flight"] = self._peak_in_flight
        return ProviderReport(
            **totals,
            faults=dict(self._faults),
            statuses=dict(self._statuses),
            repeated_prompts=self._repeated_prompts,
            repeated_requests=self._repeated_requests,
            streams_cut=self._streams_cut,
            cache_read_tokens=self._cache_read,
            cache_write_tokens=self._cache_write,
            first_at=self._first_at,
            last_at=self._last_at,
            models={name: ModelCounts(**counts) for name, counts in self._counts.items() if name is not None},
            admitted_at=tuple(self._admitted_at),
        )

    def _of(self, model: str | None) -> dict[str, int]:
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = dict.fromkeys(_COUNTED, 0)
        return counts
