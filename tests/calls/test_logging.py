"""What a user who listens to bulkllm's log is told of calls: little, once, and nothing that is private."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bulkllm import Client, RetryPolicy
from bulkllm.testing import FakeProvider

SECRET, KEY = "the patient is called Rumpelstiltskin", "sk-very-hidden"


async def test_calls_say_nothing_above_debug_but_what_was_learned_once(
    warm: None, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeProvider(rpm=6000) as server, caplog.at_level(logging.DEBUG, "bulkllm"):
        client = Client(retry=RetryPolicy(max_attempts=2))
        options = {"api_base": server.openai_base, "api_key": KEY}
        messages = [{"role": "user", "content": SECRET}]
        await asyncio.gather(*(client.acompletion("openai/m", messages, **options) for _ in range(20)))
        stream = await client.acompletion("openai/m", messages, stream=True, **options)
        assert [chunk async for chunk in stream]
    ours = [record for record in caplog.records if record.name.startswith("bulkllm")]
    told = [record.getMessage() for record in ours if record.levelno > logging.DEBUG]
    assert told == [f"limit of openai/m at {server.openai_base} learned from the provider's answers: 6,000 rpm"]
    assert not [text for record in ours if (text := record.getMessage()) and (SECRET in text or KEY in text)]
