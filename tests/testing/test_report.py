from __future__ import annotations

import dataclasses
import gc
import json
import pickle
import threading
import time
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import pytest

from bulkllm.testing import FakeProvider, Fault, ModelCounts, ProviderReport

Post = Callable[..., Any]


def test_repeated_prompts_are_those_that_were_answered_twice(chat: Post) -> None:
    with FakeProvider(faults=[Fault("status", match="twice", first=1), Fault("status", match="never")]) as server:
        chat(server, "once")
        for _ in range(2):
            chat(server, "twice")
            chat(server, "never")
        report = server.report()
        assert (report.requests, report.successes, report.failed) == (5, 2, 3)
        assert (report.repeated_requests, report.repeated_prompts) == (2, 0)
        chat(server, "once", temperature=0.5)
        chat(server, "once", model="other")
        report = server.report()
    assert (report.repeated_requests, report.repeated_prompts) == (3, 1)


def test_refused_requests_are_repeated_requests_but_no_repeated_prompts(chat: Post) -> None:
    with FakeProvider(rpm=1) as server:
        for _ in range(3):
            chat(server, "same")
        report = server.report()
    assert (report.requests, report.successes, report.refused) == (3, 1, 2)
    assert (report.repeated_requests, report.repeated_prompts) == (2, 0)


def test_everything_is_told_by_model(chat: Post) -> None:
    with FakeProvider(reply="1234" * 10, faults=[Fault("status", model="b")]) as server:
        chat(server, "12345678", model="a")
        chat(server, "12345678", model="a", max_tokens=3)
        chat(server, model="b")
        report = server.report()
    assert report.models == {
        "a": ModelCounts(requests=2, successes=2, peak_in_flight=1, input_tokens=18, output_tokens=13),
        "b": ModelCounts(requests=1, failed=1, peak_in_flight=1),
    }
    assert (report.input_tokens, report.output_tokens, report.statuses) == (18, 13, {200: 2, 500: 1})
    assert (report.peak_in_flight, report.in_flight) == (1, 0)


def test_the_report_survives_json_and_pickle_and_cannot_be_changed(chat: Post) -> None:
    with FakeProvider(record_times=True, faults=[Fault("status", first=1)]) as server:
        for _ in range(3):
            chat(server)
        report = server.report()
    assert ProviderReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301 - our own bytes
    assert len(report.admitted_at) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.requests = 0  # type: ignore[misc]  # the point of the test


def test_an_empty_report_has_no_span() -> None:
    with FakeProvider() as server:
        report = server.report()
    assert report == ProviderReport()
    assert (report.span, report.first_at) == (0.0, None)


def test_a_reset_forgets_all_and_what_is_in_flight_does_not_come_back(chat: Post) -> None:
    def forgotten(latency: float) -> tuple[bool, ProviderReport]:
        with FakeProvider(latency=lambda body: latency if body["messages"][0]["content"] == "slow" else 0) as server:
            chat(server, "quick")
            slow = threading.Thread(target=chat, args=(server, "slow"))
            slow.start()
            while server.report().requests < 2:
                time.sleep(0.001)
            in_time = server.report().in_flight == 1
            server.reset()
            assert server.report() == ProviderReport()
            slow.join()
            assert server.report() == ProviderReport()
            chat(server, "quick")
            return in_time, server.report()

    in_time, report = forgotten(0.1)
    if not in_time:  # the machine stood still until the slow one had its answer
        in_time, report = forgotten(3.0)
    assert in_time
    assert (report.requests, report.successes, report.repeated_prompts) == (1, 1, 0)


def test_report_limits_and_reset_over_http(post: Post, chat: Post) -> None:
    with FakeProvider() as server:
        chat(server)
        told = post(server, "/__report__", method="GET")
        assert ProviderReport.from_dict(told.json) == server.report()
        assert post(server, "/__limits__", {"rpm": 1}).json == {"ok": True}
        assert [chat(server).status for _ in range(2)] == [200, 429]
        assert post(server, "/__limits__", {"model": "m", "rpm": None}).status == 200
        assert chat(server).status == 200
        wrong = post(server, "/__limits__", {"rps": 1})
        assert (wrong.status, wrong.json["error"][:16]) == (400, "'rps' is no limi")
        assert post(server, "/__limits__", [1]).status == 400
        assert post(server, "/__revoke__", {}).status == 400
        assert post(server, "/__other__", {}).status == 404
        assert post(server, "/__reset__").json == {"ok": True}
        assert server.report() == ProviderReport()


def test_no_prompt_is_kept(chat: Post) -> None:
    with FakeProvider(keys=["sk-very-secret"]) as server:
        chat(server, "a very secret prompt", key="sk-very-secret")
        chat(server, "a very secret prompt", key="sk-very-secret", stream=True)
    reached: dict[int, object] = {}
    ahead: list[object] = [server]
    while ahead:
        thing = ahead.pop()
        if id(thing) not in reached and not isinstance(thing, type | ModuleType | FunctionType):
            reached[id(thing)] = thing
            ahead += gc.get_referents(thing)
    assert any(isinstance(thing, bytes) for thing in reached.values())
    assert not [thing for thing in reached.values() if isinstance(thing, str | bytes) and "secret" in str(thing)]
