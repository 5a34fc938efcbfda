"""Packages that are not always there.

What may live here: importing one of them, or saying how to get it.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import ConfigError


def extra(name: str, purpose: str) -> Any:
    """The module of that name.

    Args:
        name: of the package and its module.
        purpose: what it is needed for, as the object of a sentence.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{purpose} needs {name}, which cannot be imported ({error}): pip install {name}") from error
