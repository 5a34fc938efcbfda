"""Questions about the server itself, over HTTP, for a server in another process.

What may live here: paths that begin with two underscores. They ask for no key and are not counted.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import ConfigError
from .answer import Answer
from .dialects.base import to_json
from .engine import Engine
from .wire import Request

REPORT = "/__report__"
LIMITS = "/__limits__"
RESET = "/__reset__"
REVOKE = "/__revoke__"


def control(engine: Engine, request: Request) -> Answer | None:
    """Answer a question about the server, or None if it is none."""
    if not request.path.startswith("/__"):
        return None
    if request.path == REPORT and request.method == "GET":
        return _answer(200, engine.report().to_dict())
    if request.method != "POST" or request.path not in (LIMITS, RESET, REVOKE):
        return _answer(404, {"error": f"there are GET {REPORT} and POST {LIMITS}, {RESET}, {REVOKE}"})
    try:
        told = json.loads(request.body or b"{}")
        if not isinstance(told, dict):
            raise ConfigError("the body must be a JSON object")
        if request.path == LIMITS:
            engine.set_limits(told.pop("model", None), told)
        elif request.path == REVOKE:
            engine.revoke(str(told["key"]))
        else:
            engine.reset()
    except KeyError:
        return _answer(400, {"error": 'the body must be {"key": "..."}'})
    except ValueError as error:
        return _answer(400, {"error": str(error)})
    return _answer(200, {"ok": True})


def _answer(status: int, told: dict[str, Any]) -> Answer:
    return Answer(status, [("content-type", "application/json")], to_json(told).encode(), counted=False)
