"""Answers that are copied from one of their shape are what LiteLLM would have made, to the last of pydantic's notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm import _litellm
from bulkllm.caching import freeze_response, thaw_response
from bulkllm.caching.answers import _chat_is_answer
from bulkllm.caching.skeleton import Skeletons, _same

pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

NO_DETAILS: dict[str, Any] = {}
OPENAI: dict[str, Any] = {
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def frozen(
    content: str = "hello", *, number: int = 7, reason: str = "stop", details: dict[str, Any] = NO_DETAILS, **more: Any
) -> dict[str, Any]:
    usage = {"prompt_tokens": number, "completion_tokens": 2 * number, "total_tokens": 3 * number, **details}
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    choice = {"index": 0, "finish_reason": reason, "message": message, **more.pop("choice", {})}
    made = _litellm.load().ModelResponse(
        id=f"chatcmpl-{number}", created=number, model="m", choices=[choice], usage=usage, **more
    )
    kept = freeze_response(made)
    assert kept is not None
    found: dict[str, Any] = json.loads(json.dumps(kept))
    return found


def skeletons() -> Skeletons:
    return Skeletons(_litellm.load().ModelResponse, _chat_is_answer)


def litellms(kept: dict[str, Any]) -> Any:
    return _litellm.load().ModelResponse(**json.loads(json.dumps(kept)))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"details": OPENAI},
        {"system_fingerprint": "fp_1", "service_tier": "default"},
        {"reason": "length"},
        {"citations": ["https://one.example", "https://two.example"]},
    ],
)
def test_a_copy_is_what_litellm_makes(more: dict[str, Any]) -> None:
    shapes = skeletons()
    assert shapes.rebuild(frozen("first", number=1, **more)) is None, "the first is LiteLLM's own"
    kept = frozen("another \U0001f600", number=40, **more)
    copy, true = shapes.rebuild(kept), litellms(kept)
    assert copy is not None, "this is the quick way"
    assert _same(copy, true)
    assert copy == true
    assert type(copy) is type(true)
    assert copy.model_dump() == true.model_dump()
    assert copy.choices[0].message.content == "another \U0001f600"
    assert (copy.id, copy.created, copy.usage.total_tokens) == ("chatcmpl-40", 40, 120)
    assert copy.choices[0].finish_reason == true.choices[0].finish_reason


@given(st.text(min_size=1), st.integers(0, 10**9), st.text(min_size=1), st.one_of(st.none(), st.text()))
def test_whatever_the_words_are(content: str, number: int, identity: str, fingerprint: str | None) -> None:
    kept = {**frozen(content, number=number), "id": identity, "system_fingerprint": fingerprint}
    thaw_response("chat", json.loads(json.dumps(kept)))
    again = thaw_response("chat", json.loads(json.dumps(kept)))
    assert _same(again, litellms(kept))


def test_copies_share_nothing() -> None:
    shapes = skeletons()
    shapes.rebuild(frozen("first", details=OPENAI))
    one, other = (shapes.rebuild(frozen("text", details=OPENAI, citations=["a"])) for _ in range(2))
    assert one is None, "another shape"
    one, other = (shapes.rebuild(frozen("text", details=OPENAI)) for _ in range(2))
    one._hidden_params["mine"] = True
    one.choices[0].message.content = "spoilt"
    one.choices.append("more")
    one.usage.prompt_tokens_details.cached_tokens = 99
    one.usage.completion_tokens = 99
    assert _same(other, litellms(frozen("text", details=OPENAI)))
    assert _same(shapes.rebuild(frozen("text", details=OPENAI)), litellms(frozen("text", details=OPENAI)))


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "make",
    [
        lambda: frozen(message={"tool_calls": [CALL]}),
        lambda: frozen(message={"reasoning_content": "hm"}),
        lambda: {**frozen(), "choices": frozen()["choices"] * 2},
        lambda: {**frozen(), "choices": []},
        lambda: {**frozen(), "usage": None},
        lambda: {**frozen(), "choices": "words"},
    ],
    ids=["tools", "reasoning", "two choices", "none", "no usage", "nonsense"],
)
def test_what_is_not_plain_is_litellm_s_to_make(make: Callable[[], dict[str, Any]]) -> None:
    shapes = skeletons()
    assert shapes.rebuild(make()) is None
    assert shapes.rebuild(make()) is None


def test_details_that_differ_are_another_shape() -> None:
    shapes = skeletons()
    shapes.rebuild(frozen(details=OPENAI))
    other = {**OPENAI, "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0}}
    assert shapes.rebuild(frozen(details=other)) is None
    assert shapes.rebuild(frozen(details=other)).usage.prompt_tokens_details.cached_tokens == 5


def test_a_litellm_whose_classes_do_more_than_hold_words_is_left_to_itself() -> None:
    class Clever(_litellm.load().ModelResponse):  # type: ignore[misc]  # LiteLLM is Any here
        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            self.choices[0].message.content = values["choices"][0]["message"]["content"].strip("x")

    shapes = Skeletons(Clever, _chat_is_answer)
    for _ in range(3):
        assert shapes.rebuild(frozen("text")) is None


def test_an_answer_that_is_none_is_never_copied() -> None:
    shapes = Skeletons(_litellm.load().ModelResponse, lambda _: False)
    for _ in range(3):
        assert shapes.rebuild(frozen("text")) is None


def test_the_number_of_shapes_is_bounded() -> None:
    shapes = skeletons()
    for number in range(40):
        shapes.rebuild({**frozen(), "extra": number})
    assert len(shapes._known) == 32
    assert shapes.rebuild({**frozen(), "extra": 0}) is not None
