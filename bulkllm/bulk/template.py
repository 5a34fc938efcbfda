"""A prompt made out of a row's columns.

What may live here: the template, and nothing else. jinja2 comes with LiteLLM; it is loaded when a template is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError, RequestFileError


def prompt_template(text: str) -> Callable[[Mapping[str, Any]], str]:
    """A function from columns to a prompt, from text such as ``Translate to {{lang}}: {{text}}``.

    The language is jinja2's, in its sandbox: a template can read the columns and nothing else. The function raises
    `RequestFileError` if a row lacks a column that is used.

    Raises:
        ConfigError: the template is malformed, or uses no column.
    """
    import jinja2
    import jinja2.meta
    import jinja2.sandbox

    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
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
        try:
            return template.render(columns)
        except jinja2.UndefinedError as error:
            has = ", ".join(sorted(map(str, columns))) or "none"
            raise RequestFileError(f"the prompt template cannot be filled: {error.message}; columns: {has}") from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise RequestFileError(f"the prompt template cannot be filled: {error}") from error

    return render
