"""The flow of one call, driven by hand: no network, no thread, no clock but the test's own."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm import (
    Budget,
    Cache,
    ConfigError,
    ImpossibleRequest,
    LimitTimeout,
    QuotaExhausted,
    RateLimit,
    RateLimiter,
    RetryPolicy,
    Usage,
    UsageTracker,
)
from bulkllm.calls import record_of, record_of_error
from bulkllm.calls.cached import cached_flow
from bulkllm.calls.call import Call
from bulkllm.calls.counting import TokenCounter
from bulkllm.calls.effects import Count, Follow, HoldBudget, Load, Lookup, Reserve, Send, Sleep, Start
from bulkllm.calls.failure import Failure
from bulkllm.calls.flow import call_flow
from bulkllm.calls.fold import StreamFold
from bulkllm.calls.lane import Answer, Rates, Target
from bulkllm.calls.parts import Parts
from bulkllm.calls.quota import quota_of
from bulkllm.calls.stream import CallStream
from bulkllm.limits.origin import Origin
from bulkllm.limits.profiles import profile_of
from bulkllm.limits.spent import Spent
from bulkllm.limits.word import Word
from bulkllm.testing import FakeClock

MODEL = "openai/gpt-5-mini"
USAGE = Usage(input_tokens=70, output_tokens=30)
SERVER = Failure("server", 500)
REFUSED = Failure("rate_limit", 429, retry_after=3.0)
TIMED_OUT = Failure("timeout", charge_unknown=True)


class ProviderError(Exception):
    """What the lane raises; it carries what it means."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.kind)
        self.failure = failure


class Response:
    """What the lane returns; it carries what is to be known of it."""

    def __init__(self, answer: Answer) -> None:
        self.told = answer
        self._hidden_params: dict[str, Any] = {}


class HandLane:
    """A lane that is never asked to send: the test does that."""

    def load(self) -> None:
        raise AssertionError("the test performs the effects")

    def target(self, model: str, options: Mapping[str, Any]) -> Target:
        return Target(model, "openai")

    def price(self, call: Call) -> Rates | None:
        return None

    def longest_answer(self, call: Call) -> int | None:
        return None

    def send(self, call: Call) -> Any:
        raise AssertionError("the test performs the effects")

    async def asend(self, call: Call) -> Any:
        raise AssertionError("the test performs the effects")

    def failure(self, error: BaseException) -> Failure:
        if isinstance(error, TimeoutError):  # its own timed_out
            return TIMED_OUT
        assert isinstance(error, ProviderError)
        return error.failure

    def timed_out(self, call: Call) -> Exception:
        return TimeoutError(f"{call.timeout}")

    def headers(self, response: Any) -> None:
        return None

    def answer(self, call: Call, response: Any) -> Answer:
        answer: Answer = response.told
        return answer

    def streamed_answer(self, call: Call, fold: StreamFold, stream: Any) -> Answer:
        return Answer(usage=fold.usage, cost=0.5)

    def from_cache(self, stream: Any) -> bool:
        return False


class PricedLane(HandLane):
    """A cent for a token, in or out."""

    def price(self, call: Call) -> Rates | None:
        return Rates(0.01, 0.01)


class World:
    """Everything around one flow, and a driver that plays a script of attempts."""

    def __init__(self, limiter: RateLimiter | None = None, **limit: Any) -> None:
        self.clock = FakeClock(1000.0)
        self.limiter = limiter or RateLimiter(RateLimit(**limit) if limit else None, clock=self.clock)
        self.tracker = UsageTracker("test")
        self.parts = Parts(lane=HandLane(), limiter=self.limiter, trackers=(self.tracker,), clock=self.clock)
        self.sent: list[Call] = []
        self.seconds: list[float | None] = []
        self.in_flight_while_sent: list[int] = []
        self.loads = 0

    def play(self, call: Call, *attempts: Any, took: float = 0.0) -> Any:
        """Perform a flow's effects; each attempt ends as the script says, after ``took`` seconds."""
        script = iter(attempts)
        flow = call_flow(self.parts, call)
        effect: Any = next(flow)
        while True:
            error: BaseException | None = None
            value: Any = None
            try:
                value = self._perform(effect, script, took)
            except BaseException as caught:  # noqa: BLE001 - it is thrown into the flow, as drivers do
                error = caught
            try:
                effect = flow.throw(error) if error is not None else flow.send(value)
            except StopIteration as done:
                return done.value

    def _perform(self, effect: Any, script: Any, took: float) -> Any:
        if isinstance(effect, Load):
            self.loads += 1
            return None
        if isinstance(effect, Reserve | HoldBudget | Lookup | Start):
            return effect.perform()
        if isinstance(effect, Sleep):
            return self.clock.sleep(effect.seconds)
        assert isinstance(effect, Send)
        self.sent.append(effect.call)
        self.seconds.append(effect.seconds)
        self.in_flight_while_sent.append(self.limiter.status(MODEL).in_flight)
        self.clock.advance(took)
        outcome = next(script)
        if isinstance(outcome, Failure):
            raise ProviderError(outcome)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def remaining(self, name: str) -> float:
        return self.limiter.status(MODEL).remaining[name]

    @property
    def in_flight(self) -> int:
        return self.limiter.status(MODEL).in_flight


