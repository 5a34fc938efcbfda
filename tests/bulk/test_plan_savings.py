"""What a plan says of what need not be paid again, and of how far a budget goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkllm import Budget, Cache, Client, Price, RateLimit
from bulkllm.bulk import plan, run
from bulkllm.bulk.plans import Range
from bulkllm.errors import ConfigError
from bulkllm.testing import FakeProvider

PRICE = Price(input_per_token=0.000_01, output_per_token=0.000_2)
PROMPTS = [f"Tell me all that you know of the number {number}, please." for number in range(100)]


def house(**more: Any) -> Client:
    return Client(prices={"openai/*": PRICE}, **more)


def options(server: FakeProvider, **more: Any) -> dict[str, Any]:
    return {
        "model": "openai/m", "api_base": server.openai_base, "api_key": "sk-x", "max_tokens": 50, "endpoint": "fake",
        "progress": False, **more,
    }  # fmt: skip


def bill(server: FakeProvider) -> float:
    report = server.report()
    return report.input_tokens * PRICE.input_per_token + report.output_tokens * PRICE.output_per_token


def test_what_a_resume_saves(out: Path) -> None:
    limit = RateLimit("*", rpm=60, burst=1, window="bucket")
    with FakeProvider(reply_tokens=(20, 40)) as server:
        run(PROMPTS, output=out, sample=40, client=house(), **options(server))
        found = plan(PROMPTS, output=out, client=house(limits=limit), **options(server))
        assert (found.total, found.done, found.to_ask) == (100, 40, 60)
        assert found.resume.rows == 40
        assert found.resume.cost == pytest.approx(bill(server))
        assert found.seconds - found.seconds_per_answer["openai/m"] == pytest.approx(59, abs=3)
        assert found.resume.seconds == pytest.approx(40, abs=2)  # one a second
        assert found.cache.rows == 0
        before = bill(server)
        run(PROMPTS, output=out, client=house(), **options(server))
        assert found.cost is not None
        assert found.cost.low <= bill(server) - before <= (found.cost.high or 0)
    whole = plan(PROMPTS, output=out, client=house(), **options(server))
    assert (whole.to_ask, whole.resume.rows, whole.seconds) == (0, 100, 0)
    assert "100 are done already: a resume saves $" in str(whole)
    assert whole.to_dict()["resume"]["rows"] == 100


def test_a_resume_of_rows_without_a_price_does_not_say_that_they_were_free(out: Path) -> None:
    with FakeProvider() as server:
        run(PROMPTS[:10], output=out, **options(server, limits=[]))
        found = plan(PROMPTS, output=out, **options(server, limits=[]))
    assert (found.resume.rows, found.resume.cost) == (10, None)
    assert "what they cost is not known" in str(found)


def test_what_a_cache_saves(tmp_path: Path) -> None:
    limit = RateLimit("*", rpm=60, burst=1, window="bucket")
    with FakeProvider(reply_tokens=(20, 40)) as server, Cache(tmp_path) as cache:
        run(PROMPTS[:30], client=house(cache=cache), **options(server))
        paid = bill(server)
        rows = [*PROMPTS, *PROMPTS[90:]]
        found = plan(rows, client=house(cache=cache, limits=limit), **options(server))
        assert (found.total, found.done, found.to_ask, found.cache.rows) == (110, 0, 60 + 10, 40)
        assert found.cache.cost is not None
        assert found.cache.cost > paid  # what ten that come twice would cost is only guessed
        assert found.cache.seconds == pytest.approx(40, abs=2)
        assert "40 are in the cache, or ask the same as another" in str(found)
        asked = server.report().requests
        run(rows, client=house(cache=cache), **options(server))
        assert server.report().requests - asked == found.to_ask
        again = plan(rows, client=house(cache=cache), **options(server))
        assert (again.to_ask, again.cache.rows) == (0, 110)
        assert plan(rows, client=house(cache=False), **options(server)).to_ask == 110


def test_what_is_kept_for_one_place_is_not_promised_for_another(tmp_path: Path) -> None:
    with FakeProvider() as one, FakeProvider() as other, Cache(tmp_path) as cache:
        client = house(cache=cache)
        run(PROMPTS[:10], client=client, **options(one))
        places = [{"api_base": server.openai_base, "api_key": "sk-x"} for server in (one, other)]
        found = plan(PROMPTS[:10], client=client, deployments=places, **options(one))
    assert (found.to_ask, found.cache.rows) == (10, 0)


def test_embeddings_in_a_cache(tmp_path: Path) -> None:
    rows = [{"input": f"text {number}"} for number in range(20)]
    with FakeProvider() as server, Cache(tmp_path) as cache:
        more = options(server)
        del more["max_tokens"]
        run(rows[:5], client=house(cache=cache), **more)
        assert plan(rows, client=house(cache=cache), **more).cache.rows == 5


def test_a_sample_counts_only_its_own_rows_as_saved(out: Path) -> None:
    with FakeProvider() as server:
        run(PROMPTS, output=out, client=house(), sample=30, **options(server))
        found = plan(PROMPTS, output=out, client=house(), sample=20, **options(server))
    assert (found.total, found.done, found.to_ask, found.resume.rows) == (20, 20, 0, 20)


def test_changed_rows_are_told(out: Path) -> None:
    with FakeProvider() as server:
        run(PROMPTS, output=out, client=house(), **options(server))
        found = plan(PROMPTS, output=out, client=house(), temperature=1, **options(server))
    assert (found.to_ask, found.done, found.changed) == (100, 0, 100)
    assert "a run wants --redo-changed" in str(found)


def test_changed_rows_are_told_when_a_model_is_added_too(out: Path) -> None:
    """They have other keys then, of the row and the model together."""
    rows = [{"custom_id": f"row-{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS[:20])]
    with FakeProvider() as server:
        both = [options(server)["model"], "openai/other"]
        run(rows, output=out, client=house(), **options(server))
        found = plan(rows, output=out, client=house(), temperature=1, **{**options(server), "model": both})
        assert (found.to_ask, found.done, found.changed) == (40, 0, 20)
        found = plan(rows, output=out, client=house(), **{**options(server), "model": both})
        assert (found.to_ask, found.done, found.changed) == (20, 20, 0)


def test_how_far_a_budget_goes(out: Path) -> None:
    with FakeProvider(reply_tokens=(30, 30)) as server:
        run(PROMPTS, output=out, client=house(), sample=40, **options(server))
        spent = bill(server)
        each = spent / 40
        budget = Budget(spent + 20.5 * each)
        found = plan(PROMPTS, output=out, client=house(), budget=budget, **options(server))
        assert found.budget is not None
        assert found.budget.rows is not None
        assert found.budget.spent == pytest.approx(spent)
        assert found.budget.left == pytest.approx(20.5 * each)
        assert found.budget.rows.low <= 20 <= (found.budget.rows.high or 0)
        assert found.budget.rows.likely == pytest.approx(20, abs=1)
        assert "enough for 20 (" in str(found)
        run(PROMPTS, output=out, client=house(), budget=budget, **options(server))  # and now it is used up
        found = plan(PROMPTS, output=out, client=house(), budget=budget, **options(server))
        assert found.budget is not None
        assert found.budget.spent == pytest.approx(bill(server))  # nothing twice
    rich = plan(PROMPTS, client=house(), budget=Budget(100), **options(server))
    assert "enough for all rows" in str(rich)
    unpriced = plan(PROMPTS, budget=Budget(100), **options(server, limits=[]))
    assert unpriced.budget is not None
    assert unpriced.budget.rows is None
    by_requests = plan(PROMPTS, client=house(), budget=Budget(max_requests=7), **options(server))
    assert by_requests.budget is not None
    assert by_requests.budget.rows == (7, 7, 7)


def test_a_plan_takes_the_keywords_of_a_run_and_refuses_slips_of_the_pen() -> None:
    found = plan(
        PROMPTS, model="openai/m", client=house(), fallbacks=["openai/x"], on_result=print, on_error="raise", reasks=1,
        validate=print, redo_changed=True, handle_signals=False,
    )  # fmt: skip
    assert found.to_ask == 100
    with pytest.raises(ConfigError, match="'sample' was meant"):
        plan(PROMPTS, model="openai/m", client=house(), sampel=3)
    with pytest.raises(ConfigError, match="must be at least 1"):
        plan(PROMPTS, model="openai/m", client=house(), sample=0)


def test_places_are_planned_with_their_own_limits() -> None:
    places = [
        {"api_base": "http://127.0.0.1:9/v1", "rpm": 60, "burst": 1},
        {"api_base": "http://127.0.0.1:8/v1", "rpm": 120, "burst": 1},
    ]
    found = plan(PROMPTS * 3, model="openai/m", client=house(), deployments=places)
    assert found.limited
    assert found.seconds == pytest.approx(100 + 6, rel=0.02)  # three in two seconds, and then the last answer
    assert found.cost is not None


def test_a_finished_run_that_has_cost_more_than_the_budget_has_a_plan(out: Path) -> None:
    with FakeProvider() as server:
        spent = run(PROMPTS[:5], output=out, client=house(), **options(server)).usage.total.cost
        found = plan(PROMPTS[:5], output=out, client=house(), budget=Budget(max_cost=spent / 2), **options(server))
    assert found.to_ask == 0
    assert found.budget is not None
    assert (found.budget.left, found.budget.rows) == (0.0, Range(0.0, 0.0, 0.0))


def test_a_price_of_each_request_is_in_the_plan() -> None:
    client = Client(prices={"openai/*": Price(input_per_token=0.0, per_request=0.01)}, budget=Budget(0.25))
    with FakeProvider() as server:
        found = plan(PROMPTS, client=client, **options(server))
    assert found.cost == pytest.approx((1.0, 1.0, 1.0))
    assert found.budget is not None
    assert found.budget.rows == (25, 25, 25)
