"""How a run's result is printed: for people as a few lines of text, for machines as one JSON object."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..accounting import Totals
    from ..bulk import RunResult


def show_result(result: RunResult, *, as_json: bool, more: dict[str, Any] | None = None) -> None:
    """Print how a run ended, on standard output."""
    if as_json:
        sys.stdout.write(json.dumps({**as_object(result), **(more or {})}) + "\n")
        return
    lines = lines_of(result)
    by_model = result.usage.by_model
    if len(by_model) > 1:
        for name, totals in sorted(by_model.items()):
            lines += ["", name, *(f"  {line}" for line in usage_lines(totals))]
    sys.stdout.write("\n".join(lines) + "\n")
    if result.stopped is not None:
        print(f"stopped: {result.stopped}", file=sys.stderr)


def as_object(result: RunResult) -> dict[str, Any]:
    """The result as a JSON object."""
    return {
        "total": result.total,
        "ok": result.ok,
        "failed": result.failed,
        "undone": result.undone,
        "skipped": result.skipped,
        "stopped": result.stopped,
        "interrupted": result.interrupted,
        "output": None if result.output is None else str(result.output),
        "spent_before": result.spent_before,
        "usage": result.usage.to_dict(),
    }


def lines_of(result: RunResult) -> list[str]:
    """The result in a few lines of text."""
    rows = f"rows      {result.total:,}: {result.ok:,} ok, {result.failed:,} failed, {result.undone:,} not done"
    if result.skipped:
        rows += f"; {result.skipped:,} were done in earlier runs and not asked again"
    lines = [rows]
    if result.usage.total.requests:
        lines += usage_lines(result.usage.total)
    if result.spent_before:
        lines.append(f"earlier   ${result.spent_before:,.4f} was spent in earlier runs")
    lines.append(f"results   {result.output}")
    return lines


def usage_lines(totals: Totals) -> list[str]:
    """What calls used and how long they took."""
    latency = totals.latency
    unpriced = f", and {totals.unpriced:,} calls of unknown price" if totals.unpriced else ""
    lines = [
        f"tokens    {totals.input_tokens:,} in, {totals.output_tokens:,} out",
        f"cost      ${totals.cost:,.4f}{unpriced}",
    ]
    if latency.count:
        lines.append(f"latency   p50 {latency.p50:.2f} s, p95 {latency.p95:.2f} s, p99 {latency.p99:.2f} s")
    lines.append(f"limits    a call waited {totals.waited / totals.requests:.1f} s for them on average")
    if totals.waits:
        lines += [f"time      {sentence}" for sentence in totals.advice[:1]]
    retries = totals.attempts - latency.count
    if retries > 0:
        refused = f", {totals.refused:,} of all attempts refused for a limit" if totals.refused else ""
        lines.append(f"retries   {retries:,}{refused}")
    if totals.charge_unknown:
        lines.append(
            f"uncertain attempts of {totals.charge_unknown:,} calls were given up: up to"
            f" ${totals.uncertain_cost:,.4f} more may be charged"
        )
    return lines
