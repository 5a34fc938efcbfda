"""The profiles are data: every entry is whole, and every provider's real headers are read as its documentation says."""

from __future__ import annotations

import math
import os
import tomllib
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm import Client, RateLimiter
from bulkllm.config import config_dir
from bulkllm.errors import ConfigError
from bulkllm.limits.feedback import observe
from bulkllm.limits.origin import Origins
from bulkllm.limits.profiles import (
    HeaderNames,
    Profile,
    profile_for,
    profile_from,
    profile_of,
    register_profile,
    shipped,
    when_registered,
)

NOW = 1_790_000_000.0

# As the providers send them (documentation and captures of June to October 2026): what must be read out of them is
# (dimension, limit, remaining, seconds to the reset).
RECORDED: list[tuple[str, dict[str, str], list[tuple[str, float | None, float | None, float | None]]]] = [
    (
        "openai",
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-limit-tokens": "200000",
            "x-ratelimit-remaining-tokens": "199974",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        [("rpm", 500, 499, 0.12), ("tpm", 200_000, 199_974, 360)],
    ),
    (
        "anthropic",
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:21Z",
            "anthropic-ratelimit-input-tokens-limit": "40000",
            "anthropic-ratelimit-input-tokens-remaining": "39000",
            "anthropic-ratelimit-input-tokens-reset": "2026-09-21T14:13:22Z",
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
            "anthropic-ratelimit-output-tokens-reset": "2026-09-21T14:13:20Z",
        },
        [("rpm", 50, 49, 1), ("itpm", 40_000, 39_000, 2), ("otpm", 8_000, 8_000, 0)],
    ),
    (
        "azure",
        {
            "x-ratelimit-limit-requests": "-1",
            "x-ratelimit-remaining-requests": "-1",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149000",
            "x-ratelimit-reset-tokens": "60",
        },
        [("tpm", 150_000, 149_000, 60)],
    ),
    (
        "groq",
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        [("rpd", 14_400, 14_370, 179.56), ("tpm", 18_000, 17_997, 7.66)],
    ),
    (
        "together_ai",
        {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "1"},
        [("rpm", 10, 9, 1)],
    ),
    ("gemini", {"content-type": "application/json"}, []),
]


@pytest.mark.parametrize(("provider", "headers", "expected"), RECORDED, ids=[entry[0] for entry in RECORDED])
def test_recorded_headers_are_read(provider: str, headers: dict[str, str], expected: list[tuple[Any, ...]]) -> None:
    seen = observe(profile_of(provider), headers, NOW)
    told = [(o.names.dimension, o.limit, o.remaining, o.reset_in) for o in seen]
    assert [entry[:3] for entry in told] == [entry[:3] for entry in expected]
    for (*_, reset), (*_, wanted) in zip(told, expected, strict=True):
        assert reset == pytest.approx(wanted)


def test_groq_speaks_of_the_day_and_together_of_the_second() -> None:
    assert {h.dimension: h.period for h in profile_of("groq").headers} == {"rpd": 86_400, "tpm": 60}
    assert {h.dimension: h.period for h in profile_of("together_ai").headers} == {"rpm": 1, "tpm": 1}


def test_every_entry_says_where_it_comes_from_and_when() -> None:
    entries = tomllib.loads(files("bulkllm.limits").joinpath("profiles.toml").read_text(encoding="utf-8"))["profile"]
    assert len(entries) >= 11
    for entry in entries:
        profile = profile_from(entry)
        assert profile.source, profile.name
        assert profile.as_of is not None, profile.name
        assert profile.providers, profile.name
    named = [provider for entry in entries for provider in entry["providers"]]
    assert len(named) == len(set(named))
    assert set(shipped()) == set(named)


def test_an_unknown_provider_counts_carefully_and_its_headers_are_read_in_the_common_names() -> None:
    profile = profile_of("somebody-new")
    assert profile.window == "unknown"
    assert profile.charges == "unknown"
    assert observe(profile, {"x-ratelimit-limit-requests": "10"}, NOW)[0].limit == 10


