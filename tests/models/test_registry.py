"""Names, layers and where facts come from."""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bulkllm.models
from bulkllm import _litellm
from bulkllm.errors import ConfigError
from bulkllm.models import LLMConfig, ModelInfo, Origin, Registry
from bulkllm.models.index import Index
from bulkllm.models.info import build
from bulkllm.models.litellm_map import LiteLLMMap
from bulkllm.models.presets import build_presets
from bulkllm.models.rules import Rules

# pydantic says so of LiteLLM's own types, whenever it first builds them
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

Make = Callable[..., Registry]


class MadeUpMap(LiteLLMMap):
    """A map of a few models, in place of LiteLLM's."""

    def __init__(self, entries: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.made_up = entries
        self.registered: list[dict[str, dict[str, Any]]] = []

    def entries(self) -> dict[str, dict[str, Any]]:
        return self.made_up

    def register(self, entries: Mapping[str, dict[str, Any]]) -> None:
        self.registered.append(dict(entries))
        for key, fields in entries.items():
            self.made_up.setdefault(key, {}).update(fields)


RULES = Rules.packaged()

MAP: dict[str, dict[str, Any]] = {
    "gpt-x": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 100, "input_cost_per_token": 1e-6,
              "output_cost_per_token": 2e-6, "source": "https://prices"},
    "xai/grok-x": {"litellm_provider": "xai", "mode": "chat"},
    "azure_ai/grok-x": {"litellm_provider": "azure_ai", "mode": "chat"},
    "one/only-here": {"litellm_provider": "one", "mode": "chat"},
    "a/twice": {"litellm_provider": "a"},
    "b/twice": {"litellm_provider": "b"},
    "deepseek-x": {"litellm_provider": "deepseek", "mode": "chat"},
    "deepseek/deepseek-x": {"litellm_provider": "deepseek", "mode": "chat", "max_input_tokens": 7},
    "sample_spec": {"litellm_provider": "not a model"},
}  # fmt: skip


@pytest.fixture
def made_up() -> MadeUpMap:
    return MadeUpMap({name: dict(entry) for name, entry in MAP.items()})


# ---- the installed map


def test_every_name_in_litellms_map_can_be_looked_up(registry: Registry) -> None:
    names = [name for name in _litellm.load().model_cost if name != "sample_spec"]
    assert len(names) > 1000
    for name in names:
        info = registry.get(name)
        assert info.name in (name, f"{info.provider}/{name}")
        assert info.known
        assert info.provider


def test_the_file_in_litellms_package_says_what_litellm_says() -> None:
    """Or else what is answered before LiteLLM is loaded would differ from what is answered after."""
    from bulkllm.models import litellm_map

    file = litellm_map._read_file()
    live = {name: entry for name, entry in _litellm.load().model_cost.items() if name in file}
    changed = [name for name, entry in live.items() if entry != file[name]]
    assert file.keys() <= _litellm.load().model_cost.keys()
    assert len(changed) < 10  # other tests may have registered a few models with LiteLLM


def test_an_alias_that_leads_nowhere_says_so(make_registry: Make, made_up: MadeUpMap) -> None:
    registry = make_registry('[aliases]\nmine = "openai/nowhere"\n', litellm_map=made_up)
    with pytest.raises(ConfigError, match=r"no model is called 'openai/nowhere' \(which 'mine' stands for\)"):
        registry.get("mine")
    assert registry.describe("mine").name == "openai/nowhere"
    assert not registry.describe("mine").known


