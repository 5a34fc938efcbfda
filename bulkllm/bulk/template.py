"""A prompt made out of a row's columns.

What may live here: the template, and nothing else. jinja2 comes with LiteLLM; it is loaded when a template is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Final

from ..errors import ConfigError, RequestFileError

_RAISED: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a template's own expressions raise."""


class _MissingError(Exception):
    """Something is to be written that is not there."""


def prompt_template(text: str) -> Callable[[Mapping[str, Any]], str]:
    """A function from columns to a prompt, from text such as ``Translate to {{lang}}: {{text}}``.

    The language is jinja2's, in its sandbox: a template can read the columns and nothing else. The function raises
    `RequestFileError` if a row lacks a column that is used, or has no value in one that is written (None, NaN).

    Raises:
        ConfigError: the template is malformed, or uses no column.
    """
    import jinja2
    import jinja2.meta
    import jinja2.sandbox

    environment = jinja2.sandbox.SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_written
    )
    try:
        names = jinja2.meta.find_undeclared_variables(environment.parse(text))
        template = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"the prompt template is malformed at its line {error.lineno}: {error.message}") from error
    if not names:
        raise ConfigError(
            "the prompt template uses no column, so every row would ask the same; write a column's name as {{name}}"
        )

    def render(columns: Mapping[str, Any]) -> str:
        row: dict[str, Any] = {}
        try:
            row |= {name: None if _is_missing(value) else value for name, value in columns.items()}
            return template.render(row)
        except _MissingError as error:
            empty = [name for name in sorted(names) if name in row and row[name] is None]
            raise RequestFileError(
                f"the prompt template cannot be filled: {', '.join(empty) or 'what it writes'} has no value here; where"
                f" that may be, write {{{{ {empty[0] if empty else '...'} or '' }}}}"
            ) from error
        except jinja2.UndefinedError as error:
            has = ", ".join(sorted(map(str, columns))) or "none"
            raise RequestFileError(f"the prompt template cannot be filled: {error.message}; columns: {has}") from error
        except jinja2.TemplateError as error:
            raise RequestFileError(f"the prompt template cannot be filled: {error}") from error
        except _RAISED as error:
            raise RequestFileError(f"the prompt template cannot be filled: {type(error).__name__}: {error}") from error

    return render


def _written(value: object) -> object:
    """What a template writes, which must be something."""
    if _is_missing(value):
        raise _MissingError
    return value


def _is_missing(value: object) -> bool:
    if value is None or isinstance(value, str):
        return value is None
    if isinstance(value, Real):  # numpy's too
        return bool(value != value)  # noqa: PLR0124 - what is not equal to itself is NaN
    return type(value).__name__ in {"NAType", "NaTType"}  # pandas'
