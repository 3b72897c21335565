"""The network that compares two texts: the bundled MiniLM with trained corrections, as an ONNX file made in memory.

Six layers of BERT that read both texts at once. The base is the embedder's own file, int8; what training changed ships
beside this module: a low-rank correction of each dense layer (LoRA, arXiv:2106.09685), biases, norms and a head. They
are merged and made int8 again, one scale for each output, when the network is built, which takes a tenth of a second.
It computes in int8 too, with one scale for the activations of a run: so pairs are run one by one, and a pair's score
does not depend on what it is asked together with. Knows no tokenizer and no session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .onnx_file import Network, weights

Floats = NDArray[np.float32]

WIDTH, HEADS, LAYERS = 384, 12, 6
CLS, SEP = 101, 102
OUTPUT = "logit"
_MICROSOFT = "com.microsoft"  # onnxruntime's own operators, fused and int8
_EPSILON = 1e-12
# How the bundled file (its sha256 is checked where it is loaded) names the six matrices of each layer.
_MATRICES = (
    (49, 57, 65, 105, 109, 118),
    (122, 130, 138, 176, 180, 189),
    (193, 201, 209, 247, 251, 260),
    (264, 272, 280, 318, 322, 331),
    (335, 343, 351, 389, 393, 402),
    (406, 414, 422, 460, 464, 473),
)


def base(path: Path) -> dict[str, Floats]:
    """The bundled network in float32 by our names: `0.qkv.w` is (in, out)."""
    held = weights(path)
    whole = {f"{layer}.{name}": values for layer in range(LAYERS) for name, values in _layer(held, layer).items()}
    prefix = "inner.embeddings."
    return {
        "typ": np.array(held[prefix + "token_type_embeddings.weight"]),
        "pos": _whole(held, prefix + "position_embeddings.weight"),
        "lnw": np.array(held[prefix + "LayerNorm.weight"]),
        "lnb": np.array(held[prefix + "LayerNorm.bias"]),
        **whole,
    }


def _layer(held: Mapping[str, NDArray[Any]], layer: int) -> dict[str, Floats]:
    query, key, value, output, up, down = (_whole(held, f"val_{number}") for number in _MATRICES[layer])

    def vector(name: str) -> Floats:
        return np.array(held[f"inner.encoder.layer.{layer}.{name}"])

    attention = [vector(f"attention.self.{name}.bias") for name in ("query", "key", "value")]
    return {
        "qkv.w": np.concatenate((query, key, value), axis=1),
        "qkv.b": np.concatenate(attention),
        "o.w": output,
        "o.b": vector("attention.output.dense.bias"),
        "up.w": up,
        "up.b": vector("intermediate.dense.bias"),
        "down.w": down,
        "down.b": vector("output.dense.bias"),
        "ln1w": vector("attention.output.LayerNorm.weight"),
        "ln1b": vector("attention.output.LayerNorm.bias"),
        "ln2w": vector("output.LayerNorm.weight"),
        "ln2b": vector("output.LayerNorm.bias"),
    }


def _whole(held: Mapping[str, NDArray[Any]], name: str) -> Floats:
    whole: Floats = held[f"{name}_q"].astype(np.float32) * held[f"{name}_scale"]
    return whole


def corrected(found: Mapping[str, Floats], trained: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """The base with what training changed: `0.qkv.lora_a` (rank, in) and `0.qkv.lora_b` (out, rank) add their product
    to `0.qkv.w`, everything else stands instead of what had its name. Scales of int8 matrices are `..._scale`."""
    merged = dict(found)
    for name in trained:
        if name.endswith(".lora_a"):
            layer = name.removesuffix(".lora_a")
            down = restored(trained, f"{layer}.lora_b") @ restored(trained, name)  # (out, in)
            merged[f"{layer}.w"] = (found[f"{layer}.w"] + down.T).astype(np.float32)
        elif not name.endswith((".lora_b", "_scale")):
            merged[name] = trained[name].astype(np.float32)
    return merged


def restored(trained: Mapping[str, NDArray[Any]], name: str) -> Floats:
    values: Floats = trained[name].astype(np.float32)
    return values * trained[f"{name}_scale"] if f"{name}_scale" in trained else values


def network(values: Mapping[str, Floats]) -> bytes:
    """The ONNX file: `x` (1, tokens, WIDTH), the sum of the embeddings, in; OUTPUT (1, 1, outputs) out."""
    net = Network()

    def constant(name: str) -> str:
        return net.constant(name, np.asarray(values[name], np.float32))

    def dense(x: str, name: str) -> str:
        small, scale = in_int8(values[f"{name}.w"])
        given = [x, net.constant(f"{name}.q", small), net.constant(f"{name}.s", scale), "", constant(f"{name}.b")]
        return net.node("DynamicQuantizeMatMul", given, domain=_MICROSOFT)

    def norm(x: str, to: str, name: str) -> str:
        given = [x, to, constant(f"{name}w"), constant(f"{name}b")]
        return net.node("SkipLayerNormalization", given, domain=_MICROSOFT, epsilon=_EPSILON)

    x = net.node("LayerNormalization", ["x", constant("lnw"), constant("lnb")], axis=-1, epsilon=_EPSILON)
    thirds = net.constant("thirds", np.array([WIDTH] * 3, np.int64))
    for layer in range(LAYERS):
        query = net.node("Split", [dense(x, f"{layer}.qkv"), thirds], outputs=3, axis=2)
        attended = net.node(
            "MultiHeadAttention", [query, f"{query}.1", f"{query}.2"], domain=_MICROSOFT, num_heads=HEADS
        )
        x = norm(dense(attended, f"{layer}.o"), x, f"{layer}.ln1")
        wide = net.node("Gelu", [dense(x, f"{layer}.up")], domain=_MICROSOFT)
        x = norm(dense(wide, f"{layer}.down"), x, f"{layer}.ln2")
    return _headed(net, x, constant)


def _headed(net: Network, x: str, constant: Any) -> bytes:
    """First token and mean, side by side, through one linear layer."""
    first = net.node("Gather", [x, net.constant("first", np.array([0], np.int64))], axis=1)
    both = net.node("Concat", [first, net.node("ReduceMean", [x], axes=[1], keepdims=1)], axis=2)
    net.node("Add", [net.node("MatMul", [both, constant("hw")]), constant("hb")], name=OUTPUT)
    return net.file({"x": (np.float32, [1, "tokens", WIDTH])}, {OUTPUT: [1, 1, "outputs"]}, {"": 17, _MICROSOFT: 1})


def in_int8(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(in, out) as int8 with a scale for each column."""
    scale = np.abs(matrix).max(axis=0) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


def paired(a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Tokens of both texts with the special ones; which text each is of; whether the other text has it too (2), has
    it not (1), or it is special (0)."""
    in_a, in_b = set(a), set(b)
    ids = [CLS, *a, SEP, *b, SEP]
    sides = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    shared = [0, *(1 + (token in in_b) for token in a), 0, *(1 + (token in in_a) for token in b), 0]
    return ids, sides, shared