def test_nobody_waits_while_another_thread_imports_litellm() -> None:
    """In an event loop that would stand still for seconds."""
    code = """
import threading, time
import bulkllm.models
from bulkllm import _litellm
bulkllm.models.resolve("sonnet")
thread = threading.Thread(target=_litellm.load)
thread.start()
while not _litellm.is_loaded():
    time.sleep(0.001)
asked = 0
while thread.is_alive():
    assert bulkllm.models.resolve("sonnet") == "anthropic/claude-sonnet-5-5"
    asked += 1
    time.sleep(0.001)
assert bulkllm.models.resolve("sonnet") == "anthropic/claude-sonnet-5-5"
assert asked > 20, asked
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_facts_of_a_real_model(registry: Registry) -> None:
    info = registry.get("gpt-5-mini")
    assert (info.provider, info.company, info.family, info.version) == ("openai", "openai", "gpt-mini", "5")
    assert (info.max_input_tokens, info.max_output_tokens) == (272_000, 128_000)
    assert (info.input_price, info.output_price, info.price) == (0.25, 2.0, 0.6875)
    assert info.prices["cache_read_input_token_cost"] == 2.5e-08
    assert info.reasoning_efforts == ("minimal", "low", "medium", "high")
    assert info.tools
    assert info.batch
    assert registry.get("openai/gpt-5-mini") is info
    assert pickle.loads(pickle.dumps(info)) == info  # noqa: S301 - our own bytes
    assert hash(info) == hash(pickle.loads(pickle.dumps(info)))  # noqa: S301 - our own bytes
    assert info.to_dict()["prices"]["output_cost_per_token"] == 2e-06


def test_a_release_date_can_stand_in_the_name(registry: Registry) -> None:
    info = registry.get("gpt-5.4-mini-2026-03-17")
    assert info.release_date == date(2026, 3, 17)
    assert info.origin("release_date") == Origin("name", "gpt-5.4-mini-2026-03-17")
    assert registry.get("claude-haiku-4-5-20251001").release_date == date(2025, 10, 1)
    assert registry.get("command-a-03-2025").release_date == date(2025, 3, 1)


@pytest.mark.parametrize(
    ("name", "company"),
    [
        ("us.anthropic.claude-opus-4-6-v1", "anthropic"),
        ("groq/openai/gpt-oss-120b", "openai"),
        ("together_ai/moonshotai/Kimi-K2-Instruct", "moonshot"),
        ("azure/gpt-5-mini", "openai"),
        ("vertex_ai/claude-haiku-4-5", "anthropic"),
        ("perplexity/anthropic/claude-sonnet-4-5", "anthropic"),
        ("perplexity/sonar", "perplexity"),
        ("openai/container", None),
    ],
)
def test_the_company_is_who_made_it_not_who_serves_it(name: str, company: str | None, registry: Registry) -> None:
    assert registry.get(name).company == company


# ---- names


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("gpt-x", "gpt-x"),
        ("openai/gpt-x", "openai/gpt-x"),
        ("grok-x", "xai/grok-x"),  # at its maker's, though another serves it too
        ("only-here", "one/only-here"),
        ("deepseek-x", "deepseek/deepseek-x"),  # LiteLLM cannot call the bare name of its own map
        ("twice", "twice"),
        ("unknown", "unknown"),
        ("openai/unknown", "openai/unknown"),
        ("sample_spec", "sample_spec"),
    ],
)
def test_resolve(name: str, target: str, make_registry: Make, made_up: MadeUpMap) -> None:
    assert make_registry(litellm_map=made_up).resolve(name) == target


def test_a_name_for_a_server_of_ones_own_is_not_completed(make_registry: Make, made_up: MadeUpMap) -> None:
    registry = make_registry('[aliases]\nmine = "openai/local"\n', litellm_map=made_up)
    assert registry.resolve("grok-x", own_endpoint=True) == "grok-x"
    assert registry.resolve("kimi-k3", own_endpoint=True) == "kimi-k3"  # a packaged preset's slug elsewhere
    assert registry.resolve("sonnet", own_endpoint=True) == "sonnet"  # a packaged alias elsewhere
    assert registry.resolve("mine", own_endpoint=True) == "openai/local"
    assert registry.resolve("gpt-x", own_endpoint=True) == "gpt-x"
    registry.register("openai/also-local", aliases=["also"])
    assert registry.resolve("also", own_endpoint=True) == "openai/also-local"


def test_an_exact_litellm_name_beats_an_alias(make_registry: Make, made_up: MadeUpMap) -> None:
    registry = make_registry('[aliases]\n"gpt-x" = "xai/grok-x"\nshort = "gpt-x"\n', litellm_map=made_up)
    assert registry.resolve("gpt-x") == "gpt-x"
    assert registry.get("gpt-x").provider == "openai"
    assert registry.resolve("short") == "gpt-x"
    made_up.made_up["short"] = {"litellm_provider": "openai"}  # a newer LiteLLM has a model of that name
    assert registry.resolve("short") == "short"


def test_aliases_may_lead_to_aliases_but_not_round_in_a_circle(make_registry: Make, made_up: MadeUpMap) -> None:
    registry = make_registry('[aliases]\na1 = "a2"\na2 = "gpt-x"\nc1 = "c2"\nc2 = "c1"\n', litellm_map=made_up)
    assert registry.resolve("a1") == "gpt-x"
    assert registry.resolve("c1") in ("c1", "c2")


def test_the_users_alias_beats_a_packaged_slug(make_registry: Make) -> None:
    registry = make_registry('[aliases]\n"kimi-k3" = "together_ai/moonshotai/Kimi-K3"\n')
    assert registry.resolve("kimi-k3") == "together_ai/moonshotai/Kimi-K3"


def test_litellms_own_aliases_are_left_to_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.resolve("sonnet").startswith("anthropic/")
    monkeypatch.setattr(_litellm.load(), "model_alias_map", {"sonnet": "my/own"})
    assert registry.resolve("sonnet") == "sonnet"


def test_get_tells_several_and_none_apart(make_registry: Make, made_up: MadeUpMap) -> None:
    registry = make_registry(litellm_map=made_up)
    with pytest.raises(ConfigError, match=r"'twice' is served by several providers: a/twice, b/twice; say which"):
        registry.get("twice")
    with pytest.raises(ConfigError, match=r"no model is called 'gpt-y'; nearest: .*gpt-x"):
        registry.get("gpt-y")
    assert registry.get("GPT-X").name == "gpt-x"
    assert registry.get("deepseek-x").max_input_tokens == 7


@pytest.mark.usefixtures("recent_litellm")
def test_a_slug_is_a_name_too(registry: Registry) -> None:
    assert registry.get("gpt-6-luna-high").name == "gpt-6-luna"
    assert registry.resolve("gpt-6-luna-high") == "openai/gpt-6-luna"
    assert "luna" in registry.get("gpt-6-luna").aliases
    assert "gpt-6-luna-high" not in registry.get("gpt-6-luna").aliases


def test_canonical_names_have_the_provider(registry: Registry) -> None:
    assert registry.canonical("gpt-5-mini") == "openai/gpt-5-mini"
    assert registry.canonical("xai/grok-4.7") == "xai/grok-4.7"
    assert registry.canonical("us.anthropic.claude-opus-4-6-v1") == "bedrock/us.anthropic.claude-opus-4-6-v1"
    assert registry.canonical("made-up") == "made-up"


@pytest.mark.usefixtures("recent_litellm")
def test_packaged_aliases_lead_to_models_that_are_there(registry: Registry) -> None:
    from bulkllm.config import read_toml
    from bulkllm.models.rules import DATA

    aliases = read_toml(DATA / "aliases.toml").data["aliases"]
    assert aliases
    for alias, target in aliases.items():
        assert target in registry, alias
        assert not registry.get(target).is_deprecated(registry.today()), alias


# ---- layers


def test_later_layers_win_and_each_fact_knows_its_source(make_registry: Make, made_up: MadeUpMap) -> None:
    user = """
