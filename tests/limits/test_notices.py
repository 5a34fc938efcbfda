"""What a limiter says in the log: once, at a level that a user can live with, and never a key or a prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkllm.errors import LimitTimeout
from bulkllm.limits import RateLimit, RateLimiter, notices
from bulkllm.limits.discovery import Knowledge
from bulkllm.limits.feedback import Observation
from bulkllm.limits.memory import LimitMemory
from bulkllm.limits.origin import Origin, Origins
from bulkllm.limits.profiles import HeaderNames
from bulkllm.limits.reservation import Reservation
from bulkllm.limits.spent import Spent
from bulkllm.limits.word import LET_IN, Word
from bulkllm.testing import FakeClock

MODEL = "openai/gpt-5"
ORIGIN = Origins().of("openai", {"api_key": "sk-secret", "api_base": "https://user:hunter2@llm.example.org/v1?key=abc"})
RPM, TPM = (
    HeaderNames(dimension=name, limit="a", remaining="b", reset="c", reset_format="seconds") for name in ("rpm", "tpm")
)


class World:
    """A limiter that is told what a provider says, and what it said of that."""

    def __init__(self, caplog: pytest.LogCaptureFixture, **limit: float) -> None:
        self.clock = FakeClock(100.0)
        self.limiter = RateLimiter(RateLimit(**limit) if limit else None, clock=self.clock, memory=None)  # type: ignore[arg-type]  # its numbers
        self._caplog = caplog

    def let_go(self, origin: Origin = ORIGIN) -> Reservation:
        reservation = self.limiter.reserve(MODEL, origin=origin, timeout=30.0).acquire()  # none of them has to wait
        reservation.mark_sent()
        return reservation

    def hear(self, word: Word, origin: Origin = ORIGIN) -> None:
        self.let_go(origin).release(word=word)

    def tell(self, rpm: float, *, tpm: float | None = None) -> None:
        self.clock.advance(1.0)
        told = [Observation(RPM, rpm, rpm - 1, 60.0)]
        told += [] if tpm is None else [Observation(TPM, tpm, tpm - 1, 60.0)]
        self.hear(Word("let in", tuple(told)))

    def said(self, level: int = logging.INFO) -> list[str]:
        """What was said since the last time, at this level or above."""
        records = [record for record in self._caplog.records if record.name.startswith("bulkllm")]
        self._caplog.clear()
        assert not any(secret in r.getMessage() for r in records for secret in ("sk-secret", "hunter2", "abc"))
        return [record.getMessage() for record in records if record.levelno >= level]


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    with caplog.at_level(logging.DEBUG, "bulkllm"):
        yield World(caplog)


def test_a_limit_that_is_learned_is_said_once(world: World) -> None:
    world.tell(500, tpm=200_000)
    where = f"{MODEL} at https://llm.example.org/v1"
    assert world.said() == [f"limit of {where} learned from the provider's answers: 500 rpm, 200,000 tpm"]
    for _ in range(50):
        world.tell(500, tpm=200_000)
    assert world.said(logging.DEBUG) == [], "nothing for each call"


def test_a_limit_that_changes_much_is_said_again_but_not_all_the_time(world: World) -> None:
    world.tell(500)
    world.said()
    world.tell(510)
    assert world.said() == []
    world.clock.advance(61)
    world.tell(520)
    assert world.said() == [], "a little more is no news"
    world.tell(1000)
    assert world.said() == [f"limit of {MODEL} at https://llm.example.org/v1 changed by the provider: 1,000 rpm"]
    for number in range(7_200):  # a provider whose limits follow its load, for two hours
        world.tell(1000.0 * (1 + number % 3))
    assert 4 <= len(world.said()) <= 9


def test_a_pool_that_closes_for_long_is_a_warning_and_only_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    flights = [world.let_go() for _ in range(4)]
    for number, flight in enumerate(flights):
        flight.release(word=Word("refused", (), 300.0 + number))
    assert [record.levelno for record in caplog.records if record.levelno > logging.DEBUG] == [logging.WARNING]
    (warning,) = world.said()
    assert warning.startswith(f"{MODEL} at https://llm.example.org/v1 is closed by its provider for 300 s, until 20")
    world.clock.advance(400.0)
    world.hear(Word("refused", (), 300.0))
    assert len(world.said()) == 1, "closed again is news again"


def test_a_short_pause_is_for_those_who_look_closely(world: World) -> None:
    world.hear(Word("refused", (), notices.LONG))
    (told,) = world.said(logging.DEBUG)
    assert told == f"{MODEL} at https://llm.example.org/v1 refused a request: nothing goes for 60 s"
    assert world.said() == []


def test_a_quota_of_the_day_is_named(world: World) -> None:
    spent = Spent(quota="requests per day", seconds=7200.0, turns_in=None)
    world.hear(Word("refused", (), 7200.0, spent))
    (warning,) = world.said(logging.WARNING)
    assert warning.endswith("(the quota of requests per day is spent)")


def test_a_pace_that_is_felt_for_is_said_once(world: World) -> None:
    """Each refusal sets the pace anew; that the provider has a limit at all is the news."""
    sent = 0
    while sent < 100:
        world.clock.advance(10.0)
        try:
            reservation = world.limiter.reserve(MODEL, origin=ORIGIN, timeout=0).acquire()
        except LimitTimeout:
            continue
        reservation.mark_sent()
        sent += 1
        reservation.release(word=Word("refused") if sent % 2 else LET_IN)
    told = world.said()
    assert len(told) == 1
    assert told[0].startswith(f"{MODEL} at https://llm.example.org/v1 refuses requests and tells no limit")


def test_a_provider_without_capacity_is_for_those_who_look_closely(world: World) -> None:
    flights = [world.let_go() for _ in range(2)]
    for flight in flights:
        flight.release(word=Word("overloaded"))
    assert all("lacks capacity: at most" in told for told in world.said(logging.DEBUG))
    assert world.said() == []


def test_a_finaliser_says_nothing_and_the_next_one_does(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The garbage collector may run while its thread holds a log handler's lock."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said_by.append(record.getMessage())

    said_by: list[str] = []
    handler = Handler()
    logging.getLogger("bulkllm").addHandler(handler)
    try:
        first, second = world.let_go(), world.let_go()
        with world.limiter._lock:
            first.release(word=Word("refused", (), 90.0))  # not taken in: the lock is held
        del second  # its finaliser takes the news in
        assert said_by == []
        assert world.limiter.status().in_flight == 0
        assert len(said_by) == 1
    finally:
        logging.getLogger("bulkllm").removeHandler(handler)


def test_where_nobody_listens_nothing_is_prepared(caplog: pytest.LogCaptureFixture) -> None:
    world = World(caplog)
    with caplog.at_level(logging.ERROR, "bulkllm"):
        world.tell(500)
        world.hear(Word("refused", (), 300.0))
        assert not world.limiter._notices.unsaid
    assert world.said() == []


def test_what_was_remembered_is_said_once_and_a_change_of_it_is_a_change(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    memory = LimitMemory(tmp_path / "learned.json")
    memory.note(ORIGIN, MODEL, Knowledge({"rpm": (500.0, 60.0)}, "bucket", None))
    memory.flush()
    with caplog.at_level(logging.INFO, "bulkllm"):
        world = World(caplog)
        world.limiter = RateLimiter(clock=world.clock, memory=memory)
        world.tell(500)
        world.tell(500)
        where = f"{MODEL} at https://llm.example.org/v1"
        assert world.said() == [f"limit of {where} remembered from an earlier run: 500 rpm"]
        world.tell(1000)
        assert world.said() == [f"limit of {where} changed by the provider: 1,000 rpm"]
