from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from bulkllm import _litellm
from bulkllm.accounting import Price, Usage, cost_of
from bulkllm.errors import ConfigError

# LiteLLM's types warn about themselves when the first of them is made; none of it is ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")

ASKED = [{"role": "user", "content": "hello there"}]
THOUSAND = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}


def response(model: str | None, provider: str | None = None, usage: Any = THOUSAND, **hidden: Any) -> Any:
    _litellm.load()
    types = importlib.import_module("litellm.types.utils")
    made = types.ModelResponse(model=model, usage=types.Usage(**usage)) if usage else types.ModelResponse(model=model)
    made._hidden_params = {"custom_llm_provider": provider, **hidden} if provider else hidden
    return made


def called(model: str) -> Any:
    return _litellm.load().completion(model=model, messages=ASKED, mock_response="hi", api_key="x")


@contextmanager
def priced(name: str, **entry: Any) -> Iterator[None]:
    prices = _litellm.load().model_cost
    prices[name] = entry
    try:
        yield
    finally:
        del prices[name]


def test_what_litellm_worked_out_is_taken() -> None:
    made = response("gpt-4o-mini", "openai", response_cost=0.125)
    assert cost_of(made, model="openai/gpt-4o-mini") == (0.125, None)


def test_a_call_through_litellm_is_priced_as_its_price_list_says() -> None:
    made = called("openai/gpt-4o-mini")
    cost, note = cost_of(made, model="openai/gpt-4o-mini")
    assert cost == pytest.approx(made.usage.prompt_tokens * 1.5e-7 + made.usage.completion_tokens * 6e-7)
    assert note is None


def test_litellms_calculator_is_asked_where_it_was_not_yet() -> None:
    made = response("gpt-4o-mini-2024-07-18", "openai")
    cost, note = cost_of(made, model="openai/gpt-4o-mini")
    assert cost == pytest.approx(0.00045)
    assert note is None


def test_cache_reads_and_writes_cost_what_they_cost() -> None:
    usage = {
        "prompt_tokens": 1821,
        "completion_tokens": 393,
        "total_tokens": 2214,
        "prompt_tokens_details": {"cached_tokens": 1000, "cache_creation_tokens": 800, "text_tokens": 21},
        "cache_creation_input_tokens": 800,
        "cache_read_input_tokens": 1000,
    }
    cost, _ = cost_of(response("claude-sonnet-4-5", "anthropic", usage), model="anthropic/claude-sonnet-4-5")
    assert cost == pytest.approx(21 * 3e-6 + 1000 * 3e-7 + 800 * 3.75e-6 + 393 * 1.5e-5)


UNKNOWN = [
    ("openai/fake-model", "fake-model", "openai"),
    ("hosted_vllm/foo", "foo", "hosted_vllm"),
    ("anthropic/claude-foo", "claude-foo", "anthropic"),
    ("gemini/foo", "foo", "gemini"),
    ("azure/my-deployment", "foo", "azure"),
    ("acme/foo", "foo", None),
    # For these LiteLLM's calculator says 0.0.
    ("fireworks_ai/foo", "foo", "fireworks_ai"),
    ("huggingface/x/foo", "x/foo", "huggingface"),
    ("lemonade/foo", "foo", "lemonade"),
    ("meta_llama/Llama-3.3-8B-Instruct", "Llama-3.3-8B-Instruct", "meta_llama"),
]


@pytest.mark.parametrize(("model", "answered", "provider"), UNKNOWN)
def test_an_unknown_price_is_none_and_never_0(model: str, answered: str, provider: str | None) -> None:
    cost, note = cost_of(response(answered, provider), model=model)
    assert cost is None
    assert note == f"LiteLLM has no price for {model!r}; give one as Price(...)"


@pytest.mark.parametrize(("model", "answered", "provider"), UNKNOWN)
def test_nor_is_it_where_litellm_noted_a_0(model: str, answered: str, provider: str | None) -> None:
    cost, note = cost_of(response(answered, provider, response_cost=0.0), model=model)
    assert cost is None
    assert note is not None


@pytest.mark.parametrize("model", ["openai/fake-model", "fireworks_ai/foo", "huggingface/x/foo"])
def test_an_unknown_model_called_through_litellm_has_no_cost(model: str) -> None:
    assert cost_of(called(model), model=model)[0] is None


def test_litellm_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made = response("fake-model", "openai", response_cost=None)
    monkeypatch.setattr(_litellm.load(), "completion_cost", lambda **_: pytest.fail("asked again"))
    assert cost_of(made, model="openai/fake-model")[0] is None


