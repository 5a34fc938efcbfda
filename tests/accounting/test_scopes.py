from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bulkllm.accounting import UsageRecord, UsageTracker, active_trackers, publish

CALL = UsageRecord(model="openai/gpt-5-mini", cost=0.5)


@pytest.fixture(autouse=True)
def none_is_left_active() -> Iterator[None]:
    assert active_trackers() == ()
    yield
    assert active_trackers() == ()


def counted(*trackers: UsageTracker) -> list[int]:
    return [tracker.total.requests for tracker in trackers]


def test_a_scope_counts_what_happens_inside() -> None:
    tracker = UsageTracker("mine")
    publish(CALL)
    with tracker as entered:
        assert entered is tracker
        assert active_trackers() == (tracker,)
        publish(CALL)
    publish(CALL)
    assert counted(tracker) == [1]


def test_nested_scopes_all_count_and_so_do_those_given() -> None:
    outer, inner, client = UsageTracker(), UsageTracker(), UsageTracker()
    with outer:
        publish(CALL, client)
        with inner:
            assert active_trackers() == (outer, inner)
            publish(CALL, client)
        publish(CALL, client)
    publish(CALL, client)
    assert counted(outer, inner, client) == [3, 1, 4]


def test_a_tracker_that_is_active_several_times_counts_once() -> None:
    tracker = UsageTracker()
    with tracker, tracker:
        assert active_trackers() == (tracker,)
        publish(CALL, tracker, tracker)
        assert counted(tracker) == [1]
    with tracker:
        with tracker:
            pass
        publish(CALL)
    publish(CALL)
    assert counted(tracker) == [2]


def test_an_error_leaves_the_scope() -> None:
    with pytest.raises(KeyError), UsageTracker():
        raise KeyError
    assert active_trackers() == ()


async def test_tasks_follow_and_those_outside_do_not() -> None:
    tracker, entered, left = UsageTracker(), asyncio.Event(), asyncio.Event()

    async def outside() -> None:
        await entered.wait()
        publish(CALL)

    async def inside() -> None:
        await left.wait()
        publish(CALL)

    stranger = asyncio.create_task(outside())
    async with tracker as same:
        assert same is tracker
        follower = asyncio.create_task(inside())
        entered.set()
        await stranger
        await asyncio.gather(*(asyncio.create_task(_publish()) for _ in range(10)))
    left.set()
    await follower  # it began inside, so it counts
    publish(CALL)
    assert counted(tracker) == [11]


async def _publish() -> None:
    publish(CALL)


async def test_two_tasks_may_be_inside_one_tracker_and_leave_in_any_order() -> None:
    tracker, first, second = UsageTracker(), asyncio.Event(), asyncio.Event()

    async def early() -> None:
        async with tracker:
            first.set()
            publish(CALL)
            await second.wait()
        assert active_trackers() == ()

    async def late() -> None:
        await first.wait()
        async with tracker:
            second.set()
            await asyncio.sleep(0)
            publish(CALL)
        assert active_trackers() == ()

    await asyncio.gather(early(), late())
    assert counted(tracker) == [2]


async def test_to_thread_follows() -> None:
    tracker = UsageTracker()
    with tracker:
        await asyncio.to_thread(publish, CALL)
    await asyncio.to_thread(publish, CALL)
    assert counted(tracker) == [1]


def test_another_thread_does_not_follow_until_it_attaches() -> None:
    tracker = UsageTracker()

    def attached() -> None:
        with tracker.attach() as same:
            assert same is tracker
            publish(CALL)
        publish(CALL)

    with tracker, ThreadPoolExecutor(1) as pool:
        pool.submit(publish, CALL).result()
        assert counted(tracker) == [0]
        pool.submit(attached).result()
    assert counted(tracker) == [1]


def test_attaching_wraps_a_threads_function_too() -> None:
    tracker = UsageTracker()
    for _ in range(2):
        thread = threading.Thread(target=tracker.attach()(publish), args=(CALL,))
        thread.start()
        thread.join()
    assert counted(tracker) == [2]


async def test_a_scope_in_a_generator_that_is_closed_elsewhere_does_not_raise() -> None:
    tracker = UsageTracker()

    async def stream() -> AsyncIterator[int]:
        with tracker:
            yield 1
            yield 2

    rows = stream()
    assert await anext(rows) == 1
    assert active_trackers() == (tracker,)
    # Closed by another task, whose context has its own scopes.
    await asyncio.create_task(rows.aclose())  # type: ignore[attr-defined]  # it is a generator
    with tracker:
        pass
    # Here the scope is left open, as any context variable set in a generator would be.
    tracker.__exit__(None, None, None)


def test_leaving_a_scope_that_this_context_never_entered_changes_nothing() -> None:
    tracker, other = UsageTracker(), UsageTracker()
    with other:
        contextvars.copy_context().run(tracker.__enter__)
        tracker.__exit__(None, None, None)
        assert active_trackers() == (other,)
