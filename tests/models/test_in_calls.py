"""What the registry does for a call: names, presets and prices on their way through a client to a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import bulkllm
from bulkllm import Budget, BudgetExceeded, Client, ConfigError, LLMConfig, models
from bulkllm.models.litellm_map import LiteLLMMap
from bulkllm.testing import FakeProvider

# pydantic says so of LiteLLM's own types, whenever it first builds them
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning")

MESSAGES = [{"role": "user", "content": "Say something."}]

USER = """
[aliases]
fast = "house"

[[preset]]
slug = "house"
model = "openai/in-calls-house"
temperature = 0.25
max_tokens = 9
system_prompt = "Be brief."

[[preset]]
slug = "gpt-4.1-mini"
model = "openai/gpt-4.1-mini"
temperature = 0.75

[[preset]]
slug = "broken"
model = "openai/gpt-4.1-mini"
temperature = "hot"
efforts = ["low"]

[[model]]
name = "openai/in-calls-priced"
input_cost_per_token = 1e-3
output_cost_per_token = 1e-2

[[model]]
name = "openai/in-calls-unpriced"
max_input_tokens = 1000

[[model]]
name = "openai/in-calls-half"
input_cost_per_token = 1e-3
"""


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    """The bodies of the requests, as they arrived."""
    return []


@pytest.fixture
def server(seen: list[dict[str, Any]]) -> Iterator[FakeProvider]:
    def reply(body: dict[str, Any]) -> str:
        seen.append(body)
        return "one two three"

    with FakeProvider(reply=reply) as running:
        yield running


@pytest.fixture
def user_file(own_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "models.toml").write_text(USER, encoding="utf-8")
    monkeypatch.setenv("BULKLLM_CONFIG_DIR", str(tmp_path))
    models.reset()
    yield
    models.reset()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The batches in which LiteLLM is told about models."""
    batches: list[Mapping[str, Any]] = []
    real = LiteLLMMap.register

    def register(self: LiteLLMMap, entries: Mapping[str, dict[str, Any]]) -> None:
        batches.append(entries)
        real(self, entries)

    monkeypatch.setattr(LiteLLMMap, "register", register)
    return batches


def at(server: FakeProvider, **more: Any) -> dict[str, Any]:
    return {"api_base": server.openai_base, "api_key": "sk-fake", **more}


# -- names and presets ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("user_file")
@pytest.mark.parametrize("name", ["house", "fast"])
def test_a_slug_and_an_alias_of_it_bring_the_presets_options(
    name: str, server: FakeProvider, seen: list[dict[str, Any]]
) -> None:
    record = bulkllm.record_of(Client().completion(name, MESSAGES, **at(server)))
    assert (record.model, record.requested_model) == ("openai/in-calls-house", name)
    body = seen[-1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("in-calls-house", 0.25, 9)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, *MESSAGES]


@pytest.mark.usefixtures("user_file")
def test_what_the_call_says_goes_before_the_preset(server: FakeProvider, seen: list[dict[str, Any]]) -> None:
    own = [{"role": "system", "content": "Be long."}, *MESSAGES]
    Client().completion("house", own, temperature=1, max_completion_tokens=5, **at(server))
    body = seen[-1]
    assert (body["temperature"], body.get("max_completion_tokens"), body.get("max_tokens")) == (1, 5, None)
    assert body["messages"] == own


@pytest.mark.usefixtures("user_file")
def test_an_exact_litellm_name_means_no_preset(server: FakeProvider, seen: list[dict[str, Any]]) -> None:
    Client().completion("gpt-4.1-mini", MESSAGES, custom_llm_provider="openai", **at(server))
    assert "temperature" not in seen[-1]
    Client().completion(models.select("gpt-4.1-mini")[0], MESSAGES, **at(server))
    assert seen[-1]["temperature"] == 0.75


