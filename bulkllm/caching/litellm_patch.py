"""LiteLLM's own cache, for users who set ``litellm.cache``: its hits are recognised, and where they break, mended.

What may live here: what was found out about LiteLLM's cache on the versions named below, its mends, and when mends are
applied and undone (the rules are :mod:`.litellm_mend`'s). Nothing happens at import; nothing here touches a LiteLLM
that is in order.

What is wrong with it, by version (measured, base installs):

- 1.102 to 1.110: a hit imports parts of the proxy and raises ``ModuleNotFoundError: fastapi`` (BerriAI/litellm#42195).
- up to 1.103: ``aembedding`` with some of its inputs in the cache asks for the whole batch, then takes the answer for
  that of the missing part, and so returns the vectors of other texts. From 1.104 on it asks for the missing ones. On
  all of them the usage of such an answer counts what came from the cache, too.
- up to 1.105: hits of ``text_completion`` are not marked as such, but carry their ``cache_key``.

A mend is applied only where version, signature and a live test agree. Otherwise it stands aside, one warning in the log
says so, and calls go on as LiteLLM makes them.
"""

from __future__ import annotations

import datetime as dt
import importlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import _litellm
from . import litellm_resend
from .litellm_hits import note_paid_usage, was_litellm_cache_hit
from .litellm_mend import Applied, Function, Mend, apply

_log = logging.getLogger(__name__)

_HANDLER = "litellm.caching.caching_handler"


@dataclass(frozen=True, slots=True)
class LiteLLMSupport:
    """What was found in the installed LiteLLM, and what was done about it.

    Attributes:
        version: of LiteLLM.
        examined: whether :func:`patch` has looked at its cache.
        hits_recognised: whether a hit of its cache carries the mark by which it is known; False before that.
        mended: what was broken and is mended now.
        stood_aside: what should have been mended and was not, with the reason.
    """

    version: str
    examined: bool = False
    hits_recognised: bool = False
    mended: tuple[str, ...] = ()
    stood_aside: tuple[str, ...] = ()


_lock = threading.Lock()
_applied: list[Applied] = []
_support: LiteLLMSupport | None = None
_warned = False
_declined = False  # the user has undone it
_resending: LiteLLMSupport | None = None  # what was found of the other things that are mended


def patch() -> LiteLLMSupport:
    """Make hits of ``litellm.cache`` work and be known, as far as this LiteLLM needs that and is familiar.

    bulkllm does this by itself before the first call that is made while ``litellm.cache`` is set; whoever calls LiteLLM
    directly can do it here. The first call takes up to a second on some versions; further ones change nothing and take
    no time. :func:`unpatch` undoes it.
    """
    global _support, _warned, _declined  # noqa: PLW0603 - what is patched is one for the process, as LiteLLM is
    with _lock:
        _declined = False
        if _support is not None:
            return _support
        _litellm.load()
        support = _examine(_litellm.version())
        if not _warned and (support.stood_aside or not support.hits_recognised):
            _warned = True
            problems = list(support.stood_aside)
            if not support.hits_recognised:
                problems.append("its hits do not carry the mark by which they are known, and will be counted as calls")
            _log.warning(
                "LiteLLM %s is not as expected: %s. Calls go on as before; a cache set in litellm.cache may not work."
                " bulkllm's own cache (cache=True) does not depend on it.",
                support.version,
                "; ".join(problems),
            )
        _support = support
        return support


def patch_is_due(litellm: Any) -> bool:
    """Whether the user has a ``litellm.cache`` that nothing was done for yet. Takes no time."""
    return _support is None and not _declined and getattr(litellm, "cache", None) is not None


