"""Bulk runs: many rows from a file or an iterable, each answer on disk as it comes, continued by the same call again.

What may live here: request, parts, identity, options, template and variants (what a row is, and whom it is asked of) ·
rawrow, sources, streams, tabular and tables (where rows come from) · intake and changes (which of them are to be
asked) · keytable (what is remembered of a row) · lines, journal, flush and locking (the results file) · waiting,
pools, engine, turns, resting and leftout (which row is next, and when to give one up) · asking, structured, places,
deployments and fallbacks (how a row is asked) · verdict and redact (what a failure means, and shows) · recorder and
spent (what was used) · settings, callers, job, interrupts, collector, runner and mapping (a run, and how it is
started) · result, flat, frames and export (what comes out, and as what) · extras · plans, reckoning, simulate and
planning (what a run would take) · standing and progress.
"""

from __future__ import annotations

from .mapping import amap, map  # noqa: A004 - it is the public name
from .planning import plan
from .plans import BudgetPlan, ModelPlan, Plan, Range, Saving
from .progress import Progress
from .request import BulkRequest
from .result import ResultRow, RowError, RunResult, read_results
from .runner import arun, run, stream

__all__ = [
    "BudgetPlan",
    "BulkRequest",
    "ModelPlan",
    "Plan",
    "Progress",
    "Range",
    "ResultRow",
    "RowError",
    "RunResult",
    "Saving",
    "amap",
    "arun",
    "map",
    "plan",
    "read_results",
    "run",
    "stream",
]
