"""LiteLLM's log entry of an answer: left out where nobody would read it.

After each answer LiteLLM builds an entry of some hundred fields, counts the cost for it a second time and runs that in
tasks of its own, whether or not a callback is registered: about an eighth of the CPU of a call. It has a switch for
calls that are logged and billed elsewhere, as bulkllm's are: a context variable, in all of the versions named below,
that is thrown for one call.

What may live here: who would read an entry, and the switch. It is thrown only where nothing that could read one is set
and this LiteLLM is familiar; else LiteLLM logs as ever.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

from .. import _litellm

_log = logging.getLogger(__name__)

_OLDEST: Final = (1, 85)
_NEWEST: Final = (1, 110)
"""The versions of LiteLLM with which this was tried."""

_CALLBACKS: Final = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
_READERS: Final = (
    *_CALLBACKS,
    "cache",
    "max_budget",
    "set_verbose",
    "log_raw_request_response",
    "custom_provider_map",  # a provider of the program's own may ask LiteLLM in its turn, with callbacks
)
"""Settings of LiteLLM's by which something reads entries, or is kept up by the code that makes them."""

CALLBACK_OPTIONS: Final = ("callbacks", "input_callback", "success_callback", "failure_callback")
"""Lists of callbacks that one call can be given."""

_OWN_READERS: Final = (*CALLBACK_OPTIONS, "logger_fn", "litellm_logging_obj", "log_raw_request_response")
"""The same, as options of one call."""

_PRINTED: Final = "LITELLM_PRINT_STANDARD_LOGGING_PAYLOAD"
"""In the environment: LiteLLM prints each entry."""


@contextmanager
def unlogged(litellm: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """What is called in here is not logged by LiteLLM, if nobody would read it."""
    switch = _switch()
    if switch is None or _is_read(litellm, options):
        yield
        return
    token = switch.set(True)
    try:
        yield
    finally:
        with suppress(ValueError):  # a task that was dropped with its loop is closed elsewhere, where nothing was set
            switch.reset(token)


def _is_read(litellm: Any, options: Mapping[str, Any]) -> bool:
    return (
        any(getattr(litellm, name, None) for name in _READERS)
        or any(options.get(name) for name in _OWN_READERS)
        or _PRINTED in os.environ
        or _lines().isEnabledFor(logging.DEBUG)
    )


@cache
def _lines() -> logging.Logger:
    """LiteLLM's own log: at DEBUG it tells what becomes of an entry, too."""
    return logging.getLogger("LiteLLM")


@cache
def _switch() -> ContextVar[bool] | None:
    if not _OLDEST <= _litellm.major_minor(_litellm.version()) <= _NEWEST:
        return None
    try:
        found = importlib.import_module("litellm._internal_context").is_internal_call
    except (ImportError, AttributeError):
        found = None
    if isinstance(found, ContextVar):
        return found
    _log.debug("this LiteLLM has no switch for its log: it makes an entry of every answer, for nobody")
    return None