def stop_resending() -> None:
    """Have each attempt of bulkllm's sent once, and not again by what is below it: see :mod:`.litellm_resend`.

    Done before the first of them. LiteLLM is loaded; it takes a millisecond, and further times nothing.
    """
    global _resending  # noqa: PLW0603 - see patch
    if _resending is not None or _declined:
        return
    with _lock:
        if _resending is None:
            version = _litellm.version()
            support = _joined(
                _examined(version, litellm_resend.HANDLER, litellm_resend.MENDS),
                _examined(version, litellm_resend.SDK, litellm_resend.SDK_MENDS),
            )
            if support.stood_aside:
                _log.warning(
                    "LiteLLM %s is not as expected: %s. It may send a request again by itself, and a record counts it"
                    " once; else calls go on as before.",
                    support.version,
                    "; ".join(support.stood_aside),
                )
            _resending = support


def unpatch() -> None:
    """Put LiteLLM's own functions back, and leave them alone. What somebody else has put in their place since stays."""
    global _support, _resending, _declined  # noqa: PLW0603 - see patch
    with _lock:
        while _applied:
            owner, name, original, ours = _applied.pop()
            if getattr(owner, name, None) is ours:
                setattr(owner, name, original)
        _support = _resending = None
        _declined = True


def litellm_support() -> LiteLLMSupport:
    """What was found in the installed LiteLLM, and what was done about it. Does not import it.

    Its cache is looked at before the first call that is made while ``litellm.cache`` is set; its HTTP handler and the
    OpenAI SDK below it before the first call.
    """
    cache = _support or LiteLLMSupport(_litellm.version())
    return cache if _resending is None else _joined(cache, _resending)


def _joined(one: LiteLLMSupport, other: LiteLLMSupport) -> LiteLLMSupport:
    return replace(one, mended=one.mended + other.mended, stood_aside=one.stood_aside + other.stood_aside)


def _examine(version: str) -> LiteLLMSupport:
    found = _examined(version, _HANDLER, _MENDS)
    return replace(found, examined=True, hits_recognised=_hits_are_marked())


def _examined(version: str, module: str, mends: Sequence[Mend]) -> LiteLLMSupport:
    """Apply what is due in a module of LiteLLM's; what was found and done."""
    try:
        handler = importlib.import_module(module)
    except ImportError as error:
        return LiteLLMSupport(version, stood_aside=(f"{module} cannot be imported ({error})",))
    mended: list[str] = []
    stood_aside: list[str] = []
    for mend in mends:
        reason = apply(mend, version, handler, _applied)
        if reason == "":
            mended.append(mend.name)
        elif reason is not None:
            stood_aside.append(f"{mend.name}: {reason}")
    return LiteLLMSupport(version, mended=tuple(mended), stood_aside=tuple(stood_aside))


def _hits_are_marked() -> bool:
    """Whether an answer that LiteLLM makes from a cached one is known as a hit, whole and as a stream: tried out."""
    litellm = _litellm.load()
    answer = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    try:
        now = dt.datetime.now()  # noqa: DTZ005 - LiteLLM subtracts its own times, which have no zone
        logging_obj = importlib.import_module("litellm.litellm_core_utils.litellm_logging").Logging(
            model="x", messages=[], stream=False, call_type="completion", start_time=now,
            litellm_call_id="bulkllm", function_id="bulkllm",
        )  # fmt: skip
        handler = importlib.import_module(_HANDLER)
        caching = handler.LLMCachingHandler(original_function=litellm.completion, request_kwargs={}, start_time=now)
        return all(
            was_litellm_cache_hit(
                caching._convert_cached_result_to_model_response(
                    cached_result=litellm.ModelResponse(id="x", model="x", choices=[answer]).model_dump(),
                    call_type="completion",
                    kwargs=options,
                    logging_obj=logging_obj,
                    model="x",
                    args=(),
                )
            )
            for options in ({}, {"stream": True})
        )
    except Exception as error:  # noqa: BLE001 - as in litellm_mend
        _log.debug("the hits of this LiteLLM's cache could not be tried out (%s)", type(error).__name__)
        return False


