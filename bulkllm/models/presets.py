"""Presets out of the layers' tables.

What may live here: how a ``[[preset]]`` table becomes an :class:`LLMConfig` and its variants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .config import LLMConfig

if TYPE_CHECKING:
    from .index import Index
    from .layers import Layer

_FIELD = re.compile(r"^preset (?:'[^']*'|\"[^\"]*\"|)?:? ?(\w+)")


def build_presets(layers: Sequence[Layer], index: Index) -> tuple[dict[str, LLMConfig], list[ConfigError]]:
    """Every preset by its slug, and what is wrong with the tables that make none.

    A later layer's preset takes the place of an earlier one of its slug, and of that one's variants.
    """
    found: dict[str, LLMConfig] = {}
    problems: list[ConfigError] = []
    for layer in layers:
        for table, error_at in layer.presets:
            try:
                made = _make(table, index)
            except ConfigError as error:
                match = _FIELD.match(str(error))
                key = match[1] if match and match[1] in table else ""
                problems.append(error_at(key, str(error)))
                continue
            for slug in [slug for slug, preset in found.items() if preset.variant_of == made[0].slug]:
                del found[slug]
            found.update({preset.slug: preset for preset in made})
    return found, problems


def _make(table: Mapping[str, Any], index: Index) -> list[LLMConfig]:
    """The preset of a table, and a variant of it for each of its ``efforts``."""
    values = {key: value for key, value in table.items() if key not in ("efforts", "source", "as_of")}
    base = LLMConfig(**values)
    efforts = table.get("efforts", [])
    if not isinstance(efforts, list) or (efforts and (base.reasoning_effort or base.thinking) is not None):
        raise ConfigError('preset efforts: expected a list such as ["low", "high"], in a preset without an effort')
    values["model"] = index.resolve(base.model, own_endpoint=base.has_endpoint)
    made = [LLMConfig(**values)]
    for effort in efforts:
        name = f"{base.display_name} ({effort})" if base.display_name else None
        variant = {
            "slug": f"{base.slug}-{effort}",
            "display_name": name,
            "reasoning_effort": effort,
            "variant_of": base.slug,
        }
        made.append(LLMConfig(**{**values, **variant}))
    return made
