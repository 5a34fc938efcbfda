"""Answers that were paid for are kept, and the same request is not paid twice.

What may live here: the key of a request, what of an answer is kept and how it comes back, where it is kept, identical
requests in flight, and what is to be mended in LiteLLM's own cache. Nothing here makes a call, knows of limits or
counts usage; the flow of a call asks this package before it asks anybody else.
"""

from __future__ import annotations

from .answers import freeze_response, kind_of, thaw_response
from .choosing import Chosen, chosen, clients_cache, default_cache, open_cache
from .disk import FILE_NAME
from .inflight import Follower, Leader, Outcome, SingleFlight
from .info import CacheInfo
from .key import item_keys, request_key
from .litellm_hits import as_paid, was_litellm_cache_hit
from .litellm_patch import LiteLLMSupport, litellm_support, patch, patch_is_due, stop_resending, unpatch
from .litellm_resend import own_call
from .names import is_secret
from .shelf import Entry
from .store import Cache
from .streams import StreamPieces, freeze_stream, replay_chunks, replay_events
from .vectors import VECTOR, embedding_items, is_vector, join_embedding, split_embedding

__all__ = [
    "FILE_NAME",
    "VECTOR",
    "Cache",
    "CacheInfo",
    "Chosen",
    "Entry",
    "Follower",
    "Leader",
    "LiteLLMSupport",
    "Outcome",
    "SingleFlight",
    "StreamPieces",
    "as_paid",
    "chosen",
    "clients_cache",
    "default_cache",
    "embedding_items",
    "freeze_response",
    "freeze_stream",
    "is_secret",
    "is_vector",
    "item_keys",
    "join_embedding",
    "kind_of",
    "litellm_support",
    "open_cache",
    "own_call",
    "patch",
    "patch_is_due",
    "replay_chunks",
    "replay_events",
    "request_key",
    "split_embedding",
    "stop_resending",
    "thaw_response",
    "unpatch",
    "was_litellm_cache_hit",
]
