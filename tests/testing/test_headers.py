from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from bulkllm.testing.headers import HeaderStyle, RetryAfter, go_duration, limit_headers, refusal_headers, retry_headers
from bulkllm.testing.limits import Pool, ProviderLimits, Refusal, charge_for

WALL = 1_700_000_000.25  # 2023-11-14T22:13:20.25Z


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.012, "12ms"),
        (0.0111, "12ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (8.64, "8.64s"),
        (59.9995, "1m0s"),
        (179.56, "2m59.56s"),
        (360.0, "6m0s"),
        (3630.0, "1h0m30s"),
    ],
)
def test_durations_are_spelt_as_go_spells_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_openai_and_azure_differ_in_how_they_tell_the_reset() -> None:
    pool = Pool(ProviderLimits(rpm=60, tpm=6000), 0.0)
    pool.admit(charge_for("max_tokens", 50, 150), 0.0)
    assert dict(limit_headers("openai", pool, 0.0, WALL)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5850",
        "x-ratelimit-reset-tokens": "1.5s",
    }
    assert dict(limit_headers("azure", pool, 0.0, WALL))["x-ratelimit-reset-tokens"] == "2"


def test_groq_tells_requests_of_a_day() -> None:
    pool = Pool(ProviderLimits(rpm=60, rpd=1440, tpm=600), 0.0)
    pool.admit(charge_for("max_tokens", 5, 5), 0.0)
    told = dict(limit_headers("groq", pool, 0.0, WALL))
    assert told["x-ratelimit-limit-requests"] == "1440"
    assert told["x-ratelimit-reset-requests"] == "1m0s"
    assert told["x-ratelimit-remaining-tokens"] == "595"


def test_anthropic_tells_points_in_time_and_rounds_tokens_to_thousands() -> None:
    pool = Pool(ProviderLimits(rpm=60, itpm=40_000, otpm=20_000), 0.0)
    pool.admit(charge_for("actual", 1600, 100), 0.0)
    assert dict(limit_headers("anthropic", pool, 0.0, WALL)) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:22Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "38000",
        "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:23Z",
        "anthropic-ratelimit-output-tokens-limit": "20000",
        "anthropic-ratelimit-output-tokens-remaining": "20000",
        "anthropic-ratelimit-output-tokens-reset": "2023-11-14T22:13:21Z",
        "anthropic-ratelimit-tokens-limit": "60000",
        "anthropic-ratelimit-tokens-remaining": "58000",
        "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:23Z",
    }
    small = Pool(ProviderLimits(itpm=500), 0.0)
    small.admit(charge_for("actual", 130, 1), 0.0)
    assert dict(limit_headers("anthropic", small, 0.0, WALL))["anthropic-ratelimit-input-tokens-remaining"] == "370"


def test_a_debt_is_told_as_nothing_remaining() -> None:
    pool = Pool(ProviderLimits(tpm=10), 0.0)
    charge = charge_for("actual", 5, None)
    pool.admit(charge, 0.0)
    pool.produced(charge, 15, 0.0)
    told = dict(limit_headers("openai", pool, 0.0, WALL))
    assert (told["x-ratelimit-remaining-tokens"], told["x-ratelimit-reset-tokens"]) == ("0", "2m0s")


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (None, {}),
        (1, {"retry-after": "1"}),
        ("1", {"retry-after": "1"}),
        (1.5, {"retry-after": "1.5"}),
        ("1500ms", {"retry-after-ms": "1500"}),
        ("soon", {"retry-after": "soon"}),
    ],
)
def test_a_hint_to_wait_has_the_form_of_its_value(value: RetryAfter, headers: dict[str, str]) -> None:
    assert dict(retry_headers(value, WALL)) == headers


def test_a_hint_can_be_a_date_which_is_never_early() -> None:
    for value, least in (("date", 1), ("date+30", 30)):
        text = dict(retry_headers(value, WALL))["retry-after"]
        wait = parsedate_to_datetime(text).timestamp() - WALL
        assert text.endswith("GMT")
        assert least <= wait < least + 1


@pytest.mark.parametrize(
    ("style", "headers"),
    [
        ("openai", {"retry-after": "2", "retry-after-ms": "1235"}),
        ("azure", {"retry-after": "2", "retry-after-ms": "1235"}),
        ("anthropic", {"retry-after": "2"}),
        ("groq", {"retry-after": "2"}),
    ],
)
def test_a_refusal_tells_the_wait_as_its_provider_does(style: HeaderStyle, headers: dict[str, str]) -> None:
    assert dict(refusal_headers(style, Refusal("requests", 1, 1, 1, 1.2345), WALL)) == headers


@pytest.mark.parametrize("wait", [None, float("inf")])
def test_where_nobody_knows_the_wait_none_is_told(wait: float | None) -> None:
    assert refusal_headers("openai", Refusal("in_flight", 1, 1, 1, wait), WALL) == []
