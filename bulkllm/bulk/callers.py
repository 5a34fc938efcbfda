"""What asks the rows of a run: a client, or a function of the user's, with what stands around it.

What may live here: making it out of the run's keywords, and telling keywords that nobody knows.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn

from ..accounting import Budget, UsageRecord
from ..calls import record_of
from ..client import Client, default_client
from ..errors import CacheError, ConfigError
from .asking import Call
from .deployments import Deployments, places
from .fallbacks import Fallbacks, alternatives
from .options import ROW_OPTIONS
from .places import Deployment, deployments_of
from .request import BulkRequest
from .settings import Settings
from .standing import StatusOf
from .structured import Structured
from .variants import from_preset

_CLIENTS: Final = ("limits", "store", "retry", "cache", "wait_for_quota")
_OWN: Final = (*Settings.__dataclass_fields__, *_CLIENTS, "budget", "client", "on_result", "handle_signals")
_CLOSE: Final = 0.8  # how like an argument of ours an unknown one must be to be taken for a slip of the pen


class ClientCall:
    """What asks a row through a client.

    Attributes:
        client: makes the calls.
        status_of: how the limits of a model stand, in that client.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
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

    async def forget_answer(self, request: BulkRequest) -> None:
        """Have the client's cache forget the answer to a row."""
        foreseen = self.client.foresee(request.operation, **request.body)
        if foreseen.cache is not None:
            with contextlib.suppress(CacheError):  # it was closed meanwhile
                await foreseen.cache.aforget(foreseen.keys)


def caller(call: Call | None, client: Client | None, options: dict[str, Any], budget: Budget | None) -> Call:
    """What asks a row; what belongs to a client is taken out of the options."""
    if call is None:
        return ClientCall(client_of(client, options))
    if budget is not None:
        raise ConfigError("call, budget exclude each other: what calls of one's own cost is not known before")
    made_of = _clients_own(options)
    if client is not None or made_of:
        _refuse_both("call", *(["client"] if client is not None else []), *made_of)
    return call


def client_of(client: Client | None, options: dict[str, Any]) -> Client:
    """The client of a run: the one given, one that the options describe (they are taken out), or the default one."""
    made_of = _clients_own(options)
    if client is not None and made_of:
        _refuse_both("client", *made_of)
    return client or (Client(**made_of) if made_of else default_client())


def _clients_own(options: dict[str, Any]) -> dict[str, Any]:
    """What describes a client, taken out of the options of a run; what looks like a slip of the pen is refused."""
    names = [name for name in _CLIENTS if options.get(name) is not None]
    if "cache" in names and isinstance(options["cache"], dict):
        names.remove("cache")
    made_of = {name: options.pop(name) for name in names}
    for name in options.keys() - ROW_OPTIONS:
        close = difflib.get_close_matches(name, _OWN, n=1, cutoff=_CLOSE)
        if close:
            raise ConfigError(f"there is no option {name!r}; {close[0]!r} was meant, it seems")
    return made_of


def _refuse_both(*given: str) -> NoReturn:
    raise ConfigError(f"{', '.join(given)} exclude each other: a client has its own limits, retries and cache")


def asked(call: Call, settings: Settings, options: Mapping[str, Any]) -> Call:
    """A call with what stands around it: several places, the form of answers, other models for rows that fail."""
    if settings.deployments is not None:
        client = call.client if isinstance(call, ClientCall) else default_client()
        model = deployed_model(settings, options)
        call = Deployments(model, places(places_of(settings, model), client, ClientCall), call)
    form = options.get("response_format")
    call = Structured(call, validate=settings.validate, reasks=settings.reasks, given=form)
    others = alternatives(settings.fallbacks)
    return Fallbacks(call, others) if others else call


def deployed_model(settings: Settings, options: Mapping[str, Any]) -> str:
    """The model that deployments are places of, by the name that rows are asked by: a preset's model, not its slug.

    Raises:
        ConfigError: the run has no model, or several.
    """
    model, _, _ = from_preset(settings.model, options)
    if not isinstance(model, str):
        raise ConfigError("deployments= are places of one model: give model=, the name that all of them answer to")
    return model


def places_of(settings: Settings, model: str | None) -> list[Deployment]:
    """The deployments of a run, with its model where one does not say its own; none if it has none.

    Raises:
        ConfigError: one of them is wrong.
    """
    return [] if settings.deployments is None else deployments_of(settings.deployments, model)


def status_of(call: Call) -> StatusOf | None:
    """How the limits of a model stand, where that can be told."""
    return call.status_of if isinstance(call, ClientCall) else None