def call(**changes: Any) -> Call:
    made = Call(
        operation="completion",
        model=MODEL,
        requested_model="gpt-5-mini",
        provider="openai",
        options={"messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 100},
        retry=RetryPolicy(max_attempts=3, base_delay=2.0, rand=lambda: 0.0),
    )
    return replace(made, **changes)


def good(usage: Usage | None = USAGE, **told: Any) -> Response:
    return Response(Answer(usage=usage, cost=told.pop("cost", 0.25), **told))


LIMITS: dict[str, Any] = {"rpm": 60, "tpm": 6000, "max_in_flight": 5}


# -- success -------------------------------------------------------------------------------------------------


def test_a_call_loads_reserves_sends_and_settles_with_real_usage() -> None:
    world = World(**LIMITS)
    response = world.play(call(tags={"a": "b"}), good(), took=2.5)
    record = record_of(response)
    assert world.loads == 1
    assert world.in_flight_while_sent == [1]
    assert world.in_flight == 0
    assert (record.outcome, record.usage, record.cost, record.attempts) == ("ok", USAGE, 0.25, 1)
    assert (record.model, record.requested_model, record.provider) == (MODEL, "gpt-5-mini", "openai")
    assert (record.latency, record.tags, record.estimated, record.charge_unknown) == (2.5, {"a": "b"}, False, False)
    assert world.tracker.total.total_tokens == 100


def test_reconciling_takes_exactly_what_was_used() -> None:
    world = World(**LIMITS)
    world.play(call(), good(Usage(1000, 500)))
    assert world.remaining("tpm") == 4500
    assert world.remaining("rpm") == 59


def test_the_estimate_is_reserved_while_the_call_is_under_way() -> None:
    world = World(**LIMITS)
    flow = call_flow(world.parts, call())
    effect: Any = next(flow)
    while not isinstance(effect, Send):
        effect = flow.send(world._perform(effect, iter(()), 0.0))
    assert 5700 < world.remaining("tpm") < 5800, "400 characters and 100 tokens of output"
    flow.close()


def test_a_response_of_no_length_given_reserves_what_a_completion_does() -> None:
    left = []
    for operation in ("completion", "responses"):
        world = World(**LIMITS)
        said = {"input" if operation == "responses" else "messages": [{"role": "user", "content": "x" * 400}]}
        flow = call_flow(world.parts, call(operation=operation, options=said))
        effect: Any = next(flow)
        while not isinstance(effect, Send):
            effect = flow.send(world._perform(effect, iter(()), 0.0))
        left.append(world.remaining("tpm"))
        flow.close()
    assert left[0] == left[1] < 5800


def test_real_usage_corrects_the_next_estimate() -> None:
    world = World(**LIMITS)
    before = world.parts.estimator.estimate("completion", MODEL, call().options).input_tokens
    world.play(call(), good(Usage(404, 30)))
    assert world.parts.estimator.estimate("completion", MODEL, call().options).input_tokens > 2 * before


def test_without_a_limit_nothing_is_reserved() -> None:
    world = World()
    assert record_of(world.play(call(), good())).waited == 0.0
    assert world.in_flight_while_sent == [0]


def test_a_hit_in_litellms_own_cache_takes_no_quota_and_costs_nothing() -> None:
    world = World(**LIMITS)
    record = record_of(world.play(call(), good(cost=0.0, from_cache=True), took=0.1))
    assert (world.remaining("rpm"), world.remaining("tpm")) == (60, 6000)
    assert (record.cached, record.cost, record.attempts, record.latency) == (True, 0.0, 0, 0.0)


def test_a_hit_after_a_failure_counts_the_failed_attempt() -> None:
    world = World(**LIMITS)
    record = record_of(world.play(call(), SERVER, good(cost=0.0, from_cache=True)))
    assert (record.cached, record.attempts) == (True, 1)


def test_an_answer_without_usage_keeps_its_estimate_and_says_so() -> None:
    world = World(**LIMITS)
    record = record_of(world.play(call(), good(None, cost=None)))
    assert record.estimated
    assert 95 <= record.input_tokens <= 110
    assert record.cost is None
    assert world.remaining("tpm") < 5800
    assert world.in_flight == 0


# -- failures and attempts -----------------------------------------------------------------------------------


def test_a_failure_that_may_pass_is_tried_again() -> None:
    world = World(**LIMITS)
    record = record_of(world.play(call(), SERVER, SERVER, good()))
    assert (record.outcome, record.attempts) == ("ok", 3)
    assert world.clock.slept == [1.0, 2.0]
    assert world.tracker.total.attempts == 3
    assert world.in_flight_while_sent == [1, 1, 1]
    assert world.in_flight == 0


def test_each_attempt_counts_as_a_request() -> None:
    world = World(rpm=60, period=3600.0)
    world.play(call(), SERVER, SERVER, good())
    assert world.remaining("rpm") == pytest.approx(57, abs=0.1)


def test_the_providers_wait_is_obeyed() -> None:
    world = World(**LIMITS)
    world.play(call(), REFUSED, good())
    assert world.clock.slept == [3.0]


def test_the_last_error_is_raised_as_it_is_with_its_record() -> None:
    world = World(**LIMITS)
    errors = [ProviderError(SERVER) for _ in range(3)]
    with pytest.raises(ProviderError) as caught:
        world.play(call(), *errors)
    assert caught.value is errors[2]
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.outcome, record.attempts, record.cost, record.charge_unknown) == ("ProviderError", 3, 0.0, False)
    assert world.tracker.total.failed == 1
    assert world.in_flight == 0


