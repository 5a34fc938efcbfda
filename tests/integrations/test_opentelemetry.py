"""Spans and metrics of real calls, as an exporter gets them."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bulkllm import Cache, Client, Price, RetryPolicy
from bulkllm.calls.call import Call
from bulkllm.testing import FakeProvider, Fault

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from bulkllm.integrations.opentelemetry import OpenTelemetry

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`ReadOnly` qualifier:UserWarning", "ignore:Unclosed (connector|client session):ResourceWarning"
)

MODEL = "openai/gpt-4.1-mini"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a secret?"}]


class Told:
    """A client, and all that OpenTelemetry is told of its calls."""

    def __init__(self, **options: Any) -> None:
        self.spans_out = InMemorySpanExporter()
        self.traces = TracerProvider()
        self.traces.add_span_processor(SimpleSpanProcessor(self.spans_out))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.observer = OpenTelemetry(tracer_provider=self.traces, meter_provider=self.meters, **options)
        self.client = Client(
            observers=[self.observer],
            prices={"openai/*": Price(input_per_token=0.001, output_per_token=0.002)},
            retry=RetryPolicy(max_attempts=2, base_delay=0.0),
            cache=Cache(memory=True),
        )

    def ask(self, server: FakeProvider, **more: Any) -> Any:
        options = {"api_base": server.openai_base, "api_key": "sk-very-secret", "max_tokens": 30, **more}
        return self.client.completion(MODEL, MESSAGES, **options)

    def spans(self) -> list[ReadableSpan]:
        self.observer.flush()
        return list(self.spans_out.get_finished_spans())

    def span(self) -> ReadableSpan:
        (only,) = self.spans()
        return only

    def metrics(self) -> dict[str, list[Any]]:
        self.observer.flush()
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.observer.close()


def test_a_call_is_a_span_under_the_conventions_names(told: Told) -> None:
    with FakeProvider(reply_tokens=(7, 7)) as server:
        told.ask(server, temperature=0.5, stop=["x"], seed=3, tags={"experiment": "a"})
        port = server.port
    span = told.span()
    assert (span.name, span.kind, span.status.status_code) == ("chat gpt-4.1-mini", SpanKind.CLIENT, StatusCode.UNSET)
    attributes = dict(span.attributes or {})
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4.1-mini",
        "gen_ai.response.model": "gpt-4.1-mini",
        "gen_ai.request.max_tokens": 30,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ("x",),
        "gen_ai.request.seed": 3,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.output_tokens": 7,
        "server.address": "127.0.0.1",
        "server.port": port,
        "bulkllm.attempts": 1,
        "bulkllm.cached": False,
        "bulkllm.tag.experiment": "a",
    }
    assert {name: attributes.get(name) for name in expected} == expected
    inputs = attributes["gen_ai.usage.input_tokens"]
    assert isinstance(inputs, int)
    assert attributes["bulkllm.cost"] == pytest.approx(inputs * 0.001 + 7 * 0.002)
    assert isinstance(attributes["gen_ai.response.id"], str)
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 < span.end_time - span.start_time < 60e9


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_answers_and_keys_are_not_told(told: Told, stream: bool) -> None:
    with FakeProvider(reply="the answer is forty-two") as server:
        answer = told.ask(server, stream=stream)
        if stream:
            list(answer)
    text = told.span().to_json()
    assert not any(word in text for word in ("secret", "forty-two", "Be brief", "gen_ai.input", "gen_ai.output.m"))


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_and_answers_are_told_when_asked_for(stream: bool) -> None:
    told = Told(content=True, tags=False)
    with FakeProvider(reply="the answer is forty-two") as server:
        answer = told.ask(server, stream=stream, tags={"a": "b"})
        if stream:
            list(answer)
    attributes = told.span().attributes or {}
    asked = json.loads(str(attributes["gen_ai.input.messages"]))
    assert asked[0] == {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]}
    (said,) = json.loads(str(attributes["gen_ai.output.messages"]))
    assert (said["role"], said["parts"]) == ("assistant", [{"type": "text", "content": "the answer is forty-two"}])
    assert "very-secret" not in told.span().to_json()
    assert "bulkllm.tag.a" not in attributes
    told.observer.close()


def test_a_stream_tells_its_first_chunk(told: Told) -> None:
    with FakeProvider(reply_tokens=(5, 5), time_per_token=0.01) as server:
        list(told.ask(server, stream=True))
    attributes = told.span().attributes or {}
    assert attributes["gen_ai.request.stream"] is True
    first = attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(first, float)
    (point,) = told.metrics()["gen_ai.client.operation.time_to_first_chunk"]
    assert point.sum == first > 0


def test_metrics_add_up_to_the_bill(told: Told) -> None:
    with FakeProvider(faults=[Fault("status", status=500, first=1)]) as server:
        for number in range(5):
            told.ask(server, seed=number)
        report = server.report()
    metrics = told.metrics()
    tokens = {point.attributes["gen_ai.token.type"]: point for point in metrics["gen_ai.client.token.usage"]}
    assert (tokens["input"].sum, tokens["output"].sum) == (report.input_tokens, report.output_tokens)
    assert tokens["input"].explicit_bounds == tuple(4**power for power in range(14))
    (duration,) = metrics["gen_ai.client.operation.duration"]
    assert duration.count == 5
    assert duration.explicit_bounds[0] == 0.01
    assert dict(duration.attributes)["gen_ai.provider.name"] == "openai"
    (cost,) = metrics["bulkllm.client.cost"]
    assert cost.value == pytest.approx(told.client.usage.total.cost)


def test_a_failure_says_what_it_was(told: Told) -> None:
    with (
        FakeProvider(faults=[Fault("status", status=400)]) as server,
        pytest.raises(Exception, match="Invalid request"),
    ):
        told.ask(server)
    span = told.span()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "BadRequestError"
    metrics = told.metrics()
    assert dict(metrics["gen_ai.client.operation.duration"][0].attributes)["error.type"] == "BadRequestError"
    assert "gen_ai.client.token.usage" not in metrics


def test_what_the_cache_answers_is_told_and_is_no_use_of_tokens(told: Told) -> None:
    with FakeProvider() as server:
        told.ask(server)
        told.ask(server)
    spans = told.spans()
    assert [(span.attributes or {})["bulkllm.cached"] for span in spans] == [False, True]
    metrics = told.metrics()
    assert sum(point.count for point in metrics["gen_ai.client.token.usage"]) == 2  # one of input, one of output
    assert metrics["gen_ai.client.operation.duration"][0].count == 1


async def test_each_call_belongs_to_the_span_in_which_it_was_made(told: Told) -> None:
    tracer = told.traces.get_tracer("test")
    with FakeProvider() as server:
        options = {"api_base": server.openai_base, "api_key": "sk", "max_tokens": 5}

        async def one(number: int) -> int:
            with tracer.start_as_current_span(f"work {number}") as span:
                await told.client.acompletion(MODEL, [{"role": "user", "content": str(number)}], **options)
                return span.get_span_context().span_id

        parents = await asyncio.gather(*map(one, range(8)))
    found = [span.parent.span_id for span in told.spans() if span.name.startswith("chat") and span.parent]
    assert sorted(found) == sorted(parents)


def test_an_embedding(told: Told) -> None:
    with FakeProvider() as server:
        told.client.embedding("openai/text-embedding-3-small", ["a", "b"], api_base=server.openai_base, api_key="sk")
    assert told.span().name == "embeddings text-embedding-3-small"


def test_an_observer_that_breaks_is_logged_and_the_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def began(self, call: Call) -> Any:
            return self

        def chunk(self, chunk: Any) -> None:
            raise ValueError("chunk")

        def ended(self, record: Any, response: Any) -> None:
            raise ValueError("ended")

    class Worse:
        def began(self, call: Call) -> Any:
            raise ValueError("began")

    client = Client(observers=[Worse(), Broken()])
    with FakeProvider() as server, caplog.at_level(logging.ERROR):
        answer = client.completion(MODEL, MESSAGES, api_base=server.openai_base, api_key="sk", stream=True)
        assert len(list(answer)) > 1
    assert client.usage.total.ok == 1
    assert all(
        word in caplog.text for word in ("did not begin", "could not take a chunk", "could not take a call's end")
    )


def test_without_the_package_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from bulkllm import ConfigError\n"
        "try: import bulkllm.integrations.opentelemetry\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "install it with: pip install opentelemetry-api" in done.stdout
