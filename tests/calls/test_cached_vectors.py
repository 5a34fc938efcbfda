"""Embeddings in the cache: each item is paid once, whatever batches it comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bulkllm
from bulkllm.testing import FakeProvider, Fault

MODEL = "openai/text-embedding-3-small"


class Asked:
    """What a server was asked for, batch by batch; a batch takes it some time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.inputs: list[Any] = []
        self._seconds = seconds

    def __call__(self, body: dict[str, Any]) -> float:
        self.inputs.append(body["input"])
        return self._seconds


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def options(asked: Asked) -> Iterator[dict[str, Any]]:
    with FakeProvider(latency=asked, embedding_dimensions=4) as server:
        yield {"api_base": server.openai_base, "api_key": "sk-fake"}


@pytest.fixture
def client() -> bulkllm.Client:
    return bulkllm.Client(cache=bulkllm.Cache(memory=True))


def vectors(response: Any) -> list[list[float]]:
    assert [item["index"] for item in response.data] == list(range(len(response.data)))
    return [item["embedding"] for item in response.data]


def test_a_partly_known_batch_asks_only_for_the_rest(
    client: bulkllm.Client, options: dict[str, Any], asked: Asked
) -> None:
    right = vectors(bulkllm.Client().embedding(MODEL, ["a", "some longer text", "b", "c"], **options))
    first = bulkllm.record_of(client.embedding(MODEL, ["b", "some longer text"], **options))
    response = client.embedding(MODEL, ["a", "some longer text", "b", "c"], **options)
    assert asked.inputs[1:] == [["b", "some longer text"], ["a", "c"]]
    assert vectors(response) == right
    record = bulkllm.record_of(response)
    assert (record.cached, record.attempts, record.outcome) == (False, 1, "ok")
    assert record.saved == pytest.approx(first.cost)
    assert record.input_tokens == 2
    assert record.cost == pytest.approx(2 * 0.02e-6)
    assert response.usage.prompt_tokens == first.input_tokens + 2, "the usage of the whole batch"
    total = client.usage.total
    assert (total.requests, total.cached, total.input_tokens) == (2, 0, first.input_tokens + 2)
    assert total.saved == pytest.approx(first.cost)


def test_a_known_batch_is_a_hit(client: bulkllm.Client, options: dict[str, Any], asked: Asked) -> None:
    for batch in (["a", "b"], ["c"]):
        client.embedding(MODEL, batch, **options)
    response = client.embedding(MODEL, ["c", "a", "b"], **options)
    assert len(asked.inputs) == 2
    record = bulkllm.record_of(response)
    assert (record.cached, record.cost, record.attempts, record.input_tokens) == (True, 0.0, 0, 3)
    assert record.saved == pytest.approx(3 * 0.02e-6)
    assert response._hidden_params["cache_hit"] is True
    assert client.usage.total.cached == 1


async def test_so_it_is_in_a_task(client: bulkllm.Client, options: dict[str, Any], asked: Asked) -> None:
    await client.aembedding(MODEL, ["a"], **options)
    response = await client.aembedding(MODEL, ["b", "a"], **options)
    again = await client.aembedding(MODEL, ["b"], **options)
    assert asked.inputs == [["a"], ["b"]]
    assert vectors(response)[:1] == vectors(again)


def test_one_text_by_itself_and_in_a_list_is_the_same_item(
    client: bulkllm.Client, options: dict[str, Any], asked: Asked
) -> None:
    alone = client.embedding(MODEL, "a", **options)
    assert vectors(client.embedding(MODEL, ["a"], **options)) == vectors(alone)
    client.embedding(MODEL, [1, 2, 3], **options)
    client.embedding(MODEL, [[1, 2, 3], [4]], **options)
    assert asked.inputs == ["a", [1, 2, 3], [[4]]]


def test_an_item_that_comes_twice_is_asked_for_once(
    client: bulkllm.Client, options: dict[str, Any], asked: Asked
) -> None:
    response = client.embedding(MODEL, ["a", "b", "a"], **options)
    assert asked.inputs == [["a", "b"]]
    found = vectors(response)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    "other", [{"dimensions": 3}, {"extra_body": {"task": "query"}}, {"sample": 1}, {"namespace": "other"}]
)
def test_another_request_is_another_vector(
    client: bulkllm.Client, options: dict[str, Any], asked: Asked, other: dict[str, Any]
) -> None:
    client.embedding(MODEL, ["a"], **options)
    client.embedding(MODEL, ["a"], **other, **options)
    assert len(asked.inputs) == 2
    client.embedding(MODEL, ["a"], **other, **options)
    assert len(asked.inputs) == 2


