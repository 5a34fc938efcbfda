"""How the command ends: its exit codes, and what is said on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..errors import BulkLLMError

if TYPE_CHECKING:
    from ..bulk import RunResult

ALL_DONE: Final = 0
SOME_FAILED: Final = 1
BAD_USAGE: Final = 2
STOPPED: Final = 3
INTERRUPTED: Final = 130


def exit_code(result: RunResult) -> int:
    """The exit code that tells how a run ended."""
    if result.interrupted:
        return INTERRUPTED
    if result.stopped is not None or result.undone:
        return STOPPED
    return SOME_FAILED if result.failed else ALL_DONE


def guarded(command: Callable[[], Any]) -> int:
    """Run the command; its exit code. Our own errors are one line for a person, not a traceback."""
    try:
        command()
    except BulkLLMError as error:
        return complain(str(error))
    except FileNotFoundError as error:
        return complain(f"{error.filename}: there is no such file")
    return ALL_DONE


def complain(problem: str) -> int:
    """Say on standard error what is wrong."""
    print(f"error: {problem}", file=sys.stderr)
    return BAD_USAGE
