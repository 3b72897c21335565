"""The forward pass as plainly as it can be said, in float32: what tests and figures are measured against.

It has no cache, no pages and no batch: one text at a time, all positions at once. `model.py` is the fast one. The
layers can be walked one by one, and each product watched or replaced, which is what quantization needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .checkpoint import Checkpoint
from .shape import Shape

Tensors = dict[str, torch.Tensor]
# The product of one matrix, named as in `Tensors`, with rows x.
Product = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def plain(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight)


@dataclass(frozen=True, slots=True)
class Reference:
    """A model whose layers are read from the checkpoint as they are needed: memory for one layer at a time."""

    checkpoint: Checkpoint

    @property
    def shape(self) -> Shape:
        return self.checkpoint.shape

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.checkpoint.floats(name))

    def layer(self, i: int) -> Tensors:
        """Layer i's tensors by their short names."""
        at = f"layers.{i}."
        return {n.removeprefix(at): self.tensor(n) for n in self.shape.dimensions() if n.startswith(at)}

    def embedded(self, texts: list[list[int]]) -> list[torch.Tensor]:
        """The first layer's input for each text: float32 [tokens, hidden]."""
        table = self.tensor("embedding")
        return [table[torch.tensor(ids)] for ids in texts]

    def run_layer(self, w: Tensors, x: torch.Tensor, product: Product = plain) -> torch.Tensor:
        """One layer over one text [tokens, hidden]."""
        x = x + attended(self.shape, w, normed(x, w["attention_norm"], self.shape), product)
        h = normed(x, w["mlp_norm"], self.shape)
        return x + product("down", F.silu(product("gate", h, w["gate"])) * product("up", h, w["up"]), w["down"])

    def logits(self, x: torch.Tensor, product: Product = plain) -> torch.Tensor:
        """[tokens, hidden] after the last layer -> [tokens, vocabulary]."""
        head = self.tensor("embedding" if self.shape.tied else "head")
        return product("head", normed(x, self.tensor("norm"), self.shape), head)

    def forward(self, tokens: list[int], product: Product = plain) -> torch.Tensor:
        """Logits of every position: float32 [tokens, vocabulary]."""
        with torch.inference_mode():
            (x,) = self.embedded([tokens])
            for i in range(self.shape.layers):
                x = self.run_layer(self.layer(i), x, product)
            return self.logits(x)


def normed(x: torch.Tensor, weight: torch.Tensor, shape: Shape) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, shape.epsilon)


def attended(s: Shape, w: Tensors, x: torch.Tensor, product: Product) -> torch.Tensor:
    n = x.shape[0]
    q, k, v = (product(part, x, w[part]) + w.get(f"{part}_bias", torch.zeros(())) for part in "qkv")
    q, k, v = q.view(n, s.heads, s.head), k.view(n, s.kv_heads, s.head), v.view(n, s.kv_heads, s.head)
    if s.qk_norm:
        q, k = normed(q, w["q_norm"], s), normed(k, w["k_norm"], s)
    turns = rotations(s, n)
    q, k, v = (t.transpose(0, 1)[None] for t in (turned(q, turns, s), turned(k, turns, s), v))
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=s.heads != s.kv_heads)
    return product("o", a[0].transpose(0, 1).reshape(n, s.heads * s.head), w["o"])


def rotations(shape: Shape, count: int) -> torch.Tensor:
    """Cosine and sine of each position and pair: [2, count, 1, head / 2]."""
    frequencies = torch.tensor(shape.rope.frequencies, dtype=torch.float64)
    angle = torch.outer(torch.arange(count, dtype=torch.float64), frequencies)
    return (torch.stack((angle.cos(), angle.sin())) * shape.rope.magnitude).float()[:, :, None]


def turned(x: torch.Tensor, turns: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Rotate each pair of each head; x is [tokens, heads, head]."""
    cos, sin = turns
    if shape.rope.interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
