"""``bulkllm limits`` against a loopback server, and ``bulkllm run --limits``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bulkllm
from bulkllm import models
from bulkllm.cli import main
from bulkllm.limits import fetch
from bulkllm.limits.admin import admin_rows
from bulkllm.limits.configured import read_limits
from bulkllm.limits.learned import FILE_NAME, LearnedLimits, LearnedQuota, save
from bulkllm.limits.stores import Claim, Meter, open_store

KEY = "sk-admin-loopback-0123456789"


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, with directories of the test's own and no key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BULKLLM_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("BULKLLM_STATE_DIR", str(tmp_path / "state"))
    for name in ("ANTHROPIC_ADMIN_KEY", "ANTHROPIC_ADMIN_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["bulkllm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Both providers on loopback; the paths that were asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
            """Say nothing."""

        def do_GET(self) -> None:
            paths.append(self.path.partition("?")[0])
            known: dict[str, Any] = {
                "/anthropic": {
                    "data": [
                        {
                            "group_type": "model_group",
                            "models": ["claude-haiku-4-5"],
                            "limits": [
                                {"type": "requests_per_minute", "value": 50},
                                {"type": "web_things", "value": 1},
                            ],
                        }
                    ],
                    "next_page": None,
                },
                "/openai/proj_1": {
                    "data": [{"model": "gpt-5-mini", "max_requests_per_1_minute": 500, "max_tokens_per_1_minute": 9e5}],
                    "has_more": False,
                },
            }
            body = known.get(paths[-1])
            raw = json.dumps(body or {}).encode()
            self.send_response(200 if body else 403)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        packaged = admin_rows()
        claude, gpt = packaged["anthropic"], packaged["openai"]
        assert claude.account is not None
        assert gpt.part is not None
        rows = {
            "anthropic": replace(claude, account=replace(claude.account, url=f"{url}/anthropic")),
            "openai": replace(gpt, part=replace(gpt.part, url=f"{url}/openai/{{part}}")),
        }
        monkeypatch.setattr(fetch, "admin_rows", lambda: rows)
        yield paths
        server.shutdown()
        thread.join()


def test_fetch_keeps_the_limits_in_the_file_that_is_read(
    command: Command, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", KEY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    done = command("limits", "fetch", "--project", "proj_1")
    path = tmp_path / "config" / "limits.toml"
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"anthropic: 1 limit, kept in {path}",
        "  not limits of calls, left out: web_things",
        f"openai: 1 limit, kept in {path}",
    ]
    assert asked == ["/anthropic", "/openai/proj_1"]
    assert [(limit.name, limit.rpm) for limit in bulkllm.load_limits()] == [
        ("anthropic: claude-haiku-4-5", 50),
        ("openai proj_1: gpt-5-mini", 500),
    ]
    assert KEY not in path.read_text(encoding="utf-8") + done.out + done.err


def test_fetch_as_json_and_into_another_file(
    command: Command, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", KEY)
    mine = tmp_path / "mine.toml"
    mine.write_text('[[limit]]\nmodels = "mine"\nrpm = 3  # of my own\n', encoding="utf-8")
    done = command("limits", "fetch", "anthropic", "--output", str(mine), "--json")
    told = json.loads(done.out)
    assert (done.code, told["file"]) == (0, str(mine))
    (provider,) = told["providers"]
    assert (provider["provider"], provider["reason"], provider["ignored"]) == ("anthropic", None, ["web_things"])
    assert provider["limits"][0]["rpm"] == 50
    assert provider["limits"][0]["as_of"] == datetime.now(UTC).date().isoformat()
    assert "rpm = 3  # of my own\n" in mine.read_text(encoding="utf-8")
    assert not (tmp_path / "config").exists()


def test_what_fails_is_said_and_the_rest_is_kept(
    command: Command, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", KEY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    done = command("limits", "fetch", "--project", "proj_2")
    assert done.code == 1
    assert "OPENAI_ADMIN_KEY is not accepted; it takes an admin key" in done.err
    assert KEY not in done.err
    assert [one.fetched for one in read_limits()] == ["anthropic"]
    alone = command("limits", "fetch", "openai", "--project", "proj_2", "--output", "none.toml", "--json")
    assert alone.code == 1
    assert json.loads(alone.out)["file"] is None
    assert json.loads(alone.out)["providers"][0]["reason"] == "refused"
    assert not (tmp_path / "none.toml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no admin key is set. ANTHROPIC_ADMIN_KEY"),
        (["groq"], "the limits of 'groq' cannot be read"),
        (["anthropic", "--project", "p"], "'p' is a part of openai, whose limits are not asked for"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_fetch_without_what_it_needs_is_bad_usage(command: Command, words: list[str], said: str) -> None:
    done = command("limits", "fetch", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def learned(tmp_path: Path, **changes: Any) -> None:
    now = datetime.now(UTC)
    entry: dict[str, Any] = {
        "scope": "0123456789ab",
        "endpoint": "https://api.openai.com/v1",
        "provider": "openai",
        "model": "openai/gpt-5-mini",
        "quotas": {"rpm": LearnedQuota(500.0), "tpm": LearnedQuota(200_000.0)},
        "window": "sliding",
        "learned_at": now,
        "expires_at": now + timedelta(days=7),
    }
    other = {"model": "openai/old", "expires_at": now - timedelta(days=1), "quotas": {}, "rate": 7.5, "window": None}
    save(tmp_path / "state" / FILE_NAME, [LearnedLimits(**(entry | changes)), LearnedLimits(**(entry | other))])


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config" / "limits.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


TWO = """\
[[limit]]
models = "openai/gpt-5*"
rpm = 500
tpm = 200000
max_in_flight = 8
window = "bucket"
[[limit]]
name = "claude"
models = "anthropic/*"
itpm = 40000
period = 30
window = "sliding"
source = "the console"
as_of = 2026-11-01
"""


def test_show_puts_what_is_known_side_by_side(command: Command, tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    learned(tmp_path)
    done = command("limits", "show")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == f"configured {path}"
    assert lines[1] == "openai/gpt-5* 500 rpm, 200,000 tpm, 8 max in flight, bucket written by hand"
    assert lines[2] == "claude 40,000 itpm, in 30 s, sliding as of 2026-11-01, the console"
    assert lines[3] == f"learned {tmp_path / 'state' / FILE_NAME}"
    assert lines[4].startswith("openai/gpt-5-mini 500 rpm, 200,000 tpm, sliding until ")
    assert lines[4].endswith("https://api.openai.com/v1, account 0123456789ab")
    assert lines[5].startswith("openai/old 7.5 a second went well expired ")
    assert lines[6].startswith("published openai (1, 2, 3, 4, 5), anthropic (start, build, scale), ")


def test_show_of_a_model_leaves_out_what_does_not_hold_for_it(command: Command, tmp_path: Path) -> None:
    write(tmp_path, TWO)
    learned(tmp_path)
    told = json.loads(command("limits", "show", "openai/gpt-5-mini", "--json").out)
    assert [one["name"] for one in told["configured"]["limits"]] == ["openai/gpt-5*"]
    assert [one["model"] for one in told["learned"]["limits"]] == ["openai/gpt-5-mini"]
    assert told["learned"]["limits"][0]["quotas"]["rpm"] == {"amount": 500.0, "period": 60.0}
    assert [one["name"] for one in told["published"]] == [f"openai tier {tier}: gpt-5-mini" for tier in range(1, 6)]
    text = command("limits", "show", "openai/gpt-5-mini").out
    assert "openai tier 1: gpt-5-mini" in text
    assert "claude" not in text


ASKED = ["gpt-4.1-mini", "openai/gpt-4.1-mini", "mine", "round"]


@pytest.mark.parametrize("asked_for", ASKED)
@pytest.mark.parametrize("kept", ASKED[:2])
def test_show_understands_a_name_as_calls_do(command: Command, tmp_path: Path, asked_for: str, kept: str) -> None:
    write(tmp_path, f'[[limit]]\nmodels = ["openai/*", "{kept}"]\nrpm = 60\n')
    (tmp_path / "config" / "models.toml").write_text(
        '[aliases]\nmine = "gpt-4.1-mini"\nround = "mine"\n', encoding="utf-8"
    )
    learned(tmp_path, model=kept)
    models.reset()
    told = json.loads(command("limits", "show", asked_for, "--json").out)
    models.reset()
    assert [one["rpm"] for one in told["configured"]["limits"]] == [60]
    assert [one["model"] for one in told["learned"]["limits"]] == [kept]
    assert [one["name"] for one in told["published"]] == [f"openai tier {tier}: gpt-4.1-mini" for tier in range(1, 6)]


def test_show_of_nothing_says_how_to_get_something(command: Command, tmp_path: Path) -> None:
    done = command("limits", "show", "somebody/unheard-of")
    assert done.out.splitlines() == [
        f"configured  nothing: `bulkllm limits fetch` makes {tmp_path / 'config' / 'limits.toml'}",
        "learned     nothing",
        "published   nothing",
    ]
    missing = command("limits", "show", "--file", "nowhere.toml")
    assert (missing.code, missing.err) == (2, "error: nowhere.toml: there is no such file\n")
    path = write(tmp_path, "[[limit]]\nrpm = 5\n")
    broken = command("limits", "show")
    assert broken.code == 2
    assert broken.err.startswith(f"error: {path}:1: limit[0]: models is missing")


def test_how_shared_limits_stand_is_shown_live_for_all_processes(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    meters = (
        Meter("rpm", "bucket", 600.0, pool="openai/*", whole=True),
        Meter("in flight", "slots", 8.0, pool="openai/*"),
        Meter("tpm", "bucket", 1e6, pool="claude"),
    )
    with open_store(path) as store:
        for owner in ("one", "two"):
            want = {"openai/*/rpm": 100.0, "openai/*/in flight": 3.0}
            store.lease("default", Claim(owner, meters, 3600.0, want=want))
        store.close("default", "claude", 3600.0)
    done = command("limits", "show", "--store", str(path))
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    at = lines.index("shared group 'default', as it stands now")
    assert re.fullmatch(r"openai/\* left: 4\d\d rpm, 2 in flight 2 processes hold 200 rpm, 6 in flight", lines[at + 2])
    assert re.fullmatch(r"claude left: all closed for 3,[56]\d\d s", lines[at + 1])
    told = json.loads(command("limits", "show", "--store", f"sqlite://{path}", "--json").out)["shared"]
    assert told["held"]["one"]["openai/*/in flight"] == 3.0
    assert told["closed"]["claude"] > 3500
    other = command("limits", "show", "--store", str(path), "--group", "elsewhere")
    assert "shared      nothing in 'elsewhere'" in other.out
    missing = command("limits", "show", "--store", str(tmp_path / "typo.sqlite"))
    assert (missing.code, missing.out) == (2, "")
    assert "typo.sqlite: there is no such file; it is made by the first program that shares limits" in missing.err
    assert not (tmp_path / "typo.sqlite").exists()


@pytest.mark.parametrize("where", ["{}", "sqlite://{}"])
def test_looking_at_a_file_that_is_no_store_leaves_it_as_it_is(command: Command, tmp_path: Path, where: str) -> None:
    place = tmp_path / "with a space"
    place.mkdir()
    path = place / "r.jsonl"
    path.write_bytes(b'{"answer": "paid"}\n' * 200)
    said = where.format(str(path).replace(" ", "%20") if ":" in where else path)
    for _ in range(2):
        done = command("limits", "show", "--store", said)
        assert (done.code, done.out) == (2, "")
        assert f"{path} is no store of limits; give another path" in done.err
    assert path.read_bytes() == b'{"answer": "paid"}\n' * 200
    path.write_bytes(b"")
    assert "shared      nothing in 'default'" in command("limits", "show", "--store", said).out
    assert path.read_bytes() == b""
    assert list(place.iterdir()) == [path]


def test_limits_learned_at_the_providers_own_address_say_so(command: Command, tmp_path: Path) -> None:
    learned(tmp_path, endpoint="")
    assert "the provider, account 0123456789ab" in command("limits", "show").out


def test_published_tiers_are_shown_and_can_be_taken(command: Command, tmp_path: Path) -> None:
    everything = command("limits", "published")
    assert everything.out.count("\n") > 60
    start = json.loads(command("limits", "published", "anthropic", "start", "--json").out)
    assert {one["rpm"] for one in start} == {1000}
    assert all(date.fromisoformat(one["as_of"]) >= date(2026, 6, 1) for one in start)
    assert all(one["source"].startswith("https://") for one in start)
    write(tmp_path, command("limits", "published", "groq", "free", "--toml").out)
    assert bulkllm.load_limits() == bulkllm.published_limits("groq", "free")
    assert "gemini" in command("limits", "published", "gemini").err
    wrong = command("limits", "published", "openai", "9")
    assert (wrong.code, wrong.err) == (2, "error: no tier of openai is called '9'; there are 1, 2, 3, 4, 5\n")


def test_a_run_keeps_the_limits_of_the_file_and_of_the_options(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, TWO)
    seen: list[list[bulkllm.RateLimit]] = []

    class Stopped(bulkllm.BulkLLMError):
        """In place of the run."""

    def client(limits: list[bulkllm.RateLimit], **_: object) -> None:
        seen.append(limits)
        raise Stopped("no run")

    monkeypatch.setattr(bulkllm, "Client", client)
    command("run", "rows.jsonl", "--output", "out.jsonl", "--limits", str(path), "--rpm", "5")
    command("run", "rows.jsonl", "--output", "out.jsonl", "--limits", str(path))
    command("run", "rows.jsonl", "--output", "out.jsonl")
    assert [[limit.name for limit in limits] for limits in seen] == [
        ["openai/gpt-5*", "claude", "*"],
        ["openai/gpt-5*", "claude"],
        [],
    ]
    broken = command("run", "rows.jsonl", "--output", "out.jsonl", "--limits", "nowhere.toml")
    assert broken.code == 2
    assert "nowhere.toml: there is no such file; `bulkllm limits fetch` makes one" in broken.err
    assert len(seen) == 3


def test_the_help_of_limits_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom bulkllm.cli import main\nsys.argv = ['bulkllm', 'limits', 'published', 'groq']\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'litellm', 'pandas', 'rich', 'redis', 'requests'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "groq tier free: openai/gpt-oss-120b" in done.stdout


def test_a_client_holds_calls_back_by_the_file(command: Command, tmp_path: Path) -> None:
    write(tmp_path, '[[limit]]\nmodels = "openai/gpt-5*"\nrpm = 1\nwindow = "bucket"\n')
    limiter = bulkllm.Client(bulkllm.load_limits()).limiter
    first = limiter.try_reserve("openai/gpt-5-mini")
    assert first is not None
    assert limiter.try_reserve("openai/gpt-5-mini") is None
    assert limiter.status("openai/gpt-5-mini").waiting == 0
