"""What a limit is: a value that a user writes down. No state, no clock."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Final, Literal, NamedTuple, cast

from ..errors import ConfigError

Window = Literal["bucket", "sliding"]
Pattern = str | re.Pattern[str]

# The dimensions of a request, in the order of a ticket's amounts.
REQUESTS: Final = 0
TOTAL_TOKENS: Final = 1
INPUT_TOKENS: Final = 2
OUTPUT_TOKENS: Final = 3
WITH_OUTPUT: Final = (TOTAL_TOKENS, OUTPUT_TOKENS)

DAY: Final = 86_400.0


class Quota(NamedTuple):
    """One dimension of a limit: at most ``amount`` of ``dimension`` in ``period`` seconds."""

    name: str
    dimension: int
    amount: float
    period: float


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit that all matching models share.

    Attributes:
        models: which models it holds for: exact names, globs (``openai/gpt-5*``; ``*`` crosses slashes) or compiled
            regular expressions, which must match the whole name. A pattern without a slash is compared with the
            name without its provider too: ``gpt-5*`` holds for ``openai/gpt-5-mini``.
        rpm: requests in ``period``.
        tpm: tokens in ``period``, input and output together.
        itpm: input tokens in ``period``.
        otpm: output tokens in ``period``.
        rpd: requests a day.
        tpd: tokens a day, input and output together.
        max_in_flight: requests under way at once.
        burst: how many of the requests of ``rpm`` may start at once after a pause; one period's quota, or what the
            provider's profile says is safe, unless said otherwise. Tokens may always burst one period's quota, and a
            day's quota may be used up at once.
        window: how the provider counts: ``"bucket"`` is refilled continuously, ``"sliding"`` counts the trailing
            ``period`` exactly. None takes it from the provider's profile; where nobody knows, a client finds it out
            by sending requests that only a bucket would let in, and a limiter used by itself takes a bucket.
        period: seconds that rpm, tpm, itpm and otpm speak of.
        name: what status and messages call it; made from the patterns unless given.

    Raises:
        ConfigError: a number is not positive, or no dimension is given.
    """

    models: tuple[Pattern, ...] = ("*",)
    rpm: float | None = None
    tpm: float | None = None
    itpm: float | None = None
    otpm: float | None = None
    rpd: float | None = None
    tpd: float | None = None
    max_in_flight: int | None = None
    burst: float | None = None
    window: Window | None = None
    period: float = 60.0
    name: str = ""
    _matchers: tuple[tuple[re.Pattern[str], bool], ...] = field(init=False, repr=False, compare=False, default=())

    def __init__(
        self,
        models: Pattern | Iterable[Pattern] = "*",
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        itpm: float | None = None,
        otpm: float | None = None,
        rpd: float | None = None,
        tpd: float | None = None,
        max_in_flight: int | None = None,
        burst: float | None = None,
        window: Window | None = None,
        period: float = 60.0,
        name: str | None = None,
    ) -> None:
        patterns = _patterns(models)
        label = name or ", ".join(p if isinstance(p, str) else f"/{p.pattern}/" for p in patterns)
        values = {
            "models": patterns, "rpm": rpm, "tpm": tpm, "itpm": itpm, "otpm": otpm, "rpd": rpd, "tpd": tpd,
            "max_in_flight": max_in_flight, "burst": burst, "window": window, "period": period, "name": label,
        }  # fmt: skip
        for key, value in values.items():
            object.__setattr__(self, key, value)
        self._check()
        object.__setattr__(self, "_matchers", tuple(_matcher(pattern) for pattern in patterns))

    def _check(self) -> None:
        numbers = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "max_in_flight", "burst", "period")
        for key in numbers:
            value = getattr(self, key)
            if value is None and key != "period":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"RateLimit({key}={value!r}) must be a positive number")
        if self.burst is not None and self.burst < 1:
            raise ConfigError(f"RateLimit(burst={self.burst!r}) must be at least 1: it counts requests")
        if self.burst is not None and self.rpm is None:
            raise ConfigError(f"RateLimit(burst={self.burst!r}) bounds how much of rpm may start at once: give rpm too")
        if self.max_in_flight is not None and self.max_in_flight != int(self.max_in_flight):
            raise ConfigError(f"RateLimit(max_in_flight={self.max_in_flight!r}) must be a whole number")
        if self.window not in (None, "bucket", "sliding"):
            raise ConfigError(f"RateLimit(window={self.window!r}) must be 'bucket', 'sliding' or None")
        if self.window == "sliding" and min(self.rpm or 1, self.rpd or 1) < 1:
            raise ConfigError("a sliding window cannot hold less than one request: give a longer period instead")
        if not self.quotas and self.max_in_flight is None:
            raise ConfigError(
                f"RateLimit({self.name!r}) limits nothing: give rpm, tpm, itpm, otpm, rpd, tpd or max_in_flight"
            )

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The dimensions that this limit bounds over time."""
        table = (
            ("rpm", REQUESTS, self.rpm, self.period),
            ("tpm", TOTAL_TOKENS, self.tpm, self.period),
            ("itpm", INPUT_TOKENS, self.itpm, self.period),
            ("otpm", OUTPUT_TOKENS, self.otpm, self.period),
            ("rpd", REQUESTS, self.rpd, DAY),
            ("tpd", TOTAL_TOKENS, self.tpd, DAY),
        )
        return tuple(
            Quota(name, dimension, float(amount), period)
            for name, dimension, amount, period in table
            if amount is not None
        )

    def matches(self, model: str) -> bool:
        """Whether this limit holds for a model, by its LiteLLM name."""
        bare = model.partition("/")[2]
        for regex, with_provider in self._matchers:
            if regex.fullmatch(model) or (bare and not with_provider and regex.fullmatch(bare)):
                return True
        return False


def _patterns(models: object) -> tuple[Pattern, ...]:
    """What was given as ``models``, looked through: users without a type checker are helped too."""
    one = isinstance(models, str | re.Pattern) or not isinstance(models, Iterable)
    patterns = (models,) if one else tuple(cast("Iterable[object]", models))
    if not patterns:
        raise ConfigError("RateLimit(models=...) is empty; name at least one model or pattern, or leave it out")
    for pattern in patterns:
        text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        if not isinstance(text, str) or pattern == "":
            raise ConfigError(f"RateLimit(models=...) takes names, globs and compiled patterns, not {pattern!r}")
    return cast("tuple[Pattern, ...]", patterns)


def _matcher(pattern: Pattern) -> tuple[re.Pattern[str], bool]:
    """The compiled pattern, and whether it speaks of the provider too."""
    if isinstance(pattern, str):
        return re.compile(translate(pattern)), "/" in pattern
    return pattern, True
