"""What every test and every example of the documentation may rely on: an environment that decides nothing.

It stands beside README.md because pytest looks for it there; the examples in README.md and docs/ are tests too.
"""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# LiteLLM reads these when it is imported: its price map shall not come from the network, nor keys from a .env file.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_MODE"] = "PRODUCTION"

# LiteLLM drops sessions of aiohttp, which says so through this logger whenever the garbage is collected, perhaps in the
# middle of a test that reads the log, or after the last line. bulkllm has no sessions of aiohttp.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Unclosed c"))

# The gate answers the same whenever it is asked; whoever works on the code gets other examples each time. Neither has a
# deadline for an example: a machine that is busy proves nothing.
settings.register_profile("work", deadline=None)
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate" if os.environ.get("CI") else "work")

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_number = itertools.count()


@pytest.fixture(autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, key or proxy of whoever runs the tests, and directories of the test's own, not made yet."""
    for name in list(os.environ):
        if name.startswith("BULKLLM_") or name.endswith("_API_KEY") or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    own = tmp_path_factory.getbasetemp() / "bulkllm" / str(next(_number))
    for place in ("cache", "config", "state"):
        monkeypatch.setenv(f"BULKLLM_{place.upper()}_DIR", str(own / place))


@pytest.fixture
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples write where they stand; that shall not be the checkout."""
    monkeypatch.chdir(tmp_path)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    fixtures=["own_environment", "own_directory"],
).pytest()
