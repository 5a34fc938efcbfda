"""Settings: who is asked first, and what a mistake is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bulkllm.config import Settings, TomlFile, cache_dir, config_dir, read_toml, state_dir
from bulkllm.errors import ConfigError


def _settings(tmp_path: Path, toml: str = "", environ: dict[str, str] | None = None) -> Settings:
    (tmp_path / "config.toml").write_text(toml, encoding="utf-8")
    return Settings(tmp_path, environ=environ or {})


@pytest.mark.parametrize(
    ("function", "variable"),
    [(config_dir, "BULKLLM_CONFIG_DIR"), (cache_dir, "BULKLLM_CACHE_DIR"), (state_dir, "BULKLLM_STATE_DIR")],
)
def test_directories_are_argument_then_environment_then_the_usual_place(
    function: object, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert callable(function)
    monkeypatch.setenv(variable, str(tmp_path / "from-environment"))
    assert function(tmp_path / "given") == tmp_path / "given"
    assert function() == tmp_path / "from-environment"
    monkeypatch.setenv(variable, "~/somewhere")
    assert function() == Path.home() / "somewhere"
    monkeypatch.setenv(variable, "")
    assert "bulkllm" in str(function())
    assert not (tmp_path / "from-environment").exists()


def test_the_first_answer_wins(tmp_path: Path) -> None:
    toml = "[cache]\nmax_bytes = 3\n"
    everywhere = _settings(tmp_path, toml, {"BULKLLM_CACHE_MAX_BYTES": "2"})
    assert everywhere.get("cache.max_bytes", int, 4, argument=1) == 1
    assert everywhere.get("cache.max_bytes", int, 4) == 2
    assert _settings(tmp_path, toml).get("cache.max_bytes", int, 4) == 3
    assert _settings(tmp_path).get("cache.max_bytes", int, 4) == 4
    assert Settings(tmp_path / "nowhere", environ={}).get("cache.max_bytes", int, None) is None


def test_an_argument_that_is_false_or_zero_is_an_argument(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "on = true\n", {"BULKLLM_RETRIES": "5"})
    assert settings.get("on", bool, default=True, argument=False) is False
    assert settings.get("retries", int, 3, argument=0) == 0


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("yes", bool, True),
        ("Off", bool, False),
        ("1_000", int, 1000),
        ("2.5", float, 2.5),
        ("3", float, 3.0),
        ("text", str, "text"),
    ],
)
def test_environment_values_become_what_is_asked_for(text: str, kind: type, value: object, tmp_path: Path) -> None:
    found = _settings(tmp_path, environ={"BULKLLM_THING": text}).get("thing", kind, None)
    assert found == value
    assert type(found) is kind


@pytest.mark.parametrize(("text", "kind"), [("maybe", bool), ("1.5", int), ("nan", float), ("many", float)])
def test_an_environment_value_of_the_wrong_kind_is_named(text: str, kind: type, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^BULKLLM_THING: expected .*, found '"):
        _settings(tmp_path, environ={"BULKLLM_THING": text}).get("thing", kind, None)


def test_a_file_value_of_the_wrong_kind_names_file_line_key_and_expectation(tmp_path: Path) -> None:
    settings = _settings(tmp_path, '# mine\n[cache]\n\nmax_bytes = "big"\n')
    with pytest.raises(ConfigError) as caught:
        settings.get("cache.max_bytes", int, 1)
    assert str(caught.value) == (f"{tmp_path / 'config.toml'}:4: cache.max_bytes: expected a whole number, found 'big'")


@pytest.mark.parametrize(("toml", "kind"), [("x = true", int), ("x = 1", bool), ("x = 1", str), ("x = inf", float)])
def test_a_file_value_is_not_bent_into_shape(toml: str, kind: type, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="x: expected"):
        _settings(tmp_path, toml).get("x", kind, None)


def test_a_key_where_a_table_should_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.toml:1: cache: expected a table"):
        _settings(tmp_path, "cache = 5\n").get("cache.max_bytes", int, 1)


def test_what_looks_like_a_secret_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _settings(tmp_path, 'api_key = "sk-very-secret"\n').get("api_key", int, 1)
    assert "sk-very-secret" not in str(caught.value)
    assert "not shown" in str(caught.value)


def test_toml_that_is_none_names_file_line_column_and_key(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("a = 1\nlimit = = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^{path}:2:9: limit: not valid TOML: .*expected lines like"):
        read_toml(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{path}: .*expected a TOML file"):
        read_toml(path)


def test_lines_are_found_through_tables_texts_and_inline_tables() -> None:
    text = """top = 1
[[model]]
name = "a"   # the first
note = '''
[[model]]
name = "not a table"
'''
[[model]]
"quoted key" = 2
[model.inner]
deep = 3
[[model]]
dotted.key = 4
[other]
name = "b"
"""
    import tomllib

    file = TomlFile(Path("x.toml"), text, tomllib.loads(text))
    assert file.line("top") == 1
    assert file.line("model", 0, "name") == 3
    assert file.line("model", 1) == 8
    assert file.line("model", 1, "quoted key") == 9
    assert file.line("model", 1, "inner", "deep") == 11
    assert file.line("model", 2, "dotted", "key") == 13
    assert file.line("other", "name") == 15
    assert file.line("model", 3) is None
    assert str(file.error(("model", 1, "absent"), "missing")) == "x.toml:8: model[1].absent: missing"


def test_importing_it_reads_nothing_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; import bulkllm.config; "
        "heavy = {'litellm', 'pydantic', 'platformdirs', 'tomllib', 'requests'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("toml", "environ", "argument", "value"),
    [
        ("", {}, None, False),
        ("", {}, True, True),
        ("wait = true\n", {}, None, True),
        ("wait = 90\n", {}, None, 90.0),
        ("wait = 1.5\n", {"BULKLLM_WAIT": "no"}, None, False),
        ("", {"BULKLLM_WAIT": "yes"}, None, True),
        ("", {"BULKLLM_WAIT": "1"}, None, True),
        ("", {"BULKLLM_WAIT": "3600"}, None, 3600.0),
        ("", {"BULKLLM_WAIT": "3600"}, False, False),
    ],
)
def test_a_flag_may_be_a_number(
    toml: str, environ: dict[str, str], argument: bool | None, value: object, tmp_path: Path
) -> None:
    found = _settings(tmp_path, toml, environ).flag_or_number("wait", False, argument=argument)
    assert (found, type(found)) == (value, type(value))


def test_what_is_neither_a_flag_nor_a_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^BULKLLM_WAIT: expected true, false or a number, found 'long'"):
        _settings(tmp_path, environ={"BULKLLM_WAIT": "long"}).flag_or_number("wait", default=False)
    with pytest.raises(ConfigError, match=r"config\.toml:2: wait: expected true, false or a number, found 'long'"):
        _settings(tmp_path, '\nwait = "long"\n').flag_or_number("wait", default=False)
