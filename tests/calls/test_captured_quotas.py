"""Refusals for a day's quota as providers send them, byte for byte, through LiteLLM: which quota, and for how long.

The bodies were captured between August 2024 and August 2026; names of organisations are made up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bulkllm import Client, QuotaExhausted, RateLimiter, RetryPolicy
from bulkllm.calls.quota import quota_of

if TYPE_CHECKING:
    from tests.calls.conftest import CannedServer

HOUR = 3_600.0

OPENAI = {
    "error": {
        "message": "Rate limit reached for gpt-4o-mini in organization org-x on requests per day (RPD): Limit 200, "
        "Used 200, Requested 1. Please try again in 7m12s. Visit https://platform.openai.com/account/rate-limits "
        "to learn more.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
}
GROQ = {
    "error": {
        "message": "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` service tier "
        "`on_demand` on tokens per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s.",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
}
GEMINI = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.\n* Quota exceeded for "
        "metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 20, model: "
        "gemini-3.6-flash\nPlease retry in 36.429760048s.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                        "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                        "quotaValue": "20",
                    }
                ],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"},
        ],
    }
}
OPENROUTER = {
    "error": {
        "message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per "
        "day",
        "code": 429,
        "metadata": {
            "headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1789776000000"},
            "provider_name": None,
        },
    }
}
AZURE = {
    "error": {
        "code": "RateLimitReached",
        "message": "Your requests to gpt-4.1 for gpt-4.1 in East US have exceeded the token rate limit for your "
        "current AIServices S0 pricing tier. This request was for ChatCompletions_Create under Azure OpenAI API "
        "version 2024-12-01-preview. Please retry after 86400 seconds.",
    }
}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, str], str, float, float]] = {
    "openai": ("openai/gpt-4o-mini", OPENAI, {"retry-after": "432"}, "requests per day", 431, 432),
    "groq": ("groq/llama-3.3-70b-versatile", GROQ, {"retry-after": "579"}, "tokens per day", 578, 579),
    "gemini": ("gemini/gemini-3.6-flash", GEMINI, {}, "requests per day", 35, 36),
    "openrouter": ("openrouter/x/y:free", OPENROUTER, {}, "free requests per day", 1, 24 * HOUR),
    "azure": ("azure/gpt-4.1", AZURE, {"retry-after": "86400"}, "", 24 * HOUR - 1, 24 * HOUR),
}


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("case", CASES)
def test_a_captured_refusal_is_understood(case: str, sync: bool, canned: CannedServer) -> None:
    model, body, headers, quota, least, most = CASES[case]
    canned.script = lambda exchange: exchange.answer(429, body, headers)
    client = Client(RateLimiter(memory=None), retry=RetryPolicy(max_attempts=3))
    options: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": "Hello"}], "api_base": canned.url, "api_key": "k",
        **({"api_version": "2024-12-01-preview"} if case == "azure" else {}),
    }  # fmt: skip

    def ask() -> None:
        if sync:
            client.completion(**options)
        else:
            asyncio.run(client.acompletion(**options))

    with pytest.raises(Exception, match="RateLimitError") as refused:
        ask()
    told = quota_of(refused.value)
    assert told is not None
    assert told.quota == quota
    assert least < told.retry_after <= most
    with pytest.raises(QuotaExhausted):
        ask()
    assert len(canned.seen) == 1
