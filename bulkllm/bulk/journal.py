"""The results file, which is also the journal of the run.

What may live here: the one writer of a results file. It appends one whole line for each finished row, in one write,
so that a finished row is with the operating system before the next one starts and survives the death of the process;
it has the file flushed to the disk at most once a second, so that a power cut costs the rows of the last second at
most. The latest line of a row counts; compaction removes the others by an atomic rename.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError
from .flush import Syncer, sync_directory
from .keytable import KeyTable, State
from .lines import BAD_ROW, START, Head, head_of, is_json, with_index
from .locking import FileLock
from .spent import paid_before

logger = logging.getLogger(__name__)

_COMPACT_SHARE = 10  # on opening, a file is compacted if at least a tenth of its lines are superseded
_CREATE = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class Journal:
    """A results file, locked and open for appending.

    Args:
        path: where the results go; an earlier run's file is gone on with.
        table: is filled with what the file knows.
        inputs: files that are being read, and so must not be written to.

    Attributes:
        lines: result lines in the file, superseded ones included.
        superseded: lines that a later one stands in for, and damaged ones.
        moved: a row's position in the input is another than its line says; compaction mends it.
        cost: US dollars that the rows in the file cost when it was opened, as far as that is known.

    Raises:
        ConfigError: the path cannot be written to, is an input, or holds something that is no results file.
        RunLocked: another run is writing to it.
    """

    def __init__(self, path: Path, table: KeyTable, *, inputs: Iterable[Path] = ()) -> None:
        self.path = path.resolve()
        self.table = table
        self.lines = 0
        self.superseded = 0
        self.moved = False
        self.cost = 0.0
        self._aside = self.path.with_name(self.path.name + ".torn")
        self._bad = 0
        self._spare = self.path.with_name(self.path.name + ".compact")
        self._reader: BinaryIO | None = None
        self._syncer: Syncer | None = None
        self._check(inputs)
        try:
            self._lock = FileLock(self.path)
        except OSError as error:
            raise ConfigError(f"cannot write to {path.parent}: {error.strerror}") from error
        self._fd = -1
        try:
            self._fd = os.open(self.path, _CREATE, 0o666)
            self._spare.unlink(missing_ok=True)  # of a run that was killed while compacting
            self._size = os.fstat(self._fd).st_size
            self._load()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise ConfigError(f"cannot use {path} for results: {error.strerror}") from error
            raise

    def start(self) -> None:
        """Begin to flush to the disk what is appended, in a thread of its own: a flush may take long."""
        self._syncer = Syncer(self._fd)
        self._syncer.start()

    def append(self, slot: int, line: bytes, head: Head) -> None:
        """Write a row's line and make it the one that counts.

        Raises:
            OSError: it could not be written whole (the disk is full, say); then the file is as it was before.
        """
        begin = self._size
        written = os.write(self._fd, line)
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise
        self._size = begin + len(line)
        self.lines += 1
        table = self.table
        if table.state[slot] != State.NEW:
            self.superseded += 1
        table.state[slot] = head.state
        table.place[slot] = begin
        table.index[slot] = head.position
        table.crc[slot] = head.columns_crc
        if self._syncer is not None:
            self._syncer.wake()

    def read(self, slot: int) -> bytes:
        """The line of a row that has one.

        Raises:
            OSError: it cannot be read, or something else has taken it out of the file.
        """
        line = self._line_of(slot)
        if line is None:
            self._learn_anew()
            line = self._line_of(slot)
        if line is None:
            raise OSError(errno.EIO, "a row's line is gone: something else has written to the file")
        return line

    def _line_of(self, slot: int) -> bytes | None:
        """What stands where a row's line should be, if it is that."""
        if self._reader is None:
            self._reader = self.path.open("rb")
        self._reader.seek(self.table.place[slot])
        line = self._reader.readline()
        head = head_of(line)
        return line if head is not None and head.key == self.table.key(slot) else None

    def compact(self, *, forget_bad: bool = False) -> None:
        """Rewrite the file with the one line of each row that counts; what is no result is set aside.

        The new file takes the old one's name when it is whole and on the disk; a crash leaves one or the other.

        Args:
            forget_bad: leave out rows that could not be read and are not in this run's input: they were mended.

        Raises:
            OSError: the disk has no room for both; the old file stays.
        """
        slots, places = array("I"), array("Q")
        size = 0
        others: list[bytes] = []
        try:
            if self._is_written_to():
                self._learn_anew()
            with self.path.open("rb") as old, self._spare.open("wb", buffering=1 << 20) as new:
                for begin, line, head in _lines_of(old):
                    if head is None:
                        if not line.isspace():
                            others.append(line)
                        continue
                    kept = self._kept(line, begin, head, forget_bad=forget_bad)
                    if kept is not None:
                        slots.append(kept[0])
                        places.append(size)
                        new.write(kept[1])
                        size += len(kept[1])
                new.flush()
                os.fsync(new.fileno())
            shutil.copymode(self.path, self._spare)
            if others:
                self._set_aside(others)
        except OSError:
            self._spare.unlink(missing_ok=True)
            raise
        self._close_files()  # Windows replaces no open file
        self._spare.replace(self.path)
        sync_directory(self.path.parent)
        self._fd = os.open(self.path, _CREATE, 0o666)
        for slot, place in zip(slots, places, strict=True):
            self.table.place[slot] = place
        self._size = size
        self.lines = len(slots)
        self.superseded = 0
        self.moved = False

    def finish(self, *, forget_bad: bool = False) -> None:
        """Compact if there is reason to, have everything on the disk, and let go of the file."""
        try:
            if self._fd < 0:
                return
            if self._syncer is not None:
                self._syncer.stop()
                self._syncer = None
            if self.superseded or self.moved or (forget_bad and self._bad) or self._is_written_to():
                try:
                    self.compact(forget_bad=forget_bad)
                except OSError as error:
                    logger.warning(
                        "%s was not compacted (%s); it is whole, with more than one line for some rows:"
                        " the last one counts, and the next run will compact it", self.path, error.strerror,
                    )  # fmt: skip
            if self._fd >= 0:
                os.fsync(self._fd)
        finally:
            self._release()

    def _check(self, inputs: Iterable[Path]) -> None:
        if not self.path.parent.is_dir():
            raise ConfigError(f"there is no directory {self.path.parent} for the results; make it first")
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise ConfigError(f"{self.path} is no regular file; results are appended to and read again, so give one")
        for source in inputs:
            if source.exists() and source.samefile(self.path):
                raise ConfigError(f"{source} is the input; give another file as output")

    def _load(self) -> None:
        """Read what the file knows, and put right what a crash left of it."""
        costs = array("d")
        begin, number, damaged, torn, unended = 0, 1, 0, b"", False
        with self.path.open("rb", buffering=1 << 20) as file:
            start = file.read(1)
            file.seek(0)
            if start not in (b"", b"{", b"\0", b"\n"):
                raise self._alien(1)
            for begin, line, head in _lines_of(file):
                ended, torn, unended = line.endswith(b"\n"), b"", False
                if head is not None:
                    slot = self._learn(head, begin)
                    if slot == len(costs):
                        costs.append(0.0)
                    costs[slot] = (head.cost or 0.0) + paid_before(line)
                    unended = not ended  # an editor took the line break away
                elif ended and line.isspace():
                    self.superseded += 1
                elif self._is_torn(line) or (not ended and begin + len(line) < self._size):
                    damaged, torn = damaged + 1, line
                else:
                    raise self._alien(number)
                number += ended
        self.cost = math.fsum(costs)
        if unended:
            self._end_line()
        if torn:  # at the very end: cut off, while others go with a compaction
            if not torn.isspace():
                self._set_aside([torn])
            os.ftruncate(self._fd, begin)
            self._size, damaged = begin, damaged - 1
        if damaged or self.superseded * _COMPACT_SHARE > self.lines:
            self.compact()

    def _is_written_to(self) -> bool:
        """Whether something else has written to the file meanwhile: then rows' lines are not where they were."""
        return os.fstat(self._fd).st_size != self._size

    def _learn_anew(self) -> None:
        """Find the rows' lines again: something else has written to the file. The last line of each row counts."""
        table = self.table
        known = len(table)
        table.state[:] = bytes(known)
        self.lines = self.superseded = self._bad = self._size = 0
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        line = b""
        with self.path.open("rb", buffering=1 << 20) as file:
            for begin, line, head in _lines_of(file):
                if head is None:
                    self.superseded += 1
                else:
                    self._learn(head, begin, known=known)
                self._size = begin + len(line)
        if line and not line.endswith(b"\n"):
            self._end_line()

    def _learn(self, head: Head, place: int, *, known: int = 0) -> int:
        """Take a line in; the slot of its row. What the first ``known`` rows are asked, and where they stand, stays."""
        table = self.table
        slot = table.find(head.key)
        self.lines += 1
        if slot < 0:
            slot = table.add(head.key)
        elif table.state[slot] != State.NEW:
            self.superseded += 1
        if slot >= known:
            table.set_fingerprint(slot, head.fingerprint)
            table.index[slot] = head.position
        table.state[slot] = head.state
        table.place[slot] = place
        table.crc[slot] = head.columns_crc
        if head.outcome == BAD_ROW:
            self._bad += 1
        return slot

    def _end_line(self) -> None:
        os.write(self._fd, b"\n")
        self._size += 1

    def _is_torn(self, line: bytes) -> bool:
        """Whether a line that is no result may be what a crash left of one."""
        bare = line.strip(b"\0\n")
        return not is_json(line) and (self.lines > 0 or bare.startswith(START) or START.startswith(bare))

    def _alien(self, number: int) -> ConfigError:
        return ConfigError(
            f"{self.path} is no results file of bulkllm (line {number} is no result), and is not written to;"
            " give another output"
        )

    def _set_aside(self, lines: list[bytes]) -> None:
        """Keep what is no result in a file beside this one."""
        with self._aside.open("ab") as aside:
            aside.writelines(line.rstrip(b"\n") + b"\n" for line in lines)
            aside.flush()
            os.fsync(aside.fileno())
        logger.warning(
            "%d line(s) of %s that are no whole results, left by a crash or by another program that wrote there, were"
            " set aside in %s; rows that have no other line are done again", len(lines), self.path, self._aside,
        )  # fmt: skip

    def _kept(self, line: bytes, begin: int, head: Head, *, forget_bad: bool) -> tuple[int, bytes] | None:
        table = self.table
        slot = table.find(head.key)
        if slot < 0 or table.place[slot] != begin or table.state[slot] == State.NEW:
            return None
        if forget_bad and head.outcome == BAD_ROW and not table.count[slot]:
            return None
        index = table.index[slot]
        return slot, line if index == head.position else with_index(line, index)

    def _close_files(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _release(self) -> None:
        if self._syncer is not None:
            with contextlib.suppress(OSError):
                self._syncer.stop()
            self._syncer = None
        self._close_files()
        self._lock.release()


def _lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes, Head | None]]:
    """The lines of a results file: where each begins, and what it says, or None if it is no result.

    What something else has written before a result on its line stands apart.
    """
    begin = 0
    for line in file:
        head = head_of(line if line.endswith(b"\n") else line + b"\n")
        at = 0
        if head is None or not line.startswith(START) or line.find(START, 1) > 0:
            at, head = _result_in(line, head)
            if at:
                yield begin, line[:at], None
        yield begin + at, line[at:], head
        begin += len(line)


def _result_in(line: bytes, head: Head | None) -> tuple[int, Head | None]:
    """Where in a line a whole result begins, and what it says; so far only the line's end has been looked at."""
    at = 0
    while head is None or not is_json(line[at:]):
        at = line.find(START, at + 1)
        if at < 0:
            return 0, None
        head = head_of(line[at:])
    return at, head
