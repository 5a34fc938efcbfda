from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import plan, planning, run
from bulkllm.bulk.simulate import Ask, Door, Line, seconds_for
from bulkllm.errors import ConfigError, ImpossibleRequest, RequestFileError
from bulkllm.limits import RateLimit
from bulkllm.limits.estimate import Size
from bulkllm.limits.learned import LearnedLimits, LearnedQuota
from bulkllm.limits.origin import origins
from bulkllm.testing import FakeProvider

PROMPTS = [f"Tell me all that you know of the number {number}, please." for number in range(200)]


ORIGIN = origins.of("openai", {"api_base": "http://127.0.0.1:9/v1", "api_key": "sk-x"})


def asks(count: int, *, bound: float | None = 100, output: float = 50, seconds: float = 0.5) -> list[Ask]:
    """Requests of 100 tokens, with answers of 50."""
    return [Ask(Size(384, 1, bound, False), 100, output, seconds)] * count


def simulated(
    limits: Sequence[RateLimit], lines: Mapping[str, list[Ask]], *, in_flight: int = 500, known: Any = None
) -> float:
    return seconds_for(
        [Line([Door(model, limits, ORIGIN, known)], line) for model, line in lines.items()], in_flight=in_flight
    )


def test_time_is_what_the_limits_leave() -> None:
    line = asks(700)
    assert simulated([RateLimit("*", rpm=600, burst=100)], {"m": line}) == pytest.approx(60.5, rel=0.01)
    # Where no limit is known, 16 go at first, and twice as many after each answer: a second more than ten rounds of 70.
    assert simulated([], {"m": line}, in_flight=70) == pytest.approx(6.0, rel=0.05)
    # What is charged in the end counts, and not what was reserved: 12,000 at once, then 200 a second.
    by_tokens = simulated([RateLimit("*", tpm=12_000, window="bucket")], {"m": line})
    assert by_tokens == pytest.approx((700 * 150 - 12_000) / 200, rel=0.01)
    by_output = simulated([RateLimit("*", otpm=6000, window="bucket")], {"m": line})
    assert by_output == pytest.approx((700 * 50 - 6000) / 100, rel=0.01)
    by_room = simulated([RateLimit("*", max_in_flight=7)], {"m": line})
    assert by_room == pytest.approx(50, rel=0.01)
    with pytest.raises(ImpossibleRequest):
        simulated([RateLimit("*", tpm=100)], {"m": line}, in_flight=5)


def test_a_provider_that_charges_the_bound_is_charged_the_bound() -> None:
    """OpenAI counts the larger of prompt and max_tokens, whatever the answer's length; Anthropic what was produced."""
    limits = [RateLimit("*", tpm=12_000)]
    at_openai = Line([Door("openai/m", limits, origins.of("openai", {"api_key": "sk-x"}))], asks(700, bound=300))
    assert seconds_for([at_openai], in_flight=500) == pytest.approx((700 * 300 - 12_000) / 200, rel=0.01)
    at_anthropic = Line(
        [Door("anthropic/m", limits, origins.of("anthropic", {"api_key": "sk-x"}))], asks(700, bound=300)
    )
    assert seconds_for([at_anthropic], in_flight=500) == pytest.approx((700 * 150 - 12_000) / 200, rel=0.01)


def test_a_window_that_is_known_is_waited_for() -> None:
    line = asks(150)
    limits = [RateLimit("*", rpm=100, window="sliding")]
    assert simulated(limits, {"m": line}) == pytest.approx(61, abs=2)


def test_a_limit_of_which_nobody_knows_how_it_counts_takes_no_longer_than_a_bucket() -> None:
    """The provider is asked, and its answers are taken to say that it keeps a bucket."""
    line = asks(300)
    bucket = simulated([RateLimit("*", rpm=200, window="bucket")], {"m": line})
    assert simulated([RateLimit("*", rpm=200)], {"m": line}) == pytest.approx(bucket, abs=5)


def test_models_side_by_side() -> None:
    two = {"m": asks(1000), "slow": asks(50)}
    limits = [RateLimit("m", rpm=600, burst=1), RateLimit("slow", rpm=30, burst=1)]
    assert simulated(limits, two, in_flight=10) == pytest.approx(100, rel=0.02)
    assert simulated([RateLimit("*", rpm=600, burst=1)], two, in_flight=10) == pytest.approx(105, rel=0.02)


def test_a_request_that_is_let_go_while_others_wait_is_let_go_once() -> None:
    """Two models with one limit in common, of which one has another of its own and waits for that."""
    limits = [RateLimit("*", rpm=60), RateLimit("m", tpm=1000, window="bucket")]
    assert simulated(limits, {"m": asks(3, bound=800), "other": asks(100, bound=800)}) == pytest.approx(43.5, rel=0.01)


def test_places_share_the_rows_by_what_each_has_left() -> None:
    doors = [
        Door("m", [RateLimit("*", rpm=600, burst=1)], ORIGIN),
        Door("m", [RateLimit("*", rpm=300, burst=1)], ORIGIN),
    ]
    assert seconds_for([Line(doors, asks(900))], in_flight=100) == pytest.approx(60, rel=0.02)
    by_tokens = [
        Door("m", [RateLimit("*", tpm=60_000, window="bucket", period=30)], ORIGIN),
        Door("m", [RateLimit("*", tpm=30_000, window="bucket", period=30)], ORIGIN),
    ]
    expected = (3000 * 150 - 90_000) / 3000
    assert seconds_for([Line(by_tokens, asks(3000))], in_flight=500) == pytest.approx(expected, rel=0.03)


