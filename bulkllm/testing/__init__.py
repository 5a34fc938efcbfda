"""A fake provider and a fake clock: public, for the tests of programs that use bulkllm, or LiteLLM, or neither.

What may live here: test doubles that need no LiteLLM and nothing else of bulkllm but its errors. The names below are
loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clock import FakeClock
    from .faults import Fault
    from .limits import ProviderLimits
    from .provider import FakeProvider
    from .report import ModelCounts, ProviderReport
    from .spawn import SpawnedProvider

__all__ = [
    "FakeClock",
    "FakeProvider",
    "Fault",
    "ModelCounts",
    "ProviderLimits",
    "ProviderReport",
    "SpawnedProvider",
]

_HOMES = {
    "FakeClock": "clock",
    "FakeProvider": "provider",
    "Fault": "faults",
    "ModelCounts": "report",
    "ProviderLimits": "limits",
    "ProviderReport": "report",
    "SpawnedProvider": "spawn",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