@pytest.fixture
def _nobody_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkllm.limits.profiles._registered", {})
    monkeypatch.setattr("bulkllm.limits.profiles._to_be_told", [])


own = pytest.mark.usefixtures("_nobody_registered")


@own
def test_a_profile_of_ones_own_goes_before() -> None:
    register_profile(Profile(name="mine", providers=("hosted_vllm", "openai"), window="sliding"))
    assert profile_of("openai").window == "sliding"
    assert profile_of("hosted_vllm").name == "mine"
    assert profile_for("openai", "http://10.0.0.1/v1").name == "mine", "whatever the address"
    register_profile(Profile(name="another", providers=["openai"], window="bucket"))
    assert profile_of("openai").name == "another", "the latest one goes first"
    register_profile({"name": "mine", "providers": ["openai"], "charges": "output"})
    assert (profile_of("openai").charges, profile_of("hosted_vllm").name) == ("output", "unknown")


@own
def test_what_it_leaves_open_is_as_where_nobody_knows() -> None:
    register_profile({"name": "ours", "hosts": ["llm.example.org"], "day": {"zone": "Europe/Berlin", "utc_offset": 1}})
    nobody = profile_for("openai", "https://other.example.org/v1")
    profile = profile_for("openai", "https://llm.example.org/v1")
    assert profile.headers == nobody.headers != ()
    assert (profile.spent, profile.charges, profile.window) == (nobody.spent, nobody.charges, nobody.window)
    anthropic = profile_for("anthropic", "https://llm.example.org")
    assert (anthropic.name, anthropic.headers) == ("ours", shipped()["anthropic"].headers)


@own
def test_a_profile_for_a_host_is_for_all_below_it_and_for_nobody_else() -> None:
    register_profile(Profile(name="ours", hosts=["llm.example.org", "127.0.0.1:8000"], window="sliding"))
    for endpoint in (
        "https://llm.example.org/v1",
        "https://EU.llm.example.org:8443/v1",
        "https://user:key@llm.example.org/v1",
        "http://127.0.0.1:8000/v1",
    ):
        assert profile_for("openai", endpoint).name == "ours", endpoint
    for endpoint in ("", "https://api.openai.com/v1", "https://evil-llm.example.org/v1", "http://127.0.0.1:8001/v1"):
        assert profile_for("openai", endpoint).name != "ours", endpoint


@own
def test_a_profile_holds_for_calls_from_then_on_and_what_else_was_learned_stays() -> None:
    found = Origins()
    when_registered(found.look_again)
    ours = {"api_base": "https://llm.example.org/v1", "api_key": "k"}
    before, other = found.of("openai", ours), found.of("openai", {"api_key": "k"})
    register_profile(Profile(name="ours", hosts=["llm.example.org"], window="sliding"))
    after = found.of("openai", ours)
    assert (before.profile.window, after.profile.window, after.scope) == ("unknown", "sliding", before.scope)
    assert found.of("openai", {"api_key": "k"}) is other


@own
def test_a_file_of_ones_own_is_read_and_a_registered_profile_goes_before_it() -> None:
    assert profile_for("openai", "https://llm.example.org").window == "unknown"
    path = config_dir() / "profiles.toml"
    path.parent.mkdir(parents=True)
    text = files("bulkllm.limits").joinpath("profiles.toml").read_text(encoding="utf-8")
    path.write_text(text)  # what is shipped has the same shape
    assert profile_of("anthropic") == shipped()["anthropic"]
    path.write_text(
        '[[profile]]\nname = "file"\nhosts = ["llm.example.org"]\nwindow = "sliding"\n'
        '[[profile.header]]\ndimension = "rpm"\nlimit = "a"\nremaining = "b"\nreset = "c"\nreset_format = "seconds"\n'
    )
    os.utime(path, ns=(1, 1))
    profile = profile_for("openai", "https://llm.example.org/v1")
    assert (profile.name, profile.window, profile.headers[0].limit) == ("file", "sliding", "a")
    register_profile(Profile(name="code", hosts=["llm.example.org"]))
    assert profile_for("openai", "https://llm.example.org/v1").name == "code"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[profile]]\n\nhosts = ['a']\n", r"profiles\.toml:1: profile\[0\]: profile '\?': 'name' is missing"),
        ("[[profile]]\nname = 'x'\n", r"profiles\.toml:1: profile\[0\]: it is for nobody; expected hosts"),
        ("[[profile]]\nname = 'x'\nhosts = 'a'\n", r"hosts = 'a' must be a list, such as \[\"...\"\]"),
        ("[profile]\nname = 'x'\n", r"expected tables under \[\[profile\]\], with two brackets"),
        ("[[profiles]]\nname = 'x'\n", r"profiles: not a key that is known"),
        ("[[profile]\n", r"profiles\.toml:1:\d+: .*not valid TOML"),
    ],
)
def test_a_mistake_in_that_file_is_named_by_file_line_and_field(text: str, said: str) -> None:
    path = config_dir() / "profiles.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        profile_for("openai", "https://llm.example.org/v1")
    with pytest.raises(ConfigError, match=said):
        Client()  # and not the first call, or each row of a run
    Client(RateLimiter(learn=False))


