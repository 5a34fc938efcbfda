"""Which of a request's options cannot change its answer, and which hold secrets.

What may live here: names and questions about names. Standard library only.

It is a deny-list: an option that is not known here counts, so that a new one can cost a repeated call but never serve
a wrong answer. LiteLLM's own key works the other way round and leaves out ``extra_body``, ``api_base`` and more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_NEUTRAL = frozenset({
    # how long, how often, through which client
    "acompletion", "aembedding", "aresponses", "async_call", "atext_completion", "client", "client_side_timeout",
    "cooldown_time", "deadline", "force_timeout", "http_client", "keepalive_seconds", "max_parallel_requests",
    "max_retries", "num_retries", "priority", "request_timeout", "retry_policy", "retry_strategy", "shared_session",
    "ssl_certificate", "ssl_verify", "stream_timeout", "stream_timeout_by_service_tier", "timeout",
    "mock_timeout", "timeout_by_service_tier", "use_client",
    # how the answer is handed over: a streamed answer and a whole one are the same answer
    "stream", "stream_chunk_size", "stream_options",
    # what is kept, here or there
    "cache", "cache_key", "caching", "caching_groups", "namespace", "preset_cache_key", "prompt_cache_key",
    "prompt_cache_retention", "ttl",
    # what is logged and counted
    "budget_duration", "callbacks", "completion_call_id", "failure_callback", "input_callback", "itpm",
    "litellm_call_id", "litellm_disabled_callbacks", "litellm_logging_obj", "litellm_metadata",
    "litellm_request_debug", "litellm_session_id", "litellm_trace_id", "litellm_trusted_callback_vars",
    "log_client_error_tracebacks", "logger_fn", "max_budget", "metadata", "model_info", "no-log", "otpm",
    "proxy_server_request", "rpm", "secret_fields", "service_callback", "success_callback", "tags", "tpm",
    "turn_off_message_logging", "verbose", "weight",
    # who asks: accounts and identities that a credential belongs to
    "azure_scope", "azure_username", "client_id", "tenant_id", "oci_fingerprint", "oci_tenancy", "oci_user",
})  # fmt: skip

_OWN_ARGUMENTS = frozenset({"api_base", "base_url", "model"})
"""What :func:`~bulkllm.caching.key.request_key` takes as arguments of its own."""

_NEUTRAL_PREFIXES = (
    "arize_", "dd_", "humanloop_", "langfuse_", "langsmith_", "newrelic_", "posthog_", "signoz_", "user_api_key",
    "wandb_", "weave_",
)  # fmt: skip

COUNTS_ALTHOUGH = frozenset({"aws_bedrock_runtime_endpoint", "aws_region_name", "bos_token", "eos_token"})
"""What looks like a credential by its name and is not: where the model runs, and how its prompt is put together."""

_SECRET = re.compile(
    r"^(aws_|oci_key)"
    r"|(^|[_-])(api[_-]?key|access[_-]?key([_-]?id)?|private[_-]?key|secret(_\w+)?|passw(or)?d|credentials?|signer|bearer)$"
    r"|(^|[_-])(token|token_provider)$",
    re.IGNORECASE,
)

_PRICE = re.compile(r"(^|_)costs?_per_|_cost$|^tiered_pricing$|_uplift_multiplier")

_PRIVATE_HEADER = re.compile(
    r"auth|token|secret|api[-_]?key|subscription[-_]key|access[-_]key|cookie|credential|signature|passw"
    r"|^(x-)?(amzn-)?(client-)?(request|correlation|trace|session)-?id$|^traceparent$|^tracestate$|^idempotency-key$"
    r"|^x-amz-date$|^date$|^user-agent$",
    re.IGNORECASE,
)

_PRIVATE_QUERY = re.compile(
    r"^(key|sig|signature)$|auth|token|secret|api-?_?key|subscription-key|credential", re.IGNORECASE
)

NONE_IS_ABSENT = frozenset({
    "api_version", "audio", "best_of", "deployment_id", "dimensions", "echo", "encoding_format", "extra_body",
    "extra_headers", "extra_query", "frequency_penalty", "function_call", "functions", "headers", "include",
    "instructions", "logit_bias", "logprobs", "max_completion_tokens", "max_output_tokens", "max_tokens",
    "modalities", "model_list", "n", "parallel_tool_calls", "prediction", "presence_penalty", "previous_response_id",
    "prompt", "reasoning", "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop",
    "store", "suffix", "temperature", "text", "text_format", "thinking", "tool_choice", "tools", "top_logprobs",
    "top_p", "truncation", "user", "verbosity", "web_search_options",
})  # fmt: skip
"""Options whose default is None in LiteLLM's own signatures: giving None is the same as not giving them."""

HEADER_OPTIONS = frozenset({"extra_headers", "headers"})
QUERY_OPTIONS = frozenset({"extra_query"})
BODY_OPTIONS = frozenset({"extra_body"})


def is_secret(name: str) -> bool:
    """Whether an option of this name holds a credential."""
    return _SECRET.search(name) is not None and name not in COUNTS_ALTHOUGH


@lru_cache(maxsize=4096)
def changes_answer(name: str) -> bool:
    """Whether an option of this name can change the answer. Bulk runs ask the same to know a changed row."""
    return not (
        name in _NEUTRAL or name.startswith(_NEUTRAL_PREFIXES) or is_secret(name) or _PRICE.search(name) is not None
    )


def counts(name: str) -> bool:
    """Whether an option of this name goes into a key as an option."""
    return name not in _OWN_ARGUMENTS and changes_answer(name)


def header_counts(name: str) -> bool:
    """Whether a header can change the answer: it is neither a credential nor a mark of one request."""
    return _PRIVATE_HEADER.search(name) is None


def headers_that_count(headers: Mapping[Any, Any]) -> dict[str, Any]:
    """Those headers that can change the answer, by their names in small letters."""
    return {str(name).lower(): value for name, value in headers.items() if header_counts(str(name))}


def query_counts(name: str) -> bool:
    """Whether a part of a URL's query can change the answer."""
    return _PRIVATE_QUERY.search(name) is None
