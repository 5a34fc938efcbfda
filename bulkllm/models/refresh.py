"""Fetching the providers' lists of models.

What may live here: one function that reads every provider by its row, and how answers are kept. Answers are kept as
they came, one file for each provider, with the one before beside it; keys are never in them, nor in a message.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .._atomic import write_whole
from .._http import Failure, Reason, get, headers_with, json_of, key_of, session
from ..errors import ConfigError
from .lists import Kept, at, items_of, models_of, read_kept
from .providers import ProviderList

if TYPE_CHECKING:
    from .._http import Answer

_logger = logging.getLogger(__name__)
_MOST_PAGES = 100
_UNCHANGED = 304


class RefreshResult(NamedTuple):
    """What came of refreshing one provider."""

    provider: str
    status: Literal["updated", "unchanged", "fresh", "failed"]
    """New answers; the provider says that nothing changed; the kept ones are young enough; see ``reason``."""
    models: int
    """How many models are on the list that counts now: after a failure, on the one that was kept before."""
    reason: Reason | None = None
    message: str | None = None


def refresh(
    rows: Mapping[str, ProviderList],
    names: Sequence[str],
    directory: Path,
    *,
    max_age: float = 86_400.0,
    force: bool = False,
    timeout: float = 30.0,
    now: Callable[[], float] = time.time,
    environ: Mapping[str, str] | None = None,
) -> list[RefreshResult]:
    """Fetch lists of models and keep them, one provider after the other; one that fails does not stop the rest.

    Args:
        rows: the providers that there are.
        names: those to fetch; none means every one that a key is set for, or that needs none.
        directory: where answers are kept.
        max_age: seconds for which a kept list is not asked for again.
        force: ask even so.
        timeout: seconds for a connection and for each piece of an answer.
        now: tells the time; for tests.
        environ: where keys are looked for; by default the environment.

    Raises:
        ConfigError: there is no such provider.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise ConfigError(f"no provider is called {unknown[0]!r}; there are: {', '.join(rows)}")
    variables = os.environ if environ is None else environ
    wanted = names or [name for name, row in rows.items() if row.key_optional or key_of(row, variables)]
    results = []
    for name in wanted:
        row, path = rows[name], directory / f"{name}.json"
        kept = _kept(path)
        try:
            if kept and not force and now() - kept.checked_at.timestamp() < max_age:
                results.append(RefreshResult(name, "fresh", _count(row, kept)))
                continue
            results.append(_refresh_one(row, path, kept, timeout, now, key_of(row, variables)))
        except Failure as failure:
            _logger.info("%s", failure)
            results.append(RefreshResult(name, "failed", _count(row, kept), failure.reason, str(failure)))
    return results


def listed(rows: Mapping[str, ProviderList], provider: str, directory: Path) -> frozenset[str] | None:
    """The LiteLLM names on a provider's kept list, other names of theirs too; None where there is no list to read."""
    row = rows.get(provider)
    kept = _kept(directory / f"{provider}.json") if row else None
    if row is None or kept is None:
        return None
    models = models_of(row, [page["body"] for page in kept.pages])
    aliases = (row.prefix + alias for fields in models.values() for alias in fields.get("aliases", ()))
    return frozenset([*models, *aliases])


def _refresh_one(
    row: ProviderList, path: Path, kept: Kept | None, timeout: float, now: Callable[[], float], key: str | None
) -> RefreshResult:
    pages = _fetch(row, kept, timeout, key)
    try:
        count = len(models_of(row, [page["body"] for page in pages]))
    except ConfigError as error:
        raise Failure("wrong_shape", str(error)) from None
    moment = datetime.fromtimestamp(now(), UTC)
    same = kept is not None and [page["body"] for page in kept.pages] == [page["body"] for page in pages]
    fetched = kept.fetched_at if kept and same else moment
    if kept and not same:
        _write(path.with_suffix(".previous.json"), path.read_text(encoding="utf-8"))
    content = {
        "provider": row.name,
        "url": row.url,
        "fetched_at": fetched.isoformat(),
        "checked_at": moment.isoformat(),
        "pages": pages,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1)
    _write(path, text.replace(key, "[key]") if key else text)  # should a provider ever echo it
    return RefreshResult(row.name, "unchanged" if same else "updated", count)


def _fetch(row: ProviderList, kept: Kept | None, timeout: float, key: str | None) -> list[dict[str, Any]]:
    """All pages of a list. A page that the provider says is unchanged is taken from what was kept."""
    headers = headers_with(row, key)
    pages: list[dict[str, Any]] = []
    params = dict(row.params)
    seen: set[str] = set()
    with session() as opened:
        for number in range(_MOST_PAGES):
            before = kept.pages[number] if kept and kept.url == row.url and number < len(kept.pages) else {}
            asked = dict(headers)
            if before.get("params") == params and before.get("etag"):
                asked["If-None-Match"] = before["etag"]
            elif before.get("params") == params and before.get("last_modified"):
                asked["If-Modified-Since"] = before["last_modified"]
            answer = get(opened, row, row.url, params=params, headers=asked, timeout=timeout)
            if answer.status_code == _UNCHANGED and before:
                page = dict(before)
            else:
                page = {
                    "params": params,
                    "etag": answer.headers.get("ETag"),
                    "last_modified": answer.headers.get("Last-Modified"),
                    "body": _body(row, answer),
                }
            pages.append(page)
            token = _next(row, page["body"])
            if token is None:
                return pages
            if token in seen:
                raise Failure("wrong_shape", f"{row.name}: the list leads round in a circle at page {number + 1}")
            seen.add(token)
            params = {**row.params, row.paging.param if row.paging else "": token}
    raise Failure("wrong_shape", f"{row.name}: the list has more than {_MOST_PAGES} pages")


def _body(row: ProviderList, answer: Answer) -> object:
    body: object = json_of(row, row.url, answer)
    try:
        items_of(row, body)
    except ConfigError as error:
        raise Failure("wrong_shape", str(error)) from None
    return body


def _next(row: ProviderList, body: object) -> str | None:
    """What asks for the page after this one, or None where it is the last."""
    if row.paging is None or (row.paging.more is not None and at(body, row.paging.more) is not True):
        return None
    token = at(body, row.paging.next)
    return token if isinstance(token, str) and token else None


def _kept(path: Path) -> Kept | None:
    """What was kept, or None where it is not there or damaged: then all is fetched anew."""
    try:
        return read_kept(path)
    except ConfigError:
        return None


def _count(row: ProviderList, kept: Kept | None) -> int:
    try:
        return len(models_of(row, [page["body"] for page in kept.pages])) if kept else 0
    except ConfigError:
        return 0


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except ConfigError as error:
        raise Failure("not_kept", f"{error}; the list was not kept") from error