@own
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Profile 'x' is for nobody: name the host of your endpoint, such as hosts="),
        ({"hosts": "llm.example.org"}, r"Profile 'x': hosts = 'llm.example.org' must be a list"),
        ({"hosts": ["https://LLM.example.org/v1"]}, r"write the host alone, in lower case, such as 'llm.example.org'"),
        ({"hosts": [""]}, r"write the host alone"),
        ({"hosts": [5]}, r"hosts has 5; expected text"),
        ({"providers": ["a"], "burst": math.nan}, r"burst = nan must be a positive number"),
        ({"providers": ["a"], "headers": [{"limit": "x"}]}, r"x', headers: 'dimension' is missing"),
        ({"providers": ["a"], "header": 5}, r"headers = 5 must be several tables"),
        ({"providers": ["a"], "day": "UTC"}, r"x', day: expected a table, found 'UTC'"),
        ({"providers": ["a"], "charges": "all"}, r"charges = 'all' must be one of max_tokens, "),
    ],
)
def test_a_wrong_field_is_named_with_the_cure(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        register_profile({"name": "x", **fields})


def test_what_is_no_profile_cannot_be_registered() -> None:
    with pytest.raises(ConfigError, match=r"register_profile takes a Profile\(name=..., hosts="):
        register_profile("openai")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ConfigError, match="must be text, such as 'our vLLM'"):
        Profile(name="", hosts=["a"])
    with pytest.raises(ConfigError, match=r"headers has 'x'; expected HeaderNames\(\.\.\.\)"):
        Profile(name="x", headers=["x"])  # type: ignore[list-item]  # the point of the test


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "x", "window": "hourly"}, "window = 'hourly' must be one of"),
        ({"name": "x", "burst": 0}, "burst = 0 must be a positive number"),
        ({"name": "x", "colour": "red"}, "there is no 'colour'"),
        ({}, "'name' is missing"),
        ({"name": "x", "header": [{"dimension": "rpm"}]}, "'limit' is missing"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        profile_from(entry)


def test_header_names_must_be_in_lower_case() -> None:
    with pytest.raises(
        ConfigError, match=r"limit='X-Limit'\) must be a header's name in lower case, such as 'x-limit'"
    ):
        HeaderNames(dimension="rpm", limit="X-Limit", remaining="a", reset="b", reset_format="seconds")


@given(st.dictionaries(
    st.sampled_from([name for h in profile_of("openai").headers for name in (h.limit, h.remaining, h.reset)]),
    st.one_of(st.text(max_size=8), st.sampled_from(["-1", "0", "nan", "inf", "1e999", "6m", "", "12ms", "9" * 400])),
))  # fmt: skip
def test_nonsense_is_as_good_as_not_told(headers: dict[str, str]) -> None:
    for seen in observe(profile_of("openai"), headers, NOW):
        assert seen.limit is None or 0 < seen.limit < math.inf
        assert seen.remaining is None or 0 <= seen.remaining < math.inf
        assert seen.reset_in is None or seen.reset_in >= 0
