"""Limits as a client meets them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.testing import FakeClock, FakeProvider, ProviderLimits, ProviderReport

Post = Callable[..., Any]


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_the_quota_is_served_then_refused_then_served_again(window: Any, chat: Post) -> None:
    clock = FakeClock(1000.0)
    with FakeProvider(rpm=3, window=window, clock=clock, record_times=True) as server:
        assert [chat(server, str(n)).status for n in range(5)] == [200, 200, 200, 429, 429]
        clock.advance(19.9)
        assert chat(server).status == 429
        clock.advance(0.1)
        assert chat(server).status == (200 if window == "bucket" else 429)
        clock.advance(40)
        assert chat(server).status == 200
        report = server.report()
    assert (report.requests, report.refused, report.successes) == (
        8,
        3 if window == "bucket" else 4,
        report.statuses[200],
    )
    assert (report.first_at, report.last_at, report.span) == (1000, 1060, 60)
    assert report.admitted_at == ((1000,) * 3 + ((1020,) if window == "bucket" else ()) + (1060,))


def test_a_refusal_tells_when_to_come_back_and_that_is_true(chat: Post) -> None:
    clock = FakeClock()
    with FakeProvider(rpm=60, burst=1, clock=clock) as server:
        chat(server)
        clock.advance(0.25)
        refused = chat(server)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["retry-after-ms"] == "750"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        error = refused.json["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert "requests per min (RPM): Limit 60" in error["message"]
        assert "try again in 0.750s" in error["message"]
        clock.advance(0.75)
        assert chat(server).status == 200


def test_for_real_with_a_short_period(chat: Post) -> None:
    with FakeProvider(rpm=5, period=0.3, window="sliding") as server:
        began = time.monotonic()
        while server.report().successes < 11:
            chat(server)
        took = time.monotonic() - began
        report = server.report()
    # Eleven of five a period: the eleventh comes two periods after the first.
    assert 0.6 <= report.span < took < 20
    assert report.refused == report.statuses[429] > 0
    assert report.requests == report.successes + report.refused


def test_tokens_are_charged_by_the_cap_as_openai_does(chat: Post) -> None:
    with FakeProvider(tpm=1000, clock=FakeClock()) as server:
        assert chat(server, max_tokens=600).headers["x-ratelimit-remaining-tokens"] == "400"
        refused = chat(server, max_tokens=600)
        assert (refused.status, refused.json["error"]["type"]) == (429, "tokens")
        assert "TPM): Limit 1000, Used 600, Requested 600" in refused.json["error"]["message"]
        assert chat(server, max_tokens=400).status == 200
        too_large = chat(server, max_tokens=1001)
        assert too_large.status == 429
        assert "too large" in too_large.json["error"]["message"]
        assert "retry-after" not in too_large.headers


def test_the_charge_can_be_chosen(chat: Post) -> None:
    with FakeProvider(tpm=1000, charge="actual", reply="1234" * 50, clock=FakeClock()) as server:
        assert chat(server, max_tokens=900).status == 200
        assert chat(server, max_tokens=900).headers["x-ratelimit-remaining-tokens"] == str(1000 - 9 - 50 - 9)
    with FakeProvider(tpm=1000, charge="prompt+max_tokens", clock=FakeClock()) as server:
        assert chat(server, max_tokens=900).headers["x-ratelimit-remaining-tokens"] == str(1000 - 9 - 900)


@pytest.mark.parametrize(
    ("style", "there"),
    [
        ("openai", {"x-ratelimit-reset-requests": "1s"}),
        ("azure", {"x-ratelimit-reset-requests": "1"}),
        ("groq", {"x-ratelimit-limit-requests": "1440", "x-ratelimit-reset-requests": "1m0s"}),
        ("anthropic", {"anthropic-ratelimit-requests-remaining": "59"}),
        (None, {}),
    ],
)
def test_headers_can_be_another_providers_or_none(style: Any, there: dict[str, str], chat: Post) -> None:
    with FakeProvider(rpm=60, rpd=1440, headers=style, clock=FakeClock()) as server:
        answer = chat(server)
        told = {name: value for name, value in answer.headers.items() if "ratelimit" in name or "retry" in name}
        assert there.items() <= told.items()
        assert bool(told) == (style is not None)
        server.set_limits(rpm=1)
        chat(server)
        refused = chat(server)
        assert refused.status == 429
        assert ("retry-after" in refused.headers) == (style is not None)


def test_requests_in_flight_are_limited(chat: Post) -> None:
    def five(latency: float) -> tuple[bool, list[int], ProviderReport]:
        with FakeProvider(max_in_flight=2, latency=latency) as server, ThreadPoolExecutor(2) as threads:
            first = [threads.submit(chat, server, str(n)) for n in range(2)]
            while server.report().requests < 2:
                time.sleep(0.001)
            refused = [chat(server, str(n)).status for n in range(2, 5)]
            in_time = server.report().in_flight == 2
            assert [job.result().status for job in first] == [200, 200]
            report = server.report()
            assert chat(server).status == 200
            return in_time, refused, report

    in_time, refused, report = five(0.2)
    if not in_time:  # the machine stood still until the first two had their answers
        in_time, refused, report = five(5.0)
    assert in_time
    assert refused == [429, 429, 429]
    assert (report.peak_in_flight, report.in_flight, report.refused) == (2, 0, 3)
    assert report.models["m"].peak_in_flight == 2


def test_models_have_limits_of_their_own(chat: Post) -> None:
    limits = {"big": ProviderLimits(rpm=1), "fam-*": ProviderLimits(rpm=2)}
    with FakeProvider(rpm=3, limits=limits, clock=FakeClock()) as server:
        served = {
            model: [chat(server, model=model).status for _ in range(4)].count(200)
            for model in ("big", "fam-1", "fam-2", "x", "y")
        }
        assert served == {"big": 1, "fam-1": 2, "fam-2": 0, "x": 3, "y": 3}
        assert {name: counts.refused for name, counts in server.report().models.items()} == {
            "big": 3,
            "fam-1": 2,
            "fam-2": 4,
            "x": 1,
            "y": 1,
        }


def test_limits_change_while_the_server_runs(chat: Post) -> None:
    with FakeProvider(rpm=1, clock=FakeClock()) as server:
        assert [chat(server).status for _ in range(2)] == [200, 429]
        server.set_limits(rpm=None)
        assert [chat(server).status for _ in range(3)] == [200, 200, 200]
        server.set_limits("other", rpm=1)
        assert [chat(server, model="other").status for _ in range(2)] == [200, 429]
        assert chat(server).status == 200
        with pytest.raises(ConfigError, match="'rps' is no limit"):
            server.set_limits(rps=1)
        server.reset()
        assert [chat(server).status for _ in range(2)] == [200, 429]
        assert server.report().requests == 2


def test_refused_requests_may_count(chat: Post) -> None:
    clock = FakeClock()
    with FakeProvider(rpm=10, tpm=100, window="sliding", refused_count=True, clock=clock) as server:
        for _ in range(4):
            assert chat(server, max_tokens=200).status == 429
        assert chat(server, max_tokens=10).headers["x-ratelimit-remaining-requests"] == "5"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rpm": -1}, "rpm=-1"),
        ({"charge": "all"}, "charge='all'"),
        ({"headers": "mistral"}, "headers='mistral'"),
        ({"keys": "sk-one"}, "give a list"),
        ({"latency": -1}, "latency=-1"),
        ({"latency": (2, 1)}, "latency="),
        ({"time_per_token": -1}, "time_per_token=-1"),
        ({"port": 70_000}, "port=70000"),
        ({"faults": ["reset"]}, "Fault objects"),
        ({"reply_tokens": (5, 1)}, "reply_tokens"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FakeProvider(**options)


# -- a day's quota, in each provider's shape ---------------------------------------------------------------------


def test_openai_names_the_day_in_words_and_refills_over_it(chat: Post) -> None:
    clock = FakeClock()
    with FakeProvider(rpd=200, clock=clock) as server:
        assert [chat(server).status for _ in range(200)] == [200] * 200
        refused = chat(server)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "432"
        assert "on requests per day (RPD): Limit 200, Used 200, Requested 1." in refused.json["error"]["message"]
        clock.advance(432)
        assert [chat(server).status, chat(server).status] == [200, 429]


def test_groq_tells_the_day_in_its_headers_for_requests(chat: Post) -> None:
    with FakeProvider(rpd=2, tpm=1000, headers="groq", clock=FakeClock()) as server:
        refused = [chat(server) for _ in range(3)][-1]
    assert refused.status == 429
    assert refused.headers["retry-after"] == "43200"
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "24h0m0s"
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"


@pytest.mark.parametrize("where", ["/v1beta", "/as/gemini"])
def test_gemini_names_the_quota_and_not_when_its_day_turns(where: str, post: Post) -> None:
    contents = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    path = f"{where}/models/gemini-2.5-flash:generateContent"
    with FakeProvider(rpd=2, rpm=60, burst=1, clock=FakeClock()) as server:
        assert post(server, path, contents).status == 200
        minute = post(server, path, contents)
        server.set_limits(rpm=None, burst=None)
        assert post(server, path, contents).status == 200
        day = post(server, path, contents)
    assert (minute.status, day.status) == (429, 429)
    assert not [name for name in day.headers if name.startswith(("x-ratelimit", "retry-after"))]
    for refused, quota_id, value in (
        (minute, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "60"),
        (day, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "2"),
    ):
        error = refused.json["error"]
        assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
        (violation,) = error["details"][0]["violations"]
        assert (violation["quotaId"], violation["quotaValue"]) == (quota_id, value)
    assert minute.json["error"]["details"][1]["retryDelay"] == "1.000000000s"
    assert len(day.json["error"]["details"]) == 1


def test_gemini_s_other_errors_have_its_shape_too(post: Post) -> None:
    with FakeProvider(models=["m"], keys=["sk-good"]) as server:
        path = "/v1beta/models/m:generateContent"
        assert post(server, path, {}).json["error"]["status"] == "UNAUTHENTICATED"
        told = post(server, path, {}, authorization="Bearer sk-good").json["error"]
        assert (told["code"], told["status"]) == (400, "INVALID_ARGUMENT")
        other = post(server, path.replace("/m:", "/x:"), {"contents": [{}]}, authorization="Bearer sk-good")
        assert other.json["error"]["status"] == "NOT_FOUND"
