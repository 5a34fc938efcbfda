"""``bulkllm models``: which models there are, what they can do and cost, and what changed.

What may live here: the six commands. Each asks the registry and prints what it says.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from . import options as shared
from .exits import ALL_DONE, SOME_FAILED

if TYPE_CHECKING:
    from ..models import LLMConfig, ModelInfo, Registry
    from .tables import Cell

app = typer.Typer(
    name="models",
    help="Models: which there are, what they can do and cost, and what changed. All but refresh work offline.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Selectors = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SELECTOR]...",
        help="Several narrow, a comma widens, ! takes out: cheap current company:openai,company:xai 'price<1' "
        "'context>=200k' '!vision', a slug, a name, a glob. docs/models.md has all of them.",
    ),
]
Providers = Annotated[list[str] | None, typer.Argument(metavar="[PROVIDER]...", help="All of them if none is named.")]
InputTokens = Annotated[
    int | None, typer.Option("--input-tokens", min=0, help="Show what a call with so many input tokens costs.")
]
OutputTokens = Annotated[int | None, typer.Option("--output-tokens", min=0, help="And so many output tokens.")]
NoLimits = Annotated[
    bool, typer.Option("--without-limits", help="Only those whose limits of input or output tokens are not known.")
]
NoRates = Annotated[
    bool, typer.Option("--without-rates", help="Only those for which no requests or tokens a minute are known.")
]

_logger = logging.getLogger(__name__)

_ABILITIES = (
    "tools", "vision", "reasoning", "response_schema", "prompt_caching", "batch", "pdf", "audio", "web_search",
)  # fmt: skip
_FACTS = ("context", "output", "$/M in", "$/M out", "abilities", "retires", "$ a call")


@app.command(name="list")
def list_models(
    selectors: Selectors = None,
    input_tokens: InputTokens = None,
    output_tokens: OutputTokens = None,
    without_limits: NoLimits = False,
    without_rates: NoRates = False,
    as_json: shared.AsJson = False,
) -> None:
    """List the models that fit: every one that LiteLLM, the providers' refreshed lists or your models.toml know."""
    from .tables import print_json, print_table

    registry = _registry()
    infos = [
        info for info in registry.find(*(selectors or [])) if _wanted(info, limits=without_limits, rates=without_rates)
    ]
    costs = _costs(registry, [info.name for info in infos], input_tokens, output_tokens)
    if as_json:
        print_json({"models": [info.to_dict() | _cost_of(costs, info.name) for info in infos]})
    else:
        rows = [(info.name, info.mode, *_facts(info, costs.get(info.name))) for info in infos]
        print_table(("model", "mode", *_FACTS), rows, spare=("abilities", "mode", "retires", "output"))
    _warn(registry)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="LiteLLM's name, a bare name, an alias, or a slug.")],
    input_tokens: InputTokens = None,
    output_tokens: OutputTokens = None,
    as_json: shared.AsJson = False,
) -> None:
    """Show all that is known of one model, where each fact comes from, and the preset of that name."""
    from .tables import print_json, print_table

    registry = _registry()
    info, preset = registry.get(name), registry.preset(name)
    costs = _costs(registry, [name], input_tokens, output_tokens)
    if as_json:
        told = info.to_dict() | _cost_of(costs, name)
        print_json(told | {"preset": None if preset is None else _preset(preset)})
    else:
        print_table(("", info.name, "from"), _lines(info, costs.get(name)))
        if preset is not None:
            sys.stdout.write("\n")
            print_table(("", f"preset {preset.slug}"), [(key, _text(value)) for key, value in _preset(preset).items()])
    _warn(registry)


@app.command()
def select(
    selectors: Selectors = None,
    among_models: Annotated[
        bool, typer.Option("--models", help="Choose among all models, not among the presets.")
    ] = False,
    input_tokens: InputTokens = None,
    output_tokens: OutputTokens = None,
    without_limits: NoLimits = False,
    without_rates: NoRates = False,
    as_json: shared.AsJson = False,
) -> None:
    """Select presets, in the order in which a run would take them; nothing that fits is an error."""
    from .tables import print_json, print_table

    registry = _registry()
    chosen = registry.select(*(selectors or []), among="models" if among_models else "presets")
    told = [(preset, registry.describe(preset.model)) for preset in chosen]
    told = [(preset, info) for preset, info in told if _wanted(info, limits=without_limits, rates=without_rates)]
    costs = _costs(registry, [preset.model for preset, _ in told], input_tokens, output_tokens)
    if as_json:
        print_json({"presets": [_preset(preset) | _cost_of(costs, preset.model) for preset, _ in told]})
    else:
        rows = [(preset.slug, preset.model, *_facts(info, costs.get(preset.model))) for preset, info in told]
        print_table(("slug", "model", *_FACTS), rows, spare=("abilities", "retires", "model", "output"))
    _warn(registry)


