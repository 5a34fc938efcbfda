"""The models that the rows of a run are asked of: one, or several side by side.

What may live here: names and presets as what understands rows. What is the same for each is in `request`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import models
from ..errors import ConfigError
from .request import Meant, Shaper
from .template import prompt_template


def shapers_of(
    model: Any, options: Mapping[str, Any], *, endpoint: str | None, system: str | None, prompt: str | None
) -> list[Shaper]:
    """What understands rows, for each model.

    Args:
        model: a name, a preset, None, or a list of names and presets: then each row is asked of each.
        options: LiteLLM's keywords for every row. They go before a preset's own.
        endpoint: a declared name of the endpoint.
        system: a system message for rows that have none of their own; goes before a preset's.
        prompt: a template over a row's columns.

    Raises:
        ConfigError: an argument is wrong, or two models of a list cannot be told apart.
    """
    template = None if prompt is None else prompt_template(prompt)
    several = isinstance(model, list | tuple)
    asked = list(model) if several else [model]
    if not asked:
        raise ConfigError("model=[] names no model")
    meaning = Meanings(options)
    shapers = []
    for one in asked:
        if several and one is None:
            raise ConfigError("model= holds None; give names or presets")
        name, own, its_system = from_preset(one, options)
        label = getattr(one, "slug", None) or (one if isinstance(one, str) else None)
        shapers.append(
            Shaper(
                model=name,
                options=own,
                endpoint=endpoint,
                system=its_system if system is None else system,
                template=template,
                run_system=system,
                label=label,
                several=len(asked) > 1,
                meaning=meaning,
            )
        )
    labels = [shaper.label for shaper in shapers]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"model= names {label!r} more than once; to ask one model in two ways give two presets")
    return shapers


class Meanings:
    """What rows mean that name their own model: a LiteLLM name, an alias, or a preset's slug.

    They are looked up here and not in each call, so that rows are known to have changed when the preset has.

    Args:
        said: the options that the run itself says, without those of a preset that is its model.
    """

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._said = {name: value for name, value in said.items() if value is not None}

    def __call__(self, name: str, own: Mapping[str, Any]) -> Meant:
        """What a row means; its own options and then the run's go before the preset's.

        Raises:
            ConfigError: the preset cannot be used.
        """
        options = {**self._said, **own}
        options.pop("model", None)
        meant = models.registry().called(name, options)
        if isinstance(meant, str):
            return Meant(meant)
        merged = meant.with_options(options)
        return Meant(merged.pop("model"), merged, meant.system_prompt, meant.slug, meant.only_for_completion)


def from_preset(model: Any, options: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any], str | None]:
    """What a model's name means: LiteLLM's name, and of a preset, or its slug, its options and system prompt too.

    What the run says itself goes before them. They are looked up here and not in each call, so that rows are known to
    have changed when the preset, or what an alias stands for, has.
    """
    if isinstance(model, str):
        model = models.registry().called(model, options)
    if not hasattr(model, "with_options"):
        return model, options, None
    merged = model.with_options(options)
    return merged.pop("model"), merged, model.system_prompt