def test_what_a_caller_does_to_its_vectors_is_its_own_business(client: bulkllm.Client, options: dict[str, Any]) -> None:
    first = client.embedding(MODEL, ["a"], **options)
    right = list(vectors(first)[0])
    vectors(first)[0].clear()
    second = client.embedding(MODEL, ["a", "b"], **options)
    assert vectors(second)[0] == right
    vectors(second)[1].clear()
    vectors(second)[0].clear()
    third = client.embedding(MODEL, ["a", "b"], **options)
    assert vectors(third)[0] == right
    assert len(vectors(third)[1]) == 4


def test_a_batch_that_fails_keeps_nothing_and_saves_nothing(client: bulkllm.Client) -> None:
    with FakeProvider(faults=[Fault("status", status=400, after=1)]) as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        client.embedding(MODEL, ["a"], **options)
        with pytest.raises(Exception, match="400") as caught:
            client.embedding(MODEL, ["a", "b"], **options)
    assert client.cache is not None
    assert client.cache.info().entries == 1
    record = caught.value.bulkllm_record  # type: ignore[attr-defined]  # where it is left
    assert (record.saved, record.cost) == (None, 0.0)


def answer_with(*sizes: int) -> Any:
    """A server that gives so many vectors, whatever it is asked for."""
    left = list(sizes)

    def script(exchange: Any) -> None:
        data = [{"object": "embedding", "index": i, "embedding": [float(i)]} for i in range(left.pop(0))]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        exchange.answer(200, {"object": "list", "model": "m", "data": data, "usage": usage})

    return script


def test_vectors_that_nobody_can_assign_are_handed_over_and_not_kept(client: bulkllm.Client, canned: Any) -> None:
    canned.script = answer_with(1, 1)
    options = {"api_base": canned.url, "api_key": "k"}
    for _ in range(2):
        response = client.embedding(MODEL, ["a", "b"], **options)
        assert vectors(response) == [[0.0]]
        assert not bulkllm.record_of(response).cached
    assert len(canned.seen) == 2


def test_a_rest_that_cannot_be_assigned_makes_the_batch_be_asked_whole(client: bulkllm.Client, canned: Any) -> None:
    canned.script = answer_with(1, 1, 3)
    options = {"api_base": canned.url, "api_key": "k"}
    client.embedding(MODEL, ["a"], **options)
    response = client.embedding(MODEL, ["a", "b", "c"], **options)
    assert [exchange.body["input"] for exchange in canned.seen] == [["a"], ["b", "c"], ["a", "b", "c"]]
    assert len(vectors(response)) == 3
    assert client.usage.total.requests == 3, "each that was paid is counted"


# -- in flight -----------------------------------------------------------------------------------------------


def test_identical_batches_in_flight_share_one_also_across_threads_and_loops() -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    asked = Asked(0.2)
    with FakeProvider(latency=asked, embedding_dimensions=4) as server, ThreadPoolExecutor(4) as threads:
        options = {"api_base": server.openai_base, "api_key": "k"}

        async def two() -> list[Any]:
            return list(await asyncio.gather(*(client.aembedding(MODEL, ["a", "b"], **options) for _ in range(2))))

        in_loops = [threads.submit(asyncio.run, two()) for _ in range(2)]
        in_threads = [threads.submit(client.embedding, MODEL, ["a", "b"], **options) for _ in range(2)]
        responses = [one for job in in_loops for one in job.result()] + [job.result() for job in in_threads]
        assert asked.inputs == [["a", "b"]]
    assert sorted(bulkllm.record_of(response).cached for response in responses) == [False] + [True] * 5
    whole = vectors(responses[0])
    vectors(responses[1])[0].clear()
    assert all(vectors(response) == whole for response in responses[2:]), "each caller owns its vectors"


async def test_if_the_batch_that_is_followed_fails_for_good_its_followers_fail_with_it() -> None:
    client = bulkllm.Client(cache=bulkllm.Cache(memory=True))
    with FakeProvider(latency=0.1, faults=[Fault("status", status=400, delay=0.1)]) as server:
        options = {"api_base": server.openai_base, "api_key": "k"}
        ended = await asyncio.gather(
            *(client.aembedding(MODEL, ["a", "b"], **options) for _ in range(3)), return_exceptions=True
        )
        assert server.report().requests == 1
    assert [type(end).__name__ for end in ended] == ["BadRequestError"] * 3
