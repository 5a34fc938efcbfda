"""Error texts fit to be stored: short, and without keys.

What may live here: patterns of secrets. Pure, standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_TEXT = 2000
"""Characters of an error's text that are kept."""

_REDACTED = "[redacted]"

# Keys as providers make them, and whatever stands where a key stands.
_KEYS = re.compile(
    r"""
    \b(?: (?:sk|pk|rk|gsk|xai|pplx|key|nvapi|csk|tgp|r8|hf|ghp|gho|glpat|AIza|AKIA|ASIA)[-_]?[A-Za-z0-9_\-*.]{12,} )
    | (?i:\bbearer\s+)[^\s"',;)}\]]+
    | (?i:\bbasic\s+)[A-Za-z0-9+/=]{8,}
    | \beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)?
    """,
    re.VERBOSE,
)
_NAMED = re.compile(
    r"""(?ix)
    ( \b(?:x-)?(?:api[-_ ]?key(?:\s+provided)?|authorization|access[-_ ]?token|auth[-_ ]?token|secret|password|passwd)
      ["']? \s* [:=] \s* ["']? )
    (?! \[redacted\] )
    ( [^\s"',;)}\]]+ )
    """
)
_CREDENTIALS = re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without anything that is, or looks like, a key; at most `MAX_TEXT` characters of it.

    Args:
        text: an error's text.
        secrets: keys that are known to be in use.
    """
    text = text[: 8 * MAX_TEXT]
    for secret in secrets:
        text = text.replace(secret, _REDACTED)
    text = _KEYS.sub(_REDACTED, text)
    text = _NAMED.sub(rf"\1{_REDACTED}", text)
    text = _CREDENTIALS.sub(rf"\1{_REDACTED}@", text)
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 4] + " ..."
    return text
