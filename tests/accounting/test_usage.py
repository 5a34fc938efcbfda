from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm import _litellm
from bulkllm.accounting import Usage
from bulkllm.accounting.usage import COUNTS, _normalised, _plain
from bulkllm.errors import ConfigError

OPENAI = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 128,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
XAI = {
    "prompt_tokens": 32,
    "completion_tokens": 9,
    "total_tokens": 135,
    "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 94, "audio_tokens": 0},
    "num_sources_used": 0,
}

# What LiteLLM hands over, by provider, and what it means. Unless said otherwise the shape is the same in 1.85.0, in
# 1.105.3 and in 1.109.1 (each run on the provider's answer); None stands for what a version leaves out.
SHAPES: dict[str, tuple[Any, Usage]] = {
    "nothing": (None, Usage()),
    "not a usage": ("none", Usage()),
    "OpenAI": (OPENAI, Usage(2006, 300, cache_read_tokens=1920, reasoning_tokens=128)),
    "OpenAI, audio and a prediction": (
        {
            "prompt_tokens": 450,
            "completion_tokens": 230,
            "total_tokens": 680,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 40},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 20,
                "accepted_prediction_tokens": 90,
                "rejected_prediction_tokens": 30,
            },
        },
        Usage(
            450,
            230,
            input_audio_tokens=40,
            output_audio_tokens=20,
            accepted_prediction_tokens=90,
            rejected_prediction_tokens=30,
        ),
    ),
    "OpenAI, responses": (
        {
            "input_tokens": 328,
            "input_tokens_details": {"cached_tokens": 64},
            "output_tokens": 52,
            "output_tokens_details": {"reasoning_tokens": 40},
            "total_tokens": 380,
        },
        Usage(328, 52, cache_read_tokens=64, reasoning_tokens=40),
    ),
    "OpenAI, embedding": ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
    "OpenAI, embedding without its total": ({"prompt_tokens": 8, "total_tokens": 0}, Usage(8)),
    "OpenAI, transcription in tokens": (
        {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
            "output_tokens": 101,
            "total_tokens": 115,
        },
        Usage(14, 101, input_audio_tokens=14),
    ),
    "OpenAI, transcription in seconds": ({"type": "duration", "seconds": 9.0}, Usage()),
    "Anthropic, first call, 1.85.0": (
        {
            "completion_tokens": 393,
            "prompt_tokens": 1821,
            "total_tokens": 2214,
            "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 393},
            "prompt_tokens_details": {"cached_tokens": 0, "text_tokens": 21, "cache_creation_tokens": 1800},
            "cache_creation_input_tokens": 1800,
            "cache_read_input_tokens": 0,
        },
        Usage(1821, 393, cache_write_tokens=1800),
    ),
    "Anthropic, first call, 1.105.3 and 1.109.1": (
        {
            "completion_tokens": 393,
            "prompt_tokens": 1821,
            "total_tokens": 2214,
            "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 393},
            "prompt_tokens_details": {
                "cache_write_tokens": 1800,
                "cached_tokens": 0,
                "text_tokens": 21,
                "cache_creation_tokens": 1800,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 1800, "ephemeral_1h_input_tokens": 0},
            },
            "cache_creation_input_tokens": 1800,
            "cache_read_input_tokens": 0,
            "service_tier": "standard",
        },
        Usage(1821, 393, cache_write_tokens=1800),
    ),
    "Anthropic, second call": (
        {
            "completion_tokens": 393,
            "prompt_tokens": 1821,
            "total_tokens": 2214,
            "prompt_tokens_details": {"cached_tokens": 1800, "text_tokens": 21, "cache_creation_tokens": 0},
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 1800,
        },
        Usage(1821, 393, cache_read_tokens=1800),
    ),
    "Anthropic, writes beside, and a total that has them": (
        {
            "prompt_tokens": 1021,
            "completion_tokens": 393,
            "total_tokens": 2214,
            "cache_creation_input_tokens": 800,
            "cache_read_input_tokens": 1000,
        },
        Usage(1821, 393, cache_read_tokens=1000, cache_write_tokens=800),
    ),
    "Anthropic, all cached tokens beside, and a total that has them": (
        {
            "prompt_tokens": 21,
            "completion_tokens": 393,
            "total_tokens": 2214,
            "cache_creation_input_tokens": 800,
            "cache_read_input_tokens": 1000,
        },
        Usage(1821, 393, cache_read_tokens=1000, cache_write_tokens=800),
    ),
    "Anthropic, writes beside, and a total without them": (
        {"prompt_tokens": 21, "completion_tokens": 393, "total_tokens": 414, "cache_creation_input_tokens": 1800},
        Usage(21, 393, cache_write_tokens=1800, contradictory=True),
    ),
    "Anthropic's own": (
        {
            "input_tokens": 21,
            "cache_creation_input_tokens": 800,
            "cache_read_input_tokens": 1000,
            "output_tokens": 393,
            "service_tier": "standard",
        },
        Usage(1821, 393, cache_read_tokens=1000, cache_write_tokens=800),
    ),
    "Bedrock": (
        {
            "completion_tokens": 56,
            "prompt_tokens": 1812,
            "total_tokens": 1868,
            "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 56},
            "prompt_tokens_details": {"cached_tokens": 1000, "text_tokens": 12, "cache_creation_tokens": 800},
            "cache_creation_input_tokens": 800,
            "cache_read_input_tokens": 1000,
        },
        Usage(1812, 56, cache_read_tokens=1000, cache_write_tokens=800),
    ),
    "Bedrock, a batch's total lacks what was cached": (
        {
            "completion_tokens": 56,
            "prompt_tokens": 1812,
            "total_tokens": 68,
            "cache_creation_input_tokens": 800,
            "cache_read_input_tokens": 1000,
        },
        Usage(1812, 56, cache_read_tokens=1000, cache_write_tokens=800),
    ),
    "xAI as it answers": (XAI, Usage(32, 103, cache_read_tokens=6, reasoning_tokens=94)),
    "xAI as LiteLLM folds it": (
        {**XAI, "completion_tokens": 103},
        Usage(32, 103, cache_read_tokens=6, reasoning_tokens=94),
    ),
    "xAI, reasoning and a cache write beside": (
        {**XAI, "total_tokens": 155, "cache_creation_input_tokens": 20},
        Usage(52, 103, cache_read_tokens=6, cache_write_tokens=20, reasoning_tokens=94),
    ),
    "Gemini, thoughts": (
        {
            "completion_tokens": 250,
            "prompt_tokens": 100,
            "total_tokens": 350,
            "completion_tokens_details": {"reasoning_tokens": 200, "text_tokens": 50},
            "prompt_tokens_details": {"text_tokens": 100},
        },
        Usage(100, 250, reasoning_tokens=200),
    ),
    "Gemini, a cached image": (
        {
            "completion_tokens": 50,
            "prompt_tokens": 1500,
            "total_tokens": 1550,
            "completion_tokens_details": {"text_tokens": 50},
            "prompt_tokens_details": {"cached_tokens": 1000, "text_tokens": 242, "image_tokens": 258},
            "cache_read_input_tokens": 1000,
        },
        Usage(1500, 50, cache_read_tokens=1000, input_image_tokens=258),
    ),
    "Gemini, grounded, 1.105.3 and 1.109.1": (
        {
            "completion_tokens": 50,
            "prompt_tokens": 100,
            "total_tokens": 220,
            "prompt_tokens_details": {"tool_use_tokens": 70},
        },
        Usage(100, 50, unexplained_tokens=70),
    ),
    "Gemini, grounded, 1.85.0": (
        {"completion_tokens": 50, "prompt_tokens": 100, "total_tokens": 220, "prompt_tokens_details": {}},
        Usage(100, 50, unexplained_tokens=70, contradictory=True),
    ),
    "Mistral": ({"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50}, Usage(16, 34)),
    "Groq": (
        {
            "queue_time": 0.03,
            "prompt_tokens": 18,
            "prompt_time": 0.0005,
            "completion_tokens": 556,
            "completion_time": 0.46,
            "total_tokens": 574,
            "total_time": 0.47,
            "prompt_tokens_details": {"cached_tokens": 8},
        },
        Usage(18, 556, cache_read_tokens=8),
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 200,
            "total_tokens": 290,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 26,
            "completion_tokens_details": {"reasoning_tokens": 150},
        },
        Usage(90, 200, cache_read_tokens=64, reasoning_tokens=150),
    ),
    "Moonshot": (
        {"prompt_tokens": 90, "completion_tokens": 20, "total_tokens": 110, "cached_tokens": 64},
        Usage(90, 20, cache_read_tokens=64),
    ),
    "OpenRouter": (
        {
            "prompt_tokens": 194,
            "completion_tokens": 2,
            "total_tokens": 196,
            "cost": 0.0009,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100},
        },
        Usage(194, 2, cache_write_tokens=100),
    ),
    "explicit nothings": (
        {
            "prompt_tokens": None,
            "completion_tokens": None,
            "total_tokens": None,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": None},
        },
        Usage(),
    ),
    "floats": ({"prompt_tokens": 7.0, "completion_tokens": 3.0, "total_tokens": 10.0}, Usage(7, 3)),
    # Numbers that contradict each other stay as they are.
    "a total beyond all parts": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 20},
        Usage(10, 5, unexplained_tokens=5, contradictory=True),
    ),
    "a total that falls short": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 12},
        Usage(10, 5, unexplained_tokens=-3, contradictory=True),
    ),
    "a total that two parts would explain": (
        {
            "prompt_tokens": 50,
            "completion_tokens": 50,
            "total_tokens": 120,
            "cache_creation_input_tokens": 20,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(50, 50, cache_write_tokens=20, reasoning_tokens=20, unexplained_tokens=20, contradictory=True),
    ),
    "more cached than sent": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cached_tokens": 11},
        Usage(10, 5, cache_read_tokens=11, contradictory=True),
    ),
    "more thought than said": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "reasoning_tokens": 6},
        Usage(10, 5, reasoning_tokens=6, contradictory=True),
    ),
    "one number told twice, differently": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 5,
            "total_tokens": 95,
            "prompt_tokens_details": {"cached_tokens": 64},
            "cache_read_input_tokens": 32,
        },
        Usage(90, 5, cache_read_tokens=64, contradictory=True),
    ),
    "less than nothing": (
        {"prompt_tokens": 10, "completion_tokens": -5, "total_tokens": 10},
        Usage(10, contradictory=True),
    ),
    "no number": (
        {"prompt_tokens": 10, "completion_tokens": math.nan, "total_tokens": 10},
        Usage(10, contradictory=True),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_means_the_same(name: str) -> None:
    raw, expected = SHAPES[name]
    assert Usage.from_litellm(raw) == expected


@pytest.mark.parametrize("name", [name for name, (raw, _) in SHAPES.items() if isinstance(raw, dict)])
def test_an_object_says_what_its_dict_says(name: str) -> None:
    raw, expected = SHAPES[name]
    thing = SimpleNamespace(**{k: SimpleNamespace(**v) if isinstance(v, dict) else v for k, v in raw.items()})
    assert Usage.from_litellm(thing) == expected


def test_an_object_without_a_dict_is_read_by_its_attributes() -> None:
    class Slotted:
        __slots__ = ("completion_tokens", "prompt_tokens")

        def __init__(self) -> None:
            self.prompt_tokens, self.completion_tokens = 3, 4

    assert Usage.from_litellm(Slotted()) == Usage(3, 4)


def test_a_usage_of_ours_passes_through() -> None:
    mine = Usage(1, 2, contradictory=True)
    assert Usage.from_litellm(mine) is mine


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(
                    [
                        "prompt_tokens",
                        "completion_tokens",
                        "total_tokens",
                        "prompt_tokens_details",
                        "cached_tokens",
                        "completion_tokens_details",
                        "reasoning_tokens",
                        "cache_creation_input_tokens",
                        "input_tokens",
                    ]
                ),
                inner,
            )
            | st.lists(inner, max_size=2)
        ),
        max_leaves=12,
    )
)
def test_nothing_that_comes_raises_or_counts_below_zero(raw: object) -> None:
    usage = Usage.from_litellm(raw)
    assert all(getattr(usage, name) >= 0 for name in COUNTS if name != "unexplained_tokens")
    assert all(type(getattr(usage, name)) is int for name in COUNTS)


