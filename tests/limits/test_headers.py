"""Each form in which providers ask to wait, and much that is none."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.limits.headers import duration, retry_after

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.delenv("TZ")
    time.tzset()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "250.5"}, 0.2505),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": "2m59.56s"}, 179.56),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "Mon, 21 Sep 2026 16:13:50 +0200"}, 30.0),
    ],
)
def test_a_wait_is_read_in_every_form(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1", "nan", "inf", "1e999", "12 parsecs", "Mon, 99 Sep 2026 25:00:00 GMT", "-5s", "1790000000"],
)
def test_nonsense_is_no_wait(text: str) -> None:
    assert retry_after({"retry-after": text}, NOW) is None


def test_no_header_is_no_wait() -> None:
    assert retry_after({}, NOW) is None


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be set here")
@pytest.mark.parametrize("text", ["Mon Sep 21 14:13:50 2026", "Mon, 21 Sep 2026 14:13:50 -0000"])
def test_a_date_without_a_zone_is_in_utc_wherever_we_are(text: str, far_from_greenwich: None) -> None:
    assert retry_after({"retry-after": text}, NOW) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("8.64s", 8.64),
        ("2m59.56s", 179.56),
        ("41.5s", 41.5),
        ("1h0m30s", 3630.0),
        ("1d2h", 93_600.0),
        ("0s", 0.0),
        ("5m", 300.0),
        ("1s500ms", 1.5),
        (" 3s ", 3.0),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "10", "1s2m", "-1s", "1 s", "one second", "1.s"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert duration(text) is None


@given(text=st.text(max_size=40), milliseconds=st.text(max_size=20))
def test_whatever_a_server_sends_gives_a_finite_wait_or_none(text: str, milliseconds: str) -> None:
    for headers in ({"retry-after": text}, {"retry-after-ms": milliseconds, "retry-after": text}):
        seconds = retry_after(headers, NOW)
        assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