@pytest.mark.parametrize("kind", ["quota", "auth", "not_found", "request"])
def test_what_waiting_does_not_mend_is_raised_at_once(kind: Any) -> None:
    world = World(**LIMITS)
    with pytest.raises(ProviderError):
        world.play(call(), Failure(kind, 429, retry_after=0.1))
    assert world.clock.slept == []
    assert len(world.sent) == 1


def test_a_failure_keeps_the_request_counted_and_its_tokens_if_the_provider_worked() -> None:
    broken, refused = World(**LIMITS), World(**LIMITS)
    for world, failure in ((broken, SERVER), (refused, Failure("request", 400))):
        with pytest.raises(ProviderError):
            world.play(call(retry=RetryPolicy(max_attempts=1)), failure)
        assert world.remaining("rpm") == 59
        assert world.in_flight == 0
    assert broken.remaining("tpm") < 5800
    assert refused.remaining("tpm") == 6000


@pytest.mark.parametrize(
    ("failures", "unknown"),
    [
        ((SERVER, SERVER, SERVER), False),
        ((SERVER, SERVER, TIMED_OUT), True),
        ((TIMED_OUT, SERVER, SERVER), True),
        ((TIMED_OUT, Failure("request", 400)), True),
        ((Failure("connection", charge_unknown=False),) * 3, False),
    ],
)
def test_one_attempt_that_may_be_billed_makes_the_charge_unknown(failures: tuple[Failure, ...], unknown: bool) -> None:
    world = World()
    with pytest.raises(ProviderError) as caught:
        world.play(call(), *failures)
    record = record_of_error(caught.value)
    assert record is not None
    assert record.charge_unknown is unknown
    assert record.cost == (None if unknown else 0.0)


def test_a_retry_of_a_refused_request_goes_to_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(**LIMITS)
    fronts: list[bool] = []
    reserve = world.limiter.reserve

    def spy(model: str, **keywords: Any) -> Any:
        fronts.append(keywords["front"])
        return reserve(model, **keywords)

    monkeypatch.setattr(world.limiter, "reserve", spy)
    world.play(call(), REFUSED, SERVER, good())
    assert fronts == [False, True, False]


def test_an_error_with_slots_is_raised_all_the_same() -> None:
    class Slotted(ProviderError):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            if name == "bulkllm_record":
                raise AttributeError(name)
            super().__setattr__(name, value)

    world = World()
    with pytest.raises(Slotted) as caught:
        world.play(call(), Slotted(Failure("request", 400)))
    assert record_of_error(caught.value) is None
    assert world.tracker.total.failed == 1


# -- deadlines -----------------------------------------------------------------------------------------------


def test_an_attempt_gets_no_more_time_than_the_deadline_leaves() -> None:
    world = World()
    world.play(call(deadline=100.0, timeout=60.0), SERVER, SERVER, good(), took=40.0)
    assert world.seconds == [60.0, 59.0, 17.0]
    assert [sent.timeout for sent in world.sent] == [60.0, 59.0, 17.0], (
        "LiteLLM is told, so that no thread stays behind"
    )


def test_without_a_timeout_the_deadline_is_one() -> None:
    world = World()
    world.play(call(deadline=100.0, timeout=None), good())
    assert world.seconds == [100.0]


def test_without_a_deadline_the_timeout_holds_for_each_attempt() -> None:
    world = World()
    world.play(call(timeout=60.0), SERVER, good(), took=59.0)
    assert world.seconds == [60.0, 60.0]


