"""Bulk LLM calls through LiteLLM: rate-limited, counted to the token and the cent, never paid for twice.

``import bulkllm`` is light: each name below is imported when it is first used, and LiteLLM with the first call.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors, models
    from .accounting import Budget, Price, Usage, UsageRecord, UsageTracker, read_records
    from .bulk import ResultRow, RunResult, amap, arun, map, plan, run, stream  # noqa: A004 - it is a public name
    from .caching import Cache, LiteLLMSupport, litellm_support, patch, unpatch
    from .calls import RetryPolicy, record_of
    from .client import (
        Client,
        acompletion,
        aembedding,
        aresponses,
        completion,
        configure,
        embedding,
        responses,
        usage,
    )
    from .errors import (
        BudgetExceeded,
        BulkLLMError,
        CacheError,
        ConfigError,
        ImpossibleRequest,
        IncompatibleLiteLLM,
        InvalidAnswer,
        LimitError,
        LimitTimeout,
        QuotaExhausted,
        RequestFileError,
        RowFailed,
        RunLocked,
        RunStopped,
    )
    from .limits import (
        HeaderNames,
        LimitStatus,
        Profile,
        RateLimit,
        RateLimiter,
        Reservation,
        Sharing,
        fetch_limits,
        load_limits,
        published_limits,
        register_profile,
    )
    from .models import LLMConfig, ModelInfo

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "BudgetExceeded",
    "BulkLLMError",
    "Cache",
    "CacheError",
    "Client",
    "ConfigError",
    "HeaderNames",
    "ImpossibleRequest",
    "IncompatibleLiteLLM",
    "InvalidAnswer",
    "LLMConfig",
    "LimitError",
    "LimitStatus",
    "LimitTimeout",
    "LiteLLMSupport",
    "ModelInfo",
    "Price",
    "Profile",
    "QuotaExhausted",
    "RateLimit",
    "RateLimiter",
    "RequestFileError",
    "Reservation",
    "ResultRow",
    "RetryPolicy",
    "RowFailed",
    "RunLocked",
    "RunResult",
    "RunStopped",
    "Sharing",
    "Usage",
    "UsageRecord",
    "UsageTracker",
    "acompletion",
    "aembedding",
    "amap",
    "aresponses",
    "arun",
    "completion",
    "configure",
    "embedding",
    "errors",
    "fetch_limits",
    "litellm_support",
    "load_limits",
    "map",
    "models",
    "patch",
    "plan",
    "published_limits",
    "read_records",
    "record_of",
    "register_profile",
    "responses",
    "run",
    "stream",
    "unpatch",
    "usage",
]

_HOMES = {
    "accounting": ("Budget", "Price", "Usage", "UsageRecord", "UsageTracker", "read_records"),
    "bulk": ("ResultRow", "RunResult", "amap", "arun", "map", "plan", "run", "stream"),
    "caching": ("Cache", "LiteLLMSupport", "litellm_support", "patch", "unpatch"),
    "calls": ("RetryPolicy", "record_of"),
    "client": (
        "Client", "acompletion", "aembedding", "aresponses", "completion", "configure", "embedding", "responses",
        "usage",
    ),
    "errors": (
        "BudgetExceeded", "BulkLLMError", "CacheError", "ConfigError", "ImpossibleRequest", "IncompatibleLiteLLM",
        "InvalidAnswer", "LimitError", "LimitTimeout", "QuotaExhausted", "RequestFileError", "RowFailed", "RunLocked",
        "RunStopped",
    ),
    "limits": (
        "HeaderNames", "LimitStatus", "Profile", "RateLimit", "RateLimiter", "Reservation", "Sharing",
        "fetch_limits", "load_limits", "published_limits", "register_profile",
    ),
    "models": ("LLMConfig", "ModelInfo"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

# A library's manners: whoever sets logging up decides what is seen.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        if name in {"errors", "models"}:
            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
