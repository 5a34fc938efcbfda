"""LiteLLM's hidden second request: after a broken connection its asynchronous HTTP handler sends the same one again.

What may live here: knowing the calls that bulkllm makes, and how that handler is kept from resending them. It is
mended by the rules of :mod:`.litellm_mend`. (It stands beside the other mends, though it is not about caches.)

Anthropic, Groq, Mistral, DeepSeek and the Responses API go through ``AsyncHTTPHandler.post``. Up to 1.105 it resends
when the connection is reset in place of an answer, too: the provider may well have worked, and will bill twice. In
1.110 it does where it could not connect. Either way it is a retry layer below ours, which no record counts. Calls that
the program makes of LiteLLM directly are resent as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any

from .litellm_mend import Function, Mend

HANDLER = "litellm.llms.custom_httpx.http_handler"

_ours: ContextVar[bool] = ContextVar("bulkllm_own_call", default=False)


@contextmanager
def own_call() -> Iterator[None]:
    """What is awaited in here is a call of bulkllm's, which has a retry layer of its own."""
    token = _ours.set(True)
    try:
        yield
    finally:
        with suppress(ValueError):  # a task that was dropped with its loop is closed elsewhere, where nothing was set
            _ours.reset(token)


def _made(handler: Any, original: Function) -> Function:
    broken = (handler.httpx.ConnectError, handler.httpx.RemoteProtocolError)

    async def send_again(self: Any, *args: Any, **kwargs: Any) -> Any:
        error = sys.exception()  # it is called where that is handled, and for nothing else
        if _ours.get() and isinstance(error, broken):
            raise error
        return await original(self, *args, **kwargs)

    return send_again


def _is_broken(name: str, handler: Any, function: Function) -> bool:
    return _requests(name, handler, function) == 2  # noqa: PLR2004 - the first, and the hidden one


def _works(name: str, handler: Any, function: Function) -> bool:
    with own_call():
        inside = _requests(name, handler, function)
    return inside == 1 and _is_broken(name, handler, function)


def _requests(name: str, handler: Any, function: Function) -> int:
    """How often a request is sent that meets nothing but broken connections; 0 if its error does not come through."""
    sent: list[object] = []
    broken = handler.httpx.ConnectError("bulkllm tries this out")

    async def send(request: object, **_: Any) -> None:
        sent.append(request)
        raise broken

    async def close() -> None:
        """Nothing was opened."""

    client = SimpleNamespace(build_request=lambda *_, **__: None, send=send, aclose=close)
    stub = SimpleNamespace(
        client=client, timeout=1.0, event_hooks=None, create_client=lambda **_: client, token_exchange_engine=None
    )
    setattr(stub, name, partial(function, stub))
    posting = handler.AsyncHTTPHandler.post(stub, url="http://127.0.0.1/", json={})
    try:
        posting.send(None)  # nothing in it waits, so it needs no event loop
    except handler.httpx.ConnectError as error:
        return len(sent) if error is broken else 0
    finally:
        posting.close()
    return 0


def _mend(name: str, oldest: tuple[int, int], newest: tuple[int, int], *parameters: str) -> Mend:
    return Mend(
        name="requests that are sent again",
        oldest=oldest,
        newest=newest,
        owner="AsyncHTTPHandler",
        functions=(name,),
        parameters=("self", "url", *parameters, "data", "json", "params", "headers", "stream", "content"),
        is_broken=partial(_is_broken, name),
        made=_made,
        works=partial(_works, name),
    )


MENDS = (
    _mend("single_connection_post_request", (1, 85), (1, 105), "client"),
    _mend("single_connection_request", (1, 108), (1, 110), "method", "client"),
)
