"""The engine as it runs on a GPU, by the kernels room, against the engine of a CPU: in Triton's interpreter, fp32.

With a CUDA device the same tests run there.
"""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before any test imports triton

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.checkpoint import FourBits, unpack
from trimtab.backends.engine.draft import Draft
from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.linear import Linear
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.sample import Law, draw
from trimtab.backends.engine.sequence import Ended, Job, Piece, Task
from trimtab.backends.engine.shape import Rope, Shape
from trimtab.backends.engine.verify import paths
from trimtab.kernels.switch import forced, serves

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAMILIES = {
    "llama": {"rope": Rope.build(16, 10000.0, interleaved=True)},
    "qwen2": {"rope": Rope.build(16, 10000.0, interleaved=False), "biases": True, "tied": False},
    "qwen3": {"rope": Rope.build(16, 10000.0, interleaved=False), "qk_norm": True, "heads": 6},
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What the interpreter can bear: nine rows are a long prompt already."""
    from trimtab.backends.engine import attention_kernels
    from trimtab.kernels import interpreter

    interpreter.mend()
    monkeypatch.setattr(attention_kernels, "_BLOCK", 16)


class Random:
    """A checkpoint of random weights."""

    def __init__(self, **changes):
        sizes = {"layers": 2, "hidden": 48, "heads": 4, "kv_heads": 2, "head": 16, "mlp": 40, "vocabulary": 90}
        facts = {"context": 256, "epsilon": 1e-5, "biases": False, "qk_norm": False, "tied": True}
        self.shape = Shape("llama", **{**sizes, **facts, **changes})
        made = np.random.default_rng(0)
        self._tensors = {
            name: (1 + 0.1 * made.standard_normal(d) if len(d) == 1 else made.standard_normal(d) / d[-1] ** 0.5)
            for name, d in self.shape.dimensions().items()
        }

    def floats(self, name):
        return self._tensors[name].astype(np.float32)


class Text:
    """One sequence read through a model, with pages of its own."""

    def __init__(self, model, device, turned, sight):
        self.model, self.sight, self.length = model, sight, 0
        self.memory = Memory(model.shape, 16, torch.float32, torch.device(device), 16, turned)
        self.pages = list(range(1, 17))[::-1]

    def forward(self, tokens, paths=()):
        used = self.pages[: -(-(self.length + len(tokens)) // 16)]
        rows = Rows(tokens, self.length, used, range(len(tokens)), paths)
        batch = Batch([rows], self.memory, self.model.shape.heads, self.sight, self.model.tiles)
        self.length += len(tokens)
        self.parts = {type(part).__name__ for part in batch.parts}
        return self.model.forward(batch, self.memory).cpu()


@pytest.mark.parametrize("sight", [Sight(), Sight(window=10, sinks=3)], ids=["all", "window"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_a_token_and_a_tree_give_the_same_logits(family, sight):
    checkpoint, chance = Random(**FAMILIES[family]), random.Random(1)
    tokens = [chance.randrange(90) for _ in range(33)]
    draft = Draft((7, 8, 9, 10), (-1, 0, 0, 2), (1.0,) * 4)
    found, parts = [], set()
    for kernels in (False, True):
        device = DEVICE if kernels else "cpu"
        with forced("triton" if kernels else ""):
            text = Text(Model(checkpoint, "float32", device), device, not kernels, sight)
            read = []
            for piece in (tokens[:17], tokens[17:19], tokens[19:20], tokens[20:]):
                read.append(text.forward(piece))
                parts |= text.parts
            text.length -= 1
            read.append(text.forward([tokens[-1], *draft.tokens], paths(draft)))
        found.append(torch.cat(read))
    assert {"Paged", "Prompts"} <= parts
    torch.testing.assert_close(found[1], found[0], atol=2e-4, rtol=2e-4)


def test_sequences_of_every_kind_in_one_step():
    """Prompts, answers and trees are computed by calls of their own; each row of logits comes back to its owner."""
    checkpoint = Random(**FAMILIES["llama"])
    draft = Draft((7, 8, 9), (-1, 0, 0), (1.0,) * 3)
    lengths = [1, 12, 4, 3]  # an answer, a prompt, a tree, a draft
    made = random.Random(2)
    tokens = [[made.randrange(90) for _ in range(n)] for n in lengths]
    found = []
    for kernels in (False, True):
        device = DEVICE if kernels else "cpu"
        with forced("triton" if kernels else ""):
            model = Model(checkpoint, "float32", device)
            memory = Memory(model.shape, 40, torch.float32, torch.device(device), 16, not kernels)
            pages = [list(range(1 + 9 * i, 10 + 9 * i)) for i in range(4)]
            history = [Rows(list(range(20)), 0, own[:2], []) for own in pages]
            model.forward(Batch(history, memory, 4, Sight(), model.tiles), memory)
            rows = [
                Rows(own, 20, table[: -(-(20 + len(own)) // 16)], range(len(own)), paths(draft) if i == 2 else ())
                for i, (own, table) in enumerate(zip(tokens, pages, strict=True))
            ]
            found.append(model.forward(Batch(rows, memory, 4, Sight(), model.tiles), memory).cpu())
    torch.testing.assert_close(found[1], found[0], atol=2e-4, rtol=2e-4)


class Client:
    def __init__(self):
        self.tokens, self.reason = [], None

    def __call__(self, said):
        for event in said or ():
            if isinstance(event, Piece):
                self.tokens += [choice.token for choice in event.tokens]
            elif isinstance(event, Ended):
                self.reason = event.reason


def answers(model, tokenizer, sampling, **options):
    """What two requests are told together, prompts of two lengths."""
    texts = ["hello world hello world hello", "in the 12"]
    with torch.inference_mode():
        memory = Memory(model.shape, 40, model.dtype, model.device, 16)
        engine = Engine(model, tokenizer, memory, 200, time.perf_counter, Options(**options))
        clients = [Client() for _ in texts]
        for i, (text, client) in enumerate(zip(texts, clients, strict=True)):
            engine.add(Job([Task(tokenizer.encode(text), Ask(sampling, seed=i, n=1, most=8, stops=()))], client))
        while engine.busy:
            engine.step()
        engine.check()
    assert all(client.reason for client in clients)
    return [client.tokens for client in clients], engine


@pytest.fixture(scope="module")
def tiny_model(loaded):
    """model(device) -> the tiny model in float32."""
    from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint

    made = {}

    def model(path, device):
        if device not in made:
            made[device] = Model(GgufCheckpoint(path), "float32", device)
        made[device].dtype = torch.float32
        return made[device]

    return model


def test_greedy_answers_are_those_of_the_cpu(tiny, loaded, tiny_model):
    plain, _ = answers(tiny_model(tiny, "cpu"), loaded.tokenizer, Sampling(temperature=0))
    with forced("triton"):
        found, engine = answers(tiny_model(tiny, DEVICE), loaded.tokenizer, Sampling(temperature=0), tree=True)
    assert found == plain
    assert not engine._memory.turned


def test_drawn_answers_do_not_depend_on_drafts(tiny, loaded, tiny_model):
    sampling = Sampling(temperature=0.8, top_p=0.9, min_p=0.01)
    with forced("triton"):
        alone, _ = answers(tiny_model(tiny, DEVICE), loaded.tokenizer, sampling, draft=0)
        drafted, _ = answers(tiny_model(tiny, DEVICE), loaded.tokenizer, sampling, tree=True)
    assert alone == drafted


LOGITS = torch.tensor([[2.0, 1.7, 1.5, 1.2, 1.0, 0.9, 0.2, -1.0, -3.0]])


@pytest.mark.parametrize(
    "ask",
    [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_k": 3},
        {"temperature": 0.8, "top_p": 0.6},
        {"temperature": 1.2, "min_p": 0.2, "logit_bias": {8: 4.5, 0: -100.0}},
    ],
    ids=str,
)
def test_what_a_kernel_draws_is_what_may_be_drawn(ask):
    laws = [Law(Sampling(seed=2**64 - 5, **ask), position) for position in range(24)]
    with forced("triton"):
        drawn = draw(LOGITS.to(DEVICE).expand(24, -1), laws)
        alone = [draw(LOGITS.to(DEVICE), [law])[0] for law in laws[:2]]
    usual = draw(LOGITS.expand(300, -1), [Law(Sampling(seed=7, **ask), position) for position in range(300)])
    assert set(drawn) <= set(usual)
    assert len(set(drawn)) > 1 or ask["temperature"] == 0
    assert drawn[:2] == alone


def test_penalties_are_applied_before_a_kernel_draws():
    law = Law(Sampling(temperature=1.0, top_k=1, frequency_penalty=2.0), 3, {0: 2, 1: 1})
    with forced("triton"):
        assert draw(LOGITS.to(DEVICE), [law]) == [2]


class Matrix:
    """Two matrices of one input, in 4 bits."""

    def __init__(self, zeros, order=False):
        made = np.random.default_rng(3)
        values = made.integers(0, 256, (24, 80), dtype=np.uint8)
        scales = made.uniform(0.01, 0.1, (24, 5)).astype(np.float16).astype(np.float32)
        least = {
            "eight": -8 * scales,
            "whole": -made.integers(0, 16, scales.shape).astype(np.float32) * scales,
            "any": made.standard_normal(scales.shape).astype(np.float32),
        }[zeros]
        self.parts = {
            name: FourBits(values[rows], scales[rows], least[rows], 32, made.permutation(160) if order else None)
            for name, rows in (("a", slice(0, 16)), ("b", slice(16, 24)))
        }
        if order:
            self.parts["b"] = FourBits(*(getattr(self.parts["b"], n) for n in ("values", "scales", "leasts", "group")),
                                       self.parts["a"].order)  # fmt: skip

    def floats(self, name):
        return unpack(self.parts[name])

    def four_bits(self, name):
        return self.parts[name]


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("zeros", ["eight", "whole", "any"])
def test_four_bits_of_a_file_are_multiplied_as_they_are(zeros, order):
    source = Matrix(zeros, order)
    x = torch.randn(5, 160)
    exact = x.double() @ torch.from_numpy(np.concatenate([source.floats("a"), source.floats("b")])).double().T
    with forced("triton"):
        product = Linear(source, ("a", "b"), "int4", torch.device(DEVICE))
        found = product(x.to(DEVICE)).cpu()
    weight = product._product._weight
    assert (weight.zeros is not None, weight.offsets is not None) == (zeros == "whole", zeros == "any")
    assert (weight.scales.dtype == torch.float32) == (zeros == "any"), "16 bits where they hold the numbers exactly"
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)


def test_eight_bits_are_multiplied_by_a_kernel():
    source = Matrix("any")
    weight = torch.from_numpy(np.concatenate([source.floats("a"), source.floats("b")]))
    x = torch.randn(5, 160)
    with forced("triton"):
        found = Linear(source, ("a", "b"), "int8", torch.device(DEVICE))(x.to(DEVICE)).cpu()
    step = weight.abs().amax(1, keepdim=True) / 127
    nearest = (weight / step).round() * step
    torch.testing.assert_close(found, x @ nearest.T, atol=1e-4, rtol=1e-4)


def test_the_environment_gives_a_cpu_the_ways_of_a_gpu():
    """Asked without importing triton or torch, which a CPU's start should not wait for."""
    device = "types.SimpleNamespace(type='cpu')"
    code = (
        f"import sys, types; from trimtab.kernels.switch import serves; print(serves({device}), 'torch' in sys.modules)"
    )
    for mode, said in (("triton", "True"), ("torch", "False"), ("", "False")):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "TRIMTAB_KERNELS": mode}, capture_output=True, text=True
        )
        assert done.stdout == f"{said} False\n", done.stderr
    assert serves(torch.device("cuda"))
