"""A mend of LiteLLM: what it replaces, for which versions, and the tests that have to agree before it does.

What may live here: the rules. Which mends there are stands beside what they mend; when they are applied, and undone, is
:mod:`.litellm_patch`'s business.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._litellm import major_minor

Function = Callable[..., Any]
Applied = tuple[Any, str, Function, Function]
"""Where a function was replaced: its place, its name, LiteLLM's own and ours."""


@dataclass(frozen=True, slots=True)
class Mend:
    """One mend: where it goes, for which versions it was tried, and the tests that must agree.

    Attributes:
        name: what is mended, for :class:`LiteLLMSupport`.
        oldest: of the versions it was tried with, as (major, minor); so ``newest``.
        owner: the class that has the function, or None if the module has it.
        functions: the function's name; or several, where a version knows it by another name or by both.
        parameters: the names of its parameters.
        is_broken: whether the function misbehaves as expected, tried out.
        made: the function to put in its place.
        works: whether that behaves, tried out.
    """

    name: str
    oldest: tuple[int, int]
    newest: tuple[int, int]
    owner: str | None
    functions: tuple[str, ...]
    parameters: tuple[str, ...]
    is_broken: Callable[[Any, Function], bool]
    made: Callable[[Any, Function], Function]
    works: Callable[[Any, Function], bool]

    def place(self, handler: Any) -> Any:
        """The module or class that has the function."""
        return handler if self.owner is None else getattr(handler, self.owner)


def apply(mend: Mend, version: str, handler: Any, applied: list[Applied]) -> str | None:
    """Apply a mend: "" if it is in place, None if there is nothing to mend, else why it is not in place."""
    tried = mend.oldest <= major_minor(version) <= mend.newest
    where = ".".join(part for part in (mend.owner, mend.functions[0]) if part)
    try:
        place = mend.place(handler)
        names = [name for name in mend.functions if hasattr(place, name)] or [mend.functions[0]]
        original: Function = getattr(place, names[0])
        parameters = tuple(inspect.signature(original).parameters)
    except (AttributeError, TypeError, ValueError):
        return f"there is no {where}" if tried else None
    if parameters != mend.parameters:
        return f"{where} takes ({', '.join(parameters)})" if tried else None
    try:
        if not mend.is_broken(handler, original):
            return None
        if not tried:
            return f"broken as in {_text(mend.oldest)} to {_text(mend.newest)}, but not tried with this version"
        ours = mend.made(handler, original)
        if not mend.works(handler, ours):
            return "the mended function fails its test"
    except Exception as error:  # noqa: BLE001 - whatever an unfamiliar LiteLLM raises, calls must go on; it is reported
        return f"{where} fails in the test ({type(error).__name__})"
    for name in names:
        applied.append((place, name, getattr(place, name), ours))
        setattr(place, name, ours)
    return ""


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
