"""The sentence-transformers adapter, over a tiny model made here: no network, and random weights are weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("torch")

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from trimtab.backends.embed import EmbedOptions, open_embedder
from trimtab.backends.embed_torch import TorchEncoder
from trimtab.backends.embed_wordpiece import bert_uncased
from trimtab.protocol.errors import ModelUnavailable

MINILM = Path(os.environ.get("TRIMTAB_MODELS", Path.home() / ".cache/trimtab/models")) / "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a two-layer BERT of 32 dimensions and a window of 16."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=30_522, **shape)).save_pretrained(folder / "bert")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bert_uncased(), mask_token="[MASK]", **special)
    tokenizer.save_pretrained(folder / "bert")
    bert = Transformer(str(folder / "bert"), max_seq_length=16)
    SentenceTransformer(modules=[bert, Pooling(32, "mean"), Normalize()], device="cpu").save(str(folder / "whole"))
    return str(folder / "whole")


async def test_unit_vectors_in_order_through_the_embedder(tiny: str) -> None:
    embedder = open_embedder(EmbedOptions("torch", tiny, threads=1))
    texts = ["hello world", "", "a much longer text than the window " * 20, "broken \ud800", "hello world"]
    found = await embedder.embed_counted(texts)
    assert found.vectors.shape == (5, 32)
    assert np.abs(np.linalg.norm(found.vectors, axis=1) - 1).max() < 1e-5
    assert np.array_equal(found.vectors[0], found.vectors[4])
    assert found.tokens[:3] == (4, 2, 16)
    own = SentenceTransformer(tiny, device="cpu").encode(["hello world"])
    assert (own[0] @ found.vectors[0]) / np.linalg.norm(own[0]) > 1 - 1e-5
    await embedder.close()


async def test_a_vector_is_the_same_to_the_bit_whatever_else_is_asked(tiny: str) -> None:
    texts = [f"{'word ' * (i % 15)}{i}" for i in range(40)]
    embedder = open_embedder(EmbedOptions("torch", tiny))
    together = await embedder.embed(texts, tenant="together")
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal((await embedder.embed([text], tenant="alone"))[0], vector)
    await embedder.close()


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        TorchEncoder(str(tmp_path / "nowhere"), "cpu", 1)


@pytest.mark.skipif(not MINILM.is_dir(), reason="needs the weights of all-MiniLM-L6-v2")
@pytest.mark.slow
async def test_the_bundled_int8_model_agrees_with_the_original() -> None:
    pytest.importorskip("onnxruntime")
    texts = [f"Sentence {i}: {word} is a thing of {word}s in the year {1900 + i}." for i, word in enumerate(dir(str))]
    small, original = open_embedder(), open_embedder(EmbedOptions("torch", str(MINILM)))
    cosines = (await small.embed(texts) * await original.embed(texts)).sum(axis=1)
    assert cosines.min() >= 0.98
    await small.close()
    await original.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
async def test_a_cuda_device_gives_the_same_directions(tiny: str) -> None:
    texts = [f"text number {i}" for i in range(50)]
    on_cpu, on_gpu = (open_embedder(EmbedOptions("torch", tiny, device)) for device in ("cpu", "cuda"))
    cosines = (await on_cpu.embed(texts) * await on_gpu.embed(texts)).sum(axis=1)
    assert cosines.min() >= 0.999
    await on_cpu.close()
    await on_gpu.close()
