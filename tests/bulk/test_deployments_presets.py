"""Places of a model that the run calls by a preset's slug, by a preset itself, or by an alias."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bulkllm import RateLimiter, models
from bulkllm.bulk import BulkRequest, plan, run
from bulkllm.bulk.deployments import Deployments, Place
from bulkllm.calls import RetryPolicy
from bulkllm.client import Client
from bulkllm.errors import ConfigError
from bulkllm.models import LLMConfig
from bulkllm.testing import FakeProvider

HOUSE = LLMConfig(slug="house-brief", model="openai/house", temperature=0.5)
ROWS = [f"Tell me of {number}." for number in range(12)]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    models.reset()
    models.register_preset(HOUSE)
    models.register("openai/house-large", aliases=["large"])
    yield
    models.reset()


@pytest.mark.parametrize(
    ("model", "called"), [("house-brief", "house"), (HOUSE, "house"), ("large", "house-large"), ("openai/x", "x")]
)
def test_all_places_are_asked_whatever_the_model_is_called_by(model: Any, called: str) -> None:
    client = Client(retry=RetryPolicy(max_attempts=1))
    with FakeProvider(keys=["sk-a"]) as one, FakeProvider(keys=["sk-b"]) as other:
        places = [{"api_base": one.openai_base, "api_key": "sk-a"}, {"api_base": other.openai_base, "api_key": "sk-b"}]
        row = {"prompt": "by itself", "model": "house-brief"} if called == "house" else "by itself"
        result = run([*ROWS, row], model=model, deployments=places, client=client, progress=False, max_in_flight=4)
        seen = one.report(), other.report()
    assert (result.ok, result.stopped) == (13, None)
    assert sum(report.requests for report in seen) == 13
    assert all(list(report.models) == [called] for report in seen)


@pytest.mark.parametrize("model", ["house-brief", HOUSE, "large"])
def test_a_plan_knows_the_places_and_their_limits_too(model: Any) -> None:
    places = [{"api_base": f"http://127.0.0.1:{port}/v1", "rpm": rpm, "burst": 1} for port, rpm in ((9, 60), (8, 120))]
    found = plan(ROWS * 15, model=model, deployments=places, client=Client())
    assert found.limited
    assert found.seconds == pytest.approx(180 / 3, rel=0.1)


@pytest.mark.parametrize("model", [None, ["openai/a"], 3])
def test_what_is_no_model_has_no_places(model: Any) -> None:
    with pytest.raises(ConfigError, match="give model="):
        run(ROWS, model=model, deployments=[{"api_base": "http://127.0.0.1:9/v1"}], progress=False)


@pytest.mark.parametrize(("there", "kept"), [("bedrock/b", True), ("gpt-4.1", False)])
async def test_a_place_of_another_provider_is_not_told_the_runs_other_keys(there: str, kept: bool) -> None:
    bodies = []

    async def ask(request: BulkRequest) -> Any:
        bodies.append(request.body)
        return {}, None

    deployments = Deployments("bedrock/a", [Place({"model": there}, Client(RateLimiter(learn=False)), ask)], ask)
    body = {"model": "bedrock/a", "messages": [], "aws_secret_access_key": "aws-a", "api_key": "sk-a", "top_p": 1}
    await deployments(BulkRequest(0, None, b"", b"", "completion", "bedrock/a", None, body, {}, None))
    wanted = {"model": there, "messages": [], "top_p": 1} | ({"aws_secret_access_key": "aws-a"} if kept else {})
    assert bodies == [wanted]


async def test_a_place_is_told_the_runs_keys_that_are_its_providers() -> None:
    bodies = []

    async def ask(request: BulkRequest) -> Any:
        bodies.append(request.body)
        return {}, None

    deployments = Deployments("gpt-4o", [Place({"model": "azure/eu"}, Client(RateLimiter(learn=False)), ask)], ask)
    body = {"model": "gpt-4o", "messages": [], "azure_ad_token": "for-azure", "vertex_credentials": "not-for-azure"}
    await deployments(BulkRequest(0, None, b"", b"", "completion", "gpt-4o", None, body, {}, None))
    assert bodies == [{"model": "azure/eu", "messages": [], "azure_ad_token": "for-azure"}]
