"""However a call ends: its reservation is settled, and there is exactly one record of it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bulkllm import (
    Client,
    LimitTimeout,
    Profile,
    RateLimit,
    RetryPolicy,
    UsageRecord,
    UsageTracker,
    _litellm,
    register_profile,
)
from bulkllm.calls import record_of, record_of_error
from bulkllm.testing import FakeProvider, Fault

pytestmark = pytest.mark.usefixtures("warm")

MODEL = "openai/fake-model"
MESSAGES = [{"role": "user", "content": "Say something."}]
ONCE = RetryPolicy(max_attempts=1)
RPM, TPM = 100, 1_000_000


class Watched(UsageTracker):
    """A tracker that keeps each record."""

    def __init__(self) -> None:
        super().__init__("watched")
        self.records: list[UsageRecord] = []

    def record(self, record: UsageRecord) -> None:
        self.records.append(record)
        super().record(record)


class Ground:
    """A server, a limited client, and what can be said of both."""

    def __init__(self, **server: Any) -> None:
        self.server = FakeProvider(**server)
        self.tracker = Watched()
        # An age for a minute: what was used up does not come back while a test looks at it.
        limit = RateLimit(rpm=RPM, tpm=TPM, max_in_flight=2, period=1e9)
        self.client = Client(limits=limit, retry=ONCE, usage=self.tracker)

    def options(self, **options: Any) -> dict[str, Any]:
        return {"api_base": self.server.openai_base, "api_key": "sk-fake", "max_tokens": 500, **options}

    def ask(self, **options: Any) -> Any:
        return self.client.completion(MODEL, MESSAGES, **self.options(**options))

    async def aask(self, **options: Any) -> Any:
        return await self.client.acompletion(MODEL, MESSAGES, **self.options(**options))

    @property
    def in_flight(self) -> int:
        return self.client.limiter.status().in_flight

    @property
    def waiting(self) -> int:
        return self.client.limiter.status().waiting

    @property
    def requests_used(self) -> int:
        return round(RPM - self.client.limiter.status().remaining["rpm"])

    @property
    def tokens_used(self) -> int:
        return round(TPM - self.client.limiter.status().remaining["tpm"])

    def only(self) -> UsageRecord:
        """The one record there is; everything is settled."""
        assert len(self.tracker.records) == 1
        assert (self.in_flight, self.waiting) == (0, 0)
        return self.tracker.records[0]

    def until(self, what: Callable[[], bool]) -> bool:
        end = time.monotonic() + 10
        while not what():
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True


@pytest.fixture
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    made = Ground(**getattr(request, "param", {}))
    with made.server:
        yield made


def on(**server: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ground", [server], indirect=True, ids=[""])


SLOW = {"latency": 20.0}
DRIP = {"time_per_token": 0.02, "reply_tokens": (400, 400)}
both = pytest.mark.parametrize("in_task", [False, True], ids=["thread", "task"])


def one(ground: Ground, in_task: bool, **options: Any) -> Any:
    return asyncio.run(ground.aask(**options)) if in_task else ground.ask(**options)


# -- whole answers -------------------------------------------------------------------------------------------


@both
def test_success_settles_with_real_usage(ground: Ground, in_task: bool) -> None:
    answer = one(ground, in_task)
    record = ground.only()
    report = ground.server.report()
    assert record is record_of(answer)
    assert (record.outcome, record.attempts, record.estimated) == ("ok", 1, False)
    assert (record.input_tokens, record.output_tokens) == (report.input_tokens, report.output_tokens)
    assert (ground.requests_used, ground.tokens_used) == (1, record.total_tokens)


@on(faults=[Fault("status", status=500)])
@both
def test_failure_keeps_request_and_tokens_counted(ground: Ground, in_task: bool) -> None:
    with pytest.raises(_litellm.load().InternalServerError) as caught:
        one(ground, in_task)
    record = ground.only()
    assert record is record_of_error(caught.value)
    assert (record.outcome, record.cost, record.charge_unknown) == ("InternalServerError", 0.0, False)
    assert ground.requests_used == 1
    assert ground.tokens_used >= 500


@pytest.mark.parametrize(("fault", "tokens"), [("status", 0), ("reset", 500)])
@both
def test_a_profile_may_say_that_failures_are_free(fault: Any, tokens: int, in_task: bool) -> None:
    """But not where no answer came: the provider may have worked."""
    made = Ground(faults=[Fault(fault, status=500) if fault == "status" else Fault(fault)])
    with made.server as server:
        host = server.url.removeprefix("http://")
        register_profile(Profile(name="free failures", hosts=[host], failed_tokens="free"))
        with pytest.raises(_litellm.load().InternalServerError):
            one(made, in_task)
    assert made.requests_used == 1
    assert tokens <= made.tokens_used <= tokens + 100


@on(faults=[Fault("status", status=429)])
@both
def test_a_refusal_keeps_the_request_counted_and_no_tokens(ground: Ground, in_task: bool) -> None:
    with pytest.raises(_litellm.load().RateLimitError):
        one(ground, in_task)
    assert ground.only().outcome == "RateLimitError"
    assert (ground.requests_used, ground.tokens_used) == (1, 0)


@on(**SLOW)
@both
def test_timed_out_keeps_request_and_tokens_counted(ground: Ground, in_task: bool) -> None:
    with pytest.raises(_litellm.load().Timeout):
        one(ground, in_task, timeout=0.3)
    record = ground.only()
    assert (record.outcome, record.cost, record.charge_unknown) == ("Timeout", None, True)
    assert ground.requests_used == 1
    assert ground.tokens_used >= 500


@on(**SLOW)
async def test_cancelled_while_waiting_gives_everything_back(ground: Ground) -> None:
    held = [await ground.client.limiter.reserve(MODEL).aacquire() for _ in range(2)]
    task = asyncio.create_task(ground.aask())
    while not ground.waiting:
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for reservation in held:
        reservation.refund()
    record = ground.only()
    assert (record.outcome, record.attempts, record.cost, record.charge_unknown) == ("cancelled", 0, 0.0, False)
    assert (ground.requests_used, ground.tokens_used) == (0, 0)
    assert ground.server.report().requests == 0


@on(**SLOW)
async def test_cancelled_under_way_stays_counted(ground: Ground) -> None:
    task = asyncio.create_task(ground.aask())
    while not ground.server.report().requests:
        await asyncio.sleep(0.002)
    assert ground.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = ground.only()
    assert (record.outcome, record.attempts, record.cost, record.charge_unknown) == ("cancelled", 1, None, True)
    assert ground.requests_used == 1
    assert ground.tokens_used >= 500


@on(**SLOW)
async def test_a_timeout_of_the_callers_is_a_cancellation(ground: Ground) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ground.aask()
    assert ground.only().outcome == "cancelled"


@on(faults=[Fault("status", status=500)])
async def test_cancelled_between_attempts_holds_nothing(ground: Ground) -> None:
    ground.client.retry = ONCE
    client = Client(ground.client.limiter, retry=RetryPolicy(base_delay=60.0), usage=ground.tracker)
    task = asyncio.create_task(client.acompletion(MODEL, MESSAGES, **ground.options()))
    assert await asyncio.to_thread(ground.until, lambda: ground.server.report().failed == 1)
    while ground.in_flight:
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = ground.only()
    assert (record.outcome, record.attempts, record.cost) == ("cancelled", 1, 0.0)


@on(**SLOW)
async def test_a_task_that_is_dropped_with_its_loop_settles(ground: Ground) -> None:
    """As when a loop is stopped and thrown away in the middle of a call."""

    def run_a_little() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(ground.aask())
        while not ground.server.report().requests:
            loop.run_until_complete(asyncio.sleep(0.005))
        task.get_coro().close()  # what collecting it would do, and now
        del task
        loop.close()

    await asyncio.to_thread(run_a_little)
    record = ground.only()
    assert (record.outcome, record.charge_unknown) == ("cancelled", True)


@both
def test_a_deadline_that_passes_in_line_sends_nothing(ground: Ground, in_task: bool) -> None:
    held = [ground.client.limiter.reserve(MODEL).acquire() for _ in range(2)]
    deadline = 0.05
    with pytest.raises(LimitTimeout) as caught:
        one(ground, in_task, deadline=deadline)
    if ground.tracker.records[0].waited < 0.8 * deadline:  # the machine stood still until it was over
        ground.tracker.records.clear()
        deadline = 2.0
        with pytest.raises(LimitTimeout) as caught:
            one(ground, in_task, deadline=deadline)
    for reservation in held:
        reservation.refund()
    record = ground.only()
    assert record is record_of_error(caught.value)
    assert (record.outcome, record.attempts, record.cost) == ("LimitTimeout", 0, 0.0)
    assert record.waited >= 0.8 * deadline
    assert (ground.requests_used, ground.server.report().requests) == (0, 0)


def test_calls_from_many_threads_and_loops_never_exceed_what_may_be_in_flight(ground: Ground) -> None:
    def in_thread() -> None:
        for _ in range(5):
            ground.ask()

    async def in_tasks() -> None:
        await asyncio.gather(*(ground.aask() for _ in range(5)))

    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    threads += [threading.Thread(target=asyncio.run, args=(in_tasks(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    report = ground.server.report()
    assert (report.successes, len(ground.tracker.records)) == (30, 30)
    assert report.peak_in_flight <= 2
    assert (ground.in_flight, ground.requests_used) == (0, 30)
    assert ground.tokens_used == report.input_tokens + report.output_tokens


# -- streams -------------------------------------------------------------------------------------------------


async def read(stream: Any, pieces: int | None = None) -> int:
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == pieces:
            break
    return seen


@both
def test_a_stream_that_is_read_has_the_providers_counts(ground: Ground, in_task: bool) -> None:
    async def in_a_task() -> Any:
        stream = await ground.aask(stream=True)
        assert await read(stream) > 5
        return stream

    if in_task:
        stream = asyncio.run(in_a_task())
    else:
        stream = ground.ask(stream=True)
        assert len(list(stream)) > 5
    record = ground.only()
    report = ground.server.report()
    assert record is record_of(stream)
    assert (record.outcome, record.estimated, record.charge_unknown) == ("ok", False, False)
    assert (record.input_tokens, record.output_tokens) == (report.input_tokens, report.output_tokens)
    assert record.time_to_first_token is not None
    assert 0 < record.time_to_first_token <= record.latency
    assert (ground.requests_used, ground.tokens_used) == (1, record.total_tokens)


@both
def test_anthropics_streams_have_the_providers_counts(ground: Ground, in_task: bool) -> None:
    options = {"api_base": ground.server.anthropic_base, "api_key": "sk-fake", "max_tokens": 500, "stream": True}

    async def in_a_task() -> Any:
        stream = await ground.client.acompletion("anthropic/claude-sonnet-4-5", MESSAGES, **options)
        await read(stream)
        return stream

    if in_task:
        stream = asyncio.run(in_a_task())
    else:
        stream = ground.client.completion("anthropic/claude-sonnet-4-5", MESSAGES, **options)
        list(stream)
    record, report = record_of(stream), ground.server.report()
    assert (record.input_tokens, record.output_tokens) == (report.input_tokens, report.output_tokens)
    assert (record.outcome, record.estimated) == ("ok", False)
    assert record.cost is not None
    assert record.cost > 0


def litellm_is_at_least(*version: int) -> bool:
    return tuple(map(int, _litellm.version().split(".")[:2])) >= version


def read_whole(ground: Ground, in_task: bool) -> None:
    async def in_a_task() -> None:
        await read(await ground.aask(stream=True))

    if in_task:
        asyncio.run(in_a_task())
    else:
        list(ground.ask(stream=True))


def given_up(record: UsageRecord, ground: Ground, outcome: str = "cancelled") -> None:
    """What is true of every stream that did not come to its end."""
    assert (record.outcome, record.estimated, record.charge_unknown, record.cost) == (outcome, True, True, None)
    assert record.input_tokens > 0
    assert ground.requests_used == 1
    assert ground.tokens_used == record.total_tokens


@on(**DRIP)
@pytest.mark.parametrize("by", ["close", "with"])
def test_a_stream_that_is_closed_half_way(ground: Ground, by: str) -> None:
    stream = ground.ask(stream=True)
    assert ground.in_flight == 1
    if by == "with":
        with stream:
            for _ in range(4):
                next(stream)
    else:
        for _ in range(4):
            next(stream)
        stream.close()
    record = ground.only()
    given_up(record, ground)
    assert 3 <= record.output_tokens <= 5
    assert ground.until(lambda: ground.server.report().abandoned == 1), "the connection was given back"


@on(**DRIP)
@pytest.mark.parametrize("by", ["aclose", "with"])
async def test_a_stream_that_is_closed_half_way_in_a_task(ground: Ground, by: str) -> None:
    stream = await ground.aask(stream=True)
    if by == "with":
        async with stream:
            await read(stream, 4)
    else:
        await read(stream, 4)
        await stream.aclose()
    given_up(ground.only(), ground)
    assert await asyncio.to_thread(ground.until, lambda: ground.server.report().abandoned == 1)


@on(**DRIP)
async def test_closing_gives_back_connections_that_litellm_itself_cannot_close(ground: Ground) -> None:
    options = {"api_base": ground.server.anthropic_base, "api_key": "sk-fake", "max_tokens": 500, "stream": True}
    stream = ground.client.completion("anthropic/claude-sonnet-4-5", MESSAGES, **options)
    next(stream)
    stream.close()
    assert ground.until(lambda: ground.server.report().abandoned == 1)
    stream = await ground.client.acompletion("anthropic/claude-sonnet-4-5", MESSAGES, **options)
    await anext(stream)
    await stream.aclose()
    assert ground.in_flight == 0
    if litellm_is_at_least(1, 101):  # before, the connection waits for the garbage collector
        assert await asyncio.to_thread(ground.until, lambda: ground.server.report().abandoned == 2)


@on(**DRIP)
def test_a_stream_that_is_dropped_half_way(ground: Ground) -> None:
    stream = ground.ask(stream=True)
    for _ in range(4):
        next(stream)
    del stream
    given_up(ground.only(), ground)


@on(**DRIP)
async def test_a_stream_that_is_dropped_half_way_in_a_task(ground: Ground) -> None:
    stream = await ground.aask(stream=True)
    await read(stream, 4)
    del stream
    given_up(ground.only(), ground)


@on(**DRIP)
@both
def test_a_stream_that_is_dropped_in_a_circle_of_references(ground: Ground, in_task: bool) -> None:
    async def in_a_task() -> None:
        circle: dict[str, Any] = {"stream": await ground.aask(stream=True)}
        circle["itself"] = circle
        await read(circle["stream"], 4)

    gc.disable()
    try:
        if in_task:
            asyncio.run(in_a_task())
        else:
            circle: dict[str, Any] = {"stream": ground.ask(stream=True)}
            circle["itself"] = circle
            for _ in range(4):
                next(circle["stream"])
            del circle
        assert ground.tracker.records == []
        assert ground.in_flight == 1
    finally:
        gc.enable()
    gc.collect()
    record = ground.only()
    assert (record.outcome, record.estimated, record.charge_unknown) == ("cancelled", True, True)
    assert ground.requests_used == 1
    # The collector may have come by the reservation first, which settles with its estimate.
    assert ground.tokens_used >= record.total_tokens > 0


@on(**DRIP)
async def test_a_stream_whose_reader_is_cancelled(ground: Ground) -> None:
    stream = await ground.aask(stream=True)
    await read(stream, 4)
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0.05)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    given_up(ground.only(), ground)


@pytest.mark.parametrize("ground", [{"faults": [Fault("cut_stream", after_chunks=5)]}], indirect=True, ids=[""])
@both
def test_a_stream_that_the_server_breaks_off(ground: Ground, in_task: bool) -> None:
    """LiteLLM's error, once, with the record on it: what has been shown already is not asked for again."""
    if in_task and not litellm_is_at_least(1, 97):
        read_whole(ground, in_task)  # LiteLLM took the break for the end
        record = ground.only()
        assert (record.outcome, record.estimated, record.cost) == ("ok", True, None)
        return
    with pytest.raises(_litellm.load().exceptions.MidStreamFallbackError) as caught:
        read_whole(ground, in_task)
    record = ground.only()
    assert record is record_of_error(caught.value)
    given_up(record, ground, "MidStreamFallbackError")
    assert 1 <= record.output_tokens <= 5
    assert ground.server.report().requests == 1


