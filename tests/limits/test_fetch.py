"""Reading limits with an admin key, against a loopback server that answers in each provider's documented shape."""

from __future__ import annotations

import json
import logging
import socket
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from bulkllm.errors import ConfigError
from bulkllm.limits import fetch
from bulkllm.limits.admin import AdminRow, Listing, admin_rows, row_from
from bulkllm.limits.fetch import FetchResult, fetch_limits

KEY = "sk-admin-loopback-0123456789"
KEYS = {"ANTHROPIC_ADMIN_KEY": KEY, "OPENAI_ADMIN_KEY": KEY}
TODAY = date(2026, 11, 23)


class Seen(NamedTuple):
    """A request as it arrived."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]


Answer = tuple[int, Any, dict[str, str]]
Answerer = Callable[[Seen], Answer]


class Admin:
    """A provider's admin interface on loopback; ``answer`` may be changed, ``seen`` is what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answer: Answerer = documented
        admin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body leave together, or else each answer waits for an acknowledgement

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
                """Say nothing."""

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(unquote(parts.path), dict(parse_qsl(parts.query)), headers)
                admin.seen.append(seen)
                status, body, more = admin.answer(seen)
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **more}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def anthropic_entry(models: list[str] | None, group: str = "model_group", **limits: float | None) -> dict[str, Any]:
    return {
        "type": "rate_limit",
        "group_type": group,
        "models": models,
        "limits": [{"type": name, "value": value} for name, value in limits.items()],
    }


ANTHROPIC = {
    "data": [
        anthropic_entry(
            ["claude-opus-5-5"],
            requests_per_minute=4000,
            input_tokens_per_minute=10_000_000,
            output_tokens_per_minute=800_000,
        ),
        anthropic_entry(
            ["claude-opus-4-5", "claude-opus-4-5-20251101", "claude-opus-4-6"],
            requests_per_minute=4000,
            input_tokens_per_minute=2_000_000,
            output_tokens_per_minute=400_000,
            novel_things_per_minute=7,
        ),
        anthropic_entry(None, "batch", enqueued_batch_requests=500_000),
        anthropic_entry(None, "token_count", requests_per_minute=8000),
    ],
    "next_page": None,
}
WORKSPACE = {
    "data": [
        {
            "type": "workspace_rate_limit",
            "group_type": "model_group",
            "models": ["claude-opus-5-5"],
            "limits": [{"type": "requests_per_minute", "value": 1000, "org_limit": 4000}],
        }
    ],
    "next_page": None,
}


def project(name: str, label: str = "Evaluations") -> dict[str, Any]:
    return {"id": name, "object": "organization.project", "name": label, "created_at": 1711471533, "status": "active"}


def openai_entry(model: str, rpm: int, tpm: int, **more: int) -> dict[str, Any]:
    return {
        "object": "project.rate_limit",
        "id": f"rl-{model}",
        "model": model,
        "max_requests_per_1_minute": rpm,
        "max_tokens_per_1_minute": tpm,
        **more,
    }


OPENAI = [
    openai_entry("gpt-4o-mini", 500, 200_000, max_requests_per_1_day=10_000, batch_1_day_max_input_tokens=2_000_000),
    openai_entry("gpt-5-mini", 500, 500_000),
    openai_entry("gpt-5-mini-2025-08-07", 400, 300_000),
    openai_entry("dall-e-3", 5, 0, max_images_per_1_minute=5),
    openai_entry("withdrawn", 0, 0),
]


def openai_list(items: list[dict[str, Any]], seen: Seen, size: int = 2) -> Answer:
    """OpenAI's pages: ``after`` is the id of the last item of the page before."""
    ids = [item["id"] for item in items]
    begin = ids.index(seen.params["after"]) + 1 if "after" in seen.params else 0
    page = items[begin : begin + size]
    body = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": begin + size < len(items),
    }
    return 200, body, {}


def documented(seen: Seen) -> Answer:
    if seen.path == "/v1/organizations/rate_limits":
        return 200, ANTHROPIC, {}
    if seen.path == "/v1/organizations/workspaces/wrkspc_1/rate_limits":
        return 200, WORKSPACE, {}
    if seen.path == "/v1/organization/projects":
        return openai_list([project("proj_abc")], seen)
    if seen.path == "/v1/organization/projects/proj_abc/rate_limits":
        return openai_list(OPENAI, seen)
    return 404, {"error": {"message": "not found"}}, {}


