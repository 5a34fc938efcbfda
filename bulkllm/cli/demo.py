"""``bulkllm demo``: a bulk run from beginning to end, with real text and real HTTP, and without a key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from . import options as shared

if TYPE_CHECKING:
    from ..testing import ProviderReport

# A model whose price LiteLLM knows, so that the demo shows what the same would cost for real.
MODEL: Final = "openai/gpt-4.1-mini"

# Both the fake provider and the client hold these: some eighty requests, of which the first sixteen may start at once.
RPM: Final = 480
TPM: Final = 1_000_000
BURST: Final = 16

# A declared name: the fake provider's port changes from start to start, and is not to make every row a new request.
ENDPOINT: Final = "bulkllm-demo"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The results file.")] = Path("bulkllm-demo.jsonl"),
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many documents.")] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="The address of a fake provider that runs already, without /v1.")
    ] = None,
    no_progress: shared.NoProgress = False,
    as_json: shared.AsJson = False,
) -> None:
    """Summarise the text of Python's own help topics with a fake provider on this machine. Costs nothing.

    The fake provider keeps limits and has a few faults; every request goes through LiteLLM over HTTP, limited, retried
    and counted. Start it twice: nothing is asked again. Interrupt or kill it, and start it again: it continues.
    """
    import bulkllm

    from ..testing import FakeProvider, Fault
    from .exits import exit_code
    from .show import show_result

    faults = [
        Fault("status", status=429, retry_after="0.5", rate=0.04),
        Fault("status", status=500, rate=0.04),
        Fault("reset", rate=0.02),
    ]
    provider = FakeProvider(rpm=RPM, tpm=TPM, latency=(0.2, 0.8), faults=faults, reply_tokens=(40, 120))
    client = bulkllm.Client(
        [bulkllm.RateLimit("openai/*", rpm=RPM, tpm=TPM, burst=BURST)],
        retry=bulkllm.RetryPolicy(base_delay=0.2),
    )
    with nullcontext() if server is not None else provider:
        result = client.run(
            documents(),
            model=MODEL,
            output=output,
            endpoint=ENDPOINT,
            limit=limit,
            progress=not no_progress,
            api_base=f"{server or provider.url}/v1",
            api_key="sk-demo",
            max_tokens=150,
        )
        seen = None if server is not None else provider.report()
    show_result(result, as_json=as_json, more=None if seen is None else {"provider": seen.to_dict()})
    if seen is not None and not as_json:
        sys.stdout.write(told(seen) + "\n")
    raise typer.Exit(exit_code(result))


def documents() -> Iterator[dict[str, Any]]:
    """A request for a summary of each of Python's help topics."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield {
            "custom_id": name,
            "prompt": f"Summarise this page of Python's documentation in two sentences.\n\n{text}",
        }


def told(seen: ProviderReport) -> str:
    """The other side of the run."""
    errors = [f"{count} x {status}" for status, count in sorted(seen.statuses.items()) if status != HTTPStatus.OK]
    faults = ", ".join([*errors, f"{seen.faults.get('reset', 0)} x connection reset"])
    return (
        f"provider  {seen.requests:,} requests, up to {seen.peak_in_flight} at once, {seen.refused:,} over its limits;"
        f" faults on purpose: {faults}"
    )
