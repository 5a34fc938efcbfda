"""``bulkllm limits``: what an account may do: read from the provider, kept in a file, learned, published."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as shared

if TYPE_CHECKING:
    from ..limits import RateLimit
    from ..limits.configured import ConfiguredLimit
    from ..limits.fetch import FetchResult
    from ..limits.learned import LearnedLimits
    from ..limits.stores import View

app = typer.Typer(
    name="limits",
    help="Read, show and keep what your accounts may do.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="A file of limits; by default limits.toml in the configuration directory."),
]
_NUMBERS = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "max_in_flight", "burst")


@app.command()
def fetch(
    providers: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROVIDER", help="anthropic, openai; by default all that an admin key is set for."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file; by default limits.toml in the configuration directory."),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", help="OpenAI: the project that your calls' key belongs to.")
    ] = None,
    workspace: Annotated[
        str | None, typer.Option("--workspace", help="Anthropic: the workspace that your calls' key belongs to.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for an answer.")] = 30.0,
    as_json: shared.AsJson = False,
) -> None:
    """Read your limits from the provider with an admin key, and keep them in a file.

    Admin keys come from the environment: ANTHROPIC_ADMIN_KEY, OPENAI_ADMIN_KEY. They are not the keys that calls are
    made with, and are written nowhere. What you wrote into the file yourself stays as it is. Use it with
    `bulkllm run --limits FILE` or `bulkllm.Client(bulkllm.load_limits())`.

    Exit codes: 0 all were read, 1 some or all were not (standard error says why), 2 bad usage.
    """
    from ..limits.admin import admin_rows
    from ..limits.configured import limits_path, save_fetched
    from ..limits.fetch import fetch_limits
    from .exits import ALL_DONE, SOME_FAILED, complain

    words = {"project": project, "workspace": workspace}
    parts = {
        name: part for name, row in admin_rows().items() if row.part is not None and (part := words[row.part.word])
    }
    results = fetch_limits(providers or (), parts=parts, timeout=timeout)
    done = [result for result in results if result.reason is None]
    path = limits_path(output)
    if done:
        save_fetched(path, [one for result in done for one in result.limits], [result.provider for result in done])
    if as_json:
        _print({"file": str(path) if done else None, "providers": [_fetched(result) for result in results]})
    else:
        for result in done:
            many = "1 limit" if len(result.limits) == 1 else f"{len(result.limits)} limits"
            sys.stdout.write(f"{result.provider}: {many}, kept in {path}\n")
            if result.ignored:
                sys.stdout.write(f"  not limits of calls, left out: {', '.join(result.ignored)}\n")
    for result in results:
        if result.message is not None:
            complain(result.message)
    raise typer.Exit(ALL_DONE if len(done) == len(results) else SOME_FAILED)


@app.command()
def show(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="LiteLLM's names, such as openai/gpt-5-mini.")
    ] = None,
    file: File = None,
    store: Annotated[
        str | None,
        typer.Option("--store", help="A store of shared limits: also show how they stand now, for all its processes."),
    ] = None,
    group: Annotated[str, typer.Option("--group", help="Which group of limits in the store.")] = "default",
    as_json: shared.AsJson = False,
) -> None:
    """Show the limits in your file, those that were learned from answers, and, for MODELs, what providers publish.

    Those of the file hold in programs that load it: `bulkllm run --limits FILE`, `bulkllm.load_limits()`. Learned ones
    hold besides, for the account and the address that they were learned of, until they expire; of two limits the
    smaller counts. Published ones hold nowhere unless you take them.

    What is left of a limit at this moment, who waits and what is closed, is known to the program that runs: its
    progress tells it, and `print(client.limiter.status())`. Of shared limits, --store shows what is left.
    """
    from ..errors import ConfigError
    from ..limits.configured import limits_path, read_limits
    from ..limits.learned import learned_path, load
    from ..limits.published import published, published_tiers

    path, learned_at = limits_path(file), learned_path()
    if file is not None and not path.exists():
        raise ConfigError(f"{path}: there is no such file")
    names = _names(models or ())
    configured = [one for one in read_limits(path) if _holds(one.limit, names)] if path.exists() else []
    learned = [one for one in load(learned_at) if not names or not names.isdisjoint(_names([one.model]))]
    tiers = [tier for entry in published() for tier in entry.tiers.values() if names and _holds(tier.limit, names)]
    view = None if store is None else _look(store, group)
    if as_json:
        told: dict[str, Any] = {
            "configured": {"file": str(path), "limits": [_configured(one) for one in configured]},
            "learned": {"file": str(learned_at), "limits": [one.to_dict() for one in learned]},
            "published": [_configured(one) for one in tiers],
        }
        if view is not None:
            told["shared"] = {"group": group, "left": view.left, "held": view.held, "closed": view.closed}
        _print(told)
        return
    lines = [f"configured  {path}" if path.exists() else f"configured  nothing: `bulkllm limits fetch` makes {path}"]
    lines += _table([_line(one) for one in configured])
    lines += [f"learned     {learned_at}" if learned else "learned     nothing"]
    lines += _table([_learned_line(one) for one in learned])
    if view is not None:
        lines += [
            f"shared      group {group!r}, as it stands now" if view.left else f"shared      nothing in {group!r}"
        ]
        lines += _table(_shared_lines(view))
    if models:
        lines += ["published   (by tier; nothing holds of it unless you take it)" if tiers else "published   nothing"]
        lines += _table([_line(one) for one in tiers])
    else:
        known = ", ".join(f"{provider} ({', '.join(names)})" for provider, names in published_tiers().items())
        lines += [f"published   {known}: see `bulkllm limits published`"]
    sys.stdout.write("\n".join(lines) + "\n")


@app.command()
def published(
    provider: Annotated[str | None, typer.Argument(help="LiteLLM's name of it, such as openai.")] = None,
    tier: Annotated[str | None, typer.Argument(help="The provider's name of the tier.")] = None,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print tables for a file of limits.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Show what providers publish of their tiers, with the page and the day.

    The last resort: your account's own limits may be other ones.
    """
    from ..errors import ConfigError
    from ..limits.configured import as_toml as table_of
    from ..limits.published import published_tier, published_tiers

    known = published_tiers()
    if provider is not None and provider not in known:
        raise ConfigError(f"no published limits of {provider!r} are known; there are those of {', '.join(known)}")
    wanted = [
        (name, each)
        for name in ([provider] if provider is not None else known)
        for each in ([tier] if tier is not None else known[name])
    ]
    found = [one for name, each in wanted for one in published_tier(name, each)]
    if as_json:
        _print([_configured(one) for one in found])
    elif as_toml:
        sys.stdout.write("\n".join(table_of(one) for one in found))
    else:
        sys.stdout.write("\n".join(_table([_line(one) for one in found])) + "\n")


