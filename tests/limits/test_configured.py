"""The file of limits: what a user writes is read or refused by name, and fetching leaves it as it is."""

from __future__ import annotations

import re
import string
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkllm.errors import ConfigError
from bulkllm.limits import RateLimit
from bulkllm.limits.configured import (
    FILE_NAME,
    ConfiguredLimit,
    as_toml,
    limits_path,
    load_limits,
    read_limits,
    save_fetched,
)

TODAY = date(2026, 11, 23)

WRITTEN = """\
# my limits
[[limit]]
models = "openai/gpt-5*"
rpm = 500
tpm = 200_000.5
name = "the fives"  # a note

[[limit]]
models = ["anthropic/*", "bedrock/*claude*"]
itpm = 40_000
otpm = 8_000
max_in_flight = 20
window = "sliding"
period = 30
rpd = 1000
tpd = 5e6
source = "the console"
as_of = 2026-11-01
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / FILE_NAME
    path.write_text(text, encoding="utf-8")
    return path


def a_fetched(model: str, rpm: float = 10, provider: str = "openai") -> ConfiguredLimit:
    limit = RateLimit(f"{provider}/{model}", rpm=rpm, name=f"{provider}: {model}")
    return ConfiguredLimit(limit=limit, source="https://example.org/v1", as_of=TODAY, fetched=provider)


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, WRITTEN)
    assert load_limits(path) == [
        RateLimit("openai/gpt-5*", rpm=500, tpm=200_000.5, name="the fives"),
        RateLimit(["anthropic/*", "bedrock/*claude*"], itpm=40_000, otpm=8_000, max_in_flight=20, window="sliding",
                  period=30, rpd=1000, tpd=5e6),
    ]  # fmt: skip
    first, second = read_limits(str(path))
    assert (first.source, first.as_of, first.fetched) == ("", None, "")
    assert (second.source, second.as_of) == ("the console", date(2026, 11, 1))


def test_its_usual_place_is_the_configuration_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULKLLM_CONFIG_DIR", str(tmp_path))
    assert limits_path() == tmp_path / "limits.toml"
    with pytest.raises(ConfigError, match=r"limits\.toml: there is no such file; `bulkllm limits fetch` makes one"):
        load_limits()
    write(tmp_path, '[[limit]]\nmodels = "*"\nrpm = 1\n')
    assert load_limits() == [RateLimit(rpm=1)]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", None, "it holds no limit; expected [[limit]] tables"),
        ("rpm = 5", 1, "rpm: not a key that is known; expected [[limit]] tables"),
        ("[limit]\nrpm = 5", 1, "with two brackets"),
        ("limit = [5]", 1, "with two brackets"),
        ('[[limit]]\nmodels = "*"\nrpm = "500"', 3, "limit[0].rpm: expected a positive number, found '500'"),
        ('[[limit]]\nmodels = "*"\nrpm = true', 3, "a positive number, found True"),
        ('[[limit]]\nmodels = "*"\nrpm = 0', 3, "a positive number, found 0"),
        ('[[limit]]\nmodels = "*"\nrpm = inf', 3, "a positive number, found inf"),
        (
            '[[limit]]\nmodels = "*"\nrpm = 5\n[[limit]]\nrmp = 5',
            5,
            "limit[1].rmp: expected one of the keys models, rpm",
        ),
        ("[[limit]]\nrpm = 5", 1, 'limit[0]: models is missing; expected such as models = "openai/gpt-5*"'),
        ("[[limit]]\nmodels = []\nrpm = 5", 2, "a name or glob such as"),
        ('[[limit]]\nmodels = ["a", ""]\nrpm = 5', 2, "a name or glob such as"),
        ('[[limit]]\nmodels = "*"', 1, "limits nothing: give rpm"),
        ('[[limit]]\nmodels = "*"\nburst = 5', 1, "give rpm too"),
        ('[[limit]]\nmodels = "*"\nrpm = 5\nwindow = "hourly"', 1, "must be 'bucket'"),
        ('[[limit]]\nmodels = "*"\nrpm = 5\nwindow = 5', 4, "expected text, found 5"),
        ('[[limit]]\nmodels = "*"\nrpm = 5\nas_of = "today"', 4, "a date such as 2026-11-23, without quotes"),
        ('[[limit]]\nmodels = "*"\nrpm = 5\nas_of = 2026-11-23T10:00:00', 4, "a date such as"),
        ('[[limit]]\nmodels = "*"\nrpm = ', 3, "not valid TOML"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(tmp_path: Path, text: str, line: int | None, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_limits(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}:" if line else f"{path}:"), message
    assert said in message


def test_fetched_limits_are_saved_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / FILE_NAME
    limits = [a_fetched("a"), a_fetched("b", 2.5)]
    save_fetched(path, limits, ["openai"])
    assert read_limits(path) == limits
    assert path.read_text(encoding="utf-8").startswith("# Limits, for bulkllm.load_limits()")
    assert path.stat().st_mode & 0o077 == 0


def test_the_next_fetch_replaces_what_the_last_one_wrote_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, WRITTEN)
    save_fetched(path, [a_fetched("a"), a_fetched("b")], ["openai"])
    save_fetched(path, [a_fetched("x", provider="anthropic")], ["anthropic"])
    mine = '\n# this one is mine\n[[limit]]\nmodels = "mine/*"  # all of them\nrpm = 7\n'
    path.write_text(path.read_text(encoding="utf-8") + mine, encoding="utf-8")

    save_fetched(path, [a_fetched("c", 99)], ["openai"])

    text = path.read_text(encoding="utf-8")
    assert text.startswith(WRITTEN)
    assert '# this one is mine\n[[limit]]\nmodels = "mine/*"  # all of them\nrpm = 7\n' in text
    names = [one.limit.name for one in read_limits(path)]
    assert names == ["the fives", "anthropic/*, bedrock/*claude*", "anthropic: x", "mine/*", "openai: c"]

    before = text
    save_fetched(path, [a_fetched("c", 99)], ["openai"])
    assert path.read_text(encoding="utf-8") == before


def test_a_comment_above_a_users_table_survives_the_fetched_table_before_it(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    save_fetched(path, [a_fetched("a")], ["openai"])
    with path.open("a", encoding="utf-8") as file:
        file.write('\n# mine\n\n# really\n[[limit]]\nmodels = "mine/*"\nrpm = 7\n')
    save_fetched(path, [a_fetched("b")], ["openai"])
    assert '# mine\n\n# really\n[[limit]]\nmodels = "mine/*"' in path.read_text(encoding="utf-8")
    assert [one.limit.name for one in read_limits(path)] == ["mine/*", "openai: b"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.toml"
    real.write_text(WRITTEN, encoding="utf-8")
    link = tmp_path / FILE_NAME
    link.symlink_to(real)
    save_fetched(link, [a_fetched("a")], ["openai"])
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8").startswith(WRITTEN)
    assert len(read_limits(real)) == 3


@pytest.mark.parametrize(
    "text",
    [
        'limit = [{ models = "a", rpm = 5, fetched = "openai" }, { models = "b", rpm = 5 }]\n',
        '[[limit]]\nmodels = "a"\nrpm = 5\nname = """\n[[limit]]\n"""\n',
        '[["limit"]]\nmodels = "a"\nrpm = 5\nfetched = "openai"\n',
    ],
)
def test_a_file_that_cannot_be_taken_apart_is_left_alone(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    assert load_limits(path)
    with pytest.raises(ConfigError, match="cannot be told apart"):
        save_fetched(path, [a_fetched("a")], ["openai"])
    assert path.read_text(encoding="utf-8") == text


def test_a_wrong_file_is_not_written_over(tmp_path: Path) -> None:
    path = write(tmp_path, "[[limit]]\nrpm = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        save_fetched(path, [a_fetched("a")], ["openai"])
    assert path.read_text(encoding="utf-8") == "[[limit]]\nrpm = "


def test_what_a_file_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="compiled pattern"):
        as_toml(ConfiguredLimit(limit=RateLimit(re.compile("a.*"), rpm=5)))


NUMBERS = st.one_of(st.none(), st.integers(1, 10**9), st.floats(0.001, 1e12))
TEXTS = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable() or "\x7f" in text or "\n" in text)


@given(
    models=st.lists(st.text(alphabet=string.printable, min_size=1, max_size=8), min_size=1, max_size=3),
    name=TEXTS,
    rpm=st.integers(1, 10**9),
    numbers=st.fixed_dictionaries(dict.fromkeys(("tpm", "itpm", "otpm", "rpd", "tpd"), NUMBERS)),
    window=st.sampled_from(["bucket", "sliding"]),
    period=st.sampled_from([1, 60.0, 3600]),
    source=st.text(max_size=10).filter(lambda text: not re.search("[\ud800-\udfff]", text)),
)
def test_every_limit_comes_back_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory,
    models: list[str],
    name: str,
    rpm: int,
    numbers: dict[str, Any],
    window: Any,
    period: float,
    source: str,
) -> None:
    if window == "sliding" and numbers["rpd"] is not None:
        numbers["rpd"] = max(1, numbers["rpd"])
    limit = RateLimit(models, rpm=rpm, **numbers, window=window, period=period, name=name)
    path = tmp_path_factory.mktemp("limits") / FILE_NAME
    told = ConfiguredLimit(limit=limit, source=source, as_of=TODAY, fetched="p")
    save_fetched(path, [told], ["p"])
    assert read_limits(path) == [told]
