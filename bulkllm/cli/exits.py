"""How the command ends: its exit codes, and what is said on standard error."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ..errors import BulkLLMError

if TYPE_CHECKING:
    from ..bulk import RunResult

ALL_DONE: Final = 0
SOME_FAILED: Final = 1
BAD_USAGE: Final = 2
STOPPED: Final = 3
INTERRUPTED: Final = 130

_ESCAPED: Final = "bulkllm-escaped"


def exit_code(result: RunResult) -> int:
    """The exit code that tells how a run ended."""
    if result.interrupted:
        return INTERRUPTED
    if result.stopped is not None or result.undone:
        return STOPPED
    return SOME_FAILED if result.failed else ALL_DONE


def guarded(command: Callable[[], Any]) -> int:
    """Run the command; its exit code. Our own errors, and the system's, are one line for a person, not a traceback."""
    code = ALL_DONE
    try:
        try:
            command()
        except SystemExit as ended:  # so typer ends a command
            code = ended.code if isinstance(ended.code, int) else ALL_DONE if ended.code is None else SOME_FAILED
        sys.stdout.flush()
    except BulkLLMError as error:
        return complain(str(error))
    except FileNotFoundError as error:
        return complain(f"{error.filename}: there is no such file")
    except OSError as error:
        if error.filename is None:
            _silence_output()
        if error.errno == errno.EPIPE:
            return SOME_FAILED
        return complain(f"{error.filename or 'output'}: {error.strerror or error}")
    return code


def complain(problem: str) -> int:
    """Say on standard error what is wrong."""
    with contextlib.suppress(OSError):
        print(f"error: {problem}", file=sys.stderr)
    return BAD_USAGE


def printed(show: Callable[[], None], otherwise: str) -> None:
    """Print a summary of work that is done, whose exit code does not depend on whether it can be printed.

    Args:
        show: prints it.
        otherwise: where to look, if it cannot be.
    """
    try:
        show()
        sys.stdout.flush()
    except OSError as error:
        _silence_output()
        if error.errno != errno.EPIPE:
            complain(f"the summary cannot be printed ({error.strerror or error}); {otherwise}")


def prepared() -> None:
    """Have standard output and error take whatever is written: a closed one, and characters that it does not know."""
    codecs.register_error(_ESCAPED, _escaped)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _Nowhere())
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ESCAPED)


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Show the library's warnings on standard error meanwhile, each once."""
    library, handler = logging.getLogger("bulkllm"), _Warnings(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)


class _Warnings(logging.Handler):
    """Writes to what standard error is at that moment: a progress bar puts a stand-in there, and draws below it."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a warning, unless it was written already."""
        text = self.format(record)
        if text not in self._said:
            self._said.add(text)
            with contextlib.suppress(OSError):
                print(text, file=sys.stderr)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, as JSON writes them: an object that is printed stays JSON."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - streams only write
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _silence_output() -> None:
    """Give up standard output, which takes nothing more: Python's own flush at the end shall not fail of it."""
    sys.stdout = _Nowhere()


class _Nowhere(io.TextIOBase):
    """An output that takes everything and keeps nothing."""

    def write(self, text: str) -> int:
        """Take a text."""
        return len(text)
