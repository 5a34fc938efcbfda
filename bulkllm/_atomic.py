"""How small files are written: whole or not at all, whoever else reads or writes them."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from .errors import ConfigError


def write_whole(path: Path, text: str) -> None:
    """Put ``text`` in the place of whatever the file held; only its owner may read it.

    Raises:
        ConfigError: the directory or the file cannot be written.
    """
    made: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
        ) as file:
            made = Path(file.name)
            file.write(text)
        made.replace(path)
    except OSError as error:
        if made is not None:
            with suppress(OSError):
                made.unlink()
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another place for it") from error
