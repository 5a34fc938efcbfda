"""The key of a request: two requests have the same key exactly if the same answer will do for both.

What may live here: turning a request into canonical JSON and its hash. Pure, standard library only.

The key is the SHA-256 of everything that can change the answer (see :mod:`bulkllm.caching.names` for what cannot). It
is a hash of values, so nothing that went into it can be read out of it; credentials do not even go in, so that a new
API key finds the old answers.

JSON alone would mix up what Python tells apart: ``{1: ..}`` and ``{"1": ..}``, NaN and null, bytes and text. Whatever
plain JSON cannot say becomes an object with the single key ``""``, and a dict of the user's that has that key itself
is written in the same way, so nobody can forge one.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from .names import (
    BODY_OPTIONS,
    HEADER_OPTIONS,
    NONE_IS_ABSENT,
    QUERY_OPTIONS,
    counts,
    headers_that_count,
    is_secret,
    query_counts,
)

_log = logging.getLogger(__name__)

KEY_VERSION = 1
"""Part of every key. Raise it when the same request is to have another key than before."""

_DEEPEST = 100
_STRIPPED = HEADER_OPTIONS | QUERY_OPTIONS | BODY_OPTIONS
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode

_schemas: weakref.WeakKeyDictionary[type, object] = weakref.WeakKeyDictionary()
_schemas_lock = threading.Lock()


class _NotCanonical(Exception):
    """A value that has no canonical form. Its text says where and of what type, never what it holds."""


def request_key(
    operation: str,
    model: str,
    endpoint: str | None,
    params: Mapping[str, Any],
    *,
    namespace: str = "",
    sample: int = 0,
) -> str | None:
    """The key under which the answer to a request is kept, or None if the request must not be cached.

    Args:
        operation: "completion", "embedding" or "responses"; a streamed call and an async one are the same operation.
        model: the canonical name, provider included.
        endpoint: the base URL, or the name that was declared for it; credentials in it do not count. None takes
            ``api_base``, ``base_url`` or the base URL of a ``client`` from the parameters.
        params: LiteLLM's keywords, messages or input among them.
        namespace: keeps the answers of one experiment apart from those of others.
        sample: tells several answers to one prompt apart.

    Returns:
        64 hexadecimal digits; None, with a debug line in the log, where a value has no canonical form (a function, an
        open file, an object of an unknown class).
    """
    try:
        return _digest(_request(operation, model, endpoint, params, namespace, sample))
    except _NotCanonical as error:
        _log.debug("not cached: %s", error)
    return None


def item_keys(
    operation: str,
    model: str,
    endpoint: str | None,
    params: Mapping[str, Any],
    items: Sequence[Any],
    *,
    namespace: str = "",
    sample: int = 0,
) -> list[str] | None:
    """One key for each item of an embedding's input, so that a batch that is partly known asks only for the rest.

    An item's key does not depend on its neighbours. ``params`` must not hold the input itself. None as for
    :func:`request_key`.
    """
    try:
        shared = _digest(_request(operation, model, endpoint, params, namespace, sample))
        return [_digest(["item", shared, _canonical(item, 0, "input")]) for item in items]
    except _NotCanonical as error:
        _log.debug("not cached: %s", error)
    return None


def _request(
    operation: str, model: str, endpoint: str | None, params: Mapping[str, Any], namespace: str, sample: int
) -> list[object]:
    options = {}
    for name, value in params.items():
        if not counts(name) or (value is None and name in NONE_IS_ABSENT):
            continue
        option = _option(name, value)
        if option or name not in _STRIPPED:  # headers of which only credentials were given are no headers
            options[name] = option
    if endpoint is None:
        endpoint = _endpoint_in(params)
    return [
        KEY_VERSION,
        operation,
        model,
        None if endpoint is None else _bare_endpoint(endpoint),
        namespace,
        int(sample),
        options,
    ]


def _digest(value: object) -> str:
    try:
        return sha256(_encode(value).encode("ascii")).hexdigest()
    except ValueError as error:  # an integer of more digits than Python will write
        raise _NotCanonical(f"the request cannot be written as JSON ({error})") from error


def _endpoint_in(params: Mapping[str, Any]) -> str | None:
    """Where the parameters themselves send the request; a client of the user's own knows its address, too."""
    given = params.get("api_base") or params.get("base_url") or getattr(params.get("client"), "base_url", None)
    return None if given is None else str(given)


