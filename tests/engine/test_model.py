"""The forward pass against a plain one written from the formulas, head by head in float64."""

import functools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.draft import Draft
from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.verify import paths

TOKENS = [5, 100, 7, 7, 230, 41, 3, 99, 12, 64]


def plain_logits(file, tokens):
    """Logits of the last token, the slow way."""
    w = {name: file.floats(name).astype(np.float64) for name in file.tensors}
    x = w["token_embd.weight"][tokens]
    for i in range(2):
        layer = {name.split(".")[2]: v for name, v in w.items() if name.startswith(f"blk.{i}.")}
        h = norm(x, layer["attn_norm"])
        q, k, v = (h @ layer[f"attn_{part}"].T for part in "qkv")
        heads = [attend(turn(part(q, j)), turn(part(k, j // 2)), part(v, j // 2)) for j in range(4)]
        x = x + np.concatenate(heads, axis=1) @ layer["attn_output"].T
        h = norm(x, layer["ffn_norm"])
        gate = h @ layer["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer["ffn_up"].T)) @ layer["ffn_down"].T
    return norm(x, w["output_norm.weight"])[-1] @ w["token_embd.weight"].T


def norm(x, weight):
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5) * weight


def part(x, head):
    return x[:, 16 * head : 16 * head + 16]


def turn(x):
    out = x.copy()
    for position in range(len(x)):
        for pair in range(8):
            a = position * 10000.0 ** (-2 * pair / 16)
            even, odd = x[position, 2 * pair], x[position, 2 * pair + 1]
            out[position, 2 * pair] = even * np.cos(a) - odd * np.sin(a)
            out[position, 2 * pair + 1] = even * np.sin(a) + odd * np.cos(a)
    return out


def attend(q, k, v):
    scores = q @ k.T / 4
    scores[np.triu_indices(len(q), 1)] = -np.inf
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True) @ v


def model_of(path, compute="float32"):
    return Model(GgufCheckpoint(path), compute)


class Text:
    """One sequence read through a model, with pages of its own."""

    def __init__(self, model, page=16, turned=None, sight=None):
        self.model, self.length, self.sight = model, 0, sight or Sight()
        pages = -(-model.shape.context // page)
        self.memory = Memory(model.shape, pages, torch.float32, model.device, page, turned)
        self.pages = list(range(1, self.memory.pages + 1))[::-1]

    def forward(self, tokens, every=False, paths=()):
        used = self.pages[: -(-(self.length + len(tokens)) // self.memory.page)]
        wanted = range(len(tokens)) if every else [len(tokens) - 1]
        rows = Rows(tokens, self.length, used, wanted, paths)
        heads = self.model.shape.heads
        logits = self.model.forward(Batch([rows], self.memory, heads, self.sight, self.model.tiles), self.memory)
        self.length += len(tokens)
        return logits


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0"])
def test_float32_is_the_plain_forward_pass(write_gguf, kind):
    path = write_gguf(kind)
    got = Text(model_of(path)).forward(TOKENS)[0].numpy()
    np.testing.assert_allclose(got, plain_logits(GGUF(path), TOKENS), atol=2e-3)


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q4_1"])
def test_what_this_machine_does_best_stays_close(write_gguf, kind):
    path = write_gguf(kind)
    model, exact = model_of(path, None), plain_logits(GGUF(path), TOKENS)
    text = Text(model)
    text.forward(TOKENS[:-1])
    for got in (Text(model).forward(TOKENS), text.forward(TOKENS[-1:])):
        error = got[0].numpy() - exact
        assert np.sqrt((error**2).mean()) < 0.03 * exact.std()


@pytest.mark.parametrize("compute", [None, "float32"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_a_rows_bits_depend_on_its_own_context_alone(tiny_models, compute, seed):
    """In pieces of any lengths, in either form of attention, beside any others: the same bits as row by row."""
    model, chance = tiny_models(compute), random.Random(seed)
    texts = [[chance.randrange(250) for _ in range(chance.randint(2, 90))] for _ in range(chance.randint(1, 4))]
    alone = [torch.cat([one.forward([t]) for t in tokens]) for tokens in texts for one in [Text(model)]]
    memory = Memory(model.shape, 64, torch.float32, model.device, 16)
    pages = iter(chance.sample(range(1, 65), 64))
    tables = [[next(pages) for _ in range(-(-len(tokens) // 16))] for tokens in texts]
    done, got = [0] * len(texts), [[] for _ in texts]
    while any(d < len(t) for d, t in zip(done, texts, strict=True)):
        rows, who = [], []
        for i, tokens in enumerate(texts):
            count = min(len(tokens) - done[i], chance.choice([0, 1, 1, 2, 5, 17, 40]))
            if count:
                used = tables[i][: -(-(done[i] + count) // 16)]
                rows.append(Rows(tokens[done[i] : done[i] + count], done[i], used, range(count)))
                who.append((i, count))
                done[i] += count
        if rows:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("trimtab.backends.engine.attention._TILE_WORTH", chance.choice([0, 3000, 1 << 14]))
                batch = Batch(rows, memory, model.shape.heads, Sight(), model.tiles)
            for (i, _), part in zip(who, model.forward(batch, memory).split([n for _, n in who]), strict=True):
                got[i].append(part)
    for i in range(len(texts)):
        assert torch.equal(torch.cat(got[i]), alone[i])


@pytest.fixture(scope="module")
def tiny_models(tiny):
    return functools.cache(lambda compute: model_of(tiny, compute))


def test_a_tree_of_guesses_gives_each_path_the_bits_of_a_chain(tiny):
    model = model_of(tiny, None)
    prompt, tree, parents = TOKENS * 3, [7, 8, 9, 10, 11, 12], [-1, 0, 0, 2, 1, 4]
    text = Text(model)
    text.forward(prompt[:-1])
    draft = Draft(tuple(tree), tuple(parents), (1.0,) * 6)
    rows = text.forward([prompt[-1], *tree], every=True, paths=paths(draft))
    for path, row in zip(paths(draft), rows, strict=True):
        chain = Text(model).forward(prompt + [tree[i - 1] for i in path[1:]])
        assert torch.equal(chain[0], row)


@pytest.mark.parametrize("compute", ["int8", "float32"])
def test_what_is_not_of_the_model_is_an_error_and_nothing_else(tiny, compute):
    """One turn's, which the engine ends; what stands behind a table is nobody's."""
    model = model_of(tiny, compute)
    text = Text(model)
    before = text.forward(TOKENS, every=True)
    context, pages = model.shape.context, text.pages

    def forward(tokens, at, pages):
        return model.forward(Batch([Rows(tokens, at, pages, [0])], text.memory, 4, Sight(), model.tiles), text.memory)

    for tokens, at, some in (([model.shape.vocabulary], 0, pages), ([-400], 0, pages), ([1], context, [*pages, 1])):
        with pytest.raises(IndexError):
            forward(tokens, at, some)
    assert torch.equal(Text(model).forward(TOKENS, every=True), before)


def test_a_context_is_filled_to_its_last_position(tiny):
    text = Text(model_of(tiny))
    for token in range(256):
        logits = text.forward([token % 250])
    assert text.length == 256
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("sight", [Sight(), Sight(window=24, sinks=3)])
def test_the_kernels_attention_is_the_same_attention(tiny, sight):
    """Decoding, a tree of guesses and a prompt in pieces, by the kernels room's plain torch."""
    model, chance = model_of(tiny), random.Random(3)
    tokens = [chance.randrange(250) for _ in range(100)]
    draft = Draft((7, 8, 9, 10), (-1, 0, 0, 2), (1.0,) * 4)
    results = []
    for turned in (True, False):
        text = Text(model, turned=turned, sight=sight)
        parts = [text.forward(tokens[a:b], every=True) for a, b in ((0, 40), (40, 41), (41, 99), (99, 100))]
        text.length -= 1
        results.append(torch.cat([*parts, text.forward([tokens[-1], *draft.tokens], True, paths(draft))]))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sight", [Sight(window=20), Sight(window=16, sinks=5)])
def test_a_window_hides_what_is_outside_of_it_in_any_pieces(tiny, sight, monkeypatch):
    model, chance = model_of(tiny, None), random.Random(4)
    tokens = [chance.randrange(250) for _ in range(120)]
    text = Text(model, sight=sight)
    alone = torch.cat([text.forward([t]) for t in tokens])
    monkeypatch.setattr("trimtab.backends.engine.attention._TILE_WORTH", 0)
    text = Text(model, sight=sight)
    pieces = torch.cat([text.forward(tokens[a:b], every=True) for a, b in ((0, 50), (50, 53), (53, 120))])
    assert torch.equal(alone, pieces)
    assert not torch.equal(alone[30:], torch.cat([Text(model).forward(tokens, every=True)])[30:])
