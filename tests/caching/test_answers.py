"""What of an answer is kept, and that it comes back as it was: whole, as a stream, in pieces."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm import _litellm
from bulkllm.caching import (
    embedding_items,
    freeze_response,
    freeze_stream,
    join_embedding,
    kind_of,
    replay_chunks,
    replay_events,
    split_embedding,
    thaw_response,
)

# LiteLLM's stream classes make pydantic warn once, when the first chunk is made.
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

TOOL_CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
    {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]
LOGPROBS = {
    "content": [
        {
            "token": "h",
            "logprob": -0.1,
            "bytes": [104],
            "top_logprobs": [{"token": "h", "logprob": -0.1, "bytes": [104]}],
        },
        {"token": "i", "logprob": -0.2, "bytes": [105], "top_logprobs": []},
    ],
    "refusal": None,
}
RICH = {
    "role": "assistant",
    "content": "hi \U0001f600",
    "reasoning_content": "let me think",
    "thinking_blocks": [{"type": "thinking", "thinking": "let me think", "signature": "sig=="}],
    "tool_calls": TOOL_CALLS,
    "provider_specific_fields": {"citations": [["a", "b"]]},
}
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 30},
    "completion_tokens_details": {"reasoning_tokens": 7},
}


def chat(*messages: dict[str, Any], finish_reason: str | None = "stop", **more: Any) -> Any:
    choices = [
        {"index": index, "finish_reason": finish_reason, "message": {"role": "assistant", **message}}
        for index, message in enumerate(messages)
    ]
    litellm = _litellm.load()
    response = litellm.ModelResponse(id="chatcmpl-1", created=1, model="m", choices=choices, usage=USAGE, **more)
    for choice in response.choices:
        choice.finish_reason = finish_reason  # LiteLLM's class says "stop" for None
    return response


def with_logprobs(response: Any) -> Any:
    response.choices[0].logprobs = _litellm.load().types.utils.ChoiceLogprobs(**LOGPROBS)
    return response


def embedding(*vectors: list[float], tokens: int = 9) -> Any:
    litellm = _litellm.load()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = litellm.Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)
    return litellm.EmbeddingResponse(model="e", object="list", data=data, usage=usage)


def text(answer: str) -> Any:
    choice = {"index": 0, "text": answer, "finish_reason": "length", "logprobs": None}
    return _litellm.load().TextCompletionResponse(
        id="cmpl-1", created=1, model="m", object="text_completion", choices=[choice], usage=USAGE
    )


def responses(status: str = "completed", reason: str | None = None, output: list[Any] | None = None) -> Any:
    content = [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}]
    whole = [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c",
            "name": "f",
            "arguments": '{"a":1}',
            "status": "completed",
        },
    ]
    return _litellm.load().types.llms.openai.ResponsesAPIResponse(
        id="resp_1",
        object="response",
        created_at=1,
        status=status,
        model="m",
        output=whole if output is None else output,
        usage={"input_tokens": 11, "output_tokens": 7, "total_tokens": 18},
        incomplete_details=None if reason is None else {"reason": reason},
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        temperature=1.0,
        top_p=1.0,
        metadata={},
        error=None,
        instructions=None,
    )


def through_json(frozen: dict[str, Any] | None) -> dict[str, Any]:
    assert frozen is not None
    found: dict[str, Any] = json.loads(json.dumps(frozen, allow_nan=False))
    return found


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("chat", lambda: chat({"content": "hi"})),
        ("chat", lambda: with_logprobs(chat(RICH, {"content": "another"}, service_tier="default"))),
        ("chat", lambda: chat({"content": None, "tool_calls": TOOL_CALLS}, finish_reason="tool_calls")),
        ("chat", lambda: chat({"content": "cut"}, finish_reason="length")),
        ("text", lambda: text("hello")),
        ("embedding", lambda: embedding([0.1, 1 / 3], [1e-9, -2.0])),
        ("responses", responses),
        ("responses", lambda: responses("incomplete", "max_output_tokens")),
    ],
)
def test_an_answer_comes_back_as_it_was(kind: str, make: Any) -> None:
    response = make()
    assert kind_of(response) == kind
    back = thaw_response(kind, through_json(freeze_response(response)))
    assert type(back) is type(response)
    assert back == response
    assert back.model_dump(warnings=False) == response.model_dump(warnings=False)


def test_what_comes_back_is_made_of_litellm_s_own_classes() -> None:
    back = thaw_response("chat", through_json(freeze_response(with_logprobs(chat(RICH)))))
    message = back.choices[0].message
    assert message.tool_calls[0].function.arguments == '{"a": 1}'
    assert message.reasoning_content == "let me think"
    assert message.thinking_blocks[0]["signature"] == "sig=="
    assert back.choices[0].logprobs.content[0].top_logprobs[0].logprob == -0.1
    assert back.usage.prompt_tokens_details.cached_tokens == 30
    assert back.usage.completion_tokens_details.reasoning_tokens == 7


@pytest.mark.parametrize(
    "make",
    [
        lambda: chat({"content": ""}),
        lambda: chat({"content": None}),
        lambda: chat({"content": None, "reasoning_content": "thinking until the end"}, finish_reason="length"),
        lambda: chat({"content": "half"}, finish_reason=None),
        lambda: chat({"content": "half"}, finish_reason="error"),
        lambda: chat({"content": "hi"}, {"content": ""}),
        lambda: chat({"content": "hi"}, error={"message": "overloaded"}),
        embedding,
        lambda: embedding([0.1], []),
        lambda: text(""),
        lambda: responses("in_progress"),
        lambda: responses("queued", output=[]),
        lambda: responses("incomplete", "content_filter"),
        lambda: responses(output=[]),
        lambda: responses(output=[{"type": "reasoning", "id": "rs_1", "summary": []}]),
        lambda: replay_chunks(chat({"content": "hi"}))[0],
        lambda: {"id": "chatcmpl-1"},
        lambda: None,
    ],
)
def test_what_is_no_answer_is_not_kept(make: Any) -> None:
    assert freeze_response(make()) is None


def test_the_headers_of_one_call_are_not_kept() -> None:
    response = chat({"content": "hi"})
    response._hidden_params = {"additional_headers": {"llm_provider-set-cookie": "secret"}, "api_base": "http://u:p@x"}
    assert "secret" not in json.dumps(freeze_response(response))
    assert "u:p" not in json.dumps(freeze_response(response))


def test_an_answer_that_this_litellm_cannot_read_is_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bulkllm.caching.answers")
    assert thaw_response("chat", {"choices": "secret words"}) is None
    assert thaw_response("hologram", {}) is None
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 2
    assert "secret" not in caplog.text


# Streams.


@pytest.mark.parametrize(
    ("message", "more"),
    [
        ({"content": "hi"}, {}),
        (RICH, {}),
        ({"content": None, "tool_calls": TOOL_CALLS}, {"finish_reason": "tool_calls"}),
        ({"content": "cut"}, {"finish_reason": "length"}),
    ],
)
def test_a_replayed_stream_amounts_to_the_answer(message: dict[str, Any], more: dict[str, Any]) -> None:
    response = chat(message, **more)
    rebuilt = thaw_response("chat", through_json(freeze_stream(replay_chunks(response))))
    for name in ("content", "reasoning_content", "thinking_blocks", "provider_specific_fields"):
        assert getattr(rebuilt.choices[0].message, name, None) == getattr(response.choices[0].message, name, None)
    calls = [
        [(call.id, call.function.name, call.function.arguments) for call in one.choices[0].message.tool_calls or ()]
        for one in (rebuilt, response)
    ]
    assert calls[0] == calls[1]
    assert rebuilt.choices[0].finish_reason == response.choices[0].finish_reason
    assert (rebuilt.id, rebuilt.model, rebuilt.created) == (response.id, response.model, response.created)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(rebuilt.usage, name) == getattr(response.usage, name)
    assert rebuilt.usage.prompt_tokens_details.cached_tokens == 30
    assert rebuilt.usage.completion_tokens_details.reasoning_tokens == 7


def test_the_chunks_look_like_litellm_s() -> None:
    chunks = replay_chunks(chat({"content": "hi"}))
    assert [type(chunk).__name__ for chunk in chunks] == ["ModelResponseStream"] * 4
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "hi", None, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [getattr(chunk, "usage", None) is not None for chunk in chunks] == [False, False, False, True]
    assert chunks[-1].usage.total_tokens == 120
    assert {chunk.id for chunk in chunks} == {"chatcmpl-1"}


def test_all_choices_are_replayed_each_under_its_index() -> None:
    chunks = replay_chunks(chat({"content": "one"}, {"content": "two"}))
    said: dict[int, str] = {}
    for chunk in chunks:
        choice = chunk.choices[0]
        said[choice.index] = said.get(choice.index, "") + (choice.delta.content or "")
    assert said == {0: "one", 1: "two"}


def test_log_probabilities_survive_a_stream() -> None:
    chunks = replay_chunks(with_logprobs(chat({"content": "hi"})))
    half = _litellm.load().types.utils.ChoiceLogprobs
    content = LOGPROBS["content"]
    assert isinstance(content, list)
    chunks[0].choices[0].logprobs = half(content=content[:1])  # as a provider sends them: one token a chunk
    chunks[1].choices[0].logprobs = half(content=content[1:])
    frozen = through_json(freeze_stream(chunks))
    assert [one["token"] for one in frozen["choices"][0]["logprobs"]["content"]] == ["h", "i"]
    assert thaw_response("chat", frozen).choices[0].logprobs.content[1].logprob == -0.2


def test_a_refusal_survives_a_stream() -> None:
    response = chat({"content": None, "refusal": "I would rather not."})
    assert freeze_response(response) is not None
    chunks = replay_chunks(response)
    chunks[1].choices[0].delta.content = " "  # something for the builder to build
    assert through_json(freeze_stream(chunks))["choices"][0]["message"]["refusal"] == "I would rather not."


def test_a_stream_that_is_no_whole_answer_is_not_kept() -> None:
    chunks = replay_chunks(chat({"content": "hi"}))
    assert freeze_stream(chunks[:-2]) is None  # cut off before its finish reason
    assert freeze_stream([]) is None
    assert freeze_stream(replay_chunks(chat({"content": "one"}, {"content": "two"}))) is None  # LiteLLM loses one
    assert freeze_stream([chunks[0], chunks[2]]) is None  # nothing was said


def test_the_events_of_a_responses_answer_amount_to_it() -> None:
    response = responses()
    events = replay_events(response)
    kinds = [event.type.value for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert events[0].response.output == []
    assert events[0].response.status == "in_progress"
    assert events[-1].response == response
    assert response.status == "completed"
    deltas = {event.type.value: event.delta for event in events if getattr(event, "delta", None)}
    assert deltas == {"response.output_text.delta": "hello", "response.function_call_arguments.delta": '{"a":1}'}
    assert kinds.count("response.output_item.done") == 3
    cut = replay_events(responses("incomplete", "max_output_tokens"))
    assert cut[-1].type.value == "response.incomplete"


# Embeddings.


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (("one", "two"), ["one", "two"]),
        ([], []),
    ],
)
def test_the_items_of_an_input(given: Any, items: list[Any]) -> None:
    assert embedding_items(given) == items


def test_a_batch_taken_apart_and_put_together_is_the_batch() -> None:
    response = embedding([0.1], [0.2], [0.3], tokens=10)
    parts = split_embedding(response, ["a", "bb", "a longer text"], cost=0.5)
    assert [part["embedding"] for part, _ in parts] == [[0.1], [0.2], [0.3]]
    assert sum(cost or 0.0 for _, cost in parts) == pytest.approx(0.5)
    joined = join_embedding([part for part, _ in parts])
    assert joined.model_dump() == response.model_dump()
    swapped = join_embedding([parts[2][0], parts[0][0]])
    assert [(item["index"], item["embedding"]) for item in swapped.data] == [(0, [0.3]), (1, [0.1])]
    assert swapped.usage.prompt_tokens == parts[2][0]["prompt_tokens"] + parts[0][0]["prompt_tokens"]


def test_vectors_go_by_their_index_not_by_their_place() -> None:
    response = embedding([0.0], [1.0])
    response.data.reverse()
    assert [part["embedding"] for part, _ in split_embedding(response, ["a", "b"], None)] == [[0.0], [1.0]]
    assert [cost for _, cost in split_embedding(response, ["a", "b"], None)] == [None, None]


@pytest.mark.parametrize("broken", ["missing", "twice", "empty"])
def test_a_batch_whose_vectors_cannot_be_told_apart_is_not_taken_apart(broken: str) -> None:
    response = embedding([0.0], [1.0])
    if broken == "missing":
        response.data.pop()
    elif broken == "twice":
        response.data[1]["index"] = 0
    else:
        response.data[1]["embedding"] = []
    assert split_embedding(response, ["a", "b"], 0.1) == []


@given(st.integers(0, 10**6), st.lists(st.text(max_size=30), min_size=1, max_size=30))
def test_shared_out_tokens_and_cost_add_up(tokens: int, items: list[str]) -> None:
    response = embedding(*([float(index) + 1.0] for index in range(len(items))), tokens=tokens)
    parts = split_embedding(response, items, cost=1.0)
    assert sum(part["prompt_tokens"] for part, _ in parts) == tokens
    assert all(part["prompt_tokens"] >= 0 for part, _ in parts)
    assert sum(cost or 0.0 for _, cost in parts) == pytest.approx(1.0)
