"""Look-ups in the model registry, beside litellm.get_model_info on the same names.

Run with: python benchmarks/registry.py
"""

from __future__ import annotations

import contextlib
import functools
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from bulkllm import _litellm
from bulkllm.models import Registry

NAMES = 1000
ROUNDS = 5


def best(work: Callable[[], Any]) -> float:
    """Seconds of the quickest of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def line(what: str, seconds: float, count: int) -> None:
    print(f"  {what:<58}{seconds / count * 1e6:>10.2f} µs{count / seconds:>14,.0f} a second")


def started(code: str) -> float:
    """Milliseconds that a fresh Python needs for some code, less what it needs for none."""

    def run(what: str) -> float:
        return best(lambda: subprocess.run([sys.executable, "-c", what], check=True))

    return (run(code) - run("pass")) * 1000


def known_to_both(names: Sequence[str], get_model_info: Callable[[str], Any]) -> list[str]:
    """The names that litellm.get_model_info answers: it raises for a few of its own map."""
    answered = []
    with contextlib.redirect_stdout(io.StringIO()):
        for name in names:
            with contextlib.suppress(Exception):
                get_model_info(name)
                answered.append(name)
    return answered


def main() -> None:
    print("Starting (milliseconds over an empty Python)")
    print(f"  import bulkllm                                            {started('import bulkllm'):>10.1f}")
    print(f"  import bulkllm.models                                     {started('import bulkllm.models'):>10.1f}")
    first = "import bulkllm.models; bulkllm.models.resolve('sonnet')"
    print(f"  ... and the first resolve (reads LiteLLM's map)           {started(first):>10.1f}")
    first = "import bulkllm.models; bulkllm.models.get('gpt-5-mini')"
    print(f"  ... or the first get (imports pydantic too)               {started(first):>10.1f}")

    litellm = _litellm.load()
    directory = tempfile.gettempdir() + "/bulkllm-benchmark-no-files"
    registry = Registry(config_dir=directory, cache_dir=directory)
    every = list(registry.names())
    names = known_to_both(every[:: len(every) // NAMES][:NAMES], litellm.get_model_info)

    start = time.perf_counter()
    for name in every:
        registry.get(name)
    print(f"\nEvery one of {len(every):,} models for the first time")
    line("registry.get", time.perf_counter() - start, len(every))

    print("\nAfter the first time")
    count = 20_000
    line("registry.resolve, an alias", best(lambda: [registry.resolve("sonnet") for _ in range(count)]), count)
    line(
        "registry.resolve, a LiteLLM name", best(lambda: [registry.resolve("gpt-5-mini") for _ in range(count)]), count
    )
    line(
        "registry.called, as a call does it",
        best(lambda: [registry.called("gpt-5-mini", {}) for _ in range(count)]),
        count,
    )
    registry.introduce("gpt-5-mini")
    line("registry.introduce, likewise", best(lambda: [registry.introduce("gpt-5-mini") for _ in range(count)]), count)
    line("registry.get, one name", best(lambda: [registry.get("gpt-5-mini") for _ in range(count)]), count)
    line(
        "litellm.get_model_info, one name",
        best(lambda: [litellm.get_model_info("gpt-5-mini") for _ in range(count)]),
        count,
    )
    line(f"registry.get, {len(names)} names in turn", best(lambda: [registry.get(name) for name in names]), len(names))
    line(f"litellm.get_model_info, {len(names)} names in turn",
         best(lambda: [litellm.get_model_info(name) for name in names]), len(names))  # fmt: skip

    print("\nChoosing")
    for selectors in (("cheap", "current"), ("company:openai", "context>=200k", "price<1")):
        line(f"select{selectors}", best(functools.partial(registry.select, *selectors)), 1)
    line("find('current', 'vision') over all models", best(lambda: registry.find("current", "vision")), 1)


if __name__ == "__main__":
    main()