# Hits without fastapi: whether the callbacks of a hit wait for its stream to end.


def _defer_is_broken(_: Any, function: Function) -> bool:
    try:
        function(cached_result=None)
    except ImportError:
        return True
    return False


def _mended_defer(handler: Any, _: Function) -> Function:
    streams = (
        handler.CustomStreamWrapper,
        importlib.import_module("litellm.responses.streaming_iterator").BaseResponsesAPIStreamingIterator,
    )

    def should_defer(*, cached_result: object) -> bool:
        # The third class that LiteLLM looks for is the one that cannot be imported here, so nothing is one of it.
        return isinstance(cached_result, streams)

    return should_defer


def _defer_works(handler: Any, function: Function) -> bool:
    stream = handler.CustomStreamWrapper
    return function(cached_result=stream.__new__(stream)) is True and function(cached_result=object()) is False


# Embeddings of which a part was in the cache.


def _combine_is_broken(handler: Any, function: Function) -> bool:
    return _combined(handler, function, [1]) == [0.0, 1.0, 2.0]  # always: it is familiar, so it can be wrapped


def _mended_combine(_: Any, original: Function) -> Function:
    def combine(
        self: Any, _caching_handler_response: Any, embedding_response: Any, start_time: Any, end_time: Any
    ) -> Any:
        cached = _caching_handler_response.final_embedding_cached_response
        known = [] if cached is None else [one for one in cached.data if one is not None]
        if known and len(known) < len(cached.data) == len(embedding_response.data or ()):
            combined = embedding_response  # the whole batch was asked for and paid: this is its answer, in order
        else:
            combined = original(self, _caching_handler_response, embedding_response, start_time, end_time)
        if known:
            note_paid_usage(combined, embedding_response.usage)
        return combined

    return combine


def _combine_works(handler: Any, function: Function) -> bool:
    right = [0.0, 1.0, 2.0]
    return _combined(handler, function, [1]) == right and _combined(handler, function, [0, 1, 2]) == right


def _combined(handler: Any, function: Function, fresh: list[int]) -> list[float]:
    """The vectors of a batch of three, whose second was not in the cache, when these came from the provider."""
    litellm = _litellm.load()

    def vector(index: int) -> Any:
        return litellm.types.utils.Embedding(embedding=[float(index)], index=index, object="embedding")

    def response(data: list[Any]) -> Any:
        usage = litellm.Usage(prompt_tokens=1, completion_tokens=0, total_tokens=1)
        made = litellm.EmbeddingResponse(model="x", usage=usage)
        made.data = data
        return made

    now = dt.datetime.now()  # noqa: DTZ005 - LiteLLM subtracts its own times, which have no zone
    caching = handler.LLMCachingHandler(original_function=litellm.aembedding, request_kwargs={}, start_time=now)
    cached = handler.CachingHandlerResponse(final_embedding_cached_response=response([vector(0), None, vector(2)]))
    combined = function(caching, cached, response([vector(index) for index in fresh]), now, now)
    return [(one if isinstance(one, dict) else one.model_dump())["embedding"][0] for one in combined.data]


_MENDS = (
    Mend(
        name="cache hits without fastapi",
        oldest=(1, 102),
        newest=(1, 110),
        owner=None,
        functions=("_should_defer_streaming_cache_hit_callbacks",),
        parameters=("cached_result",),
        is_broken=_defer_is_broken,
        made=_mended_defer,
        works=_defer_works,
    ),
    Mend(
        name="embeddings that are cached in part",
        oldest=(1, 85),
        newest=(1, 110),
        owner="LLMCachingHandler",
        functions=(
            "_combine_cached_embedding_response_with_api_result",
            "combine_cached_embedding_response_with_api_result",
        ),
        parameters=("self", "_caching_handler_response", "embedding_response", "start_time", "end_time"),
        is_broken=_combine_is_broken,
        made=_mended_combine,
        works=_combine_works,
    ),
)
