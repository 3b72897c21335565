"""The forward pass of one block of decoders (GQA, rotary positions, RMSNorm, SwiGLU) over a batch of rows.

Every operation here gives a row the same bits whatever rows stand beside it. Knows tensors; nothing of requests, text
or sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ...kernels.switch import native
from .attention import chained
from .batch import Batch
from .checkpoint import Checkpoint
from .checkpoint_halves import Halves
from .lanes import swish
from .linear import Compute, Linear, best_compute
from .memory import Memory

if TYPE_CHECKING:
    from .model_kernels import Fused
    from .model_native import Native


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights."""

    attention_norm: torch.Tensor
    qkv: Linear
    bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Model:
    """A loaded model. `forward` is the whole of it."""

    def __init__(self, checkpoint: Checkpoint, compute: Compute | None = None, device: str = "cpu") -> None:
        """Load the weights; `compute` None takes what this machine does best. Raises ModelUnavailable."""
        self.device = torch.device(device)
        self.compute: Compute = compute or best_compute(self.device)
        if self.compute == "int8" and native(self.device):
            checkpoint = Halves(checkpoint)
        self.shape = checkpoint.shape
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16  # of keys, values and activations
        self._checkpoint = checkpoint
        self._head = self._linear("embedding" if self.shape.tied else "head")
        self._embedding = self._rows_of("embedding")
        self._norm = self._tensor("norm")
        self._layers = [self._layer(f"layers.{i}.") for i in range(self.shape.layers)]
        self._turns = self._rotations()
        self._fused: Fused | None = None
        self._native = self._natively()
        # Of torch's two forms of attention; native functions have one of their own.
        self.tiles = self._native is None and (self.device.type != "cpu" or chained(self.shape.head, 64))
        del self._checkpoint

    @property
    def kept(self) -> torch.dtype:
        """What keys and values are best kept as: native functions read halves."""
        return self.dtype if self._native is None else torch.float16

    @torch.inference_mode()
    def forward(self, batch: Batch, memory: Memory) -> torch.Tensor:
        """Write the batch's keys and values; gives float32 logits [wanted, vocabulary]."""
        if self._native is not None and memory.turned:
            return self._native.forward(batch, memory)
        x = self._embedding(batch.tokens)
        x = self._through(x.float(), batch, memory) if memory.turned else self._by_kernels().through(x, batch, memory)
        if not len(batch.wanted):
            return torch.empty((0, self.shape.vocabulary), device=self.device)
        logits: torch.Tensor = self._head(self._normed(x[batch.wanted], self._norm)).float()
        return logits

    def _through(self, x: torch.Tensor, batch: Batch, memory: Memory) -> torch.Tensor:
        turns = self._turns[batch.positions][:, None]
        for i, layer in enumerate(self._layers):
            x = x + self._attend(i, layer, self._normed(x, layer.attention_norm), turns, batch, memory)
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(swish(gate, up))
        return x

    def _natively(self) -> Native | None:
        """The whole pass in native functions, where all matrices are in their blocks."""
        if self._head.blocks is None:
            return None
        from .model_native import Native
        from .native import BlockRows

        assert isinstance(self._embedding, BlockRows)
        embedding = self._embedding.blocks
        return Native.of(self.shape, embedding, self._layers, self._norm, self._head, self._turns)

    def _by_kernels(self) -> Fused:
        if self._fused is None:
            from .model_kernels import Fused

            self._fused = Fused(self.shape, self._layers, self._turns)
        return self._fused

    def _attend(
        self, i: int, layer: Layer, x: torch.Tensor, turns: torch.Tensor, batch: Batch, memory: Memory
    ) -> torch.Tensor:
        s, n = self.shape, x.shape[0]
        qkv = layer.qkv(x)
        if layer.bias is not None:
            qkv = qkv + layer.bias
        qkv = qkv.view(n, s.heads + 2 * s.kv_heads, s.head)
        qk = qkv[:, : s.heads + s.kv_heads]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = qk[:, : s.heads], qk[:, s.heads :]
            qk = torch.cat((self._normed(q, layer.q_norm), self._normed(k, layer.k_norm)), dim=1)
        qk = self._turned(qk, turns)
        memory.write(i, batch.places, qk[:, s.heads :], qkv[:, s.heads + s.kv_heads :])
        q = qk[:, : s.heads]
        seen = [part.attend(q[part.row : part.row + part.count], i) for part in batch.parts]
        whole = seen[0] if len(seen) == 1 else torch.cat(seen)
        out: torch.Tensor = layer.out(whole.reshape(n, s.heads * s.head))
        return out

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), weight, self.shape.epsilon)

    def _turned(self, x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Rotate the pairs of each head. Halves become neighbours for good: queries and keys agree, and none else
        looks."""
        if not self.shape.rope.interleaved:
            x = x.view(*x.shape[:2], 2, -1).transpose(-1, -2).flatten(-2)
        return (x.view(torch.complex64) * turns).view(torch.float32)

    def _rotations(self) -> torch.Tensor:
        """The rotation of each position and pair of a head: complex64 [context, head / 2]."""
        rope = self.shape.rope
        frequencies = torch.tensor(rope.frequencies, dtype=torch.float64)
        angle = torch.outer(torch.arange(self.shape.context, dtype=torch.float64), frequencies)
        return torch.polar(torch.full_like(angle, rope.magnitude), angle).to(torch.complex64).to(self.device)

    def _tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._checkpoint.floats(name)).to(self.device)

    def _rows_of(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The rows of a matrix by their numbers. In blocks it is one with the head, where that is the same matrix."""
        blocks = self._head.blocks
        if blocks is not None and not self.shape.tied:
            blocks = self._linear(name).blocks
        if blocks is None:
            return self._tensor(name).__getitem__
        from .native import BlockRows

        return BlockRows(blocks)

    def _linear(self, *names: str) -> Linear:
        return Linear(self._checkpoint, names, self.compute, self.device)

    def _layer(self, at: str) -> Layer:
        s = self.shape
        return Layer(
            attention_norm=self._tensor(at + "attention_norm"),
            qkv=self._linear(at + "q", at + "k", at + "v"),
            bias=torch.cat([self._tensor(at + part + "_bias") for part in "qkv"]) if s.biases else None,
            q_norm=self._tensor(at + "q_norm") if s.qk_norm else None,
            k_norm=self._tensor(at + "k_norm") if s.qk_norm else None,
            out=self._linear(at + "o"),
            mlp_norm=self._tensor(at + "mlp_norm"),
            gate_up=self._linear(at + "gate", at + "up"),
            down=self._linear(at + "down"),
        )
