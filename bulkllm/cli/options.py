"""Options that several commands have, and what they mean to the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from ..limits import RateLimit, load_limits
from ..limits.spec import Window

_LIMITS = "Limits"

Rpm = Annotated[float | None, typer.Option("--rpm", help="Requests a minute.", rich_help_panel=_LIMITS)]
Tpm = Annotated[float | None, typer.Option("--tpm", help="Tokens a minute, input and output.", rich_help_panel=_LIMITS)]
Itpm = Annotated[float | None, typer.Option("--itpm", help="Input tokens a minute.", rich_help_panel=_LIMITS)]
Otpm = Annotated[float | None, typer.Option("--otpm", help="Output tokens a minute.", rich_help_panel=_LIMITS)]
MaxInFlight = Annotated[
    int | None,
    typer.Option("--max-in-flight", help="Rows of one model at one endpoint under way at once. [default: 256]"),
]
Burst = Annotated[float | None, typer.Option("--burst", help="Requests that may start at once after a pause.")]
WindowName = Annotated[
    str | None, typer.Option("--window", help="How the provider counts: bucket or sliding. [default: found out]")
]
LimitsFile = Annotated[
    Path | None,
    typer.Option("--limits", help="A file of limits (see `bulkllm limits`); the other options hold beside it."),
]
SharedStore = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="WHERE",
        help="Share the limits with other processes through this file, or server (redis://HOST:6379/0).",
    ),
]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", help="US dollars that the rows may cost in all, earlier runs' included.")
]
DeploymentsFile = Annotated[
    Path | None,
    typer.Option(
        "--deployments",
        metavar="FILE",
        help="TOML or JSON that lists places where the model can be asked: address, limits, and the name of the "
        "environment variable that holds the key.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Say nothing while running.")]


def limits(
    *,
    rpm: float | None,
    tpm: float | None,
    itpm: float | None = None,
    otpm: float | None = None,
    burst: float | None = None,
    window: str | None = None,
    file: Path | None = None,
) -> list[RateLimit]:
    """The limits of the file, and those that the options ask for, for each model of the run alike.

    Raises:
        ConfigError: a limit is wrong, or the file.
    """
    found = [] if file is None else load_limits(file)
    if rpm is None and tpm is None and itpm is None and otpm is None:
        return found
    known: Window | None = window  # type: ignore[assignment]  # RateLimit checks it, with a message for the user
    return [*found, RateLimit("*", rpm=rpm, tpm=tpm, itpm=itpm, otpm=otpm, burst=burst, window=known)]


def keywords(assignments: list[str]) -> dict[str, Any]:
    """LiteLLM's keywords from ``name=value``: a value is read as JSON, and as text where it is none.

    Raises:
        ConfigError: no ``=`` in it.
    """
    found: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--option {assignment!r} must be NAME=VALUE, such as --option top_p=0.9")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
