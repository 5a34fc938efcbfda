"""OpenAI's dialect, Azure's too, as bytes on the wire."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bulkllm.testing import FakeClock, FakeProvider
from bulkllm.testing.text import count_text

Post = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FakeProvider]:
    with FakeProvider(seed=7) as running:
        yield running


def test_a_chat_completion(server: FakeProvider, chat: Post) -> None:
    answer = chat(server, "hello there")
    told = answer.json
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert (told["object"], told["model"]) == ("chat.completion", "m")
    (choice,) = told["choices"]
    assert (choice["index"], choice["finish_reason"], choice["message"]["role"]) == (0, "stop", "assistant")
    output = count_text(choice["message"]["content"])
    assert 20 <= output <= 80
    assert told["usage"]["prompt_tokens"] == 3 + 4 + 3
    assert told["usage"]["completion_tokens"] == output
    assert told["usage"]["total_tokens"] == 10 + output


def test_the_same_prompt_gets_the_same_reply_on_any_server_with_the_seed(server: FakeProvider, chat: Post) -> None:
    def text(provider: FakeProvider, prompt: str) -> str:
        return str(chat(provider, prompt).json["choices"][0]["message"]["content"])

    with FakeProvider(seed=7) as twin, FakeProvider(seed=8) as other:
        assert text(twin, "second") == text(server, "second")
        assert text(server, "first") == text(twin, "first") != text(other, "first")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_cap_cuts_the_reply_and_says_so(server: FakeProvider, chat: Post, field: str) -> None:
    whole = chat(server).json["choices"][0]["message"]["content"]
    cut = chat(server, **{field: 3}).json
    assert cut["choices"][0]["message"]["content"] == whole[:12]
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 3


def test_several_choices_differ_and_are_all_counted(server: FakeProvider, chat: Post) -> None:
    told = chat(server, n=3).json
    texts = [choice["message"]["content"] for choice in told["choices"]]
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert told["usage"]["completion_tokens"] == sum(map(count_text, texts)) == server.report().output_tokens


def test_logprobs_are_there_when_asked_for(server: FakeProvider, chat: Post) -> None:
    told = chat(server, logprobs=True, top_logprobs=2).json["choices"][0]
    assert "".join(entry["token"] for entry in told["logprobs"]["content"]) == told["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in told["logprobs"]["content"])
    events = chat(server, logprobs=True, stream=True).events
    assert events[1]["choices"][0]["logprobs"]["content"][0]["token"] == told["message"]["content"][:4]


def test_structured_output(server: FakeProvider, chat: Post) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert isinstance(
        json.loads(chat(server, response_format=shape).json["choices"][0]["message"]["content"])["n"], int
    )
    free = chat(server, response_format={"type": "json_object"}).json["choices"][0]["message"]["content"]
    assert list(json.loads(free)) == ["answer"]


@pytest.mark.parametrize("with_usage", [True, False])
def test_a_stream_sends_one_token_a_chunk(server: FakeProvider, chat: Post, with_usage: bool) -> None:
    whole = chat(server, n=2).json
    answer = chat(server, n=2, stream=True, **({"stream_options": {"include_usage": True}} if with_usage else {}))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = answer.events
    assert done == "[DONE]"
    if with_usage:
        *events, last = events
        assert (last["choices"], last["usage"]) == ([], whole["usage"])
        assert all(event["usage"] is None for event in events)
    else:
        assert all("usage" not in event for event in events)
    for index, choice in enumerate(whole["choices"]):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert mine[-1]["delta"] == {}
        assert mine[-1]["finish_reason"] == "stop"
        texts = [part["delta"]["content"] for part in mine[1:-1]]
        assert "".join(texts) == choice["message"]["content"]
        assert all(len(text) == 4 for text in texts)
        assert all(part["finish_reason"] is None for part in mine[:-1])
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert server.report().output_tokens == 2 * whole["usage"]["completion_tokens"]


def test_text_completions(server: FakeProvider, post: Post) -> None:
    told = post(server, "/v1/completions", {"model": "m", "prompt": ["one", "two"], "max_tokens": 5}).json
    assert (told["object"], [choice["index"] for choice in told["choices"]]) == ("text_completion", [0, 1])
    assert told["usage"] | {"prompt_tokens_details": 0, "completion_tokens_details": 0} == {
        "prompt_tokens": 2,
        "completion_tokens": 10,
        "total_tokens": 12,
        "prompt_tokens_details": 0,
        "completion_tokens_details": 0,
    }
    answer = post(server, "/v1/completions", {"model": "m", "prompt": ["one", "two"], "max_tokens": 5, "stream": True})
    *events, done = answer.events
    assert done == "[DONE]"
    for index, choice in enumerate(told["choices"]):
        texts = [event["choices"][0]["text"] for event in events if event["choices"][0]["index"] == index]
        assert "".join(texts) == choice["text"]
        assert len(texts) == 6
    assert post(server, "/v1/completions", {"model": "m", "prompt": [1, 2, 3]}).json["usage"]["prompt_tokens"] == 3


def test_embeddings_are_unit_vectors_that_depend_on_the_text_only(server: FakeProvider, post: Post) -> None:
    told = post(server, "/v1/embeddings", {"model": "m", "input": ["a", "bb bb", "a"]}).json
    first, second, third = (entry["embedding"] for entry in told["data"])
    assert first == third != second
    assert len(first) == 16
    assert math.hypot(*first) == pytest.approx(1, abs=1e-5)
    assert told["usage"] == {"prompt_tokens": 1 + 2 + 1, "total_tokens": 4}
    small = {"model": "m", "input": "a", "encoding_format": "base64", "dimensions": 4}
    packed = post(server, "/v1/embeddings", small).json["data"][0]["embedding"]
    assert math.hypot(*struct.unpack("<4f", base64.b64decode(packed))) == pytest.approx(1, abs=1e-5)
    assert post(server, "/v1/embeddings", {"model": "m", "input": [[1, 2], [3]]}).json["usage"]["prompt_tokens"] == 3
    report = server.report()
    assert (report.successes, report.input_tokens, report.output_tokens) == (3, 8, 0)


def test_responses_plain_and_streamed(server: FakeProvider, post: Post) -> None:
    body = {"model": "m", "input": "tell me", "instructions": "be brief"}
    told = post(server, "/v1/responses", body).json
    text = told["output"][0]["content"][0]["text"]
    assert (told["object"], told["status"], told["incomplete_details"]) == ("response", "completed", None)
    assert told["usage"]["input_tokens"] == 3 + 4 + 2 + 2
    assert told["usage"]["output_tokens"] == count_text(text)
    events = post(server, "/v1/responses", {**body, "stream": True}).events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event["delta"] for event in events if "delta" in event) == text
    assert events[-1]["response"]["usage"] == told["usage"]
    cut = post(server, "/v1/responses", {**body, "max_output_tokens": 2, "stream": True}).events[-1]
    assert (cut["type"], cut["response"]["incomplete_details"]) == (
        "response.incomplete",
        {"reason": "max_output_tokens"},
    )
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    shaped = post(server, "/v1/responses", {**body, **form}).json
    assert isinstance(json.loads(shaped["output"][0]["content"][0]["text"])["n"], int)


def test_azure_names_the_deployment_in_the_path_and_has_its_own_headers_and_errors(post: Post) -> None:
    with FakeProvider(rpm=1, models=["my dep"], clock=FakeClock()) as server:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        path = "/openai/deployments/my%20dep/chat/completions?api-version=2024-10-21"
        first, second = (post(server, path, body) for _ in range(2))
        assert (first.status, first.json["model"]) == (200, "my dep")
        assert first.headers["x-ratelimit-reset-requests"] == "60"
        assert second.status == 429
        assert second.json["error"]["code"] == "429"
        assert 58_000 < int(second.headers["retry-after-ms"]) <= 60_000
        assert set(server.report().models) == {"my dep"}


def test_models_are_listed_and_others_do_not_exist(post: Post, chat: Post) -> None:
    with FakeProvider(models=["m", "other"]) as server:
        listed = post(server, "/v1/models", method="GET").json
        assert [entry["id"] for entry in listed["data"]] == ["m", "other"]
        theirs = post(server, "/v1/models", method="GET", anthropic_version="2023-06-01").json
        assert (theirs["first_id"], theirs["has_more"]) == ("m", False)
        assert chat(server, model="other").status == 200
        unknown = chat(server, model="typo")
        assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")
        report = server.report()
        assert (report.requests, report.rejected, report.statuses) == (2, 1, {200: 1, 404: 1})
        assert report.models["typo"].rejected == 1


def test_keys_may_be_asked_for_and_revoked(post: Post, chat: Post) -> None:
    with FakeProvider(keys=["sk-good", "sk-other"]) as server:
        bad = chat(server, key="sk-bad")
        assert (bad.status, bad.json["error"]["code"]) == (401, "invalid_api_key")
        assert "sk-bad" not in bad.body.decode()
        assert chat(server).status == 401
        assert chat(server, key="sk-good").status == 200
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        assert post(server, "/v1/messages", body, x_api_key="sk-other").status == 200
        path = "/openai/deployments/d/chat/completions"
        assert post(server, path, body, api_key="sk-other").status == 200
        server.revoke("sk-good")
        assert chat(server, key="sk-good").status == 401
        theirs = post(server, "/v1/messages", body, x_api_key="sk-good")
        assert (theirs.status, theirs.json["error"]["type"]) == (401, "authentication_error")
        assert chat(server, key="sk-other").status == 200
    with FakeProvider() as server:
        server.revoke("sk-x")
        assert chat(server, key="sk-x").status == 401
        assert chat(server).status == 200


def test_a_reply_of_ones_own_that_fails_is_a_500_that_says_why(chat: Post, caplog: pytest.LogCaptureFixture) -> None:
    with FakeProvider(reply=lambda body: str(body["nowhere"])) as server:
        answer = chat(server)
    assert answer.status == 500
    assert "KeyError" in answer.json["error"]["message"]
    assert "reply=" in caplog.text
    assert server.report().failed == 1