def test_no_attempt_is_waited_for_that_would_begin_after_the_deadline() -> None:
    world = World()
    error = ProviderError(REFUSED)
    with pytest.raises(ProviderError) as caught:
        world.play(call(deadline=3.0), error)
    assert caught.value is error
    assert world.clock.slept == []


def test_a_deadline_that_is_over_in_line_raises_limit_timeout_before_anything_was_sent() -> None:
    world = World(RateLimiter(RateLimit(rpm=1)))
    with world.limiter.reserve(MODEL):
        pass
    with pytest.raises(LimitTimeout) as caught:
        world.play(call(deadline=0.01))
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.outcome, record.attempts, record.cost, record.charge_unknown) == ("LimitTimeout", 0, 0.0, False)
    assert world.limiter.status().waiting == 0


def test_a_deadline_that_is_over_in_line_for_a_second_attempt_raises_the_first_ones_error() -> None:
    world = World(RateLimiter(RateLimit(rpm=1)))
    world.parts = replace(world.parts, clock=FakeClock())
    cause = OSError("below")
    error = ProviderError(TIMED_OUT)
    error.__cause__ = cause
    with pytest.raises(ProviderError) as caught:
        world.play(call(deadline=1.05), error)
    assert caught.value is error
    assert caught.value.__cause__ is cause, "the error is LiteLLM's, as it was"
    assert caught.value.__context__ is None
    record = record_of_error(error)
    assert record is not None
    assert (record.outcome, record.attempts, record.charge_unknown) == ("ProviderError", 1, True)
    assert world.tracker.total.requests == 1
    assert world.limiter.status().waiting == 0


# -- what cannot be ------------------------------------------------------------------------------------------


def test_a_request_that_is_too_large_is_refused_and_recorded() -> None:
    world = World(tpm=50)
    with pytest.raises(ImpossibleRequest) as caught:
        world.play(call())
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.outcome, record.attempts, record.cost) == ("ImpossibleRequest", 0, 0.0)
    assert world.in_flight == 0


def test_a_lane_that_cannot_be_loaded_takes_no_quota() -> None:
    world = World(**LIMITS)
    flow = call_flow(world.parts, call())
    next(flow)
    with pytest.raises(ConfigError):
        flow.throw(ConfigError("no"))
    assert (world.remaining("rpm"), world.in_flight) == (60, 0)


# -- cancelled -----------------------------------------------------------------------------------------------


INTERRUPTS = pytest.mark.parametrize("interrupt", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])


def until(world: World, flow: Any, kind: type[Any], *attempts: Any) -> Any:
    """Drive a flow until it asks for something."""
    script = iter(attempts)
    effect: Any = next(flow)
    while not isinstance(effect, kind):
        try:
            value = world._perform(effect, script, 0.0)
        except ProviderError as error:
            effect = flow.throw(error)
        else:
            effect = flow.send(value)
    return effect


@INTERRUPTS
def test_cancelled_before_it_was_sent_gives_everything_back(interrupt: type[BaseException]) -> None:
    world = World(**LIMITS)
    flow = call_flow(world.parts, call())
    effect = until(world, flow, Reserve)
    effect.reservation.refund()  # as the limiter does when a waiter is cancelled
    with pytest.raises(interrupt):
        flow.throw(interrupt())
    assert (world.remaining("rpm"), world.remaining("tpm"), world.in_flight) == (60, 6000, 0)
    assert world.tracker.by_outcome["cancelled"].requests == 1
    assert world.tracker.total.attempts == 0
    assert (world.tracker.total.cost, world.tracker.total.unpriced) == (0.0, 0)


@INTERRUPTS
def test_cancelled_before_its_turn_gives_everything_back(interrupt: type[BaseException]) -> None:
    world = World(**LIMITS)
    flow = call_flow(world.parts, call())
    until(world, flow, Start)
    assert (world.remaining("rpm"), world.in_flight) == (59, 1)
    with pytest.raises(interrupt):
        flow.throw(interrupt())
    assert (world.remaining("rpm"), world.remaining("tpm"), world.in_flight) == (60, 6000, 0)
    assert (world.tracker.total.attempts, world.tracker.total.cost) == (0, 0.0)


@INTERRUPTS
def test_cancelled_while_under_way_stays_counted(interrupt: type[BaseException]) -> None:
    world = World(**LIMITS)
    flow = call_flow(world.parts, call())
    until(world, flow, Send)
    with pytest.raises(interrupt):
        flow.throw(interrupt())
    assert world.remaining("rpm") == 59
    assert world.remaining("tpm") < 5800
    assert world.in_flight == 0
    assert world.tracker.by_outcome["cancelled"].attempts == 1
    assert world.tracker.total.unpriced == 1


