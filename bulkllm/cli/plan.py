"""``bulkllm plan``: what a run would take, before a cent is spent."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as shared

if TYPE_CHECKING:
    from ..bulk.planning import Plan, Range


def plan(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL, CSV, TSV or Parquet, as for `bulkllm run`.")],
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="As for `bulkllm run`; several too.")] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The results file: what is done is not counted, and makes it exacter."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="A template over the columns.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system prompt for every row.")] = None,
    api_base: Annotated[str | None, typer.Option("--api-base", help="The endpoint's base URL.")] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="A name that stands for the endpoint.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="The longest answer.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Any other LiteLLM keyword as NAME=VALUE; may be repeated.")
    ] = None,
    rpm: shared.Rpm = None,
    tpm: shared.Tpm = None,
    itpm: shared.Itpm = None,
    otpm: shared.Otpm = None,
    burst: shared.Burst = None,
    window: shared.WindowName = "bucket",
    max_in_flight: shared.MaxInFlight = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many rows.")] = None,
    sample: Annotated[int | None, typer.Option("--sample", help="Only so many rows, spread over the file.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed lines out.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Count rows that failed for good too.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Say how many rows, tokens, dollars and minutes a run of FILE would take. Nothing is sent.

    Give it the options of `bulkllm run`. For an exacter answer run a sample first (--sample 50) and give its results
    file as --output.
    """
    from ..bulk.planning import plan as reckon

    wanted: dict[str, Any] = {
        "api_base": api_base,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "max_in_flight": max_in_flight,
        **shared.keywords(option or []),
    }
    found = reckon(
        file,
        model=model[0] if model and len(model) == 1 else model or None,
        output=output,
        prompt=prompt,
        system=system,
        endpoint=endpoint,
        limit=limit,
        sample=sample,
        skip_bad=skip_bad,
        retry_failed=retry_failed,
        limits=shared.limits(rpm=rpm, tpm=tpm, itpm=itpm, otpm=otpm, burst=burst, window=window),
        **{name: value for name, value in wanted.items() if value is not None},
    )
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict()) + "\n")
    else:
        sys.stdout.write("\n".join(lines_of(found)) + "\n")


def lines_of(plan: Plan) -> list[str]:
    """A plan in a few lines of text."""
    from ..bulk.progress import span

    done = f"; {plan.done:,} are done already" if plan.done else ""
    lines = [f"rows      {plan.total:,}: {plan.to_ask:,} to be asked{done}"]
    if not plan.to_ask:
        return lines
    lines += _amounts(plan.input_tokens, plan.output_tokens, plan.cost)
    assumed = " and ".join(f"{seconds:.1f} s" for seconds in sorted(set(plan.seconds_per_answer.values())))
    under = "under these limits" if plan.limited else "with no limit given"
    lines.append(f"time      {span(plan.seconds)} {under}, if an answer takes {assumed}")
    if len(plan.models) > 1:
        for name, model in plan.models.items():
            amounts = _amounts(model.input_tokens, model.output_tokens, model.cost)
            lines += ["", f"{name}: {model.rows:,} rows", *(f"  {line}" for line in amounts)]
    if not all(model.calibrated for model in plan.models.values()):
        lines.append(
            "A guess from the length of the prompts: run a sample (--sample 50) and plan again with its --output."
        )
    return lines


def _amounts(inputs: Range, outputs: Range, cost: Range | None) -> list[str]:
    return [
        f"tokens    {_told(inputs, ',.0f')} in, {_told(outputs, ',.0f')} out",
        f"cost      {'price unknown' if cost is None else _told(cost, ',.4f', '$')}",
    ]


def _told(value: Range, form: str, unit: str = "") -> str:
    high = "no bound" if value.high is None else f"{unit}{value.high:{form}}"
    return f"{unit}{value.likely:{form}} ({unit}{value.low:{form}} to {high})"
