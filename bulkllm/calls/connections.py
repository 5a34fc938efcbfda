"""LiteLLM's connections of an event loop that is about to end.

LiteLLM keeps clients with open connections for each event loop, for minutes after the loop has ended. Whoever makes a
loop for each of many runs is soon out of file descriptors.

What may live here: how they are found and closed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any, Final

from .. import _litellm

_log = logging.getLogger(__name__)

_PATIENCE: Final = 5.0  # seconds; what is not closed by then is left to LiteLLM


async def close_connections() -> None:
    """Close what LiteLLM keeps open for the running loop, in which no more calls are made. Never raises."""
    if not _litellm.is_loaded():
        return
    litellm = _litellm.load()
    if getattr(litellm, "aclient_session", None) is not None:  # the user's own, which LiteLLM's clients stand on
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            for client in _taken(litellm.in_memory_llm_clients_cache):
                await client.close()
    except Exception as error:  # noqa: BLE001 - what was asked for is there: nothing is worth losing it
        _log.debug("LiteLLM's connections were not closed (%s)", type(error).__name__)


def _taken(cache: Any) -> list[Any]:
    """The asynchronous clients of the running loop, which LiteLLM forgets thereby."""
    ending = cache.update_cache_key_with_event_loop("")
    found = []
    for key in list(cache.cache_dict):
        client = cache.cache_dict.get(key)
        if key.endswith(ending) and inspect.iscoroutinefunction(getattr(client, "close", None)):
            cache.delete_cache(key)
            found.append(client)
    return found