@INTERRUPTS
@pytest.mark.parametrize(("before", "unpriced"), [(SERVER, 0), (TIMED_OUT, 1)])
def test_cancelled_between_attempts_holds_nothing(
    interrupt: type[BaseException], before: Failure, unpriced: int
) -> None:
    world = World(**LIMITS)
    flow = call_flow(world.parts, call())
    until(world, flow, Sleep, before)
    assert world.in_flight == 0, "nothing is held while it waits"
    with pytest.raises(interrupt):
        flow.throw(interrupt())
    assert world.tracker.by_outcome["cancelled"].attempts == 1
    assert world.tracker.total.unpriced == unpriced
    assert world.in_flight == 0


def test_a_flow_that_is_dropped_settles() -> None:
    world = World(**LIMITS)
    flow = call_flow(world.parts, call())
    until(world, flow, Send)
    assert world.in_flight == 1
    del flow
    assert world.in_flight == 0
    assert world.tracker.by_outcome["cancelled"].requests == 1


@INTERRUPTS
def test_cancelled_while_it_follows_an_identical_call_is_recorded_too(
    interrupt: type[BaseException], tmp_path: Path
) -> None:
    world = World(**LIMITS)
    cache = Cache(tmp_path)
    leader, follower = (cached_flow(world.parts, call(), cache) for _ in range(2))
    for flow, stop in ((leader, Send), (follower, Follow)):
        effect: Any = next(flow)
        while not isinstance(effect, stop):
            value = world._perform(effect, iter(()), 0.0)
            effect = flow.send(value)
    with pytest.raises(interrupt):
        follower.throw(interrupt())
    assert world.tracker.by_outcome["cancelled"].attempts == 0
    assert (world.tracker.total.requests, world.tracker.total.cost) == (1, 0.0)
    leader.close()
    assert world.tracker.total.requests == 2


# -- budgets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "spent"),
    [
        (good(), 0.25),
        (good(cost=0.0, from_cache=True), 0.0),
        (good(None, cost=None), 2.04),
        (Failure("request", 400), 0.0),
        (TIMED_OUT, 2.04),
    ],
    ids=["paid", "cached", "nobody told", "refused", "timed out"],
)
def test_a_budget_is_charged_what_is_known_and_else_what_was_estimated(ending: Any, spent: float) -> None:
    world = World()
    budget = Budget(max_cost=100.0)
    world.parts = replace(world.parts, budget=budget, lane=PricedLane())
    flow = call(retry=RetryPolicy(max_attempts=1))
    if isinstance(ending, Failure):
        with pytest.raises(ProviderError):
            world.play(flow, ending)
    else:
        world.play(flow, ending)
    assert budget.spent.cost == pytest.approx(spent)


# -- records -------------------------------------------------------------------------------------------------


def test_waiting_for_limits_is_told_and_is_no_latency() -> None:
    world = World(RateLimiter(RateLimit(max_in_flight=1)))
    held = world.limiter.reserve(MODEL).acquire()

    def let_go() -> None:
        end = time.monotonic() + 10
        while not world.limiter.status().waiting and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.01)
        held.refund()

    other = threading.Thread(target=let_go)
    other.start()
    record = record_of(world.play(call(), good()))
    other.join()
    assert 0.005 < record.waited < 8
    assert record.waits == {"in flight of *": record.waited}
    assert record.latency == 0.0


def test_a_record_counts_once_in_each_scope_and_tracker() -> None:
    world = World()
    with UsageTracker() as outer, world.tracker, UsageTracker() as inner:
        world.play(call(), good())
    assert [tracker.total.requests for tracker in (outer, world.tracker, inner)] == [1, 1, 1]


def test_scopes_are_those_in_which_the_call_began() -> None:
    world = World()
    with UsageTracker() as scope:
        flow = call_flow(world.parts, call())
        until(world, flow, Send)
    with UsageTracker() as later, pytest.raises(StopIteration):
        flow.send(good())
    assert (scope.total.requests, later.total.requests) == (1, 0)


# -- streams -------------------------------------------------------------------------------------------------


def chunk(content: str | None = None, usage: Any = None) -> Any:
    return SimpleNamespace(
        model="gpt-5-mini",
        usage=usage,
        choices=[SimpleNamespace(delta=SimpleNamespace(content=content), finish_reason=None)],
    )


