"""How a limiter shares its limits with other processes: a value that a user writes down. No state, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ..errors import ConfigError
from .stores import Store

WhenAway = Literal["wait", "share"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Limits that several processes share through a store.

    Attributes:
        store: a path or ``sqlite:///absolute/path`` for the processes of one machine; ``redis://host:6379/0`` and its
            like for machines (the extra ``redis``); or a store that was made already.
        group: what is shared is told apart by this and by the limits' names. Processes whose calls go to different
            accounts need different groups.
        when_away: what happens while the store cannot be reached: ``"wait"`` for it, once what is held is spent; or go
            on by oneself with a ``share`` of each limit.
        share: that share, above 0, at most 1: one divided by the number of processes keeps the limit.
        ttl: seconds for which quota that is handed out to a process stays with it if the process dies.

    Raises:
        ConfigError: a value is none of those allowed.
    """

    store: Store | str | Path
    group: str = "default"
    when_away: WhenAway = "wait"
    share: float = 0.25
    ttl: float = 5.0

    def __post_init__(self) -> None:
        given: tuple[object, object] = (self.store, self.group)  # also where no type checker looks
        if not isinstance(given[0], Store | str | Path) or self.store == "":
            raise ConfigError(f"a store is a path, a URL such as redis://host:6379/0, or a Store, not {self.store!r}")
        if not isinstance(given[1], str) or not self.group:
            raise ConfigError(f"Sharing(group={self.group!r}) must be text that is not empty")
        if self.when_away not in ("wait", "share"):
            raise ConfigError(f"Sharing(when_away={self.when_away!r}) must be 'wait' or 'share'")
        if not 0 < self.share <= 1:
            raise ConfigError(f"Sharing(share={self.share!r}) must be above 0 and at most 1")
        if not _SHORTEST <= self.ttl < math.inf:
            raise ConfigError(f"Sharing(ttl={self.ttl!r}) must be a number of seconds, {_SHORTEST:g} or more")


_SHORTEST: Final = 0.5


def sharing_of(store: Sharing | Store | str | Path) -> Sharing:
    """What was given as ``store=``.

    Raises:
        ConfigError: it is no store.
    """
    return store if isinstance(store, Sharing) else Sharing(store)
