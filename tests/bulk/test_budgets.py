"""A run with a budget: used nearly whole, never passed, and continued with a larger one."""

from __future__ import annotations

import asyncio
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from bulkllm import Budget, Cache, Client, ConfigError, Price, RetryPolicy, arun, run, stream
from bulkllm.accounting import Usage, UsageRecord
from bulkllm.bulk import engine
from bulkllm.bulk.asking import calls_of, together
from bulkllm.bulk.journal import Journal
from bulkllm.bulk.keytable import KeyTable
from bulkllm.bulk.spent import spent_in
from bulkllm.bulk.verdict import judge
from bulkllm.cli.exits import exit_code
from bulkllm.testing import FakeProvider, Fault

# LiteLLM's sessions warn when their event loop is gone; none of it is ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`ReadOnly` qualifier:UserWarning", "ignore:Unclosed (connector|client session):ResourceWarning"
)

MODEL = "openai/house-model"
PRICE = Price(input_per_token=0.000_01, output_per_token=0.000_2)


def house(**more: Any) -> Client:
    return Client(prices={"openai/*": PRICE}, retry=RetryPolicy(max_attempts=2, base_delay=0.0), **more)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"row {number}", "prompt": f"question {number}"} for number in range(count)]


def options(server: FakeProvider, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "output": out,
        "api_base": server.openai_base,
        "api_key": "sk",
        "max_tokens": 100,
        "progress": False,
        "endpoint": "house",
        **more,
    }


def charged(server: FakeProvider) -> float:
    """What the provider's bill says."""
    report = server.report()
    return report.input_tokens * PRICE.input_per_token + report.output_tokens * PRICE.output_per_token


async def test_a_dollar_with_200_calls_in_flight_is_used_nearly_whole_and_never_passed(tmp_path: Path) -> None:
    """Each call holds two cents and costs a tenth of one: at most fifty go at once, and the last few one by one."""
    out = tmp_path / "out.jsonl"
    budget = Budget(1.00)
    seen: list[float] = []

    async def watch() -> None:
        for _ in range(100_000):
            seen.append(budget.held.cost + budget.spent.cost)
            await asyncio.sleep(0.002)

    with FakeProvider(reply_tokens=(3, 7), latency=0.01) as server:
        watching = asyncio.create_task(watch())
        result = await arun(rows(2000), budget=budget, client=house(), max_in_flight=200, **options(server, out))
        watching.cancel()
        assert result.stopped is not None
        assert "budget" in result.stopped
        assert budget.spent.cost == pytest.approx(charged(server))
        assert 0.95 <= budget.spent.cost <= 1.00
        assert 0.95 <= max(seen) <= 1.00 + 1e-9
        assert not any(budget.held)
        assert result.failed == 0

        larger = Budget(1.20)
        again = await arun(rows(2000), budget=larger, client=house(), max_in_flight=200, **options(server, out))
        assert again.skipped == result.ok
        assert again.ok > result.ok
        assert 0.95 * 1.20 <= larger.spent.cost <= 1.20
        assert larger.spent.cost == pytest.approx(charged(server))
        assert server.report().repeated_prompts == 0


def test_one_budget_in_two_runs_counts_no_row_twice(tmp_path: Path) -> None:
    budget = Budget(1.00, max_requests=1000)
    with FakeProvider(reply_tokens=(5, 5)) as server:
        for _ in range(3):
            run(rows(20), budget=budget, client=house(), **options(server, tmp_path / "out.jsonl"))
        run(rows(20), budget=budget, client=house(), **options(server, tmp_path / "other.jsonl"))
        assert budget.spent.cost == pytest.approx(charged(server))
    assert budget.spent.requests == 40


