"""The forward pass of the llama architecture (GQA, rotary positions, RMSNorm, SwiGLU) over a key-value cache.

Knows tensors and positions; nothing of requests, text or sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ...protocol.errors import ModelUnavailable
from .gguf import GGUF
from .linear import Compute, Linear, best_compute

_EXACT = 4.0  # logits this close to the largest are float32, whatever the model computes in


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes, from the file's metadata."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    context: int
    rope_base: float
    rope_scale: float
    epsilon: float

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Shape:
        """Raises ModelUnavailable for another architecture, or when a size is missing or makes no sense."""
        architecture = metadata.get("general.architecture", "none")
        if architecture != "llama":
            raise ModelUnavailable(f"the weights' architecture is '{architecture}'; the engine runs 'llama'")
        kind = metadata.get("llama.rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise ModelUnavailable(f"the weights scale their rotary positions by '{kind}', which the engine has not")
        heads, hidden = _count(metadata, "attention.head_count"), _count(metadata, "embedding_length")
        if hidden % heads:
            raise ModelUnavailable(f"the weights are damaged: {heads} heads do not divide {hidden}")
        return cls(
            layers=_count(metadata, "block_count"),
            hidden=hidden,
            heads=heads,
            kv_heads=_count(metadata, "attention.head_count_kv", heads),
            head=_count(metadata, "attention.key_length", hidden // heads),
            vocabulary=len(metadata.get("tokenizer.ggml.tokens", [])),
            context=_count(metadata, "context_length"),
            rope_base=float(metadata.get("llama.rope.freq_base", 10000.0)),
            rope_scale=float(metadata.get("llama.rope.scaling.factor", 1.0)) if kind == "linear" else 1.0,
            epsilon=float(metadata.get("llama.attention.layer_norm_rms_epsilon", 1e-5)),
        )


class KV:
    """Keys and values of one sequence, all layers; room grows by doubling. `length` tokens are in it."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        self._data = torch.empty((shape.layers, 2, shape.kv_heads, 0, shape.head), dtype=dtype, device=device)

    def reserve(self, length: int, most: int) -> None:
        """Make room for `length` tokens; the model never has more than `most`."""
        room = self._data.shape[3]
        if length > room:
            self._data = self._grown(min(max(length, 2 * room, 256), most))

    def put(
        self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [kv_heads, n, head] from position `start` on; gives everything up to there."""
        end = start + keys.shape[1]
        k, v = self._data[layer, 0], self._data[layer, 1]
        k[:, start:end] = keys
        v[:, start:end] = values
        return k[:, :end], v[:, :end]

    def fork(self) -> KV:
        """A copy that goes its own way."""
        copy = object.__new__(KV)
        copy.length, copy._data = self.length, self._data.clone()
        return copy

    def _grown(self, room: int) -> torch.Tensor:
        layers, two, heads, _, head = self._data.shape
        data = torch.empty((layers, two, heads, room, head), dtype=self._data.dtype, device=self._data.device)
        data[:, :, :, : self.length] = self._data[:, :, :, : self.length]
        return data


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: torch.Tensor
    qkv: Linear
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Model:
    """A loaded model. `forward` is the whole of it."""

    def __init__(self, file: GGUF, compute: Compute | None = None, device: str = "cpu") -> None:
        """Load the weights; `compute` None takes what this machine does best. Raises ModelUnavailable."""
        self.shape = Shape.read(file.metadata)
        _check_shapes(file, self.shape)
        self.device = torch.device(device)
        self.compute: Compute = compute or best_compute(self.device)
        self.dtype = torch.float32 if self.compute == "float32" else torch.bfloat16
        self._embedding = self._tensor(file, "token_embd.weight").to(self.dtype)
        own_head = file.has("output.weight")  # else the embedding is the head too
        self._head_rows = self._tensor(file, "output.weight").to(self.dtype) if own_head else self._embedding
        self._head = self._linear(file, "output.weight" if own_head else "token_embd.weight")
        self._norm = self._tensor(file, "output_norm.weight")
        self._layers = [self._layer(file, f"blk.{i}.") for i in range(self.shape.layers)]
        self._turns = self._rotations(file)

    def cache(self) -> KV:
        """An empty cache for one sequence."""
        return KV(self.shape, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, tokens: list[int], kv: KV, every: bool = False) -> torch.Tensor:
        """Take `tokens` after what is in `kv`; gives float32 logits [1, vocabulary] of the last, or of `every` one."""
        x = self._states(tokens, kv)
        return self._logits(x if every else x[-1:], every)

    @torch.inference_mode()
    def surprises(self, tokens: list[int], kv: KV, following: list[int]) -> torch.Tensor:
        """Take `tokens` after what is in `kv`; gives the log-probability, float32 [n] in nats, of each one's successor
        in `following`. Successors' own logits are exact, the sums over the vocabulary as the model computes."""
        x = F.rms_norm(self._states(tokens, kv), (self.shape.hidden,), self._norm, self.shape.epsilon)
        rough = self._head(x.to(self.dtype)).float()
        own = (self._head_rows[torch.tensor(following, device=self.device)].float() * x).sum(-1)
        logs: torch.Tensor = own - rough.logsumexp(-1)
        return logs

    def _states(self, tokens: list[int], kv: KV) -> torch.Tensor:
        start, end = kv.length, kv.length + len(tokens)
        kv.reserve(end, self.shape.context)
        mask = self._mask(start, end)
        turns = self._turns[start:end, None]
        x = self._embedding[torch.tensor(tokens, device=self.device)].float()
        for i, layer in enumerate(self._layers):
            x = x + self._attend(i, layer, self._normed(x, layer.attention_norm), turns, kv, mask)
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        kv.length = end
        return x

    def _logits(self, x: torch.Tensor, every: bool) -> torch.Tensor:
        x = F.rms_norm(x, (x.shape[-1],), self._norm, self.shape.epsilon)
        if every:  # scoring a prompt: rare, and each row's own token must be exact
            return F.linear(x, self._head_rows.float())
        rough: torch.Tensor = self._head(x.to(self.dtype)).float()
        if self.dtype != torch.float32:
            # bfloat16 rounds a logit of 20 to the next 1/8, so the likeliest few are computed again.
            # (A threshold: topk is slow on so many equal values.)
            ids = (rough[0] >= rough.max() - _EXACT).nonzero()[:, 0]
            rough[0, ids] = self._head_rows[ids].float() @ x[0]
        return rough

    def _attend(
        self, i: int, layer: _Layer, x: torch.Tensor, turns: torch.Tensor, kv: KV, mask: torch.Tensor | None
    ) -> torch.Tensor:
        s, n = self.shape, x.shape[0]
        qkv = layer.qkv(x).view(n, s.heads + 2 * s.kv_heads, s.head)
        qk = _turned(qkv[:, : s.heads + s.kv_heads], turns).transpose(0, 1)
        keys, values = kv.put(i, kv.length, qk[s.heads :], qkv[:, s.heads + s.kv_heads :].transpose(0, 1))
        if n == 1:
            # The query heads of one key head are the rows of one small product: no head is repeated.
            q = qk[: s.heads].reshape(1, s.kv_heads, -1, s.head)
            a = F.scaled_dot_product_attention(q, keys[None], values[None])
        else:
            q = qk[None, : s.heads]
            first = mask is None
            a = F.scaled_dot_product_attention(
                q, keys[None], values[None], attn_mask=mask, is_causal=first, enable_gqa=s.heads != s.kv_heads
            )
            a = a.transpose(1, 2)
        out: torch.Tensor = layer.out(a.reshape(n, s.heads * s.head))
        return out

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.epsilon).to(self.dtype)

    def _mask(self, start: int, end: int) -> torch.Tensor | None:
        """Which keys each row may see; None where torch's own causal mask (or none, for one row) says it."""
        if start == 0 or end - start == 1:
            return None
        return torch.ones((end - start, end), dtype=torch.bool, device=self.device).tril(start)

    def _rotations(self, file: GGUF) -> torch.Tensor:
        """The rotation of each position and pair of a head: complex64 [context, head / 2]."""
        pairs = torch.arange(0, self.shape.head, 2, dtype=torch.float64)
        frequency = self.shape.rope_base ** (-pairs / self.shape.head) / self.shape.rope_scale
        if file.has("rope_freqs.weight"):  # Llama 3's long-context factors
            frequency = frequency / torch.from_numpy(file.floats("rope_freqs.weight")).double()
        angle = torch.outer(torch.arange(self.shape.context, dtype=torch.float64), frequency)
        return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(self.device)

    def _tensor(self, file: GGUF, name: str) -> torch.Tensor:
        return torch.from_numpy(file.floats(name)).to(self.device)

    def _linear(self, file: GGUF, *names: str) -> Linear:
        return Linear(file, names, self.compute, self.device)

    def _layer(self, file: GGUF, at: str) -> _Layer:
        return _Layer(
            attention_norm=self._tensor(file, at + "attn_norm.weight"),
            qkv=self._linear(file, *(f"{at}attn_{part}.weight" for part in "qkv")),
            out=self._linear(file, at + "attn_output.weight"),
            mlp_norm=self._tensor(file, at + "ffn_norm.weight"),
            gate_up=self._linear(file, at + "ffn_gate.weight", at + "ffn_up.weight"),
            down=self._linear(file, at + "ffn_down.weight"),
        )


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate neighbouring pairs of each head (ggml keeps llama's halves interleaved)."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _count(metadata: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = metadata.get(f"llama.{name}", default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 24:
        raise ModelUnavailable(f"the weights are damaged: 'llama.{name}' is {value!r}")
    return value


def _check_shapes(file: GGUF, s: Shape) -> None:
    """Every matrix must be as the metadata says, or the forward pass would fail in the middle of an answer."""
    if s.heads % s.kv_heads or s.head % 2:
        raise ModelUnavailable(f"the weights are damaged: {s.heads} heads, {s.kv_heads} key heads of {s.head}")
    expected: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (s.vocabulary, s.hidden),
        "output_norm.weight": (s.hidden,),
    }
    for i in range(s.layers):
        at = f"blk.{i}."
        mlp = file.shape(at + "ffn_down.weight")[-1]
        expected |= {f"{at}attn_norm.weight": (s.hidden,), f"{at}ffn_norm.weight": (s.hidden,)}
        expected |= {
            f"{at}attn_q.weight": (s.heads * s.head, s.hidden),
            f"{at}attn_k.weight": (s.kv_heads * s.head, s.hidden),
        }
        expected |= {f"{at}attn_v.weight": (s.kv_heads * s.head, s.hidden)}
        expected |= {f"{at}attn_output.weight": (s.hidden, s.heads * s.head), f"{at}ffn_down.weight": (s.hidden, mlp)}
        expected |= {f"{at}ffn_gate.weight": (mlp, s.hidden), f"{at}ffn_up.weight": (mlp, s.hidden)}
    for name, shape in expected.items():
        if file.shape(name) != shape:
            raise ModelUnavailable(f"the weights are damaged: {name} is {file.shape(name)}, not {shape}")
