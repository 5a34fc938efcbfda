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
    """

    def __init__(self, finished: int, models: int, *, allowed: bool) -> None:
        self.finished = finished
        self._allowed = allowed
        self._met = 0
        self._changed = 0
        self._known_by_model = [0] * models
        self._new_by_model = [0] * models

    def met(self, model: int, *, changed: bool) -> None:
        """A finished row has been met.

        Raises:
            ConfigError: it is one changed row too many.
        """
        self._met += 1
        self._known_by_model[model] += 1
        if changed:
            self._changed += 1
            self._check(self._changed)

    def met_new(self, model: int) -> None:
        """A row without ``custom_id`` has been met of which nothing is known."""
        self._new_by_model[model] += 1

    def all_met(self) -> None:
        """The whole input has been met: compare once more, now that it is known which finished rows are missing.

        A row without ``custom_id`` that changed looks like a new row, and the finished one like a row that is gone.

        Raises:
            ConfigError: too many finished rows have changed.
        """
        gone = self.finished - self._met
        # A model of which no row is known was added to the run: its rows are new, whatever became of others.
        known = [new for new, known in zip(self._new_by_model, self._known_by_model, strict=True) if known]
        self._check(self._changed + min(gone, sum(known or self._new_by_model)))

    def _check(self, changed: int) -> None:
        if self._allowed or changed * _ALLOWED <= self.finished:
            return
        raise ConfigError(
            f"{changed} of the {self.finished} finished rows were asked in another way before (the model, an option,"
            " a prompt, the endpoint or the input has changed); to pay again pass redo_changed (--redo-changed),"
            " otherwise give another output; if only the endpoint's address has changed, declare a name for it with"
            " endpoint (--endpoint)"
        )