def test_a_none_of_litellm_where_there_is_a_price_is_worked_out() -> None:
    """Up to 1.97 LiteLLM notes None on every stream."""
    cost, _ = cost_of(response("gpt-4o-mini", "openai", response_cost=None), model="openai/gpt-4o-mini")
    assert cost == pytest.approx(0.00045)


def test_a_free_model_costs_0() -> None:
    with priced("openai/free", input_cost_per_token=0, output_cost_per_token=0.0, litellm_provider="openai"):
        assert cost_of(response("free", "openai"), model="openai/free") == (0.0, None)
        assert cost_of(response("free", "openai", response_cost=0.0), model="openai/free") == (0.0, None)
    assert cost_of(response("llama3", "ollama"), model="ollama/llama3") == (0.0, None)


def test_an_entry_of_the_same_name_that_another_sells_says_nothing() -> None:
    with priced("free", input_cost_per_token=0, output_cost_per_token=0, litellm_provider="acme"):
        assert cost_of(response("free", "lemonade"), model="lemonade/free")[0] is None


def test_an_entry_without_prices_is_no_price() -> None:
    with priced("openai/silent", litellm_provider="openai", mode="chat", max_tokens=5):
        assert cost_of(response("silent", "openai"), model="openai/silent")[0] is None


def test_a_0_where_there_is_a_price_is_worked_out_again() -> None:
    """LiteLLM notes 0.0 on a stream before it is read."""
    made = response("gpt-4o-mini", "openai", response_cost=0.0)
    cost, note = cost_of(made, model="openai/gpt-4o-mini")
    assert cost == pytest.approx(0.00045)
    assert note is None


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
@pytest.mark.parametrize("hidden", [{}, {"response_cost": 0.0}, {"response_cost": None}])
def test_without_usage_there_is_no_cost(usage: Any, hidden: dict[str, Any]) -> None:
    made = response("gpt-4o-mini", "openai", usage, **hidden)
    assert cost_of(made, model="openai/gpt-4o-mini") == (None, "the provider told no usage")


def test_what_the_provider_says_it_charged_stands_where_litellm_knows_none() -> None:
    made = response("a/foo", "openrouter", {**THOUSAND, "cost": 0.0009}, response_cost=None)
    assert cost_of(made, model="openrouter/a/foo") == (0.0009, None)


@pytest.mark.parametrize("stated", [-1.0, math.nan, math.inf, True, "0.1", 0.0])
def test_a_stated_cost_that_is_none_counts_for_nothing(stated: object) -> None:
    made = SimpleNamespace(usage={**THOUSAND, "cost": stated}, _hidden_params={"response_cost": stated})
    assert cost_of(made, model="acme/foo")[0] is None


def streamed(**options: Any) -> Any:
    litellm = _litellm.load()
    chunks = litellm.completion(
        model="openai/gpt-4o-mini", messages=ASKED, mock_response="hi", api_key="x", stream=True, **options
    )
    return litellm.stream_chunk_builder(list(chunks), messages=ASKED)


def test_a_stream_put_together_is_priced() -> None:
    whole = streamed(stream_options={"include_usage": True})
    usage = Usage.from_litellm(whole.usage)
    assert usage.output_tokens > 0
    cost, _ = cost_of(whole, model="openai/gpt-4o-mini")
    assert cost == pytest.approx(usage.input_tokens * 1.5e-7 + usage.output_tokens * 6e-7)


def test_a_stream_without_usage_is_not_free() -> None:
    """LiteLLM may note a cost of 0.0 on it."""
    whole = streamed()
    if Usage.from_litellm(whole.usage).total_tokens:
        assert cost_of(whole, model="openai/gpt-4o-mini")[0]
    else:
        assert cost_of(whole, model="openai/gpt-4o-mini") == (None, "the provider told no usage")


def test_a_hit_in_litellms_cache_is_free_whatever_litellm_noted() -> None:
    made = response("gpt-4o-mini", "openai", response_cost=0.5, cache_hit=True)
    assert cost_of(made, model="openai/gpt-4o-mini") == (0.0, None)


def test_embeddings_of_which_some_were_cached_have_no_known_cost() -> None:
    told = {"data": [{}, {}], "usage": {"prompt_tokens": 9}, "_hidden_params": {"cache_hit": True}}
    cost, note = cost_of(told, model="openai/text-embedding-3-small")
    assert cost is None
    assert note is not None
    assert "cache" in note
    assert cost_of({**told, "data": [{}]}, model="openai/text-embedding-3-small") == (0.0, None)


