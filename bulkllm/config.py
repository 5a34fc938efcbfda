"""Settings and the directories they live in.

What may live here: where bulkllm's files are, how a TOML file is read so that a mistake in it can be named by
file, line and key, and one reader of settings. Nothing is read, created or imported from elsewhere when this
module is imported.

A setting is looked for in this order, and the first answer wins:

1. the argument given in the program;
2. the environment variable ``BULKLLM_<KEY>`` (``cache.max_bytes`` is ``BULKLLM_CACHE_MAX_BYTES``);
3. ``config.toml`` in the user's configuration directory (``[cache]`` with ``max_bytes = ...``);
4. the default.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from .errors import ConfigError

_APP = "bulkllm"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_FLAG_OR_NUMBER = "true, false or a number"
_SECRET = re.compile(
    r"(?:^|[_-])(?:key|token|passw\w*|credentials?)$|api[_-]?key|access[_-]?key|secret|authorization", re.IGNORECASE
)

Value = TypeVar("Value", bound="bool | int | float | str | Path")
Default = TypeVar("Default")


def config_dir(path: str | Path | None = None) -> Path:
    """Where the user's ``config.toml`` and ``models.toml`` are: argument, ``BULKLLM_CONFIG_DIR``, the usual place."""
    return _directory(path, "BULKLLM_CONFIG_DIR", "user_config_path")


def cache_dir(path: str | Path | None = None) -> Path:
    """Where what can be fetched again is kept: argument, ``BULKLLM_CACHE_DIR``, the usual place."""
    return _directory(path, "BULKLLM_CACHE_DIR", "user_cache_path")


def state_dir(path: str | Path | None = None) -> Path:
    """Where what bulkllm learned is kept (such as limits): argument, ``BULKLLM_STATE_DIR``, the usual place."""
    return _directory(path, "BULKLLM_STATE_DIR", "user_state_path")


def _directory(path: str | Path | None, variable: str, usual: str) -> Path:
    given = path if path is not None else os.environ.get(variable) or None
    if given is not None:
        return Path(given).expanduser()
    import platformdirs

    found: Path = getattr(platformdirs, usual)(_APP, appauthor=False)
    return found


class TomlFile:
    """One TOML file, with the line of every key at hand for error messages.

    Attributes:
        path: the file.
        data: what it says.
    """

    def __init__(self, path: Path, text: str, data: dict[str, Any]) -> None:
        self.path = path
        self.data = data
        self._text = text

    def line(self, *keys: str | int) -> int | None:
        """The 1-based line of a key, given as a path: ``("model", 2, "mode")`` is the third ``[[model]]``'s mode.

        None where the line cannot be told, as for a key inside an inline table that spans lines.
        """
        return _line_of(self._text, keys)

    def error(self, keys: tuple[str | int, ...], problem: str) -> ConfigError:
        """An error about the value at ``keys``, to be raised or kept by the caller."""
        line = next((found for cut in range(len(keys), 0, -1) if (found := self.line(*keys[:cut]))), None)
        place = f"{self.path}:{line}" if line else str(self.path)
        return ConfigError(f"{place}: {dotted(keys)}: {problem}")


