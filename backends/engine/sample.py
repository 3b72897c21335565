"""Choosing the next tokens from rows of logits, each row by its own law.

The noise of each choice is keyed by (seed, position, token), never drawn from a running stream: the same seed gives the
same token whatever else the engine does meanwhile, speculation draws the very token it verifies, and a draft model that
uses the same noise often draws it too. On a GPU a kernel draws by the same law, with noise of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.switch import native, serves
from .request import Choice, Sampling


class Grammar(Protocol):
    """What is asked of a grammar here: which tokens it allows [vocabulary], and the last word on one of them."""

    def mask(self) -> npt.NDArray[np.bool_]: ...

    def settle(self, token: int) -> int: ...


_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]

# Gumbel noise of 23 random bits lies between -2.8 and 16.7: what is farther below the best can never be drawn.
_REACH = 20.0
_CPU = torch.device("cpu")
LEAST = 16  # tokens that a vocabulary has for our own native function to draw of it
_LOG2_E = 1.4426950408889634
_NEAR = 10.0  # within this of the best nearly all the mass lies


@dataclass(frozen=True, slots=True)
class Law:
    """How one row is drawn: `position` in the answer, and how often the answer has `said` each token before it (read
    only where penalties ask for it)."""

    sampling: Sampling
    position: int = 0
    said: Mapping[int, int] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the row's likeliest token is simply taken."""
        s = self.sampling
        return s.temperature == 0 and not self.altered

    @property
    def altered(self) -> bool:
        s = self.sampling
        return bool(s.logit_bias or ((s.frequency_penalty or s.presence_penalty) and self.said))


def draw(logits: torch.Tensor, laws: Sequence[Law]) -> list[int]:
    """The token of each row of `logits` [rows, vocabulary]."""
    if all(law.plain for law in laws):
        return _likeliest(logits)
    scores = processed(logits, laws)
    if serves(scores.device):
        from .sample_kernels import drawn

        return drawn(scores, laws)
    return _on_cpu(scores.numpy(), laws)


def _on_cpu(rows: _Floats, laws: Sequence[Law]) -> list[int]:
    free = [i for i, law in enumerate(laws) if _unbounded(law.sampling)]
    drawn: dict[int, int] = {}
    if free and native(_CPU) and rows.shape[1] >= LEAST:
        from .sample_native import drawn_natively

        whole = rows if len(free) == len(rows) else rows[free]
        drawn = dict(zip(free, drawn_natively(whole, [laws[i] for i in free]), strict=True))
    out = []
    for i, law in enumerate(laws):
        if i in drawn:
            out.append(drawn[i])
        else:
            out.append(_drawn(rows[i], law) if law.sampling.temperature > 0 else int(rows[i].argmax()))
    return out


def _unbounded(sampling: Sampling) -> bool:
    """Whether every token may be drawn."""
    return sampling.temperature > 0 and sampling.top_p >= 1 and sampling.top_k <= 0 and sampling.min_p <= 0


def _likeliest(scores: torch.Tensor) -> list[int]:
    # On a CPU numpy finds it in a tenth of the time that torch takes.
    rows = scores.numpy() if scores.device.type == "cpu" else scores
    best: list[int] = rows.argmax(-1).tolist()
    return best


def draw_within(logits: torch.Tensor, law: Law, grammar: Grammar) -> int:
    """The token of one row [vocabulary] that the grammar allows: a draw from the masked law."""
    allowed = torch.from_numpy(grammar.mask()).to(logits.device)
    masked = logits.float().masked_fill(~allowed, -torch.inf)
    return grammar.settle(draw(masked[None], [law])[0])