counts = st.integers(0, 10**9)
usages = st.builds(Usage, *[counts] * len(COUNTS), st.booleans())


@given(usages, usages, usages)
def test_adding_is_by_parts_and_in_any_order(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c) == c + b + a == sum([a, b, c], Usage())
    for name in (*COUNTS, "total_tokens"):
        assert getattr(a + b, name) == getattr(a, name) + getattr(b, name)


@given(usages, usages)
def test_subtracting_undoes_adding(a: Usage, b: Usage) -> None:
    left = a + b - b
    assert [getattr(left, name) for name in COUNTS] == [getattr(a, name) for name in COUNTS]
    assert left.contradictory == (a.contradictory or b.contradictory)


@given(usages)
def test_the_dict_goes_both_ways(usage: Usage) -> None:
    assert Usage.from_dict(usage.to_dict()) == usage


def test_the_dict_tells_the_wholes_and_leaves_out_parts_that_are_zero() -> None:
    assert Usage(3, 4, reasoning_tokens=1).to_dict() == {
        "input_tokens": 3,
        "output_tokens": 4,
        "total_tokens": 7,
        "reasoning_tokens": 1,
    }


@pytest.mark.parametrize("value", [1.5, "7", True, None])
def test_a_count_that_is_none_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match="output_tokens"):
        Usage.from_dict({"output_tokens": value})


