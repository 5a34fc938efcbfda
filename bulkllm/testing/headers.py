"""How providers spell their limits, and how long to wait, in response headers.

What may live here: formats, as pure functions. The spellings are the providers' own, as their documentation gives
them: OpenAI (Go durations), Azure OpenAI (the same names, plain seconds), Groq (OpenAI's names, but "requests" are
those of a day), Anthropic (its own names, RFC 3339 times).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Literal, TypeAlias

from .limits import Pool, Refusal
from .meters import Meter

HeaderStyle: TypeAlias = Literal["openai", "anthropic", "azure", "groq"]
HEADER_STYLES: tuple[HeaderStyle, ...] = ("openai", "anthropic", "azure", "groq")
RetryAfter: TypeAlias = float | str | None
Headers: TypeAlias = list[tuple[str, str]]

# Anthropic tells remaining tokens to the nearest thousand. No account of theirs has a limit below this, but a test
# may, and would be told 0 all the time; such small limits are told exactly.
_ROUNDED_FROM = 10_000
_THOUSAND = 1000

_OPENAI_ROWS = (("requests", "requests"), ("tokens", "tokens"))
_GROQ_ROWS = (("requests", "requests_per_day"), ("tokens", "tokens"))
_ANTHROPIC_ROWS = (
    ("requests", "requests"),
    ("tokens", "tokens"),
    ("input-tokens", "input_tokens"),
    ("output-tokens", "output_tokens"),
)


def limit_headers(style: HeaderStyle, pool: Pool, now: float, wall: float) -> Headers:
    """The headers that tell how a pool stands; a limit that is not set has none.

    Args:
        style: whose spelling.
        pool: what to tell of.
        now: the time by the pool's clock.
        wall: the same moment in Unix time, for spellings that name a point in time.
    """
    if style == "anthropic":
        return _anthropic(pool, now, wall)
    headers: Headers = []
    for name, dimension in _GROQ_ROWS if style == "groq" else _OPENAI_ROWS:
        meter = pool.meters.get(dimension)
        if meter is not None:
            resets_in = meter.resets_in(now)
            reset = str(math.ceil(resets_in)) if style == "azure" else go_duration(resets_in)
            headers += (
                (f"x-ratelimit-limit-{name}", str(meter.quota)),
                (f"x-ratelimit-remaining-{name}", str(_remaining(meter, now))),
                (f"x-ratelimit-reset-{name}", reset),
            )
    return headers


def refusal_headers(style: HeaderStyle, refusal: Refusal, wall: float) -> Headers:
    """How long a refused request should wait, in the forms that the provider sends; nothing where nobody knows."""
    if refusal.wait is None or not math.isfinite(refusal.wait):
        return []
    seconds = retry_headers(max(1, math.ceil(refusal.wait)), wall)
    if style in ("anthropic", "groq"):
        return seconds
    return seconds + retry_headers(f"{math.ceil(refusal.wait * 1000)}ms", wall)


def retry_headers(value: RetryAfter, wall: float) -> Headers:
    """One hint to wait, in the form that the value itself has.

    A number, or the text of one, becomes ``retry-after`` in seconds (whole or not), ``"1500ms"`` becomes
    ``retry-after-ms: 1500``, ``"date"`` an HTTP date a second from now and ``"date+30"`` one in thirty seconds
    (rounded up, for HTTP dates know whole seconds only). Any other text is sent as it stands. None sends nothing.
    """
    if value is None:
        return []
    text = str(value)
    if text.endswith("ms") and text[:-2].isdecimal():
        return [("retry-after-ms", text[:-2])]
    head, _, seconds = text.partition("+")
    if head == "date":
        return [("retry-after", formatdate(math.ceil(wall + float(seconds or 1)), usegmt=True))]
    return [("retry-after", text)]


def go_duration(seconds: float) -> str:
    """A span as Go prints it (``12ms``, ``8.64s``, ``6m0s``, ``1h0m30s``), rounded up to whole milliseconds."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < _THOUSAND:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60 * _THOUSAND)
    text = f"{rest / _THOUSAND:.3f}".rstrip("0").rstrip(".") + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return text


def _anthropic(pool: Pool, now: float, wall: float) -> Headers:
    meters = pool.meters
    told: list[tuple[str, int, int, float]] = []
    for name, dimension in _ANTHROPIC_ROWS:
        meter = meters.get(dimension)
        if meter is not None:
            told.append((name, meter.quota, _remaining(meter, now), meter.resets_in(now)))
    if "tokens" not in meters and "input_tokens" in meters and "output_tokens" in meters:
        # Where input and output are limited apart, Anthropic tells their sum under the plain name.
        _, quota, remaining, resets_in = zip(*told[-2:], strict=True)
        told.append(("tokens", sum(quota), sum(remaining), max(resets_in)))
    headers: Headers = []
    for name, quota_, remaining_, resets_in_ in told:
        if name != "requests" and quota_ >= _ROUNDED_FROM:
            remaining_ = round(remaining_ / _THOUSAND) * _THOUSAND  # noqa: PLW2901 - the same value, as told
        reset = datetime.fromtimestamp(math.ceil(wall + resets_in_), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        prefix = f"anthropic-ratelimit-{name}"
        headers += (
            (f"{prefix}-limit", str(quota_)),
            (f"{prefix}-remaining", str(remaining_)),
            (f"{prefix}-reset", reset),
        )
    return headers


def _remaining(meter: Meter, now: float) -> int:
    return max(0, math.floor(meter.available(now) + 1e-9))
