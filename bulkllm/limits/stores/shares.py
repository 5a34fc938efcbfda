"""Who may have how much, where there is less than all of them want. Pure.

Each owner has a *standing* (how much it had so far, or, for slots, how much it holds) and *room* (how much it wants).
What there is is poured over all of them like water: it raises the lowest first, and nobody above what it wants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Rival(NamedTuple):
    """Somebody else who wants of a meter.

    Attributes:
        standing: how much it had, or holds.
        since: since when it has been waiting; the elder of two with the same standing goes first.
        room: how much more it wants.
        need: less than this much is of no use to it.
    """

    standing: float
    since: float
    room: float
    need: float


def water_level(amount: float, vessels: Iterable[tuple[float, float]]) -> float:
    """The level to which ``amount`` fills vessels, each given by its ground and its room; infinity if all overflow."""
    if amount <= 0:
        return -math.inf
    edges = sorted(edge for ground, room in vessels for edge in ((ground, 1), (ground + room, -1)))
    level = 0.0
    width = 0
    for edge, step in edges:
        if width:
            takes = (edge - level) * width
            if takes >= amount:
                return level + amount / width
            amount -= takes
        level = edge
        width += step
    return math.inf


def poured(level: float, ground: float, room: float) -> float:
    """How much of the water is in one vessel."""
    return min(max(level - ground, 0.0), room)


def share(own: Rival, rivals: list[Rival], free: float, slack: float) -> tuple[float, float]:
    """How much of what is free one may have now.

    Whoever gets less than is of any use to it goes without, until it is the first in line: then it gets that much.

    Args:
        own: who asks.
        rivals: all others who want something.
        free: how much there is.
        slack: what rounding may get wrong.

    Returns:
        The amount (of use if it is at least what it needs), and how much is kept back for others.
    """
    if not rivals:
        return min(own.room, max(free, 0.0)), 0.0
    level = water_level(free, [(each.standing, each.room) for each in (own, *rivals)])
    part = poured(level, own.standing, own.room)
    if part >= own.need - slack:
        return part, max(free - part, 0.0) if part < own.room else 0.0
    reserved = sum(max(r.need, poured(level, r.standing, r.room)) for r in rivals if r[:2] < own[:2])
    return (own.need if free - reserved >= own.need - slack else 0.0), reserved
