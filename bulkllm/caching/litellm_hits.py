"""How a hit of LiteLLM's own cache is known, and what of it was paid.

What may live here: reading LiteLLM's marks on answers and streams. Nothing here loads LiteLLM or changes it.
"""

from __future__ import annotations

from typing import Any

from .answers import EMBEDDING, kind_of

_PAID_USAGE = "bulkllm_paid_usage"


def was_litellm_cache_hit(response: Any) -> bool:
    """Whether an answer (or a stream, or a chunk) came from ``litellm.cache``, so that nothing was paid for it.

    False for an embedding of which only a part came from there: see :func:`paid_usage`.
    """
    hidden = _hidden(response)
    if hidden.get("cache_hit") is True:
        return not _is_partial(response, hidden)
    if hidden.get("cache_key") is not None or getattr(response, "custom_llm_provider", None) == "cached_response":
        return True
    # The stream of a text completion is wrapped around the stream that carries the mark.
    inner = getattr(response, "completion_stream", None)
    return getattr(inner, "custom_llm_provider", None) == "cached_response"


def paid_usage(response: Any) -> Any:
    """The usage of the part that was asked for, of an embedding that came partly from ``litellm.cache``.

    None for any other answer, whose own usage says what was paid.
    """
    return _hidden(response).get(_PAID_USAGE)


def _hidden(response: Any) -> Any:
    hidden = getattr(response, "_hidden_params", None)
    return hidden if hasattr(hidden, "get") else {}


def _is_partial(response: Any, hidden: Any) -> bool:
    # LiteLLM marks it like a whole hit. But a whole hit has no duration, or was looked up under one key.
    return (
        kind_of(response) == EMBEDDING
        and hidden.get("cache_key") is None
        and getattr(response, "_response_ms", None) is not None
    )


def note_paid_usage(response: Any, usage: Any) -> None:
    """Leave the usage of the part that was asked for where :func:`paid_usage` finds it."""
    response._hidden_params[_PAID_USAGE] = usage


def as_paid(response: Any, *, hit: bool) -> Any:
    """The answer as it would be priced had LiteLLM's cache not been there: no marks, and the usage of what was paid.

    The same object where the cache had no part in it, or where nobody knows which part.

    Args:
        response: the answer.
        hit: what :func:`was_litellm_cache_hit` says of it.
    """
    paid = paid_usage(response)
    if paid is None and not hit:
        return response
    twin = response.model_copy()
    twin._hidden_params = {}
    if paid is not None:
        twin.usage = paid
    return twin