def always(status: int, body: Any, headers: dict[str, str] | None = None) -> Answerer:
    return lambda _: (status, body, headers or {})


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Admin]:
    """The packaged rows, with loopback addresses."""
    server = Admin()

    def moved(listing: Listing | None) -> Listing | None:
        if listing is None:
            return None
        parts = urlsplit(listing.url)
        return replace(listing, url=server.url + parts.path)

    rows = {
        name: replace(row, account=moved(row.account), part=moved(row.part), parts=moved(row.parts))
        for name, row in admin_rows().items()
    }
    monkeypatch.setattr(fetch, "admin_rows", lambda: rows)
    yield server
    server.close()


def fetched(*providers: str, environ: dict[str, str] | None = None, **more: Any) -> list[FetchResult]:
    return fetch_limits(providers, environ=KEYS if environ is None else environ, today=TODAY, **more)


def test_anthropic_tells_groups_of_models(admin: Admin) -> None:
    (result,) = fetched("anthropic")
    assert (result.reason, result.message) == (None, None)
    first, second = result.limits
    assert first.limit.models == ("anthropic/claude-opus-5-5",)
    assert (first.limit.rpm, first.limit.itpm, first.limit.otpm) == (4000, 10_000_000, 800_000)
    assert (first.limit.tpm, first.limit.rpd, first.limit.window) == (None, None, "bucket")
    assert first.limit.name == "anthropic: claude-opus-5-5"
    assert (first.source, first.as_of, first.fetched) == (
        f"{admin.url}/v1/organizations/rate_limits",
        TODAY,
        "anthropic",
    )
    assert second.limit.name == "anthropic: claude-opus-4-5 and 2 more"
    assert second.limit.matches("anthropic/claude-opus-4-5-20251101")
    assert not second.limit.matches("anthropic/claude-opus-5-5")
    assert result.ignored == ("novel_things_per_minute", "enqueued_batch_requests")
    (seen,) = admin.seen
    assert seen.headers["x-api-key"] == KEY
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert seen.params == {"group_type": "model_group"}


def test_a_workspaces_limits_hold_beside_the_organisations(admin: Admin) -> None:
    (result,) = fetched("anthropic", parts={"anthropic": "wrkspc_1"})
    assert [one.limit.name for one in result.limits] == [
        "anthropic: claude-opus-5-5",
        "anthropic: claude-opus-4-5 and 2 more",
        "anthropic wrkspc_1: claude-opus-5-5",
    ]
    assert (result.limits[2].limit.rpm, result.limits[2].limit.itpm) == (1000, None)
    assert result.limits[2].source.endswith("/workspaces/wrkspc_1/rate_limits")


def test_anthropics_pages_are_followed(admin: Admin) -> None:
    def paged(seen: Seen) -> Answer:
        number = int(seen.params.get("page", "p0")[1:])
        entry = anthropic_entry([f"claude-{number}"], requests_per_minute=10 + number)
        return 200, {"data": [entry], "next_page": f"p{number + 1}" if number < 3 else None}, {}

    admin.answer = paged
    (result,) = fetched("anthropic")
    assert [one.limit.rpm for one in result.limits] == [10, 11, 12, 13]
    assert [seen.params.get("page") for seen in admin.seen] == [None, "p1", "p2", "p3"]
    assert all(seen.params["group_type"] == "model_group" for seen in admin.seen)


def test_openai_tells_models_of_the_only_project(admin: Admin) -> None:
    (result,) = fetched("openai")
    assert result.reason is None, result.message
    told = {one.limit.name: one.limit for one in result.limits}
    mini = told["openai proj_abc: gpt-4o-mini"]
    assert (mini.rpm, mini.tpm, mini.rpd, mini.itpm) == (500, 200_000, 10_000, None)
    assert mini.matches("openai/gpt-4o-mini")
    assert mini.matches("openai/gpt-4o-mini-2024-07-18")
    assert not mini.matches("openai/gpt-4o-mini-audio-preview")
    # A dated version that is on the list has limits of its own; 0 is no limit, and an entry without any is left out.
    assert told["openai proj_abc: gpt-5-mini"].models == ("openai/gpt-5-mini",)
    assert told["openai proj_abc: gpt-5-mini-2025-08-07"].rpm == 400
    assert (told["openai proj_abc: dall-e-3"].rpm, told["openai proj_abc: dall-e-3"].tpm) == (5, None)
    assert "openai proj_abc: withdrawn" not in told
    assert [(seen.path.rpartition("/")[2], seen.params) for seen in admin.seen] == [
        ("projects", {"limit": "100"}),
        ("rate_limits", {"limit": "100"}),
        ("rate_limits", {"limit": "100", "after": "rl-gpt-5-mini"}),
        ("rate_limits", {"limit": "100", "after": "rl-dall-e-3"}),
    ]
    assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in admin.seen)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_named_project_is_not_looked_for(admin: Admin, how: str) -> None:
    if how == "argument":
        environ, parts = KEYS | {"OPENAI_PROJECT_ID": "proj_other"}, {"openai": "proj_abc"}
    else:
        environ, parts = KEYS | {"OPENAI_PROJECT_ID": "proj_abc"}, None
    (result,) = fetched("openai", environ=environ, parts=parts)
    assert len(result.limits) == 4
    assert {seen.path for seen in admin.seen} == {"/v1/organization/projects/proj_abc/rate_limits"}


