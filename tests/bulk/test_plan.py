from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkllm.bulk import plan, run
from bulkllm.bulk.simulate import Ask, seconds_for
from bulkllm.errors import ConfigError, ImpossibleRequest, RequestFileError
from bulkllm.limits import RateLimit
from bulkllm.testing import FakeProvider

PROMPTS = [f"Tell me all that you know of the number {number}, please." for number in range(200)]


def ask(tokens: float = 100, seconds: float = 0.5) -> Ask:
    return Ask(tokens, tokens, tokens, tokens / 2, seconds)


def test_time_is_what_the_limits_leave() -> None:
    line = [ask()] * 700
    assert seconds_for([RateLimit("*", rpm=600, burst=100)], {"m": line}, in_flight=500) == pytest.approx(
        60.4, rel=0.01
    )
    assert seconds_for([], {"m": line}, in_flight=70) == pytest.approx(5.0)
    # 200 tokens are reserved and 150 used: 12,000 at once, then 200 a second.
    by_tokens = seconds_for([RateLimit("*", tpm=12_000)], {"m": line}, in_flight=500)
    assert by_tokens == pytest.approx((700 * 150 - 12_000) / 200, rel=0.03)
    two = {"m": [ask()] * 1000, "slow": [ask()] * 50}
    limits = [RateLimit("m", rpm=600, burst=1), RateLimit("slow", rpm=30, burst=1)]
    assert seconds_for(limits, two, in_flight=10) == pytest.approx(100, rel=0.02)
    shared = seconds_for([RateLimit("*", rpm=600, burst=1)], two, in_flight=10)
    assert shared == pytest.approx(105, rel=0.02)
    with pytest.raises(ImpossibleRequest):
        seconds_for([RateLimit("*", tpm=100)], {"m": line}, in_flight=5)


def test_many_rows_go_on_at_the_pace_of_the_first() -> None:
    seconds = seconds_for([RateLimit("*", rpm=60_000, burst=1)], {"m": [ask(1, 0.1)] * 100_000}, in_flight=256)
    assert seconds == pytest.approx(100, rel=0.01)


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
