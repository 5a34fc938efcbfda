"""Which limits hold for which model, and how they are changed while a server runs.

What may live here: the choice of a :class:`~bulkllm.testing.limits.Pool`, and no arithmetic on it. Like that, it
neither locks nor reads a clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..errors import ConfigError
from .limits import Pool, ProviderLimits

_NAMES = tuple(field.name for field in dataclasses.fields(ProviderLimits))


class Pools:
    """The limits of every model.

    Args:
        default: holds for each model that has no limits of its own, for each one apart.
        named: limits of its own for a model name, or for a glob such as ``"gpt-5*"``, in which case all models
            that match it share one pool. An exact name goes before a glob, an earlier glob before a later one.
        now: the time at which all of them are untouched.
    """

    def __init__(self, default: ProviderLimits, named: Mapping[str, ProviderLimits], now: float) -> None:
        self._at_first = (default, dict(named))
        self._default = default
        self._named = dict(named)
        self._of_model: dict[str, Pool] = {}
        self._of_name = {name: Pool(limits, now) for name, limits in named.items()}

    def of(self, model: str, now: float) -> Pool:
        """The pool that a request to this model is measured by."""
        pool = self._of_model.get(model)
        if pool is None:
            pool = self._of_model[model] = self._find(model, now)
        return pool

    def change(self, model: str | None, changes: Mapping[str, Any], now: float) -> None:
        """Change some limits: of the name or glob given, or of all models that have none of their own.

        Raises:
            ConfigError: an unknown limit or an impossible value; nothing has been changed then.
        """
        for name in changes:
            if name not in _NAMES:
                raise ConfigError(f"{name!r} is no limit; there are: {', '.join(_NAMES)}")
        if model is None:
            self._default = limits = dataclasses.replace(self._default, **changes)
            for pool in self._unnamed():
                pool.change(limits, now)
            return
        limits = dataclasses.replace(self._named.get(model, self._default), **changes)
        self._named[model] = limits
        if model in self._of_name:
            self._of_name[model].change(limits, now)
            return
        # A model that had the default limits until now keeps what it used; other models look again whose they are.
        used = self._of_model.get(model)
        inherited = used if used is not None and used in self._unnamed() else Pool(limits, now)
        inherited.change(limits, now)
        self._of_name[model] = inherited
        self._of_model = {name: pool for name, pool in self._of_model.items() if not fnmatchcase(name, model)}

    def reset(self, now: float) -> None:
        """Back to the limits of the beginning, untouched. What is still in flight counts in no pool any more."""
        self._default, named = self._at_first
        self._named = dict(named)
        self._of_model = {}
        self._of_name = {name: Pool(limits, now) for name, limits in named.items()}

    def _unnamed(self) -> Iterator[Pool]:
        named = {id(pool) for pool in self._of_name.values()}
        return (pool for pool in self._of_model.values() if id(pool) not in named)

    def _find(self, model: str, now: float) -> Pool:
        if (pool := self._of_name.get(model)) is not None:
            return pool
        for name, pool in self._of_name.items():
            if fnmatchcase(model, name):
                return pool
        return Pool(self._default, now)
