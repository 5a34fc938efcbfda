"""What a provider accepts: requests held against ``accepts.toml``.

What may live here: applying the rules of that file to a request's body. No provider, model or field is named here; to
teach the fake provider another, edit the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ConfigError
from .base import RequestError

_ABSENT: Any = object()


class Provider(NamedTuple):
    """What one provider takes.

    Attributes:
        base: what an ``api_base`` ends in.
        fields: those of a request, by the kind of endpoint; "" where the kind does not matter.
        rules: what holds for them.
    """

    base: str
    fields: Mapping[str, frozenset[str]]
    rules: tuple[Mapping[str, Any], ...]


@cache
def providers() -> Mapping[str, Provider]:
    """Every provider whose requests can be checked, by LiteLLM's name of it."""
    import tomllib

    told = tomllib.loads((Path(__file__).parent / "accepts.toml").read_text(encoding="utf-8"))
    found = {}
    for name, table in told["provider"].items():
        fields = {
            "": frozenset(table["fields"]) | frozenset(told["common"].get(table.get("common"), {}).get("fields", ()))
        }
        fields |= {kind: frozenset(part["fields"]) for kind, part in table.items() if isinstance(part, dict)}
        found[name] = Provider(table["base"], fields, tuple(rule for rule in told["rule"] if rule["provider"] == name))
    return found


def checked_base(url: str, name: str) -> str:
    """The ``api_base`` for a provider's models on a server at ``url``.

    Raises:
        ConfigError: nothing is known of that provider.
    """
    if name not in providers():
        raise ConfigError(f"nothing is known of what {name!r} accepts; there are: {', '.join(sorted(providers()))}")
    return f"{url}/as/{name}{providers()[name].base}"


def check(name: str, kind: str, model: str, body: Mapping[str, Any]) -> None:
    """Refuse what the provider would refuse.

    Raises:
        RequestError: in the provider's words where they are known.
    """
    provider = providers()[name]
    for field in sorted(body.keys() - provider.fields.get(kind, provider.fields[""])):
        raise RequestError(f"{name}: unknown parameter: {field!r}", param=field)
    for rule in provider.rules:
        value = _at(body, rule["field"])
        if value is not _ABSENT and value is not None and _holds(rule, model, body) and not _fits(rule, value, body):
            field = rule["field"]
            raise RequestError(rule.get("says") or f"{name}: {field!r} may not be {value!r} for {model}", param=field)


def _at(body: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(body, Mapping) or part not in body:
            return _ABSENT
        body = body[part]
    return body


def _holds(rule: Mapping[str, Any], model: str, body: Mapping[str, Any]) -> bool:
    """Whether a rule is about this request."""
    if not any(fnmatchcase(model, pattern) for pattern in rule.get("models", ("*",))):
        return False
    if "beside" in rule and _at(body, rule["beside"]) is _ABSENT:
        return False
    return all(_is(body, *told) for told in rule.get("when", {}).items()) and not any(
        _is(body, *told) for told in rule.get("unless", {}).items()
    )


def _is(body: Mapping[str, Any], path: str, values: Any) -> bool:
    return _at(body, path) in (values if isinstance(values, list) else [values])


def _fits(rule: Mapping[str, Any], value: Any, body: Mapping[str, Any]) -> bool:
    if rule.get("refused"):
        return False
    if "one_of" in rule:
        return value in rule["one_of"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    bound = _at(body, rule["below"]) if "below" in rule else _ABSENT
    below = bound is _ABSENT or not isinstance(bound, int) or value < bound
    return rule.get("least", value) <= value <= rule.get("most", value) and below
