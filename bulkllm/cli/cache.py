"""``bulkllm cache``: what is kept of answers that were paid for: look at it, make room, take it out."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as shared

if TYPE_CHECKING:
    from ..caching import Cache, CacheInfo

app = typer.Typer(
    name="cache",
    help="Look at the cache of answers, make room in it, take it out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Directory = Annotated[
    Path | None,
    typer.Option("--directory", "-d", help="Where the cache is; by default BULKLLM_CACHE_DIR or the usual place."),
]
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@app.command()
def info(directory: Directory = None, as_json: shared.AsJson = False) -> None:
    """Show how many answers there are, how large they are, and what they cost when they were paid."""
    from .tables import print_json

    cache = _there(directory)
    if cache is None:
        _nothing(directory, as_json=as_json)
        return
    with cache:
        found = cache.info()
    if as_json:
        print_json(_as_object(found))
    else:
        sys.stdout.write("\n".join(_lines(found)) + "\n")


@app.command()
def clear(
    directory: Directory = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Forget every answer. What was paid for will be paid for again."""
    from ..errors import ConfigError
    from .tables import print_json

    cache = _there(directory)
    if cache is None:
        _nothing(directory, as_json=as_json)
        return
    with cache:
        found = cache.info()
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError("clearing the cache needs --yes where nobody can be asked")
            typer.confirm(f"Forget {found.entries:,} answers, worth ${found.worth:,.4f}?", abort=True, err=True)
        removed = cache.clear()
    print_json({"removed": removed}) if as_json else sys.stdout.write(f"{removed:,} answers forgotten\n")


@app.command()
def prune(
    max_age: Annotated[
        str | None, typer.Option("--max-age", metavar="AGE", help="Forget what is older: 90s, 15m, 12h, 30d, 8w.")
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option("--max-bytes", metavar="SIZE", help="Forget the least recently used beyond: 500M, 2G."),
    ] = None,
    directory: Directory = None,
    as_json: shared.AsJson = False,
) -> None:
    """Forget what is too old or too much, and give the space back. Without options, the cache's own bounds count."""
    from .tables import print_json

    age, size = _age(max_age), _size(max_bytes)
    cache = _there(directory)
    if cache is None:
        _nothing(directory, as_json=as_json)
        return
    with cache:
        removed = cache.prune(max_age=age, max_bytes=size)
        left = cache.info()
    if as_json:
        print_json({"removed": removed, "left": left.entries})
    else:
        sys.stdout.write(f"{removed:,} answers forgotten, {left.entries:,} left in {_shown(left.file_bytes)}\n")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write them; with mode 0600, for answers may be private.")],
    directory: Directory = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Write every answer to a JSONL file: key, kind, cost, created_at, value. Questions are in neither."""
    from ..errors import CacheError
    from .tables import print_json

    cache = _there(directory)
    if cache is None:
        raise CacheError(f"there is no cache in {_place(directory).parent}")
    with cache:
        count = cache.export(file, overwrite=overwrite)
    print_json({"written": count}) if as_json else sys.stdout.write(f"{count:,} answers written to {file}\n")


def _there(directory: Path | None) -> Cache | None:
    """The cache, if there is one: looking for it shall not make one."""
    from ..caching import open_cache

    return open_cache(directory) if _place(directory).exists() else None


def _place(directory: Path | None) -> Path:
    from ..caching import FILE_NAME
    from ..config import cache_dir

    return cache_dir(directory) / FILE_NAME


def _nothing(directory: Path | None, *, as_json: bool) -> None:
    from .tables import print_json

    place = _place(directory)
    if as_json:
        print_json({"path": str(place), "entries": 0, "removed": 0})
    else:
        sys.stdout.write(f"no cache   there is none in {place.parent}\n")


def _as_object(found: CacheInfo) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "entries": found.entries,
        "bytes": found.bytes,
        "file_bytes": found.file_bytes,
        "max_bytes": found.max_bytes,
        "max_age": found.max_age,
        "worth": found.worth,
        "kinds": {
            kind: {"entries": part.count, "bytes": part.size, "worth": part.cost} for kind, part in found.kinds.items()
        },
        "oldest": _iso(found.oldest),
        "newest": _iso(found.newest),
        "last_used": _iso(found.last_used),
        "damaged": [str(path) for path in found.damaged],
    }


def _lines(found: CacheInfo) -> list[str]:
    lines = [
        f"file       {found.path} ({_shown(found.file_bytes)})",
        f"answers    {found.entries:,} in {_shown(found.bytes)}, of {_shown(found.max_bytes)} at most",
        *(
            f"  {kind:<9}{part.count:,} in {_shown(part.size)}, paid ${part.cost:,.4f}"
            for kind, part in sorted(found.kinds.items())
        ),
        f"worth      ${found.worth:,.4f}, as far as prices were known",
    ]
    if found.oldest is not None:
        lines.append(f"kept       from {_iso(found.oldest)} to {_iso(found.newest)}")
    lines += [f"damaged    {path} was set aside, and can be deleted" for path in found.damaged]
    return lines


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _shown(size: int) -> str:
    number = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1024:  # noqa: PLR2004 - of one unit in the next
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TB"


def _age(text: str | None) -> float | None:
    """Seconds of ``30d``.

    Raises:
        ConfigError: it is no such thing.
    """
    from ..errors import ConfigError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
    if found is None:
        raise ConfigError(f"--max-age {text!r} must be a number with s, m, h, d or w, such as 30d")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _size(text: str | None) -> int | None:
    """Bytes of ``2G``.

    Raises:
        ConfigError: it is no such thing.
    """
    from ..errors import ConfigError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", text.strip().upper())
    if found is None:
        raise ConfigError(f"--max-bytes {text!r} must be a number of bytes, or one with K, M, G or T, such as 2G")
    return int(float(found[1]) * _BYTES[found[2]])
