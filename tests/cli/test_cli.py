"""The command line against a server on loopback; what is about processes and signals in a process of its own."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bulkllm import __version__
from bulkllm.cli import main
from bulkllm.cli.exits import guarded, prepared, warnings_shown
from bulkllm.cli.options import keywords
from bulkllm.testing import FakeProvider, Fault

COMMAND = [sys.executable, "-m", "bulkllm"]


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Bulkllm = Callable[..., Done]


@pytest.fixture
def bulkllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bulkllm:
    """The command in this process, which has LiteLLM already, in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["bulkllm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    return command


def spawned(*words: str, cwd: Path, stdin: str | None = None) -> Done:
    done = subprocess.run(
        [*COMMAND, *words], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=100, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as server:
        yield server


def write_rows(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"custom_id": f"r{n}", "prompt": f"question {n}"}) + "\n" for n in range(count)))
    return path


def run_words(provider: FakeProvider, rows: Path, *more: str) -> list[str]:
    return ["run", str(rows), "--model", "openai/gpt-4.1-mini", "--output", "out.jsonl", "--api-base",
            provider.openai_base, "--option", "api_key=sk-fake", *more]  # fmt: skip


def test_help_lists_the_commands_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom bulkllm.cli import main\nsys.argv = ['bulkllm', '--help']\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'litellm', 'pandas', 'rich', 'redis', 'requests'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout
    for command in ("run", "demo", "fake-provider"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["run", "demo", "fake-provider"])
def test_each_command_explains_itself(bulkllm: Bulkllm, command: str, tmp_path: Path) -> None:
    done = bulkllm(command, "--help")
    assert done.returncode == 0
    assert "--" in done.stdout
    assert done.stderr == ""


def test_version(tmp_path: Path) -> None:
    assert spawned("--version", cwd=tmp_path).stdout == f"bulkllm {__version__}\n"


def test_run_writes_each_answer_and_continues(bulkllm: Bulkllm, provider: FakeProvider, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 5)
    first = bulkllm(*run_words(provider, rows, "--json"))
    assert first.returncode == 0, first.stderr
    told: dict[str, Any] = json.loads(first.stdout)
    assert (told["total"], told["ok"], told["failed"], told["skipped"]) == (5, 5, 0, 0)
    assert told["usage"]["total"]["output_tokens"] == provider.report().output_tokens
    write_rows(rows, 7)
    again = bulkllm(*run_words(provider, rows))
    assert again.returncode == 0
    assert "7 ok" in again.stdout
    assert "5 were done in earlier runs" in again.stdout
    assert provider.report().requests == 7
    assert provider.report().repeated_requests == 0
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(row["custom_id"] for row in results) == [f"r{n}" for n in range(7)]
    assert "sk-fake" not in (tmp_path / "out.jsonl").read_text()