def logprobs(row: torch.Tensor, token: int, alternatives: int | None) -> Choice:
    """`token` with the log-probabilities that were asked for, of the model's unprocessed logits [vocabulary]."""
    if alternatives is None:
        return Choice(token)
    logs = torch.log_softmax(row.float(), dim=-1)
    values, ids = logs.topk(min(alternatives, len(logs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Choice(token, float(logs[token]), top)


def logprob(row: torch.Tensor, token: int) -> float:
    """Of one token by unprocessed logits [vocabulary], in nats: a fraction of what `logprobs` takes."""
    top = row.amax()
    return float(row[token] - top - torch.log(torch.exp2((row - top).mul_(_LOG2_E)).sum()))


def processed(logits: torch.Tensor, laws: Sequence[Law]) -> torch.Tensor:
    """Bias and penalties, as OpenAI defines them: over the answer so far, not the prompt."""
    scores = logits.float()
    if any(law.altered for law in laws):
        scores = scores.clone()
        for row, law in zip(scores, laws, strict=True):
            _alter(row, law)
    return scores


def gumbel(seed: int, position: int, tokens: _Ids) -> _Floats:
    """The noise of these tokens at this position of an answer with this seed."""
    first, *others = noise_keys(seed, position)
    x = tokens.astype(np.uint32) * np.uint32(0x9E3779B9) ^ np.uint32(first)
    for key in others:
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
        x ^= np.uint32(key)
    # With a bit more, half of the last place is lost, and now and then u is 1: whose noise is infinite.
    u = ((x >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)
    out: _Floats = -np.log(-np.log(u))
    return out


def noise_keys(seed: int, position: int) -> tuple[int, int, int]:
    """32 bits each, that tell one position of one seed's answer from all others."""
    a, b = _mixed((seed & _ALL) ^ _mixed(position & _ALL)), _mixed(seed + position + 1 & _ALL)
    return a & 0xFFFFFFFF, a >> 32, b & 0xFFFFFFFF


_ALL = (1 << 64) - 1


def _mixed(x: int) -> int:
    """Splitmix64's finisher: every bit of the key changes every bit of the noise's."""
    x = (x + 0x9E3779B97F4A7C15) & _ALL
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _ALL
    return x ^ x >> 31


def _alter(row: torch.Tensor, law: Law) -> None:
    s = law.sampling
    if (s.frequency_penalty or s.presence_penalty) and law.said:
        ids = torch.tensor(list(law.said), device=row.device)
        counts = torch.tensor([float(n) for n in law.said.values()], device=row.device)
        row[ids] -= counts * s.frequency_penalty + s.presence_penalty
    if s.logit_bias:
        ids = torch.tensor(list(s.logit_bias), device=row.device)
        row[ids] += torch.tensor(list(s.logit_bias.values()), device=row.device)


def _drawn(logits: _Floats, law: Law) -> int:
    """The token of one row on a CPU: of those that the law leaves, the largest log-probability with noise."""
    s = law.sampling
    row = logits * np.float32(heat(s))
    ids, values = _nucleus(row, s)
    return int(ids[(values + gumbel(s.seed, law.position, ids)).argmax()])


def heat(sampling: Sampling) -> float:
    """What logits are multiplied by."""
    return 1 / max(sampling.temperature, 1e-4)


def _nucleus(row: _Floats, sampling: Sampling) -> tuple[_Ids, _Floats]:
    """The tokens that top_p, top_k and min_p leave, and what may be drawn at all, with their log-probabilities but for
    a term that all have."""
    best = float(row.max())
    for reach in (_NEAR, _REACH):
        ids: _Ids = np.flatnonzero(row >= best - reach)
        values = row[ids]
        floor = _floor(row, values, best, reach, sampling)
        if floor is not None:
            kept = values >= floor
            return ids[kept], values[kept]
    return ids, values


def _floor(row: _Floats, values: _Floats, best: float, reach: float, sampling: Sampling) -> float | None:
    """The least value of the row that is left; None where no bound is within reach of the best, as `values` are."""
    floors: list[float | None] = []
    if sampling.min_p > 0:
        floors.append(best + float(np.log(sampling.min_p)))
    if 0 < sampling.top_k <= len(values):
        floors.append(float(np.partition(values, -sampling.top_k)[-sampling.top_k]))
    if sampling.top_p < 1:
        floors.append(_top_p(row - np.float32(best), values - np.float32(best), sampling.top_p, best))
    known = [floor for floor in floors if floor is not None and floor >= best - reach]
    return max(known, default=None)


def _top_p(row: _Floats, values: _Floats, top_p: float, best: float) -> float | None:
    """`row` and the `values` near the best of it, from which they are counted; the bound is counted as `best` is."""
    ordered = np.sort(values)[::-1]
    mass = np.cumsum(np.exp(ordered.astype(np.float64)))
    at = int(np.searchsorted(mass, top_p * float(np.exp(row).sum(dtype=np.float64))))
    return float(ordered[at]) + best if at < len(ordered) else None
