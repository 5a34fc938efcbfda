"""Models: which there are, what they can do and cost, and presets for calling them.

What may live in this package: names, limits, prices and abilities of models, presets, and how they are chosen and
kept up to date. It knows nothing of calls. Facts are data (``data/*.toml``), not code.

Importing it costs nothing: everything below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._default import get, preset, register, register_preset, registry, reset, resolve, select
    from ._registry import Registry
    from .changes import Change, Estimate, Retirement
    from .config import LLMConfig
    from .info import ModelInfo, Origin
    from .refresh import RefreshResult

__all__ = [
    "Change",
    "Estimate",
    "LLMConfig",
    "ModelInfo",
    "Origin",
    "RefreshResult",
    "Registry",
    "Retirement",
    "get",
    "preset",
    "register",
    "register_preset",
    "registry",
    "reset",
    "resolve",
    "select",
]

_HOME = {
    "Change": "changes",
    "Estimate": "changes",
    "LLMConfig": "config",
    "ModelInfo": "info",
    "Origin": "info",
    "RefreshResult": "refresh",
    "Registry": "_registry",
    "Retirement": "changes",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME.get(name, '_default')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
