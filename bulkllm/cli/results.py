"""``bulkllm results``: what can be done with a results file once there is one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="results",
    help="Work with the results file of a run.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def results() -> None:
    """Work with the results file of a run."""


@app.command(name="export")
def export(
    file: Annotated[Path, typer.Argument(metavar="RESULTS", help="The results file of a run.")],
    kind: Annotated[str, typer.Option("--format", "-f", help="csv, parquet (needs polars) or jsonl.")] = "csv",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The file to write; - is standard output. Else beside RESULTS.")
    ] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="In the order of the input.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write the results out as a table: one flat row each, with the answer's text, tokens, cost and times.

    What is neither number nor text becomes JSON text in CSV and Parquet.
    """
    from ..bulk.export import export as write

    target = output if output is not None else str(file.with_suffix(".table.jsonl" if kind == "jsonl" else f".{kind}"))
    count = write(file, target, format=kind, ordered=ordered, overwrite=overwrite)  # type: ignore[arg-type]  # it is checked there, with a message for the user
    print(f"{count:,} rows in {target}", file=sys.stderr)
