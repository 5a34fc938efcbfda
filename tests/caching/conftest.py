"""What the tests of the cache share."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python process that runs a piece of code; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


class Provider:
    """A loopback server that speaks as much of OpenAI's API as LiteLLM's cache can keep."""

    def __init__(self, url: str, seen: list[tuple[str, dict[str, Any]]]) -> None:
        self.seen = seen
        self.options = {"api_base": url, "api_key": "sk-fake", "max_retries": 0}

    @property
    def calls(self) -> int:
        """Requests received."""
        return len(self.seen)


def _chat(body: dict[str, Any], number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": f"answer {number}"}
    if body.get("tools"):
        call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    reason = "tool_calls" if body.get("tools") else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return _whole("chat.completion", f"chatcmpl-{number}", body, [choice])


def _whole(kind: str, identity: str, body: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return {
        "id": identity,
        "object": kind,
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": choices,
        "usage": usage,
    }


def _text(body: dict[str, Any], number: int) -> dict[str, Any]:
    choice = {"index": 0, "text": f"answer {number}", "finish_reason": "stop", "logprobs": None}
    return _whole("text_completion", f"cmpl-{number}", body, [choice])


def _embedding(body: dict[str, Any], _: int) -> dict[str, Any]:
    items = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(item))]} for index, item in enumerate(items)
    ]
    usage = {"prompt_tokens": 5 * len(items), "total_tokens": 5 * len(items)}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def _responses(body: dict[str, Any], number: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": f"answer {number}", "annotations": []}]
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}
    usage = {
        "input_tokens": 11,
        "output_tokens": 7,
        "total_tokens": 18,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "model": body["model"],
        "output": [message],
        "usage": usage,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
    }


_ANSWERS = {
    "/chat/completions": _chat,
    "/completions": _text,
    "/embeddings": _embedding,
    "/responses": _responses,
}


def _events(path: str, whole: dict[str, Any]) -> list[dict[str, Any]]:
    """The same answer as a stream."""
    if path == "/responses":
        text = whole["output"][0]["content"][0]["text"]
        at = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
        return [
            {"type": "response.created", "sequence_number": 0, "response": {**whole, "status": "in_progress"}},
            {"type": "response.output_text.delta", "delta": text, **at},
            {"type": "response.completed", "sequence_number": 2, "response": whole},
        ]
    choice = whole["choices"][0]
    head = {name: whole[name] for name in ("id", "created", "model")}
    if path == "/completions":
        parts = [{"text": choice["text"], "finish_reason": None}, {"text": "", "finish_reason": "stop"}]
        chunks = [{"index": 0, "logprobs": None, **part} for part in parts]
        return [{**head, "object": "text_completion", "choices": [chunk]} for chunk in chunks]
    steps = [
        {"delta": choice["message"], "finish_reason": None},
        {"delta": {}, "finish_reason": choice["finish_reason"]},
    ]
    return [
        *({**head, "object": "chat.completion.chunk", "choices": [{"index": 0, **step}]} for step in steps),
        {**head, "object": "chat.completion.chunk", "choices": [], "usage": whole["usage"]},
    ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, Any]]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        """Nothing on standard error."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.removeprefix("/v1")
        self.seen.append((path, body))
        whole = _ANSWERS[path](body, len(self.seen))
        kind, data = "application/json", json.dumps(whole)
        if body.get("stream"):
            kind = "text/event-stream"
            data = "".join(f"data: {json.dumps(event)}\n\n" for event in _events(path, whole)) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data.encode())


@pytest.fixture(scope="session")
def loopback() -> Iterator[Provider]:
    seen: list[tuple[str, dict[str, Any]]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"seen": seen}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Provider(f"http://127.0.0.1:{server.server_address[1]}/v1", seen)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def provider(loopback: Provider) -> Provider:
    loopback.seen.clear()
    return loopback
