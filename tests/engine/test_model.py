"""The forward pass against a plain one written from the formulas, head by head in float64."""

import numpy as np
import pytest
import torch

from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.model import Model

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


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0"])
def test_float32_is_the_plain_forward_pass(write_gguf, kind):
    file = GGUF(write_gguf(kind))
    model = Model(file, "float32")
    got = model.forward(TOKENS, model.cache())[0].numpy()
    np.testing.assert_allclose(got, plain_logits(file, TOKENS), atol=2e-3)


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q4_1"])
def test_what_this_machine_does_best_stays_close(write_gguf, kind):
    file = GGUF(write_gguf(kind))
    model = Model(file)
    exact = plain_logits(file, TOKENS)
    kv = model.cache()
    model.forward(TOKENS[:-1], kv)
    for got in (model.forward(TOKENS, model.cache()), model.forward(TOKENS[-1:], kv)):
        error = got[0].numpy() - exact
        assert np.sqrt((error**2).mean()) < 0.03 * exact.std()


@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6, 7, 8, 9], [4], [1, 9], [6, 7]])
def test_a_prompt_in_pieces_is_the_prompt(tiny, cuts):
    model = Model(GGUF(tiny), "float32")
    whole = model.forward(TOKENS, model.cache())
    kv = model.cache()
    for start, end in zip([0, *cuts], [*cuts, len(TOKENS)], strict=True):
        got = model.forward(TOKENS[start:end], kv)
    torch.testing.assert_close(got, whole, atol=1e-4, rtol=1e-4)


def test_every_row_is_the_last_row_of_its_own_prompt(tiny):
    model = Model(GGUF(tiny), "float32")
    rows = model.forward(TOKENS, model.cache(), every=True)
    for i in range(len(TOKENS)):
        torch.testing.assert_close(rows[i : i + 1], model.forward(TOKENS[: i + 1], model.cache()), atol=1e-4, rtol=1e-4)


def test_a_forked_cache_goes_its_own_way(tiny):
    model = Model(GGUF(tiny), "float32")
    kv = model.cache()
    model.forward(TOKENS, kv)
    fork = kv.fork()
    model.forward([8, 9], fork)
    torch.testing.assert_close(
        model.forward([77], kv), model.forward([*TOKENS, 77], model.cache()), atol=1e-4, rtol=1e-4
    )


def test_the_cache_grows_to_the_whole_context(tiny):
    model = Model(GGUF(tiny), "float32")
    kv = model.cache()
    for token in range(256):
        logits = model.forward([token % 250], kv)
    assert kv.length == 256
    assert torch.isfinite(logits).all()