TOLD = {"prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100}
CHUNKS = [chunk("Hello"), chunk(", you"), chunk(None, TOLD)]


def streamed(world: World, chunks: Any = CHUNKS, **changes: Any) -> CallStream:
    changed = call(stream=True, adds_usage_chunk=True, timeout=None, **changes)
    result = world.play(changed, iter(chunks))
    assert isinstance(result, CallStream)
    return result


def test_a_stream_holds_its_reservation_until_it_is_read() -> None:
    world = World(**LIMITS)
    stream = streamed(world)
    assert (world.in_flight, stream.record, world.tracker.total.requests) == (1, None, 0)
    assert [piece.choices[0].delta.content for piece in stream] == ["Hello", ", you"]
    assert world.in_flight == 0
    assert world.remaining("tpm") == 5900
    record = record_of(stream)
    assert (record.outcome, record.usage, record.estimated, record.cost) == ("ok", USAGE, False, 0.5)
    assert record.time_to_first_token == 0.0


def test_a_stream_teaches_the_estimator() -> None:
    world = World(**LIMITS)
    list(
        streamed(world, [chunk("x"), chunk(None, {"prompt_tokens": 404, "completion_tokens": 1, "total_tokens": 405})])
    )
    assert world.parts.estimator.estimate("completion", MODEL, call().options).input_tokens > 300


def test_a_usage_chunk_that_the_caller_asked_for_is_his() -> None:
    world = World()
    changed = call(stream=True, adds_usage_chunk=False, timeout=None)
    assert len(list(world.play(changed, iter(CHUNKS)))) == 3


def test_a_stream_that_tells_no_usage_is_estimated() -> None:
    world = World(**LIMITS)
    stream = streamed(world, CHUNKS[:2])
    list(stream)
    record = record_of(stream)
    assert record.estimated
    assert record.output_tokens == 2
    assert record.input_tokens > 90
    assert world.in_flight == 0


def end_by_close(stream: CallStream) -> None:
    stream.close()


def end_by_leaving(stream: CallStream) -> None:
    with stream:
        pass


@pytest.mark.parametrize("end", [end_by_close, end_by_leaving])
def test_a_stream_that_is_closed_half_way_counts_what_had_come(end: Callable[[CallStream], None]) -> None:
    world = World(**LIMITS)
    stream = streamed(world)
    next(stream)
    end(stream)
    end(stream)
    record = record_of(stream)
    assert (record.outcome, record.estimated, record.charge_unknown, record.cost) == ("cancelled", True, True, None)
    assert record.output_tokens == 1
    assert world.in_flight == 0
    assert world.remaining("rpm") == 59
    assert world.remaining("tpm") == pytest.approx(6000 - record.total_tokens, abs=1)
    assert world.tracker.total.requests == 1


def test_a_stream_that_is_dropped_settles() -> None:
    world = World(**LIMITS)
    stream = streamed(world)
    next(stream)
    del stream
    assert world.in_flight == 0
    assert world.tracker.by_outcome["cancelled"].output_tokens == 1


def test_a_stream_that_breaks_says_so_on_its_error() -> None:
    world = World(**LIMITS)
    error = ProviderError(SERVER)

    def breaking() -> Any:
        yield chunk("Hello")
        raise error

    stream = streamed(world, breaking())
    next(stream)
    with pytest.raises(ProviderError) as caught:
        next(stream)
    assert caught.value is error
    record = record_of_error(error)
    assert record is not None
    assert record is record_of(stream)
    assert (record.outcome, record.output_tokens, record.charge_unknown) == ("ProviderError", 1, True)
    assert world.in_flight == 0


def test_a_stream_that_is_interrupted_is_cancelled() -> None:
    def interrupted() -> Any:
        yield chunk("Hello")
        raise KeyboardInterrupt

    world = World(**LIMITS)
    stream = streamed(world, interrupted())
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert record_of(stream).outcome == "cancelled"
    assert world.in_flight == 0


def test_the_record_of_a_stream_under_way_is_asked_for_too_early() -> None:
    stream = streamed(World())
    with pytest.raises(ValueError, match="not finished"):
        record_of(stream)
    list(stream)
    assert record_of(stream).ok


def test_closing_after_the_end_changes_nothing() -> None:
    world = World(**LIMITS)
    stream = streamed(world)
    list(stream)
    before = record_of(stream)
    stream.close()
    del stream
    assert before.ok
    assert world.tracker.total.requests == 1
    assert world.remaining("tpm") == 5900


def test_a_stream_read_after_its_time_raises_and_settles() -> None:
    world = World(**LIMITS)
    stream = world.play(call(stream=True, timeout=60.0), iter(CHUNKS), took=10.0)
    next(stream)
    world.clock.advance(50.5)
    with pytest.raises(TimeoutError):
        next(stream)
    assert record_of(stream).outcome == "TimeoutError"
    assert world.in_flight == 0


def test_a_deadline_ends_a_stream_too() -> None:
    world = World()
    stream = world.play(call(stream=True, deadline=30.0), iter(CHUNKS), took=10.0)
    world.clock.advance(20.5)
    with pytest.raises(TimeoutError):
        next(stream)


def test_a_stream_out_of_litellms_cache_takes_no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(**LIMITS)
    monkeypatch.setattr(HandLane, "streamed_answer", lambda *_: Answer(usage=USAGE, cost=0.0, from_cache=True))
    stream = streamed(world)
    list(stream)
    assert (world.remaining("rpm"), world.remaining("tpm"), world.in_flight) == (60, 6000, 0)
    assert record_of(stream).cached


def test_attributes_of_litellms_stream_shine_through() -> None:
    class Source:
        response_headers = "headers"

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise StopIteration

    stream = World().play(call(stream=True), Source())
    assert stream.response_headers == "headers"
    with pytest.raises(AttributeError):
        _ = stream.no_such_thing
    list(stream)


# -- what the time went on -----------------------------------------------------------------------------------


def test_what_a_call_waited_for_is_in_its_record_and_in_the_sums() -> None:
    world = World(rpm=60)
    flow = call_flow(world.parts, call())
    effect: Any = next(flow)
    while not isinstance(effect, Reserve):
        effect = flow.send(None)
    effect.perform()
    effect.reservation.waited, effect.reservation.waited_for = 1.5, "rpm of openai/*"
    assert isinstance(flow.send(None), Start)
    assert isinstance(flow.send(1.0), Send)
    world.clock.advance(2.5)
    with pytest.raises(StopIteration) as done:
        flow.send(good())
    record = record_of(done.value.value)
    assert record.waits == {"rpm of openai/*": 1.5, "program": 1.0}
    assert record.waited == 1.5, "the program's own work is no waiting for a limit"
    assert world.tracker.total.shares == {"provider": 0.5, "rpm of openai/*": 0.3, "program": 0.2}
    assert any("this program's own work: each call takes" in line for line in world.tracker.total.advice)
    assert record_of(world.play(call(), good(), took=2.0)).waits == {}, "who does not wait has nothing to tell"


def test_time_that_went_on_retries_is_told_apart_from_the_answers() -> None:
    """Two attempts of 4 s fail, each with a pause after it; the third takes 4 s and is the answer."""
    world = World()
    record = record_of(world.play(call(), SERVER, SERVER, good(), took=4.0))
    pauses = world.clock() - 1000.0 - 12.0
    assert pauses > 0
    assert record.waits == {"retries": pytest.approx(8.0 + pauses)}
    assert (record.latency, record.waited) == (4.0, 0.0)
    assert sum(record.waits.values()) + record.latency == pytest.approx(world.clock() - 1000.0)


def test_a_call_that_gives_up_between_attempts_does_not_book_its_pause_as_the_providers_time() -> None:
    world = World()
    flow = call_flow(world.parts, call())
    effect: Any = next(flow)
    while not isinstance(effect, Send):
        effect = flow.send(world._perform(effect, iter(()), 0.0))
    world.clock.advance(4.0)
    assert isinstance(flow.throw(ProviderError(SERVER)), Sleep)
    world.clock.advance(60.0)
    flow.close()
    total = world.tracker.total
    assert (total.cancelled, total.latency.sum) == (1, 4.0)
    assert total.waits == {"retries": 60.0}


def test_waiting_for_money_is_told_as_such() -> None:
    budget = Budget(max_tokens=1000)
    world = World()
    world.parts = replace(world.parts, budget=budget)
    flow = call_flow(world.parts, call())
    effect: Any = next(flow)
    while not isinstance(effect, HoldBudget):
        effect = flow.send(None)
    world.clock.advance(7.0)
    effect.perform()
    effect = flow.send(None)
    while not isinstance(effect, Send):
        effect = flow.send(effect.perform())
    with pytest.raises(StopIteration) as done:
        flow.send(good())
    record = record_of(done.value.value)
    assert (record.waited, record.waits) == (7.0, {"budget": 7.0})


# -- what it says in the log ---------------------------------------------------------------------------------


def test_attempts_and_waits_are_for_those_who_look_closely_and_hold_no_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompt = [{"role": "user", "content": "a secret"}]
    asked = call(options={"messages": prompt, "api_key": "sk-hidden"}, retry=RetryPolicy(max_attempts=2, base_delay=0))

    def told_at(rpm: int) -> list[str]:
        caplog.clear()
        world = World(RateLimiter(RateLimit(rpm=rpm, burst=1, name="the limit")))
        with caplog.at_level(logging.DEBUG, "bulkllm"), pytest.raises(ProviderError):
            world.play(asked, SERVER, SERVER)
        return [record.getMessage() for record in caplog.records]

    told = told_at(1200)
    if len(told) < 3:  # the machine stood still until there was room for the second attempt
        told = told_at(12)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert told[0].startswith(f"attempt 1 of a call to {MODEL} failed (server: ProviderError), the next one comes in ")
    assert re.fullmatch(rf"a call to {MODEL} waited [\d.e-]+ s for rpm of the limit", told[1])
    assert told[2] == f"attempt 2 of a call to {MODEL} failed (server: ProviderError), and is not tried again"
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text


def test_a_call_that_goes_well_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "bulkllm"):
        World(**LIMITS).play(call(), good())
    assert caplog.records == []


