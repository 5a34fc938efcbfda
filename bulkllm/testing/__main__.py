"""``python -m bulkllm.testing``: the child of a :class:`~bulkllm.testing.SpawnedProvider`, of no use by itself."""

from __future__ import annotations

import sys

from .spawn import serve_child

if __name__ == "__main__":
    sys.exit(serve_child(sys.stdin, sys.stdout))
