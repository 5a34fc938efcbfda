"""Which refusals speak of a day: the providers' own words, as they were captured, and their calendars."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import pytest

from bulkllm.errors import ConfigError, QuotaExhausted
from bulkllm.limits import spent as spent_module
from bulkllm.limits.feedback import observe
from bulkllm.limits.profiles import Day, Profile, SpentQuota, profile_for, profile_from, profile_of
from bulkllm.limits.spent import LONG, Spent, spent_by

HOUR = 3_600.0
NOON = datetime(2026, 11, 25, 20, tzinfo=UTC).timestamp()  # at noon in California, where midnight is at 8 UTC


def heard(
    provider: str,
    *codes: str,
    message: str = "",
    headers: dict[str, str] | None = None,
    retry_after: float | None = None,
    longest: float = LONG,
    now: float = NOON,
    endpoint: str = "",
) -> Spent | None:
    profile = profile_for(provider, endpoint)
    told = observe(profile, headers or {}, now)
    return spent_by(
        profile, codes=codes, message=message, told=told, retry_after=retry_after, longest=longest, now=now
    )  # fmt: skip


OPENAI = (
    "Rate limit reached for gpt-4o-mini in organization org-x on requests per day (RPD): Limit 200, Used 200, "
    "Requested 1. Please try again in 7m12s. Visit https://platform.openai.com/account/rate-limits to learn more."
)
GROQ = (
    "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand` on tokens "
    "per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s."
)
GEMINI = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
OPENROUTER = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:8000/v1"])
def test_a_quota_that_is_named_is_known_however_short_its_time(endpoint: str) -> None:
    assert heard("openai", message=OPENAI, retry_after=432, endpoint=endpoint) == Spent("requests per day", 432)
    assert heard("groq", message=GROQ, retry_after=579, endpoint=endpoint) == Spent("tokens per day", 579)
    bedrock = "Too many tokens per day, please wait before trying again."
    assert heard("bedrock", message=bedrock, endpoint=endpoint) == Spent("tokens per day", None)


def test_a_proxy_that_nobody_knows_is_read_as_openai_is() -> None:
    found = heard("litellm_proxy", message=OPENAI, retry_after=432, endpoint="http://127.0.0.1:4000")
    assert found == Spent("requests per day", 432)


@pytest.mark.parametrize(
    "message",
    [
        OPENAI.replace("requests per day (RPD)", "requests per min (RPM)"),
        "on requests per day",
        "Too many tokens, please wait before trying again.",
        "",
    ],
)
def test_a_minutes_quota_is_none(message: str) -> None:
    for provider in ("openai", "groq", "bedrock", "gemini", "openrouter"):
        assert heard(provider, "rate_limit_exceeded", message=message, retry_after=20) is None


def test_groqs_headers_for_requests_speak_of_the_day() -> None:
    headers = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "23h58m1.5s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5000",
        "x-ratelimit-reset-tokens": "10s",
    }
    assert heard("groq", headers=headers) == Spent("requests per day", 86_281.5)
    assert heard("groq", headers=headers, retry_after=86) == Spent("requests per day", 86)
    assert heard("groq", headers={**headers, "x-ratelimit-remaining-requests": "7"}, retry_after=5) is None


@pytest.mark.parametrize(("seconds", "long"), [(LONG, False), (LONG + 1, True), (86_400, True)])
def test_a_time_of_hours_is_long_whatever_the_quota_is_called(seconds: float, long: bool) -> None:
    """Azure's smallest tier: "Please retry after 86400 seconds"."""
    assert heard("azure", retry_after=seconds) == (Spent("", seconds) if long else None)
    reset = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{seconds:g}"}
    assert heard("azure", headers=reset) == (Spent("", seconds) if long else None)


def test_a_time_beyond_all_calendars_is_cut() -> None:
    found = heard("azure", retry_after=1e300)
    assert found is not None
    assert found.seconds == 366 * 24 * HOUR


def test_a_time_stamp_is_no_time_to_wait() -> None:
    stamp = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{NOON + 60:.0f}"}
    assert heard("azure", headers=stamp) is None
    assert heard("azure", headers={**stamp, "x-ratelimit-reset-requests": "86400"}) == Spent("", 86_400)


def test_a_quota_of_a_month_in_headers_has_a_name_too() -> None:
    names = {"limit": "x-limit-month", "remaining": "x-left-month", "reset": "x-reset-month", "reset_format": "seconds"}
    month = 30 * 24 * HOUR
    profile = profile_from({"name": "mine", "headers": [{"dimension": "tpm", "period": month, **names}]})
    told = observe(profile, {"x-limit-month": "1000", "x-left-month": "0", "x-reset-month": "864000"}, NOON)
    found = spent_by(profile, codes=(), message="", told=told, retry_after=None, longest=LONG, now=NOON)
    assert found == Spent("tokens in 30 days", 10 * 24 * HOUR)


def test_what_is_long_is_the_callers_to_say() -> None:
    assert heard("azure", retry_after=3_000, longest=3_600) is None


