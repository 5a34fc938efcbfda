"""Which rows a plan counts: what a run does with a row that is bad or has changed, a plan says before."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from bulkllm import Cache, Client, Price
from bulkllm.bulk import plan, run
from bulkllm.bulk.onlooker import Onlooker, usual_cache
from bulkllm.errors import BulkLLMError, CacheError, ConfigError
from bulkllm.testing import FakeProvider

PRICE = Price(input_per_token=0.000_01, output_per_token=0.000_2)
ROWS = [{"custom_id": f"row-{number}", "prompt": f"Tell me of the number {number}."} for number in range(200)]


def options(server: FakeProvider, **more: Any) -> dict[str, Any]:
    return {
        "model": "openai/m", "api_base": server.openai_base, "api_key": "sk-x", "max_tokens": 50, "endpoint": "fake",
        "progress": False, "client": Client(prices={"openai/*": PRICE}), **more,
    }  # fmt: skip


def bill(server: FakeProvider) -> float:
    report = server.report()
    return report.input_tokens * PRICE.input_per_token + report.output_tokens * PRICE.output_per_token


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Three good rows, a broken line and a repeated custom_id."""
    path = tmp_path / "bad.jsonl"
    rows = [json.dumps(row) for row in ROWS[:3]]
    path.write_text("\n".join([*rows[:2], '{"prompt": ', rows[2], rows[0]]) + "\n")
    return path


def test_a_row_that_repeats_a_custom_id_is_not_to_be_asked(bad: Path, out: Path) -> None:
    with FakeProvider() as server:
        found = plan(bad, output=out, **options(server, skip_bad=True))
        assert (found.total, found.to_ask) == (5, 3)
        run(bad, output=out, **options(server, skip_bad=True))
        assert server.report().requests == 3
        again = plan(bad, output=out, **options(server, skip_bad=True, retry_failed=True))
        assert (again.done, again.to_ask, again.seconds, again.resume.rows) == (3, 0, 0, 3)
        run(bad, output=out, **options(server, skip_bad=True, retry_failed=True))
        assert server.report().requests == 3