[[model]]
name = "gpt-x"
max_input_tokens = 200
release_date = 2026-01-02
source = "my notes"
as_of = 2026-02-03
"""
    registry = make_registry(user, litellm_map=made_up)
    info = registry.get("gpt-x")
    assert info.max_input_tokens == 200
    assert info.origin("max_input_tokens") == Origin("user", "my notes", date(2026, 2, 3))
    assert str(info.origin("release_date")) == "user: my notes (2026-02-03)"
    assert info.origin("input_cost_per_token") == Origin("litellm", "https://prices")
    assert info.origin("max_output_tokens") is None
    registry.register("openai/gpt-x", max_input_tokens=300, source="a test")
    assert registry.get("gpt-x").max_input_tokens == 300
    assert registry.get("gpt-x").origin("max_input_tokens") == Origin("program", "a test", date(2026, 11, 23))
    registry.register("gpt-x", rpm=5, as_of=date(2026, 1, 1))
    assert registry.get("gpt-x").origin("rpm") == Origin("program", None, date(2026, 1, 1))
    assert info.max_input_tokens == 200


def test_what_is_told_by_the_name_is_not_said_to_be_litellms(make_registry: Make) -> None:
    registry = make_registry('[aliases]\nmini = "gpt-5-mini"\n[[model]]\nname = "gpt-5-mini"\nfamily = "ours"\n')
    named = registry.get("claude-haiku-4-5")
    assert {str(named.origin(field)) for field in ("family", "version", "company")} == {"name: claude-haiku-4-5"}
    mini = registry.get("mini")
    assert str(mini.origin("family")).startswith("user: ")
    assert mini.origin("aliases") == Origin("user")
    levels = registry.get("zai/glm-5.3").origin("reasoning_efforts")
    assert levels is not None
    assert levels.layer == "packaged"
    assert registry.describe("nobody/claude-x").origin("provider") == Origin("name", "nobody/claude-x")


def test_a_packaged_fact_corrects_the_map(registry: Registry) -> None:
    info = registry.get("gemini/gemini-3.7-flash")
    assert info.is_deprecated(registry.today())
    assert info.replacement == "gemini/gemini-3.8-flash"
    origin = info.origin("deprecation_date")
    assert origin is not None
    assert origin.layer == "packaged"
    assert origin.as_of is not None


def test_every_packaged_fact_has_a_source_and_a_date() -> None:
    from bulkllm.config import read_toml
    from bulkllm.models.rules import DATA

    for table in read_toml(DATA / "models.toml").data["model"]:
        assert table["source"], table
        assert isinstance(table["as_of"], date), table
    for name in ("companies", "families", "aliases"):
        data = read_toml(DATA / f"{name}.toml").data
        assert data["source"]
        assert isinstance(data["as_of"], date)
    for table in read_toml(DATA / "reasoning.toml").data["spelling"]:
        assert table["source"], table
    for table in read_toml(DATA / "providers.toml").data["provider"].values():
        assert table["docs"], table
        assert isinstance(table["as_of"], date), table


def test_the_packaged_files_have_no_problems(registry: Registry) -> None:
    assert registry.presets()
    assert registry.problems == ()


def test_a_model_and_a_preset_are_added_by_editing_one_file(make_registry: Make) -> None:
    """What CONTRIBUTING promises; the packaged files have the same tables."""
    user = """
