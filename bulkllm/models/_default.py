"""The registry that the module-level functions use, and those functions.

What may live here: the one default :class:`Registry`, made when it is first asked for, and thin wrappers over it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from ._registry import Registry

if TYPE_CHECKING:
    from .config import LLMConfig
    from .info import ModelInfo

_lock = threading.Lock()
_registry: Registry | None = None


def registry() -> Registry:
    """The default registry: LiteLLM's map, the packaged data, what was refreshed, the user's ``models.toml``."""
    global _registry  # noqa: PLW0603 - the one module-level cell that this module is for
    if _registry is None:
        with _lock:
            if _registry is None:
                _registry = Registry()
    return _registry


def reset() -> None:
    """Forget the default registry: the next use reads the files again, and what the program registered is gone."""
    global _registry  # noqa: PLW0603 - as above
    with _lock:
        _registry = None


def get(name: str) -> ModelInfo:
    """What is known about a model; see :meth:`Registry.get`."""
    return registry().get(name)


def resolve(name: str, *, own_endpoint: bool = False) -> str:
    """The LiteLLM name that a call with ``name`` should use; see :meth:`Registry.resolve`."""
    return registry().resolve(name, own_endpoint=own_endpoint)


def select(*selectors: str, among: Literal["presets", "models"] = "presets") -> list[LLMConfig]:
    """Presets that fit; see :meth:`Registry.select`."""
    return registry().select(*selectors, among=among)


def preset(slug: str) -> LLMConfig | None:
    """The preset of that slug, or None; see :meth:`Registry.preset`."""
    return registry().preset(slug)


def register(name: str, /, *, aliases: Iterable[str] = (), source: str | None = None, **fields: Any) -> None:
    """Make a model known, or say more about one; see :meth:`Registry.register`."""
    registry().register(name, aliases=aliases, source=source, **fields)


def register_preset(config: LLMConfig) -> None:
    """Add a preset, or replace the one of its slug; see :meth:`Registry.register_preset`."""
    registry().register_preset(config)
