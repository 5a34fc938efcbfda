"""Refreshing the providers' lists, against a local server that answers in each provider's documented shape."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import socket
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkllm.errors import ConfigError
from bulkllm.models import Registry
from bulkllm.models.lists import read_lists
from bulkllm.models.providers import ProviderList
from bulkllm.models.refresh import RefreshResult, refresh

KEY = "sk-loopback-0123456789"
ROWS = Registry(config_dir="/nonexistent", cache_dir="/nonexistent").providers()
KEYS = {name: KEY for row in ROWS.values() for name in row.keys[:1]}
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()

SHAPES: dict[str, Any] = {
    "openai": {
        "object": "list",
        "data": [
            {"id": "gpt-5-mini", "object": "model", "created": 1754425928, "owned_by": "system", "shutdown_date": None},
            {"id": "gpt-9-new", "object": "model", "created": 1790000000, "owned_by": "system",
             "shutdown_date": "2027-01-14"},
        ],
    },
    "anthropic": {
        "data": [{
            "type": "model", "id": "claude-haiku-5-5", "display_name": "Claude Haiku 5.5",
            "created_at": "2026-10-07T00:00:00Z", "max_input_tokens": 900000, "max_tokens": 64000,
            "lifecycle": "deprecated", "retires_at": "2027-10-07T00:00:00Z",
            "capabilities": {
                "batch": {"supported": True}, "image_input": {"supported": True},
                "structured_outputs": {"supported": False}, "thinking": {"supported": True},
                "effort": {"supported": True, "low": {"supported": True}, "high": {"supported": True},
                           "max": {"supported": False}},
            },
        }, {
            "type": "model", "id": "claude-unknown-1", "display_name": "", "created_at": "1970-01-01T00:00:00Z",
            "max_input_tokens": 0, "max_tokens": 0, "lifecycle": "active", "retires_at": None, "capabilities": None,
        }],
        "first_id": "claude-haiku-5-5", "has_more": False, "last_id": "claude-unknown-1",
    },
    "gemini": {
        "models": [
            {"name": "models/gemini-9-flash", "displayName": "Gemini 9 Flash", "inputTokenLimit": 1048576,
             "outputTokenLimit": 65536, "supportedGenerationMethods": ["generateContent", "batchGenerateContent"],
             "thinking": True},
            {"name": "models/gemini-embedding-9", "inputTokenLimit": 2048, "outputTokenLimit": 1,
             "supportedGenerationMethods": ["embedContent"]},
        ],
    },
    "mistral": {
        "object": "list",
        "data": [{
            "id": "mistral-old-2512", "object": "model", "created": 1765000000, "owned_by": "mistralai",
            "capabilities": {"completion_chat": True, "function_calling": True, "vision": False},
            "max_context_length": 131072, "aliases": ["mistral-old-latest"], "deprecation": "2026-08-31T12:00:00Z",
            "deprecation_replacement_model": "mistral-medium-3-5", "type": "base",
        }],
    },
    "xai": {
        "models": [{
            "id": "grok-9", "aliases": ["grok-9-latest"], "created": 1790000000, "object": "model", "owned_by": "xai",
            "input_modalities": ["text", "image"], "output_modalities": ["text"], "max_prompt_length": 500000,
            "prompt_text_token_price": 12500, "cached_prompt_text_token_price": 2000,
            "completion_text_token_price": 25000,
        }],
    },
    "openrouter": {
        "data": [{
            "id": "vendor/model-9", "name": "Vendor: Model 9", "created": 1790000000, "context_length": 131072,
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
            "pricing": {"prompt": "0.0000025", "completion": "0.00001", "input_cache_read": "0.00000125"},
            "top_provider": {"context_length": 131072, "max_completion_tokens": 16384},
            "supported_parameters": ["tools", "reasoning"], "expiration_date": "2027-02-01",
            "reasoning": {"supported_efforts": ["medium", "low"]},
        }, {
            "id": "vendor/router-9", "name": "Router", "created": 1700000000, "context_length": 2000000,
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
            "pricing": {"prompt": "-1", "completion": "-1"}, "top_provider": {"max_completion_tokens": None},
            "supported_parameters": [], "expiration_date": None,
        }],
    },
    "groq": {
        "object": "list",
        "data": [{"id": "openai/gpt-oss-9", "object": "model", "created": 1790000000, "owned_by": "OpenAI",
                  "active": True, "context_window": 131072, "max_completion_tokens": 32768}],
    },
    "deepseek": {"object": "list", "data": [{"id": "deepseek-v9", "object": "model", "owned_by": "deepseek"}]},
    "cohere": {
        "models": [
            {"name": "command-z-01-2027", "is_deprecated": False, "endpoints": ["chat"], "context_length": 256000.0},
            {"name": "embed-old-v1", "is_deprecated": True, "endpoints": ["embed"], "context_length": 512},
        ],
    },
}  # fmt: skip

MEANINGS: dict[str, dict[str, dict[str, Any]]] = {
    "openai": {
        "gpt-5-mini": {"release_date": date(2025, 8, 5), "max_input_tokens": 272_000},
        "openai/gpt-9-new": {"provider": "openai", "deprecation_date": date(2027, 1, 14), "price": None},
    },
    "anthropic": {
        "claude-haiku-5-5": {
            "display_name": "Claude Haiku 5.5", "release_date": date(2026, 10, 7), "max_input_tokens": 900_000,
            "max_output_tokens": 64_000, "deprecated": True, "deprecation_date": date(2027, 10, 7), "batch": True,
            "response_schema": False, "reasoning_efforts": ("low", "high"),
        },
        "anthropic/claude-unknown-1": {
            "display_name": None, "release_date": None, "max_input_tokens": None, "deprecated": False, "mode": "chat",
        },
    },
    "gemini": {
        "gemini/gemini-9-flash": {
            "mode": "chat", "max_input_tokens": 1_048_576, "max_output_tokens": 65_536, "reasoning": True,
            "batch": True, "prompt_caching": None, "family": "gemini-flash", "version": "9",
        },
        "gemini/gemini-embedding-9": {"mode": "embedding", "reasoning": None},
    },
    "mistral": {
        "mistral/mistral-old-2512": {
            "mode": "chat", "tools": True, "vision": False, "max_input_tokens": 131_072,
            "deprecation_date": date(2026, 8, 31), "replacement": "mistral/mistral-medium-3-5",
            "aliases": ("mistral/mistral-old-latest",),
        },
    },
    "xai": {
        "xai/grok-9": {"input_price": 1.25, "output_price": 2.5, "vision": True, "max_input_tokens": 500_000,
                       "aliases": ("xai/grok-9-latest",), "mode": "chat"},
    },
    "openrouter": {
        "openrouter/vendor/model-9": {
            "input_price": 2.5, "output_price": 10.0, "vision": True, "tools": True, "reasoning": True,
            "response_schema": False, "prompt_caching": True, "max_output_tokens": 16_384,
            "deprecation_date": date(2027, 2, 1), "reasoning_efforts": ("low", "medium"), "provider": "openrouter",
        },
        "openrouter/vendor/router-9": {"prices": {}, "input_price": None, "max_input_tokens": 2_000_000,
                                       "max_output_tokens": None},
    },
    "groq": {"groq/openai/gpt-oss-9": {"max_input_tokens": 131_072, "max_output_tokens": 32_768, "company": "openai"}},
    "deepseek": {"deepseek/deepseek-v9": {"mode": "chat", "company": "deepseek", "max_input_tokens": None}},
    "cohere": {
        "cohere_chat/command-z-01-2027": {"mode": "chat", "provider": "cohere", "max_input_tokens": 256_000,
                                          "release_date": date(2027, 1, 1), "deprecated": False},
        "cohere/embed-old-v1": {"mode": "embedding", "deprecated": True},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _row(name: str, server: Any) -> ProviderList:
    return dataclasses.replace(ROWS[name], url=f"{server.url}/{name}")


def _run(row: ProviderList, directory: Path, **more: Any) -> RefreshResult:
    settings = {"environ": KEYS, "now": lambda: NOW, "timeout": 5.0, **more}
    [result] = refresh({row.name: row}, [row.name], directory, **settings)
    return result


def _always(status: int, body: Any, headers: dict[str, str] | None = None) -> Callable[[Any], Any]:
    return lambda seen: (status, body, headers or {})


# ---- the shapes


@pytest.mark.parametrize("name", ROWS)
def test_each_providers_documented_shape_is_understood(
    name: str, tmp_path: Path, serve: Callable[..., Any], make_registry: Callable[..., Registry]
) -> None:
    server = serve(_always(200, SHAPES[name]))
    row = _row(name, server)
    result = _run(row, tmp_path / "cache" / "models")
    assert result == RefreshResult(name, "updated", len(MEANINGS[name]))
    assert len(server.seen) == 1
    headers = server.seen[0].headers
    assert headers.get("authorization", headers.get("x-api-key", headers.get("x-goog-api-key", ""))).endswith(KEY)
    assert KEY not in str(server.seen[0].params)
    registry = make_registry()
    for model, facts in MEANINGS[name].items():
        info = registry.get(model)
        assert {field: getattr(info, field) for field in facts} == facts
    first = next(iter(MEANINGS[name]))
    told = {"openai": "release_date", "deepseek": "mode"}.get(name, "max_input_tokens")
    source = registry.get(first).origin(told)
    assert source is not None
    assert (source.layer, source.source, source.as_of) == ("refreshed", row.url, date(2026, 11, 23))
    assert registry.problems == ()


def test_the_table_has_the_nine_providers_and_shapes_for_all() -> None:
    assert list(ROWS) == list(SHAPES)
    assert all(row.url.startswith("https://") for row in ROWS.values())
    assert all("key" not in json.dumps(dict(row.params)) for row in ROWS.values())


# ---- paging


PAGES: dict[str, list[dict[str, Any]]] = {
    "anthropic": [
        {"data": [{"type": "model", "id": "claude-a"}], "has_more": True, "last_id": "claude-a"},
        {"data": [{"type": "model", "id": "claude-b"}], "has_more": True, "last_id": "claude-b"},
        {"data": [{"type": "model", "id": "claude-c"}], "has_more": False, "last_id": "claude-c"},
    ],
    "gemini": [
        {"models": [{"name": "models/gemini-a"}], "nextPageToken": "two"},
        {"models": [{"name": "models/gemini-b"}], "nextPageToken": "three"},
        {"models": [{"name": "models/gemini-c"}]},
    ],
    "cohere": [
        {"models": [{"name": "command-a"}], "next_page_token": "eyJwYWdlIjoxfQ=="},
        {"models": [{"name": "command-b"}], "next_page_token": "eyJwYWdlIjoyfQ=="},
        {"models": [{"name": "command-c"}], "next_page_token": ""},
    ],
}
TOKENS = {
    "anthropic": ("after_id", ["claude-a", "claude-b"]),
    "gemini": ("pageToken", ["two", "three"]),
    "cohere": ("page_token", ["eyJwYWdlIjoxfQ==", "eyJwYWdlIjoyfQ=="]),
}


@pytest.mark.parametrize("name", PAGES)
def test_all_pages_are_read(name: str, tmp_path: Path, serve: Callable[..., Any]) -> None:
    param, tokens = TOKENS[name]
    place: dict[str | None, int] = {None: 0, tokens[0]: 1, tokens[1]: 2}
    server = serve(lambda seen: (200, PAGES[name][place[seen.params.get(param)]], {"ETag": f'"{seen.params}"'}))
    row = _row(name, server)
    assert _run(row, tmp_path).models == 3
    assert [seen.params.get(param) for seen in server.seen] == [None, *tokens]
    assert all(ROWS[name].params.items() <= seen.params.items() for seen in server.seen)
    layer = read_lists({name: row}, tmp_path)
    assert [model[-1] for model in layer.statements] == ["a", "b", "c"]


def test_each_page_is_asked_for_conditionally(tmp_path: Path, serve: Callable[..., Any]) -> None:
    """A first page that is unchanged says nothing about the second."""
    pages: list[dict[str, Any]] = [
        {"models": [{"name": "models/gemini-a"}], "nextPageToken": "two"},
        {"models": [{"name": "models/gemini-b"}]},
    ]

    def answer(seen: Any) -> tuple[int, Any, dict[str, str]]:
        page = pages[1 if "pageToken" in seen.params else 0]
        tag = f'"{len(str(page))}"'
        return (304, None, {}) if seen.headers.get("if-none-match") == tag else (200, page, {"ETag": tag})

    server = serve(answer)
    row = _row("gemini", server)
    assert _run(row, tmp_path).status == "updated"
    pages[1]["models"] = [{"name": "models/gemini-b"}, {"name": "models/gemini-c"}]
    assert _run(row, tmp_path, force=True) == RefreshResult("gemini", "updated", 3)
    assert _run(row, tmp_path, force=True) == RefreshResult("gemini", "unchanged", 3)
    tags = [seen.headers.get("if-none-match") for seen in server.seen]
    assert tags[:2] == [None, None]
    assert tags[2] == tags[4]
    assert None not in tags[2:]
    assert tags[3] != tags[5]


def test_a_list_that_leads_round_in_a_circle_ends(tmp_path: Path, serve: Callable[..., Any]) -> None:
    server = serve(_always(200, {"models": [{"name": "models/x"}], "nextPageToken": "same"}))
    result = _run(_row("gemini", server), tmp_path)
    assert (result.status, result.reason) == ("failed", "wrong_shape")
    assert len(server.seen) == 2


# ---- when to ask, and what is kept


def test_a_fresh_list_is_not_asked_for_and_an_old_one_is(tmp_path: Path, serve: Callable[..., Any]) -> None:
    server = serve(_always(200, SHAPES["deepseek"]))
    row = _row("deepseek", server)
    _run(row, tmp_path)
    assert _run(row, tmp_path, now=lambda: NOW + 86_399) == RefreshResult("deepseek", "fresh", 1)
    assert len(server.seen) == 1
    assert _run(row, tmp_path, now=lambda: NOW + 86_401).status == "unchanged"
    assert _run(row, tmp_path, now=lambda: NOW + 86_402, force=True).status == "unchanged"
    assert _run(row, tmp_path, now=lambda: NOW + 90_000, max_age=10).status == "unchanged"
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"ETag": '"v1"'}, ("if-none-match", '"v1"')),
        ({"Last-Modified": "Mon, 23 Nov 2026 06:00:00 GMT"}, ("if-modified-since", "Mon, 23 Nov 2026 06:00:00 GMT")),
    ],
)
def test_an_unchanged_list_is_not_sent_again(
    given: dict[str, str], asked: tuple[str, str], tmp_path: Path, serve: Callable[..., Any]
) -> None:
    def answer(seen: Any) -> tuple[int, Any, dict[str, str]]:
        return (304, None, {}) if seen.headers.get(asked[0]) == asked[1] else (200, SHAPES["deepseek"], given)

    server = serve(answer)
    row = _row("deepseek", server)
    assert _run(row, tmp_path).status == "updated"
    assert _run(row, tmp_path, now=lambda: NOW + 100, force=True) == RefreshResult("deepseek", "unchanged", 1)
    kept = json.loads((tmp_path / "deepseek.json").read_text())
    assert kept["fetched_at"] == "2026-11-23T12:00:00+00:00"
    assert kept["checked_at"] == "2026-11-23T12:01:40+00:00"
    assert not (tmp_path / "deepseek.previous.json").exists()


def test_the_raw_answer_is_kept_and_the_one_before_it(
    tmp_path: Path, serve: Callable[..., Any], make_registry: Callable[..., Registry]
) -> None:
    body = json.loads(json.dumps(SHAPES["xai"]))
    directory = tmp_path / "cache" / "models"
    server = serve(lambda seen: (200, body, {}))
    row = _row("xai", server)
    _run(row, directory)
    assert json.loads((directory / "xai.json").read_text())["pages"][0]["body"] == body
    registry = make_registry()
    assert registry.diff() == []
    body["models"][0]["prompt_text_token_price"] = 20_000
    body["models"].append({"id": "grok-10", "output_modalities": ["text"]})
    _run(row, directory, force=True)
    assert [change[1:] for change in registry.diff("xai")] == [
        ("xai/grok-10", "added", None, None, None),
        ("xai/grok-9", "changed", "input_cost_per_token", 1.25e-06, 2e-06),
    ]
    body["models"].pop(0)
    _run(row, directory, force=True)
    assert [(change.model, change.kind) for change in registry.diff()] == [("xai/grok-9", "removed")]
    _run(row, directory, force=True)  # nothing new: the comparison stays
    assert [(change.model, change.kind) for change in registry.diff()] == [("xai/grok-9", "removed")]
    with pytest.raises(ConfigError, match="no provider is called 'xay'"):
        registry.diff("xay")


def test_a_damaged_list_is_a_problem_and_refreshing_heals_it(
    tmp_path: Path, serve: Callable[..., Any], make_registry: Callable[..., Registry]
) -> None:
    directory = tmp_path / "cache" / "models"
    directory.mkdir(parents=True)
    (directory / "xai.json").write_text('{"provider": "xai", "pages"', encoding="utf-8")
    (directory / "groq.json").write_text('{"provider": "groq", "fetched_at": "2026-11-23T12:00:00+00:00"}', "utf-8")
    registry = make_registry()
    assert registry.get("gpt-5-mini").known
    assert sorted(str(problem).split(": ")[0] for problem in registry.problems) == [
        str(directory / "groq.json"), str(directory / "xai.json"),
    ]  # fmt: skip
    assert _run(_row("xai", serve(_always(200, SHAPES["xai"]))), directory).status == "updated"
    (directory / "groq.json").unlink()
    registry.reload()
    assert registry.get("xai/grok-9").price
    assert registry.problems == ()


def test_where_nothing_can_be_written_the_failure_says_so(tmp_path: Path, serve: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("in the way")
    result = _run(_row("xai", serve(_always(200, SHAPES["xai"]))), tmp_path / "file" / "models")
    assert (result.status, result.reason) == ("failed", "not_kept")


# ---- what goes wrong, told apart


@pytest.mark.parametrize(
    ("status", "body", "reason", "message"),
    [
        (401, {"error": "bad key"}, "refused", "DEEPSEEK_API_KEY is not accepted"),
        (403, {"error": "no"}, "refused", "DEEPSEEK_API_KEY is not accepted"),
        (429, {"error": "slow down"}, "rate_limited", "try again later"),
        (500, {"error": "oops"}, "http_error", "answered 500"),
        (404, {"error": "?"}, "http_error", "answered 404"),
        (200, b"<html>captive portal</html>", "not_json", "not JSON"),
        (200, b"", "not_json", "not JSON"),
        (200, {"models": []}, "wrong_shape", "no list of models under 'data'; expected the shape documented at https"),
        (200, [1, 2], "wrong_shape", "no list of models"),
        (200, {"data": [1]}, "wrong_shape", "no list of models"),
        (200, {"data": [{"name": "x"}]}, "wrong_shape", "a model has no 'id'"),
    ],
)
def test_failures_are_told_apart(
    status: int, body: Any, reason: str, message: str, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    server = serve(_always(status, body))
    result = _run(_row("deepseek", server), tmp_path)
    assert (result.status, result.reason, result.models) == ("failed", reason, 0)
    assert result.message is not None
    assert result.message.startswith("deepseek: ")
    assert message in result.message
    assert not list(tmp_path.iterdir())


def test_no_key_and_a_key_that_is_none(tmp_path: Path, serve: Callable[..., Any]) -> None:
    server = serve(_always(200, SHAPES["gemini"]))
    row = _row("gemini", server)
    missing = _run(row, tmp_path, environ={})
    assert (missing.reason, missing.message) == ("no_key", "gemini: no key; set GEMINI_API_KEY or GOOGLE_API_KEY")
    for odd in ("sk-two words", "sk-line\nbreak", "sk-ümlaut"):
        wrong = _run(row, tmp_path, environ={"GEMINI_API_KEY": odd})
        assert wrong.reason == "bad_key"
        assert wrong.message is not None
        assert odd not in wrong.message
    assert server.seen == []
    assert _run(row, tmp_path, environ={"GOOGLE_API_KEY": f" {KEY}\n"}).status == "updated"


def test_no_answer_in_time_and_nobody_there(tmp_path: Path, serve: Callable[..., Any]) -> None:
    let_go = threading.Event()

    def never(seen: Any) -> tuple[int, Any, dict[str, str]]:
        let_go.wait(5)
        return 200, SHAPES["deepseek"], {}

    slow = _run(_row("deepseek", serve(never)), tmp_path, timeout=0.05)
    let_go.set()
    assert slow.reason == "timeout"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/models"
        gone = _run(dataclasses.replace(ROWS["deepseek"], url=url), tmp_path)
    assert gone.reason == "unreachable"


def test_an_answer_that_stops_half_way_is_a_timeout_and_not_a_missing_network(tmp_path: Path) -> None:
    def answer_half(listening: socket.socket, let_go: threading.Event) -> None:
        client, _ = listening.accept()
        with client:
            client.recv(10_000)
            # Whoever has waited for too long already may be gone.
            with contextlib.suppress(OSError):
                client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data": [')
            let_go.wait(30)

    def told(timeout: float) -> str:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            row = dataclasses.replace(ROWS["deepseek"], url=f"http://127.0.0.1:{listening.getsockname()[1]}/models")
            let_go = threading.Event()
            thread = threading.Thread(target=answer_half, args=(listening, let_go))
            thread.start()
            stopped = _run(row, tmp_path, timeout=timeout)
            let_go.set()
            thread.join()
        assert stopped.reason == "timeout"
        assert stopped.message is not None
        return stopped.message

    # A machine that is busy may need longer than that for half an answer.
    assert "stopped for 0.1 s" in told(0.1) or "stopped for 5 s" in told(5.0)


def test_a_redirect_is_not_followed_for_it_would_carry_the_key_along(tmp_path: Path, serve: Callable[..., Any]) -> None:
    elsewhere = serve(_always(200, SHAPES["anthropic"]))
    server = serve(_always(302, {}, {"Location": elsewhere.url}))
    assert _run(_row("anthropic", server), tmp_path).reason == "moved"
    assert elsewhere.seen == []


def test_a_password_in_netrc_does_not_take_the_keys_place(
    tmp_path: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(_always(200, SHAPES["openai"]))
    assert _run(_row("openai", server), tmp_path / "kept").status == "updated"
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_one_failure_does_not_stop_the_others(tmp_path: Path, serve: Callable[..., Any]) -> None:
    good = serve(_always(200, SHAPES["xai"]))
    bad = serve(_always(500, {}))
    rows = {"openai": _row("openai", bad), "groq": _row("groq", bad), "xai": _row("xai", good)}
    results = refresh(rows, [], tmp_path, environ={**KEYS, "GROQ_API_KEY": ""}, now=lambda: NOW)
    assert [(result.provider, result.status) for result in results] == [("openai", "failed"), ("xai", "updated")]
    results = refresh(rows, ["groq", "xai"], tmp_path, environ={}, now=lambda: NOW)
    assert [(result.reason, result.status) for result in results] == [("no_key", "failed"), (None, "fresh")]
    with pytest.raises(ConfigError, match="no provider is called 'open'; there are: openai, groq, xai"):
        refresh(rows, ["open"], tmp_path)


def test_a_provider_that_needs_no_key_is_asked_without_one(tmp_path: Path, serve: Callable[..., Any]) -> None:
    server = serve(_always(200, SHAPES["openrouter"]))
    rows = {"openrouter": _row("openrouter", server)}
    [result] = refresh(rows, [], tmp_path, environ={}, now=lambda: NOW)
    assert result.status == "updated"
    assert "authorization" not in server.seen[0].headers


def test_keys_are_in_no_message_no_log_and_no_file(
    tmp_path: Path, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    echo = {"object": "list", "data": [{"id": "deepseek-x", "owned_by": f"holder of {KEY}"}]}
    with caplog.at_level(logging.DEBUG):
        said = [_run(_row(name, serve(_always(401, {"error": KEY}))), tmp_path) for name in ROWS]
        said += [_run(_row("deepseek", serve(_always(200, KEY.encode()))), tmp_path)]
        said += [_run(_row("deepseek", serve(_always(200, echo))), tmp_path)]
    assert said[-1].status == "updated"
    failed = _run(_row("deepseek", serve(_always(500, {}))), tmp_path, force=True)
    assert (failed.status, failed.models) == ("failed", 1)  # the list from before still counts
    assert KEY not in str(said)
    assert KEY not in caplog.text
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 1
    assert KEY.encode() not in kept[0]
    assert b"holder of [key]" in kept[0]


# ---- through the registry


HOUSE = """
[provider.house]
url = "{url}/v1/models"
keys = ["HOUSE_KEY"]
auth = "X-House: {{key}}"
items = "data"
id = "id"
prefix = "openai/"
[provider.house.fields]
max_input_tokens = {{ path = "max_model_len", as = "int" }}

