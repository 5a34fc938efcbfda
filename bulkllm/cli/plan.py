"""``bulkllm plan``: what a run would take, before a cent is spent."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from . import options as shared


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
    timeout: Annotated[float | None, typer.Option("--timeout", hidden=True)] = None,  # these change nothing here
    num_retries: Annotated[int | None, typer.Option("--num-retries", hidden=True)] = None,
    fallback: Annotated[list[str] | None, typer.Option("--fallback", hidden=True)] = None,
    redo_changed: Annotated[bool, typer.Option("--redo-changed", hidden=True)] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", hidden=True)] = False,
    wait_for_quota: Annotated[  # noqa: ARG001
        bool | None, typer.Option("--wait-for-quota/--no-wait-for-quota", hidden=True)
    ] = None,
    store: Annotated[str | None, typer.Option("--store", hidden=True)] = None,  # noqa: ARG001
    rpm: shared.Rpm = None,
    tpm: shared.Tpm = None,
    itpm: shared.Itpm = None,
    otpm: shared.Otpm = None,
    burst: shared.Burst = None,
    window: shared.WindowName = None,
    limits: shared.LimitsFile = None,
    deployments: shared.DeploymentsFile = None,
    max_in_flight: shared.MaxInFlight = None,
    budget: shared.BudgetOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many rows.")] = None,
    sample: Annotated[int | None, typer.Option("--sample", help="Only so many rows, spread over the file.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed lines out.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Count rows that failed for good too.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Say how many rows, tokens, dollars and minutes a run of FILE would take, and what it saves. Nothing is sent.

    Give it the options of `bulkllm run`. For an exacter answer run a sample first (--sample 50) and give its results
    file as --output.
    """
    import bulkllm

    from ..bulk.onlooker import usual_cache
    from ..bulk.places import load_deployments

    wanted: dict[str, Any] = {
        "api_base": api_base,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "timeout": timeout,
        "num_retries": num_retries,
        "max_in_flight": max_in_flight,
        **shared.keywords(option or []),
    }
    client = bulkllm.Client(
        shared.limits(rpm=rpm, tpm=tpm, itpm=itpm, otpm=otpm, burst=burst, window=window, file=limits),
        store=False,
        cache=usual_cache(),
    )
    found = client.plan(
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
        redo_changed=redo_changed,
        fallbacks=fallback or [],
        progress=not no_progress,
        deployments=None if deployments is None else load_deployments(deployments),
        budget=None if budget is None else bulkllm.Budget(budget),
        **{name: value for name, value in wanted.items() if value is not None},
    )
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict()) + "\n")
    else:
        sys.stdout.write(f"{found}\n")
