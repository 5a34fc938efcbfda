"""The layers of one registry: read when first needed, and what was wrong in them.

What may live here: where each layer comes from and in which order they lie. What a layer says is in
:mod:`bulkllm.models.layers`, what the layers mean together in :mod:`bulkllm.models.index`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..errors import ConfigError
from .layers import Layer, read_layer
from .rules import DATA

if TYPE_CHECKING:
    from .providers import ProviderList

_logger = logging.getLogger(__name__)
_PACKAGED = ("models.toml", "aliases.toml", "presets.toml", "groups.toml", "providers.toml")


class Stack:
    """The packaged facts, the refreshed lists, the user's file and what the program said, in this order.

    Attributes:
        program: the layer for what the program says.
        generation: goes up whenever a layer changes.
    """

    def __init__(self, config_dir: str | Path | None, cache_dir: str | Path | None) -> None:
        self._config_dir = config_dir
        self._cache_dir = cache_dir
        self._lock = threading.RLock()
        self._files: list[Layer] | None = None
        self._rows: dict[str, ProviderList] = {}
        self.program = Layer("program")
        self.generation = 0

    def layers(self) -> list[Layer]:
        """Every layer, the later one winning."""
        with self._lock:
            if self._files is None:
                self._files = self._read()
            return [*self._files, self.program]

    def providers(self) -> Mapping[str, ProviderList]:
        """The providers whose lists can be refreshed."""
        self.layers()
        return self._rows

    @property
    def lists_dir(self) -> Path:
        """Where refreshed lists are kept."""
        return config.cache_dir(self._cache_dir) / "models"

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """What is wrong in the layers; each was logged once."""
        return tuple(problem for layer in self.layers() for problem in layer.problems)

    def add_problems(self, problems: Sequence[ConfigError]) -> None:
        """Keep problems that show later than at reading, once each."""
        known = {str(problem) for problem in self.problems}
        for problem in problems:
            if str(problem) not in known:
                self.layers()[2].problems.append(problem)
                _logger.warning("%s", problem)

    def forget_files(self) -> None:
        """Read the files again when they are next needed."""
        with self._lock:
            self._files = None
            self.generation += 1

    def _read(self) -> list[Layer]:
        from .providers import provider_lists

        packaged = Layer("packaged")
        for name in _PACKAGED:
            read_layer(DATA / name, "packaged", into=packaged)
        user = read_layer(config.config_dir(self._config_dir) / "models.toml", "user")
        self._rows, problems = provider_lists([packaged, user])
        user.problems.extend(problems)
        refreshed = Layer("refreshed")
        if self.lists_dir.is_dir():
            from .lists import read_lists

            refreshed = read_lists(self._rows, self.lists_dir)
        for problem in (*packaged.problems, *refreshed.problems, *user.problems):
            _logger.warning("%s", problem)
        return [packaged, refreshed, user]