def test_standard_input_and_a_template(provider: FakeProvider, tmp_path: Path) -> None:
    done = spawned(
        *run_words(provider, Path("-"), "--prompt", "Say {{word}}", "--json"), cwd=tmp_path, stdin='{"word": "hello"}\n'
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 1


def test_failed_rows_exit_with_1(bulkllm: Bulkllm, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 3)
    with FakeProvider(faults=[Fault("status", status=400, match="question 1")]) as provider:
        done = bulkllm(*run_words(provider, rows))
    assert done.returncode == 1, done.stderr
    assert "2 ok, 1 failed" in done.stdout


def test_a_wrong_key_stops_the_run_with_3_and_the_cure(bulkllm: Bulkllm, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 200)
    with FakeProvider(keys={"sk-right"}) as provider:
        done = bulkllm(*run_words(provider, rows, "--max-in-flight", "5"))
        assert provider.report().requests < 50
    assert done.returncode == 3
    assert "key" in done.stderr


def test_a_run_shares_its_limits_through_a_store(bulkllm: Bulkllm, provider: FakeProvider, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 3)
    done = bulkllm(*run_words(provider, rows, "--tpm", "1000000", "--store", "limits.db"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "limits.db").exists()
    refused = bulkllm(*run_words(provider, rows, "--tpm", "1000000", "--store", "ftp://nowhere"))
    assert refused.returncode == 2
    assert "ftp://" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--model", "openai/x"], "FILE"),
        (["run", "nowhere.jsonl", "--model", "openai/x", "--output", "o.jsonl"], "nowhere.jsonl"),
        (["run", "in.jsonl", "--model", "openai/x"], "--output"),
        (["run", "in.jsonl", "--model", "openai/x", "--output", "o.jsonl", "--rpm", "-5"], "rpm"),
        (["run", "in.jsonl", "--model", "openai/x", "--output", "o.jsonl", "--option", "nonsense"], "NAME=VALUE"),
        (["run", "in.jsonl", "--model", "openai/x", "--output", "in.jsonl"], "in.jsonl"),
        (["run", "bad.jsonl", "--model", "openai/x", "--output", "o.jsonl"], "bad.jsonl:2"),
        (["fake-provider", "--rpm", "0"], "rpm"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_usage_exits_with_2_and_names_the_place(
    bulkllm: Bulkllm, words: list[str], said: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "in.jsonl", 1)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    done = bulkllm(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--option", "limit=3"], "--option limit is no keyword of LiteLLM's; that is what --limit is for"),
        (["--option", "model=x"], "--model is for"),
        (["--option", "sample=3"], "--sample is for"),
        (["--option", "fallbacks=x"], "--fallback is for"),
        (["--option", "progress=false"], "--no-progress is for"),
        (["--option", "requests=3"], "FILE is for"),
        (["--option", "client=3"], "--option client is no keyword of LiteLLM's; it can only be given in a program"),
        (["--option", "ordered=true"], "it can only be given in a program"),
        (["--option", "cache=true"], "it can only be given in a program"),
        (["--option", "priority=x"], "priority='x' must be a number"),
        (["--option", "tags=x"], "tags= takes a mapping"),
        (["--timeout", "0"], "timeout=0.0 must be a positive number of seconds"),
        (["--num-retries", "-1"], "num_retries=-1 must be a whole number"),
        (["--burst", "5"], "--burst says how a limit is counted: give --rpm"),
        (["--window", "bogus"], "--window says how a limit is counted: give --rpm"),
        (["--store", "limits.db"], "--store shares limits: give --rpm, --tpm or --limits"),
    ],
)
def test_what_would_do_nothing_or_harm_is_refused_before_the_first_row(
    bulkllm: Bulkllm, provider: FakeProvider, tmp_path: Path, words: list[str], said: str
) -> None:
    done = bulkllm(*run_words(provider, write_rows(tmp_path / "in.jsonl", 1), *words))
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    if words[0] != "--store":
        done = bulkllm("plan", "in.jsonl", "-m", "openai/x", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_litellms_own_cache_keyword_goes_through() -> None:
    assert keywords(['cache={"no-cache": true}']) == {"cache": {"no-cache": True}}


def test_a_warning_of_the_librarys_is_said_once_and_not_on_standard_output(
    bulkllm: Bulkllm, provider: FakeProvider, tmp_path: Path
) -> None:
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "a", "temprature": 1}\n{"prompt": "b", "temprature": 2}\n')
    for _ in range(2):
        done = bulkllm(*run_words(provider, rows, "--json"))
        told = [line for line in done.stderr.splitlines() if "temprature" in line]
        assert len(told) == 1
        assert told[0].startswith("warning: column 'temprature' is carried to the results; if the option 'temperature'")
        assert json.loads(done.stdout)["ok"] == 2
    assert [type(handler) for handler in logging.getLogger("bulkllm").handlers] == [logging.NullHandler]


def test_a_warning_goes_to_what_stands_for_standard_error_at_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings_shown():
        above_the_bar = io.StringIO()  # as a progress bar has it
        monkeypatch.setattr(sys, "stderr", above_the_bar)
        for _ in range(2):
            logging.getLogger("bulkllm.bulk").warning("%s is odd", "it")
        logging.getLogger("bulkllm.bulk").info("nobody is told")
    assert above_the_bar.getvalue() == "warning: it is odd\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "secret/in.jsonl"), "secret/in.jsonl: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "D"), "D: Is a directory"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x: there is no such file"),
        (OSError("the connection is gone"), "output: the connection is gone"),
    ],
)
def test_an_error_of_the_systems_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back, whatever takes its place

    def command() -> None:
        raise error

    assert guarded(command) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


