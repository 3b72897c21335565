"""The layers of a model by the kernels room: what model.py computes, with a GPU's fused passes between the products.

    norm, with the residual's sum | products | q/k norm, rotation and the write to pages | attention | SwiGLU

The residual stream has the dtype of the memory's rows. Keys are kept as the file's heads have them, not as neighbours.
Knows tensors; nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...kernels.kv_scale import page_scales
from ...kernels.kv_write import write_kv
from ...kernels.norm import rms_norm
from ...kernels.swiglu import swiglu
from .batch import Batch
from .memory import Memory
from .shape import Shape

if TYPE_CHECKING:
    from .model import Layer


class Fused:
    """`layers` are the model's; `turns` complex64 [context, head / 2], the rotation of each position and pair."""

    def __init__(self, shape: Shape, layers: Sequence[Layer], turns: torch.Tensor) -> None:
        self._shape, self._layers = shape, layers
        self._cos, self._sin = turns.real.contiguous(), turns.imag.contiguous()

    def through(self, x: torch.Tensor, batch: Batch, memory: Memory) -> torch.Tensor:
        """The stream [rows, hidden] behind the last layer, of the memory's dtype. Writes keys and values."""
        stream = x.to(memory.dtype)
        added: torch.Tensor | None = None
        for i, layer in enumerate(self._layers):
            normed = self._normed(added, layer.attention_norm, stream)
            normed = self._normed(self._attend(i, layer, normed, batch, memory), layer.mlp_norm, stream)
            gate, up = layer.gate_up(normed).chunk(2, dim=-1)
            added = layer.down(swiglu(gate, up))
        return stream if added is None else stream + added

    def _normed(self, added: torch.Tensor | None, weight: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        """The norm of the stream, to which `added` is added first, in place."""
        if added is None:
            return rms_norm(stream, weight, self._shape.epsilon)
        return rms_norm(added, weight, self._shape.epsilon, residual=stream)

    def _attend(self, i: int, layer: Layer, x: torch.Tensor, batch: Batch, memory: Memory) -> torch.Tensor:
        s, n = self._shape, x.shape[0]
        qkv = layer.qkv(x)
        if layer.bias is not None:
            qkv = qkv + layer.bias.to(qkv.dtype)
        qkv = qkv.view(n, s.heads + 2 * s.kv_heads, s.head)
        q, k, v = qkv[:, : s.heads], qkv[:, s.heads : s.heads + s.kv_heads], qkv[:, s.heads + s.kv_heads :]
        slots = batch.places.values
        k_scale, v_scale = memory.scales_of(i)
        if k_scale is not None and v_scale is not None:
            page_scales(k, v, slots, k_scale, v_scale, page=memory.page, k_norm=layer.k_norm, eps=s.epsilon)
        q = write_kv(
            q, k, v, memory.keys[i], memory.values[i], slots, batch.positions, self._cos, self._sin,
            interleaved=s.rope.interleaved, q_norm=layer.q_norm, k_norm=layer.k_norm, eps=s.epsilon,
            k_scale=k_scale, v_scale=v_scale,
        )  # fmt: skip
        seen = [part.attend(q[part.row : part.row + part.count], i) for part in batch.parts]
        whole = seen[0] if len(seen) == 1 else torch.cat(seen)
        out: torch.Tensor = layer.out(whole.view(n, s.heads * s.head))
        return out
