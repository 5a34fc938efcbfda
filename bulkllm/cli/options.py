"""Options that several commands have, and what they mean to the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ..errors import ConfigError
from ..limits import RateLimit, load_limits
from ..limits.spec import Window

_LIMITS = "Limits"

OF_A_RUN: Final[Mapping[str, str | None]] = {
    "budget": "--budget", "deployments": "--deployments", "endpoint": "--endpoint", "fallbacks": "--fallback",
    "limit": "--limit", "limits": "--limits", "max_in_flight": "--max-in-flight", "model": "--model",
    "output": "--output", "progress": "--no-progress", "prompt": "--prompt", "redo_changed": "--redo-changed",
    "requests": "FILE", "retry": "--num-retries", "retry_failed": "--retry-failed", "sample": "--sample",
    "skip_bad": "--skip-bad", "store": "--store", "system": "--system", "wait_for_quota": "--wait-for-quota",
    "cache": None, "call": None, "client": None, "handle_signals": None, "on_error": None, "on_result": None,
    "ordered": None, "reasks": None, "validate": None,
}  # fmt: skip
"""A run's own keywords, and the option that each is given with; None where a command has none."""

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
        for name, value in (("--burst", burst), ("--window", window)):
            if value is not None:
                raise ConfigError(f"{name} says how a limit is counted: give --rpm, --tpm, --itpm or --otpm too")
        return found
    known: Window | None = window  # type: ignore[assignment]  # RateLimit checks it, with a message for the user
    return [*found, RateLimit("*", rpm=rpm, tpm=tpm, itpm=itpm, otpm=otpm, burst=burst, window=known)]


def shared_through(store: str | None, limits: list[RateLimit]) -> str | None:
    """The store of ``--store``.

    Raises:
        ConfigError: there are no limits to be shared.
    """
    if store is not None and not limits:
        raise ConfigError("--store shares limits: give --rpm, --tpm or --limits")
    return store


def keywords(assignments: list[str]) -> dict[str, Any]:
    """LiteLLM's keywords from ``name=value``: a value is read as JSON, and as text where it is none.

    Raises:
        ConfigError: no ``=`` in it, or the keyword is a run's own.
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
        if name in OF_A_RUN and not (name == "cache" and isinstance(found[name], dict)):
            instead = OF_A_RUN[name]
            cure = f"that is what {instead} is for: give it there" if instead else "it can only be given in a program"
            raise ConfigError(f"--option {name} is no keyword of LiteLLM's; {cure}")
    return found