def test_only_a_usage_can_be_added() -> None:
    with pytest.raises(TypeError):
        Usage() + 1  # type: ignore[operator]  # the point of the test


@given(
    st.integers(-1, 50),
    st.integers(-1, 50),
    st.integers(-1, 1),
    st.dictionaries(
        st.sampled_from(
            ["prompt_tokens_details", "completion_tokens_details", "cache_read_input_tokens", "input_tokens", "cost"]
        ),
        st.one_of(
            st.none(),
            st.integers(0, 3),
            st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), st.integers(0, 3)),
        ),
    ),
)
def test_the_short_way_for_plain_usages_says_what_the_long_one_says(
    tokens_in: int, tokens_out: int, beyond: int, more: dict[str, Any]
) -> None:
    raw = {
        "prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out + beyond,
        **more,
    }  # fmt: skip
    short = _plain(raw)
    assert short is None or short == _normalised(raw)


def test_the_short_way_is_taken_for_what_most_providers_tell() -> None:
    details = {"cached_tokens": 0, "audio_tokens": None}
    raw = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": details}
    assert _plain(raw) == Usage(3, 4)


@pytest.mark.parametrize("reasoning", [0, 7])
def test_details_of_zeros_are_none_whether_they_are_dicts_or_objects(reasoning: int) -> None:
    litellm = _litellm.load()
    details = {"reasoning_tokens": reasoning, "audio_tokens": 0}
    told = litellm.Usage(
        prompt_tokens=8, completion_tokens=75, total_tokens=83, completion_tokens_details=details,
        prompt_tokens_details={"cached_tokens": 0},
    )  # fmt: skip
    as_dict = {"prompt_tokens": 8, "completion_tokens": 75, "total_tokens": 83, "completion_tokens_details": details}
    assert Usage.from_litellm(told) == Usage.from_litellm(as_dict) == Usage(8, 75, reasoning_tokens=reasoning)