def test_limits_that_an_earlier_run_has_learned_hold() -> None:
    now = datetime.now(UTC)
    known = LearnedLimits(
        scope=ORIGIN.scope, endpoint="", provider="openai", model="m", quotas={"rpm": LearnedQuota(600)},
        window="bucket", learned_at=now, expires_at=now + timedelta(days=1),
    )  # fmt: skip
    assert simulated([], {"m": asks(1200)}, known=known) == pytest.approx(60.5, rel=0.01)
    felt = replace(known, quotas={}, rate=10.0)
    assert simulated([], {"m": asks(1200)}, known=felt) == pytest.approx(120, rel=0.01)


def test_calls_go_one_after_the_other_through_this_process() -> None:
    """However little an answer takes, and however many may be under way."""
    assert simulated([], {"m": asks(2000, seconds=0.001)}) == pytest.approx(2000 * 0.004, rel=0.05)


def test_many_rows_go_on_at_the_pace_of_the_first() -> None:
    seconds = simulated([RateLimit("*", rpm=6_000, burst=1)], {"m": asks(100_000, seconds=0.1)}, in_flight=256)
    assert seconds == pytest.approx(1000, rel=0.01)
    # Here the bucket lasts longer than the rows that are simulated; then it is 200 a second, and not 250.
    seconds = simulated([RateLimit("*", rpm=12_000)], {"m": asks(100_000, seconds=0.1)}, in_flight=256)
    assert seconds == pytest.approx((100_000 - 12_000) / 200, rel=0.03)


def test_rows_tokens_and_money() -> None:
    found = plan(PROMPTS, model=["openai/gpt-4.1-mini", "openai/nobody-knows"], limits=[], max_tokens=50)
    mini = found.models["openai/gpt-4.1-mini"]
    assert (found.total, found.done, found.to_ask, mini.rows) == (400, 0, 400, 200)
    assert mini.input_tokens.low < mini.input_tokens.likely < (mini.input_tokens.high or 0)
    assert mini.output_tokens.high == 200 * 50
    assert mini.cost is not None
    assert 0 < mini.cost.low < mini.cost.likely <= (mini.cost.high or 0)
    assert found.models["openai/nobody-knows"].cost is None
    assert found.cost is None
    assert not found.limited
    assert plan(PROMPTS, model="openai/m", limits=[]).output_tokens.high is None
    assert plan([{"input": "a"}], model="openai/m", limits=[]).output_tokens.likely == 0
    assert found.to_dict()["models"]["openai/nobody-knows"]["cost"] is None


def test_the_plan_holds_against_the_fake_provider(out: Path) -> None:
    with FakeProvider(reply_tokens=(20, 80)) as server:
        options: dict[str, Any] = {"model": "openai/fake", "max_tokens": 100}
        before = plan(PROMPTS, limits=[], **options)
        more = {"api_base": server.openai_base, "api_key": "sk-x", "endpoint": "fake", "progress": False, **options}
        assert run(PROMPTS, output=out, sample=30, **more).ok == 30
        del more["progress"]
        after = plan(PROMPTS, output=out, limits=[], **more)
        run(PROMPTS, output=out, progress=False, **more)
        report = server.report()
        assert plan(PROMPTS, output=out, limits=[], **more).to_ask == 0
    assert (after.total, after.done, after.to_ask) == (200, 30, 170)
    assert after.models["openai/fake"].calibrated
    assert before.input_tokens.low <= report.input_tokens <= (before.input_tokens.high or 0)
    assert before.output_tokens.low <= report.output_tokens <= (before.output_tokens.high or 0)
    share = 170 / 200
    assert after.input_tokens.low <= report.input_tokens * share <= (after.input_tokens.high or 0)
    assert after.output_tokens.low <= report.output_tokens * share <= (after.output_tokens.high or 0)
    assert after.output_tokens.likely == pytest.approx(report.output_tokens * share, rel=0.2)


def test_nothing_is_written_and_what_cannot_be_planned_is_told(tmp_path: Path) -> None:
    plan(PROMPTS, model="openai/m", output=tmp_path / "none.jsonl", limits=[])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="read only once"):
        plan(iter(PROMPTS), model="openai/m", limits=[])
    with pytest.raises(RequestFileError, match="nothing to ask"):
        plan([{}], model="openai/m", limits=[])


def test_a_limit_and_a_sample_plan_fewer_rows() -> None:
    assert plan(PROMPTS, model="openai/m", limits=[], limit=10).to_ask == 10
    assert plan(PROMPTS, model="openai/m", limits=[], sample=20).to_ask == 20


def test_of_many_rows_those_that_are_simulated_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half of them is longer: the time must not be that of the first ones."""
    monkeypatch.setattr(planning, "SIMULATED", 50)
    rows = [{"prompt": "short"}] * 500 + [{"prompt": "x" * 4000}] * 500
    found = plan(rows, model="openai/m", max_tokens=10, limits=[RateLimit("*", itpm=6000, window="bucket")])
    # Some 5 tokens each in the first half, 1,004 in the second; the first minute's quota is there at once.
    assert found.input_tokens.likely == pytest.approx(500 * 5 + 500 * 1004, rel=0.01)
    assert found.seconds == pytest.approx((found.input_tokens.likely - 6000) / 100, rel=0.05)