def test_of_several_projects_the_user_must_name_one(admin: Admin) -> None:
    several = [project("proj_a", "Research"), project("proj_b", "Product"), project("proj_c", "Old")]
    admin.answer = lambda seen: openai_list(several, seen)
    (result,) = fetched("openai")
    assert result.reason == "ambiguous"
    for said in ("proj_a (Research)", "proj_b (Product)", "proj_c (Old)", "--project", "OPENAI_PROJECT_ID"):
        assert said in str(result.message)


def test_a_projects_name_cannot_lead_elsewhere(admin: Admin) -> None:
    (result,) = fetched("openai", parts={"openai": "../../x?y=1#z"})
    assert (result.reason, len(admin.seen)) == ("not_found", 1)
    assert admin.seen[0].path == "/v1/organization/projects/../../x?y=1#z/rate_limits"
    assert admin.seen[0].params == {"limit": "100"}


def test_without_names_every_provider_with_a_key_is_read(admin: Admin) -> None:
    assert [result.provider for result in fetched()] == ["anthropic", "openai"]
    assert [result.provider for result in fetched(environ={"OPENAI_ADMIN_KEY": KEY})] == ["openai"]
    with pytest.raises(ConfigError, match=r"no admin key is set\. ANTHROPIC_ADMIN_KEY.*OPENAI_ADMIN_KEY"):
        fetched(environ={"OPENAI_ADMIN_KEY": "  "})
    with pytest.raises(ConfigError, match="'groq' cannot be read; those of anthropic, openai can"):
        fetched("groq")
    with pytest.raises(ConfigError, match="'mistral' cannot be read"):
        fetched("openai", parts={"mistral": "x"})


def test_one_that_fails_does_not_stop_the_rest(admin: Admin) -> None:
    admin.answer = lambda seen: (401, {}, {}) if "organizations" in seen.path else documented(seen)
    first, second = fetched()
    assert (first.reason, first.limits) == ("refused", ())
    assert (second.reason, len(second.limits)) == (None, 4)


FAILURES: list[tuple[str, Answerer, str]] = [
    ("refused", always(401, {"error": "sk-admin?"}), "takes an Admin API key"),
    ("refused", always(403, b"no"), "ANTHROPIC_ADMIN_KEY"),
    ("rate_limited", always(429, {}), "try again later"),
    ("http_error", always(500, {}), "answered 500"),
    ("http_error", always(404, {}), "answered 404"),
    ("moved", always(302, b"", {"Location": "http://127.0.0.1:9/"}), "new address"),
    ("not_json", always(200, b"<html>", {"Content-Type": "text/html"}), "not JSON (text/html)"),
    ("wrong_shape", always(200, []), "no list of entries"),
    ("wrong_shape", always(200, {"data": [1]}), "no list of entries"),
    ("wrong_shape", always(200, {"data": [{"models": "", "limits": []}]}), "no name of a model"),
    ("wrong_shape", always(200, {"data": [{"models": ["a"]}]}), "under 'limits'"),
    ("wrong_shape", always(200, {"data": [anthropic_entry(["a"], requests_per_minute=True)]}), "a name and a number"),
    ("wrong_shape", always(200, {"data": [{"models": ["a"], "limits": [{"type": 1, "value": 1}]}]}), "a name and"),
    ("wrong_shape", always(200, {"data": []}), "holds no limit"),
    ("wrong_shape", always(200, {"data": [], "next_page": "again"}), "in a circle"),
    ("wrong_shape", always(200, b'{"data": [{"models": ["a"], "limits": [{"type": "requests_per_minute", "value": '
                                b"Infinity}]}]}"), "positive number"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "answer", "said"), FAILURES, ids=[f"{f[0]}-{f[2]}" for f in FAILURES])
def test_each_failure_is_told_apart(
    admin: Admin, caplog: pytest.LogCaptureFixture, reason: str, answer: Answerer, said: str
) -> None:
    admin.answer = answer
    with caplog.at_level(logging.DEBUG, logger="bulkllm"):
        (result,) = fetched("anthropic")
    assert (result.reason, result.limits) == (reason, ())
    assert said in str(result.message)
    assert KEY not in f"{result}{caplog.text}"


