"""A preset's slug, or an alias, as a row's own ``model``: what is asked, and that a preset which changed is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkllm import models
from bulkllm.bulk import RunResult, plan, run
from bulkllm.client import Client
from bulkllm.errors import ConfigError, RequestFileError
from bulkllm.models import LLMConfig
from bulkllm.testing import FakeProvider


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    models.reset()
    yield
    models.reset()


def house(**more: Any) -> LLMConfig:
    preset = LLMConfig(slug="house-brief", model="openai/a", **more)
    models.reset()
    models.register_preset(preset)
    return preset


def bulk(rows: Any, calls: Any, out: Path | None = None, **options: Any) -> RunResult:
    options = {"model": "openai/plain", **options}
    return run(rows, call=calls, output=out, progress=False, **options)


ROWS: list[Any] = [{"prompt": f"p{number}", "model": "house-brief"} for number in range(4)]
NAMED: list[Any] = [{"custom_id": f"r{number}", **row} for number, row in enumerate(ROWS)]


def test_its_options_and_its_system_prompt_come_with_it(calls: Any) -> None:
    house(temperature=0.5, max_tokens=9, system_prompt="Be brief.")
    result = bulk([{**ROWS[0], "max_tokens": 5}, "plain"], calls, seed=3)
    brief, plain = sorted(calls.bodies, key=lambda body: str(body["model"]))
    assert brief == {
        "model": "openai/a", "temperature": 0.5, "max_tokens": 5, "seed": 3,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "p0"}],
    }  # fmt: skip
    assert plain == {"model": "openai/plain", "seed": 3, "messages": [{"role": "user", "content": "plain"}]}
    assert [row.variant for row in result] == ["house-brief", None]


def test_the_row_and_the_run_go_before_it_and_the_runs_own_preset_stays_out_of_it(calls: Any) -> None:
    house(temperature=0.5, system_prompt="Be brief.")
    other = LLMConfig(slug="other", model="openai/b", temperature=1.0, top_p=0.3, system_prompt="Be long.")
    bulk([ROWS[0], {**ROWS[1], "temperature": 0.9, "system": "Mine."}, "plain"], calls, model=other, seed=3)
    first, second, plain = sorted(calls.bodies, key=lambda body: str(body["messages"][-1]["content"]))
    assert (first["temperature"], first["messages"][0]["content"], "top_p" in first) == (0.5, "Be brief.", False)
    assert (second["temperature"], second["messages"][0]["content"]) == (0.9, "Mine.")
    assert (plain["temperature"], plain["top_p"], plain["messages"][0]["content"]) == (1.0, 0.3, "Be long.")
    calls.forget()
    bulk([ROWS[0]], calls, temperature=0.1, system="The run's.")
    assert (calls.bodies[0]["temperature"], calls.bodies[0]["messages"][0]["content"]) == (0.1, "The run's.")


@pytest.mark.parametrize("rows", [ROWS, NAMED], ids=["without ids", "with ids"])
@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.6},
        {"temperature": 0.5, "system_prompt": "Be curt."},
        {"temperature": 0.5, "extra": {"seed": 1}},
    ],
)
def test_a_preset_that_changed_is_a_changed_request(
    calls: Any, out: Path, rows: list[Any], changed: dict[str, Any]
) -> None:
    house(temperature=0.5)
    assert bulk(rows, calls, out).ok == 4
    calls.forget()
    assert bulk(rows, calls, out).skipped == 4
    assert calls.asked == 0
    house(**changed)
    with pytest.raises(ConfigError, match="of the 4 finished rows were asked in another way"):
        bulk(rows, calls, out)
    assert calls.asked == 0
    assert bulk(rows, calls, out, redo_changed=True).ok == 4
    assert calls.asked == 4
    assert len(out.read_text().splitlines()) == 4  # rows that changed, and no others beside them


def test_a_preset_of_another_name_with_the_same_content_is_not_the_same_model(calls: Any, out: Path) -> None:
    house(temperature=0.5)
    models.register_preset(LLMConfig(slug="house-other", model="openai/c", temperature=0.5))
    bulk(ROWS, calls, out)
    with pytest.raises(ConfigError, match="asked in another way"):
        bulk([{**row, "model": "house-other"} for row in ROWS], calls, out)


def test_rows_of_one_model_share_a_pool_and_a_declared_endpoint(calls: Any, out: Path) -> None:
    house(temperature=0.5)
    more = {"endpoint": "fake", "api_key": "sk-run"}
    bulk(ROWS, calls, out, api_base="http://127.0.0.1:1/v1", **more)
    assert {body["api_key"] for body in calls.bodies} == {"sk-run"}
    assert "sk-run" not in out.read_text()
    calls.forget()
    assert bulk(ROWS, calls, out, api_base="http://127.0.0.1:2/v1", **more).skipped == 4
    house(temperature=0.5, extra={"api_base": "http://127.0.0.1:3/v1"})
    with pytest.raises(ConfigError, match="asked in another way"):
        bulk(ROWS, calls, out, **more)


def test_what_a_preset_cannot_be_used_for_is_told_with_the_place(calls: Any, tmp_path: Path) -> None:
    house(temperature=0.5, system_prompt="Be brief.")
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n{"input": "b", "model": "house-brief"}\n')
    with pytest.raises(RequestFileError, match=r"house-brief.*embedding") as raised:
        bulk(path, calls)
    assert raised.value.line == 2
    row = {"url": "/v1/responses", "body": {"input": "b", "model": "house-brief"}}
    with pytest.raises(RequestFileError, match=r"house-brief.* sets .*system_prompt.*which responses cannot be given"):
        bulk([row], calls, system="Be long.")


def test_a_whole_run_and_its_plan(out: Path) -> None:
    house(max_tokens=7)
    with FakeProvider(models=["a", "plain"], reply_tokens=(50, 50)) as server:
        options: dict[str, Any] = {
            "model": "openai/plain", "api_base": server.openai_base, "api_key": "sk-x", "client": Client(),
        }  # fmt: skip
        found = plan([*ROWS, "plain"], **options)
        assert found.models["openai/a"].output_tokens.high == 4 * 7
        result = run([*ROWS, "plain"], output=out, progress=False, **options)
        assert (result.ok, server.report().output_tokens) == (5, 4 * 7 + 50)
        assert plan([*ROWS, "plain"], output=out, **options).to_ask == 0


# -- an alias as the run's model -------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [["p0", "p1"], [{"custom_id": "a", "prompt": "p0"}]], ids=["without ids", "with ids"])
@pytest.mark.parametrize("named", ["my-judge", ["my-judge", "openai/b"]], ids=["alone", "among others"])
def test_an_alias_that_stands_for_another_model_is_a_changed_request(
    calls: Any, out: Path, rows: list[Any], named: Any
) -> None:
    models.register("openai/a", aliases=["my-judge"])
    first = bulk(rows, calls, out, model=named)
    assert first.skipped == 0
    assert bulk(rows, calls, out, model=named).skipped == first.ok
    assert {body["model"] for body in calls.bodies} - {"openai/b"} == {"openai/a"}
    assert {row.variant for row in first} == ({None} if named == "my-judge" else {"my-judge", "openai/b"})
    calls.forget()
    models.reset()
    models.register("openai/c", aliases=["my-judge"])
    with pytest.raises(ConfigError, match="asked in another way"):
        bulk(rows, calls, out, model=named)
    assert calls.asked == 0
    assert bulk(rows, calls, out, model=named, redo_changed=True).ok == first.ok
    assert {body["model"] for body in calls.bodies} == {"openai/c"}


def test_an_alias_and_the_model_that_it_stands_for_are_one(calls: Any, out: Path) -> None:
    models.register("openai/a", aliases=["my-judge"])
    assert bulk(["p"], calls, out, model="my-judge").ok == 1
    assert bulk(["p"], calls, out, model="openai/a").skipped == 1
    assert calls.asked == 1
