"""What asks the rows of a run: a client, or a function of the user's, with what stands around it.

What may live here: making it out of the run's keywords, and telling keywords that nobody knows.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from ..accounting import Budget, UsageRecord
from ..calls import record_of
from ..client import Client, default_client
from ..errors import ConfigError
from .asking import Call
from .deployments import Deployments, places
from .fallbacks import Fallbacks, alternatives
from .options import ROW_OPTIONS
from .request import BulkRequest
from .settings import Settings
from .standing import StatusOf
from .structured import Structured

_OWN: Final = (*Settings.__dataclass_fields__, "budget", "client", "on_result", "handle_signals")
_CLIENTS: Final = ("limits", "retry", "cache")
_CLOSE: Final = 0.8  # how like an argument of ours an unknown one must be to be taken for a slip of the pen


class ClientCall:
    """What asks a row through a client.

    Attributes:
        status_of: how the limits of a model stand, in that client.
    """

    def __init__(self, client: Client) -> None:
        self.status_of = client.limiter.status
        self._ways: dict[str, Callable[..., Awaitable[Any]]] = {
            "completion": client.acompletion,
            "embedding": client.aembedding,
            "responses": client.aresponses,
        }

    async def __call__(self, request: BulkRequest) -> tuple[Any, UsageRecord | None]:
        """Ask a row."""
        response = await self._ways[request.operation](**request.body)
        return response, record_of(response)


def caller(call: Call | None, client: Client | None, options: dict[str, Any], budget: Budget | None) -> Call:
    """What asks a row; what belongs to a client is taken out of the options."""
    if call is not None and budget is not None:
        raise ConfigError("call, budget exclude each other: what calls of one's own cost is not known before")
    names = [name for name in _CLIENTS if options.get(name) is not None]
    if "cache" in names and isinstance(options["cache"], dict):
        names.remove("cache")
    made_of = {name: options.pop(name) for name in names}
    for name in options.keys() - ROW_OPTIONS:
        close = difflib.get_close_matches(name, _OWN, n=1, cutoff=_CLOSE)
        if close:
            raise ConfigError(f"there is no option {name!r}; {close[0]!r} was meant, it seems")
    given = [*(["call"] if call else []), *(["client"] if client else []), *made_of]
    if call is not None or client is not None:
        if len(given) > 1:
            raise ConfigError(f"{', '.join(given)} exclude each other: a client has its own limits, retries and cache")
        return ClientCall(client) if client is not None else cast("Call", call)
    return ClientCall(Client(**made_of) if made_of else default_client())


def asked(call: Call, settings: Settings, options: Mapping[str, Any], client: Client | None) -> Call:
    """A call with what stands around it: several places, the form of answers, other models for rows that fail."""
    if settings.deployments is not None:
        if not isinstance(settings.model, str):
            raise ConfigError("deployments= are places of one model: give model=, the name that all of them answer to")
        among = places(settings.deployments, settings.model, client or default_client(), ClientCall)
        call = Deployments(settings.model, among, call)
    form = options.get("response_format")
    call = Structured(call, validate=settings.validate, reasks=settings.reasks, given=form)
    others = alternatives(settings.fallbacks)
    return Fallbacks(call, others) if others else call


def status_of(call: Call) -> StatusOf | None:
    """How the limits of a model stand, where that can be told."""
    return call.status_of if isinstance(call, ClientCall) else None
