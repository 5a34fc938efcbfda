from __future__ import annotations

import dataclasses
import math
import pickle
import re
from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.limits import RateLimit
from bulkllm.limits.spec import DAY, INPUT_TOKENS, OUTPUT_TOKENS, REQUESTS, TOTAL_TOKENS


@pytest.mark.parametrize(
    ("pattern", "model", "expected"),
    [
        ("*", "openai/gpt-5", True),
        ("openai/gpt-5*", "openai/gpt-5-mini", True),
        ("openai/gpt-5", "openai/gpt-5-mini", False),
        ("openai/*", "azure/gpt-5", False),
        ("openai/*", "gpt-5", False),
        ("*", "openrouter/openai/gpt-5", True),
        ("openrouter/*", "openrouter/openai/gpt-5", True),
        ("gpt-5*", "openai/gpt-5-mini", True),
        ("gpt-5*", "gpt-5-mini", True),
        ("gpt-5*", "openrouter/openai/gpt-5", False),
        ("openai/gpt-5", "azure/openai/gpt-5", False),
        ("gpt-[45]o", "openai/gpt-4o", True),
        ("gpt-?", "openai/gpt-5", True),
        ("GPT-5", "openai/gpt-5", False),
        ("gpt.5", "openai/gpt-5", False),
        (re.compile(r"openai/(o3|o4).*"), "openai/o4-mini", True),
        (re.compile("o4"), "openai/o4", False),
        (re.compile("OPENAI/.*", re.IGNORECASE), "openai/o4", True),
    ],
)
def test_which_models_a_pattern_holds_for(pattern: str | re.Pattern[str], model: str, expected: bool) -> None:
    assert RateLimit(pattern, rpm=1).matches(model) is expected
    assert RateLimit(["none", pattern], rpm=1).matches(model) is expected


def test_quotas_in_their_dimensions() -> None:
    limit = RateLimit(rpm=1, tpm=2, itpm=3, otpm=4, rpd=5, tpd=6, period=10)
    assert [tuple(quota) for quota in limit.quotas] == [
        ("rpm", REQUESTS, 1.0, 10),
        ("tpm", TOTAL_TOKENS, 2.0, 10),
        ("itpm", INPUT_TOKENS, 3.0, 10),
        ("otpm", OUTPUT_TOKENS, 4.0, 10),
        ("rpd", REQUESTS, 5.0, DAY),
        ("tpd", TOTAL_TOKENS, 6.0, DAY),
    ]
    assert RateLimit(max_in_flight=3).quotas == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "limits nothing"),
        ({"rpm": 0}, "rpm=0"),
        ({"rpm": -1}, "rpm=-1"),
        ({"tpm": math.inf}, "tpm=inf"),
        ({"tpm": math.nan}, "tpm=nan"),
        ({"rpm": True}, "rpm=True"),
        ({"rpm": "500"}, "rpm='500'"),
        ({"rpm": 5, "period": 0}, "period=0"),
        ({"rpm": 5, "period": None}, "period=None"),
        ({"rpm": 5, "burst": 0.5}, "burst=0.5"),
        ({"tpm": 5, "burst": 5}, "give rpm too"),
        ({"rpd": 5, "burst": 5}, "give rpm too"),
        ({"max_in_flight": 1.5}, "whole number"),
        ({"rpm": 5, "window": "fixed"}, "window='fixed'"),
        ({"rpm": 0.5, "window": "sliding"}, "longer period"),
        ({"rpd": 0.5, "window": "sliding"}, "longer period"),
        ({"rpm": 5, "models": []}, "is empty"),
        ({"rpm": 5, "models": ""}, "not ''"),
        ({"rpm": 5, "models": 5}, "not 5"),
        ({"rpm": 5, "models": None}, "not None"),
        ({"rpm": 5, "models": ["gpt-5", 5]}, "not 5"),
        ({"rpm": 5, "models": re.compile(b"gpt")}, "not re.compile"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        RateLimit(**options)


def test_a_limit_is_a_value() -> None:
    limit = RateLimit(["a", re.compile("b.*")], rpm=5)
    assert limit == RateLimit(["a", re.compile("b.*")], rpm=5)
    assert limit != RateLimit(["a", re.compile("b.*")], rpm=6)
    assert hash(limit) == hash(RateLimit(["a", re.compile("b.*")], rpm=5))
    assert limit.name == "a, /b.*/"
    faster = dataclasses.replace(limit, rpm=50)
    assert (faster.rpm, faster.models) == (50, limit.models)
    assert faster.matches("bb")
    with pytest.raises(dataclasses.FrozenInstanceError):
        limit.rpm = 7  # type: ignore[misc]  # that is the point
    again = pickle.loads(pickle.dumps(limit))  # noqa: S301 - our own bytes
    assert again == limit
    assert again.matches("b1")
