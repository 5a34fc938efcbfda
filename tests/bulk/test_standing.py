from __future__ import annotations

import io
import sys
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm.bulk import Progress, run
from bulkllm.bulk.pools import Pool
from bulkllm.bulk.progress import Notebook, PlainLines, display_for
from bulkllm.bulk.standing import standing, tokens_together
from bulkllm.limits import LimitStatus, PoolStatus, RateLimit
from bulkllm.limits.status import QuotaStatus
from bulkllm.testing import FakeProvider


def test_progress_tells_each_model_and_what_it_waits_for() -> None:
    told: list[Progress] = []
    rows = [{"prompt": f"p{number}", "model": f"openai/{name}"} for number in range(6) for name in ("fast", "slow")]
    limits = [RateLimit("openai/slow", rpm=120, burst=2, tpm=50_000), RateLimit("openai/fast", tpm=90_000)]
    with FakeProvider() as server:
        result = run(rows, limits=limits, api_base=server.openai_base, api_key="sk-x", progress=told.append)
    waits = {name: set(totals.waits) - {"program"} for name, totals in result.usage.by_model.items()}
    assert waits == {"openai/fast": set(), "openai/slow": {"rpm of openai/slow"}}
    (fast,) = [name for name in told[-1].models if "fast" in name]
    (slow,) = [name for name in told[-1].models if "slow" in name]
    during = [progress for progress in told[:-1] if progress.models[slow].waits_for]
    assert during[0].waits_for == during[0].models[slow].waits_for == "rpm of openai/slow"
    assert "waits for rpm of openai/slow" in str(during[0])
    end = told[-1]
    assert end.waits_for is None
    assert [(end.models[name].ok, end.models[name].in_flight, end.models[name].left) for name in (fast, slow)] == [
        (6, 0, 0), (6, 0, 0),
    ]  # fmt: skip
    assert end.models[fast].tokens + end.models[slow].tokens == end.tokens
    assert end.tokens_limit == 140_000
    assert " of 140k tokens/min" in str(end)
    text = io.StringIO()
    PlainLines(text).end(end)
    assert f"  {fast}: 6 done, 0 in flight, 0 left" in text.getvalue()


def test_a_limit_that_models_share_counts_once() -> None:
    told: list[Progress] = []
    with FakeProvider() as server:
        run(
            ["a"],
            model=["openai/one", "openai/two"],
            limits=[RateLimit("openai/*", tpm=200_000)],
            api_base=server.openai_base,
            api_key="sk-x",
            progress=told.append,
        )
    assert [model.tokens_limit for model in told[-1].models.values()] == [200_000, 200_000]
    assert told[-1].tokens_limit == 200_000


def limits(*pools: PoolStatus) -> LimitStatus:
    return LimitStatus("openai/m", pools, 0, 0)


def limit_of(name: str, tpm: float, *, account: str = "", endpoint: str = "") -> PoolStatus:
    configured = None if account else RateLimit("*", tpm=1)
    quotas = {"tpm": QuotaStatus(tpm, tpm, 60.0)}
    return PoolStatus(name, configured, None, quotas, 0, None, 0, endpoint=endpoint, account=account)


@pytest.mark.parametrize(
    ("of_all", "of_m", "of_n", "together"),
    [
        (500, 300, None, 500),
        (500, 300, 100, 400),
        (None, 300, 100, 400),
        (None, 300, None, None),
        (None, None, None, None),
    ],
)
def test_limits_within_a_limit(of_all: float | None, of_m: float | None, of_n: float | None, together: float) -> None:
    def status_of(model: str) -> LimitStatus:
        own = of_m if model == "m" else of_n
        both = [("*", of_all), (model, own)]
        return limits(*(limit_of(name, tpm) for name, tpm in both if tpm is not None))

    models = standing([Pool((name, None, None), deque()) for name in "mn"], status_of)
    assert tokens_together(models) == together


def test_a_model_at_several_endpoints_has_the_limits_of_each() -> None:
    """What was learned of an endpoint holds there; what was configured holds for all of them together."""
    learned = [
        limit_of("m", 100, account="a", endpoint="https://a.test/v1/"),
        limit_of("m", 50, account="b", endpoint="https://b.test/v1"),
        limit_of("m", 7, account="c"),
    ]
    pools = [Pool(("m", f"https://{name}.test/v1", None), deque()) for name in "ab"]
    models = standing(pools, lambda model: limits(*learned))
    assert [model.tokens_limit for model in models.values()] == [100, 50]
    assert tokens_together(models) == 150
    models = standing(pools, lambda model: limits(*learned, limit_of("*", 120)))
    assert tokens_together(models) == 120
    models = standing(pools, lambda model: limits(limit_of("*", 120)))
    assert tokens_together(models) == 120
    own = standing([Pool(("m", None, None), deque())], lambda model: limits(*learned))
    assert tokens_together(own) == 7
    declared = standing([Pool(("m", "fake", None), deque())], lambda model: limits(*learned))
    assert tokens_together(declared) == 157


def test_a_model_that_its_provider_has_closed_says_until_when() -> None:
    until = datetime(2026, 12, 1, 8, 30, tzinfo=UTC)
    closed = PoolStatus("openai/m", None, None, {}, 0, None, 5, closed_for=90.0, closed_until=until)
    status = LimitStatus("openai/m", (closed,), 5, 0, waiting_for={"rpm of openai/*": 1, "closed of openai/m": 4})
    pool = Pool(("openai/m", None, None), deque())
    (told,) = standing([pool], lambda model: status).values()
    assert told.waits_for == "openai/m, closed by its provider until 2026-12-01 08:30:00 UTC"
    spent = LimitStatus(
        "openai/m", (replace(closed, closed_because="requests per day"),), 5, 0, waiting_for={"rpd of openai/m": 5}
    )
    (told,) = standing([pool], lambda model: spent).values()
    assert told.waits_for == "openai/m, closed by its provider until 2026-12-01 08:30:00 UTC (requests per day)"


def test_a_stopped_model_says_so(calls: Any, error: Any) -> None:
    calls.errors = {f"p{number}": error("AuthenticationError", 401) for number in range(50)}
    told: list[Progress] = []
    run([f"p{number}" for number in range(50)], call=calls, model="m", max_in_flight=1, progress=told.append)
    assert told[-1].models["m"].waits_for == "nothing any more: it was stopped"
    assert told[-1].models["m"].failed == 10


def test_a_notebook_has_one_line_that_is_written_anew(calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        return SimpleNamespace(update=lambda data, *, raw: shown.append(data["text/plain"]))

    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    assert isinstance(display_for(True, io.StringIO()), Notebook)
    run(["a", "b"], call=calls, model=["m", "n"], progress=True)
    assert shown[-1].startswith("bulkllm: 4/4 rows (100 %), none failed")
    assert "  m: 2 done, 0 in flight, 0 left" in shown[-1]
