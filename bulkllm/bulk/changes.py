"""How many finished rows were asked in another way before, and whether that looks like a mistake.

What may live here: counting them. Pure.
"""

from __future__ import annotations

from typing import Final

from ..errors import ConfigError

_ALLOWED: Final = 100  # one finished row in a hundred may have changed before somebody is asked


class Changes:
    """Guards against paying for a whole file again because of a slip in an option.

    Args:
        finished: rows that have an answer from an earlier run.
        models: of how many models the rows are asked.
        allowed: however many have changed is all right.

    Attributes:
        finished: rows that have an answer from an earlier run.
        counts_all: all of the input is met before anything is asked: then it is said how many have changed in all.
    """

    def __init__(self, finished: int, models: int, *, allowed: bool) -> None:
        self.finished = finished
        self.counts_all = False
        self._allowed = allowed
        self._met = 0
        self._unnamed = 0
        self._changed = 0
        self._known_by_model = [0] * models
        self._new_by_model = [0] * models

    def met(self, model: int, *, changed: bool) -> None:
        """A finished row has been met.

        Raises:
            ConfigError: it is one changed row too many, and not all are counted first.
        """
        self._met += 1
        self._known_by_model[model] += 1
        if changed:
            self._changed += 1
            if not self.counts_all and self._too_many(self._changed):
                raise self._error(f"at least {self._changed}")

    def met_unnamed(self, model: int) -> None:
        """A finished row has been met that had no ``custom_id`` when it was asked; otherwise as :meth:`met`."""
        self._unnamed += 1
        self.met(model, changed=True)

    def met_new(self, model: int) -> None:
        """A row without ``custom_id`` has been met of which nothing is known."""
        self._new_by_model[model] += 1

    @property
    def looks_changed(self) -> bool:
        """Whether too many finished rows have changed, if all those that were not met are gone."""
        return self._too_many(self._possible)

    def all_met(self) -> None:
        """The whole input has been met: compare once more, now that it is known which finished rows are missing.

        Raises:
            ConfigError: too many finished rows have changed.
        """
        if self.looks_changed:
            raise self._error(str(self._possible))

    @property
    def _possible(self) -> int:
        """A row without ``custom_id`` that changed looks like a new one, and the finished row like one that is gone."""
        gone = self.finished - self._met
        # A model of which no row is known was added to the run: its rows are new, whatever became of others.
        known = [new for new, known in zip(self._new_by_model, self._known_by_model, strict=True) if known]
        return self._changed + min(gone, sum(known or self._new_by_model))

    def _too_many(self, changed: int) -> bool:
        return not self._allowed and changed * _ALLOWED > self.finished

    def _error(self, changed: str) -> ConfigError:
        unnamed = f"; {self._unnamed} of them had no custom_id, and are done if it is left out" if self._unnamed else ""
        return ConfigError(
            f"{changed} of the {self.finished} finished rows were asked in another way before (the model, an option,"
            f" a prompt, the endpoint or the input has changed{unnamed}); to pay again pass redo_changed"
            " (--redo-changed), otherwise give another output; if only the endpoint's address has changed, give as"
            " endpoint (--endpoint) the name that was declared for it, or else its old address"
        )
