"""What one request takes of a meter that a provider tells of, and what was believed at the moment it was sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bucket import Grain
    from .tracked import Tracked


class Slot:
    """What was sent at about one moment, and the slot after it."""

    __slots__ = ("amount", "began", "later", "next")

    def __init__(self, began: float) -> None:
        self.began = began
        self.amount = 0.0
        self.later = 0.0  # what was sent soon after it, once it is past
        self.next: Slot | None = None

    def past(self, later: float) -> None:
        """So much was sent soon after it; a request that is never answered must not hold all slots that follow."""
        self.later, self.next = later, None


class Claim:
    """What one request takes of a tracked meter, and what was believed to be left when it was sent."""

    __slots__ = (
        "amount",
        "base",
        "before",
        "grain",
        "level",
        "most_room",
        "open",
        "room",
        "room_base",
        "sent_at",
        "slot",
        "tracked",
    )

    def __init__(self, tracked: Tracked, amount: float) -> None:
        self.tracked = tracked
        self.amount = amount
        self.grain: Grain | None = None
        self.sent_at = -math.inf
        self.level = math.inf
        self.open = 0.0
        self.base = 0.0
        self.room = math.inf  # if it may be a bucket or a window, what was left in the window
        self.most_room = math.inf  # if what leaves our window soon had left the provider's already
        self.room_base = 0.0
        self.before = 0.0
        self.slot: Slot | None = None

    def after(self) -> float:
        """What was sent so soon after it that it may have arrived before."""
        amount, slot = 0.0, self.slot
        until = self.sent_at + self.tracked.shuffled
        while slot is not None and slot.began <= until:
            amount += slot.amount + slot.later
            slot = slot.next
        return amount
