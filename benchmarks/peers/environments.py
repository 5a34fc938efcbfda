"""Environments of their own for the packages that the benchmarks run beside, made once and kept.

What may live here: reading the table of peers, making an environment with pip, and running a script of ours in it,
which answers with one line of JSON. A peer that cannot be had on this machine is told in one line and left out.
The scripts are other people's packages at work: they get no environment variable of the user's but the path, a home
directory that is thrown away, and nothing to talk to but a server on the loopback interface.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

HERE = Path(__file__).parent
INSTALLING = 1200.0  # seconds that pip may take
RUNNING = 900.0  # seconds that a script may take


class UnavailableError(Exception):
    """A peer cannot be had here, or its script failed: why, in one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A row of the table; ``peers.toml`` says what its fields mean."""

    name: str
    says: str
    install: Sequence[str]
    script: str
    python: str | None = None
    job: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What it is called in a table."""
        return self.says.format(version=self.packages[0].partition("==")[2])

    @property
    def packages(self) -> list[str]:
        """What pip is given."""
        return [one.format(litellm=version("litellm")) for one in self.install]


def table() -> dict[str, Peer]:
    """Every peer by its name."""
    rows = tomllib.loads((HERE / "peers.toml").read_text(encoding="utf-8"))["peer"]
    return {name: Peer(name=name, **row) for name, row in rows.items()}


class Peers:
    """The peers that somebody asked for, as far as they can be had.

    Attributes:
        present: those that have not been left out, by name.
    """

    def __init__(self, names: Iterable[str], folder: Path | None = None) -> None:
        folder = (folder or platformdirs.user_cache_path("bulkllm") / "benchmark-peers").absolute()
        every = table()
        self._pythons: dict[str, str] = {}
        self.present: dict[str, Peer] = {}
        for name in names:
            try:
                self._pythons[name] = _made(every[name], folder)
            except UnavailableError as error:
                self.leave_out(name, str(error))
            else:
                self.present[name] = every[name]

    def run(self, name: str, /, **job: Any) -> dict[str, Any] | None:
        """What a peer's script tells; None if the peer has been left out, which it is from the first time it fails."""
        if name not in self.present:
            return None
        peer = self.present[name]
        with tempfile.TemporaryDirectory(prefix="bulkllm-peer-") as home:
            script = str(HERE / "scripts" / peer.script)
            # -E and -s: neither PYTHONPATH nor the user's own packages may put this bulkllm beside its namesake.
            command = [self._pythons[name], "-E", "-s", script, json.dumps(peer.job | job)]
            environment = {
                "PATH": os.environ.get("PATH", os.defpath), "HOME": home, "TMPDIR": home,
                "OPENAI_API_KEY": "sk-fake", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "TELEMETRY_ENABLED": "False",
            }  # fmt: skip
            try:
                told: dict[str, Any] = json.loads(_run(command, RUNNING, cwd=home, env=environment))
            except UnavailableError as error:
                self.leave_out(name, str(error))
                return None
        return told

    def leave_out(self, name: str, why: str) -> None:
        """Go on without a peer."""
        print(f"left out: {name}: {why}", flush=True)
        self.present.pop(name, None)


def add_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """``--peers`` and ``--environments``; ``names`` are those that a benchmark has use for."""
    parser.add_argument(
        "--peers", nargs="*", choices=names, default=(), metavar="NAME",
        help=f"beside these packages, installed in environments of their own; alone it means all: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--environments", type=Path, metavar="DIR", help="where those are kept (the user's cache)")
    parser.set_defaults(known_peers=names)


def chosen(options: argparse.Namespace) -> Peers:
    """What the two options ask for: none without ``--peers``."""
    names = options.known_peers if options.peers == [] else options.peers
    return Peers(names, options.environments)


def _made(peer: Peer, folder: Path) -> str:
    """The environment's Python; the environment is made if it is not there yet, or was not finished."""
    base = sys.executable if peer.python is None else _python(peer.python)
    install = peer.packages
    # What decides what is in it is part of its name: another version is another environment.
    digest = hashlib.sha256("\n".join([base, sys.version, *install]).encode()).hexdigest()[:12]
    place = folder / f"{install[0].partition('==')[0]}-{digest}"
    python, whole = str(place / "bin" / "python"), place / "whole"
    if not whole.exists():
        print(f"installing {', '.join(install)} in an environment of its own ...", flush=True)
        place.mkdir(parents=True, exist_ok=True)
        _run([base, "-m", "venv", "--clear", str(place)], INSTALLING)
        _run([python, "-m", "pip", "install", "--quiet", "--no-input", *install], INSTALLING)
        whole.touch()
    return python


def _python(wanted: str) -> str:
    """A CPython of a minor version: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    on_path = shutil.which(f"python{wanted}")
    candidates = [] if on_path is None else [on_path]
    for candidate in [*candidates, *map(str, sorted(pyenv.glob(f"{wanted}.*/bin/python")))]:
        try:  # what stands on the path may be a shim of a Python that is switched off
            says = _run([candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], RUNNING)
        except UnavailableError:
            continue
        if says.strip() == wanted:
            return candidate
    raise UnavailableError(f"needs CPython {wanted}, which is neither on the path nor one of pyenv's")


def _run(command: Sequence[str], seconds: float, cwd: str | None = None, env: dict[str, str] | None = None) -> str:
    """What a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, cwd=cwd, env=env)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"not done after {seconds:.0f} s") from None
    except OSError as error:
        raise UnavailableError(str(error)) from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")]
        raise UnavailableError((errors or said or [f"exit status {done.returncode}"])[-1][:200])
    return done.stdout
