"""Reading a provider's answers with a key, through ``requests``.

What may live here: how a key is found and sent, one GET, and which of the many ways to fail it was. Nothing of what an
answer means. A key is never in a message, and never follows a redirect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    import requests

    Answer = requests.Response
    Session = requests.Session

_UNCHANGED: Final = 304
_OK: Final = 200

Reason = Literal[
    "no_key", "bad_key", "refused", "rate_limited", "timeout", "unreachable", "moved", "not_found", "http_error",
    "not_json", "wrong_shape", "ambiguous", "not_kept",
]  # fmt: skip
"""Why an answer could not be had: each has its own cure, which is in the message."""


class Failure(Exception):
    """One provider cannot be read; the others can."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason: Reason = reason
        super().__init__(message)


class Asked(Protocol):
    """Whom a request goes to."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Environment variables that may hold the key; the first that is found is used."""

    @property
    def key_optional(self) -> bool:
        """Whether a request without a key is answered too."""

    @property
    def auth(self) -> str | None:
        """The header that carries the key, such as ``Authorization: Bearer {key}``."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What else is sent with every request."""


Cures = Mapping[int, tuple[Reason, str]]


def key_of(whom: Asked, environ: Mapping[str, str]) -> str | None:
    """The key, or None where none is set."""
    return next((environ[name].strip() for name in whom.keys if environ.get(name, "").strip()), None)


def key_names(whom: Asked) -> str:
    """The variables, for a message."""
    return " or ".join(whom.keys)


def headers_with(whom: Asked, key: str | None) -> dict[str, str]:
    """What is sent along.

    Raises:
        Failure: there is no key and one is needed, or it is none that could be sent.
    """
    headers = {"Accept": "application/json", "User-Agent": "bulkllm", **whom.headers}
    if key is None:
        if not whom.key_optional:
            raise Failure("no_key", f"{whom.name}: no key; set {key_names(whom)}")
        return headers
    if not key.isascii() or not key.isprintable() or " " in key:
        names = key_names(whom)
        raise Failure("bad_key", f"{whom.name}: the key in {names} holds characters that no key has; copy it anew")
    if whom.auth is not None:
        name, _, value = whom.auth.partition(": ")
        headers[name] = value.replace("{key}", key)
    return headers


@contextmanager
def session() -> Iterator[Session]:
    """A session for the requests to one provider."""
    import requests

    with requests.Session() as opened:
        yield opened


def get(
    opened: Session,
    whom: Asked,
    url: str,
    *,
    params: Mapping[str, str],
    headers: Mapping[str, str],
    timeout: float,
    cures: Cures | None = None,
) -> Answer:
    """One request; an answer with status 200 or 304. Redirects are not followed: they would carry the key along.

    Args:
        opened: the session.
        whom: whose keys a message may name.
        url: the address.
        params: go into the address.
        headers: as they are.
        timeout: seconds for a connection and for each piece of the answer.
        cures: what to say of a status, where the asker knows better.

    Raises:
        Failure: anything else came of it.
    """
    import requests

    try:
        answer = opened.get(
            url,
            params=dict(params),
            headers=dict(headers),
            timeout=timeout,
            allow_redirects=False,
            auth=lambda request: request,  # or else a password from .netrc would take the key's place
        )
    except requests.Timeout:
        raise Failure("timeout", f"{whom.name}: no answer within {timeout:g} s from {url}; try again") from None
    except requests.ConnectionError as error:
        if error.args and type(error.args[0]).__name__ == "ReadTimeoutError":  # requests' word for a body that stops
            raise Failure("timeout", f"{whom.name}: the answer of {url} stopped for {timeout:g} s; try again") from None
        kind = type(error).__name__
        raise Failure("unreachable", f"{whom.name}: {url} cannot be reached ({kind}); is there a network?") from None
    except requests.RequestException as error:
        kind = type(error).__name__
        raise Failure("http_error", f"{whom.name}: the request to {url} failed ({kind})") from None
    status = answer.status_code
    if status in (_OK, _UNCHANGED):
        return answer
    named = f"{whom.name}: {url} answered {status}"
    if cures and status in cures:
        reason, cure = cures[status]
        raise Failure(reason, f"{named}: {cure}")
    if status in (401, 403):
        raise Failure("refused", f"{named}: the key in {key_names(whom)} is not accepted; check it")
    if status == 429:  # noqa: PLR2004 - too many requests
        raise Failure("rate_limited", f"{named}: too many requests; try again later")
    if 300 <= status < 400:  # noqa: PLR2004 - a redirect
        raise Failure("moved", f"{named}: the list has moved; the provider's row needs its new address")
    raise Failure("http_error", f"{named}; try again later")


def json_of(whom: Asked, url: str, answer: Answer) -> Any:
    """The answer's body.

    Raises:
        Failure: it is not JSON.
    """
    try:
        return answer.json()
    except ValueError:
        kind = answer.headers.get("Content-Type", "no content type")
        raise Failure("not_json", f"{whom.name}: {url} answered with something that is not JSON ({kind})") from None
