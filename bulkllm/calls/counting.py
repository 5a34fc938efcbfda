"""Counting a prompt's tokens by the model's own tokenizer, for those who want no estimate.

What may live here: asking LiteLLM's ``token_counter``, and what becomes of a count that cannot be had. It blocks, for
tenths of a millisecond as a rule, so tasks have it done in a thread. It never raises and holds no call up for long:
some tokenizers are fetched from the network by LiteLLM when they are first used, and where there is none a count would
fail only after half a minute. So the first count of each model is made in a thread of its own, and who does not get it
in time goes on with an estimate.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any, Final

from .. import _litellm
from .call import Call

logger = logging.getLogger(__name__)

PATIENCE: Final = 3.0
"""Seconds that calls wait for a model's tokenizer to be loaded; LiteLLM's own take about one."""


class _Tokenizer:
    """Whether a model's tokenizer is at hand."""

    __slots__ = ("complained", "loaded", "loading", "process")

    def __init__(self) -> None:
        self.process = os.getpid()
        self.loading = threading.Lock()
        self.loaded = threading.Event()
        self.complained = False


class TokenCounter:
    """Counts the input of calls by LiteLLM's tokenizers. May be used by any number of threads at once.

    Args:
        patience: seconds that a call waits for a tokenizer to be loaded.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._tokenizers: dict[str, _Tokenizer] = {}

    def count(self, call: Call) -> int | None:
        """Input tokens of a call; None where they cannot be counted (now), so that an estimate has to do.

        Chat messages with their tools, and texts of embeddings and of the Responses API are counted. Images count as
        LiteLLM's default for one: none is fetched.
        """
        asked = _what_to_count(call)
        if asked is None:
            return None
        if isinstance(asked, int):
            return asked
        model = call.model.removeprefix(f"{call.provider}/")  # LiteLLM knows Anthropic's tokenizer by the bare name
        tokenizer = self._tokenizers.get(model) or self._tokenizers.setdefault(model, _Tokenizer())
        if not tokenizer.loaded.is_set():
            if tokenizer.process != os.getpid():  # a fork: whoever was loading it has stayed in the parent
                tokenizer = self._tokenizers[model] = _Tokenizer()
            if not self._load(model, tokenizer):
                return None
        try:
            counted = _litellm.load().token_counter(model=model, use_default_image_token_count=True, **asked)
        except Exception as error:  # noqa: BLE001 - a call must not fail for a count; what LiteLLM says may hold the prompt
            self._complain(model, tokenizer, f"LiteLLM cannot count some of them ({type(error).__name__})")
            return None
        return counted if isinstance(counted, int) and counted > 0 else None

    def _load(self, model: str, tokenizer: _Tokenizer) -> bool:
        """Have the tokenizer loaded by whoever comes first; False if that takes longer than anybody waits."""
        if tokenizer.loading.acquire(blocking=False):  # never released: it is loaded once
            threading.Thread(
                target=_warm_up, args=(model, tokenizer.loaded), name="bulkllm-tokenizer", daemon=True
            ).start()
        if tokenizer.complained:
            return tokenizer.loaded.is_set()
        if tokenizer.loaded.wait(self._patience):
            return True
        self._complain(model, tokenizer, "its tokenizer is not loaded yet; LiteLLM may be fetching it")
        return False

    def _complain(self, model: str, tokenizer: _Tokenizer, why: str) -> None:
        if not tokenizer.complained:
            tokenizer.complained = True
            logger.warning("input tokens of calls to %s are estimated: %s", model, why)


def _warm_up(model: str, loaded: threading.Event) -> None:
    try:
        _litellm.load().token_counter(model=model, text="a")
    except Exception as error:  # noqa: BLE001 - whoever counts next is told
        logger.debug("the tokenizer of %s: %s", model, type(error).__name__)
    finally:
        loaded.set()


def _what_to_count(call: Call) -> Mapping[str, Any] | int | None:
    """Keywords for LiteLLM's counter; the number where it is plain; None where there is nothing that it can count."""
    options = call.options
    messages = options.get("messages")
    if isinstance(messages, list | tuple):
        return {"messages": list(messages), "tools": options.get("tools"), "tool_choice": options.get("tool_choice")}
    given = options.get("input")
    if isinstance(given, str):
        return {"text": given}
    if not isinstance(given, list | tuple) or not given:
        return None
    if all(isinstance(part, str) for part in given):
        return {"text": list(given)}
    if all(isinstance(part, int) for part in given):  # an embedding's input may be tokens already
        return len(given)
    if all(isinstance(part, list) and all(isinstance(token, int) for token in part) for part in given):
        return sum(map(len, given))
    return None
