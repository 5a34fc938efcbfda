from __future__ import annotations

from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.testing import Fault
from bulkllm.testing.faults import FaultPlan
from bulkllm.testing.text import digest


def met(fault: Fault, requests: int, *, seed: int = 0, **request: Any) -> list[int]:
    """Which of so many requests, each with a prompt of its own, meet the fault; counted from 1."""
    plan = FaultPlan([fault], seed)
    fields: dict[str, Any] = {"model": "m", "stream": False, "prompt": "p", **request}
    return [
        number
        for number in range(1, requests + 1)
        if plan.choose(fields["model"], fields["prompt"], digest(number), 0, stream=fields["stream"])
    ]


def test_conditions_by_number() -> None:
    assert met(Fault("reset"), 3) == [1, 2, 3]
    assert met(Fault("reset", every=3), 10) == [3, 6, 9]
    assert met(Fault("reset", first=2), 10) == [1, 2]
    assert met(Fault("reset", after=8), 10) == [9, 10]
    assert met(Fault("reset", after=3, first=4, every=2), 20) == [5, 7]


def test_conditions_on_the_request() -> None:
    assert met(Fault("reset", match="poison"), 2, prompt="no poi") == []
    assert met(Fault("reset", match="poison"), 2, prompt="a poisonous one") == [1, 2]
    assert met(Fault("reset", model="other"), 2) == []
    assert met(Fault("cut_stream"), 2) == []
    assert met(Fault("cut_stream"), 2, stream=True) == [1, 2]


def test_a_rate_is_kept_and_depends_on_the_seed() -> None:
    first, again, other = (met(Fault("reset", rate=0.05), 4000, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert 140 < len(first) < 260
    assert met(Fault("reset", rate=0.0), 500) == []
    assert len(met(Fault("reset", rate=1.0), 500)) == 500


def test_a_rate_does_not_depend_on_the_order_but_on_the_attempt() -> None:
    fault = Fault("reset", rate=0.5)
    forwards, backwards = FaultPlan([fault], 0), FaultPlan([fault], 0)
    numbers = range(200)

    def chosen(plan: FaultPlan, number: int, asked_before: int = 0) -> bool:
        return plan.choose("m", "", digest(number), asked_before, stream=False) is not None

    one = {number: chosen(forwards, number) for number in numbers}
    two = {number: chosen(backwards, number) for number in reversed(numbers)}
    assert one == two
    # Whoever is asked a second time draws anew, or a retry would never succeed.
    assert {number: chosen(forwards, number, 1) for number in numbers} != one


def test_the_first_fault_that_fits_has_the_request_and_all_go_on_counting() -> None:
    first, second = Fault("reset", every=2), Fault("close", every=3)
    plan = FaultPlan([first, second], 0)
    chosen = [plan.choose("m", "", digest(number), 0, stream=False) for number in range(1, 7)]
    assert chosen == [None, first, second, first, None, first]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "typo"}, "no such kind; there are: status, quota"),
        ({"kind": "reset", "rate": 5}, "a share from 0 to 1"),
        ({"kind": "reset", "every": 0}, "every=0"),
        ({"kind": "reset", "delay": -1}, "delay=-1"),
        ({"kind": "status", "status": 42}, "status=42"),
    ],
)
def test_a_fault_that_can_never_be_meant_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Fault(**fields)


def test_only_faults_are_faults() -> None:
    with pytest.raises(ConfigError, match="takes Fault objects, not str"):
        FaultPlan(["reset"], 0)  # type: ignore[list-item]  # wrong on purpose