[[model]]
name = "openai/house-model"
aliases = ["house"]
company = "ours"
mode = "chat"
max_input_tokens = 32_000
input_cost_per_token = 1e-07
output_cost_per_token = 4e-07
supports_vision = true

[[preset]]
slug = "house-calm"
model = "house"
temperature = 0
efforts = ["low", "high"]
extra = { api_base = "http://localhost:8000/v1" }

[group.ours]
rule = "company:ours"
meaning = "what runs in the cellar"
"""
    registry = make_registry(user)
    assert registry.problems == ()
    assert registry.get("house").price == 0.175
    assert [preset.slug for preset in registry.select("ours vision cheap")] == ["house-calm"]
    low = registry.preset("house-calm-low")
    assert low is not None
    assert low.completion_kwargs() == {
        "model": "openai/house-model", "temperature": 0.0, "reasoning_effort": "low",
        "api_base": "http://localhost:8000/v1",
    }  # fmt: skip


@pytest.mark.parametrize("page", ["docs/models.md", "CONTRIBUTING.md"])
def test_the_files_that_the_documentation_shows_are_good(page: str, make_registry: Make) -> None:
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    shown = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert shown
    registry = make_registry("\n".join(shown))
    assert registry.problems == ()
    registry.presets()
    assert registry.problems == ()
    if page == "docs/models.md":
        assert registry.get("house").input_price == 0.2
        assert registry.select("ours", "slug:gpt-4.1-mini")
        assert registry.preset("thinker-high") is not None
    else:
        assert registry.get("openai/gpt-7").max_input_tokens == 2_000_000
        assert registry.providers()["example"].keys == ("EXAMPLE_API_KEY",)


def test_a_users_preset_takes_the_place_of_a_packaged_one_and_its_variants(make_registry: Make) -> None:
    registry = make_registry('[[preset]]\nslug = "gpt-6-luna"\nmodel = "openai/gpt-6-luna"\nmax_tokens = 5\n')
    assert registry.presets()["gpt-6-luna"].max_tokens == 5
    assert "gpt-6-luna-high" not in registry.presets()


# ---- mistakes in the user's file


BROKEN = """[aliases]
good = "gpt-5-mini"
bad = 5

[[model]]
name = "openai/fine"
max_input_tokens = 10

[[model]]
name = "openai/odd"
max_input_tokens = "many"
max_imput_tokens = 5
release_date = "2026-01-01"
mode = "chat"

[[model]]
mode = "chat"