# -- counting instead of guessing ----------------------------------------------------------------------------


@pytest.mark.parametrize(("counted", "reserved"), [(900, 1000), (None, 202)])
def test_a_prompt_is_counted_where_that_was_asked_for(counted: int | None, reserved: float) -> None:
    class Counter(TokenCounter):
        def count(self, call: Call) -> int | None:
            return counted

    world = World(**LIMITS)
    world.parts = replace(world.parts, counter=Counter())
    flow = call_flow(world.parts, call())
    effect: Any = next(flow)
    kinds = []
    while not isinstance(effect, Send):
        kinds.append(type(effect))
        effect = flow.send(effect.perform() if isinstance(effect, Count) else world._perform(effect, iter(()), 0.0))
    assert kinds == [Load, Count, Reserve, Start]
    assert 6000 - world.remaining("tpm") == pytest.approx(reserved, abs=5)
    flow.close()


def test_nothing_is_counted_where_no_limit_counts_tokens() -> None:
    world = World(rpm=60)
    world.parts = replace(world.parts, counter=TokenCounter())
    world.play(call(), good())  # which knows no effect of that kind


# -- a quota of a day ----------------------------------------------------------------------------------------


class Spending(World):
    """While a call waits for its next attempt, another one is told that the quota of the day is spent."""

    def _perform(self, effect: Any, script: Any, took: float) -> Any:
        if isinstance(effect, Sleep):
            another = self.limiter.reserve(MODEL, origin=ORIGIN).acquire()
            another.mark_sent()
            another.release(word=Word("refused", (), None, Spent("requests per day", 3_600.0)))
        return super()._perform(effect, script, took)


