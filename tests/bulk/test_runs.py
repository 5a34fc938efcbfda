from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkllm import LLMConfig
from bulkllm.bulk import Progress, ResultRow, RunResult, arun, read_results, run, stream
from bulkllm.bulk.intake import Intake, scan
from bulkllm.bulk.journal import Journal
from bulkllm.bulk.keytable import KeyTable
from bulkllm.bulk.request import Shaper
from bulkllm.bulk.sources import JsonlFile, open_source
from bulkllm.errors import (
    BudgetExceeded,
    BulkLLMError,
    ConfigError,
    ImpossibleRequest,
    LimitTimeout,
    RequestFileError,
    RunLocked,
    RunStopped,
)


def prompts(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"p{number}", "label": number} for number in range(start, start + count)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def labels(path: Path) -> list[int]:
    return sorted(row["bulkllm"]["columns"]["label"] for row in lines(path))


def bulk(requests: Any, calls: Any, output: Path | None = None, **options: Any) -> RunResult:
    options.setdefault("progress", False)
    options.setdefault("model", "openai/m")
    return run(requests, call=calls, output=output, **options)


# -- what comes out ------------------------------------------------------------------------------------------


def test_a_file_in_a_file_out(calls: Any, write: Any, out: Path) -> None:
    result = bulk(write(prompts(20)), calls, out)
    assert (result.total, result.ok, result.failed, result.skipped, result.undone) == (20, 20, 0, 0, 0)
    assert result.complete
    assert labels(out) == list(range(20))
    first = next(iter(result))
    assert (first.index, first.text, first.columns, first.ok, first.error) == (0, "re: p0", {"label": 0}, True, None)
    assert first.record is not None
    assert (first.record.cost, first.record.input_tokens) == (0.5, 3)
    told = lines(out)[0]
    assert list(told) == ["id", "custom_id", "response", "error", "bulkllm"]
    assert told["response"]["status_code"] == 200
    assert told["response"]["request_id"].startswith("chat-p")
    for name in ("key", "fingerprint", "index", "usage", "cost", "latency", "waited", "attempts", "cached", "outcome",
                 "model", "endpoint", "columns", "started_at"):  # fmt: skip
        assert name in told["bulkllm"]


def test_without_an_output_the_rows_are_in_memory_in_input_order(calls: Any) -> None:
    result = bulk(
        ["a", [{"role": "user", "content": "b"}], {"prompt": "c", "custom_id": "third"}, {"input": "d"}], calls
    )
    assert [row.text for row in result] == ["re: a", "re: b", "re: c", "re: d"]
    assert [row.custom_id for row in result] == [None, None, "third", None]
    assert result.output is None


def test_results_come_in_input_order_however_they_finished(calls: Any, out: Path) -> None:
    async def slow(request: Any) -> Any:
        await asyncio.sleep(random.random() / 100)  # noqa: S311 - any order will do
        return await calls(request)

    result = bulk(prompts(50), slow, out)
    assert [row.index for row in result] == list(range(50))
    assert [row["bulkllm"]["index"] for row in lines(out)] != list(range(50))
    assert [row.columns["label"] for row in read_results(out)] == list(range(50))


def test_async_iterables_and_generators(calls: Any, out: Path) -> None:
    async def rows() -> AsyncIterator[str]:
        for number in range(30):
            await asyncio.sleep(0)
            yield f"p{number}"

    assert bulk(rows(), calls).ok == 30
    assert bulk((f"q{number}" for number in range(30)), calls, out).ok == 30
    assert calls.asked == 60
    again = bulk((f"q{number}" for number in range(40)), calls, out)
    assert (again.total, again.ok, again.skipped) == (40, 40, 30)
    assert calls.asked == 70


