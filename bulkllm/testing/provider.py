"""The public fake provider. What may live here: its options, its addresses and its life."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from ..errors import ConfigError
from .connection import Connection
from .control import control
from .dialects import checked_base, endpoints
from .engine import Engine, Latency
from .faults import Fault, FaultPlan
from .headers import HEADER_STYLES, HeaderStyle
from .keys import Keys
from .limits import CHARGE_RULES, ChargeRule, ProviderLimits, Window
from .pools import Pools
from .report import ProviderReport
from .server_thread import HOST, ServerThread
from .spawn import SpawnedProvider
from .text import ReplyText, Writer

_MEGABYTE = 1 << 20
_LAST_PORT = 65_535


class FakeProvider:
    """A provider of language models on this machine: real HTTP, real limits, real faults, made-up text.

    It speaks OpenAI's chat completions, text completions, embeddings and responses (streams with and without usage;
    Azure's paths too), Anthropic's messages (with their events, header names and prompt cache), Gemini's
    generateContent (with its errors, and no headers) and Cohere's chat (with OpenAI's errors and headers)::

        with FakeProvider(rpm=600, faults=[Fault("status", status=500, rate=0.05)], seed=1) as server:
            litellm.completion("openai/fake-model", messages, api_base=server.openai_base, api_key="sk-fake")
        print(server.report())

    The server runs in a thread of its own, with ``with`` and with ``async with``, so nothing that a test does to its
    own threads and event loops holds it up. For measurements use :meth:`spawn`: the same in a process of its own.

    Args:
        rpm: requests per period. This and the other limits hold for each model by itself.
        tpm: tokens per period.
        itpm: input tokens per period.
        otpm: output tokens per period.
        rpd: requests per day (1,440 periods). Refusals for a day's quota have the shape that the provider gives them.
        tpd: tokens per day.
        max_in_flight: requests at the same time; more are refused, not queued.
        burst: how many requests a full bucket holds; one period's quota unless said otherwise.
        window: ``"bucket"`` (refilled continuously) or ``"sliding"`` (exactly the last period).
        period: what stands for a minute, in seconds.
        limits: limits of their own for some models, instead of those above. A key with ``*``, ``?`` or ``[`` is a
            glob, and all models that match it share one pool.
        charge: what a request takes of the token limits: ``"max_tokens"`` (OpenAI: the larger of cap and prompt, on
            arrival), ``"prompt+max_tokens"`` (Azure) or ``"actual"`` (Anthropic: input on arrival, output as it is
            sent). Unless said otherwise each dialect has its own.
        refused_count: whether a refused request counts against the request limits.
        headers: whose rate-limit headers to send: ``"openai"``, ``"anthropic"``, ``"azure"``, ``"groq"``, ``"auto"``
            (those of the dialect asked in), or None for none at all, no ``retry-after`` either.
        faults: what goes wrong on purpose. Faults are met after the limits, by requests that were let in.
        seed: replies and the choice of faults depend on it and on the prompts, never on the order of requests.
        reply_tokens: how long replies are, from and to. What a token is stands in :mod:`bulkllm.testing.text`.
        reply: the text of every reply, or a function that makes it from the request's body (a dict). It is called in
            the server's thread.
        latency: seconds before a reply: a number, a range, or a function of the request's body.
        time_per_token: seconds for each token of a stream.
        models: the models that exist; any other name is a 404. None lets every name exist.
        keys: the keys that are good; any other is a 401. None asks for no key.
        embedding_dimensions: of vectors, where the request does not say.
        largest_body: of a request, in bytes; a larger one is a 413.
        record_times: whether the report has the time of each request that was let in.
        clock: what the limits and the report tell the time by.
        port: to listen at; 0 picks a free one.

    Raises:
        ConfigError: an option that makes no sense.
    """

    def __init__(
        self,
        *,
        rpm: int | None = None,
        tpm: int | None = None,
        itpm: int | None = None,
        otpm: int | None = None,
        rpd: int | None = None,
        tpd: int | None = None,
        max_in_flight: int | None = None,
        burst: int | None = None,
        window: Window = "bucket",
        period: float = 60.0,
        limits: Mapping[str, ProviderLimits] | None = None,
        charge: ChargeRule | None = None,
        refused_count: bool = False,
        headers: HeaderStyle | Literal["auto"] | None = "auto",
        faults: Sequence[Fault] = (),
        seed: int = 0,
        reply_tokens: tuple[int, int] = (20, 80),
        reply: ReplyText = None,
        latency: Latency = 0.0,
        time_per_token: float = 0.0,
        models: Iterable[str] | None = None,
        keys: Iterable[str] | None = None,
        embedding_dimensions: int = 16,
        largest_body: int = 64 * _MEGABYTE,
        record_times: bool = False,
        clock: Callable[[], float] = time.monotonic,
        port: int = 0,
    ) -> None:
        if charge is not None and charge not in CHARGE_RULES:
            raise ConfigError(f"charge={charge!r}: it is one of {', '.join(CHARGE_RULES)}, or None")
        if headers is not None and headers not in ("auto", *HEADER_STYLES):
            raise ConfigError(f"headers={headers!r}: it is one of auto, {', '.join(HEADER_STYLES)}, or None")
        if isinstance(keys, str) or isinstance(models, str):
            raise ConfigError("keys= and models= take several: give a list, also for one")
        default = ProviderLimits(
            rpm=rpm,
            tpm=tpm,
            itpm=itpm,
            otpm=otpm,
            rpd=rpd,
            tpd=tpd,
            max_in_flight=max_in_flight,
            burst=burst,
            window=window,
            period=period,
        )
        if not 0 <= port <= _LAST_PORT:
            raise ConfigError(f"port={port!r}: give one from 1 to {_LAST_PORT}, or 0 for any that is free")
        chosen = tuple(faults)
        FaultPlan(chosen, seed)  # complains now, not in the first request
        self._engine = Engine(
            pools=Pools(default, limits or {}, clock()),
            faults=lambda: FaultPlan(chosen, seed),
            writer=Writer(seed, reply_tokens, reply),
            keys=Keys(keys),
            endpoints=endpoints(embedding_dimensions),
            models=None if models is None else tuple(models),
            charge=charge,
            headers=headers,
            refused_count=refused_count,
            latency=latency if callable(latency) else _span(latency),
            record_times=record_times,
            clock=clock,
        )
        self._pace = _seconds("time_per_token", time_per_token)
        self._largest_body = largest_body
        self._wanted_port = port
        self._thread: ServerThread | None = None
        self._port: int | None = None

    @staticmethod
    def spawn(**options: Any) -> SpawnedProvider:
        """The same server in a process of its own; see :class:`~bulkllm.testing.SpawnedProvider`."""
        return SpawnedProvider(**options)

    @property
    def port(self) -> int:
        """The port it listens at, or listened at."""
        if self._port is None:
            raise ConfigError("the server has not been started: use `with FakeProvider(...) as server:` or .start()")
        return self._port

    @property
    def url(self) -> str:
        """Where the server is: ``http://127.0.0.1:PORT``; what LiteLLM wants for ``azure/`` models."""
        return f"http://{HOST}:{self.port}"

    @property
    def openai_base(self) -> str:
        """The ``api_base`` for ``openai/`` models."""
        return f"{self.url}/v1"

    @property
    def anthropic_base(self) -> str:
        """The ``api_base`` for ``anthropic/`` models."""
        return self.url

    def base_of(self, provider: str) -> str:
        """The ``api_base`` for a provider's models, by LiteLLM's name of it ("openrouter", "gemini", "deepseek", ...).

        Requests there are held against what that provider accepts (which fields, which values, what may not go
        together); what it would refuse is answered with 400, in its words where they are known. What is known of each
        stands in ``dialects/accepts.toml``.

        Raises:
            ConfigError: nothing is known of that provider.
        """
        return checked_base(self.url, provider)

    def start(self) -> Self:
        """Start serving, and return when connections are accepted.

        Raises:
            ConfigError: it is running already, or its port is taken.
        """
        if self._thread is not None:
            raise ConfigError("the server is running already")
        self._thread = ServerThread(self._wanted_port, self._connect)
        self._port = self._thread.port
        return self

    def stop(self) -> None:
        """Drop all connections, whatever they wait for, and stop; a second time does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    def serve_forever(self) -> None:
        """Serve until SIGINT or SIGTERM comes; for a command's main thread. Starts the server if need be."""
        over = threading.Event()

        def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's shape
            over.set()

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self._thread is None:
                self.start()
            while not over.wait(3600):  # a wait without an end cannot be interrupted on every system
                pass
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def report(self) -> ProviderReport:
        """What the server saw since it was made or reset; it may be asked at any time, from any thread."""
        return self._engine.report()

    def reset(self) -> None:
        """Begin anew: counts at zero, limits untouched and as they were given, faults and prompt cache from the start.

        Requests in flight are not counted any more; revoked keys stay revoked.
        """
        self._engine.reset()

    def set_limits(self, model: str | None = None, **limits: Any) -> None:
        """Change some limits while the server runs; what was used stays used.

        Args:
            model: the model or glob whose limits they are; None for those of all models without limits of their own.
            limits: any of :class:`~bulkllm.testing.ProviderLimits`' fields; None takes a limit away.

        Raises:
            ConfigError: no such limit, or an impossible value.
        """
        self._engine.set_limits(model, limits)

    def revoke(self, key: str) -> None:
        """Refuse this key from now on."""
        self._engine.revoke(key)

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self if self._thread is not None else self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _connect(self, everyone: set[Connection]) -> Connection:
        return Connection(
            self._engine, lambda request: control(self._engine, request), self._largest_body, self._pace, everyone
        )


def _span(latency: float | tuple[float, float]) -> float | tuple[float, float]:
    if isinstance(latency, int | float):
        return _seconds("latency", latency)
    shortest, longest = latency
    if not 0 <= shortest <= longest:
        raise ConfigError(f"latency={latency!r}: give seconds, or (shortest, longest)")
    return shortest, longest


def _seconds(name: str, value: float) -> float:
    if not value >= 0:
        raise ConfigError(f"{name}={value!r}: give seconds from 0")
    return value