ORIGIN = Origin("openai", "", "0" * 12, profile_of("openai"))


def test_a_retry_that_finds_the_day_spent_raises_what_it_was_tried_again_for() -> None:
    world = Spending(RateLimiter(clock=FakeClock(1000.0), memory=None))
    with pytest.raises(ProviderError) as caught:
        world.play(call(origin=ORIGIN), SERVER)
    assert caught.value.failure == SERVER
    told = quota_of(caught.value)
    assert told is not None
    assert (told.quota, told.retry_after) == ("requests per day", 3_600.0)
    record = record_of_error(caught.value)
    assert record is not None
    assert (record.outcome, record.attempts) == ("ProviderError", 1)
    with pytest.raises(QuotaExhausted):
        world.play(call(origin=ORIGIN), good())
    assert len(world.sent) == 1


# -- its turn ------------------------------------------------------------------------------------------------


def test_a_call_that_a_refusal_overtakes_is_not_sent() -> None:
    """It was granted, and before its turn came another one was refused: it would be, too."""
    limiter = RateLimiter(clock=(clock := FakeClock(1000.0)), memory=None)
    world = World(limiter)
    world.clock = clock
    world.parts = replace(world.parts, clock=clock)
    origin = Origin("openai", "http://127.0.0.1/v1", "0" * 12, profile_of("openai"))
    flow = call_flow(world.parts, replace(call(), origin=origin))
    until(world, flow, Start)
    other = limiter.reserve_for(
        MODEL, origin, (1.0, 0.0, 0.0, 0.0), timeout=None, priority=0.0, front=False, patience=0.0
    )
    other.acquire()
    other.mark_sent()
    other.release(word=Word("refused", (), 5.0))
    effect = flow.send(0.0)
    assert isinstance(effect, Reserve)
    assert effect.reservation.front
    assert limiter.status(MODEL).in_flight == 0
    clock.advance(6.0)
    effect.perform()
    assert isinstance(flow.send(None), Start)
    assert isinstance(flow.send(0.0), Send)
    flow.close()


def test_a_call_whose_time_is_over_when_its_turn_comes_is_not_sent_and_costs_nothing() -> None:
    budget = Budget(max_tokens=1000)
    world = World(**LIMITS)
    world.parts = replace(world.parts, budget=budget)
    flow = call_flow(world.parts, replace(call(), deadline=5.0))
    until(world, flow, Start)
    world.clock.advance(5.5)
    with pytest.raises(LimitTimeout, match="no time was left"):
        flow.send(5.5)
    assert (world.remaining("rpm"), world.remaining("tpm"), world.in_flight) == (60, 6000, 0)
    assert (world.tracker.total.attempts, budget.spent.tokens) == (0, 0.0)
