"""Reading an account's limits from its provider, with an admin key.

What may live here: which addresses are asked, page after page, and what is told of it. What the answers mean is in
:mod:`bulkllm.limits.admin`. A key is never in a result, nor in a message.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from .._http import Failure, Reason, get, headers_with, json_of, key_of, session
from ..errors import ConfigError
from .admin import AdminRow, Listing, admin_rows, entries_of, limits_of
from .configured import ConfiguredLimit

if TYPE_CHECKING:
    from .._http import Session

_logger = logging.getLogger(__name__)

_MOST_PAGES: Final = 100


class FetchResult(NamedTuple):
    """What came of reading the limits of one provider."""

    provider: str
    limits: tuple[ConfiguredLimit, ...] = ()
    """What it told; none after a failure."""
    ignored: tuple[str, ...] = ()
    """Its names of limits that are no limits of ours."""
    reason: Reason | None = None
    """Why it failed; None where it did not."""
    message: str | None = None


def fetch_limits(
    providers: Sequence[str] = (),
    *,
    parts: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    environ: Mapping[str, str] | None = None,
    today: date | None = None,
) -> list[FetchResult]:
    """Read what accounts may do, one provider after the other; one that fails does not stop the rest.

    Args:
        providers: ``"anthropic"``, ``"openai"``; none means every one that an admin key is set for.
        parts: by provider, the project (OpenAI) or workspace (Anthropic) whose limits are wanted.
        timeout: seconds for a connection and for each piece of an answer.
        environ: where keys are looked for (``ANTHROPIC_ADMIN_KEY``, ``OPENAI_ADMIN_KEY``); by default the environment.
        today: the day to be noted; for tests.

    Raises:
        ConfigError: there is no such provider, or no key is set for any, or a part is named of one that is not asked.
    """
    rows = admin_rows()
    for name in [*providers, *(parts or {})]:
        if name not in rows:
            raise ConfigError(f"the limits of {name!r} cannot be read; those of {', '.join(rows)} can")
    variables = os.environ if environ is None else environ
    wanted = list(dict.fromkeys(providers)) or [name for name, row in rows.items() if key_of(row, variables)]
    if not wanted:
        known = "; ".join(f"{' or '.join(row.keys)}: {row.key_hint}" for row in rows.values())
        raise ConfigError(f"no admin key is set. {known}")
    for name, named in (parts or {}).items():
        if name not in wanted:
            raise ConfigError(f"{named!r} is a part of {name}, whose limits are not asked for: name {name} too")
    results = []
    for name in wanted:
        part = (parts or {}).get(name)
        try:
            results.append(_fetch_one(rows[name], part, timeout, variables, today or datetime.now(UTC).date()))
        except Failure as failure:
            _logger.info("%s", failure)
            results.append(FetchResult(name, reason=failure.reason, message=str(failure)))
    return results


def _fetch_one(row: AdminRow, part: str | None, timeout: float, environ: Mapping[str, str], today: date) -> FetchResult:
    headers = headers_with(row, key_of(row, environ))
    limits: list[ConfiguredLimit] = []
    ignored: dict[str, None] = {}
    with session() as opened:
        asker = _Asker(opened, row, headers, timeout)
        if row.part is not None:
            part = part or next((environ[name] for name in row.part.variables if environ.get(name)), None)
            if part is None and row.part.required:
                part = _only_part(asker, row, row.part)
        asked = [(row.account, "")] if row.account is not None else []
        if part is not None and row.part is not None:
            asked.append((row.part, part))
        for listing, named in asked:
            url = listing.url.replace("{part}", quote(named, safe=""))
            pages = asker.pages(listing, url)
            try:
                found, others = limits_of(row, pages, source=url, as_of=today, part=named)
            except ConfigError as error:
                raise Failure("wrong_shape", str(error)) from None
            limits += found
            ignored |= dict.fromkeys(others)
    if not limits:
        raise Failure("wrong_shape", f"{row.name}: the answer holds no limit of a model; is it the right account?")
    return FetchResult(row.name, tuple(limits), tuple(ignored))


def _only_part(asker: _Asker, row: AdminRow, part: Listing) -> str:
    """The one project that there is. Of several, only the user knows which one the calls' key belongs to."""
    if row.parts is None:
        raise Failure("ambiguous", f"{row.name}: which {part.word}? Name it")
    found: dict[str, str] = {}
    for page in asker.pages(row.parts, row.parts.url):
        try:
            entries = entries_of(row.name, row.parts.items, page)
        except ConfigError as error:
            raise Failure("wrong_shape", str(error)) from None
        found |= {
            str(entry[row.parts.id]): str(entry.get(row.parts.label)) for entry in entries if row.parts.id in entry
        }
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise Failure("wrong_shape", f"{row.name}: the answer names no {part.word}; name one yourself")
    listed = ", ".join(f"{name} ({label})" for name, label in found.items())
    raise Failure(
        "ambiguous",
        f"{row.name}: there is more than one {part.word}: {listed}. Name the one that your calls' key belongs to"
        f" (--{part.word}, or {' or '.join(part.variables)})",
    )


class _Asker(NamedTuple):
    """Asks one provider."""

    opened: Session
    row: AdminRow
    headers: Mapping[str, str]
    timeout: float

    def pages(self, listing: Listing, url: str) -> list[Any]:
        """All pages of a list."""
        row, paging = self.row, listing.paging
        hint = f"the key in {' or '.join(row.keys)} is not accepted; it takes {row.key_hint}"
        cures: dict[int, tuple[Reason, str]] = {401: ("refused", hint), 403: ("refused", hint)}
        if listing.word:
            cures[404] = ("not_found", f"there is no such {listing.word}")
        pages: list[Any] = []
        params = dict(listing.params)
        seen: set[str] = set()
        while len(pages) < _MOST_PAGES:
            answer = get(self.opened, row, url, params=params, headers=self.headers, timeout=self.timeout, cures=cures)
            body = json_of(row, url, answer)
            pages.append(body)
            token = self._next(paging, body)
            if token is None:
                return pages
            if token in seen:
                raise Failure("wrong_shape", f"{row.name}: the list leads round in a circle at page {len(pages)}")
            seen.add(token)
            params = {**listing.params, paging["param"]: token}
        raise Failure("wrong_shape", f"{row.name}: the list has more than {_MOST_PAGES} pages")

    def _next(self, paging: Mapping[str, str], body: object) -> str | None:
        """What asks for the page after this one, or None where it is the last."""
        if not paging or not isinstance(body, dict):
            return None
        more = paging.get("more")
        if more is not None and body.get(more) is not True:
            return None
        token = body.get(paging["next"])
        if isinstance(token, str) and token:
            return token
        if more is not None:  # half a list would pass for the whole
            raise Failure("wrong_shape", f"{self.row.name}: the answer says that there is more, and not where")
        return None
