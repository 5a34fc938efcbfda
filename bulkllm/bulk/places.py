"""The places where one model can be asked, as users describe them: in code, or in a file.

What may live here: reading descriptions and saying what is wrong with them. Who asks which of them is `deployments`'
business. A key in a file is named by the environment variable that holds it, and never stands there itself.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError
from ..limits import RateLimit
from .options import ROW_OPTIONS, is_secret

LIMITS: Final = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "max_in_flight", "burst", "window", "period")
_KEY_VARIABLE: Final = "api_key_env"
_TABLE: Final = "deployment"
_CLOSE: Final = 0.8  # how like a name of ours an unknown one must be to be taken for a slip of the pen
_CLOSE_IF_SHORT: Final = 0.66
_EXAMPLE: Final = '{"api_base": ..., "api_key": ..., "rpm": 500}'


@dataclass(frozen=True, slots=True)
class Deployment:
    """One place.

    Attributes:
        options: model, address, key and whatever else LiteLLM is to be told. Never to be logged or stored.
        limits: what may be asked there; None for as much as it lets in.
    """

    options: Mapping[str, Any] = field(repr=False)
    limits: RateLimit | None = None


def deployments_of(given: Any, model: str | None) -> list[Deployment]:
    """The places that a run was given.

    Args:
        given: dicts with ``api_base``, ``api_key`` (or ``api_key_env``, the name of the environment variable that holds
            it), LiteLLM's name of the model there as ``model``, the limits of that place (``rpm``, ``tpm``,
            ``max_in_flight``, ...), and any other of LiteLLM's options.
        model: the model's name where one does not say it.

    Raises:
        ConfigError: one of them is wrong.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not given:
        raise ConfigError(f"deployments= takes a list of dicts such as {_EXAMPLE}")
    return [_deployment(one, model, f"deployment {number}") for number, one in enumerate(given, 1)]


def load_deployments(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a file of deployments: TOML with a table ``[[deployment]]`` for each, or JSON with a list of objects.

    Raises:
        ConfigError: it cannot be read, or what stands in it is wrong; with the place and the cure.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"deployments cannot be read from {file}: {reason}") from None
    try:
        read: Any = json.loads(text) if file.suffix.lower() == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # both parsers tell the line and the column
        kind = "JSON" if file.suffix.lower() == ".json" else "TOML (name it .json if it is JSON)"
        raise ConfigError(f"{file} is no valid {kind}: {error}") from None
    if isinstance(read, Mapping):
        strange = sorted(read.keys() - {_TABLE})
        if strange:
            raise ConfigError(f"{file}: there is no {strange[0]!r} here; each place is a table [[{_TABLE}]]")
        read = read.get(_TABLE)
    if not isinstance(read, list) or not read:
        raise ConfigError(f"{file} has no deployments; write a table [[{_TABLE}]] for each (in JSON a list of objects)")
    for number, one in enumerate(read, 1):
        where = f"{file}, deployment {number}"
        for name in one if isinstance(one, Mapping) else ():
            if is_secret(name):
                raise ConfigError(
                    f"{where}: {name!r} does not belong in a file; give the name of an environment variable that holds "
                    f'the key, such as {_KEY_VARIABLE} = "EAST_KEY"'
                )
        _deployment(one, "any", where)
    return read


def _deployment(one: Any, model: str | None, where: str) -> Deployment:
    if not isinstance(one, Mapping):
        raise ConfigError(f"{where} must be a table (a dict) such as {_EXAMPLE}, not a {type(one).__name__}")
    options = {name: value for name, value in one.items() if name not in (*LIMITS, _KEY_VARIABLE) and value is not None}
    for name in options.keys() - ROW_OPTIONS:
        close = difflib.get_close_matches(str(name), LIMITS, n=1, cutoff=_CLOSE_IF_SHORT) or difflib.get_close_matches(
            str(name), (*ROW_OPTIONS, _KEY_VARIABLE), n=1, cutoff=_CLOSE
        )
        if close:
            raise ConfigError(f"{where}: there is no {name!r}; {close[0]!r} was meant, it seems")
    variable = one.get(_KEY_VARIABLE)
    if variable is not None:
        options["api_key"] = _key_in(variable, where, given="api_key" in options)
    options.setdefault("model", model)
    if not isinstance(options["model"], str) or not options["model"]:
        raise ConfigError(f"{where} needs a model: give the run one (model=, --model), or the deployment")
    limits = {name: one[name] for name in LIMITS if one.get(name) is not None}
    try:
        return Deployment(options, RateLimit("*", **limits) if limits else None)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _key_in(variable: Any, where: str, *, given: bool) -> str:
    if given:
        raise ConfigError(f"{where}: api_key and {_KEY_VARIABLE} exclude each other; keep {_KEY_VARIABLE}")
    if not isinstance(variable, str) or not variable.isidentifier():
        # Not shown: it may be the key itself.
        raise ConfigError(f"{where}: {_KEY_VARIABLE} must be the name of an environment variable, such as EAST_KEY")
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"{where}: the environment variable {variable} is not set; put the key of that place into it")
    return key