def test_what_bad_rows_cost_is_nothing_and_takes_no_time(bad: Path, out: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    with FakeProvider() as server:
        run(bad, output=out, **options(server, skip_bad=True))
        paid = bill(server)
        found = plan(bad, output=out, **options(server, skip_bad=True))
        of_good = plan(good, output=out, **options(server))
    assert (found.done, found.to_ask, found.resume.rows) == (5, 0, 5)
    assert found.resume.cost == pytest.approx(paid)
    assert "not known" not in str(found)
    assert found.resume.seconds == of_good.resume.seconds > 0


def test_a_file_of_bad_rows_alone(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": \n')
    with FakeProvider() as server:
        run(path, output=out, **options(server, skip_bad=True))
        found = plan(path, output=out, **options(server, skip_bad=True))
    assert (found.to_ask, found.done, found.resume.cost, found.resume.seconds) == (0, 1, 0, 0)


def test_a_repeated_row_is_not_looked_for_in_a_cache(bad: Path, tmp_path: Path) -> None:
    with FakeProvider() as server, Cache(tmp_path / "cache") as cache:
        client = Client(cache=cache)
        found = plan(bad, **options(server, skip_bad=True, client=client))
    assert (found.to_ask, found.cache.rows) == (3, 0)


def test_of_changed_rows_those_of_the_sample_are_counted(out: Path) -> None:
    with FakeProvider() as server:
        run(ROWS, output=out, **options(server))
        found = plan(ROWS, output=out, sample=5, **options(server, temperature=0.3))
        assert (found.total, found.to_ask, found.changed, found.wants_redo_changed) == (5, 5, 5, True)
        assert "5 of them were asked in another way before: a run wants --redo-changed" in str(found)
        with pytest.raises(ConfigError, match="redo-changed"):
            run(ROWS, output=out, sample=5, **options(server, temperature=0.3))


@pytest.mark.parametrize(("changed", "refuses"), [(1, False), (2, False), (3, True)])
def test_a_plan_says_that_a_run_wants_to_be_told_where_it_does(out: Path, changed: int, refuses: bool) -> None:
    other = [{**row, "prompt": "Another one."} for row in ROWS[:changed]] + ROWS[changed:]
    with FakeProvider() as server:
        run(ROWS, output=out, **options(server))
        found = plan(other, output=out, **options(server))
        told = plan(other, output=out, redo_changed=True, **options(server))
        if refuses:
            with pytest.raises(ConfigError, match="redo-changed"):
                run(other, output=out, **options(server))
        else:
            assert run(other, output=out, **options(server)).complete
    assert (found.to_ask, found.changed, found.wants_redo_changed) == (changed, changed, refuses)
    assert (told.to_ask, told.changed, told.wants_redo_changed) == (changed, changed, False)
    assert f"{changed} of them were asked in another way before" in str(found)
    assert ("--redo-changed" in str(found), "--redo-changed" in str(told)) == (refuses, False)
    assert found.to_dict()["wants_redo_changed"] is refuses


def test_rows_without_a_name_that_look_new_are_told_where_a_run_refuses_them(out: Path) -> None:
    with FakeProvider() as server:
        run([f"Tell me of {number}." for number in range(10)], output=out, **options(server))
        other = [f"Speak of {number}." for number in range(10)]
        found = plan(other, output=out, **options(server))
        with pytest.raises(ConfigError, match="redo-changed"):
            run(other, output=out, **options(server))
    assert (found.to_ask, found.changed, found.wants_redo_changed) == (10, 0, True)
    assert "finished rows were asked in another way before: a run wants --redo-changed" in str(found)


def test_a_limit_that_a_run_accepts_is_no_change(out: Path) -> None:
    """The rows after it are looked at, in a plan as in a run: they are not gone."""
    prompts = [f"Tell me of {number}." for number in range(10)]
    with FakeProvider() as server:
        run(prompts[3:], output=out, **options(server))
        found = plan(prompts, output=out, limit=3, **options(server))
        assert run(prompts, output=out, limit=3, **options(server)).ok == 3
    assert (found.to_ask, found.changed, found.wants_redo_changed) == (3, 0, False)


def test_an_onlooker_reads_what_a_cache_has_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a #1 cache"
    monkeypatch.setenv("BULKLLM_CACHE_DIR", str(place))
    assert usual_cache() is False
    monkeypatch.setenv("BULKLLM_CACHE", "1")
    assert Onlooker().costs(["a"]) == {}
    assert not place.exists()
    now = 1000.0
    with Cache(place, clock=lambda: now) as cache:
        cache.put("a", {"x": 1}, cost=0.5, kind="chat")
        cache.put("b", {"x": 2}, cost=None, kind="chat")
    (place / "bulkllm-cache.sqlite3.lock").unlink()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in place.iterdir()}
    looked = usual_cache()
    assert isinstance(looked, Onlooker)
    assert looked.costs(["a", "b", "c"]) == {"a": 0.5, "b": None}
    monkeypatch.setenv("BULKLLM_CACHE_MAX_AGE", "3600")
    assert Onlooker().costs(["a", "b"]) == {}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in place.iterdir()} == before


def test_an_onlooker_leaves_a_damaged_file_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BULKLLM_CACHE_DIR", str(tmp_path))
    file = tmp_path / "bulkllm-cache.sqlite3"
    for content in (b"no database " * 1000, b""):
        file.write_bytes(content)
        caplog.clear()
        looked = Onlooker()
        assert looked.costs(["a"]) == looked.costs(["a"]) == {}
        assert [record.message for record in caplog.records if "what it saves is left out" in record.message] != []
        assert len(caplog.records) == 1
        assert (file.read_bytes(), list(tmp_path.iterdir())) == (content, [file])


def test_an_onlooker_tells_of_what_a_client_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setenv("BULKLLM_CACHE_DIR", str(tmp_path))
    db = sqlite3.connect(tmp_path / "bulkllm-cache.sqlite3")
    db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(CacheError, match="database of something else"):
        Onlooker().costs(["a"])


def test_a_plan_that_cannot_be_made_leaves_its_input_closed(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "x"}\n')
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises((BulkLLMError, OSError)):
            plan(path, model="openai/m", output=tmp_path)
        gc.collect()
    assert not [warning for warning in warned if issubclass(warning.category, ResourceWarning)]
