from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bulkllm.accounting import Usage, UsageRecord
from bulkllm.bulk import BulkRequest


class FakeCalls:
    """Stands in for a client: answers at once, or as told, and remembers what it was asked.

    Attributes:
        prompts: how often each prompt was asked.
        errors: what to raise for a prompt.
        gate: while it is closed, no call ends.
        on_call: is told of each call.
    """

    def __init__(self) -> None:
        self.prompts: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.errors: dict[str, Callable[[], BaseException] | BaseException] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_call: Callable[[BulkRequest], None] | None = None
        self.in_flight = 0
        self.peak = 0

    async def __call__(self, request: BulkRequest) -> tuple[Any, UsageRecord]:
        body = dict(request.body)
        prompt = body["messages"][-1]["content"] if "messages" in body else str(body["input"])
        self.prompts[prompt] += 1
        self.bodies.append(body)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.on_call is not None:
                self.on_call(request)
            await asyncio.sleep(0)
            await self.gate.wait()
            error = self.errors.get(prompt)
            if error is not None:
                raise error if isinstance(error, BaseException) else error()
        finally:
            self.in_flight -= 1
        record = UsageRecord(model=request.model, usage=Usage(input_tokens=3, output_tokens=2), cost=0.5)
        answer = {
            "id": f"chat-{prompt}",
            "object": "chat.completion",
            "choices": [{"message": {"content": f"re: {prompt}"}}],
        }
        return answer, record

    @property
    def asked(self) -> int:
        return sum(self.prompts.values())

    def forget(self) -> None:
        self.prompts.clear()
        self.bodies.clear()
        self.peak = 0


@pytest.fixture
def calls() -> FakeCalls:
    return FakeCalls()


class ProviderError(Exception):
    """An error with a status, whose class bears the name of one of LiteLLM's."""

    def __init__(self, message: str, status_code: int | None, **attributes: Any) -> None:
        super().__init__(message)
        self.message = message
        if status_code is not None:
            self.status_code = status_code
        for name, value in attributes.items():
            setattr(self, name, value)


MakeError = Callable[..., Exception]


@pytest.fixture
def error() -> MakeError:
    """Makes an error like one of LiteLLM's: ``error("RateLimitError", 429)``."""

    def make(name: str, status: int | None = None, message: str = "it went wrong", **attributes: Any) -> Exception:
        kind: type[ProviderError] = type(name, (ProviderError,), {})
        return kind(message, status, **attributes)

    return make


WriteRows = Callable[[Iterable[Any]], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteRows:
    """Writes a request file and gives its path."""

    def write(rows: Iterable[Any]) -> Path:
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"
