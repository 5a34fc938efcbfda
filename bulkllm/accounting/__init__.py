"""What calls used and cost, counted.

What may live here: usage and record (values), response (how a response is read), cost, sketch (quantiles), totals
(sums), tracker (who counts what), sinks (each record, kept), budget and hold (what may be spent), report, histogram and
page (for people to read). Nothing in here makes a call or waits for anything;
LiteLLM is asked for prices only, and late.
"""

from __future__ import annotations

from .budget import Budget, active_budgets, in_order
from .cost import Price, cost_of
from .hold import Amount, Hold
from .record import UsageRecord, public_endpoint
from .sinks import JSONLSink, Sink, SQLiteSink, read_records
from .sketch import Quantiles
from .totals import Totals
from .tracker import UsageTracker, active_trackers, publish
from .usage import Usage

__all__ = [
    "Amount",
    "Budget",
    "Hold",
    "JSONLSink",
    "Price",
    "Quantiles",
    "SQLiteSink",
    "Sink",
    "Totals",
    "Usage",
    "UsageRecord",
    "UsageTracker",
    "active_budgets",
    "active_trackers",
    "cost_of",
    "in_order",
    "public_endpoint",
    "publish",
    "read_records",
]
