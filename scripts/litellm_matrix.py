"""The tests of the cache, on several versions of LiteLLM, each in an environment of its own.

    python scripts/litellm_matrix.py                     # all versions
    python scripts/litellm_matrix.py oldest newest       # some of them
    python scripts/litellm_matrix.py 1.101.6 -- -k stream

Environments are kept (in ``.litellm-matrix``, or where ``--where`` says) and used again. A version is installed bare,
without extras: what breaks without ``fastapi`` must be seen to break. Versions whose dependencies an index cannot
satisfy are installed without them, over those of the locked version.

Nothing of this runs by default; CI runs the oldest, the locked and the newest.
"""

# ruff: noqa: T201, S603, INP001 - a script for the shell: it prints, and starts what it has put together itself

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OLDEST, LOCKED, NEWEST = "1.85.0", "1.105.3", "1.110.2"
VERSIONS = (OLDEST, "1.97.0", "1.101.6", LOCKED, "1.109.1", NEWEST)
ALIASES = {"oldest": OLDEST, "locked": LOCKED, "newest": NEWEST}
WITHOUT_DEPENDENCIES = frozenset({"1.109.1"})

TOOLS = ("platformdirs>=4.2", "pytest>=8.3", "pytest-asyncio>=0.25", "pytest-timeout>=2.3", "hypothesis>=6.100")

TESTS = (
    "tests/caching",
    "tests/calls/test_cached.py",
    "tests/calls/test_cached_streams.py",
    "tests/calls/test_cached_vectors.py",
    "tests/calls/test_following.py",
    "tests/calls/test_litellm_cache.py",
    "tests/calls/test_sent_once.py",
    "tests/calls/test_unlogged.py",
)


class Failed(Exception):
    """An environment could not be made."""


def main() -> int:
    """Make the environments, run the tests, print a table; the number of versions that failed."""
    given, for_pytest = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", help="versions, or oldest, locked, newest; all if none is given")
    parser.add_argument("--where", type=Path, default=ROOT / ".litellm-matrix", help="the directory of environments")
    parser.add_argument("--fresh", action="store_true", help="make the environments anew")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what pytest runs")
    options = parser.parse_args(given)
    results: dict[str, str] = {}
    for name in options.versions or VERSIONS:
        version = ALIASES.get(name, name)
        print(f"== LiteLLM {version}", flush=True)
        began = time.monotonic()
        try:
            python = environment(options.where / version, version, fresh=options.fresh)
            passed = run_tests(python, [*options.tests, *for_pytest])
            results[version] = f"{'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s"
        except Failed as error:
            results[version] = f"FAILED: {error}"
    print("\n".join(f"{version:10} {result}" for version, result in results.items()))
    return sum("FAILED" in result for result in results.values())


def environment(place: Path, version: str, *, fresh: bool) -> Path:
    """The Python of an environment with this LiteLLM and no extras; made if it is not there.

    Raises:
        Failed: it cannot be made, or it has what a bare installation has not.
    """
    python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = place / "complete"
    if fresh and place.exists():
        shutil.rmtree(place)
    if not done.exists():
        venv.create(place, with_pip=True, clear=True)
        bare = version not in WITHOUT_DEPENDENCIES
        _pip(python, f"litellm=={version if bare else LOCKED}", *TOOLS)
        if not bare:
            _pip(python, "--no-deps", f"litellm=={version}")
        done.touch()
    code = "import importlib.util as u, importlib.metadata as m; print(m.version('litellm'), u.find_spec('fastapi'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    if found != f"{version} None":
        raise Failed(f"the environment {place} is not as it should be ({found!r}); try --fresh")
    return python


def run_tests(python: Path, arguments: list[str]) -> bool:
    """Whether the tests pass there."""
    # The root's conftest runs the README, and that needs all of the development tools.
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--confcutdir",
        str(ROOT / "tests"),
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise Failed(f"pip cannot install {' '.join(arguments)}")


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main())
