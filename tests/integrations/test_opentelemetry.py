"""Spans and metrics of real calls, as an exporter gets them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm import Cache, Client, Price, RetryPolicy, UsageRecord
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

    def asked(self) -> Any:
        return json.loads(str((self.span().attributes or {})["gen_ai.input.messages"]))

    def answers(self) -> Any:
        return json.loads(str((self.span().attributes or {})["gen_ai.output.messages"]))

    @staticmethod
    def text(content: str) -> dict[str, str]:
        return {"type": "text", "content": content}

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


@pytest.fixture
def told_with_content() -> Iterator[Told]:
    made = Told(content=True)
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


def test_what_was_sent_is_told_whatever_becomes_of_the_list(told_with_content: Told) -> None:
    told, result = told_with_content, [{"type": "text", "text": "rainy"}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "first"}]},
        {"role": "tool", "tool_call_id": "t", "content": result},
    ]
    with FakeProvider() as server:
        stream = told.client.completion(MODEL, messages, api_base=server.openai_base, api_key="sk", stream=True)
        messages[0]["content"].append({"type": "text", "text": "second"})
        messages.append({"role": "user", "content": "third"})
        result.clear()
        list(stream)
    assert told.asked() == [
        {"role": "user", "parts": [{"type": "text", "content": "first"}]},
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "t", "result": [{"type": "text", "text": "rainy"}]}],
        },
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_says_so(told_with_content: Told, stream: bool) -> None:
    told = told_with_content
    with FakeProvider(reply="the answer is forty-two") as server:
        answer = told.ask(server, stream=stream, max_tokens=3)
        if stream:
            list(answer)
    assert (told.span().attributes or {})["gen_ai.response.finish_reasons"] == ("length",)
    assert told.answers() == [{"role": "assistant", "parts": [told.text("the answer i")], "finish_reason": "length"}]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_was_cut_says_so(told_with_content: Told, stream: bool) -> None:
    told = told_with_content
    with FakeProvider(reply="the answer is " + "forty-two " * 20) as server:
        answer = told.client.responses(
            MODEL, "x", stream=stream, max_output_tokens=16, api_base=server.openai_base, api_key="sk"
        )
        if stream:
            list(answer)
    assert (told.span().attributes or {})["gen_ai.response.finish_reasons"] == ("length",)
    (said,) = told.answers()
    assert said["finish_reason"] == "length"
    assert said["parts"][0]["content"].startswith("the answer is forty-two")


def test_a_stream_that_is_left_early_broke_off(told_with_content: Told) -> None:
    told = told_with_content
    with FakeProvider(reply="the answer is forty-two") as server:
        stream = told.ask(server, stream=True)
        said = next(chunk for chunk in stream if chunk.choices[0].delta.content).choices[0].delta.content
        stream.close()
    assert (told.span().attributes or {})["gen_ai.response.finish_reasons"] == ("error",)
    assert told.answers() == [{"role": "assistant", "parts": [told.text(said)], "finish_reason": "error"}]


def test_a_response_that_is_left_early_broke_off(told_with_content: Told) -> None:
    told = told_with_content
    with FakeProvider(reply="the answer is forty-two") as server:
        stream = told.client.responses(MODEL, "x", stream=True, api_base=server.openai_base, api_key="sk")
        said = next(event for event in stream if event.type == "response.output_text.delta").delta
        stream.close()
    assert told.answers() == [{"role": "assistant", "parts": [told.text(said)], "finish_reason": "error"}]


def test_each_choice_of_a_stream_is_an_answer_of_its_own(told_with_content: Told) -> None:
    told, texts = told_with_content, ["", ""]
    with FakeProvider() as server:
        for chunk in told.ask(server, stream=True, n=2):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    assert all(texts)
    assert [answer["parts"] for answer in told.answers()] == [[told.text(text)] for text in texts]


def chunk_of(*choices: tuple[int, str | None, str | None]) -> Any:
    delta = [
        SimpleNamespace(index=index, delta=SimpleNamespace(content=text), finish_reason=reason)
        for index, text, reason in choices
    ]
    return SimpleNamespace(choices=delta)


@pytest.mark.parametrize(
    ("second", "outcome", "reasons", "of_messages"),
    [
        ("length", "ok", ("stop", "length"), ["stop", "length"]),
        ("length", "cancelled", ("stop", "length"), ["stop", "length"]),
        (None, "cancelled", ("stop", "error"), ["stop", "error"]),
        (None, "ok", None, ["stop", None]),  # LiteLLM keeps it to itself
    ],
)
def test_each_choice_of_a_stream_has_an_end_of_its_own(
    told_with_content: Told, second: str | None, outcome: str, reasons: Any, of_messages: list[str | None]
) -> None:
    told = told_with_content
    watch = told.observer.began(
        Call(operation="completion", model=MODEL, requested_model=MODEL, provider="", options={})
    )
    for chunk in (chunk_of((1, "b", None), (0, "a", None)), chunk_of((1, None, second)), chunk_of((0, None, "stop"))):
        watch.chunk(chunk)
    watch.ended(UsageRecord(model=MODEL, outcome=outcome), None)
    assert (told.span().attributes or {}).get("gen_ai.response.finish_reasons") == reasons
    assert [answer["parts"] for answer in told.answers()] == [[told.text("a")], [told.text("b")]]
    assert [answer.get("finish_reason") for answer in told.answers()] == of_messages


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


def test_what_ends_after_the_close_is_not_kept(told: Told) -> None:
    call = Call(operation="completion", model=MODEL, requested_model=MODEL, provider="openai", options={})
    began = told.observer.began(call)
    told.observer.close()
    for watch in (began, told.observer.began(call)):
        watch.ended(UsageRecord(model=MODEL), None)
    kept = [weakref.ref(watch), weakref.ref(began)]
    del watch, began
    assert [one() for one in kept] == [None, None]
    assert told.spans() == []
    told.observer.close()


# A provider that is told of a call only when somebody waits for that: nothing, where it is shut down before.
HELD = """
    import atexit, os, sys, threading
    import bulkllm
    from bulkllm.integrations.opentelemetry import OpenTelemetry
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    waited_for = threading.Event()

    class Held(SpanProcessor):
        told = 0

        def on_start(self, span, parent_context=None):
            waited_for.wait(60)

        def on_end(self, span):
            self.told += 1

        def shutdown(self):
            print(f"told of {self.told} calls", flush=True)

    class Observer(OpenTelemetry):
        def flush(self):
            waited_for.set()
            super().flush()

    def ask():
        client.completion(
            "openai/gpt-4.1-mini", [{"role": "user", "content": "x"}], api_base=sys.argv[1], api_key="k"
        )

    provider, held = TracerProvider(), Held()
    provider.add_span_processor(held)