class Broken(io.StringIO):
    """A standard output that takes nothing."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "output: No space left on device"), (errno.EPIPE, "")])
def test_an_output_that_takes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(number))
    assert guarded(lambda: sys.stdout.write("told")) == (2 if said else 1)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_run_that_is_done_is_done_though_its_summary_cannot_be_printed(
    bulkllm: Bulkllm, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(number))
    done = bulkllm(*run_words(provider, write_rows(tmp_path / "in.jsonl", 2), "--no-progress"))
    assert done.returncode == 0
    told = "error: the summary cannot be printed (No space left on device); the answers are in out.jsonl\n"
    assert done.stderr == (told if number == errno.ENOSPC else "")


def test_a_closed_output_is_no_failure_and_a_closed_input_is_named(
    bulkllm: Bulkllm, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert bulkllm(*run_words(provider, write_rows(tmp_path / "in.jsonl", 2), "--no-progress")).returncode == 0
    monkeypatch.setattr(sys, "stdin", None)
    done = bulkllm(*run_words(provider, Path("-")))
    assert (done.returncode, "standard input is closed; send the requests" in done.stderr) == (2, True)


def test_what_an_encoding_lacks_is_written_as_json_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    beneath = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(beneath, encoding="cp1252"))
    prepared()
    sys.stdout.write(json.dumps("é 中 \x81 😀 \ud83d", ensure_ascii=False))
    sys.stdout.flush()
    assert beneath.getvalue().decode("cp1252") == r'"é \u4e2d \u0081 \ud83d\ude00 \ud83d"'
    assert json.loads(beneath.getvalue().decode("cp1252")) == "é 中 \x81 😀 \ud83d"


def test_ctrl_c_drains_and_the_same_command_continues(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 60)
    with FakeProvider(latency=0.2) as provider:
        words = run_words(provider, rows, "--max-in-flight", "4")
        with subprocess.Popen(
            [*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            give_up = time.monotonic() + 60
            while provider.report().successes < 4 and time.monotonic() < give_up:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == 130
        done = len((tmp_path / "out.jsonl").read_text().splitlines())
        assert 4 <= done < 60
        assert spawned(*words, cwd=tmp_path).returncode == 0
        assert provider.report().requests == 60
        assert provider.report().repeated_requests == 0


def test_fake_provider_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    from http.client import HTTPConnection

    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*COMMAND, "fake-provider", "--port", "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(3)]
        address = lines[2].split()[-1].removeprefix("http://").partition("/")[0]
        connection = HTTPConnection(address, timeout=10)
        connection.request("GET", "/__report__")
        assert json.loads(connection.getresponse().read())["requests"] == 0
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_demo_ends_with_its_report_and_asks_nothing_twice(bulkllm: Bulkllm) -> None:
    first = bulkllm("demo", "--limit", "12", "--no-progress")
    assert first.returncode == 0, first.stderr
    for word in ("rows", "tokens", "cost", "latency", "limits", "results", "provider", "12 ok"):
        assert word in first.stdout
    again = bulkllm("demo", "--limit", "12", "--no-progress", "--json")
    told = json.loads(again.stdout)
    assert told["skipped"] == 12
    assert told["provider"]["requests"] == 0


def test_demo_killed_half_way_repeats_no_more_than_was_in_flight(tmp_path: Path) -> None:
    with FakeProvider(latency=0.3) as provider:
        words = ["demo", "--server", provider.url, "--no-progress"]
        with subprocess.Popen(
            [*COMMAND, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            give_up = time.monotonic() + 60
            while provider.report().successes < 30 and time.monotonic() < give_up:
                time.sleep(0.02)
            process.kill()
            process.wait()
            in_flight = provider.report().peak_in_flight
        again = spawned(*words, "--json", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        told = json.loads(again.stdout)
        assert told["ok"] == told["total"]
        assert 30 - in_flight <= told["skipped"] < told["total"]
        assert provider.report().repeated_requests <= in_flight