# -- the calendar ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        ("2026-11-25T20:00:00+00:00", 12),  # winter: midnight is at 8 UTC
        ("2026-11-26T07:59:59+00:00", 1 / 3600),
        ("2026-07-01T20:00:00+00:00", 11),  # summer: at 7
        ("2026-03-08T08:30:00+00:00", 22.5),  # the clocks go forward at 10 UTC: that day has 23 hours
        ("2026-03-08T09:59:00+00:00", 21 + 1 / 60),
        ("2026-11-01T07:30:00+00:00", 24.5),  # they go back at 9 UTC: that day has 25 hours
        ("2026-12-31T12:00:00+00:00", 20),
    ],
)
def test_geminis_day_turns_at_midnight_in_california(now: str, hours: float) -> None:
    found = heard("gemini", "429", "RESOURCE_EXHAUSTED", GEMINI, now=datetime.fromisoformat(now).timestamp())
    assert found is not None
    assert found.quota == "requests per day"
    assert found.seconds == found.turns_in == pytest.approx(hours * HOUR)


def test_a_time_that_is_told_goes_before_the_calendar() -> None:
    assert heard("gemini", GEMINI, retry_after=36.4) == Spent("requests per day", 36.4, 12 * HOUR)


@pytest.mark.parametrize(
    ("code", "quota"),
    [
        (GEMINI, "requests per day"),
        ("GenerateContentInputTokensPerModelPerDay-FreeTier", "tokens per day"),
        ("SomethingElsePerDay", "a day"),
        ("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", None),
    ],
)
def test_geminis_quotas_have_their_names(code: str, quota: str | None) -> None:
    found = heard("gemini", code)
    assert (None if found is None else found.quota) == quota


def test_openrouters_day_is_utcs() -> None:
    assert heard("openrouter", message=OPENROUTER) == Spent("free requests per day", 4 * HOUR, 4 * HOUR)
    assert heard("openrouter", "openrouter_free_tier_daily") == Spent("free requests per day", 4 * HOUR, 4 * HOUR)


def test_a_refusal_just_after_midnight_may_speak_of_the_day_before() -> None:
    midnight = NOON + 12 * HOUR
    late = heard("gemini", GEMINI, now=midnight + 2)
    assert late is not None
    assert late.seconds == 30
    assert late.turns_in == 24 * HOUR - 2
    later = heard("gemini", GEMINI, now=midnight + 601)
    assert later is not None
    assert later.seconds == 24 * HOUR - 601


def test_where_the_machine_has_no_time_zones_it_is_winter(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise ZoneInfoNotFoundError(name)

    assert spent_module._zone(Day(zone="../no/zone", utc_offset=-8)) == timezone(timedelta(hours=-8))
    monkeypatch.setattr(spent_module, "ZoneInfo", none)
    found = heard("gemini", GEMINI, now=datetime(2026, 7, 1, 20, tzinfo=UTC).timestamp())
    assert found is not None
    assert found.seconds == 12 * HOUR  # an hour late


# -- a profile of one's own --------------------------------------------------------------------------------------


def test_a_profile_of_ones_own_says_when_its_day_turns() -> None:
    entry = {
        "name": "mine",
        "day": {"zone": "Asia/Tokyo", "utc_offset": 9},
        "spent": [{"quota": "credits a day", "codes": ["out_of_credits"]}],
    }
    profile = profile_from(entry)
    assert profile.day == Day(zone="Asia/Tokyo", utc_offset=9)
    assert profile.spent == (SpentQuota(quota="credits a day", codes=("out_of_credits",)),)
    found = spent_by(
        profile, codes=["out_of_credits"], message="", told=(), retry_after=None, longest=LONG, now=NOON
    )  # fmt: skip
    assert found == Spent("credits a day", 19 * HOUR, 19 * HOUR)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "x", "day": {"zone": "", "utc_offset": 0}}, "must be the name of a time zone"),
        ({"name": "x", "day": {"zone": "UTC", "utc_offset": 99}}, "must be hours from UTC"),
        ({"name": "x", "day": {"zone": "UTC"}}, "'utc_offset' is missing"),
        ({"name": "x", "spent": [{"quota": "a day"}]}, "needs codes or words"),
        ({"name": "x", "spent": [{"words": ["x"]}]}, "'quota' is missing"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        profile_from(entry)


def test_every_day_that_is_shipped_has_a_time_zone_that_is_known() -> None:
    days = [profile_of(name).day for name in ("gemini", "openrouter")]
    for day in days:
        assert day is not None
        offset = datetime(2026, 1, 15, tzinfo=spent_module._zone(day)).utcoffset()
        assert offset is not None
        assert offset.total_seconds() / HOUR == day.utc_offset
    assert Profile(name="x").day is None


def test_the_error_says_which_quota_until_when_and_the_cure() -> None:
    error = QuotaExhausted("gemini/m", "requests per day", datetime(2026, 11, 26, 8, tzinfo=UTC), 3_600.0)
    text = str(error)
    assert text.startswith(
        "the quota of requests per day is spent for gemini/m: nothing goes before 2026-11-26T08:00:00Z;"
    )
    assert "wait_for_quota=True" in text
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(twin), twin.model, twin.quota, twin.until, twin.retry_after) == (
        text, error.model, error.quota, error.until, 3_600.0,
    )  # fmt: skip
    assert "a quota that the provider does not name is spent" in str(QuotaExhausted("m", "", error.until, 1.0))
