"""The operating system's advisory lock, which dies with its owner.

What may live here: taking and giving back a lock on a file of its own. No pid is ever written: a pid file outlives
the process that it names.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path

from ..errors import RunLocked

logger = logging.getLogger(__name__)

_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class FileLock:
    """A lock on a results file, held on a sibling file so that the results file itself may be replaced.

    Args:
        path: the file to be locked; the lock is held on ``<name>.lock`` beside it.

    Raises:
        RunLocked: somebody else holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._fd = -1
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                _lock(fd)
            except OSError as error:
                os.close(fd)
                if error.errno in _BUSY:
                    raise RunLocked(
                        f"another run is writing to {path}; wait for it to end, or give another output"
                    ) from None
                if error.errno not in _UNSUPPORTED:
                    raise
                logger.warning("the file system of %s knows no locks: take care that no other run writes to it", path)
                return
            if self._is_current(fd):
                self._fd = fd
                return
            os.close(fd)  # its owner removed it between our opening and our locking it

    def release(self) -> None:
        """Give the lock back, and remove its file."""
        if self._fd < 0:
            return
        try:
            self._path.unlink(missing_ok=True)  # while it is held: nobody can hold this file afterwards
        except OSError as error:  # Windows removes no open file; it may stay
            logger.debug("the lock file %s stays: %s", self._path, error)
        os.close(self._fd)
        self._fd = -1

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