def _look(where: str, group: str) -> View:
    """How the limits of a store stand. No file is made, renamed or written by looking."""
    from ..errors import ConfigError
    from ..limits.stores import _path_of, open_store
    from ..limits.stores.sqlite import file_of, look_at

    in_file = where.startswith("sqlite://")
    if not where or ("://" in where and not in_file):
        with open_store(where) as store:
            return store.look(group)
    path = file_of(_path_of(where) if in_file else where)
    if not path.exists():
        raise ConfigError(f"--store {where}: there is no such file; it is made by the first program that shares limits")
    return look_at(path, group)


def _shared_lines(view: View) -> list[tuple[str, str, str]]:
    """For each limit: what is left of it, and how much of that is with how many processes."""
    limits: dict[str, list[str]] = {limit: [] for limit in view.closed}  # of which nothing may have been used yet
    for meter in view.left:
        limits.setdefault(meter.rpartition("/")[0], []).append(meter)
    lines = []
    for limit, meters in sorted(limits.items()):
        left = [f"{view.left[meter]:,.0f} {meter.rpartition('/')[2]}" for meter in meters]
        holders = [held for held in view.held.values() if any(held.get(meter) for meter in meters)]
        lent = [
            f"{amount:,.0f} {meter.rpartition('/')[2]}"
            for meter in meters
            if (amount := sum(held.get(meter, 0.0) for held in holders))
        ]
        many = "1 process holds" if len(holders) == 1 else f"{len(holders)} processes hold"
        told = [f"{many} {', '.join(lent)}"] if lent else []
        told += [f"closed for {seconds:,.0f} s"] if (seconds := view.closed.get(limit, 0.0)) > 0 else []
        lines.append((limit, f"left: {', '.join(left) or 'all'}", "; ".join(told)))
    return lines


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _names(models: Iterable[str]) -> set[str]:
    """The models as they are written, and under the names that calls resolve them to."""
    from ..models import registry

    found: set[str] = set()
    for model in models:
        resolved = registry().resolve(model)
        found |= {model, resolved, registry().canonical(resolved)}
    return found


def _holds(limit: RateLimit, names: set[str]) -> bool:
    return not names or any(limit.matches(name) for name in names)


def _fetched(result: FetchResult) -> dict[str, Any]:
    return {
        "provider": result.provider,
        "limits": [_configured(one) for one in result.limits],
        "ignored": list(result.ignored),
        "reason": result.reason,
        "message": result.message,
    }


def _configured(one: ConfiguredLimit) -> dict[str, Any]:
    limit = one.limit
    numbers = {key: getattr(limit, key) for key in _NUMBERS if getattr(limit, key) is not None}
    return {
        "name": limit.name,
        "models": list(limit.models),
        **numbers,
        "period": limit.period,
        "window": limit.window,
        "source": one.source or None,
        "as_of": None if one.as_of is None else one.as_of.isoformat(),
    }


def _line(one: ConfiguredLimit) -> tuple[str, str, str]:
    limit = one.limit
    numbers = [
        f"{getattr(limit, key):,} {key.replace('_', ' ')}" for key in _NUMBERS if getattr(limit, key) is not None
    ]
    if limit.period != 60:  # noqa: PLR2004 - a minute, of which rpm speaks by its name
        numbers.append(f"in {limit.period:g} s")
    if limit.window is not None:
        numbers.append(limit.window)
    told = f"{'fetched' if one.fetched else 'as of'} {one.as_of}" if one.as_of is not None else "written by hand"
    return limit.name, ", ".join(numbers), f"{told}, {one.source}" if one.source else told


def _learned_line(one: LearnedLimits) -> tuple[str, str, str]:
    numbers = [f"{quota.amount:,g} {name}" for name, quota in one.quotas.items()]
    numbers += [f"{one.rate:,.3g} a second went well"] if one.rate is not None else []
    numbers += [one.window] if one.window is not None else []
    until = "until" if one.holds_at(datetime.now(UTC)) else "expired"
    where = f"{one.endpoint or 'the provider'}, account {one.scope}"
    return one.model, ", ".join(numbers), f"{until} {one.expires_at:%Y-%m-%d %H:%M}, {where}"


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    """Columns under each other."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return [f"  {name:<{widths[0]}}  {numbers:<{widths[1]}}  {told}".rstrip() for name, numbers, told in rows]
