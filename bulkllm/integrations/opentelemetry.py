"""OpenTelemetry: a span and the metrics of each call, under the names of the GenAI semantic conventions.

What may live here: the mapping of records to those names. Source: open-telemetry/semantic-conventions-genai,
docs/gen-ai/gen-ai-spans.md and gen-ai-metrics.md, read 23 November 2026; their status is "development", so names may
change. What the conventions have no name for begins with ``bulkllm.``.

Spans are made when a call is over, from its record, with the times that it has; a thread of their own makes them, so
that no exporter ever holds up a call, an event loop or a finaliser. Prompts and answers are in them only when asked
for.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import weakref
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

from ..accounting import UsageRecord
from ..calls.call import Call
from ..errors import ConfigError
from ._messages import finish_reasons, input_messages, output_messages

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, trace
except ImportError as error:
    raise ConfigError(
        "bulkllm.integrations.opentelemetry needs opentelemetry-api; install it with: pip install opentelemetry-api"
    ) from error

logger = logging.getLogger(__name__)

_SECONDS: Final = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS: Final = [float(4**power) for power in range(14)]
_OPERATIONS: Final = {"completion": "chat", "responses": "chat", "embedding": "embeddings"}
# LiteLLM's names of providers that the conventions name otherwise.
_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "text-completion-openai": "openai",
    "vertex_ai": "gcp.vertex_ai",
    "vertex_ai_beta": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_REQUEST: Final = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}
_USAGE: Final = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "input_audio_tokens": "gen_ai.usage.audio.input_tokens",
    "input_image_tokens": "gen_ai.usage.image.input_tokens",
    "output_audio_tokens": "gen_ai.usage.audio.output_tokens",
}
_PORTS: Final = {"http": 80, "https": 443}
_LAST_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed")

Value = str | bool | int | float | list[str]


class OpenTelemetry:
    """Tells OpenTelemetry of each call of the clients that have it: ``Client(observers=[OpenTelemetry()])``.

    Args:
        content: put prompts and answers into the spans (``gen_ai.input.messages``, ``gen_ai.output.messages``), as the
            conventions have it: off unless asked for. Answers of streams are put together from their chunks.
        tags: put a call's tags into its span, as ``bulkllm.tag.<name>``.
        tracer_provider: the global one unless given.
        meter_provider: the global one unless given.
    """

    def __init__(
        self,
        *,
        content: bool = False,
        tags: bool = True,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._content = content
        self._tags = tags
        self._tracer = trace.get_tracer("bulkllm", tracer_provider=tracer_provider)
        meter = metrics.get_meter("bulkllm", meter_provider=meter_provider)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._waited = meter.create_histogram(
            "bulkllm.client.wait.duration",
            unit="s",
            description="Time that a call waited for limits and budgets.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._cost = meter.create_counter(
            "bulkllm.client.cost", unit="{USD}", description="What calls cost, where that is known."
        )
        self._used = self._closed = False
        self._start()
        _open.add(self)
        atexit.register(_flush_all)  # what was registered last runs first: before the providers' own ends

    def began(self, call: Call) -> _Watch:
        """A call begins: remember in whose context, and what is asked."""
        if not self._used:  # its provider may have been set after this was made
            self._used = True
            atexit.register(_flush_all)
        return _Watch(self, call, otel_context.get_current())

    def flush(self) -> None:
        """Wait until OpenTelemetry has been told of all calls that are over. It does not flush OpenTelemetry itself."""
        if not self._thread.is_alive():
            return
        done = threading.Event()
        self._queue.put(done)
        while self._thread.is_alive() and not done.wait(0.05):
            continue

    def close(self) -> None:
        """Tell of what is left; calls that end later are not told of. The end of the program does it too."""
        self._closed = True
        self._stop()
        self._thread.join()
        _open.discard(self)

    def _start(self) -> None:
        """Have a queue, and a thread that empties it."""
        self._queue: SimpleQueue[_Watch | threading.Event | None] = SimpleQueue()
        self._thread: threading.Thread = threading.Thread(
            target=_work, args=(self._queue,), name="bulkllm-opentelemetry", daemon=True
        )
        self._thread.start()
        # When nobody has this any more, or the thread would wait for ever.
        self._stop: weakref.finalize[[None], OpenTelemetry] = weakref.finalize(self, self._queue.put, None)
        self._stop.atexit = False

    def _tell(self, watch: _Watch) -> None:
        call, record = watch.call, watch.record
        if record is None:
            return
        common = _common(call, record)
        failed = {} if record.ok else {"error.type": record.outcome}
        self._span(watch, call, record, {**common, **failed})
        if record.attempts:
            self._duration.record(record.latency, {**common, **failed}, context=watch.context)
        self._waited.record(record.waited, common, context=watch.context)
        if record.time_to_first_token is not None:
            self._first_chunk.record(record.time_to_first_token, common, context=watch.context)
        if record.total_tokens and not record.cached and not record.estimated:
            for kind, count in (("input", record.input_tokens), ("output", record.output_tokens)):
                self._tokens.record(count, {**common, "gen_ai.token.type": kind}, context=watch.context)
        if record.cost:
            self._cost.add(record.cost, common, context=watch.context)

    def _span(self, watch: _Watch, call: Call, record: UsageRecord, attributes: dict[str, Value]) -> None:
        began = round(record.started_at.timestamp() * 1e9)
        attributes |= _request(call) | watch.answer() | _ours(record, tags=self._tags)
        if record.total_tokens:
            for name, named in _USAGE.items():
                if count := getattr(record.usage, name):
                    attributes[named] = count
        if record.time_to_first_token is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = record.time_to_first_token
        if self._content:
            attributes |= watch.content()
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {attributes['gen_ai.request.model']}",
            context=watch.context,
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=began,
        )
        if not record.ok:
            span.set_status(trace.Status(trace.StatusCode.ERROR, record.outcome))
        span.end(began + watch.lasted)


class _Watch:
    """Follows one call; hands itself over when the call is over."""

    def __init__(self, owner: OpenTelemetry, call: Call, context: otel_context.Context) -> None:
        self.call = call
        self.context = context
        self.record: UsageRecord | None = None
        self.response: Any = None
        self.lasted = 0
        self.owner = owner
        self._asked: list[dict[str, Any]] = []
        if owner._content and not owner._closed:  # taken now, for the caller may add to the list
            self._asked = input_messages(call.options.get("messages", call.options.get("input")))
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, str | None] = {}

    def chunk(self, chunk: Any) -> None:
        """A chunk has come; its text is kept only where prompts and answers were asked for."""
        kind = getattr(chunk, "type", None)
        if isinstance(kind, str):
            if kind in _LAST_EVENTS:
                self.response = getattr(chunk, "response", None)
            elif kind == "response.output_text.delta":
                self._add(getattr(chunk, "output_index", 0), getattr(chunk, "delta", None), None)
            return
        for choice in getattr(chunk, "choices", None) or ():
            text = getattr(getattr(choice, "delta", None), "content", None)
            self._add(getattr(choice, "index", 0), text, getattr(choice, "finish_reason", None))

    def _add(self, place: int, text: Any, reason: str | None) -> None:
        self._reasons[place] = reason or self._reasons.get(place)
        if self.owner._content and isinstance(text, str):
            self._texts.setdefault(place, []).append(text)

    def ended(self, record: UsageRecord, response: Any) -> None:
        """The call is over."""
        if self.owner._closed:
            return
        self.record = record
        if response is not None:
            self.response = response
        self.lasted = max(0, round((datetime.now(UTC) - record.started_at).total_seconds() * 1e9))
        self.owner._queue.put(self)

    def answer(self) -> dict[str, Value]:
        """What the answer is called, and why it ended."""
        found: dict[str, Value] = {}
        name = getattr(self.response, "id", None)
        if isinstance(name, str) and name:
            found["gen_ai.response.id"] = name
        reasons = finish_reasons(self.response) if self.response is not None else list(self._ends().values())
        told = [reason for reason in reasons if isinstance(reason, str)]
        if told and len(told) == len(reasons):  # they stand for the choices in order
            found["gen_ai.response.finish_reasons"] = told
        return found

    def content(self) -> dict[str, Value]:
        """What was asked and answered."""
        found: dict[str, Value] = {"gen_ai.input.messages": json.dumps(self._asked, default=str)}
        ends = self._ends()
        streamed = [("".join(self._texts[place]), ends[place]) for place in sorted(self._texts)]
        answers = output_messages(self.response, streamed)
        if answers:
            found["gen_ai.output.messages"] = json.dumps(answers, default=str)
        return found

    def _ends(self) -> dict[int, str | None]:
        """Why each choice of a stream ended, in order; None where that is not known.

        The conventions call it an error where an answer broke off. (Of several choices LiteLLM tells only one's end.)
        """
        missing = None if self.record is not None and self.record.ok else "error"
        return {place: self._reasons[place] or missing for place in sorted(self._reasons)}


def _common(call: Call, record: UsageRecord) -> dict[str, Value]:
    """What spans and metrics share."""
    provider = record.provider or call.provider
    common: dict[str, Value] = {
        "gen_ai.operation.name": _OPERATIONS.get(record.operation, record.operation),
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider or "unknown"),
        "gen_ai.request.model": record.model.removeprefix(f"{provider}/"),
    }
    if record.response_model:
        common["gen_ai.response.model"] = record.response_model
    if record.endpoint:
        parts = urlsplit(record.endpoint if "://" in record.endpoint else f"//{record.endpoint}")
        if parts.hostname:
            common["server.address"] = parts.hostname
            port = parts.port or _PORTS.get(parts.scheme)
            if port:
                common["server.port"] = port
    return common


def _request(call: Call) -> dict[str, Value]:
    options = call.options
    found: dict[str, Value] = {}
    for name, named in _REQUEST.items():
        value = options.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[named] = value
    stop = options.get("stop")
    if stop:
        found["gen_ai.request.stop_sequences"] = [stop] if isinstance(stop, str) else [str(text) for text in stop]
    if isinstance(options.get("n"), int) and options["n"] != 1:
        found["gen_ai.request.choice.count"] = options["n"]
    if call.stream:
        found["gen_ai.request.stream"] = True
    if options.get("response_format"):
        found["gen_ai.output.type"] = "json"
    return found


def _ours(record: UsageRecord, *, tags: bool) -> dict[str, Value]:
    found: dict[str, Value] = {
        "bulkllm.attempts": record.attempts,
        "bulkllm.wait.duration": record.waited,
        "bulkllm.cached": record.cached,
    }
    if record.cost is not None:
        found["bulkllm.cost"] = record.cost
    if record.charge_unknown:
        found["bulkllm.charge_unknown"] = True
    if tags:
        found |= {f"bulkllm.tag.{name}": value for name, value in record.tags.items()}
    return found


def _work(queue: SimpleQueue[_Watch | threading.Event | None]) -> None:
    """Tell OpenTelemetry, one call after the other."""
    while (news := queue.get()) is not None:
        if isinstance(news, threading.Event):
            news.set()
        else:
            try:
                news.owner._tell(news)
            except Exception:  # an exporter's trouble is not the program's
                logger.exception("OpenTelemetry was not told of a call")
        del news


_open: weakref.WeakSet[OpenTelemetry] = weakref.WeakSet()


def _flush_all() -> None:
    for one in list(_open):
        one.flush()


def _after_fork() -> None:
    """A child has neither the threads nor the calls: what was waiting is the parent's to tell."""
    for one in list(_open):
        one._stop.detach()
        one._used = False
        one._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
