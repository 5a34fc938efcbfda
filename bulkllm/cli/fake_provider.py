"""``bulkllm fake-provider``: the fake provider, to try a program against without a key."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer


def fake_provider(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8765,
    rpm: Annotated[int | None, typer.Option("--rpm", help="Requests a minute that it enforces.")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", help="Tokens a minute that it enforces.")] = None,
    itpm: Annotated[int | None, typer.Option("--itpm", help="Input tokens a minute.")] = None,
    otpm: Annotated[int | None, typer.Option("--otpm", help="Output tokens a minute.")] = None,
    max_in_flight: Annotated[int | None, typer.Option("--max-in-flight", help="Requests at once.")] = None,
    burst: Annotated[int | None, typer.Option("--burst", help="Requests that it lets start at once.")] = None,
    window: Annotated[str, typer.Option("--window", help="How it counts: bucket or sliding.")] = "bucket",
    latency: Annotated[float, typer.Option("--latency", help="Seconds before each reply.")] = 0.0,
    time_per_token: Annotated[float, typer.Option("--time-per-token", help="Seconds for each token of a reply.")] = 0.0,
    headers: Annotated[str, typer.Option("--headers", help="auto, openai, anthropic, azure, groq, or none.")] = "auto",
    errors: Annotated[
        float, typer.Option("--errors", help="The share of requests that fail with a 500, 0 to 1.")
    ] = 0.0,
    resets: Annotated[float, typer.Option("--resets", help="The share of connections that are reset.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same answers and faults.")] = 0,
) -> None:
    """Serve the interfaces of OpenAI, Anthropic, Gemini and Cohere on 127.0.0.1, with limits and faults, until Ctrl-C.

    Use it with model openai/anything and --api-base http://127.0.0.1:PORT/v1, or model anthropic/anything and
    --api-base http://127.0.0.1:PORT, and any key. What it saw: GET /__report__.
    """
    from ..testing import FakeProvider, Fault

    faults = [Fault("status", status=500, rate=errors)] if errors else []
    if resets:
        faults.append(Fault("reset", rate=resets))
    server = FakeProvider(
        rpm=rpm,
        tpm=tpm,
        itpm=itpm,
        otpm=otpm,
        max_in_flight=max_in_flight,
        burst=burst,
        window=window,  # type: ignore[arg-type]  # FakeProvider checks it, with a message for the user
        latency=latency,
        time_per_token=time_per_token,
        headers=None if headers == "none" else headers,  # type: ignore[arg-type]  # likewise
        faults=faults,
        seed=seed,
        port=port,
    )
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends, however early
        server.start()
        print(
            f"openai/...     --api-base {server.openai_base}\n"
            f"anthropic/...  --api-base {server.anthropic_base}\n"
            f"report         {server.url}/__report__",
            file=sys.stderr,
            flush=True,
        )
        server.serve_forever()
