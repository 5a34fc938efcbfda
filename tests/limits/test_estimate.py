"""What a request is taken to need before it is sent, and what is learnt from what it needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm.limits.estimate import TokenEstimator

MODEL = "openai/gpt-5-mini"
VECTORS = "openai/text-embedding-3-small"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_fresh_model_takes_four_characters_for_a_token() -> None:
    estimate = TokenEstimator().estimate("completion", MODEL, {"messages": [user("x" * 400)]})
    assert estimate.characters == 400
    assert 100 <= estimate.input_tokens <= 110
    assert estimate.output_tokens > 0


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_requests_own_bound_is_its_output(name: str) -> None:
    estimate = TokenEstimator().estimate("completion", MODEL, {"messages": [user("hi")], name: 77})
    assert estimate.output_tokens == 77


def test_several_answers_take_the_bound_several_times() -> None:
    estimate = TokenEstimator().estimate("completion", MODEL, {"messages": [user("hi")], "max_tokens": 50, "n": 3})
    assert estimate.output_tokens == 150


@pytest.mark.parametrize("n", [None, 0, -2, "two", 2.5, [3]])
def test_a_senseless_number_of_answers_is_litellms_to_refuse(n: Any) -> None:
    estimate = TokenEstimator().estimate("completion", MODEL, {"messages": [user("hi")], "max_tokens": 50, "n": n})
    assert estimate.output_tokens == 50


def test_an_answer_put_back_into_the_conversation_is_counted() -> None:
    """LiteLLM's users append ``response.choices[0].message``, which is an object."""
    said = SimpleNamespace(role="assistant", content="y" * 4000)
    estimate = TokenEstimator().estimate("completion", MODEL, {"messages": [user("x" * 400), said, user("")]})
    assert estimate.characters == 4400


def test_messages_may_be_a_tuple() -> None:
    assert TokenEstimator().estimate("completion", MODEL, {"messages": (user("x" * 40),)}).characters == 40


def test_text_parts_are_counted_and_an_image_is_worth_a_lump() -> None:
    parts = [{"type": "text", "text": "x" * 40}, {"type": "image_url", "image_url": {"url": "data:" + "A" * 10**6}}]
    estimate = TokenEstimator().estimate("completion", MODEL, {"messages": [{"role": "user", "content": parts}]})
    assert 1000 < estimate.characters < 10_000


def test_tools_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 1000}}
    estimate = TokenEstimator().estimate("completion", MODEL, {"messages": [user("hi")], "tools": [tool]})
    assert estimate.characters > 1000


def test_an_embedding_has_no_output() -> None:
    estimate = TokenEstimator().estimate("embedding", VECTORS, {"input": ["x" * 100, "y" * 300]})
    assert estimate.characters == 400
    assert estimate.output_tokens == 0


def test_tokens_given_to_an_embedding_count_as_tokens() -> None:
    estimate = TokenEstimator().estimate("embedding", VECTORS, {"input": [[15339, 1917] * 500, [0] * 1000]})
    assert 2000 <= estimate.input_tokens <= 2010


@pytest.mark.parametrize("options", [{}, {"messages": None}, {"messages": []}, {"messages": [None, 3]}, {"input": {}}])
def test_what_litellm_will_refuse_is_estimated_all_the_same(options: dict[str, Any]) -> None:
    assert TokenEstimator().estimate("completion", MODEL, options).input_tokens >= 0


def test_real_usage_corrects_both_estimates() -> None:
    estimator = TokenEstimator()
    messages = {"messages": [user("字" * 300)]}
    for _ in range(3):
        estimator.learn(MODEL, 300, 204, 40)
    estimate = estimator.estimate("completion", MODEL, messages)
    assert estimate.input_tokens == pytest.approx(204, rel=0.02)
    assert estimate.output_tokens == pytest.approx(40)
    other = estimator.estimate("completion", "openai/other", messages)
    assert other.input_tokens < 100, "a model learns for itself only"


def test_old_answers_are_forgotten() -> None:
    estimator = TokenEstimator()
    for _ in range(200):
        estimator.learn(MODEL, 400, 104, 1000)
    for _ in range(200):
        estimator.learn(MODEL, 400, 104, 10)
    assert estimator.estimate("completion", MODEL, {"messages": [user("hi")]}).output_tokens < 50


def test_nonsense_usage_cannot_make_estimates_vanish() -> None:
    estimator = TokenEstimator()
    for _ in range(1000):
        estimator.learn(MODEL, 10**9, 1, 0)
    assert estimator.estimate("completion", MODEL, {"messages": [user("x" * 1000)]}).input_tokens >= 100


@pytest.mark.parametrize("more", [{}, {"max_output_tokens": 40}])
def test_a_response_is_estimated_as_a_completion_is(more: dict[str, Any]) -> None:
    """The Responses API takes ``input`` as embeddings do, and has output, whether or not the request bounds it."""
    estimator = TokenEstimator()
    asked = {"messages": [{"role": "system", "content": "y" * 40}, user("x" * 100)], **more}
    parts = {"role": "user", "content": [{"type": "input_text", "text": "x" * 100}]}
    for _ in range(2):
        completion = estimator.estimate("completion", MODEL, asked)
        assert completion.output_tokens > 0
        for given in (["y" * 40, user("x" * 100)], [user("y" * 40), parts]):
            assert estimator.estimate("responses", MODEL, {"input": given, **more}) == completion
        plain = estimator.estimate("responses", MODEL, {"input": "x" * 100, "instructions": "y" * 40, **more})
        assert plain.characters == 140
        assert plain.output_tokens == completion.output_tokens
        estimator.learn(MODEL, 140, 43, 300)


def test_an_embedding_has_no_output_whatever_else_its_model_does() -> None:
    estimator = TokenEstimator()
    estimator.learn(MODEL, 100, 25, 300)
    estimate = estimator.estimate("embedding", MODEL, {"input": "x" * 100, "max_tokens": 5})
    assert (estimate.output_tokens, estimate.likely_output) == (0, 0)


def test_what_nearly_all_answers_stay_below_is_reserved_where_real_output_counts() -> None:
    estimator = TokenEstimator()
    free = {"messages": [{"role": "user", "content": "hi"}]}
    fresh = estimator.estimate("completion", "m", free)
    assert fresh.likely_output == fresh.output_tokens
    for number in range(128):
        estimator.learn("m", 100, 25, 1000 if number % 16 == 0 else 10)
    assert estimator.estimate("completion", "m", free).likely_output == 1000, "one in sixteen is as long"
    assert estimator.estimate("completion", "m", free).output_tokens < 200
    assert estimator.estimate("completion", "m", {**free, "max_tokens": 300}).likely_output == 300
