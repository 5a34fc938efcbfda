"""What a run remembers of each row: some fifty bytes, whatever the row's size.

What may live here: the table, and nothing about files. A million rows as Python objects would be hundreds of
megabytes; as columns of machine numbers they are about 60.
"""

from __future__ import annotations

from array import array
from enum import IntEnum

KEY_BYTES = 16

_FIRST_SIZE = 1 << 10
_FULL = 0.6  # an open-addressing table slows down steeply beyond two thirds


class State(IntEnum):
    """How the results file stands towards a row."""

    NEW = 0  # no line in the results file
    OK = 1
    FAILED = 2  # for a reason that may pass: a rerun asks again
    REFUSED = 3  # for a reason that stays: a rerun asks again only on ``retry_failed``


DONE = (State.OK, State.REFUSED)


class KeyTable:
    """A hash table from a row's 16-byte key to a slot number, and columns indexed by slot.

    Keys are digests when we made them, but those in a results file are whatever stands there: Python's own hash of all
    sixteen bytes, which nobody can foresee, keeps any of them apart.

    Attributes:
        state: one :class:`State` per slot.
        place: where the row's line begins: in the results file if it has one there, else in the input.
        index: the row's position in the input, as last known.
        crc: checksum of the columns that the row carries.
        count: how often the row's key was met in this run's input; for a row without ``custom_id`` the slot of its
            first occurrence counts all equal bodies.
    """

    __slots__ = ("_buckets", "_keys", "_mask", "_prints", "count", "crc", "index", "place", "state")

    def __init__(self) -> None:
        self._buckets = array("I", bytes(4 * _FIRST_SIZE))  # slot + 1, 0 = empty
        self._mask = _FIRST_SIZE - 1
        self._keys = bytearray()
        self._prints = bytearray()
        self.state = bytearray()
        self.place = array("Q")
        self.index = array("I")
        self.crc = array("I")
        self.count = array("I")

    def __len__(self) -> int:
        return len(self.state)

    def find(self, key: bytes) -> int:
        """The key's slot, or -1."""
        buckets, mask, keys = self._buckets, self._mask, self._keys
        bucket = hash(key) & mask
        while slot := buckets[bucket]:
            start = (slot - 1) * KEY_BYTES
            if keys[start : start + KEY_BYTES] == key:
                return slot - 1
            bucket = (bucket + 1) & mask
        return -1

    def add(self, key: bytes) -> int:
        """A new slot for a key that is not in the table; all its columns are zero."""
        slot = len(self.state)
        if slot >= (self._mask + 1) * _FULL:
            self._grow()
        self._keys += key
        self._prints += bytes(KEY_BYTES)
        self.state.append(State.NEW)
        self.place.append(0)
        self.index.append(0)
        self.crc.append(0)
        self.count.append(0)
        self._enter(key, slot)
        return slot

    def key(self, slot: int) -> bytes:
        """The key in a slot."""
        return bytes(self._keys[slot * KEY_BYTES : (slot + 1) * KEY_BYTES])

    def fingerprint(self, slot: int) -> bytes:
        """The fingerprint last set for a slot."""
        return bytes(self._prints[slot * KEY_BYTES : (slot + 1) * KEY_BYTES])

    def set_fingerprint(self, slot: int, value: bytes) -> None:
        """Remember a row's fingerprint (16 bytes)."""
        self._prints[slot * KEY_BYTES : (slot + 1) * KEY_BYTES] = value

    def _enter(self, key: bytes, slot: int) -> None:
        buckets, mask = self._buckets, self._mask
        bucket = hash(key) & mask
        while buckets[bucket]:
            bucket = (bucket + 1) & mask
        buckets[bucket] = slot + 1

    def _grow(self) -> None:
        size = (self._mask + 1) * 4  # each growth enters every key again: grow seldom
        self._buckets = array("I", bytes(4 * size))
        self._mask = size - 1
        keys = self._keys
        for slot in range(len(self.state)):
            start = slot * KEY_BYTES
            self._enter(bytes(keys[start : start + KEY_BYTES]), slot)