def test_a_calculator_that_breaks_is_not_taken_for_an_unknown_price(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> float:
        raise KeyError("a bug")

    monkeypatch.setattr(_litellm.load(), "completion_cost", broken)
    with pytest.raises(KeyError, match="a bug"):
        cost_of(response("gpt-4o-mini", "openai"), model="openai/gpt-4o-mini")


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (Exception("This model isn't mapped yet. model=x"), True),
        (Exception("a bug"), False),
        (RuntimeError("a bug; this model isn't mapped yet"), False),
    ],
)
def test_the_bare_exception_of_older_versions_is_told_by_its_text(
    monkeypatch: pytest.MonkeyPatch, error: Exception, unknown: bool
) -> None:
    def broken(**_: object) -> float:
        raise error

    monkeypatch.setattr(_litellm.load(), "completion_cost", broken)
    if unknown:
        assert cost_of(response("foo", "openai"), model="openai/foo")[0] is None
    else:
        with pytest.raises(Exception, match="a bug"):
            cost_of(response("foo", "openai"), model="openai/foo")


def test_the_providers_name_is_always_given_so_that_litellm_does_not_go_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def note(**options: Any) -> float:
        asked.update(options)
        return 0.5

    monkeypatch.setattr(_litellm.load(), "completion_cost", note)
    cost_of(response("gpt-4o"), model="github_copilot/gpt-4o")
    assert asked["custom_llm_provider"] == "github_copilot"


def test_a_price_of_ones_own_beats_all() -> None:
    price = Price(input_per_token=1e-6, output_per_token=4e-6)
    made = response("fake-model", "openai", response_cost=9.0)
    assert cost_of(made, model="openai/fake-model", price=price)[0] == pytest.approx(0.003)
    assert cost_of(response("fake-model", "openai", None), model="m", price=price)[0] is None
    hit = response("fake-model", "openai", cache_hit=True)
    assert cost_of(hit, model="openai/fake-model", price=price) == (0.0, None)


def test_a_usage_that_is_known_already_is_not_read_again() -> None:
    price = Price(input_per_token=1.0)
    assert cost_of(response("m", "openai"), model="m", usage=Usage(7), price=price) == (7.0, None)


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        (Price(input_per_token=2.0), Usage(10, 5), 20.0),
        (Price(input_per_token=2.0, output_per_token=3.0), Usage(10, 5), 35.0),
        (Price(input_per_token=2.0), Usage(10, 0, 4, 3), 20.0),
        (Price(input_per_token=2.0, cache_read_per_token=0.5), Usage(10, 0, 4, 3), 14.0),
        (Price(input_per_token=2.0, cache_read_per_token=0.0, cache_write_per_token=3.0), Usage(10, 0, 4, 3), 15.0),
        (Price(input_per_token=0.0, per_request=0.25), Usage(), 0.25),
        (Price(input_per_token=2.0, output_per_token=1.0), Usage(0, 9, reasoning_tokens=7), 9.0),
        (Price(input_per_token=2.0, cache_read_per_token=1.0), Usage(3, 0, 5, contradictory=True), 5.0),
    ],
)
def test_a_price_of_ones_own(price: Price, usage: Usage, cost: float) -> None:
    assert price.cost(usage) == cost


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, None, "1"])
def test_a_price_that_is_none_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="output_per_token"):
        Price(input_per_token=1.0, output_per_token=wrong)


def test_asking_the_cost_leaves_the_response_as_it_was() -> None:
    made = response("gpt-4o-mini", "openai")
    before, notes = made.model_dump(), dict(made._hidden_params)
    cost_of(made, model="openai/gpt-4o-mini")
    assert made.model_dump() == before
    assert made._hidden_params == notes


# Batches


@pytest.mark.parametrize("shape", ["object", "dict"])
def test_a_batch_costs_what_batches_cost(shape: str) -> None:
    litellm = _litellm.load()
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    response: Any = {"model": "gpt-4.1-mini", "usage": usage}
    if shape == "object":
        response = litellm.ModelResponse(model="gpt-4.1-mini", usage=litellm.Usage(**usage))
    plain, _ = cost_of(response, model="openai/gpt-4.1-mini")
    batch, note = cost_of(response, model="openai/gpt-4.1-mini", batch=True)
    assert plain == pytest.approx(0.00056)
    assert batch == pytest.approx(0.00028)
    assert note is None


def test_a_batch_without_a_price_or_without_usage_is_no_gift() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    assert cost_of({"usage": usage}, model="openai/nobody-knows", batch=True)[0] is None
    assert cost_of({"usage": None}, model="openai/gpt-4.1-mini", batch=True)[0] is None
    own = Price(input_per_token=0.001)
    assert cost_of({"usage": usage}, model="openai/nobody-knows", price=own, batch=True) == (1.0, None)
