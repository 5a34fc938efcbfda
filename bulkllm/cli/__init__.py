"""The command line: it parses, calls the API and prints, and nothing else may live here.

Help must stay quick: LiteLLM, rich and the rest are imported by the command that needs them.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The ``bulkllm`` command."""
    from .app import app
    from .exits import guarded, prepared, warnings_shown

    prepared()
    with warnings_shown():
        sys.exit(guarded(app))