@app.command()
def refresh(
    providers: Providers = None,
    max_age: Annotated[
        float, typer.Option("--max-age", min=0, help="Hours for which a list is young enough not to be asked for.")
    ] = 24.0,
    force: Annotated[bool, typer.Option("--force", help="Ask however young it is.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds for each request.")] = 30.0,
    as_json: shared.AsJson = False,
) -> None:
    """Fetch the providers' own lists of models, which then count before LiteLLM's map.

    Keys come from the environment (OPENAI_API_KEY and so on); with no provider named, those without a key are left out.
    Exit codes: 0 every list is here, 1 some could not be fetched (the others were), 2 bad usage.
    """
    from .tables import print_json, print_table

    registry = _registry()
    results = registry.refresh(*(providers or []), max_age=max_age * 3600, force=force, timeout=timeout)
    changes = {result.provider: len(registry.diff(result.provider)) for result in results if result.status == "updated"}
    asked = {result.provider for result in results}
    left_out = {name: list(row.keys) for name, row in registry.providers().items() if name not in asked}
    if as_json:
        told = [result._asdict() | {"changes": changes.get(result.provider)} for result in results]
        print_json({"providers": told, "left_out": [] if providers else list(left_out)})
    else:
        rows = [
            (result.provider, result.status, result.models, changes.get(result.provider), result.message)
            for result in results
        ]
        print_table(("provider", "list", "models", "changes", "why"), rows)
        if left_out and not providers:
            keys = ", ".join(f"{name} ({' or '.join(variables)})" for name, variables in left_out.items())
            print(f"left out, for no key is set: {keys}", file=sys.stderr)
    _warn(registry)
    raise typer.Exit(SOME_FAILED if any(result.status == "failed" for result in results) else ALL_DONE)


@app.command()
def diff(providers: Providers = None, as_json: shared.AsJson = False) -> None:
    """Show what the last refresh that brought something new has changed in each provider's list."""
    from .tables import print_json, print_table

    registry = _registry()
    changes = registry.diff(*(providers or []))
    if as_json:
        print_json({"changes": [change._asdict() for change in changes]})
    elif changes:
        rows = [(c.provider, c.model, c.kind, c.field, _text(c.before), _text(c.after)) for c in changes]
        print_table(("provider", "model", "what", "field", "before", "after"), rows)
    else:
        print("nothing: no list has come in twice with a difference (bulkllm models refresh)", file=sys.stderr)
    _warn(registry)


@app.command()
def deprecated(
    within_days: Annotated[
        int, typer.Option("--within-days", min=0, max=36_500, help="Also those that end within so many days.")
    ] = 90,
    as_json: shared.AsJson = False,
) -> None:
    """Show the presets whose model is gone from its provider's list, unknown, deprecated, or about to be."""
    from .tables import print_json, print_table

    registry = _registry()
    found = registry.deprecated(within_days=within_days)
    if as_json:
        print_json({"presets": [entry._asdict() for entry in found]})
    elif found:
        print_table(("slug", "model", "status", "date", "use instead", "from"), found)
    else:
        print(f"none: every preset's model lasts for {within_days} days, as far as is known", file=sys.stderr)
    _warn(registry)


def _registry() -> Registry:
    from ..models import registry

    return registry()


def _warn(registry: Registry) -> None:
    """What is wrong in the user's files does not stop a command, and is said after it."""
    for problem in registry.problems:
        _logger.warning("%s", problem)


def _wanted(info: ModelInfo, *, limits: bool, rates: bool) -> bool:
    return not (limits and info.has_limits("tokens")) and not (rates and info.has_limits("rate"))


def _costs(
    registry: Registry, names: Iterable[str], input_tokens: int | None, output_tokens: int | None
) -> Mapping[str, float | None]:
    """What a call costs with each, if that is asked; None where it is not known."""
    if input_tokens is None and output_tokens is None:
        return {}
    if input_tokens is None or output_tokens is None:
        raise ConfigError("a cost needs both --input-tokens and --output-tokens")
    estimates = registry.estimate(list(names), input_tokens=input_tokens, output_tokens=output_tokens)
    return {estimate.name: estimate.cost for estimate in estimates}


def _cost_of(costs: Mapping[str, float | None], name: str) -> dict[str, float | None]:
    return {"cost": costs[name]} if name in costs else {}


def _facts(info: ModelInfo, cost: float | None) -> tuple[Cell, ...]:
    abilities = ", ".join(ability for ability in _ABILITIES if getattr(info, ability)) or None
    limits = info.max_input_tokens, info.max_output_tokens
    return (*limits, info.input_price, info.output_price, abilities, info.deprecation_date, cost)


def _lines(info: ModelInfo, cost: float | None) -> Sequence[tuple[Cell, Cell, Cell]]:
    """Every fact that is known, with its origin."""
    lines: list[tuple[Cell, Cell, Cell]] = (
        [("$ a call", _text(cost), "LiteLLM's calculator")] if cost is not None else []
    )
    for field in type(info).model_fields:
        value = getattr(info, field)
        if field == "prices":
            lines += [(price, _text(dollars), str(info.origin(price))) for price, dollars in value.items()]
        elif field not in ("name", "origins", "known") and value not in (None, (), {}):
            lines.append((field, _text(value), str(info.origin(field) or "")))
    return lines


def _preset(preset: LLMConfig) -> dict[str, Any]:
    """A preset, with the keywords that a call gets of it; a key is neither needed nor shown."""
    told = {key: value for key, value in preset.model_dump().items() if value is not None and value != {}}
    keywords = preset.model_copy(update={"api_key_env": None}).completion_kwargs()
    return told | {"content_hash": preset.content_hash, "keywords": keywords}


def _text(value: object) -> str:
    from .tables import shown

    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else shown(value)
