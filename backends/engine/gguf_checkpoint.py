"""A GGUF file as a Checkpoint: its metadata's names and its tensors' names, said in the engine's own.

llama.cpp's naming: gguf-py/gguf/constants.py of the ggml project. Knows nothing of how blocks are packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...protocol.errors import ModelUnavailable
from .blocks import Floats, fours
from .checkpoint import FourBits, Vocabulary, check_dimensions
from .gguf import GGUF
from .shape import Rope, Scaling, Shape, count, family, number

_TOP = {"embedding": "token_embd.weight", "head": "output.weight", "norm": "output_norm.weight"}
_LAYER = {
    "attention_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "o": "attn_output.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}
_FACTORS = "rope_freqs.weight"
_CONTROL, _USER_DEFINED = 3, 4  # of `tokenizer.ggml.token_type`


class GgufCheckpoint:
    """One file of a llama, qwen2 or qwen3 model."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises ModelUnavailable for damage, another architecture or another kind of tokenizer."""
        self._file = GGUF(path)
        self.vocabulary = vocabulary_of(self._file.metadata)
        self.template: str | None = self._file.metadata.get("tokenizer.chat_template") or None
        self.shape = _shape(self._file, len(self.vocabulary.texts))
        names = {name: _own(name) for name in self.shape.dimensions()}
        found = {name: self._file.shape(own) for name, own in names.items() if self._file.has(own)}
        check_dimensions(self.shape, found, names)
        unknown = set(self._file.tensors) - set(names.values()) - {_FACTORS}
        if unknown:  # to leave out a bias, say, would make every answer wrong
            raise ModelUnavailable(f"the weights have the tensor {min(unknown)}, which the engine does not know")

    def has(self, name: str) -> bool:
        return self._file.has(_own(name))

    def floats(self, name: str) -> Floats:
        return self._file.floats(_own(name))

    def four_bits(self, name: str) -> FourBits | None:
        own = _own(name)
        found = fours(self._file.kind(own), self._file.blocks(own))
        if found is None:
            return None
        rows, columns = self._file.shape(own)
        q, scales, leasts = found[0].reshape(rows, columns), *(np.ascontiguousarray(a) for a in found[1:])
        if not np.isfinite(scales.sum() + leasts.sum()):
            raise self._file.damaged(f"{own} holds values that are no numbers")
        values = np.bitwise_or(q[:, 0::2], q[:, 1::2] << np.uint8(4), dtype=np.uint8)
        return FourBits(values, scales.reshape(rows, -1), leasts.reshape(rows, -1), 32)

    def fingerprint(self) -> bytes:
        return self._file.header()


def vocabulary_of(metadata: Mapping[str, Any]) -> Vocabulary:
    """Raises ModelUnavailable when the tokenizer is missing, damaged or no byte-level BPE."""
    kind = metadata.get("tokenizer.ggml.model", "none")
    if kind != "gpt2":
        raise ModelUnavailable(f"the weights' tokenizer is '{kind}'; the engine has byte-level BPE ('gpt2')")
    texts = _texts(metadata, "tokens")
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(texts)
    if len(kinds) != len(texts):
        raise ModelUnavailable(f"the weights are damaged: {len(texts)} tokens have {len(kinds)} types")
    named = (_id(metadata, name, texts) for name in ("eos", "eot", "eom"))
    return Vocabulary(
        texts=texts,
        merges=[(a, b) for a, _, b in (m.partition(" ") for m in _texts(metadata, "merges"))],
        split=str(metadata.get("tokenizer.ggml.pre", "default")),
        control=frozenset(i for i, kind in enumerate(kinds) if kind == _CONTROL),
        markers=frozenset(i for i, kind in enumerate(kinds) if kind == _USER_DEFINED),
        ends=frozenset(i for i in named if i is not None),
        begin=_id(metadata, "bos", texts),
        end=_id(metadata, "eos", texts),
        add_begin=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
    )


def _texts(metadata: Mapping[str, Any], name: str) -> list[str]:
    texts = metadata.get(f"tokenizer.ggml.{name}", [])
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise ModelUnavailable(f"the weights are damaged: 'tokenizer.ggml.{name}' is no list of texts")
    return texts


def _id(metadata: Mapping[str, Any], name: str, texts: list[str]) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(texts)
    return value if known else None


def _own(name: str) -> str:
    """What the file calls a canonical name."""
    if not name.startswith("layers."):
        return _TOP.get(name, name)
    _, layer, part = name.split(".")
    return f"blk.{layer}.{_LAYER[part]}"


def _shape(file: GGUF, vocabulary: int) -> Shape:
    architecture = file.metadata.get("general.architecture", "none")
    facts = family(architecture)
    at = f"{architecture}."
    heads, hidden = count(file.metadata, at + "attention.head_count"), count(file.metadata, at + "embedding_length")
    if hidden % heads and at + "attention.key_length" not in file.metadata:
        raise ModelUnavailable(f"the weights are damaged: {heads} heads do not divide {hidden}")
    head = count(file.metadata, at + "attention.key_length", max(hidden // heads, 1))
    return Shape(
        architecture=architecture,
        layers=count(file.metadata, at + "block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=count(file.metadata, at + "attention.head_count_kv", heads),
        head=head,
        mlp=count(file.metadata, at + "feed_forward_length"),
        vocabulary=vocabulary,
        context=count(file.metadata, at + "context_length"),
        epsilon=number(file.metadata, at + "attention.layer_norm_rms_epsilon", 1e-5),
        rope=_rope(file, at, head, facts.pairs_in_gguf),
        biases=facts.biases or file.has(_own("layers.0.q_bias")),
        qk_norm=facts.qk_norm,
        tied=not file.has(_TOP["head"]),
    )


def _rope(file: GGUF, at: str, head: int, interleaved: bool) -> Rope:
    facts = file.metadata
    if (turned := count(facts, at + "rope.dimension_count", head)) != head:
        raise ModelUnavailable(f"the weights turn {turned} of a head's {head} values; the engine turns all")
    kind = facts.get(at + "rope.scaling.type", "none")
    if kind not in ("none", "linear", "yarn"):
        raise ModelUnavailable(f"the weights scale their rotary positions by '{kind}', which the engine has not")
    scaling = Scaling()
    if kind == "linear":
        scaling = Scaling("linear", number(facts, at + "rope.scaling.factor", 1.0))
    elif kind == "yarn":
        factor = number(facts, at + "rope.scaling.factor", 1.0)
        original = count(facts, at + "rope.scaling.original_context_length", count(facts, at + "context_length"))
        scaling = Scaling("yarn", factor, original, low=1.0, high=32.0)
    factors = file.floats(_FACTORS) if file.has(_FACTORS) else None
    if factors is not None and factors.shape != (head // 2,):
        raise ModelUnavailable(f"the weights are damaged: {_FACTORS} is {factors.shape}, not {(head // 2,)}")
    return Rope.build(head, number(facts, at + "rope.freq_base", 10000.0), interleaved, scaling, factors)