def test_what_the_file_has_cost_is_counted_before_the_first_call(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FakeProvider(reply_tokens=(5, 5)) as server:
        run(rows(20), client=house(), **options(server, out))
        spent = charged(server)
        result = run(rows(30), budget=Budget(spent + 0.001), client=house(), **options(server, out))
        assert result.stopped is not None
        assert (result.ok, server.report().requests) == (20, 20)
        tokens = server.report().input_tokens + server.report().output_tokens
        result = run(rows(30), budget=Budget(max_tokens=tokens + 50), client=house(), **options(server, out))
        assert (result.ok, server.report().requests) == (20, 20)
        result = run(rows(30), budget=Budget(max_requests=22), client=house(), **options(server, out))
        assert (result.ok, server.report().requests) == (22, 22)


def test_what_superseded_lines_had_cost_outlives_them(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FakeProvider(reply_tokens=(5, 5)) as server:
        for temperature in (0.1, 0.2, 0.3):
            run(rows(10), client=house(), redo_changed=True, **options(server, out, temperature=temperature))
        assert server.report().requests == 30
        assert len(out.read_text().splitlines()) == 10
        journal = Journal(out, KeyTable())
        assert spent_in(journal) == pytest.approx((charged(server), _tokens(server), 30))
        journal.finish()
    about = json.loads(out.read_text().splitlines()[0])["bulkllm"]
    assert about["before"]["requests"] == 2


def test_a_line_that_another_supersedes_counts_once(tmp_path: Path) -> None:
    """As a crash leaves it: both lines stand in the file."""
    out = tmp_path / "out.jsonl"
    with FakeProvider(reply_tokens=(5, 5)) as server:
        run(rows(30), client=house(), **options(server, out))
        old = out.read_bytes().splitlines(keepends=True)[0]
        once = charged(server)
        out.write_bytes(old + out.read_bytes())
    journal = Journal(out, KeyTable())
    assert journal.lines == 31
    assert spent_in(journal).cost == pytest.approx(once)
    journal.finish()


def _tokens(server: FakeProvider) -> int:
    report = server.report()
    return report.input_tokens + report.output_tokens


def test_what_a_lost_attempt_may_have_cost_is_counted_in_the_next_run_too(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FakeProvider(faults=[Fault("reset", first=2)]) as server:
        first = Budget(1.00)
        result = run(rows(1), budget=first, client=house(), **options(server, out))
        assert result.failed == 1
        assert first.spent.cost == pytest.approx(0.04, rel=0.1)
        second = Budget(1.00)
        result = run(rows(1), budget=second, client=house(), **options(server, out))
        assert result.ok == 1
        assert second.spent.cost == pytest.approx(first.spent.cost + charged(server))
        third = Budget(1.00)
        run(rows(1), budget=third, client=house(), **options(server, out))
        assert third.spent.cost == pytest.approx(second.spent.cost)


async def test_so_is_what_requests_may_cost_that_were_given_up(tmp_path: Path) -> None:
    """Whoever leaves the loop, or interrupts twice, leaves requests behind that the provider goes on with."""
    out = tmp_path / "out.jsonl"
    with FakeProvider(faults=[Fault("hang", first=3)]) as server:
        first = Budget(1.00)
        finished = stream(rows(4), budget=first, client=house(), **options(server, out))
        async for row in finished:
            assert row.ok
            break
        await finished.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert first.spent.cost == pytest.approx(3 * 0.02 + charged(server), rel=0.1)
        assert sorted(json.loads(line)["bulkllm"]["done"] for line in out.read_text().splitlines()) == [False] * 3 + [
            True
        ]
        before = charged(server)
        second = Budget(1.00)
        result = await arun(rows(4), budget=second, client=house(), **options(server, out))
        assert (result.ok, result.skipped) == (4, 1)
        assert second.spent.cost == pytest.approx(first.spent.cost + charged(server) - before)


async def test_an_answer_is_not_lost_for_a_changed_request_that_was_given_up(tmp_path: Path) -> None:
    """Somebody changes something by mistake, sees it, and ends the run: the answers are those of before."""
    out = tmp_path / "out.jsonl"
    with FakeProvider() as server:
        await arun(rows(3), client=house(), **options(server, out))
        before = out.read_bytes()
    with FakeProvider(faults=[Fault("hang", first=2)]) as server:
        changed = stream(rows(3), client=house(), temperature=1, redo_changed=True, **options(server, out))
        async for row in changed:
            assert row.ok
            break
        await changed.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert server.report().faults["hang"] == 2
    kept = [line for line in before.splitlines() if line in out.read_bytes().splitlines()]
    assert len(kept) == 2


def test_columns_that_look_like_ours_do_not_confuse_it(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    strange = [{"prompt": "question", "bulkllm": {"cost": 99, "key": "x"}, "note": '"bulkllm":{"cost":99}'}]
    with FakeProvider(reply_tokens=(5, 5)) as server:
        run(strange, client=house(), **options(server, out))
        budget = Budget(1.00)
        run(strange, budget=budget, client=house(), **options(server, out))
        assert budget.spent.cost == pytest.approx(charged(server))


def sizes(*bounds: int) -> list[dict[str, Any]]:
    return [
        {"custom_id": f"{number}", "prompt": f"q{number}", "max_tokens": most} for number, most in enumerate(bounds)
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_row_too_large_for_what_is_left_is_left_undone_and_smaller_ones_go_on(tmp_path: Path, streamed: bool) -> None:
    out = tmp_path / "out.jsonl"
    rows = sizes(5, 5000, 5, 5000, 5, 5)
    with FakeProvider(reply_tokens=(5, 5)) as server:
        given = options(server, out)
        budget = Budget(0.5)
        result = run(iter(rows) if streamed else rows, budget=budget, client=house(), max_in_flight=1, **given)
        assert (result.ok, result.failed, result.undone) == (4, 0, 2)
        assert result.stopped is not None
        assert "2 rows were left undone, too large for what is left" in result.stopped
        assert "the call may take $1.0" in result.stopped
        assert "raise the budget, then run the same again" in result.stopped
        assert exit_code(result) == 3
        assert [row.custom_id for row in result] == ["0", "2", "4", "5"]
        again = run(rows, budget=Budget(5.0), client=house(), **given)
        assert (again.ok, again.skipped, again.stopped) == (6, 4, None)
        assert server.report().repeated_prompts == 0


def test_not_all_rows_are_tried_when_a_hundred_in_a_row_were_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    def counted(error: BaseException) -> Any:
        nonlocal tried
        tried += 1
        return judge(error)

    monkeypatch.setattr(engine, "judge", counted)
    rows = sizes(*[5] * 10, *[5000] * 99, 5, *[5000] * 2000)
    with FakeProvider(reply_tokens=(5, 5)) as server:
        result = run(
            rows, budget=Budget(0.5), client=house(), max_in_flight=1, **options(server, tmp_path / "out.jsonl")
        )
        assert server.report().requests == 11
    assert (result.ok, result.undone, tried) == (11, 2099, 199)
    assert result.stopped is not None
    assert "199 rows were left undone" in result.stopped


def test_a_dear_model_does_not_keep_a_cheap_one_from_what_is_left(tmp_path: Path) -> None:
    prices = {
        "openai/dear": Price(input_per_token=0.0, output_per_token=1.0),
        "openai/cheap": Price(input_per_token=0.0, output_per_token=0.000_1),
    }
    with FakeProvider(reply_tokens=(5, 5)) as server:
        result = run(
            [f"question {number}" for number in range(300)], budget=Budget(10.0), client=Client(prices=prices),
            **options(server, tmp_path / "out.jsonl", model=["openai/dear", "openai/cheap"]),
        )  # fmt: skip
        asked = server.report().models
    assert (result.ok, result.undone) == (300, 300)
    assert list(asked) == ["cheap"]
    assert exit_code(result) == 3


def test_a_row_that_is_too_dear_goes_to_no_fallback(tmp_path: Path) -> None:
    with FakeProvider() as server:
        given = options(server, tmp_path / "out.jsonl", max_tokens=5000)
        result = run(rows(3), budget=Budget(0.5), client=house(), fallbacks=["xai/cheap"], **given)
        assert server.report().requests == 0
    assert result.undone == 3


def test_what_was_paid_before_the_budget_was_used_up_is_written_down(tmp_path: Path) -> None:
    """An answer that does not fit is paid, and there is no room to ask again."""
    out = tmp_path / "out.jsonl"

    def never(_: str) -> bool:
        return False

    with FakeProvider(reply_tokens=(5, 5)) as server:
        given = options(server, out)
        result = run(rows(1), budget=Budget(max_requests=1), client=house(), validate=never, **given)
        assert (result.failed, result.undone) == (1, 0)
        (row,) = result
        assert row.error is not None
        assert row.error.code == "BudgetExceeded"
        assert row.record is not None
        assert row.record.cost == pytest.approx(charged(server))
        budget = Budget(1.00)
        again = run(rows(1), budget=budget, client=house(), **given)
        assert (again.ok, again.skipped) == (1, 0)
        assert budget.spent.cost == pytest.approx(charged(server))


def test_each_ask_for_a_row_counts_when_the_run_goes_on(tmp_path: Path) -> None:
    """An answer that will not do is asked for once more; the budget of a rerun knows of both."""
    out = tmp_path / "out.jsonl"
    verdicts = cycle([False, True])

    with FakeProvider(reply_tokens=(5, 5)) as server:
        given = options(server, out)
        spent = Budget(max_requests=1000)
        first = run(rows(3), budget=spent, client=house(), validate=lambda _: next(verdicts), max_in_flight=1, **given)
        assert (first.ok, server.report().requests, spent.spent.requests) == (3, 6, 6)
        again = Budget(max_requests=1000)
        run(rows(3), budget=again, client=house(), **given)
        assert server.report().requests == 6
        assert again.spent.requests == 6
        last = run(rows(4), budget=Budget(max_requests=6), client=house(), **given)
        assert (last.undone, server.report().requests) == (1, 6)
        about = json.loads(out.read_text().splitlines()[0])["bulkllm"]
        assert about["calls"] == 2


def test_so_does_what_a_row_asked_of_another_model_first(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FakeProvider(reply_tokens=(5, 5), faults=[Fault("status", status=500, model="a")]) as server:
        given = options(server, out) | {"model": "openai/a", "fallbacks": [MODEL]}
        spent = Budget(max_requests=1000)
        first = run(rows(2), budget=spent, client=house(), **given)
        assert (first.ok, spent.spent.requests) == (2, 4)
        again = Budget(max_requests=1000)
        run(rows(2), budget=again, client=house(), **given)
        assert again.spent.requests == 4
    (row, _) = first
    assert row.record is not None
    assert row.record.attempts == 3


def test_the_sum_of_a_rows_asks_leaves_out_none() -> None:
    asks = [
        UsageRecord(model="openai/a", attempts=3, refused=2, uncertain_tokens=5, uncertain_cost=0.5, outcome="Timeout"),
        UsageRecord(model="openai/b", attempts=1, refused=1, usage=Usage(input_tokens=7, output_tokens=2), cost=0.25),
    ]
    known = together([None, *asks, UsageRecord(model="openai/b", attempts=0, cached=True, cost=0.0)])
    assert known is not None
    assert (known.attempts, known.refused, known.uncertain_tokens, known.uncertain_cost) == (4, 3, 5, 0.5)
    assert (known.cost, known.total_tokens, calls_of(known), known.cached) == (0.25, 9, 2, False)


def test_calls_of_ones_own_cannot_be_held_to_a_budget(tmp_path: Path) -> None:
    async def call(_: Any) -> Any:
        raise AssertionError("not asked")

    with pytest.raises(ConfigError, match="call, budget exclude each other"):
        run(["x"], model=MODEL, call=call, budget=Budget(1), progress=False)


def test_the_tokens_of_lost_attempts_are_counted_in_the_next_run_too(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FakeProvider(faults=[Fault("reset")]) as server:
        first = Budget(max_tokens=2000)
        assert run(rows(2), budget=first, client=house(), **options(server, out)).failed == 2
        assert first.spent.tokens > 400  # four attempts of a hundred tokens and a prompt each
        assert first.carried(str(out.resolve())).tokens == pytest.approx(first.spent.tokens, abs=4)
        second = Budget(max_tokens=first.spent.tokens + 50)
        result = run(rows(2), budget=second, client=house(), **options(server, out))
        assert (result.undone, server.report().requests) == (2, 4)
        assert second.spent.tokens == pytest.approx(first.spent.tokens, abs=4)


def test_of_a_row_that_the_cache_answered_first_only_what_was_asked_counts(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    client = house(cache=Cache(memory=True))
    verdicts = iter([False, True])

    with FakeProvider(reply_tokens=(5, 5)) as server:
        given = options(server, out)
        run(rows(1), client=client, **(given | {"output": None}))
        before = _tokens(server)
        first = Budget(max_tokens=10_000)
        result = run(rows(1), budget=first, client=client, validate=lambda _: next(verdicts), **given)
        assert (result.ok, server.report().requests) == (1, 2)
        paid = _tokens(server) - before
        assert (first.spent.tokens, first.carried(str(out.resolve())).tokens) == (paid, paid)
        second = Budget(max_tokens=10_000)
        run(rows(1), budget=second, client=client, **given)
        assert second.spent == first.spent
    about = json.loads(out.read_text())["bulkllm"]
    assert (about["tokens"], about["cached"]) == (paid, False)
    (row,) = result
    assert row.record is not None
    assert row.record.total_tokens == before + paid


def test_what_the_cache_answers_is_no_use_of_a_budget_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    client = house(cache=Cache(memory=True))
    with FakeProvider(reply_tokens=(5, 5)) as server:
        given = options(server, out)
        run(rows(3), client=client, **(given | {"output": None}))
        budget = Budget(max_tokens=10_000)
        assert run(rows(3), budget=budget, client=client, **given).usage.total.cached == 3
        assert budget.carried(str(out.resolve())).tokens == budget.spent.tokens == 0
