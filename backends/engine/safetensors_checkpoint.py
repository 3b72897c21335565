"""A folder as model hubs have them, or one of its .safetensors files, as a Checkpoint: config.json says the shape,
tokenizer.json the vocabulary, and tensors lie in one file or in shards that an index names.

4-bit weights in GPTQ's and AWQ's layout are read too (`hub_int4.py`). Knows nothing of GGUF.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ...protocol.errors import ModelUnavailable
from .blocks import Floats
from .checkpoint import FourBits, check_dimensions, unpack
from .hub_int4 import Quantized, layout_of
from .hub_vocabulary import read_json, template_in, vocabulary_in
from .shape import Rope, Scaling, Shape, count, family, number

_TOP = {"embedding": "model.embed_tokens", "head": "lm_head", "norm": "model.norm"}
_LAYER = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class SafetensorsCheckpoint:
    """A llama, qwen2 or qwen3 model in safetensors."""

    def __init__(self, path: Path) -> None:
        """Read what describes the model. Raises ModelUnavailable naming the file or tensor that is missing or wrong."""
        self._folder = path if path.is_dir() else path.parent
        self._config = read_json(self._folder / "config.json")
        self._files = _Files(path)
        self._layout = layout_of(self._config, self._folder)
        self.shape = _shape(
            self._config, self._files.has("lm_head.weight"), self._files.has(own_name("layers.0.q_bias"))
        )
        self.vocabulary = vocabulary_in(self._folder, self._config, self.shape.vocabulary)
        self.template: str | None = template_in(self._folder)
        names = {name: own_name(name) for name in self.shape.dimensions()}
        found = {name: dimensions for name, own in names.items() if (dimensions := self._dimensions(own)) is not None}
        check_dimensions(self.shape, found, names)
        self._refuse_unknown(names.values())

    def has(self, name: str) -> bool:
        return self._dimensions(own_name(name)) is not None

    def floats(self, name: str) -> Floats:
        own = own_name(name)
        if self._files.has(own):
            return self._files.floats(own)
        return unpack(self._quantized(own).four_bits())

    def four_bits(self, name: str) -> FourBits | None:
        own = own_name(name)
        return None if self._files.has(own) else self._quantized(own).four_bits()

    def fingerprint(self) -> bytes:
        return json.dumps(self._config, sort_keys=True).encode() + self._files.headers()

    def _quantized(self, own: str) -> Quantized:
        if self._layout is None:
            raise ModelUnavailable(f"the weights are damaged: the tensor {own} is missing", detail=str(self._folder))
        return Quantized(self._layout, own.removesuffix(".weight"), self._files.whole)

    def _dimensions(self, own: str) -> tuple[int, ...] | None:
        if self._files.has(own):
            return self._files.dimensions(own)
        stem = own.removesuffix(".weight")
        if self._layout is None or not self._files.has(stem + ".qweight"):
            return None
        return self._layout.dimensions(self._files.dimensions(stem + ".qweight"))

    def _refuse_unknown(self, known: Any) -> None:
        """A tensor that we would leave out, as a bias where we have none, would make every answer wrong."""
        stems = {own.rpartition(".")[0] for own in known} | {"lm_head"}
        plain = {*known, "lm_head.weight"}
        packed = ("qweight", "qzeros", "scales", "g_idx")
        for name in self._files.names():
            stem, _, last = name.rpartition(".")
            zero = last == "bias" and self._layout is not None and not self._files.whole(name).any()
            if name in plain or (last in packed and stem in stems) or stem.endswith("rotary_emb") or zero:
                continue
            raise ModelUnavailable(f"the weights have the tensor {name}, which the engine does not know")


class _Files:
    """The tensors of one file, or of all the shards that an index names."""

    def __init__(self, path: Path) -> None:
        self._open: dict[Path, Any] = {}
        self._where: dict[str, Path] = {}
        index = path / "model.safetensors.index.json"
        if not path.is_dir():
            self._take(path)
        elif index.exists():
            self._take_shards(path, index)
        else:
            self._take(path / "model.safetensors")

    def names(self) -> list[str]:
        return list(self._where)

    def has(self, name: str) -> bool:
        return name in self._where

    def dimensions(self, name: str) -> tuple[int, ...]:
        return tuple(self._open[self._where[name]].get_slice(name).get_shape())

    def whole(self, name: str) -> torch.Tensor:
        """A tensor as it is. Raises ModelUnavailable when it is missing or cannot be read."""
        if name not in self._where:
            raise ModelUnavailable(f"the weights are damaged: the tensor {name} is missing", detail="fetch them again")
        try:
            tensor: torch.Tensor = self._open[self._where[name]].get_tensor(name)
        except (SafetensorError, OSError) as e:
            raise _unreadable(self._where[name], f"{name}: {e}") from e
        return tensor

    def floats(self, name: str) -> Floats:
        tensor = self.whole(name)
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelUnavailable(
                f"the weights have {name} in {kind}, which the engine does not read",
                detail="it reads float32, float16 and bfloat16, and 4-bit weights in GPTQ's and AWQ's layout",
            )
        if not tensor.float().sum().isfinite():
            raise _unreadable(self._where[name], f"{name} holds values that are no numbers")
        return np.array(tensor.float().numpy(), dtype=np.float32)

    def headers(self) -> bytes:
        """The first bytes of each file: names, types and places of its tensors."""
        return b"".join(_header(path) for path in sorted(self._open))

    def _take(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as e:
            raise _unreadable(path, str(e)) from e
        self._open[path] = file
        names: list[str] = file.keys()  # type: ignore[no-untyped-call]
        self._where |= dict.fromkeys(names, path)

    def _take_shards(self, folder: Path, index: Path) -> None:
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(f, str) and Path(f).name == f for f in places.values()):
            raise _unreadable(index, "its weight_map is no list of files beside it")
        for name in sorted(set(places.values())):
            self._take(folder / name)
        for tensor, name in places.items():
            if self._where.get(tensor) != folder / name:
                raise _unreadable(folder / name, f"it lacks the tensor {tensor}, which the index says it has")


def _unreadable(path: Path, why: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"the weights cannot be read: {path.name} is missing or damaged", detail=f"{path}: {why}; fetch it again"
    )


def _header(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(8 + int.from_bytes(f.read(8), "little"))


def own_name(name: str) -> str:
    """What the files call a canonical name."""
    if not name.startswith("layers."):
        return _TOP.get(name, name) + ".weight"
    _, layer, part = name.split(".")
    stem = part.removesuffix("_bias")
    return f"model.layers.{layer}.{_LAYER[stem]}.{'weight' if stem == part else 'bias'}"


def _shape(config: Mapping[str, Any], has_head: bool, has_biases: bool) -> Shape:
    architecture = config.get("model_type", "none")
    facts = family(architecture)
    if config.get("use_sliding_window"):
        raise ModelUnavailable("the weights need sliding-window attention in some layers, which the engine has not")
    heads, hidden = count(config, "num_attention_heads"), count(config, "hidden_size")
    head = count(config, "head_dim", max(hidden // heads, 1))
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = number(rotary, "rope_theta", number(config, "rope_theta", 10000.0))
    context = count(config, "max_position_embeddings")
    return Shape(
        architecture=architecture,
        layers=count(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=count(config, "num_key_value_heads", heads),
        head=head,
        mlp=count(config, "intermediate_size"),
        vocabulary=count(config, "vocab_size"),
        context=context,
        epsilon=number(config, "rms_norm_eps", 1e-6),
        rope=Rope.build(head, base, interleaved=False, scaling=_scaling(rotary, context)),
        biases=facts.biases or has_biases,
        qk_norm=facts.qk_norm,
        tied=bool(config.get("tie_word_embeddings", not has_head)),
    )


def _scaling(rotary: Mapping[str, Any], context: int) -> Scaling:
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind == "default":
        return Scaling()
    if kind == "linear":
        return Scaling("linear", number(rotary, "factor"))
    original = count(rotary, "original_max_position_embeddings", context)
    if kind == "llama3":
        low, high = number(rotary, "low_freq_factor", 1.0), number(rotary, "high_freq_factor", 4.0)
        return Scaling("llama3", number(rotary, "factor"), original, low, high)
    if kind == "yarn":
        low, high = number(rotary, "beta_slow", 1.0), number(rotary, "beta_fast", 32.0)
        magnitude = number(rotary, "attention_factor") if rotary.get("attention_factor") is not None else None
        return Scaling("yarn", number(rotary, "factor"), original, low, high, magnitude)
    raise ModelUnavailable(f"the weights scale their rotary positions by '{kind}', which the engine has not")