def test_a_table_and_a_template(calls: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('custom_id,text,lang,temperature\na,"Hello, you",Dutch,0\nb,Bye,Greek,\n')
    result = bulk(path, calls, prompt="To {{lang}}: {{text}}")
    assert [row.text for row in result] == ["re: To Dutch: Hello, you", "re: To Greek: Bye"]
    assert [body.get("temperature") for body in calls.bodies] == [0, None]
    with pytest.raises(RequestFileError, match="'txt' is undefined"):
        bulk(path, calls, prompt="{{txt}}")
    assert calls.asked == 2


def test_no_rows_are_a_run_too(calls: Any, out: Path) -> None:
    assert bulk([], calls, out).complete
    assert bulk(iter([]), calls).total == 0
    assert out.read_bytes() == b""


def test_odd_texts_survive(calls: Any, out: Path) -> None:
    texts = ["NUL \0", "é𝕏\u2028\u2029\x85", 'a"\\\n', "\x7f\x1f", "x" * 200_000]
    bulk([{"prompt": text, "column": text} for text in texts], calls, out)
    assert [row.text for row in read_results(out)] == [f"re: {text}" for text in texts]
    assert [row.columns["column"] for row in read_results(out)] == texts
    assert len(out.read_bytes().decode().splitlines()) == len(texts)


# -- resuming ------------------------------------------------------------------------------------------------


def test_a_rerun_asks_nothing_that_is_done(calls: Any, write: Any, out: Path) -> None:
    path = write(prompts(20))
    bulk(path, calls, out)
    before = out.read_bytes()
    again = bulk(path, calls, out)
    assert calls.asked == 20
    assert (again.total, again.ok, again.skipped) == (20, 20, 20)
    assert again.spent_before == 10.0
    assert again.usage.total.requests == 0
    assert out.read_bytes() == before
    assert [row.text for row in again] == [f"re: p{number}" for number in range(20)]


def test_what_was_spent_is_told_with_what_rows_had_cost_before_they_were_done_again(calls: Any, out: Path) -> None:
    bulk(prompts(20), calls, out)
    for temperature in (1, 2):
        bulk(prompts(20), calls, out, temperature=temperature, redo_changed=True)
    assert bulk(prompts(20), calls, out, temperature=2).spent_before == 30.0
    lines = out.read_bytes()
    out.write_bytes(lines[: lines.index(b"\n") + 1] + lines)  # two of one row: the last one tells of all its asks
    journal = Journal(out, KeyTable())
    assert (journal.lines, journal.cost) == (21, 30.0)
    journal.finish()
    out.write_bytes(lines)
    bulk([*prompts(20), {"prompt": "new"}], calls, out, temperature=2)
    assert bulk(prompts(20), calls, out, temperature=2).spent_before == 30.5


def test_one_line_inserted_at_the_top_is_one_row_asked(calls: Any, write: Any, out: Path) -> None:
    bulk(write(prompts(20)), calls, out)
    again = bulk(write([{"prompt": "new", "label": -1}, *prompts(20)]), calls, out)
    assert calls.prompts["new"] == 1
    assert calls.asked == 21
    assert (again.total, again.skipped) == (21, 20)
    assert [row.columns["label"] for row in again] == [-1, *range(20)]
    assert {row["bulkllm"]["columns"]["label"]: row["bulkllm"]["index"] for row in lines(out)} == {
        label: label + 1 for label in range(-1, 20)
    }


def test_equal_rows_are_told_apart_by_their_number(calls: Any, write: Any, out: Path) -> None:
    same = [{"prompt": "same"}] * 5
    bulk(write(same), calls, out)
    assert calls.asked == 5
    bulk(write([*same, {"prompt": "same"}]), calls, out)
    assert calls.asked == 6
    assert len(lines(out)) == 6
    assert bulk(write(same[:2]), calls, out).skipped == 2


def test_other_columns_of_a_finished_row_are_written_and_nothing_is_asked(calls: Any, write: Any, out: Path) -> None:
    bulk(write(prompts(5)), calls, out)
    relabelled = [{**row, "label": 100 + number} for number, row in enumerate(prompts(5))]
    result = bulk(write(relabelled), calls, out)
    assert calls.asked == 5
    assert labels(out) == [100, 101, 102, 103, 104]
    assert [row.text for row in result] == [f"re: p{number}" for number in range(5)]
    assert len(lines(out)) == 5


def test_a_small_change_is_asked_again_and_a_large_one_only_when_told(calls: Any, write: Any, out: Path) -> None:
    rows = [{**row, "custom_id": f"r{number}"} for number, row in enumerate(prompts(200))]
    bulk(write(rows), calls, out)
    for number in (3, 150):
        rows[number]["prompt"] = f"changed {number}"
    result = bulk(write(rows), calls, out)
    assert (result.ok, result.skipped, calls.asked) == (200, 198, 202)
    assert calls.prompts["changed 3"] == 1
    assert len(lines(out)) == 200
    with pytest.raises(ConfigError, match=r"of the 200 finished rows .* redo_changed"):
        bulk(write(rows), calls, out, temperature=1)
    assert calls.asked == 202
    assert bulk(write(rows), calls, out, temperature=1, redo_changed=True).ok == 200
    assert calls.asked == 402
    assert bulk(write(rows), calls, out, temperature=1).skipped == 200


@pytest.mark.parametrize(
    "change",
    [
        {"model": "openai/n"},
        {"temperature": 1},
        {"system": "be brief"},
        {"api_base": "http://localhost:2/v1"},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_any_change_of_a_request_is_seen_with_and_without_ids(
    calls: Any, write: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    for name, rows in (("bare", prompts(9)), ("ids", [{**row, "custom_id": f"r{row['label']}"} for row in prompts(9)])):
        output = tmp_path / f"{name}.jsonl"
        bulk(write(rows), calls, output)
        with pytest.raises(ConfigError, match=r"[19] of the 9"):
            bulk(write(rows), calls, output, **change)
    assert calls.asked == 18


def test_a_stream_with_changed_rows_stops_too(calls: Any, out: Path) -> None:
    rows = [{"prompt": f"p{number}", "custom_id": f"r{number}"} for number in range(9)]
    bulk(iter(rows), calls, out)
    with pytest.raises(ConfigError, match="redo_changed"):
        bulk(iter(rows), calls, out, temperature=1)
    assert calls.asked == 9


def test_a_new_port_under_a_declared_name_changes_nothing(calls: Any, write: Any, out: Path) -> None:
    path = write(prompts(9))
    bulk(path, calls, out, api_base="http://localhost:1/v1", endpoint="lab")
    again = bulk(path, calls, out, api_base="http://localhost:2/v1", endpoint="lab")
    assert (calls.asked, again.skipped) == (9, 9)


def test_what_cannot_change_an_answer_may_change(calls: Any, write: Any, out: Path) -> None:
    path = write(prompts(9))
    bulk(path, calls, out, api_key="sk-one-1234567", timeout=3)
    bulk(path, calls, out, api_key="sk-two-1234567", num_retries=9, max_in_flight=1)
    assert calls.asked == 9


def test_another_input_into_the_same_file_is_asked_about(calls: Any, write: Any, out: Path) -> None:
    bulk(write(prompts(9)), calls, out)
    with pytest.raises(ConfigError, match="redo_changed"):
        bulk(write(prompts(9, start=100)), calls, out)
    assert bulk(write(prompts(30)), calls, out).skipped == 9  # but more rows are just more rows


def test_rows_that_are_gone_from_the_input_stay_in_the_file_and_not_in_the_result(
    calls: Any, write: Any, out: Path
) -> None:
    bulk(write(prompts(9)), calls, out)
    result = bulk(write(prompts(4)), calls, out)
    assert [row.columns["label"] for row in result] == [0, 1, 2, 3]
    assert labels(out) == list(range(9))


def test_limit_asks_only_the_first_rows(calls: Any, write: Any, out: Path) -> None:
    path = write(prompts(50))
    first = bulk(path, calls, out, limit=5)
    assert (first.total, first.ok, calls.asked) == (5, 5, 5)
    assert bulk((f"x{number}" for number in range(50)), calls, limit=3).total == 3
    assert bulk(path, calls, out, limit=0).total == 0
    assert bulk(iter(["a"]), calls, limit=0).total == 0
    assert "a" not in calls.prompts
    assert bulk(path, calls, out).skipped == 5


async def test_an_input_that_is_left_early_is_closed_at_once(calls: Any) -> None:
    closed = []

    async def rows() -> AsyncIterator[str]:
        try:
            for number in range(50):
                yield f"p{number}"
        finally:
            closed.append(True)

    assert (await arun(rows(), call=calls, model="m", limit=3, progress=False)).ok == 3
    assert closed


def test_a_run_holds_its_file(calls: Any, write: Any, out: Path) -> None:
    path = write(prompts(3))

    async def both() -> None:
        calls.gate.clear()
        first = asyncio.create_task(arun(path, call=calls, model="m", output=out, progress=False))
        while not calls.asked:
            await asyncio.sleep(0.001)
        with pytest.raises(RunLocked):
            await arun(path, call=calls, model="m", output=out, progress=False)
        calls.gate.set()
        assert (await first).ok == 3

    asyncio.run(both())
    assert calls.asked == 3


# -- failures ------------------------------------------------------------------------------------------------


def test_a_row_that_fails_is_a_row(calls: Any, error: Any, write: Any, out: Path) -> None:
    calls.errors = {
        "p1": error("Timeout", 408),
        "p2": error("BadRequestError", 400, "bad sk-proj-abcdefghijklmnop", llm_provider="openai"),
        "p3": LimitTimeout("no quota within 3 s"),
        "p4": ImpossibleRequest("too large"),
        "p5": KeyError("a bug"),
    }
    path = write(prompts(8))
    result = bulk(path, calls, out)
    assert (result.ok, result.failed, result.undone, result.complete) == (3, 5, 0, True)
    failed = {row.columns["label"]: row.error for row in result if row.error is not None}
    assert {label: problem.code for label, problem in failed.items()} == {
        1: "Timeout", 2: "BadRequestError", 3: "LimitTimeout", 4: "ImpossibleRequest", 5: "KeyError",
    }  # fmt: skip
    assert failed[2].status == 400
    assert "sk-proj" not in out.read_text()
    calls.errors.clear()
    calls.forget()
    again = bulk(path, calls, out)  # what may pass is asked again
    assert dict(calls.prompts) == {"p1": 1, "p3": 1}
    assert (again.ok, again.failed, again.skipped) == (5, 3, 6)
    calls.forget()
    last = bulk(path, calls, out, retry_failed=True)
    assert dict(calls.prompts) == {"p2": 1, "p4": 1, "p5": 1}
    assert (last.ok, last.failed) == (8, 0)
    assert len(lines(out)) == 8


def test_a_key_given_for_the_call_is_not_shown(calls: Any, error: Any, out: Path) -> None:
    calls.errors = {"a": error("Timeout", None, "key=my-own-secret refused; header other-secret")}
    row = {"prompt": "a", "api_key": "my-own-secret", "extra_headers": {"X-Auth": "other-secret"}}
    bulk([row], calls, out)
    assert calls.bodies[0]["api_key"] == "my-own-secret"
    assert "secret" not in out.read_text()


@pytest.mark.parametrize(
    ("name", "status", "more", "cure"),
    [
        ("AuthenticationError", 401, {}, "API key"),
        ("PermissionDeniedError", 403, {}, "API key"),
        ("NotFoundError", 404, {}, "model's name"),
        ("RateLimitError", 429, {"body": {"error": {"code": "insufficient_quota"}}}, "quota"),
        ("BadRequestError", 400, {"llm_provider": ""}, "with its provider"),
    ],
)
def test_a_pool_that_cannot_work_is_stopped(
    calls: Any, error: Any, write: Any, out: Path, name: str, status: int, more: dict[str, Any], cure: str
) -> None:
    broken = error(name, status, **more)

    def expire(request: Any) -> None:
        if calls.asked > 40:
            raise broken

    calls.on_call = expire
    path = write(prompts(1000))
    result = bulk(path, calls, out, max_in_flight=8)
    assert result.ok == 40
    assert 10 <= result.failed <= 17  # those in flight when the tenth was refused
    assert result.undone == 1000 - result.ok - result.failed
    assert calls.asked == result.ok + result.failed
    assert result.stopped is not None
    assert name in result.stopped
    assert cure in result.stopped
    assert "openai/m" in result.stopped
    assert not result.complete
    calls.on_call = None
    again = bulk(path, calls, out)
    assert (again.ok, again.failed, again.skipped, again.stopped) == (1000, 0, 40, None)
    assert len(lines(out)) == 1000


def test_refusals_that_are_not_in_a_row_stop_nothing(calls: Any, error: Any) -> None:
    calls.errors = {f"p{number}": error("AuthenticationError", 401) for number in range(100) if number % 5}
    result = bulk(prompts(100), calls, max_in_flight=1)
    assert (result.ok, result.failed, result.stopped) == (20, 80, None)


def test_other_failures_in_between_do_not_hide_a_dead_key(calls: Any, error: Any) -> None:
    calls.errors = {f"p{number}": error("AuthenticationError", 401) for number in range(100)}
    calls.errors |= {f"p{number}": error("InternalServerError", 500) for number in range(0, 100, 3)}
    assert bulk(prompts(100), calls, max_in_flight=1).undone > 80


def test_a_stopped_pool_does_not_hold_the_others_up(calls: Any, error: Any) -> None:
    rows = [{"prompt": f"p{number}", "model": "openai/dead" if number % 2 else "openai/alive"} for number in range(200)]
    calls.errors = {f"p{number}": error("NotFoundError", 404) for number in range(1, 200, 2)}
    for requests in (rows, iter(rows)):
        result = bulk(requests, calls, max_in_flight=4)
        assert result.ok == 100
        assert 10 <= result.failed <= 14
        assert result.stopped is not None
        assert "openai/dead" in result.stopped
        assert "alive" not in result.stopped


def test_a_stream_whose_only_pool_is_stopped_is_not_read_to_its_end(calls: Any, error: Any) -> None:
    read = 0

    def rows() -> Iterator[str]:
        nonlocal read
        for number in range(100_000):
            read += 1
            yield f"p{number}"

    calls.on_call = lambda request: calls.errors.update(
        {request.body["messages"][0]["content"]: error("NotFoundError", 404)}
    )
    assert bulk(rows(), calls, max_in_flight=4).failed < 20
    assert read < 30


async def test_rows_of_stopped_pools_take_no_room_from_a_streams_others(calls: Any, error: Any) -> None:
    rows = [{"prompt": "first", "model": "alive"}]
    rows += [{"prompt": f"{pool}{number}", "model": f"dead-{pool}"} for pool in "abcd" for number in range(20)]
    rows += [{"prompt": f"p{number}", "model": "alive"} for number in range(50)]

    async def call(request: Any) -> Any:
        if request.model == "alive":
            return await calls(request)
        await asyncio.sleep(0.01)  # time for more of them to be read
        raise error("NotFoundError", 404)

    run = arun(iter(rows), call=call, max_in_flight=4, progress=False)
    result = await asyncio.wait_for(run, 20)
    assert result.ok == 51


def test_a_budget_that_is_spent_ends_the_run(calls: Any, out: Path) -> None:
    def spent(request: Any) -> None:
        if calls.asked > 10:
            raise BudgetExceeded("the budget of $5.00 is spent")

    calls.on_call = spent
    result = bulk(prompts(100), calls, out, max_in_flight=4)
    assert (result.ok, result.failed, result.undone) == (10, 0, 90)
    assert result.stopped is not None
    assert result.stopped.count("budget of $5.00") == 1
    assert len(lines(out)) == 10


# -- bad rows ------------------------------------------------------------------------------------------------


def test_a_bad_line_is_found_before_anything_is_asked(calls: Any, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt":"a"}\n{"prompt":5}\n')
    with pytest.raises(RequestFileError, match=r'in.jsonl:2: "prompt" must be text') as caught:
        bulk(path, calls, out)
    assert caught.value.line == 2
    assert calls.asked == 0
    assert not (tmp_path / "results.jsonl.lock").exists()


def test_bad_lines_fail_one_by_one_when_told(calls: Any, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"prompt":"a"}\n{broken\n{"custom_id":"x","prompt":5}\n{"custom_id":"y","prompt":"b"}\n'
        '{"custom_id":"y","prompt":"c"}\n\n{broken\n{"prompt":"\\ud83d"}\n[1]\n{"prompt":"z"}\n'
    )
    result = bulk(path, calls, out, skip_bad=True)
    assert (result.total, result.ok, result.failed) == (9, 3, 6)
    assert sorted(calls.prompts) == ["a", "b", "z"]
    errors = {row.index: row.error for row in result if row.error is not None}
    assert set(errors) == {1, 2, 4, 5, 6, 7}
    assert {problem.code for problem in errors.values()} == {"RequestFileError"}
    assert "in.jsonl:2" in errors[1].message
    assert '"prompt" must be text' in errors[2].message
    assert "was there before" in errors[4].message
    assert [row.custom_id for row in result] == [None, None, "x", "y", "y", None, None, None, None]
    calls.forget()
    assert bulk(path, calls, out, skip_bad=True).skipped == 9
    path.write_text(
        path.read_text().replace('"prompt":5', '"prompt":"mended"').replace("{broken\n", '{"prompt":"whole"}\n')
    )
    mended = bulk(path, calls, out, skip_bad=True)
    assert dict(calls.prompts) == {"mended": 1, "whole": 2}
    assert (mended.ok, mended.failed) == (6, 3)
    assert len(lines(out)) == 9


def test_a_repeated_custom_id_is_refused_before_a_cent_is_spent(calls: Any, write: Any, out: Path) -> None:
    rows = [{"custom_id": f"r{number % 9}", "prompt": f"p{number}"} for number in range(10)]
    with pytest.raises(RequestFileError, match=r"in.jsonl:10: custom_id 'r0' was there before, in row 1"):
        bulk(write(rows), calls, out)
    assert calls.asked == 0
    with pytest.raises(RequestFileError, match="was there before"):
        bulk(iter(rows), calls, out, max_in_flight=1)
    assert calls.asked <= 9  # of a stream on arrival, and what was asked is kept
    assert len(lines(out)) == calls.asked
    assert bulk(iter(rows), calls, out, skip_bad=True).failed == 1


# -- how many at once ----------------------------------------------------------------------------------------


def test_no_more_rows_are_in_flight_than_allowed_and_no_more_are_read(calls: Any) -> None:
    read = 0

    def rows() -> Iterator[str]:
        nonlocal read
        for number in range(200):
            read += 1
            assert read - calls.asked <= 8
            yield f"p{number}"

    assert bulk(rows(), calls, max_in_flight=5).ok == 200
    assert calls.peak == 5
    assert bulk(prompts(200), calls, max_in_flight=7).ok == 200
    assert calls.peak == 7


@pytest.mark.parametrize("streamed", [False, True])
def test_a_slow_pool_holds_nobody_up(calls: Any, streamed: bool) -> None:
    """The slow model's rows come first and never end before all of the fast one's are done."""
    rows = [{"prompt": f"s{number}", "model": "slow"} for number in range(30)]
    rows += [{"prompt": f"f{number}", "model": "fast"} for number in range(100)]
    if streamed:  # of a stream some rows may wait in memory, so the pools must be met before it is full
        rows = [rows[0], rows[-1], *rows[1:-1]]
    done = asyncio.Event()
    fast = 0

    async def call(request: Any) -> Any:
        nonlocal fast
        if request.model == "slow":
            await done.wait()
        answer = await calls(request)
        if request.model == "fast":
            fast += 1
            if fast == 100:
                done.set()
        return answer

    result = bulk(iter(rows) if streamed else rows, call, max_in_flight=10)
    assert result.ok == 130


async def test_a_slow_reader_slows_the_run_down(calls: Any) -> None:
    read = 0

    def rows() -> Iterator[str]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield f"p{number}"

    async for row in stream(rows(), call=calls, model="m", max_in_flight=4):
        assert row.ok
        break
    await asyncio.sleep(0.01)
    assert read < 100


async def test_a_stream_gives_each_row_once_as_it_finishes(calls: Any, out: Path) -> None:
    seen = [row.text async for row in stream(prompts(300), call=calls, model="m", output=out)]
    assert sorted(map(str, seen)) == sorted(f"re: p{number}" for number in range(300))
    assert len(lines(out)) == 300
    assert [row async for row in stream(prompts(300), call=calls, model="m", output=out)] == []


async def test_leaving_a_stream_early_lets_go_of_everything(calls: Any, out: Path) -> None:
    rows = stream(prompts(300), call=calls, model="m", output=out, max_in_flight=3)
    async for _ in rows:
        break
    await rows.aclose()  # type: ignore[attr-defined]  # it is an async generator
    assert calls.in_flight == 0
    assert len(asyncio.all_tasks()) == 1
    kept = len(lines(out))
    assert 1 <= kept < 300
    calls.forget()
    assert (await arun(prompts(300), call=calls, model="m", output=out, progress=False)).skipped == kept
    assert calls.asked == 300 - kept


async def test_a_stream_that_was_stopped_says_so(calls: Any, error: Any) -> None:
    calls.errors = {f"p{number}": error("AuthenticationError", 401) for number in range(300)}
    rows: list[ResultRow] = []

    async def read() -> None:
        async for row in stream(prompts(300), call=calls, model="m", max_in_flight=3):
            rows.append(row)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(BulkLLMError, match="check the API key"):
        await read()
    assert 10 <= len(rows) < 20


async def test_errors_of_a_stream_are_raised_in_it(calls: Any) -> None:
    with pytest.raises(ConfigError, match="max_in_flight"):
        async for _ in stream(prompts(3), call=calls, model="m", max_in_flight=0):
            pass
    with pytest.raises(RequestFileError):
        async for _ in stream([5], call=calls, model="m"):
            pass


# -- the user's own code -------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_on_result_is_given_each_row(calls: Any, error: Any, out: Path, asynchronous: bool) -> None:
    calls.errors = {"p3": error("Timeout", 408)}
    seen: list[tuple[int, bool]] = []

    def told(row: ResultRow) -> None:
        seen.append((row.columns["label"], row.ok))

    async def atold(row: ResultRow) -> None:
        await asyncio.sleep(0)
        told(row)

    bulk(prompts(9), calls, out, on_result=atold if asynchronous else told)
    assert sorted(seen) == [(number, number != 3) for number in range(9)]


def test_what_on_result_raises_ends_the_run_in_order(calls: Any, out: Path) -> None:
    def told(row: ResultRow) -> None:
        raise ZeroDivisionError("the user's own")

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        bulk(prompts(100), calls, out, on_result=told, max_in_flight=4)
    assert calls.asked <= 8
    assert len(lines(out)) == calls.asked  # those in flight were paid, and are kept


def test_what_a_progress_hook_raises_ends_the_run_in_order(
    calls: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(progress: Progress) -> None:
        raise ZeroDivisionError("the hook's own")

    async def slow(request: Any) -> Any:
        await asyncio.sleep(0.01)
        return await calls(request)

    monkeypatch.setattr("bulkllm.bulk.progress.Hook.every", 0.02)
    monkeypatch.setattr("bulkllm.bulk.progress.Hook.end", lambda *_: None)
    with pytest.raises(ZeroDivisionError, match="the hook's own"):
        bulk(prompts(10_000), slow, out, progress=told, max_in_flight=2)
    assert len(lines(out)) == calls.asked < 10_000


def test_what_the_input_raises_ends_the_run_in_order(calls: Any, out: Path) -> None:
    async def rows() -> AsyncIterator[str]:
        for letter in "abc":
            yield letter
        while calls.asked < 3:
            await asyncio.sleep(0)
        raise ZeroDivisionError("the input's own")

    with pytest.raises(ZeroDivisionError, match="the input's own"):
        bulk(rows(), calls, out)
    assert len(lines(out)) == calls.asked == 3


async def test_a_cancelled_run_lets_go_of_everything(calls: Any, write: Any, out: Path) -> None:
    calls.gate.clear()
    path = write(prompts(50))
    task = asyncio.create_task(arun(path, call=calls, model="m", output=out, max_in_flight=5, progress=False))
    while calls.in_flight < 5:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls.in_flight == 0
    assert len(asyncio.all_tasks()) == 1
    calls.gate.set()
    assert (await arun(path, call=calls, model="m", output=out, progress=False)).ok == 50


async def test_a_run_that_is_cancelled_again_and_again_lets_go_of_everything(calls: Any, out: Path) -> None:
    """As cancel scopes do: each time that the loop comes round."""

    async def ask(request: Any) -> Any:
        try:
            return await calls(request)
        finally:
            for _ in range(5):  # it takes its time to go
                await asyncio.sleep(0)

    calls.gate.clear()
    task = asyncio.create_task(arun(["a", "b"], call=ask, model="m", output=out, progress=False))
    while calls.in_flight < 2:
        await asyncio.sleep(0.001)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert calls.in_flight == 0
    calls.gate.set()
    assert (await arun(["a", "b"], call=calls, model="m", output=out, progress=False)).ok == 2


async def test_a_run_cancelled_while_it_reads_its_input_lets_go_of_its_file(calls: Any, out: Path) -> None:
    class Endless(list[str]):
        """A list that is being scanned when the run is cancelled."""

        def __iter__(self) -> Iterator[str]:
            yield "a"
            asyncio.run_coroutine_threadsafe(cancel(), loop).result()
            for number in range(1_000_000):
                yield f"p{number}"
            raise AssertionError("the scan went on")

    async def cancel() -> None:
        task.cancel()

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(arun(Endless(["a"]), call=calls, model="m", output=out, progress=False))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls.asked == 0
    assert (await arun(["b"], call=calls, model="m", output=out, progress=False)).ok == 1


async def test_run_works_inside_a_running_loop(calls: Any) -> None:
    result = bulk(prompts(9), calls)  # as in a notebook
    assert result.ok == 9
    with pytest.raises(ConfigError, match="max_in_flight"):
        bulk(prompts(9), calls, max_in_flight=0)


def test_a_row_that_somebody_else_cancels_stays_undone_and_the_run_says_so(
    calls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def call(request: Any) -> Any:
        if calls.asked == 3:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return await calls(request)

    with caplog.at_level(logging.WARNING):
        result = bulk(prompts(9), call, max_in_flight=1)
    assert (result.ok, result.failed, result.undone, result.complete) == (8, 0, 1, False)
    assert "row 4 was cancelled" in caplog.text
    assert result.stopped is not None
    assert "1 rows were cancelled by somebody outside" in result.stopped


def test_a_call_that_is_cancelled_from_within_is_a_failed_row_and_asked_again(calls: Any, out: Path) -> None:
    """As when a connection pool that is closed gives up whoever waits for it: nobody asked this row to end."""
    calls.errors = {"p3": asyncio.CancelledError()}
    result = bulk(prompts(9), calls, out)
    assert (result.ok, result.failed, result.undone) == (8, 1, 0)
    (failed,) = [row for row in result if not row.ok]
    assert failed.error is not None
    assert failed.error.code == "CancelledError"
    calls.errors = {}
    assert bulk(prompts(9), calls, out).ok == 9


def test_a_reader_that_is_cancelled_does_not_look_like_the_end_of_the_input(calls: Any, out: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for row in prompts(50):
            if row["label"] == 30:
                task = asyncio.current_task()  # whoever reads
                assert task is not None
                task.cancel()
            yield row

    with pytest.raises(RunStopped, match="reading the requests was cancelled"):
        bulk(rows(), calls, out, max_in_flight=4)
    assert len(lines(out)) == calls.asked < 40


def test_a_file_that_grows_while_it_is_scanned_is_noticed(calls: Any, write: Any, out: Path) -> None:
    path = write(prompts(3))
    bulk(path, calls, out)
    calls.forget()
    source = open_source(path)
    assert isinstance(source, JsonlFile)
    shaper = Shaper(model="openai/m")
    with path.open("a") as file:
        file.write('{"prompt": "late"}\n')
    with pytest.raises(RequestFileError, match="was changed"):
        scan(source, Intake([shaper], KeyTable(), None), limit=0, stop=lambda: False)
    source.close()


def test_a_file_that_changes_under_the_run_ends_it(calls: Any, write: Any, out: Path) -> None:
    path = write(prompts(100))

    def change(request: Any) -> None:
        if calls.asked == 20:
            write(prompts(50))

    calls.on_call = change
    with pytest.raises(RequestFileError, match="was changed"):
        bulk(path, calls, out, max_in_flight=2)
    assert len(lines(out)) == calls.asked < 30


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_in_flight": 0}, "max_in_flight=0"),
        ({"limit": -1}, "limit=-1"),
        ({"progress": "yes"}, "progress="),
        ({"max_inflight": 5}, "'max_in_flight' was meant"),
        ({"ouput": "x"}, "'output' was meant"),
        ({"limits": []}, "exclude each other"),
        ({"model": ["a", "a"]}, "more than once"),
        ({"model": []}, "names no model"),
        ({"model": ["a", None]}, "holds None"),
        ({"context_window_fallbacks": [{}]}, "second layer"),
        ({"stream": True}, "stream=True"),
        ({"prompt": "no column"}, "uses no column"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(calls: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        bulk(prompts(3), calls, **options)
    assert calls.asked == 0


def test_a_preset_gives_its_options(calls: Any) -> None:
    preset = LLMConfig(slug="p", model="openai/preset", temperature=0, system_prompt="Be brief.", extra={"seed": 1})
    bulk(["a"], calls, model=preset, seed=2)
    assert calls.bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: calls.bodies[0][name] for name in ("model", "temperature", "seed")} == {
        "model": "openai/preset",
        "temperature": 0,
        "seed": 2,
    }


# -- a full disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets that many result lines through, then the disk is full; for so many lines if told."""

    def fill(room: int, full_for: int = 1000) -> None:
        real = os.write
        tried = 0

        def write(fd: int, data: bytes) -> int:
            nonlocal tried
            if bytes(data[:4]) == b'{"id':
                tried += 1
                if room < tried <= room + full_for:
                    raise OSError(28, "No space left on device")
            return real(fd, data)

        monkeypatch.setattr(os, "write", write)

    return fill


def test_a_full_disk_stops_the_run_and_loses_nothing(
    calls: Any, write: Any, out: Path, full_disk: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(aside))
    full_disk(25)
    result = bulk(write(prompts(200)), calls, out, max_in_flight=5)
    assert result.stopped is not None
    assert "No space left" in result.stopped
    assert len(lines(out)) == 25
    assert calls.asked <= 36
    (kept,) = aside.iterdir()
    assert str(kept) in result.stopped
    assert kept.stat().st_mode & 0o077 == 0
    assert len(lines(kept)) == calls.asked - 25
    monkeypatch.undo()
    with out.open("ab") as file:
        file.write(kept.read_bytes())
    asked = calls.asked
    again = bulk(write(prompts(200)), calls, out)
    assert (again.ok, again.skipped) == (200, asked)
    assert calls.asked == 200


def test_room_that_comes_free_in_time_is_used(calls: Any, out: Path, full_disk: Any) -> None:
    full_disk(25, full_for=3)
    result = bulk(prompts(200), calls, out, max_in_flight=5)
    assert result.stopped is not None
    assert "were kept" not in result.stopped
    assert len(lines(out)) == calls.asked == result.ok


# -- progress ------------------------------------------------------------------------------------------------


def test_progress_is_told_to_a_function(calls: Any, error: Any) -> None:
    told: list[Progress] = []
    calls.errors = {"p1": error("Timeout", 408)}
    bulk(prompts(9), calls, progress=told.append)
    last = told[-1]
    assert (last.total, last.done, last.ok, last.failed, last.tokens, last.cost) == (9, 9, 8, 1, 40, 4.0)
    assert last.failures == {"Timeout": 1}


def test_progress_goes_to_standard_error(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bulk(prompts(9), calls, progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "bulkllm: 9/9 rows (100 %), none failed" in told.err
    bulk(prompts(9), calls, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("foreign", [b"\n", b"x", b"{}\n"])
def test_a_byte_that_something_else_writes_to_the_results_costs_no_row(calls: Any, out: Path, foreign: bytes) -> None:
    rows: list[dict[str, Any]] = [{"custom_id": str(number), "prompt": f"p{number}"} for number in range(20)]
    bulk(rows[:5], calls, out)
    rows[0]["label"] = 1  # its line is written anew: the file is compacted at the end

    def scribble(row: ResultRow) -> None:
        if row.custom_id == "9":
            with out.open("ab") as file:
                file.write(foreign)

    result = bulk(rows, calls, out, on_result=scribble, max_in_flight=1)
    assert [(row.custom_id, row.text) for row in result] == [(str(number), f"re: p{number}") for number in range(20)]
    assert bulk(rows, calls, out).skipped == 20
    assert calls.asked == 20