[[preset]]
slug = "no-model"

[[preset]]
slug = "hot"
model = "gpt-5-mini"
temperature = "very"

[[preset]]
slug = "keyed"
model = "gpt-5-mini"
extra = { api_key = "sk-secret" }

[[presets]]
slug = "typo"

[group.empty]
meaning = "nothing"

[provider.half]
url = "https://example.invalid"
"""


def test_each_mistake_is_named_by_file_line_key_and_expectation_and_the_rest_works(
    make_registry: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = make_registry(BROKEN)
    with caplog.at_level(logging.WARNING, logger="bulkllm.models"):
        registry.presets()
        registry.presets()
        problems = [str(problem).removeprefix(str(tmp_path / "models.toml")) for problem in registry.problems]
    expected = [
        (":3: aliases.bad:", 'expected "provider/model", found 5'),
        (":11: model[1].max_input_tokens:", "expected a whole number above 0, found 'many'"),
        (":12: model[1].max_imput_tokens:", "did you mean max_input_tokens?"),
        (":13: model[1].release_date:", "expected a date"),
        (":16: model[2]:", 'expected name = "provider/model"'),
        (":19: preset[0]", "model: Field required"),
        (":25: preset[1].temperature:", "valid number"),
        (":30: preset[2].extra:", "api_key_env"),
        (":32: presets:", "did you mean preset?"),
        (":35: group.empty.rule:", "expected a selector"),
        (":38: provider.half.items:", "expected text"),
    ]
    for place, what in expected:
        assert any(problem.startswith(place) and what in problem for problem in problems), (place, problems)
    assert len(problems) == len(expected)
    assert "sk-secret" not in caplog.text
    assert len(caplog.records) == len(expected)  # each once, though it was asked twice
    assert registry.resolve("good") == "gpt-5-mini"
    assert registry.get("openai/fine").max_input_tokens == 10
    assert registry.get("openai/odd").mode == "chat"
    assert registry.get("openai/odd").max_input_tokens is None
    assert registry.preset("gpt-6-luna")
    with pytest.raises(ConfigError, match=r"no model is called 'fien'.*models.toml:32: presets"):
        registry.get("fien")


def test_a_file_that_is_no_toml_at_all_leaves_the_rest_working(make_registry: Make, tmp_path: Path) -> None:
    registry = make_registry('[[model]\nname = "x"\n')
    assert registry.get("gpt-5-mini").tools
    assert [str(problem).split(": ")[0] for problem in registry.problems] == [f"{tmp_path / 'models.toml'}:1:8"]


_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


_MODEL_KEYS = ["name", "names", "aliases", "mode", "max_input_tokens", "release_date", "supports_vision", "rpm",
               "as_of", "deprecation_date", "input_cost_per_token", "reasoning_effort_levels", "source",
               "unheard_of"]  # fmt: skip
_PRESET_KEYS = [
    "slug",
    "model",
    "efforts",
    "temperature",
    "extra",
    "thinking",
    "max_tokens",
    "variant_of",
    "unheard_of",
]
_ROW_KEYS = ["url", "items", "id", "prefix", "auth", "keys", "key_optional", "headers", "params", "paging", "fields",
             "strip", "prefixes", "docs", "as_of", "unheard_of"]  # fmt: skip
_ROW = {"url": "https://h/", "items": "d", "id": "i", "prefix": "p/"}


@pytest.mark.parametrize(
    "wrapped",
    [
        *[(key, lambda odd, key=key: {"model": [{"name": "gpt-x", key: odd}]}) for key in _MODEL_KEYS],
        *[(key, lambda odd, key=key: {"preset": [{"slug": "s", "model": "gpt-x", key: odd}]}) for key in _PRESET_KEYS],
        *[(key, lambda odd, key=key: {"provider": {"house": {**_ROW, key: odd}}}) for key in _ROW_KEYS],
        *[
            (key, lambda odd, key=key: {"provider": {"house": {**_ROW, "fields": {"rpm": {"path": "n", key: odd}}}}})
            for key in ("as", "contains", "is", "path")
        ],
        *[
            (key, lambda odd, key=key: {"provider": {"house": {**_ROW, "fields": {
                "max_input_tokens": {"path": "n", "as": "int", key: odd}, "rpm": odd}}}})
            for key in ("then", "scale")
        ],
        *[(key, lambda odd, key=key: {key: odd}) for key in ("model", "preset", "provider", "group", "aliases", "x")],
        *[(key, lambda odd, key=key: {key: {"word": odd}}) for key in ("provider", "group", "aliases")],
        ("rule", lambda odd: {"group": {"word": {"rule": odd, "meaning": odd}}}),
    ],
    ids=lambda wrapped: wrapped[0],
)  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(odd=_VALUES)
def test_whatever_stands_in_a_file_is_a_fact_or_a_problem(
    wrapped: tuple[str, Callable[[object], dict[str, Any]]], odd: object
) -> None:
    from bulkllm.config import TomlFile
    from bulkllm.models import layers
    from bulkllm.models.lists import models_of
    from bulkllm.models.providers import provider_lists

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layers, "read_toml", lambda path: TomlFile(path, "", wrapped[1](odd)))
        layer = layers.read_layer(Path("models.toml"), "user")
    rows, problems = provider_lists([layer])
    for row in rows.values():
        with contextlib.suppress(ConfigError):
            models_of(row, [{"d": [{"i": "x", "n": 5}, {"i": "y", "n": ["z"]}, {"i": "z", "n": "5"}]}])
    index = Index(MAP, [layer], RULES)
    presets, more = build_presets([layer], index)
    for name in [*index.names(), *(preset.model for preset in presets.values())]:
        origins = [Origin(kind, said.source, said.as_of) for kind, said in index.overlays.get(name, [])]
        assert all(map(str, origins))
        build(name, index.entry(name), rules=RULES)
    assert all(isinstance(problem, ConfigError) for problem in [*layer.problems, *problems, *more])


def test_an_edited_file_counts_after_reload(make_registry: Make, tmp_path: Path) -> None:
    registry = make_registry('[aliases]\nmine = "gpt-5"\n')
    assert registry.resolve("mine") == "gpt-5"
    (tmp_path / "models.toml").write_text('[aliases]\nmine = "gpt-5-mini"\n', encoding="utf-8")
    registry.register("openai/extra", max_input_tokens=5)
    assert registry.resolve("mine") == "gpt-5"
    registry.reload()
    assert registry.resolve("mine") == "gpt-5-mini"
    assert registry.get("openai/extra").max_input_tokens == 5


# ---- what the program registers, and what LiteLLM is told


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_input_tokens": 0}, r"register.openai/m.max_input_tokens: expected a whole number above 0, found 0"),
        ({"input_cost_per_token": -1}, "a price in US dollars"),
        ({"input_cost_per_token": {"low": 1}}, "a price in US dollars"),
        ({"suports_vision": True}, "did you mean"),
        ({"supports_vision": "yes"}, "true or false"),
        ({"rpm": float("inf")}, "a number"),
    ],
)
def test_register_refuses_what_is_no_fact(fields: dict[str, Any], message: str, registry: Registry) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.register("openai/m", **fields)
    assert "openai/m" not in registry


def test_litellm_is_told_in_one_batch_and_only_what_is_new(make_registry: Make, made_up: MadeUpMap) -> None:
    registry = make_registry(litellm_map=made_up)
    registry.tell_litellm()
    made_up.registered.clear()
    registry.register_many({
        "gpt-x": {"max_input_tokens": 100, "output_cost_per_token": 3e-6, "release_date": date(2026, 1, 1)},
        "openai/new": {"input_cost_per_token": 1e-6, "output_cost_per_token": 5e-6, "company": "ours"},
        "openai/unpriced": {"max_input_tokens": 5},
    })  # fmt: skip
    assert made_up.registered == [
        {
            "gpt-x": {"output_cost_per_token": 3e-6},
            "openai/new": {
                "input_cost_per_token": 1e-6, "output_cost_per_token": 5e-6, "litellm_provider": "openai",
                "mode": "chat", "cache_read_input_token_cost": 1e-6, "cache_creation_input_token_cost": 1e-6,
            },
        }
    ]  # fmt: skip
    assert registry.tell_litellm() == 0
    assert len(made_up.registered) == 1
    assert "cache_read_input_token_cost" not in registry.get("gpt-x").prices


def test_litellm_prices_a_registered_model_and_leaves_an_unpriced_one_open(registry: Registry) -> None:
    litellm = _litellm.load()
    registry.register("openai/registry-test-priced", input_cost_per_token=1e-6, output_cost_per_token=2e-6)
    registry.register("openai/registry-test-unpriced", max_input_tokens=1000)
    assert litellm.cost_per_token(
        model="openai/registry-test-priced", prompt_tokens=100, completion_tokens=10, cache_read_input_tokens=50
    ) == pytest.approx((100e-6, 20e-6))
    with pytest.raises(Exception, match="isn't mapped"):
        litellm.cost_per_token(model="openai/registry-test-unpriced", prompt_tokens=100, completion_tokens=10)
    assert registry.get("openai/registry-test-priced").input_price == 1.0


def test_what_the_program_tells_litellm_itself_is_seen(registry: Registry) -> None:
    before = registry.get("gpt-4o-mini")
    assert before.max_input_tokens == 128_000
    _litellm.load().register_model({"gpt-4o-mini": {"max_input_tokens": 99_000}})
    try:
        assert registry.get("gpt-4o-mini").max_input_tokens == 99_000
    finally:
        _litellm.load().register_model({"gpt-4o-mini": {"max_input_tokens": 128_000}})
    assert registry.get("gpt-4o-mini").max_input_tokens == 128_000


def test_a_preset_of_the_program_can_be_selected(registry: Registry) -> None:
    registry.register_preset(LLMConfig(slug="mine", model="sonnet", max_tokens=9))
    mine = registry.preset("mine")
    assert mine is not None
    assert mine.model == "anthropic/claude-sonnet-5-5"
    assert mine in registry.select("company:anthropic", "model:*sonnet-5-5")


def test_threads_asking_at_once_get_the_same_answers(make_registry: Make) -> None:
    registry = make_registry('[aliases]\nmine = "gpt-5-mini"\n')
    found: list[ModelInfo] = []
    failed: list[BaseException] = []
    barrier = threading.Barrier(8)

    def ask(number: int) -> None:
        try:
            barrier.wait()
            for turn in range(20):
                registry.register(f"openai/thread-{number}-{turn}", max_input_tokens=turn + 1)
                assert registry.get(f"openai/thread-{number}-{turn}").max_input_tokens == turn + 1
                found.append(registry.get("mine"))
                assert registry.presets()
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 160
    assert set(found) == {registry.get("gpt-5-mini")}


# ---- the module


def test_the_modules_functions_use_one_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text('[aliases]\nmine = "gpt-5-mini"\n', encoding="utf-8")
    monkeypatch.setenv("BULKLLM_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("BULKLLM_CACHE_DIR", str(tmp_path / "cache"))
    bulkllm.models.reset()
    try:
        assert bulkllm.models.resolve("mine") == "gpt-5-mini"
        bulkllm.models.register("openai/module-test", aliases=["mt"], max_input_tokens=5)
        assert bulkllm.models.get("mt") is bulkllm.models.registry().get("openai/module-test")
        bulkllm.models.register_preset(LLMConfig(slug="mt-preset", model="mt"))
        assert bulkllm.models.select("mt-preset") == [bulkllm.models.preset("mt-preset")]
        assert bulkllm.models.registry() is bulkllm.models.registry()
    finally:
        bulkllm.models.reset()


def test_every_public_name_is_there_and_none_is_a_submodule() -> None:
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(bulkllm.models.__path__)}
    assert not modules & set(bulkllm.models.__all__)
    assert sorted(bulkllm.models.__all__) == bulkllm.models.__all__
    for name in bulkllm.models.__all__:
        assert getattr(bulkllm.models, name)
        assert name in dir(bulkllm.models)
    with pytest.raises(AttributeError):
        bulkllm.models.nothing  # noqa: B018 - the look-up is the test


def test_resolving_loads_neither_litellm_nor_pydantic() -> None:
    code = """
import sys
import bulkllm.models
assert not {"pydantic", "litellm", "requests", "tomllib", "platformdirs"} & set(sys.modules)
assert bulkllm.models.resolve("sonnet") == "anthropic/claude-sonnet-5-5"
assert bulkllm.models.resolve("gpt-6-luna-high") == "openai/gpt-6-luna"
assert bulkllm.models.resolve("made-up") == "made-up"
assert not {"pydantic", "litellm", "requests"} & set(sys.modules)
assert bulkllm.models.get("gpt-5-mini").max_input_tokens
assert bulkllm.models.select("cheap", "company:openai")
assert not {"litellm", "requests"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
