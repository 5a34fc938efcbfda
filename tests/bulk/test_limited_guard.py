"""The guard against paying for a whole file again, where only a part of the input is asked; and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkllm import ConfigError
from bulkllm.bulk import run
from bulkllm.testing import FakeProvider

ROWS = [f"question {number}" for number in range(1000)]


def bulk(rows: Any, calls: Any, out: Path, **options: Any) -> Any:
    return run(rows, model="openai/m", call=calls, output=out, progress=False, **options)


def test_a_limit_does_not_switch_the_guard_off(calls: Any, out: Path) -> None:
    bulk(ROWS, calls, out, system="Be nice.", limit=300)
    calls.forget()
    with pytest.raises(ConfigError, match="300 of the 300 finished rows were asked in another way"):
        bulk(ROWS, calls, out, system="Be very nice.", limit=300)
    assert calls.asked == 0
    again = bulk(ROWS, calls, out, system="Be nice.", limit=400)
    assert (again.skipped, calls.asked) == (300, 100)


@pytest.mark.parametrize("system", [None, "Be nice."])
def test_rows_that_only_stand_further_down_now_are_not_gone(calls: Any, out: Path, system: str | None) -> None:
    twice = [*ROWS[:200], *ROWS[:100]]
    bulk(twice, calls, out, system=system)
    calls.forget()
    new = [f"another {number}" for number in range(50)]
    result = bulk([*new, *twice], calls, out, system=system, limit=50)
    assert (result.ok, calls.asked) == (50, 50)


def test_it_says_how_many_have_changed_or_at_least(calls: Any, out: Path) -> None:
    rows = [{"custom_id": str(number), "prompt": "x"} for number in range(200)]
    bulk(rows, calls, out)
    with pytest.raises(ConfigError, match=r"^200 of the 200 finished rows"):
        bulk(rows, calls, out, temperature=0.3)
    with pytest.raises(ConfigError, match=r"^at least 3 of the 200 finished rows"):
        bulk(iter(rows), calls, out, temperature=0.3)


def test_with_several_models_too(calls: Any, out: Path) -> None:
    models = ["openai/a", "openai/b"]
    rows, new = ROWS[:100], ["x", "y", "z"]
    run(rows, model=models, call=calls, output=out, progress=False)
    calls.forget()
    assert run([*new, *rows], model=models, call=calls, output=out, progress=False, limit=3).ok == 6
    with pytest.raises(ConfigError, match="finished rows were asked in another way"):
        run(rows, model=models, call=calls, output=out, progress=False, limit=50, system="Be nice.")
    assert calls.asked == 6


def test_a_bad_row_beyond_the_limit_does_not_matter(calls: Any, out: Path) -> None:
    bulk(ROWS[:100], calls, out)
    with pytest.raises(ConfigError, match="100 of the 100 finished rows"):
        bulk([*(f"new {number}" for number in range(100)), {"messages": 5}], calls, out, limit=100)


def test_an_address_that_has_changed_is_declared_by_the_old_one(out: Path) -> None:
    rows = [{"custom_id": str(number), "prompt": f"q {number}"} for number in range(10)]
    options: dict[str, Any] = {"model": "openai/m", "output": out, "api_key": "k", "progress": False}
    with FakeProvider() as old:
        run(rows, api_base=old.openai_base, **options)
    with FakeProvider() as new:
        with pytest.raises(ConfigError, match=r"^10 of the 10 .* or else its old address$"):
            run(rows, api_base=new.openai_base, **options)
        assert run(rows, api_base=new.openai_base, endpoint=old.openai_base, **options).skipped == 10
        assert new.report().requests == 0


def test_a_model_that_was_added_later_leaves_the_first_one_its_name(calls: Any, out: Path) -> None:
    rows = [{"custom_id": str(number), "prompt": "x"} for number in range(3)]
    bulk(rows, calls, out)
    for _ in range(2):
        result = run(rows, model=["openai/m", "openai/n"], call=calls, output=out, progress=False)
        assert [row.variant for row in result] == ["openai/m", "openai/n"] * 3


def test_a_row_of_its_own_model_is_no_variant(calls: Any, out: Path) -> None:
    rows = [{"prompt": "x", "model": "openai/o"}, "y"]
    result = run(rows, model=["openai/m", "openai/n"], call=calls, output=out, progress=False)
    assert [row.variant for row in result] == [None, "openai/m", "openai/n"]


def test_where_the_environment_sends_a_model_named_without_its_provider_is_seen(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"custom_id": str(number), "prompt": f"q {number}"} for number in range(5)]
    with FakeProvider() as old, FakeProvider() as new:
        options: dict[str, Any] = {"model": "claude-sonnet-4-5", "output": out, "api_key": "k", "progress": False}
        monkeypatch.setenv("ANTHROPIC_API_BASE", old.url)
        assert run(rows, **options).ok == 5
        monkeypatch.setenv("ANTHROPIC_API_BASE", new.url)
        with pytest.raises(ConfigError, match="asked in another way before"):
            run(rows, **options)
        monkeypatch.setenv("ANTHROPIC_API_BASE", old.url)
        assert run(rows, **options).skipped == 5
