"""Retry layers below ours, which no record counts: requests that LiteLLM or the OpenAI SDK send again by themselves.

What may live here: knowing the calls that bulkllm makes, and how these are kept from being sent again. It is mended by
the rules of :mod:`.litellm_mend`. (It stands beside the other mends, though it is not about caches.) Calls that the
program makes of LiteLLM or of the SDK directly are sent as ever.

- LiteLLM's asynchronous HTTP handler: Anthropic, Groq, Mistral, DeepSeek and the Responses API go through
  ``AsyncHTTPHandler.post``. Up to 1.105 it resends when the connection is reset in place of an answer, too: the
  provider may well have worked, and will bill twice. In 1.110 it does where it could not connect.
- The OpenAI SDK sends a request up to three times, unless its client is told not to. LiteLLM loses our
  ``max_retries=0`` on the way for some fifteen providers (DeepInfra, NVIDIA NIM, SambaNova, Z.AI and others), for the
  embeddings of more (Mistral, Fireworks), and for Azure where the client was given, or made by an earlier call. What
  it asks for the number is mended, so no client is touched or copied.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from .._scope import Scope
from .litellm_mend import Function, Mend

HANDLER = "litellm.llms.custom_httpx.http_handler"
SDK = "openai._models"


_ours: Final = Scope("bulkllm_own_call")


def own_call() -> AbstractContextManager[None]:
    """What is called or awaited in here is a call of bulkllm's, which has a retry layer of its own."""
    return _ours.entered()


# LiteLLM's handler.


def _made(handler: Any, original: Function) -> Function:
    broken = (handler.httpx.ConnectError, handler.httpx.RemoteProtocolError)

    async def send_again(self: Any, *args: Any, **kwargs: Any) -> Any:
        error = sys.exception()  # it is called where that is handled, and for nothing else
        if _ours and isinstance(error, broken):
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
    post = inspect.unwrap(handler.AsyncHTTPHandler.post)  # around it LiteLLM takes the time, in a task of its own
    posting = post(stub, url="http://127.0.0.1/", json={})
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


# The OpenAI SDK.


def _obeys_a_client(handler: Any, function: Function) -> bool:
    request_options = handler.FinalRequestOptions.construct(method="post", url="/")
    return bool(function(request_options, 2) == 2)  # noqa: PLR2004 - what a client would say


def _made_for_the_sdk(_: Any, original: Function) -> Function:
    def get_max_retries(self: Any, max_retries: int) -> int:
        if _ours:
            return 0
        number: int = original(self, max_retries)
        return number

    return get_max_retries


def _sends_once(handler: Any, function: Function) -> bool:
    request_options = handler.FinalRequestOptions.construct(method="post", url="/")
    with own_call():
        inside = function(request_options, 2)
    return bool(inside == 0) and _obeys_a_client(handler, function) and all(_asks(client) for client in _clients())


def _clients() -> tuple[Any, Any]:
    module = importlib.import_module("openai._base_client")
    return module.SyncAPIClient, module.AsyncAPIClient


def _asks(client: Any) -> bool:
    """Whether a client's requests go by what is mended."""
    names: tuple[str, ...] = inspect.unwrap(client.request).__code__.co_names
    return "get_max_retries" in names


SDK_MENDS = (
    Mend(
        name="retries of the OpenAI SDK",
        oldest=(1, 85),
        newest=(1, 110),
        owner="FinalRequestOptions",
        functions=("get_max_retries",),
        parameters=("self", "max_retries"),
        is_broken=_obeys_a_client,
        made=_made_for_the_sdk,
        works=_sends_once,
    ),
)
