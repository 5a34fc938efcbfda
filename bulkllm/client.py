"""The client: one object that holds all state, and the module-level functions over a default one.

What may live here: putting a call together from what the caller wrote, and handing it to a flow. The functions are
LiteLLM's, with LiteLLM's arguments and responses; what is ours is taken out before LiteLLM sees the call.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from . import models
from .accounting import Budget, Price, UsageTracker
from .caching import Cache, chosen, clients_cache
from .calls.arguments import from_config, leaves_usage_to_us, prices_of, priority_of, retry_of, seconds_of, tags_of
from .calls.cached import cached_flow
from .calls.call import DEFAULT_TIMEOUT, Call, Operation
from .calls.counting import TokenCounter
from .calls.drive import Flow, adrive, drive
from .calls.flow import call_flow
from .calls.gateway import LiteLLMLane
from .calls.keys import keys_of
from .calls.lane import Lane, Rates
from .calls.observer import Observer
from .calls.parts import Parts
from .calls.retry import RetryPolicy
from .config import Settings
from .errors import ConfigError
from .limits import RateLimit, RateLimiter
from .limits.origin import origins
from .limits.profiles import check_profiles
from .limits.sharing import SharedThrough, configured_sharing
from .limits.spent import patience_of

if TYPE_CHECKING:
    from .bulk import Plan, ResultRow, RunResult
    from .bulk.sources import Requests

Limits = RateLimiter | RateLimit | Iterable[RateLimit]
CountTokens = Literal["estimate", "exact"]


class Foreseen(NamedTuple):
    """A call that is not made.

    Attributes:
        call: whom it would go to, and under whose limits.
        price: what an attempt is charged; None where nobody knows.
        cache: where its answer would be looked for and kept; None for nowhere.
        keys: under which keys.
    """

    call: Call
    price: Rates | None
    cache: Cache | None
    keys: list[str]


class Client:
    """Makes calls: limited, tried again, counted.

    A client may be used from any number of threads and event loops at once, and has nothing that must be closed.

    Args:
        limits: a :class:`RateLimiter` (which clients may share), or the limits for one of its own; with
            None those alone hold that providers tell (``RateLimiter(learn=False)`` listens to none of them).
        store: where these limits are shared with other processes: a path, a URL such as ``redis://host:6379/0``, or a
            :class:`Sharing`, which says more; False shares them with nobody. None is what ``BULKLLM_LIMITS_STORE`` (and
            ``_GROUP``, ``_WHEN_AWAY``, ``_SHARE``) or ``[limits]`` in ``config.toml`` say, or else False.
        retry: which failures are tried again, and when.
        usage: the tracker that counts this client's calls; one of its own unless given.
        budget: what its calls may use in all; clients may share one.
        prices: what endpoints of one's own charge, by canonical model name or glob: they go before LiteLLM's.
        cache: where answers are kept and looked for: a :class:`Cache`, or True for the one in the user's cache
            directory; False for nowhere. None is False, unless ``BULKLLM_CACHE=1`` or ``config.toml`` say otherwise.
        timeout: seconds for one attempt, wall clock, streams included, unless a call says otherwise.
        deadline: seconds for a call with all its waiting and attempts, unless a call says otherwise; None for no end.
        wait_for_quota: what becomes of calls when a provider says that the quota of a day is spent, or to wait longer
            than ten minutes. With False the call that was refused raises LiteLLM's error, and those that follow to that
            model and account raise :exc:`QuotaExhausted` until it is renewed, before anything is sent; with True they
            wait; a number is for so many seconds at most. The deadline bounds it too. None is what
            ``BULKLLM_WAIT_FOR_QUOTA`` or ``wait_for_quota`` in ``config.toml`` say, or else False. A limiter with
            ``learn=False`` knows nothing of it.
        count_tokens: how input tokens are known before a call, where a limit or a budget counts tokens: ``"estimate"``
            goes by characters, and by what earlier answers told; ``"exact"`` counts them by LiteLLM's tokenizer of the
            model, in a thread where an event loop must not wait. None is what ``BULKLLM_COUNT_TOKENS`` or
            ``count_tokens`` in ``config.toml`` say, or else an estimate.
        observers: who is told of each call besides, such as :class:`bulkllm.integrations.opentelemetry.OpenTelemetry`.
        lane: what carries the calls; LiteLLM unless given.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        store: SharedThrough | bool | None = None,
        retry: RetryPolicy | None = None,
        usage: UsageTracker | None = None,
        budget: Budget | None = None,
        prices: Mapping[str, Price] | None = None,
        cache: Cache | bool | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        deadline: float | None = None,
        wait_for_quota: bool | float | None = None,
        count_tokens: CountTokens | None = None,
        observers: Iterable[Observer] = (),
        lane: Lane | None = None,
    ) -> None:
        self.limiter = _limiter(limits, store)
        self.usage = UsageTracker("client") if usage is None else usage
        self.retry = RetryPolicy() if retry is None else retry
        if not isinstance(self.retry, RetryPolicy):
            raise ConfigError(f"retry= takes a RetryPolicy, such as RetryPolicy(max_attempts=3), not {retry!r}")
        self.cache = clients_cache(cache)
        self._timeout = seconds_of("timeout", timeout)
        self._deadline = None if deadline is None else seconds_of("deadline", deadline)
        if self.limiter.learns:
            check_profiles()
        self._patience = patience_of(Settings().flag_or_number("wait_for_quota", False, argument=wait_for_quota))
        self.budget = budget
        self._observers = tuple(observers)
        if lane is not None and prices is not None:
            raise ConfigError("prices= are for the lane through LiteLLM; a lane of one's own has its own")
        self._parts = Parts(
            lane=LiteLLMLane(prices_of(prices)) if lane is None else lane,
            limiter=self.limiter,
            counter=_counter(count_tokens),
            budget=budget,
            trackers=(self.usage, _process_usage),
        )

    # -- single calls ----------------------------------------------------------------------------------------

    def completion(self, model: Any, messages: Any, **options: Any) -> Any:
        """``litellm.completion``, limited, tried again and counted.

        Args:
            model: a LiteLLM name, an alias, a preset's slug, or an :class:`LLMConfig`; a preset brings its options
                and system prompt along, and what the call says itself goes before them. An exact LiteLLM name always
                means that model and no preset; a name that nobody knows goes to LiteLLM as it is.
            messages: as LiteLLM takes them.
            **options: LiteLLM's. Ours are ``tags`` (a mapping of strings that the usage is counted under besides),
                ``priority`` (see :meth:`RateLimiter.reserve`), ``deadline`` (seconds for all waiting and attempts)
                and ``num_retries`` (attempts after the first); a bool or a :class:`Cache` as ``cache`` is ours too, a
                dict is LiteLLM's. With a cache, ``sample`` (0, 1, 2, ...) keeps several answers to one request apart,
                ``namespace`` those of several experiments. ``timeout`` is for one attempt, wall clock.

        Returns:
            LiteLLM's ModelResponse, or with ``stream=True`` a :class:`CallStream` over LiteLLM's chunks.

        Raises:
            BudgetExceeded: the budget has no room for the call; nothing was sent.
            LimitTimeout: the deadline was over before the limits let the call go; nothing was sent.
            QuotaExhausted: the quota of a day is spent, and the call does not wait for the next; nothing was sent.
            ImpossibleRequest: the call needs more than a limit's whole quota.
            Exception: LiteLLM's own, unchanged, when the last attempt failed.
        """
        return drive(self._flow("completion", model, {"messages": messages, **options}))

    async def acompletion(self, model: Any, messages: Any, **options: Any) -> Any:
        """``litellm.acompletion``; everything as in :meth:`completion`."""
        return await adrive(self._flow("completion", model, {"messages": messages, **options}))

    def embedding(self, model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """``litellm.embedding``; everything else as in :meth:`completion`."""
        return drive(self._flow("embedding", model, {"input": input, **options}))

    async def aembedding(self, model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """``litellm.aembedding``; everything else as in :meth:`completion`."""
        return await adrive(self._flow("embedding", model, {"input": input, **options}))

    def responses(self, model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """``litellm.responses``; everything else as in :meth:`completion`."""
        return drive(self._flow("responses", model, {"input": input, **options}))

    async def aresponses(self, model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """``litellm.aresponses``; everything else as in :meth:`completion`."""
        return await adrive(self._flow("responses", model, {"input": input, **options}))

    # -- bulk runs -------------------------------------------------------------------------------------------
    # Bulk stands above the client and calls it; these are the only way back up, and import late.

    def run(self, requests: Requests, **options: Any) -> RunResult:
        """:func:`bulkllm.run` with this client."""
        from .bulk import run

        return run(requests, client=self, **options)

    async def arun(self, requests: Requests, **options: Any) -> RunResult:
        """:func:`bulkllm.arun` with this client."""
        from .bulk import arun

        return await arun(requests, client=self, **options)

    def plan(self, requests: Requests, **options: Any) -> Plan:
        """:func:`bulkllm.plan` with this client."""
        from .bulk import plan

        return plan(requests, client=self, **options)

    def map(self, prompts: Requests, **options: Any) -> list[Any]:
        """:func:`bulkllm.map` with this client."""
        from .bulk import map as map_

        return map_(prompts, client=self, **options)

    async def amap(self, prompts: Requests, **options: Any) -> list[Any]:
        """:func:`bulkllm.amap` with this client."""
        from .bulk import amap

        return await amap(prompts, client=self, **options)

    def stream(self, requests: Requests, **options: Any) -> AsyncIterator[ResultRow]:
        """:func:`bulkllm.stream` with this client."""
        from .bulk import stream

        return stream(requests, client=self, **options)

    def foresee(self, operation: Operation, **options: Any) -> Foreseen:
        """What a call with these keywords would be. Nothing is sent.

        Args:
            operation: "completion", "embedding" or "responses".
            **options: the call's keywords, ``model`` and ``messages`` or ``input`` among them.

        Raises:
            ConfigError: one of them is wrong.
        """
        self._parts.lane.load()
        where = chosen(options, self.cache)
        call = self._call(operation, options.pop("model"), options)
        keys = [] if where.cache is None else keys_of(
            call, where.cache, namespace=where.namespace, sample=where.sample
        )  # fmt: skip
        return Foreseen(call, self._parts.lane.price(call), where.cache, keys)

    def under(self, limits: Limits | None) -> Client:
        """A client under other limits which shares all else with this one: its budget, prices, cache and trackers."""
        other = copy.copy(self)
        other.limiter = limits if isinstance(limits, RateLimiter) else RateLimiter(limits, learn=self.limiter.learns)
        other._parts = replace(self._parts, limiter=other.limiter)
        return other

    @property
    def waits_for_quota(self) -> bool:
        """Whether calls wait for a quota of a day that is spent."""
        return self._patience > 0

    def hasty(self) -> Client:
        """This client, with the same limits and books, for calls that do not wait for a quota of a day."""
        other = copy.copy(self)
        other._patience = 0.0
        return other

    # -- putting a call together -----------------------------------------------------------------------------

    def _flow(self, operation: Operation, model: Any, options: dict[str, Any]) -> Flow[Any]:
        where = chosen(options, self.cache)
        call = self._call(operation, model, options)
        if where.cache is None:
            return call_flow(self._parts, call)
        return cached_flow(self._parts, call, where.cache, namespace=where.namespace, sample=where.sample)

    def _call(self, operation: Operation, model: Any, options: dict[str, Any]) -> Call:
        requested = model
        if isinstance(model, str):
            model = models.registry().called(model, options)
        if not isinstance(model, str):
            requested = requested if isinstance(requested, str) else getattr(model, "slug", "")
            model, options = from_config(operation, model, options)
        tags = tags_of(options.pop("tags", None))
        priority = priority_of(options.pop("priority", 0.0))
        deadline = options.pop("deadline", self._deadline)
        retry = retry_of(self.retry, options)
        timeout = options.get("timeout")
        if timeout is None or isinstance(timeout, int | float | str):
            options.pop("timeout", None)
            timeout = self._timeout if timeout is None else seconds_of("timeout", timeout)
        else:
            timeout = None  # an httpx.Timeout: LiteLLM's to keep
        stream = options.get("stream") is True
        target = self._parts.lane.target(model, options)
        options["model"] = model
        return Call(
            operation=operation,
            model=target.model,
            requested_model=requested,
            provider=target.provider,
            origin=origins.of(target.provider, options) if self.limiter.learns else None,
            options=options,
            stream=stream,
            adds_usage_chunk=stream and operation == "completion" and leaves_usage_to_us(target.provider, options),
            timeout=timeout,
            deadline=None if deadline is None else seconds_of("deadline", deadline),
            patience=self._patience,
            priority=priority,
            retry=retry,
            tags=tags,
            observers=self._observers,
        )


def _counter(count_tokens: str | None) -> TokenCounter | None:
    how = Settings().get("count_tokens", str, "estimate", argument=count_tokens)
    if how not in get_args(CountTokens):
        raise ConfigError(f"count_tokens={how!r} must be 'estimate' or 'exact'")
    return _token_counter if how == "exact" else None


def _limiter(limits: Limits | None, store: SharedThrough | bool | None) -> RateLimiter:
    if isinstance(limits, RateLimiter):
        if store:
            raise ConfigError("a RateLimiter knows where its limits are shared: give it the store, not the client")
        return limits
    if store is True:
        raise ConfigError("store=True does not say which; give a path, a URL such as redis://host:6379/0, or a Sharing")
    specs = [limits] if isinstance(limits, RateLimit) else list(limits or ())
    if store is None and specs:
        store = configured_sharing()
    return RateLimiter(specs, store=None if store is False else store)


# -- the default client --------------------------------------------------------------------------------------

_process_usage: Final = UsageTracker("process")
_token_counter: Final = TokenCounter()  # a tokenizer that is loaded serves all clients
_default: Client | None = None
_default_lock: Final = threading.Lock()


def default_client() -> Client:
    """The client behind the module-level functions; made at the first use."""
    global _default  # noqa: PLW0603 - the one default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Client()
    return _default


def configure(limits: Limits | None = None, **options: Any) -> Client:
    """Replace the default client; the arguments are those of :class:`Client`. Calls under way keep the old one."""
    global _default  # noqa: PLW0603 - the one default
    client = Client(limits, **options)
    with _default_lock:
        _default = client
    return client


def usage() -> UsageTracker:
    """The tracker that counts every call of this process, of all clients."""
    return _process_usage


def completion(model: Any, messages: Any, **options: Any) -> Any:
    """:meth:`Client.completion` of the default client."""
    return default_client().completion(model, messages, **options)


async def acompletion(model: Any, messages: Any, **options: Any) -> Any:
    """:meth:`Client.acompletion` of the default client."""
    return await default_client().acompletion(model, messages, **options)


def embedding(model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
    """:meth:`Client.embedding` of the default client."""
    return default_client().embedding(model, input, **options)


async def aembedding(model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
    """:meth:`Client.aembedding` of the default client."""
    return await default_client().aembedding(model, input, **options)


def responses(model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
    """:meth:`Client.responses` of the default client."""
    return default_client().responses(model, input, **options)


async def aresponses(model: Any, input: Any, **options: Any) -> Any:  # noqa: A002 - LiteLLM's name
    """:meth:`Client.aresponses` of the default client."""
    return await default_client().aresponses(model, input, **options)
