"""What the names in a request mean: options, columns, secrets, and what cannot change an answer.

What may live here: names and questions about names. Which of them cannot change an answer, :mod:`bulkllm.caching`
knows; else standard library only.

A row may mix LiteLLM's options with columns of the user's own ("category", "source"). LiteLLM sends an option that
it does not know to the provider, so a column must not be taken for one: in a plain row only the names below are
options and everything else is carried through to the results. Whatever is not listed can still be asked for, in a
row of the Batch API's shape (its ``body`` is taken as it is) or with ``extra_body``. Some names that LiteLLM has are
left out on purpose, since they are columns more often than options: id, metadata, order, store, tags, text, weight.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from ..caching.names import COUNTS_ALTHOUGH, HEADER_OPTIONS, changes_answer, headers_that_count

ROW_OPTIONS = frozenset({
    # OpenAI's chat parameters, as LiteLLM takes them
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "max_completion_tokens", "max_tokens", "modalities", "model", "n", "parallel_tool_calls",
    "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort",
    "response_format", "safety_identifier", "seed", "service_tier", "stop", "stream", "stream_options",
    "temperature", "thinking", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
    "web_search_options",
    # embeddings and responses
    "dimensions", "encoding_format", "instructions", "max_output_tokens", "previous_response_id",
    "reasoning",
    # other providers' sampling parameters
    "chat_template_kwargs", "enable_thinking", "guided_choice", "guided_grammar", "guided_json",
    "guided_regex", "min_p", "min_tokens", "num_ctx", "repetition_penalty", "safety_settings", "top_a",
    "top_k", "typical_p",
    # how LiteLLM makes the call
    "additional_drop_params", "allowed_openai_params", "api_base", "api_key", "api_type", "api_version",
    "base_url", "custom_llm_provider", "deployment_id", "drop_params", "extra_body", "extra_headers",
    "extra_query", "headers", "mock_response", "mock_timeout", "num_retries", "max_retries",
    "organization", "region_name", "request_timeout", "timeout",
    # ours
    "cache_sample",
})  # fmt: skip

TEXT_OPTIONS = frozenset({
    "api_base", "api_key", "api_type", "api_version", "base_url", "custom_llm_provider", "deployment_id",
    "encoding_format", "function_call", "instructions", "mock_response", "model", "organization",
    "previous_response_id", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort",
    "region_name", "safety_identifier", "service_tier", "stop", "tool_choice", "user", "verbosity",
})  # fmt: skip
"""Options whose value is text: a CSV cell is taken as it stands. Other options' cells are read as JSON."""

BASE_NAMES = ("api_base", "base_url")
"""The names under which LiteLLM takes the endpoint; they are told apart from other options and count as one."""

CACHE_SAMPLE = "cache_sample"
"""What a call's ``sample`` is called in runs and rows: which of several answers to one request the cache keeps apart.

A run's own ``sample`` is how many rows to ask, and a row's column of that name is the user's.
"""

LITELLM_FALLBACKS = (
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "context_window_fallback_dict",
)
"""Options with which LiteLLM would ask other models by itself, past the limits and the books of the run."""

_SECRET = re.compile(
    r"(?:^|[_-])(?:api[_-]?key|access[_-]key(?:[_-]id)?|secret(?:[_-]\w+)?|password|passwd|token|credentials?"
    r"|authorization|cookie|headers?)$",
    re.IGNORECASE,
)


# Credentials that LiteLLM has for one provider only begin with whose they are.
_WHOSE: Final = {
    "aws": ("bedrock", "sagemaker", "sagemaker_chat"),
    "azure": ("azure", "azure_ai", "azure_text"),
    "vertex": ("vertex_ai", "vertex_ai_beta", "gemini"),
}


def is_another_s_secret(name: str, provider: str | None) -> bool:
    """Whether an option may hold a key that a provider, not that of the row itself, must not be told."""
    return is_secret(name) and provider not in _WHOSE.get(name.partition("_")[0], ())


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether an option or a column of this name may hold a key or a header.

    Such a value is used for the call, and never becomes part of a result; of a fingerprint or of a row's identity only
    those headers do that `what_counts` leaves.
    """
    return _SECRET.search(name) is not None and name not in COUNTS_ALTHOUGH


@lru_cache(maxsize=4096)
def can_change_an_answer(name: str) -> bool:
    """Whether an option belongs in the fingerprint by itself: not a neutral one, no secret, and not the endpoint.

    A deny-list, the same as that of the cache: what is not known there counts.
    """
    return name not in BASE_NAMES and not is_secret(name) and changes_answer(name)


def what_counts(name: str, value: Any) -> Any:
    """What of an option belongs in the fingerprint, None for nothing: of headers, those that count for the cache."""
    if name in HEADER_OPTIONS:
        return (headers_that_count(value) or None) if isinstance(value, Mapping) else None
    return value if can_change_an_answer(name) else None


def likely_misspelt(column: str) -> str | None:
    """The option that a column's name is probably a slip of the pen for, or None."""
    close = difflib.get_close_matches(column.lower().replace("-", "_"), ROW_OPTIONS, n=1, cutoff=0.88)
    return close[0] if close else None
