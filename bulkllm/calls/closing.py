"""How a provider's stream is given back, whichever of LiteLLM's shapes it has. Nothing is booked here.

LiteLLM's synchronous streams cannot be closed, nor its Responses streams at all, nor what some providers' streams read
from; but each holds, a layer or two below, something that can. Without that the connection stays taken until the
garbage collector comes by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

# Where LiteLLM's wrappers keep what they read from.
_LAYERS: Final = ("completion_stream", "streaming_response", "response_iterator", "response")


def close_source(stream: Any) -> None:
    """Give a synchronous stream's connection back."""
    for layer in _layers(stream):
        close = getattr(layer, "close", None)
        if close is not None:
            try:
                close()
            except ValueError:  # a generator that a thread, given up by its caller, is still in: it ends by itself
                return
            return


async def aclose_source(stream: Any) -> None:
    """Give an asynchronous stream's connection back."""
    layers = list(_layers(stream))  # now, for LiteLLM's own closing forgets what it read from
    for layer in layers:
        close = getattr(layer, "aclose", None)
        if close is not None:
            try:
                await close()
            except RuntimeError:  # a generator that another task is in, or a response that is read in a thread
                continue


def _layers(stream: Any) -> Iterator[Any]:
    """The stream and what it reads from, outermost first."""
    seen: set[int] = set()
    found = [stream]
    while found:
        layer = found.pop(0)
        if layer is None or id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        found += [vars(layer).get(name) for name in _LAYERS] if hasattr(layer, "__dict__") else []