"""


def run_held(program: str) -> str:
    with FakeProvider() as server:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(HELD) + textwrap.dedent(program), server.openai_base],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_that_ends_after_a_call_has_told_of_it() -> None:
    program = """
        trace.set_tracer_provider(provider)
        client = bulkllm.Client(observers=[Observer()])
        ask()
    """
    assert run_held(program) == "told of 1 calls\n"


def test_a_provider_may_be_set_until_the_first_call() -> None:
    program = """
        client = bulkllm.Client(observers=[Observer()])
        provider = TracerProvider()
        provider.add_span_processor(held)
        trace.set_tracer_provider(provider)
        ask()
        ask()
    """
    assert run_held(program).startswith("told of 2 calls\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_tells_of_its_own_calls() -> None:
    program = """
        observer = Observer(tracer_provider=provider)
        client = bulkllm.Client(observers=[observer])
        ask()
        child = os.fork()
        if child == 0:
            ask()
            ask()
            observer.flush()
            os._exit(10 + held.told)
        _, status = os.waitpid(child, 0)
        observer.flush()
        print(os.waitstatus_to_exitcode(status) - 10, held.told)
    """
    assert run_held(program).startswith("2 1\n")


def test_without_the_package_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from bulkllm import ConfigError\n"
        "try: import bulkllm.integrations.opentelemetry\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "install it with: pip install opentelemetry-api" in done.stdout