def test_half_a_list_does_not_pass_for_the_whole(admin: Admin) -> None:
    body = {"object": "list", "data": [openai_entry("a", 1, 1)], "last_id": None, "has_more": True}
    admin.answer = always(200, body)
    (result,) = fetched("openai", parts={"openai": "proj_abc"})
    assert (result.reason, result.limits) == ("wrong_shape", ())
    assert "there is more" in str(result.message)


def test_an_endless_list_ends(admin: Admin) -> None:
    admin.answer = lambda _: (200, {"data": [], "next_page": str(len(admin.seen))}, {})
    (result,) = fetched("anthropic")
    assert "more than 100 pages" in str(result.message)
    assert len(admin.seen) == 100


@pytest.mark.parametrize(
    ("body", "said"),
    [({"data": [{"object": "project.rate_limit", "model": "x"}], "has_more": False}, "none of"),
     ({"data": [openai_entry("x", 1, 1) | {"max_requests_per_1_minute": "500"}], "has_more": False}, "a number")],
)  # fmt: skip
def test_openais_entries_are_looked_through_too(admin: Admin, body: dict[str, Any], said: str) -> None:
    admin.answer = always(200, body)
    (result,) = fetched("openai", parts={"openai": "proj_abc"})
    assert result.reason == "wrong_shape"
    assert said in str(result.message)


def test_no_project_at_all_is_said(admin: Admin) -> None:
    admin.answer = always(200, {"object": "list", "data": [], "has_more": False})
    assert "names no project" in str(fetched("openai")[0].message)
    admin.answer = always(200, {"object": "list"})
    assert fetched("openai")[0].reason == "wrong_shape"


def test_a_missing_or_mangled_key_is_not_sent(admin: Admin) -> None:
    (missing,) = fetched("openai", environ={"ANTHROPIC_ADMIN_KEY": KEY})
    assert (missing.reason, missing.message) == ("no_key", "openai: no key; set OPENAI_ADMIN_KEY")
    for key in ("sk-admin-se\ncret", "sk-admin-se cret", "sk-admin-se\u00e9cret"):
        (mangled,) = fetched("openai", environ={"OPENAI_ADMIN_KEY": key})
        assert mangled.reason == "bad_key"
        assert "cret" not in str(mangled.message)
    assert admin.seen == []


def test_a_server_that_is_silent_or_away_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        row = admin_rows()["anthropic"]
        assert row.account is not None
        there = replace(row, account=replace(row.account, url=f"http://127.0.0.1:{port}/v1"))
        monkeypatch.setattr(fetch, "admin_rows", lambda: {"anthropic": there})
        assert fetched("anthropic", timeout=0.05)[0].reason == "timeout"
    assert fetched("anthropic", timeout=0.5)[0].reason == "unreachable"


def test_every_row_is_whole_and_says_where_it_comes_from() -> None:
    tables = tomllib.loads(files("bulkllm.limits").joinpath("admin.toml").read_text(encoding="utf-8"))["provider"]
    assert set(tables) == {"anthropic", "openai"}
    for name, table in tables.items():
        row = row_from(name, table)
        assert row.docs.startswith("https://")
        assert type(row.as_of) is date
        assert row.keys
        for listing in (row.account, row.part, row.parts):
            assert listing is None or listing.url.startswith("https://")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "there is no 'colour'"),
        ({"part": {"url": "https://x/y"}}, "lacks {part}"),
        ({"part": {"url": "https://x/{part}", "colour": 1}}, "there is no 'colour'"),
        ({"account": None}, "nothing to ask"),
        ({"dimensions": {"x": "rps"}}, "dimensions may be"),
    ],
)
def test_a_wrong_row_is_refused(change: dict[str, Any], said: str) -> None:
    tables = tomllib.loads(files("bulkllm.limits").joinpath("admin.toml").read_text(encoding="utf-8"))["provider"]
    table = {key: value for key, value in (tables["anthropic"] | change).items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        row_from("x", table)
    with pytest.raises(ConfigError, match="'prefix' is missing"):
        row_from("x", {key: value for key, value in tables["anthropic"].items() if key != "prefix"})


def test_a_row_with_parts_that_cannot_be_listed_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    row: AdminRow = replace(admin_rows()["openai"], parts=None)
    monkeypatch.setattr(fetch, "admin_rows", lambda: {"openai": row})
    assert fetched("openai")[0].reason == "ambiguous"
