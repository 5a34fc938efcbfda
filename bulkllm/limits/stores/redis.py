"""A store in a Redis or Valkey server: processes of any number of machines share limits.

What may live here: talking to the server. What is done there stands in ``lease.lua``, which the server runs in one
atomic step, by its own clock. A group is one key, so that all of it is in one slot of a cluster; the key expires when
there is nothing left to remember.

The package ``redis`` is imported when a store is made, not before.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote, urlsplit

from ...errors import ConfigError, StoreUnavailable
from ..clock import monotonic
from .base import Claim, Lease, Meter, Store, View, check_closing, check_correction, settles

_PREFIX: Final = "bulkllm:limits:2"
"""What all keys begin with. The number is the version of the state's form."""

_REMEMBER_EVERY: Final = 0.5
"""Seconds after which a large state is asked for again, to be brought back if the server loses it; or, where that is
less, a 50th of the shortest period: so much quota at most is missing from what is brought back. A small one comes with
each answer."""

SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
}
"""Which URLs there are, and what the client calls them."""


class _Memory(NamedTuple):
    """A state as the server gave it."""

    epoch: str
    written: int
    state: bytes
    at: float
    matters_for: float


class RedisStore(Store):
    """Limits that machines share through a server (Redis 6 or newer, or Valkey).

    A call that finds its connection broken is made once more, on a new one. Whoever was served before a server lost
    its state brings back what it remembers of it (see :class:`~.base.Store`). The server's clock may be set back: what
    :class:`~.sqlite.SQLiteStore` says of its clock holds here too.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``valkey://``, ``valkeys://`` or, for a cluster,
            ``redis+cluster://``, with user, password and database as the ``redis`` package takes them.
        client: instead of a URL, a client of the ``redis`` package that gives bytes (no ``decode_responses``).
        timeout: seconds to wait for a connection, and for an answer.
        clock: instead of the server's, in seconds. For tests only.

    Raises:
        ConfigError: the URL or the client cannot be used, or the package is not installed. Whether the server is
            there turns out at the first call.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        timeout: float = 2.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if (url is None) == (client is None):
            raise ConfigError("RedisStore takes a URL or a client, one of them")
        self._errors, self._broken, self._no_script = _errors()
        self._make: Callable[[], Any] = (lambda: client) if url is None else _connection(url, timeout)
        self._client: Any = client
        self._owns_client = client is None
        self._name = "a given client" if url is None else _without_secrets(url)
        options = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
        if options.get("decode_responses"):
            raise ConfigError("RedisStore needs a client that gives bytes: make it without decode_responses=True")
        self._clock = clock
        self._memories: dict[str, _Memory] = {}
        self._lock = threading.Lock()  # over the memories
        _stores.add(self)

    def lease(self, group: str, claim: Claim) -> Lease:
        """See :meth:`.base.Store.lease`."""
        request = {
            "owner": claim.owner,
            "ttl": claim.ttl,
            "meters": [_definition(meter) for meter in claim.meters],
            "want": dict(claim.want),
            "least": dict(claim.least),
            "keep": dict(claim.keep),
            "reports": claim.reports,
            "leaving": claim.leaving,
        }
        remember_every = min([_REMEMBER_EVERY, *(meter.period / 50 for meter in claim.meters)])
        answer = self._do(group, "lease", request, remember_every)
        granted, retry_after, held_up, closed_for, left, rivals, excess = answer
        return Lease(
            _amounts(granted),
            float(retry_after),
            tuple(key.decode() for key in held_up),
            float(closed_for),
            _amounts(left),
            rivals,
            _amounts(excess),
        )

    def correct(
        self,
        group: str,
        meter: Meter,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        ago: float = 0.0,
    ) -> bool:
        """See :meth:`.base.Store.correct`."""
        check_correction(meter, (at_least, at_most), ago)
        bounds = {"at_least": at_least, "at_most": at_most}
        told = {name: bound for name, bound in bounds.items() if bound is not None}
        (news,) = self._do(group, "correct", {"meter": _definition(meter), "ago": ago, **told})
        return bool(news)

    def close(self, group: str, pool: str, seconds: float, *, replace: bool = False) -> float:
        """See :meth:`.base.Store.close`."""
        check_closing(seconds)
        (closed_for,) = self._do(group, "close", {"pool": pool, "seconds": seconds, "replace": replace})
        return float(closed_for)

    def closed_for(self, group: str, pool: str) -> float:
        """See :meth:`.base.Store.closed_for`."""
        return self.look(group).closed.get(pool, 0.0)

    def look(self, group: str) -> View:
        """See :meth:`.base.Store.look`."""
        left, held, closed = self._do(group, "look", {})
        owners = zip(held[::2], held[1::2], strict=True)
        return View(_amounts(left), {owner.decode(): _amounts(flat) for owner, flat in owners}, _amounts(closed))

    def disconnect(self) -> None:
        """See :meth:`.base.Store.disconnect`. The next use connects again."""
        if self._client is not None:
            self._client.close()

    def __repr__(self) -> str:
        return f"RedisStore({self._name!r})"

    # -- talking to the server -------------------------------------------------------------------------------

    def _do(self, group: str, verb: str, what: Mapping[str, object], remember_every: float = 0.0) -> list[Any]:
        with self._lock:
            memory = self._memories.get(group)
        if memory is not None and monotonic() - memory.at > memory.matters_for:
            memory = None
        now = monotonic()
        request: dict[str, object] = {
            "verb": verb,
            verb: what,
            "new_epoch": secrets.token_hex(8),
            "remember": memory is None or now - memory.at >= remember_every,
        }
        if self._clock is not None:
            request["clock"] = self._clock()
        if memory is not None:
            request["epoch"] = memory.epoch
            request["written"] = memory.written
        status, *answer = self._run(group, request, b"")
        if status == b"lost" and memory is not None:
            request["elapsed"] = monotonic() - memory.at
            request["remember"] = True
            status, *answer = self._run(group, request, memory.state)
        if status not in (b"ok", b"settles"):
            raise StoreUnavailable(f"the store {self._name} gave an answer that is none: {status!r}")
        if len(answer) > 1:
            self._remember(group, memory, *answer[1:])
        if status == b"settles":
            raise settles(self, float(answer[0]))
        return cast("list[Any]", answer[0])

    def _remember(
        self, group: str, memory: _Memory | None, epoch: bytes, written: bytes, matters_for: bytes, state: bytes
    ) -> None:
        with self._lock:
            if state:
                self._memories[group] = _Memory(epoch.decode(), int(written), state, monotonic(), float(matters_for))
            elif memory is not None and memory.epoch != epoch.decode():
                self._memories.pop(group, None)  # it is of another life of the group: the next call asks for this one's

    def _run(self, group: str, request: Mapping[str, object], memory: bytes) -> list[Any]:
        arguments = (1, _key(group), json.dumps(request, allow_nan=False), memory)
        try:
            if self._client is None:
                self._client = self._make()  # a cluster's asks the server who belongs to it
            try:
                return self._evaluate(arguments)
            except self._broken:  # the server was restarted, or the connection had been idle for too long
                return self._evaluate(arguments)
        except self._errors as error:
            raise StoreUnavailable(
                f"the store {self._name} cannot be used ({type(error).__name__}: {error}); see that the server runs, "
                f"and can be reached from here"
            ) from error

    def _renew_in_child(self) -> None:
        self._lock = threading.Lock()
        if self._owns_client:
            _inherited.append(self._client)
            self._client = None

    def _evaluate(self, arguments: tuple[object, ...]) -> list[Any]:
        script, digest = _script()
        try:
            answer = self._client.evalsha(digest, *arguments)
        except self._no_script:
            answer = self._client.eval(script, *arguments)
        return cast("list[Any]", answer)


# A forked child has locks and connections of its own: the thread that held the parent's at that moment is not there,
# and the client's pool of connections would wait for it for ever. The parent's client is kept, for what it has is the
# parent's to close.
_stores: weakref.WeakSet[RedisStore] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._renew_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@cache
def _script() -> tuple[str, str]:
    text = resources.files(__package__).joinpath("lease.lua").read_text(encoding="utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _package() -> Any:
    try:
        import redis
    except ImportError as error:
        raise ConfigError("a store in Redis or Valkey needs the package redis: pip install redis") from error
    return redis


def _errors() -> tuple[tuple[type[Exception], ...], type[Exception], type[Exception]]:
    """All errors of the package, that of a broken connection, and that of a script which the server does not know."""
    redis = _package()
    every = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
    return every, redis.ConnectionError, redis.exceptions.NoScriptError


def _connection(url: str, timeout: float) -> Callable[[], Any]:
    """What makes a client for a URL."""
    redis = _package()
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest:
        raise ConfigError(f"{_without_secrets(url)!r} is no URL of a server; it begins with one of {sorted(SCHEMES)}")
    kind = redis.RedisCluster if scheme.endswith("+cluster") else redis.Redis
    never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)  # we try again ourselves, and know when that is harmless
    address = f"{SCHEMES[scheme]}://{rest}"
    options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": never}
    try:
        redis.connection.parse_url(address)
    except ValueError as error:
        raise ConfigError(f"{_without_secrets(url)!r} is no URL of a server: {error}") from error
    return lambda: kind.from_url(address, **options)


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # then nobody knows where in it a password stands
        return f"{url.partition('://')[0]}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _key(group: str) -> str:
    """The group's key. Braces mark what a cluster looks at, so the group's own are written otherwise."""
    return f"{_PREFIX}:{{{quote(group, safe=' /:,*@+')}}}"


def _definition(meter: Meter) -> dict[str, object]:
    return {
        "key": meter.key,
        "pool": meter.pool,
        "kind": meter.kind,
        "quota": meter.quota,
        "period": meter.period,
        "size": meter.size,
        "whole": meter.whole,
    }


def _amounts(flat: list[bytes]) -> dict[str, float]:
    """Keys and numbers by turns, as the script gives them."""
    return {key.decode(): float(amount) for key, amount in zip(flat[::2], flat[1::2], strict=True)}
