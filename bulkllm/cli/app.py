"""The commands and their options, put together. Each command's work is a call of the API."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from . import cache, demo, fake_provider, limits, models, plan, results, run, usage

app = typer.Typer(
    name="bulkllm",
    help="Bulk LLM calls through LiteLLM: rate-limited, counted to the token and the cent, never paid for twice.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would cost every --help its import
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"bulkllm {__version__}\n")
        raise typer.Exit


@app.callback()
def bulkllm(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Bulk LLM calls through LiteLLM: rate-limited, counted to the token and the cent, never paid for twice."""


app.command(name="run")(run.run)
app.command(name="plan")(plan.plan)
app.command(name="demo")(demo.demo)
app.command(name="fake-provider")(fake_provider.fake_provider)
app.add_typer(models.app)
app.add_typer(results.app)
app.add_typer(limits.app)
app.add_typer(cache.app)
app.add_typer(usage.app)