@pytest.mark.parametrize("status", [500, 429])
@both
def test_a_stream_in_which_the_server_tells_of_an_error(status: int, in_task: bool) -> None:
    ground = Ground(faults=[Fault("stream_error", status=status, after_chunks=2)])
    with ground.server:
        with pytest.raises(_litellm.load().exceptions.MidStreamFallbackError) as caught:
            read_whole(ground, in_task)
        given_up(ground.only(), ground, "MidStreamFallbackError")
    assert record_of_error(caught.value) is not None


@on(**DRIP)
def test_a_stream_that_is_given_up_before_its_first_chunk(ground: Ground) -> None:
    ground.ask(stream=True).close()
    record = ground.only()
    given_up(record, ground)
    assert (record.output_tokens, record.time_to_first_token) == (0, None)


# -- streams of the Responses API ----------------------------------------------------------------------------


@both
def test_a_stream_of_the_responses_api(ground: Ground, in_task: bool) -> None:
    options = {"api_base": ground.server.openai_base, "api_key": "sk-fake", "stream": True}

    async def in_a_task() -> Any:
        stream = await ground.client.aresponses("openai/gpt-4.1-mini", "Say something.", **options)
        await read(stream)
        return stream

    if in_task:
        stream = asyncio.run(in_a_task())
    else:
        stream = ground.client.responses("openai/gpt-4.1-mini", "Say something.", **options)
        list(stream)
    record, report = ground.only(), ground.server.report()
    assert record is record_of(stream)
    assert (record.outcome, record.estimated) == ("ok", False)
    assert (record.input_tokens, record.output_tokens) == (report.input_tokens, report.output_tokens)
    assert record.cost is not None
    assert record.cost > 0


@on(**DRIP)
async def test_a_stream_of_the_responses_api_that_is_closed_half_way(ground: Ground) -> None:
    options = {"api_base": ground.server.openai_base, "api_key": "sk-fake", "stream": True}
    stream = ground.client.responses("openai/gpt-4.1-mini", "Say something.", **options)
    for _ in range(6):
        next(stream)
    stream.close()
    assert ground.until(lambda: ground.server.report().abandoned == 1), "the connection was given back"
    assert (record_of(stream).outcome, ground.in_flight) == ("cancelled", 0)
    stream = await ground.client.aresponses("openai/gpt-4.1-mini", "Say something.", **options)
    await read(stream, 6)
    await stream.aclose()
    assert await asyncio.to_thread(ground.until, lambda: ground.server.report().abandoned == 2)
    assert ground.in_flight == 0
    assert [record.outcome for record in ground.tracker.records] == ["cancelled", "cancelled"]