def _option(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        if name in HEADER_OPTIONS:
            value = headers_that_count(value)
        elif name in QUERY_OPTIONS:
            value = {key: held for key, held in value.items() if query_counts(str(key))}
        elif name in BODY_OPTIONS:
            value = {key: held for key, held in value.items() if not is_secret(str(key))}
    elif name == "model_list":
        raise _NotCanonical("'model_list' holds credentials of several endpoints")
    return _canonical(value, 0, name)


def _bare_endpoint(endpoint: str) -> str:
    """A base URL as it is compared: without credentials, fragment and trailing slash, host in small letters."""
    try:
        parts = urlsplit(endpoint)
        host = parts.netloc.rpartition("@")[2].lower()
        query = urlencode(sorted(pair for pair in parse_qsl(parts.query) if query_counts(pair[0])))
    except ValueError:  # no URL, such as "http://[broken": a name like any other
        return endpoint
    if not host:
        return endpoint
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}" + (f"?{query}" if query else "")


def _canonical(value: object, depth: int, name: str) -> object:
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is int:
        return value
    if depth > _DEEPEST:
        raise _NotCanonical(f"{name!r} is nested deeper than {_DEEPEST} levels")
    if kind is dict:
        return _mapping(value, depth, name)  # type: ignore[arg-type]  # a dict is a mapping
    if kind is list or kind is tuple:
        return [_canonical(item, depth + 1, name) for item in value]  # type: ignore[attr-defined]  # both iterate
    if isinstance(value, float):
        return _number(float(value))
    return _rare(value, depth, name)


def _number(value: float) -> object:
    if math.isfinite(value):
        return value
    return _tagged("float", repr(value))


def _rare(value: object, depth: int, name: str) -> object:
    """What seldom stands in a request: subclasses of JSON's types, bytes, pydantic models and their classes."""
    if isinstance(value, Enum):
        return _canonical(value.value, depth + 1, name)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return _tagged("bytes", sha256(data).hexdigest(), len(data))
    if isinstance(value, type):
        return _tagged("class", value.__name__, _schema(value, depth, name))
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return _tagged("object", type(value).__name__, _canonical(_dumped(value, name), depth + 1, name))
    if isinstance(value, Mapping):
        return _mapping(value, depth, name)
    if isinstance(value, list | tuple):
        return [_canonical(item, depth + 1, name) for item in value]
    raise _NotCanonical(f"{name!r} holds a {type(value).__qualname__}")


def _mapping(value: Mapping[Any, Any], depth: int, name: str) -> object:
    pairs: Iterable[tuple[object, object]] = value.items()
    plain: dict[str, object] = {}
    for key, held in pairs:
        if type(key) is not str or not key:
            break
        plain[key] = _canonical(held, depth + 1, name)
    else:
        return plain
    typed = [[_canonical(key, depth + 1, name), _canonical(held, depth + 1, name)] for key, held in value.items()]
    return _tagged("dict", sorted(typed, key=_encode))


def _tagged(*content: object) -> dict[str, object]:
    return {"": list(content)}


def _dumped(value: object, name: str) -> object:
    # None is left out: versions of LiteLLM differ in which unset fields of a message they carry as None.
    try:
        return value.model_dump(exclude_none=True, warnings=False)  # type: ignore[attr-defined]  # asked for above
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise _NotCanonical(f"{name!r} holds a {type(value).__qualname__} that cannot be dumped") from error


def _schema(value: type, depth: int, name: str) -> object:
    with _schemas_lock:
        if value in _schemas:
            return _schemas[value]
    make = getattr(value, "model_json_schema", None)
    if not callable(make):
        raise _NotCanonical(f"{name!r} holds the class {value.__qualname__}, which has no JSON schema")
    try:
        schema = make()
    except (TypeError, ValueError, RuntimeError, AttributeError, NameError) as error:
        raise _NotCanonical(f"{name!r} holds the class {value.__qualname__}, whose JSON schema fails") from error
    canonical = _canonical(schema, depth + 1, name)
    with _schemas_lock:
        _schemas[value] = canonical
    return canonical
