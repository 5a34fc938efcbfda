"""LiteLLM's own map of models: reading it, and telling LiteLLM what it does not know.

What may live here: how the map is reached, and nothing about what its entries mean.

Importing LiteLLM takes seconds; its map is one JSON file in its package and takes 30 ms. So as long as nobody has
imported LiteLLM the file is read, and from then on the live ``litellm.model_cost``, which also has what the program
registered with LiteLLM itself. Both say the same on an unchanged LiteLLM, as a test checks.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import _litellm

_FILE = "model_prices_and_context_window_backup.json"
_NOT_MODELS = frozenset({"sample_spec", "fallback_generalizations"})

Entry = Mapping[str, Any]
Catalogue = Mapping[str, Entry]


class LiteLLMMap:
    """LiteLLM's map of models, by name."""

    def __init__(self) -> None:
        self._file: Catalogue | None = None

    def entries(self) -> Catalogue:
        """The map as it is now. It is LiteLLM's own object once LiteLLM is loaded: look, do not touch."""
        litellm = self.loaded()
        if litellm is not None:
            self._file = None
            live: Catalogue = litellm.model_cost
            return live
        if self._file is None:
            self._file = _read_file()
        return self._file

    @staticmethod
    def loaded() -> Any | None:
        """LiteLLM where it is there to be asked at once: while another thread imports it nobody here waits for that."""
        module = sys.modules.get("litellm")
        if module is None or getattr(module.__spec__, "_initializing", False):
            return None
        return _litellm.load()

    def version(self) -> tuple[int, int]:
        """Changes when the map does, so that what was made from it can be thrown away."""
        entries = self.entries()
        return id(entries), len(entries)

    def register(self, entries: Mapping[str, dict[str, Any]]) -> None:
        """Tell LiteLLM about models, all in one call (each call empties LiteLLM's look-up caches)."""
        _litellm.load().register_model(dict(entries))


def is_model(name: str) -> bool:
    """Whether a key of the map is a model: LiteLLM keeps a few notes of its own between them."""
    return name not in _NOT_MODELS


def _read_file() -> Catalogue:
    """The map in LiteLLM's package; LiteLLM's own, by loading it, where that is asked for or the file is not there."""
    wanted = os.environ.get("LITELLM_LOCAL_MODEL_COST_MAP", "True").lower() == "true"
    spec = importlib.util.find_spec("litellm") if wanted else None
    if spec is not None and spec.origin is not None:
        try:
            text = (Path(spec.origin).parent / _FILE).read_text(encoding="utf-8")
            entries = json.loads(text)
        except (OSError, ValueError):
            entries = None  # an unusual LiteLLM: let it read its map itself
        if isinstance(entries, dict) and entries:
            return _with_aliases({name: entry for name, entry in entries.items() if name != "fallback_generalizations"})
    live: Catalogue = _litellm.load().model_cost
    return live


def _with_aliases(entries: Catalogue) -> Catalogue:
    """The entries with those that only point at another one (``alias_of``, since LiteLLM 1.110) filled in by it.

    As LiteLLM does when it is loaded: what points at nothing, or at another pointer, is left out.
    """
    pointers = {name: entry["alias_of"] for name, entry in entries.items() if isinstance(entry.get("alias_of"), str)}
    if not pointers:
        return entries
    models = {name: entry for name, entry in entries.items() if name not in pointers}
    return models | {name: models[target] for name, target in pointers.items() if target in models}