def read_toml(path: Path) -> TomlFile:
    """Read a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML; the text names the file, the line and the column.
        FileNotFoundError: there is no such file. Whether that matters is the caller's to say.
    """
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or "cannot be read"
        raise ConfigError(f"{path}: {reason}; expected a TOML file in UTF-8") from error
    try:
        return TomlFile(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = re.search(r"\(at line (\d+), column (\d+)\)", message)
        place = f"{path}:{where[1]}:{where[2]}" if where else f"{path}:{text.count(chr(10)) + 1}"
        what = message.split(" (at ", maxsplit=1)[0]
        key = _key_on_line(text, int(where[1])) if where else None
        named = f"{key}: " if key else ""
        raise ConfigError(f"{place}: {named}not valid TOML: {what}; expected lines like: key = value") from error


def dotted(keys: tuple[str | int, ...]) -> str:
    """A path of keys as people write it: ``model[2].mode``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def is_secret(name: str) -> bool:
    """Whether a key's name says that its value is a secret."""
    return _SECRET.search(name) is not None


def shown(key: str | int, value: object) -> str:
    """A value for an error message: short, and hidden where the key's name says that it is a secret."""
    if is_secret(str(key)) and isinstance(value, str):
        return "a value that is not shown"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - what fits in a line of a message


class Settings:
    """Reads one setting at a time; ``config.toml`` is opened when the first setting is asked for.

    Args:
        directory: the configuration directory; by default what :func:`config_dir` says.
        environ: the environment; by default the process's own, as it is when a setting is asked for.
    """

    def __init__(self, directory: str | Path | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._environ = environ
        self._file: TomlFile | None = None
        self._read = False

    @overload
    def get(
        self, key: str, kind: type[Value], default: Value, *, argument: Value | None = ..., variable: str | None = ...
    ) -> Value: ...

    @overload
    def get(
        self, key: str, kind: type[Value], default: Default, *, argument: Value | None = ..., variable: str | None = ...
    ) -> Value | Default: ...

    def get(
        self,
        key: str,
        kind: type[Value],
        default: Default,
        *,
        argument: Value | None = None,
        variable: str | None = None,
    ) -> Value | Default:
        """The value of a setting.

        Args:
            key: its name; a dot stands between a table and a key (``cache.max_bytes``).
            kind: bool, int, float, str or Path: what the value must be.
            default: the answer where nobody says anything.
            argument: what the program was given; None means that it was given nothing.
            variable: the environment variable, where it is not called after the key.

        Raises:
            ConfigError: the value found is of the wrong kind, or ``config.toml`` cannot be read.
        """
        if argument is not None:
            return argument
        variable, text = self._text(key, variable)
        if text:
            value = _parse(text, kind)
            if value is None:
                raise ConfigError(f"{variable}: expected {_wanted(kind)}, found {shown(variable, text)}")
            return value
        file, found = self._from_file(key)
        if file is None:
            return default
        value = _convert(found, kind)
        if value is None:
            keys = tuple(key.split("."))
            raise file.error(keys, f"expected {_wanted(kind)}, found {shown(keys[-1], found)}")
        return value

    def flag_or_number(self, key: str, default: bool | float, *, argument: bool | float | None = None) -> bool | float:
        """The value of a setting that is true, false or a number; looked for as :meth:`get` does.

        Raises:
            ConfigError: the value found is none of these, or ``config.toml`` cannot be read.
        """
        if argument is not None:
            return argument
        variable, text = self._text(key)
        if text:
            flag = _parse(text, bool)
            value = _parse(text, float) if flag is None else flag
            if value is None:
                raise ConfigError(f"{variable}: expected {_FLAG_OR_NUMBER}, found {shown(variable, text)}")
            return value
        file, found = self._from_file(key)
        if file is None:
            return default
        flag = _convert(found, bool)
        value = _convert(found, float) if flag is None else flag
        if value is None:
            keys = tuple(key.split("."))
            raise file.error(keys, f"expected {_FLAG_OR_NUMBER}, found {shown(keys[-1], found)}")
        return value

    def _text(self, key: str, variable: str | None = None) -> tuple[str, str | None]:
        """The environment variable of a setting, and what it says."""
        variable = variable or f"BULKLLM_{key.upper().replace('.', '_').replace('-', '_')}"
        return variable, (os.environ if self._environ is None else self._environ).get(variable)

    def _from_file(self, key: str) -> tuple[TomlFile | None, Any]:
        """The file, if it says something of a setting, and what it says."""
        if not self._read:
            try:
                self._file = read_toml(config_dir(self._directory) / "config.toml")
            except FileNotFoundError:
                self._file = None
            self._read = True
        if self._file is None:
            return None, None
        keys = tuple(key.split("."))
        found: Any = self._file.data
        for depth, part in enumerate(keys):
            if not isinstance(found, dict):
                raise self._file.error(keys[:depth], f"expected a table, found {shown(part, found)}")
            if part not in found:
                return None, None
            found = found[part]
        return self._file, found


def _parse(text: str, kind: type[Value]) -> Value | None:
    """An environment variable's text as ``kind``, or None where it is not one."""
    found: object = text.strip()
    if kind is bool:
        lowered = text.strip().lower()
        found = lowered in _TRUE if lowered in _TRUE | _FALSE else None
    elif kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            return None
    return _convert(found, kind)


def _convert(found: object, kind: type[Value]) -> Value | None:
    """A value as ``kind``, or None where it is not one. A bool is not a number here; a whole number is a float."""
    if kind is Path and isinstance(found, str):
        found = Path(found).expanduser()
    elif kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    if isinstance(found, bool) is not (kind is bool) or not isinstance(found, kind):
        return None
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found


def _wanted(kind: type[object]) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}[kind]


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""")
_PART = re.compile(r""""[^"]*"|'[^']*'|[A-Za-z0-9_-]+""")


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text))


def _key_on_line(text: str, number: int) -> str | None:
    lines = text.splitlines()
    match = _KEY.match(lines[number - 1]) if number <= len(lines) else None
    return match[1] if match else None


def _line_of(text: str, keys: tuple[str | int, ...]) -> int | None:
    """Walk the file's headers and keys, keeping count of the array tables, until ``keys`` is reached."""
    counts: dict[tuple[str | int, ...], int] = {}
    here: tuple[str | int, ...] = ()
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if fence is not None:  # inside a text of several lines: nothing in it is a key
            fence = None if fence in line else fence
            continue
        header = _HEADER.match(line)
        if header:
            here = _anchored(_parts(header[2]), counts, array=header[1] == "[[")
            if here in (keys, (*keys, 0)):  # the first of an array of tables stands for the array
                return number
            continue
        match = _KEY.match(line)
        if match and (*here, *_parts(match[1])) == keys:
            return number
        fence = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), None)
    return None


def _anchored(
    names: tuple[str, ...], counts: dict[tuple[str | int, ...], int], *, array: bool
) -> tuple[str | int, ...]:
    """A header's path with the positions of the array tables that it lies in."""
    path: tuple[str | int, ...] = ()
    for depth, name in enumerate(names):
        path = (*path, name)
        if array and depth == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
