"""Writing a model as a folder that hubs and engines read: config.json, tokenizer.json, safetensors in GPTQ's layout.

Layers are written as they come, one file each, so that a large model needs memory for one. Knows nothing of rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from .checkpoint import Checkpoint
from .reference import Tensors
from .rounding import Rounded
from .safetensors_checkpoint import own_name
from .tokenizer import Tokenizer

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


class HubWriter:
    """One folder in the making; nothing in it is a model until `close`, which writes config.json last."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, group: int) -> None:
        """Raises OSError when the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._checkpoint, self._group = folder, checkpoint, group
        self._where: dict[str, str] = {}
        names = ["embedding", "norm"] + ([] if checkpoint.shape.tied else ["head"])
        self._save("model-embedding.safetensors", {own_name(n): _half(checkpoint.floats(n)) for n in names})

    def layer(self, i: int, tensors: Tensors, rounded: Mapping[str, Rounded]) -> None:
        out: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            own = own_name(f"layers.{i}.{name}")
            if name not in rounded:
                out[own] = _half(self._halves(name.partition("_")[0], tensor.numpy()))
                continue
            stem = own.removesuffix(".weight")
            out |= {f"{stem}.{part}": t for part, t in _packed(rounded[name], self._rows(name, len(tensor))).items()}
        self._save(f"model-layer-{i:04}.safetensors", out)

    def close(self) -> None:
        self._json("model.safetensors.index.json", {"weight_map": self._where})
        tokenizer = Tokenizer(self._checkpoint.vocabulary)
        self._json("tokenizer.json", tokenizer.described())
        about: dict[str, Any] = {"bos_token": tokenizer.begin, "eos_token": tokenizer.end}
        about |= {"add_bos_token": tokenizer.starts_with_bos, "chat_template": self._checkpoint.template}
        self._json("tokenizer_config.json", {k: v for k, v in about.items() if v is not None})
        self._json("config.json", self._config(sorted(tokenizer.ends)))

    def _config(self, ends: list[int]) -> dict[str, Any]:
        s = self._checkpoint.shape
        return {
            "architectures": [_CLASSES[s.architecture]],
            "model_type": s.architecture,
            "num_hidden_layers": s.layers,
            "hidden_size": s.hidden,
            "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads,
            "head_dim": s.head,
            "intermediate_size": s.mlp,
            "vocab_size": s.vocabulary,
            "max_position_embeddings": s.context,
            "rms_norm_eps": s.epsilon,
            "hidden_act": "silu",
            "attention_bias": s.biases,
            "tie_word_embeddings": s.tied,
            "eos_token_id": ends,
            "torch_dtype": "float16",
            **s.rope.described(),
            "quantization_config": {
                "quant_method": "gptq",
                "bits": 4,
                "group_size": self._group,
                "desc_act": False,
                "sym": False,
                "checkpoint_format": "gptq",
            },
        }

    def _rows(self, name: str, count: int) -> torch.Tensor | None:
        """The order in which hubs have the rows of q and k; None where it is ours."""
        s = self._checkpoint.shape
        if not s.rope.interleaved or name not in ("q", "k"):
            return None
        return torch.arange(count).view(-1, s.head // 2, 2).transpose(1, 2).reshape(-1)

    def _halves(
        self, name: str, tensor: np.ndarray[Any, np.dtype[np.float32]]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = self._rows(name, len(tensor))
        return tensor if rows is None else tensor[rows.numpy()]

    def _save(self, file: str, tensors: dict[str, torch.Tensor]) -> None:
        # Not by save_file, whose files nobody but their writer may read.
        data = save({name: t.contiguous() for name, t in tensors.items()}, {"format": "pt"})
        (self._folder / file).write_bytes(data)
        self._where |= dict.fromkeys(tensors, file)

    def _json(self, file: str, value: dict[str, Any]) -> None:
        (self._folder / file).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _half(tensor: np.ndarray[Any, np.dtype[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(tensor).half()


def _packed(matrix: Rounded, rows: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """GPTQ's four tensors: eight inputs of an output in each word of qweight, eight outputs in each word of qzeros."""
    q, zero, scale = matrix.q.to(torch.int64), matrix.grid.zero.to(torch.int64), matrix.grid.scale
    if rows is not None:
        q, zero, scale = q[rows], zero[rows], scale[rows]
    inputs = q.shape[1]
    return {
        "qweight": _words(q.T.reshape(inputs // 8, 8, -1).transpose(1, 2)),
        # One is taken from every zero: the first writers of this format did, and readers give it back.
        "qzeros": _words(((zero.T - 1) & 15).reshape(zero.shape[1], -1, 8)),
        "scales": scale.T.half(),
        "g_idx": (torch.arange(inputs) // matrix.group).to(torch.int32),
    }


def _words(values: torch.Tensor) -> torch.Tensor:
    """int64 [..., 8] of four bits each -> int32 [...], the first in the lowest bits."""
    words = (values << (4 * torch.arange(8))).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
