"""``bulkllm run``: ask for every row of a file, and continue where an earlier run ended."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options as shared


def run(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="JSONL (Batch API shape, or prompt/messages), CSV, TSV, Parquet; - is stdin."
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A LiteLLM name such as openai/gpt-5-mini, or a preset; a row's own goes before. Given several times, "
            "every row is asked of each.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The results file; an existing one is continued.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="A template over the columns: 'Translate to {{lang}}: {{text}}'.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system prompt for every row.")] = None,
    api_base: Annotated[
        str | None, typer.Option("--api-base", help="The endpoint's base URL, for an endpoint of your own.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            help="A name that stands for the endpoint when its URL changes: a new URL then repeats nothing.",
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="The longest answer.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Any other LiteLLM keyword as NAME=VALUE; may be repeated.")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds for one attempt, wall clock.")] = None,
    num_retries: Annotated[int | None, typer.Option("--num-retries", help="Attempts after the first.")] = None,
    rpm: shared.Rpm = None,
    tpm: shared.Tpm = None,
    itpm: shared.Itpm = None,
    otpm: shared.Otpm = None,
    max_in_flight: shared.MaxInFlight = None,
    burst: shared.Burst = None,
    window: shared.WindowName = None,
    limits: shared.LimitsFile = None,
    store: shared.SharedStore = None,
    deployments: shared.DeploymentsFile = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many rows.")] = None,
    budget: shared.BudgetOption = None,
    sample: Annotated[
        int | None, typer.Option("--sample", help="Only so many rows, spread over the file: a cheap look first.")
    ] = None,
    wait_for_quota: Annotated[
        bool | None,
        typer.Option(
            "--wait-for-quota/--no-wait-for-quota",
            help="When a model's quota of the day is spent: wait for the next, or stop that model.",
            show_default=False,
        ),
    ] = None,
    fallback: Annotated[
        list[str] | None, typer.Option("--fallback", help="Ask this model for a row that fails; may be repeated.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="A malformed line is a failed row, not the end.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again for every row that failed.")] = False,
    redo_changed: Annotated[
        bool, typer.Option("--redo-changed", help="Ask again for finished rows whose request changed.")
    ] = False,
    no_progress: shared.NoProgress = False,
    as_json: shared.AsJson = False,
) -> None:
    """Ask for every row of FILE and write each answer to the results file as it comes.

    The same command again continues: finished rows are not asked for again. Keys come from the environment, as LiteLLM
    reads them (OPENAI_API_KEY and so on).

    Exit codes: 0 all rows have an answer, 1 some rows failed, 2 bad usage, 3 stopped with rows left undone (the message
    says why, and the cure), 130 interrupted.
    """
    import bulkllm

    from ..bulk.places import load_deployments
    from .exits import exit_code, printed
    from .show import show_result

    if output is None:
        raise typer.BadParameter("where do the answers go? Give a results file.", param_hint="--output")
    wanted: dict[str, Any] = {
        "api_base": api_base,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "timeout": timeout,
        "num_retries": num_retries,
        "prompt": prompt,
        "system": system,
        "max_in_flight": max_in_flight,
        **shared.keywords(option or []),
    }
    held = shared.limits(rpm=rpm, tpm=tpm, itpm=itpm, otpm=otpm, burst=burst, window=window, file=limits)
    client = bulkllm.Client(held, store=shared.shared_through(store, held), wait_for_quota=wait_for_quota)
    result = client.run(
        file,
        model=model[0] if model and len(model) == 1 else model or None,
        output=output,
        endpoint=endpoint,
        limit=limit,
        sample=sample,
        fallbacks=fallback or [],
        deployments=None if deployments is None else load_deployments(deployments),
        skip_bad=skip_bad,
        retry_failed=retry_failed,
        redo_changed=redo_changed,
        progress=not no_progress,
        budget=None if budget is None else bulkllm.Budget(budget),
        **{name: value for name, value in wanted.items() if value is not None},
    )
    printed(lambda: show_result(result, as_json=as_json), f"the answers are in {output}")
    raise typer.Exit(exit_code(result))
