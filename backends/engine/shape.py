"""A model's sizes and facts, whatever file they came from: all that a forward pass must know beside the tensors.

The architectures that run are rows of one table: they are one block (grouped-query attention, rotary positions,
RMSNorm, SwiGLU) with or without biases on q, k and v, and with or without a norm on each head of q and k. Knows no file
format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...protocol.errors import ModelUnavailable


@dataclass(frozen=True, slots=True)
class Family:
    """What tells one architecture from another. `pairs_in_gguf`: llama's files keep rotary pairs as neighbours."""

    biases: bool = False
    qk_norm: bool = False
    pairs_in_gguf: bool = False


FAMILIES = {
    "llama": Family(pairs_in_gguf=True),
    "qwen2": Family(biases=True),
    "qwen3": Family(qk_norm=True),
}


def family(architecture: Any) -> Family:
    """Raises ModelUnavailable naming the architecture and the ones that run."""
    found = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if found is None:
        raise ModelUnavailable(
            f"the weights' architecture is '{str(architecture)[:60]}'; the engine runs {', '.join(FAMILIES)}"
        )
    return found


@dataclass(frozen=True, slots=True)
class Scaling:
    """How rotary positions are stretched for contexts longer than the model was first trained with.

    linear: positions are divided by `factor`. llama3: slow pairs only (Llama 3.1's rule, between `low` and `high`
    turns). yarn: the same idea with a ramp between `low` and `high` turns within `original` positions, and larger
    attention scores (arXiv 2309.00071).
    """

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    magnitude: float | None = None


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. `frequencies` are radians a position for each of a head's pairs, scaling included; cosine and
    sine are multiplied by `magnitude`. `interleaved`: pair i is (2i, 2i + 1) of a head, else (i, i + head / 2)."""

    frequencies: tuple[float, ...]
    interleaved: bool
    magnitude: float = 1.0
    base: float = 10000.0
    scaling: Scaling = Scaling()

    @classmethod
    def build(
        cls,
        head: int,
        base: float,
        interleaved: bool,
        scaling: Scaling | None = None,
        factors: npt.NDArray[np.float32] | None = None,
    ) -> Rope:
        """`factors` [head / 2], if the file has them, divide the frequencies (llama.cpp's form of llama3 scaling)."""
        scaling = scaling or Scaling()
        plain = base ** (-np.arange(0, head, 2, dtype=np.float64) / head)
        frequencies = _scaled(plain, scaling, head, base)
        if factors is not None:
            frequencies = frequencies / factors.astype(np.float64)
        magnitude = scaling.magnitude
        if magnitude is None:
            magnitude = 0.1 * math.log(scaling.factor) + 1.0 if scaling.kind == "yarn" else 1.0
        return cls(tuple(map(float, frequencies)), interleaved, magnitude, base, scaling)

    def described(self) -> dict[str, Any]:
        """As a hub's config.json has it. Raises ModelUnavailable for what such a file cannot say."""
        s, head = self.scaling, 2 * len(self.frequencies)
        again = Rope.build(head, self.base, self.interleaved, s)
        if not np.allclose(again.frequencies, self.frequencies, rtol=1e-6):
            raise ModelUnavailable("the weights scale their rotary positions in a way that config.json cannot say")
        if s.kind == "none":
            return {"rope_theta": self.base}
        scaled: dict[str, Any] = {"rope_type": s.kind, "factor": s.factor, "rope_theta": self.base}
        if s.kind == "llama3":
            scaled |= {"low_freq_factor": s.low, "high_freq_factor": s.high}
        if s.kind == "yarn":
            scaled |= {"beta_slow": s.low, "beta_fast": s.high, "attention_factor": self.magnitude}
        if s.kind != "linear":
            scaled["original_max_position_embeddings"] = s.original
        return {"rope_theta": self.base, "rope_scaling": scaled}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes in elements; `head` is one head's width, `context` in tokens, `epsilon` the norms'.

    `tied`: the embedding is the head too. `biases` on q, k, v; `qk_norm`: RMSNorm over each head of q and k before the
    rotation.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    context: int
    epsilon: float
    rope: Rope
    biases: bool
    qk_norm: bool
    tied: bool

    def __post_init__(self) -> None:
        """Raises ModelUnavailable when the sizes contradict one another."""
        if self.heads % self.kv_heads or self.head % 2:
            raise ModelUnavailable(
                f"the weights are damaged: {self.heads} heads, {self.kv_heads} key heads of {self.head}"
            )

    def dimensions(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model by its canonical name, with its dimensions, rows first."""
        out: dict[str, tuple[int, ...]] = {"embedding": (self.vocabulary, self.hidden), "norm": (self.hidden,)}
        if not self.tied:
            out["head"] = (self.vocabulary, self.hidden)
        for i in range(self.layers):
            out |= {f"layers.{i}.{name}": d for name, d in self._layer().items()}
        return out

    def _layer(self) -> dict[str, tuple[int, ...]]:
        q, kv, hidden = self.heads * self.head, self.kv_heads * self.head, self.hidden
        out: dict[str, tuple[int, ...]] = {"attention_norm": (hidden,), "mlp_norm": (hidden,)}
        out |= {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}
        out |= {"gate": (self.mlp, hidden), "up": (self.mlp, hidden), "down": (hidden, self.mlp)}
        if self.biases:
            out |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,)}
        if self.qk_norm:
            out |= {"q_norm": (self.head,), "k_norm": (self.head,)}
        return out


def count(facts: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A positive whole number of a file's header or config. Raises ModelUnavailable when it is none."""
    value = facts.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 24:
        raise ModelUnavailable(f"the weights are damaged: '{name}' is {value!r}")
    return value


def number(facts: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A positive finite number. Raises ModelUnavailable when it is none."""
    value = facts.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ModelUnavailable(f"the weights are damaged: '{name}' is {value!r}")
    return float(value)


Frequencies = npt.NDArray[np.float64]


def _scaled(plain: Frequencies, scaling: Scaling, head: int, base: float) -> Frequencies:
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    if scaling.kind == "yarn":
        return _yarn(plain, scaling, head, base)
    return plain


def _llama3(plain: Frequencies, s: Scaling) -> Frequencies:
    """Pairs that turn more than `high` times in the first context stay; fewer than `low`: slowed; between: a blend."""
    turns = s.original * plain / (2 * math.pi)
    keep = np.clip((turns - s.low) / (s.high - s.low), 0.0, 1.0)
    blended: Frequencies = keep * plain + (1 - keep) * plain / s.factor
    return blended


def _yarn(plain: Frequencies, s: Scaling, head: int, base: float) -> Frequencies:
    def pair(turns: float) -> float:
        """Which pair turns that often in the first context."""
        return head * math.log(s.original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(pair(s.high)), 0), min(math.ceil(pair(s.low)), head - 1)
    slow = np.clip((np.arange(head // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)
    blended: Frequencies = slow * plain / s.factor + (1 - slow) * plain
    return blended
