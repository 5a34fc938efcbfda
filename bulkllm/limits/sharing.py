"""How a limiter shares its limits with other processes: a value that a user writes down. No state, no clock.

What may live here: the value, its checks, and what the settings say of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast

from ..config import Settings
from ..errors import ConfigError
from .stores import Store

WhenAway = Literal["wait", "share"]

_DEFAULT_GROUP: Final = "default"
_DEFAULT_SHARE: Final = 0.25
_SHORTEST: Final = 0.5  # seconds of a lease: it is renewed three times as often


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

    store: Store | str | Path = field(repr=False)  # its URL may have a password in it
    group: str = _DEFAULT_GROUP
    when_away: WhenAway = "wait"
    share: float = _DEFAULT_SHARE
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


SharedThrough = Sharing | Store | str | Path
"""What may be given as a store."""


def sharing_of(store: SharedThrough) -> Sharing:
    """What was given as ``store=``.

    Raises:
        ConfigError: it is no store.
    """
    return store if isinstance(store, Sharing) else Sharing(store)


def configured_sharing() -> Sharing | None:
    """What the environment or ``config.toml`` say of sharing, if they name a store.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = Settings()
    store = settings.get("limits.store", str, None)
    if store is None:
        return None
    return Sharing(
        store,
        group=settings.get("limits.group", str, _DEFAULT_GROUP),
        when_away=cast("WhenAway", settings.get("limits.when_away", str, "wait")),
        share=settings.get("limits.share", float, _DEFAULT_SHARE),
    )
