"""Anthropic's dialect as bytes on the wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bulkllm.testing import FakeProvider
from bulkllm.testing.text import count_text

Post = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FakeProvider]:
    with FakeProvider(seed=3) as running:
        yield running


def message(prompt: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 500, "messages": [{"role": "user", "content": prompt}], **fields}


def marked(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def cache_usage(answer: Any) -> tuple[int, int, int]:
    usage = answer.json["usage"]
    return usage["input_tokens"], usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]


def test_a_message(server: FakeProvider, post: Post) -> None:
    answer = post(server, "/v1/messages", message(system="be brief"))
    told = answer.json
    assert answer.headers["request-id"].startswith("req_")
    assert (told["type"], told["role"], told["stop_reason"]) == ("message", "assistant", "end_turn")
    (block,) = told["content"]
    assert block["type"] == "text"
    assert told["usage"]["input_tokens"] == 3 + 2 + 4 + 2
    assert told["usage"]["output_tokens"] == count_text(block["text"])
    cut = post(server, "/v1/messages", message(system="be brief", max_tokens=2)).json
    assert (cut["stop_reason"], cut["content"][0]["text"]) == ("max_tokens", block["text"][:8])


def test_a_stream_has_the_real_sequence_of_events(server: FakeProvider, post: Post) -> None:
    whole = post(server, "/v1/messages", message()).json
    answer = post(server, "/v1/messages", message(stream=True))
    events = answer.events
    names = [line[7:] for line in answer.body.decode().split("\n") if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[3:-3] == ["content_block_delta"] * len(deltas)
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event["delta"]["text"] for event in deltas) == whole["content"][0]["text"]
    begun = events[0]["message"]
    assert begun["content"] == []
    assert begun["usage"] == whole["usage"] | {"output_tokens": 0}
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"]["output_tokens"] == len(deltas) == whole["usage"]["output_tokens"]


def test_a_marked_prefix_is_written_once_and_then_read(server: FakeProvider, post: Post) -> None:
    system = [marked("a long text " * 100)]
    first = post(server, "/v1/messages", message("one", system=system))
    prefix = 3 + 300
    assert cache_usage(first) == (4 + 1, prefix, 0)
    assert cache_usage(post(server, "/v1/messages", message("another", system=system))) == (4 + 2, 0, prefix)
    other = message("one", system=[marked("another text")])
    assert cache_usage(post(server, "/v1/messages", other)) == (5, 3 + 3, 0)
    assert cache_usage(post(server, "/v1/messages", message("one", system=system, model="n"))) == (5, prefix, 0)
    assert cache_usage(post(server, "/v1/messages", message("one"))) == (3 + 5, 0, 0)
    report = server.report()
    assert (report.cache_read_tokens, report.cache_write_tokens) == (prefix, 2 * prefix + 6)
    assert report.input_tokens == sum((5 + prefix, 6 + prefix, 11, 5 + prefix, 8))


def test_a_growing_chat_reads_its_old_prefix_and_writes_the_rest(server: FakeProvider, post: Post) -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": [marked("1234" * 10)]}]
    assert cache_usage(post(server, "/v1/messages", message() | {"messages": turns})) == (0, 3 + 14, 0)
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "1234" * 10}]},
        {"role": "assistant", "content": "1234"},
        {"role": "user", "content": [marked("12345678"), {"type": "text", "text": "tail"}]},
    ]
    assert cache_usage(post(server, "/v1/messages", message() | {"messages": turns})) == (1, 5 + 6, 17)
    assert cache_usage(post(server, "/v1/messages", message() | {"messages": turns})) == (1, 0, 28)


def test_only_marked_places_are_written(server: FakeProvider, post: Post) -> None:
    plain = {"type": "text", "text": "1234" * 5}
    system = [plain, marked("1234"), plain, marked("5678")]
    assert cache_usage(post(server, "/v1/messages", message(system=system)))[1:] == (3 + 12, 0)
    assert cache_usage(post(server, "/v1/messages", message(system=[plain, marked("9999")])))[1:] == (3 + 6, 0)
    assert cache_usage(post(server, "/v1/messages", message(system=[*system[:3], marked("0000")])))[1:] == (6, 9)


def test_a_prefix_is_cached_only_by_an_answer_that_began(post: Post) -> None:
    from bulkllm.testing import Fault

    system = [marked("text")]
    with FakeProvider(faults=[Fault("status", first=1)]) as server:
        assert post(server, "/v1/messages", message(system=system)).status == 500
        assert cache_usage(post(server, "/v1/messages", message(system=system)))[1:] == (4, 0)
        server.reset()
        post(server, "/v1/messages", message(system=system))
        assert cache_usage(post(server, "/v1/messages", message(system=system)))[1:] == (4, 0)


def test_cache_reads_are_free_and_output_is_counted_as_it_is_sent(post: Post) -> None:
    system = [marked("x" * 4000)]
    with FakeProvider(itpm=2000, otpm=100, reply="1234" * 40, window="sliding") as server:
        first = post(server, "/v1/messages", message(system=system))
        assert first.headers["anthropic-ratelimit-input-tokens-limit"] == "2000"
        assert first.headers["anthropic-ratelimit-input-tokens-remaining"] == str(2000 - 1003 - 6)
        # Told before the output was made, and max_tokens (500) is no charge here.
        assert first.headers["anthropic-ratelimit-output-tokens-remaining"] == "100"
        second = post(server, "/v1/messages", message("again", system=system, max_tokens=1))
        assert second.status == 200
        assert second.headers["anthropic-ratelimit-input-tokens-remaining"] == str(2000 - 1003 - 6 - 6)
        assert second.headers["anthropic-ratelimit-output-tokens-remaining"] == "60"
        server.set_limits(otpm=30)
        third = post(server, "/v1/messages", message("again", system=system, max_tokens=1))
        assert (third.status, third.json["error"]["type"]) == (429, "rate_limit_error")
        assert "30 output tokens per minute" in third.json["error"]["message"]
        assert 50 < int(third.headers["retry-after"]) <= 60


def test_a_tool_that_is_insisted_on_is_called_with_arguments_that_fit(server: FakeProvider, post: Post) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [{"name": "other", "input_schema": {}}, {"name": "pick", "input_schema": schema}]
    choice = {"type": "tool", "name": "pick"}
    told = post(server, "/v1/messages", message(tools=tools, tool_choice=choice)).json
    (block,) = told["content"]
    assert (told["stop_reason"], block["type"], block["name"]) == ("tool_use", "tool_use", "pick")
    assert isinstance(block["input"]["n"], int)
    events = post(server, "/v1/messages", message(tools=tools, tool_choice=choice, stream=True)).events
    parts = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert json.loads("".join(parts)) == block["input"]
    assert post(server, "/v1/messages", message(tools=tools)).json["stop_reason"] == "end_turn"
    form = {"format": {"type": "json_schema", "schema": schema}}
    shaped = post(server, "/v1/messages", message(output_config=form)).json
    assert isinstance(json.loads(shaped["content"][0]["text"])["n"], int)