def test_an_unknown_name_goes_through_as_it_is(server: FakeProvider, seen: list[dict[str, Any]]) -> None:
    record = bulkllm.record_of(Client().completion("openai/nobody-knows-it", MESSAGES, **at(server)))
    assert seen[-1]["model"] == "nobody-knows-it"
    assert (record.model, record.cost) == ("openai/nobody-knows-it", None)


@pytest.mark.usefixtures("user_file")
@pytest.mark.parametrize("slug", ["broken", "broken-low"])
def test_a_preset_that_is_wrong_is_no_plain_model(slug: str, server: FakeProvider, seen: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=rf"preset '{slug}' cannot be used: .*models.toml:\d+: .*temperature"):
        Client().completion(slug, MESSAGES, **at(server))
    assert not seen


@pytest.mark.usefixtures("user_file")
def test_what_only_completion_knows_is_not_dropped_in_other_calls(server: FakeProvider) -> None:
    client = Client()
    with pytest.raises(ConfigError, match="preset 'house' sets max_tokens, system_prompt, which responses cannot"):
        client.responses("house", "Hello", **at(server))
    plain = LLMConfig(slug="vectors", model="openai/text-embedding-3-small", extra={"dimensions": 4})
    assert len(client.embedding(plain, ["a"], **at(server)).data[0]["embedding"]) == 4