[[model]]
name = "openai/house-2"
max_input_tokens = 4096

[[preset]]
slug = "house"
model = "openai/house-1"
[[preset]]
slug = "house-gone"
model = "openai/house-0"
"""


def test_a_provider_is_added_by_a_table_and_its_models_are_found(
    serve: Callable[..., Any], make_registry: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"id": "house-1", "max_model_len": 8192}, {"id": "house-2", "max_model_len": 8192}]
    server = serve(_always(200, {"data": items}))
    registry = make_registry(HOUSE.format(url=server.url))
    assert "openai/house-1" not in registry
    monkeypatch.setenv("HOUSE_KEY", KEY)
    assert registry.refresh("house") == [RefreshResult("house", "updated", 2)]
    assert server.seen[0].headers["x-house"] == KEY
    assert registry.get("openai/house-1").max_input_tokens == 8192
    assert registry.refresh("house") == [RefreshResult("house", "fresh", 2)]
    assert registry.listed("house") == frozenset({"openai/house-1", "openai/house-2"})
    assert registry.listed("nobody") is None
    registry.register("openai/house-1", rpm=5)
    assert registry.get("openai/house-1").max_input_tokens == 8192
    assert registry.get("openai/house-2").max_input_tokens == 4096  # the user's word beats the list
    assert registry.listed("house") is not None
    assert "house" not in {entry.slug for entry in registry.deprecated()}
    assert {"house-gone": "unknown"}.items() <= {entry.slug: entry.status for entry in registry.deprecated()}.items()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('url = "https://me:sk-1@host/models"', "without a password"),
        ('url = "ftp://host"', "url: expected an address such as https://"),
        ('params = { key = "sk-1" }', "params: key looks like a key"),
        ('headers = { Authorization = "Bearer sk-1" }', "headers: Authorization looks like a key"),
        ('auth = "Bearer"', 'a header such as "Authorization: Bearer {key}"'),
        ('feilds = { x = "y" }', "feilds: not a key that is known"),
        ('fields = { max_input_tokens = "n" }', "fields.max_input_tokens: expected { path"),
        ('fields = { max_input_tokens = { path = "n", as = "number" } }', "expected one of contains, is, or as"),
    ],
)
def test_a_row_that_is_wrong_is_left_out_and_said(
    line: str, message: str, make_registry: Callable[..., Registry]
) -> None:
    whole = {"url": 'url = "https://host/models"', "items": 'items = "d"', "id": 'id = "i"', "prefix": 'prefix = "p/"'}
    table = "\n".join({**whole, line.split(" ", maxsplit=1)[0]: line}.values())
    registry = make_registry(f"[provider.house]\n{table}\n")
    assert "house" not in registry.providers()
    assert "openai" in registry.providers()
    [problem] = registry.problems
    assert message in str(problem)
    assert "sk-1" not in str(problem)


def test_a_preset_whose_model_left_its_providers_list_is_gone(
    tmp_path: Path, serve: Callable[..., Any], make_registry: Callable[..., Registry]
) -> None:
    """Lists have dated names for undated ones ("claude-haiku-4-5-20251001"), which is not being gone."""
    here = ["claude-haiku-4-5-20251001", "claude-haiku-5-5", "claude-opus-5-5", "claude-sonnet-5-5", "claude-opus-5"]
    body = {"data": [{"type": "model", "id": name, "lifecycle": "active"} for name in here], "has_more": False}
    body["data"][-1]["lifecycle"] = "deprecated"  # type: ignore[index]
    _run(_row("anthropic", serve(_always(200, body))), tmp_path / "cache" / "models")
    found = {entry.slug: entry for entry in make_registry().deprecated() if "claude" in entry.slug}
    gone = {slug for slug, entry in found.items() if entry.status == "gone"}
    assert {"claude-fable-5.1", "claude-sonnet-4.6"} <= gone
    assert not {"claude-haiku-4.5", "claude-haiku-5.5", "claude-haiku-4.5-think-4k"} & gone
    assert found["claude-opus-5"].status == "deprecated"
    assert found["claude-opus-5"].replacement == "anthropic/claude-opus-5-5"
    assert found["claude-opus-5"].source is not None
    assert found["claude-opus-5"].source.startswith("refreshed: ")
