"""The only place that imports LiteLLM: late, once, and with manners.

What may live here: how LiteLLM is loaded, and nothing about what is then done with it. Importing it costs about
2 s and 185 MB, so nothing at module level anywhere may need it; ask :func:`load` inside the function that does.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
from typing import Any

from .errors import IncompatibleLiteLLM

_lock = threading.Lock()
_litellm: Any = None


def load() -> Any:
    """The ``litellm`` module; the first call imports it.

    Two settings are made on the way. ``LITELLM_LOCAL_MODEL_COST_MAP`` is set to ``True`` in the environment
    unless it is set already, so that the import does not fetch the price map from the network, and
    ``litellm.suppress_debug_info`` is turned on if this is the first import, for LiteLLM otherwise prints advice
    to standard output on every error, into the middle of ``--json``.

    Raises:
        IncompatibleLiteLLM: LiteLLM is not installed, or its import fails.
    """
    global _litellm  # noqa: PLW0603  # the one cell that this module is for
    if _litellm is not None:
        return _litellm
    with _lock:
        if _litellm is None:
            first = "litellm" not in sys.modules
            os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            try:
                module: Any = importlib.import_module("litellm")
            except ImportError as error:
                raise IncompatibleLiteLLM(
                    f"LiteLLM cannot be imported ({error}); install it with: pip install litellm"
                ) from error
            if first:
                module.suppress_debug_info = True
            _litellm = module
    return _litellm


def version() -> str:
    """The installed LiteLLM's version, read from its metadata and without importing it."""
    from importlib.metadata import version as installed

    return installed("litellm")


def major_minor(version: str) -> tuple[int, int]:
    """The first two numbers of a version; zeros where it has none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def is_loaded() -> bool:
    """Whether LiteLLM has been imported by anybody in this process."""
    return "litellm" in sys.modules