@pytest.mark.usefixtures("user_file")
def test_a_run_takes_a_slug_and_its_rows_change_with_it(
    server: FakeProvider, seen: list[dict[str, Any]], tmp_path: Path
) -> None:
    def run() -> Any:
        output = tmp_path / "out.jsonl"
        return bulkllm.run(["a"], model="house", output=output, progress=False, redo_changed=True, **at(server))

    assert run().ok == 1
    assert (seen[-1]["temperature"], seen[-1]["max_tokens"]) == (0.25, 9)
    assert seen[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert run().skipped == 1
    models.register_preset(LLMConfig(slug="house", model="openai/in-calls-house", temperature=0.5))
    assert run().skipped == 0
    assert seen[-1]["temperature"] == 0.5


# -- how a preset's reasoning reaches a provider -------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields", "call", "expected"),
    [
        ("openai/gpt-5-mini", {"reasoning_effort": "low", "verbosity": "low"}, {},
         {"reasoning_effort": "low", "verbosity": "low"}),
        ("openrouter/x/y", {"reasoning_effort": "low"}, {}, {"reasoning": {"effort": "low"}}),
        ("openrouter/x/y", {"thinking": 3000}, {}, {"reasoning": {"max_tokens": 3000}}),
        ("openrouter/x/y", {"reasoning_effort": "low"}, {"extra_body": {"route": "fallback"}},
         {"reasoning": {"effort": "low"}, "route": "fallback"}),
        ("openrouter/x/y", {"reasoning_effort": "low"}, {"reasoning_effort": "high"},
         {"reasoning_effort": "high", "reasoning": None}),
        ("deepseek/deepseek-v4-pro", {"reasoning_effort": "max"}, {},
         {"reasoning_effort": "max", "thinking": {"type": "enabled"}}),
        ("zai/glm-5.3", {"reasoning_effort": "low"}, {}, {"reasoning_effort": "low"}),
        ("anthropic/claude-haiku-4-5", {"thinking": 2000, "max_tokens": 4000}, {},
         {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
        ("anthropic/claude-opus-5-5", {"reasoning_effort": "max"}, {}, {"output_config": {"effort": "max"}}),
        ("anthropic/claude-haiku-5-5", {"thinking": False}, {}, {"thinking": {"type": "disabled"}}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("recent_litellm")
def test_reasoning_is_spelt_as_each_provider_wants_it(
    model: str,
    fields: dict[str, Any],
    call: dict[str, Any],
    expected: dict[str, Any],
    server: FakeProvider,
    seen: list[dict[str, Any]],
) -> None:
    base = server.anthropic_base if model.startswith("anthropic/") else server.openai_base
    config = LLMConfig(slug="x", model=model, **fields)
    Client().completion(config, MESSAGES, api_base=base, api_key="sk-fake", **call)
    assert {name: seen[-1].get(name) for name in expected} == expected


# -- prices --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("user_file")
def test_the_users_price_reaches_the_bill_and_litellm_is_told_once(
    server: FakeProvider, registered: list[Mapping[str, Any]]
) -> None:
    client = Client()
    for _ in range(3):
        record = bulkllm.record_of(client.completion("openai/in-calls-priced", MESSAGES, **at(server)))
        assert record.cost == pytest.approx(record.input_tokens * 1e-3 + record.output_tokens * 1e-2)
    assert [list(batch) for batch in registered] == [["openai/in-calls-priced"]]
    models.register("openai/in-calls-priced", input_cost_per_token=2e-3)
    record = bulkllm.record_of(client.completion("openai/in-calls-priced", MESSAGES, **at(server)))
    assert record.cost == pytest.approx(record.input_tokens * 2e-3 + record.output_tokens * 1e-2)
    assert len(registered) == 2


@pytest.mark.usefixtures("user_file")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["openai/in-calls-unpriced", "openai/in-calls-half"])
def test_an_unknown_price_stays_unknown(
    model: str, stream: bool, server: FakeProvider, registered: list[Mapping[str, Any]]
) -> None:
    client = Client()
    answer = client.completion(model, MESSAGES, stream=stream, **at(server))
    if stream:
        list(answer)
    assert client.usage.total.unpriced == 1
    assert client.usage.total.cost == 0
    assert bulkllm.record_of(answer).cost is None
    assert all("input_cost_per_token" not in entry for batch in registered for entry in batch.values())


@pytest.mark.usefixtures("user_file")
def test_a_budget_knows_the_users_price_before_the_first_call(server: FakeProvider, seen: list[dict[str, Any]]) -> None:
    models.register("openai/in-calls-dear", input_cost_per_token=1.0, output_cost_per_token=1.0)
    client = Client(budget=Budget(max_cost=5.0))
    with pytest.raises(BudgetExceeded):
        client.completion("openai/in-calls-dear", MESSAGES, max_tokens=9, **at(server))
    models.register("openai/in-calls-dear", input_cost_per_token=1e-6, output_cost_per_token=1e-6)
    client.completion("openai/in-calls-dear", MESSAGES, max_tokens=9, **at(server))
    assert len(seen) == 1


def test_litellm_is_not_loaded_in_order_to_be_told() -> None:
    code = """
import sys
import bulkllm
from bulkllm import models
models.register("openai/early", input_cost_per_token=1e-6, output_cost_per_token=1e-6)
client = bulkllm.Client()
assert models.registry().called("early", {}) == "openai/early"
assert "litellm" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_registry_looks_once_for_each_state_of_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[list[str]] = []
    monkeypatch.setattr(models.Registry, "tell_litellm", lambda self, names: looked.append(list(names)))
    registry = models.Registry()
    states = [registry.introduce("openai/a"), registry.introduce("openai/a")]
    registry.register_preset(LLMConfig(slug="x", model="openai/b"))
    states += [registry.introduce("openai/a"), registry.introduce("openai/a")]
    registry.reload()
    states += [registry.introduce("openai/a")]
    assert looked == [["openai/a"]] * 3
    assert states[0] == states[1] != states[2] == states[3] != states[4]


@pytest.mark.usefixtures("user_file")
def test_a_budget_hears_of_a_price_that_another_client_used_first(server: FakeProvider) -> None:
    careful, careless = Client(budget=Budget(max_cost=5.0)), Client()
    words = at(server, max_tokens=9)
    models.register("openai/in-calls-rising", input_cost_per_token=1e-6, output_cost_per_token=1e-6)
    careful.completion("openai/in-calls-rising", MESSAGES, **words)
    models.register("openai/in-calls-rising", input_cost_per_token=1.0, output_cost_per_token=1.0)
    careless.completion("openai/in-calls-rising", MESSAGES, **words)
    with pytest.raises(BudgetExceeded):
        careful.completion("openai/in-calls-rising", MESSAGES, **words)
