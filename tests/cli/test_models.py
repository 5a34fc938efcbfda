"""``bulkllm models``: each command through the command line; refreshing against a server on loopback."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bulkllm import _litellm, models
from bulkllm.cli import main

# pydantic says so of LiteLLM's own types, whenever it first builds them
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

USER = """
[aliases]
mine = "openai/cli-model"

[[model]]
name = "openai/cli-model"
mode = "chat"
max_input_tokens = 1000
input_cost_per_token = 1e-6
output_cost_per_token = 4e-6
source = "my notes"
as_of = 2026-11-01

[[model]]
name = "openai/cli-old"
mode = "chat"
deprecation_date = 2026-01-01
replacement = "openai/cli-model"
rpm = 5
source = "my notes"

[[preset]]
slug = "mine-brief"
model = "openai/cli-model"
max_tokens = 50
api_key_env = "NOBODY_SETS_THIS"

[[preset]]
slug = "old"
model = "openai/cli-old"
"""

ROW = """
[provider.{name}]
url = "{url}/{name}"
keys = ["{name}_API_KEY"]
auth = "Authorization: Bearer {{key}}"
items = "data"
id = "id"
prefix = "{name}/"
[provider.{name}.fields]
max_input_tokens = {{ path = "context", as = "int" }}
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read."""
        return json.loads(self.out)


Command = Callable[..., Done]


@pytest.fixture
def command(
    own_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """``bulkllm models`` in this process, for a user who has the file above."""
    monkeypatch.setenv("BULKLLM_CONFIG_DIR", str(tmp_path))
    (tmp_path / "models.toml").write_text(USER, encoding="utf-8")

    def run(*words: str) -> Done:
        models.reset()  # each command is a process of its own
        monkeypatch.setattr(sys, "argv", ["bulkllm", "models", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    yield run
    models.reset()


@pytest.fixture
def lists(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What a server on loopback answers by path, for two providers of the user's: a list of models, or a status."""
    answers: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
            """Say nothing."""

        def do_GET(self) -> None:
            answer = answers[self.path]
            raw = json.dumps({"data": answer if isinstance(answer, list) else []}).encode()
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    rows = "".join(ROW.format(name=name, url=url) for name in ("aaa", "bbb"))
    (tmp_path / "models.toml").write_text(USER + rows, encoding="utf-8")
    for name in ("aaa", "bbb"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-secret-of-the-test")
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


def rows_of(done: Done) -> list[list[str]]:
    """A table's lines below its head, cut at two spaces or more."""
    return [[cell for cell in line.split("  ") if cell.strip()] for line in done.out.splitlines()[2:]]


# -- list, select, show --------------------------------------------------------------------------------------


def test_list_shows_models_with_limits_and_prices(command: Command) -> None:
    done = command("list", "openai/cli-*")
    assert (done.code, done.err) == (0, "")
    [new, old] = done.out.splitlines()[2:]
    assert new.split() == ["openai/cli-model", "chat", "1,000", "1", "4", "-"]
    assert old.split() == ["openai/cli-old", "chat", "-", "-", "-", "2026-01-01"]


def test_list_as_json_has_all_that_is_known(command: Command) -> None:
    [told] = command("list", "mine", "--json").json["models"]
    assert (told["name"], told["max_input_tokens"], told["aliases"]) == ("openai/cli-model", 1000, ["mine"])
    assert told["origins"]["max_input_tokens"] == "user: my notes (2026-11-01)"


def test_models_without_limits(command: Command) -> None:
    def names(*words: str) -> list[str]:
        return [told["name"] for told in command("list", "openai/cli-*,gpt-5-mini", *words, "--json").json["models"]]

    assert names() == ["gpt-5-mini", "openai/cli-model", "openai/cli-old"]
    assert names("--without-limits") == ["openai/cli-model", "openai/cli-old"]
    assert "openai/cli-old" not in names("--without-rates")
    assert "openai/cli-model" in names("--without-rates")
    told = command("select", "mine-brief,old,gpt-5-mini", "--without-limits", "--json").json["presets"]
    assert [preset["slug"] for preset in told] == ["mine-brief", "old"]


def test_what_a_call_costs(command: Command) -> None:
    words = ["openai/cli-*", "--input-tokens", "1000", "--output-tokens", "100"]
    told = {model["name"]: model["cost"] for model in command("list", *words, "--json").json["models"]}
    assert told == {"openai/cli-model": pytest.approx(0.0014), "openai/cli-old": None}
    assert command("list", *words).out.splitlines()[2].split()[-1] == "0.0014"
    [preset] = command("select", "mine-brief", *words[1:], "--json").json["presets"]
    assert preset["cost"] == pytest.approx(0.0014)
    assert command("show", "mine", *words[1:], "--json").json["cost"] == pytest.approx(0.0014)
    done = command("list", "mine", "--input-tokens", "5")
    assert (done.code, "--output-tokens" in done.err) == (2, True)


def test_what_every_model_costs_takes_no_network_and_leaves_the_unknown_open(command: Command) -> None:
    _litellm.load()
    done = command("list", "--input-tokens", "1000", "--output-tokens", "100", "--json")
    assert done.code == 0, done.err
    told = done.json["models"]
    priced = [
        model
        for model in told
        if (model["prices"].get("input_cost_per_token") or 0) > 0 and model["prices"].get("output_cost_per_token")
    ]
    assert len(priced) > 2000
    assert sum(model["cost"] is not None for model in priced) > 0.97 * len(priced)
    assert all(model["cost"] != 0 for model in priced)
    unpriced = [model for model in told if model["prices"].get("input_cost_per_token") is None]
    assert unpriced
    assert all(model["cost"] is None for model in unpriced)


@pytest.mark.parametrize(("width", "left_out"), [(200, set()), (100, {"abilities"}), (60, {"abilities", "model"})])
def test_a_narrow_terminal_leaves_columns_out_and_folds_no_slug(
    width: int, left_out: set[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    drawn = command("select", "gpt-5-mini,gpt-4.1-mini,gpt-4o-mini").out
    lines = re.sub(r"\x1b\[[\d;]*m", "", drawn).splitlines()
    heads = set(re.split(r"\s{2,}", lines[0].strip()))
    assert {"slug", "$/M in"} <= heads
    assert {"model", "abilities"} - heads == left_out
    assert [line.split()[0] for line in lines[2:]] == ["gpt-5-mini", "gpt-4.1-mini", "gpt-4o-mini"]


def test_select_keeps_the_registrys_order(command: Command) -> None:
    words = ["old,gpt-5-mini,mine-brief", "--json"]
    assert [preset["slug"] for preset in command("select", *words).json["presets"]] == [
        "gpt-5-mini", "mine-brief", "old",
    ]  # fmt: skip
    assert [row[0].strip() for row in rows_of(command("select", words[0]))] == ["gpt-5-mini", "mine-brief", "old"]
    [plain] = command("select", "--models", "mine", "--json").json["presets"]
    assert (plain["slug"], plain["model"]) == ("openai/cli-model", "openai/cli-model")


def test_show_says_where_each_fact_is_from(command: Command) -> None:
    lines = {line.split()[0]: line for line in command("show", "mine").out.splitlines() if line.strip()}
    assert lines["max_input_tokens"].rstrip().split(maxsplit=2)[1:] == ["1,000", "user: my notes (2026-11-01)"]
    assert "user: my notes" in lines["input_cost_per_token"]
    assert lines["aliases"].split() == ["aliases", "mine", "user"]


def test_show_a_preset_and_the_keywords_that_a_call_gets(command: Command) -> None:
    told = command("show", "mine-brief", "--json").json
    assert told["name"] == "openai/cli-model"
    assert told["preset"]["keywords"] == {"model": "openai/cli-model", "max_tokens": 50}
    assert len(told["preset"]["content_hash"]) == 64
    assert "preset mine-brief" in command("show", "mine-brief").out


# -- refresh and diff ----------------------------------------------------------------------------------------


def test_refresh_keeps_the_lists_and_diff_says_what_changed(command: Command, lists: dict[str, Any]) -> None:
    lists["/aaa"] = [{"id": "one", "context": 10}, {"id": "two", "context": 20}]
    lists["/bbb"] = [{"id": "three"}]
    first = command("refresh", "aaa", "bbb", "--json")
    assert first.code == 0, first.err
    assert [(told["provider"], told["status"], told["models"]) for told in first.json["providers"]] == [
        ("aaa", "updated", 2), ("bbb", "updated", 1),
    ]  # fmt: skip
    assert command("show", "aaa/one", "--json").json["max_input_tokens"] == 10
    assert "nothing: " in command("diff").err

    assert command("refresh", "aaa", "--json").json["providers"][0]["status"] == "fresh"
    lists["/aaa"] = [{"id": "one", "context": 11}, {"id": "new"}]
    again = command("refresh", "aaa", "--force")
    assert again.out.split()[-4:] == ["aaa", "updated", "2", "3"]
    changes = command("diff", "aaa", "--json").json["changes"]
    assert [(c["model"], c["kind"], c["field"], c["before"], c["after"]) for c in changes] == [
        ("aaa/new", "added", None, None, None),
        ("aaa/two", "removed", None, None, None),
        ("aaa/one", "changed", "max_input_tokens", 10, 11),
    ]
    assert command("diff").out.splitlines()[-1].split() == ["aaa", "aaa/one", "changed", "max_input_tokens", "10", "11"]


def test_one_provider_failing_exits_with_1_and_the_others_are_there(command: Command, lists: dict[str, Any]) -> None:
    lists["/aaa"], lists["/bbb"] = 401, [{"id": "three"}]
    done = command("refresh", "aaa", "bbb")
    assert done.code == 1
    assert "the key in aaa_API_KEY is not accepted" in done.out
    assert "sk-secret" not in done.out + done.err
    assert command("show", "bbb/three").code == 0
    told = command("refresh", "aaa", "--json").json["providers"][0]
    assert (told["status"], told["reason"]) == ("failed", "refused")


def test_providers_without_a_key_are_left_out_and_said(
    command: Command, lists: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = ROW.format(name="openrouter", url="http://127.0.0.1:1")  # the only one that is asked without a key
    with (tmp_path / "models.toml").open("a", encoding="utf-8") as file:
        file.write(closed)
    lists["/aaa"] = lists["/bbb"] = [{"id": "x"}]
    monkeypatch.delenv("bbb_API_KEY")
    done = command("refresh")
    assert done.code == 0
    assert "bbb (bbb_API_KEY)" in done.err
    assert "openai (OPENAI_API_KEY)" in done.err
    assert [row[0] for row in rows_of(done)] == ["aaa"]


# -- deprecated ----------------------------------------------------------------------------------------------


def test_presets_whose_model_is_gone_or_deprecated(command: Command, lists: dict[str, Any], tmp_path: Path) -> None:
    told = {entry["slug"]: entry for entry in command("deprecated", "--json").json["presets"]}
    assert (told["old"]["status"], told["old"]["date"]) == ("deprecated", "2026-01-01")
    assert told["old"]["replacement"] == "openai/cli-model"
    assert "mine-brief" not in told
    with (tmp_path / "models.toml").open("a", encoding="utf-8") as file:
        file.write('\n[[preset]]\nslug = "going"\nmodel = "aaa/two"\n')
    lists["/aaa"] = [{"id": "two"}]
    assert command("refresh", "aaa").code == 0
    assert "going" not in command("deprecated").out
    lists["/aaa"] = [{"id": "one"}]
    assert command("refresh", "aaa", "--force").code == 0
    assert command("deprecated").out.splitlines()[2].split()[:3] == ["going", "aaa/two", "gone"]


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "gpt-5-mni"], "gpt-5-mini"),
        (["list", "comapny:openai"], "company:"),
        (["select", "price<0", "price>0"], "fits"),
        (["refresh", "nobody"], "no provider is called 'nobody'"),
        (["diff", "nobody"], "no provider is called 'nobody'"),
        (["deprecated", "--within-days", "-1"], "--within-days"),
        (["deprecated", "--within-days", "99999999999"], "--within-days"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_usage_exits_with_2_and_says_what_would_do(command: Command, words: list[str], said: str) -> None:
    done = command(*words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_mistake_in_the_users_file_is_said_and_the_rest_works(command: Command, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(USER.replace("max_input_tokens = 1000", 'max_input_tokens = "1000"'))
    done = command("show", "mine", "--json")
    assert done.code == 0
    assert done.json["prices"]["input_cost_per_token"] == 1e-6
    assert done.err.startswith(f"warning: {tmp_path / 'models.toml'}:8: model[0].max_input_tokens: expected a whole")
    assert done.err.count("warning: ") == 1


@pytest.mark.parametrize("name", ["list", "show", "select", "refresh", "diff", "deprecated"])
def test_each_command_explains_itself(command: Command, name: str) -> None:
    done = command(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert "--json" in done.out
