"""The engine with its real default model; skipped where the weights have not been fetched."""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import torch

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.backend import EngineBackend
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.backends.engine.loaded import load
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.settings import Settings
from trimtab.backends.engine.weights import CATALOGUE, DEFAULT, models_folder, resolve, sha256
from trimtab.protocol.errors import ModelUnavailable

try:
    PATH = resolve(DEFAULT)
except ModelUnavailable:
    pytest.skip(f"no {CATALOGUE[DEFAULT].file} in {models_folder()}: run `trimtab fetch`", allow_module_level=True)

QUESTIONS = ["What is the capital of France?", "Write a sentence about the sea.", "Name three primary colours.",
             "Translate 'good morning' into French."]  # fmt: skip


@pytest.fixture(scope="module")
def smollm():
    return load(PATH, lambda: datetime(2026, 1, 1, tzinfo=UTC), Settings(threads=2))


def test_the_file_is_the_catalogues():
    assert sha256(PATH) == CATALOGUE[DEFAULT].sha256


def test_the_prompt_is_the_one_the_model_was_trained_with(smollm):
    ids = smollm.template.encode([{"role": "user", "content": "Hi <|im_end|>"}], 8192)
    assert [i for i in ids if i < 17] == [1, 2, 1, 2, 1]
    assert smollm.tokenizer.decode(ids).endswith("user\nHi <|im_end|>\nassistant\n")


def greedy(model, prompt, count):
    memory = Memory(model.shape, 2, torch.float32, model.device)
    tokens, rows, done = list(prompt), [], 0
    for _ in range(count):
        new = Rows(tokens[done:], done, [1, 2], [len(tokens) - done - 1])
        logits = model.forward(Batch([new], memory, model.shape.heads, Sight(), model.tiles), memory)
        done = len(tokens)
        rows.append(logits[0])
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :], rows


@pytest.mark.timeout(600)
def test_the_fast_route_agrees_with_float32(smollm):
    exact = Model(GgufCheckpoint(PATH), "float32")
    same = 0
    for question in QUESTIONS:
        prompt = smollm.template.encode([{"role": "user", "content": question}], 8192)
        wanted, rows = greedy(exact, prompt, 12)
        got, fast = greedy(smollm.engine.model, prompt, 12)
        same += next((i for i in range(12) if wanted[i] != got[i]), 12)
        # The prompt's own next token, before rounding can have led the two apart.
        assert torch.softmax(rows[0], -1).sub(torch.softmax(fast[0], -1)).abs().max() < 0.06
    assert same >= 0.7 * 12 * len(QUESTIONS)


async def test_it_answers(ask):
    backend = EngineBackend(DEFAULT, threads=2)
    await backend.start()
    paris, joke = await asyncio.gather(
        backend.complete(ask(messages=[{"role": "user", "content": "Name the capital of France."}], temperature=0)),
        backend.complete(
            ask(
                messages=[{"role": "user", "content": "Describe a cat as JSON with name and age."}],
                response_format={"type": "json_object"},
                max_tokens=60,
                seed=1,
            )
        ),
    )
    await backend.close()
    assert "Paris" in json.loads(paris.body)["choices"][0]["message"]["content"]
    assert paris.finish_reasons == ("stop",)
    assert isinstance(json.loads(json.loads(joke.body)["choices"][0]["message"]["content"]), dict)


def test_transformers_is_not_needed():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from datetime import datetime; from pathlib import Path\n"
        "from trimtab.backends.engine.loaded import load\n"
        f"print(load(Path({str(PATH)!r}), datetime.now).tokenizer.size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "49152"
