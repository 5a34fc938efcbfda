"""What a stream's chunks add up to."""

from __future__ import annotations

from types import SimpleNamespace as Thing
from typing import Any

import pytest

from bulkllm.accounting import Usage
from bulkllm.calls.fold import StreamFold, guessed_usage

TOLD = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def chunk(content: str | None = None, *, usage: Any = None, finish: str | None = None, **delta: Any) -> Thing:
    choice = Thing(delta=Thing(content=content, **delta), finish_reason=finish)
    return Thing(model="gpt-5-mini", usage=usage, choices=[choice])


def call_of(arguments: str, name: str | None = None) -> Thing:
    return Thing(function=Thing(arguments=arguments, name=name))


def test_content_is_counted_and_seen() -> None:
    fold = StreamFold()
    assert fold.add(chunk("Hello")) == (True, False)
    assert fold.add(chunk(", you")) == (True, False)
    assert (fold.contents, fold.characters, fold.model) == (2, 10, "gpt-5-mini")


@pytest.mark.parametrize(
    "piece",
    [
        chunk(None, reasoning_content="thinking"),
        chunk(None, tool_calls=[call_of("{}", "look_up")]),
        chunk(None, tool_calls=[call_of('{"city":')]),
    ],
)
def test_thoughts_and_tool_calls_are_content(piece: Thing) -> None:
    fold = StreamFold()
    assert fold.add(piece) == (True, False)
    assert fold.characters >= 8


@pytest.mark.parametrize("piece", [chunk(""), chunk(None), chunk(None, finish="stop"), Thing(), Thing(choices=None)])
def test_a_chunk_with_nothing_in_it_is_neither_content_nor_usage(piece: Thing) -> None:
    fold = StreamFold()
    assert fold.add(piece) == (False, False)
    assert fold.usage is None


@pytest.mark.parametrize("choices", [[], None, [Thing(delta=Thing(content=None), finish_reason=None)]])
def test_a_chunk_of_usage_alone_is_told_from_others(choices: Any) -> None:
    fold = StreamFold()
    assert fold.add(Thing(model="m", usage=TOLD, choices=choices)) == (False, True)
    assert fold.usage == Usage(11, 7)


def test_usage_beside_content_or_an_end_is_not_usage_alone() -> None:
    """Some providers tell the usage in each chunk, others in the one with the finish reason."""
    assert StreamFold().add(chunk("x", usage=TOLD)) == (True, False)
    assert StreamFold().add(chunk(None, usage=TOLD, finish="stop")) == (False, False)


def test_the_latest_usage_counts() -> None:
    fold = StreamFold()
    fold.add(chunk("a", usage={"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12}))
    fold.add(chunk("b", usage=TOLD))
    assert fold.usage == Usage(11, 7)


def test_events_of_the_responses_api() -> None:
    fold = StreamFold()
    assert fold.add(Thing(type="response.created", response=Thing(model="gpt-5", usage=None))) == (False, False)
    assert fold.add(Thing(type="response.output_text.delta", delta="Hello")) == (True, False)
    assert fold.add(Thing(type="response.output_text.done", text="Hello")) == (False, False)
    whole = Thing(model="gpt-5", usage={"input_tokens": 4, "output_tokens": 2, "total_tokens": 6})
    assert fold.add(Thing(type="response.completed", response=whole)) == (False, False)
    assert (fold.usage, fold.whole, fold.model) == (Usage(4, 2), whole, "gpt-5")
    assert fold.characters == 5


def test_a_cut_off_answer_is_estimated_by_chunks_or_characters_whichever_is_more() -> None:
    by_chunks, by_characters = StreamFold(), StreamFold()
    for _ in range(10):
        by_chunks.add(chunk("a"))
    by_characters.add(chunk("x" * 400))
    assert by_chunks.estimated(33.4) == Usage(33, 10)
    assert by_characters.estimated(0) == Usage(0, 100)


def test_what_the_provider_told_before_the_cut_is_kept() -> None:
    """Anthropic tells the input, cached parts and all, in its first event."""
    fold = StreamFold()
    fold.add(chunk("a", usage={"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51,
                               "prompt_tokens_details": {"cached_tokens": 40}}))  # fmt: skip
    for _ in range(4):
        fold.add(chunk("b"))
    estimated = fold.estimated(7)
    assert (estimated.input_tokens, estimated.cache_read_tokens, estimated.output_tokens) == (50, 40, 5)


def test_nothing_that_came_is_estimated_as_no_output() -> None:
    assert StreamFold().estimated(12) == Usage(12, 0)


def test_a_whole_answer_without_usage_is_estimated_by_its_text() -> None:
    message = Thing(content="x" * 41, tool_calls=None)
    called = Thing(content=None, tool_calls=[call_of('{"a": 1}', "look")])
    response = Thing(choices=[Thing(message=message), Thing(message=called)])
    assert guessed_usage(response, 9.6) == Usage(10, 14)
    assert guessed_usage(Thing(data=[1, 2]), 9.6) == Usage(10, 0)
