"""Other packages, each met in one module that is imported only when it is asked for.

What may live here: one file for each package, which an extra installs. Nothing below imports these.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["opentelemetry", "prices"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
