"""Budgets of clients and scopes around real flows: what is held, what is spent, who waits, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm import Budget, BudgetExceeded, Client, ConfigError, LimitTimeout, Price, RetryPolicy, Usage, UsageTracker
from bulkllm.calls import record_of, record_of_error
from bulkllm.calls.call import Call
from bulkllm.calls.failure import Failure
from bulkllm.calls.fold import StreamFold
from bulkllm.calls.lane import Answer, Rates, Target
from bulkllm.testing import FakeProvider

MODEL = "openai/gpt-5-mini"
MESSAGES = [{"role": "user", "content": "x" * 160}]  # 40 tokens and 4 for the message
TIMED_OUT = Failure("timeout", charge_unknown=True)
REFUSED = Failure("rate_limit", 429, retry_after=0.0)


class ProviderError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.kind)
        self.failure = failure


class Lane:
    """Answers with what a script says; a cent for each token."""

    def __init__(
        self, *script: Any, longest: int | None = None, price: float | None = 0.01, per_request: float = 0.0
    ) -> None:
        self.script: Iterator[Any] = iter(script)
        self.longest = longest
        self.unit = price
        self.per_request = per_request
        self.sent = 0

    def load(self) -> None: ...

    def target(self, model: str, options: Mapping[str, Any]) -> Target:
        return Target(model, "openai")

    def price(self, call: Call) -> Rates | None:
        return None if self.unit is None else Rates(self.unit, self.unit, self.per_request)

    def longest_answer(self, call: Call) -> int | None:
        return self.longest

    def send(self, call: Call) -> Any:
        self.sent += 1
        told = next(self.script)
        if isinstance(told, Failure):
            raise ProviderError(told)
        if isinstance(told, BaseException):
            raise told
        if call.stream:
            return iter(told)
        return SimpleNamespace(told=told, _hidden_params={})

    async def asend(self, call: Call) -> Any:
        return self.send(call)

    def failure(self, error: BaseException) -> Failure:
        return error.failure if isinstance(error, ProviderError) else Failure("request")

    def timed_out(self, call: Call) -> Exception:
        return TimeoutError()

    def from_cache(self, stream: Any) -> bool:
        return False

    def headers(self, response: Any) -> Mapping[str, str] | None:
        return None

    def answer(self, call: Call, response: Any) -> Answer:
        if callable(response.told):
            response.told()
        used: Usage = response.told
        return Answer(usage=used, cost=None if self.unit is None else used.total_tokens * self.unit)

    def streamed_answer(self, call: Call, fold: StreamFold, stream: Any) -> Answer:
        raise ValueError("a calculator that breaks")


def client(*script: Any, budget: Budget | None = None, attempts: int = 3, **lane: Any) -> Client:
    return Client(retry=RetryPolicy(max_attempts=attempts, base_delay=0.0), budget=budget, lane=Lane(*script, **lane))


def ask(one: Client, **options: Any) -> Any:
    return one.completion(MODEL, MESSAGES, **{"max_tokens": 56, **options})  # a dollar as estimated: 44 + 56 cents


# -- attempts of which nobody knows the charge ---------------------------------------------------------------


def test_a_timed_out_attempt_before_an_answer_is_told_and_stays_spent() -> None:
    budget = Budget(10.00, max_requests=5)
    record = record_of(ask(client(TIMED_OUT, Usage(40, 10), budget=budget)))
    assert (record.outcome, record.attempts, record.charge_unknown) == ("ok", 2, True)
    assert record.cost == pytest.approx(0.50)
    assert record.uncertain_cost == pytest.approx(1.00)
    assert (record.total_tokens, record.uncertain_tokens) == (50, 100)
    assert budget.spent == pytest.approx((1.50, 150, 1))
    assert not any(budget.held)


def test_refused_attempts_are_counted_and_cost_nothing() -> None:
    budget = Budget(10.00)
    record = record_of(ask(client(REFUSED, REFUSED, Usage(40, 10), budget=budget)))
    assert (record.refused, record.attempts, record.charge_unknown, record.uncertain_cost) == (2, 3, False, 0.0)
    assert budget.spent.cost == pytest.approx(0.50)


def test_an_attempt_lost_before_a_refusal_leaves_the_cost_unknown() -> None:
    budget = Budget(10.00)
    with pytest.raises(ProviderError) as caught:
        ask(client(TIMED_OUT, Failure("request", 400), budget=budget))
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.cost, record.charge_unknown) == (None, True)
    assert record.uncertain_cost == pytest.approx(1.00)
    assert record.cost_note is not None
    assert budget.spent.cost == pytest.approx(1.00), "the second attempt was refused and is free"


def test_a_retry_needs_room_of_its_own_and_the_error_is_the_attempts_own() -> None:
    budget = Budget(1.50)
    one = client(TIMED_OUT, Usage(40, 10), budget=budget)
    with pytest.raises(ProviderError):
        ask(one)
    assert budget.spent.cost == pytest.approx(1.00)
    assert one.usage.total.attempts == 1
    with pytest.raises(BudgetExceeded):
        ask(one)
    assert one.usage.total.uncertain_cost == pytest.approx(1.00)


def test_each_lost_attempt_is_expected_to_cost_the_request_as_well() -> None:
    budget = Budget(10.00)
    record = record_of(ask(client(TIMED_OUT, TIMED_OUT, Usage(40, 10), budget=budget, per_request=0.25)))
    assert record.uncertain_cost == pytest.approx(2 * 1.25)
    assert budget.spent.cost == pytest.approx(2 * 1.25 + 0.50)


def test_a_lost_response_is_expected_to_take_what_a_completion_takes() -> None:
    lost = []
    for ask_with in ("completion", "responses"):
        one = client(TIMED_OUT, attempts=1)
        with pytest.raises(ProviderError) as caught:
            getattr(one, ask_with)(MODEL, MESSAGES)
        lost.append(record_of_error(caught.value))
    completion, response = lost
    assert completion is not None
    assert response is not None
    assert completion.uncertain_tokens > 500
    assert (response.uncertain_tokens, response.uncertain_cost) == (
        completion.uncertain_tokens,
        completion.uncertain_cost,
    )


def test_where_the_price_is_unknown_so_is_what_a_lost_attempt_cost() -> None:
    record = record_of(ask(client(TIMED_OUT, Usage(40, 10), price=None)))
    assert (record.charge_unknown, record.uncertain_cost, record.uncertain_tokens) == (True, None, 100)


# -- deadlines and waiting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_task", [False, True], ids=["thread", "task"])
def test_a_call_waits_for_the_budget_until_its_deadline(in_task: bool) -> None:
    budget = Budget(1.20)
    other = budget.hold(cost=1.00).acquire()

    def late(deadline: float) -> tuple[Client, str]:
        one = client(Usage(40, 10), budget=budget)

        def work() -> None:
            if in_task:
                asyncio.run(one.acompletion(MODEL, MESSAGES, max_tokens=56, deadline=deadline))
            else:
                ask(one, deadline=deadline)

        with pytest.raises(LimitTimeout) as caught:
            work()
        return one, str(caught.value)

    deadline = 0.05
    one, message = late(deadline)
    if one.usage.total.waited < 0.8 * deadline:  # the machine stood still until it was over
        deadline = 2.0
        one, message = late(deadline)
    told = re.match(r"no room came free in the budget within ([\d.]+) s", message)
    assert told is not None
    assert 0 < float(told[1]) <= deadline
    assert one.usage.by_outcome["LimitTimeout"].attempts == 0
    assert one.usage.total.waited >= 0.8 * deadline
    other.settle(cost=0.10)
    assert record_of(ask(one)).ok
    assert not any(budget.held)
    assert budget.spent.cost == pytest.approx(0.60)


async def test_a_cancelled_wait_holds_nothing() -> None:
    budget = Budget(1.20)
    one = client(Usage(40, 10), budget=budget)
    other = budget.hold(cost=1.00).acquire()
    waiting = asyncio.create_task(one.acompletion(MODEL, MESSAGES, max_tokens=56))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    other.refund()
    assert not any((*budget.held, *budget.spent))
    assert one.usage.by_outcome["cancelled"].attempts == 0


# -- scopes --------------------------------------------------------------------------------------------------


def test_a_scope_bounds_the_calls_made_inside_and_no_others() -> None:
    one = client(*[Usage(40, 10)] * 9)
    with Budget(1.40) as scope:
        ask(one)
        with pytest.raises(BudgetExceeded, match="cost"):
            ask(one)
    ask(one)
    assert scope.spent == pytest.approx((0.50, 50, 1))


async def test_scopes_follow_tasks_and_threads_that_inherit_them() -> None:
    one = client(*[Usage(40, 10)] * 9)
    async with Budget(max_requests=2) as scope:
        await asyncio.gather(*(one.acompletion(MODEL, MESSAGES, max_tokens=56) for _ in range(2)))
        with pytest.raises(BudgetExceeded):
            await asyncio.to_thread(ask, one)
        other = threading.Thread(target=ask, args=(one,))  # inherits nothing
        other.start()
        other.join()
    assert (scope.spent.requests, one.usage.total.ok) == (2, 3)


def test_a_call_needs_room_in_every_budget_and_gives_all_back_if_one_has_none() -> None:
    roomy, tight = Budget(10.00), Budget(1.40)
    one = client(*[Usage(40, 10)] * 9, budget=roomy)
    with tight, tight:
        ask(one)
        with pytest.raises(BudgetExceeded):
            ask(one)
    assert roomy.spent == pytest.approx((0.50, 50, 1))
    assert not any((*roomy.held, *tight.held))


def test_two_budgets_entered_in_either_order_do_not_wait_for_each_other_for_ever() -> None:
    first, second = Budget(2.20), Budget(2.20)  # room for two calls at a time in each
    one = client(*[Usage(1, 1)] * 100)
    problems: list[BaseException] = []

    def work(outer: Budget, inner: Budget) -> None:
        try:
            with outer, inner:
                for _ in range(10):
                    ask(one)
        except BaseException as error:  # noqa: BLE001 - raised below
            problems.append(error)

    threads = [
        threading.Thread(target=work, args=order, daemon=True) for order in ((first, second), (second, first)) * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert problems == []
    assert first.spent.cost == second.spent.cost == pytest.approx(1.20)
    assert not any((*first.held, *second.held))


# -- calls that do not bound their answer --------------------------------------------------------------------


def test_without_a_bound_the_longest_possible_answer_is_held_and_then_what_was_seen() -> None:
    held = []
    budget = Budget(100.00)

    def seen() -> Usage:
        held.append(budget.held.cost)
        return Usage(44, 20)

    class Watching(Lane):
        def send(self, call: Call) -> Any:
            return SimpleNamespace(told=seen(), _hidden_params={})

    one = Client(budget=budget, lane=Watching(longest=2000))
    for _ in range(2):
        one.completion(MODEL, MESSAGES)
    assert held == [pytest.approx(0.44 + 20.00), pytest.approx(0.44 + 0.30, rel=0.05)]


def test_an_embedding_holds_no_answer() -> None:
    budget = Budget(max_tokens=100)
    one = client(Usage(5), Usage(5), budget=budget, longest=100_000)
    assert one.budget is budget
    other = budget.hold(tokens=50).acquire()
    one.embedding(MODEL, ["a" * 20])
    other.refund()
    assert budget.spent.tokens == 5


def test_a_call_that_could_take_more_than_there_is_goes_alone() -> None:
    budget = Budget(8.00)
    one = client(Usage(44, 20), budget=budget, longest=100_000)  # a thousand dollars at most, 5.56 likely
    assert record_of(one.completion(MODEL, MESSAGES)).ok
    other = budget.hold(cost=0.10).acquire()
    with pytest.raises(LimitTimeout):
        client(Usage(44, 20), budget=budget, longest=100_000).completion(MODEL, MESSAGES, deadline=0.01)
    other.refund()


# -- prices --------------------------------------------------------------------------------------------------


def test_an_unknown_price_is_an_error_unless_the_user_says_otherwise() -> None:
    with pytest.raises(ConfigError, match=r"Client\(prices=") as caught:
        ask(client(Usage(40, 10), budget=Budget(1.00), price=None))
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.outcome, record.attempts) == ("ConfigError", 0)
    free = Budget(1.00, unpriced="free")
    assert record_of(ask(client(Usage(40, 10), budget=free, price=None))).cost is None
    assert free.spent == (0, 50, 1)


def test_prices_of_an_own_endpoint_are_charged() -> None:
    with FakeProvider(reply_tokens=(5, 5)) as server:
        own = Client(
            prices={"openai/house-*": Price(input_per_token=0.01, output_per_token=0.02)}, budget=Budget(100.00)
        )
        options = {"api_base": server.openai_base, "api_key": "sk", "max_tokens": 9}
        record = record_of(own.completion("openai/house-model", MESSAGES, **options))
        streamed = own.completion("openai/house-model", MESSAGES, stream=True, **options)
        assert len(list(streamed)) > 1
    assert record.cost == pytest.approx(record.input_tokens * 0.01 + 5 * 0.02)
    assert streamed.record.cost == pytest.approx(record.cost)


@pytest.mark.parametrize("operation", ["acompletion", "aresponses", "aembedding"])
async def test_a_price_of_each_request_is_held_too(operation: str) -> None:
    own = Client(prices={"openai/house": Price(input_per_token=0.0, per_request=0.01)}, budget=Budget(0.05))
    with FakeProvider(latency=0.1) as server:
        calls = (
            getattr(own, operation)(
                "openai/house",
                MESSAGES if operation == "acompletion" else f"text {number}",
                api_base=server.openai_base,
                api_key="sk",
            )
            for number in range(20)
        )
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert server.report().requests == 5
    assert [type(end) for end in ended].count(BudgetExceeded) == 15
    assert own.budget is not None
    assert own.budget.spent.cost == pytest.approx(0.05)


def test_a_price_of_each_request_is_charged_for_a_stream_that_is_left() -> None:
    own = Client(prices={"openai/house": Price(input_per_token=0.0, per_request=0.01)})
    with FakeProvider() as server:
        with own.completion("openai/house", MESSAGES, stream=True, api_base=server.openai_base, api_key="sk") as stream:
            next(stream)
        assert stream.record.charge_unknown
    assert stream.record.uncertain_cost == pytest.approx(0.01)


def test_a_price_that_is_none_is_refused() -> None:
    wrong: Any = {"openai/x": 0.01}
    with pytest.raises(ConfigError, match="openai/x"):
        Client(prices=wrong)
    with pytest.raises(ConfigError, match="lane"):
        Client(prices={}, lane=Lane())


# -- after the call was paid ---------------------------------------------------------------------------------


def test_books_that_break_do_not_take_a_paid_answer_away(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("a calculator that breaks")

    budget = Budget(10.00)
    one = client(broken, budget=budget)
    with caplog.at_level(logging.ERROR):
        answer = ask(one)
    record = record_of(answer)
    assert (record.outcome, record.cost, record.charge_unknown) == ("ok", None, True)
    assert "the books of a call" in caplog.text
    assert one.usage.total.requests == 1
    assert budget.spent.cost == pytest.approx(1.00)


def test_books_that_break_at_the_end_of_a_stream_do_not_either(caplog: pytest.LogCaptureFixture) -> None:
    piece = SimpleNamespace(model="m", usage=None, choices=[])
    one = client([piece] * 3)
    with caplog.at_level(logging.ERROR):
        stream = ask(one, stream=True)
        assert len(list(stream)) == 3
    assert (stream.record.outcome, stream.record.charge_unknown) == ("ok", True)
    assert "the books of a stream" in caplog.text
    assert one.usage.total.requests == 1


@pytest.mark.parametrize("broken", ["load", "failure", "price", "send"])
def test_whatever_breaks_there_is_one_record(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(self: Lane, *_: Any) -> Any:
        raise ZeroDivisionError(broken)

    monkeypatch.setattr(Lane, broken, breaks)
    tracker = UsageTracker()
    one = client(REFUSED, budget=Budget(10.00))
    with tracker, pytest.raises(ZeroDivisionError) as caught:
        ask(one)
    assert tracker.by_outcome["ZeroDivisionError"].requests == tracker.total.requests == 1
    assert record_of_error(caught.value) is not None
