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

from ...kernels.switch import serves
from .request import Choice, Sampling


class Grammar(Protocol):
    """What is asked of a grammar here: which tokens it allows [vocabulary], and the last word on one of them."""

    def mask(self) -> npt.NDArray[np.bool_]: ...

    def settle(self, token: int) -> int: ...


_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]

# Gumbel noise of 24 random bits lies between -2.9 and 17: what is farther below the best can never be drawn.
_REACH = 20.0
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
    best = _likeliest(scores)
    hot = [i for i, law in enumerate(laws) if law.sampling.temperature > 0]
    if hot:
        for i, ids, noisy in _noisy(scores, laws, hot):
            best[i] = int(ids[noisy.argmax()])
    return best


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
    a, b = _mixed((seed & _ALL) ^ _mixed(position & _ALL)), _mixed(seed + position + 1 & _ALL)
    x = tokens.astype(np.uint32) * np.uint32(0x9E3779B9) ^ np.uint32(a & 0xFFFFFFFF)
    for key in (a >> 32, b & 0xFFFFFFFF):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
        x ^= np.uint32(key)
    u = ((x >> np.uint32(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-24)
    out: _Floats = -np.log(-np.log(u))
    return out


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


def _noisy(scores: torch.Tensor, laws: Sequence[Law], hot: Sequence[int]) -> list[tuple[int, _Ids, _Floats]]:
    """For each hot row the tokens that can be drawn, and their log-probabilities with noise: the largest is drawn."""
    heat = torch.tensor([max(laws[i].sampling.temperature, 1e-4) for i in hot], device=scores.device)
    rows = scores if len(hot) == len(scores) else scores[torch.tensor(hot, device=scores.device)]
    logs = torch.log_softmax(rows / heat[:, None], dim=-1)
    best = logs.amax(-1, keepdim=True)
    out = []
    for i, row, top in zip(hot, logs, best, strict=True):
        ids, values = _nucleus(row, float(top), laws[i].sampling)
        out.append((i, ids, values + gumbel(laws[i].sampling.seed, laws[i].position, ids)))
    return out


def _nucleus(row: torch.Tensor, best: float, sampling: Sampling) -> tuple[_Ids, _Floats]:
    """The tokens that top_p, top_k and min_p leave, and what may be drawn at all, with their log-probabilities."""
    for reach in (_NEAR, _REACH):
        found = (row >= best - reach).nonzero()[:, 0]
        ids: _Ids = found.cpu().numpy()
        values: _Floats = row[found].cpu().numpy()
        floor = _floor(values, best, reach, sampling)
        if floor is not None:
            kept = values >= floor
            return ids[kept], values[kept]
    return ids, values


def _floor(values: _Floats, best: float, reach: float, sampling: Sampling) -> float | None:
    """The least log-probability that is left; None where no bound is within reach of the best, as `values` are."""
    floors: list[float | None] = []
    if sampling.min_p > 0:
        floors.append(best + float(np.log(sampling.min_p)))
    if 0 < sampling.top_k <= len(values):
        floors.append(float(np.partition(values, -sampling.top_k)[-sampling.top_k]))
    if sampling.top_p < 1:
        floors.append(_top_p(values, sampling.top_p))
    known = [floor for floor in floors if floor is not None and floor >= best - reach]
    return max(known, default=None)


def _top_p(values: _Floats, top_p: float) -> float | None:
    ordered = np.sort(values)[::-1]
    mass = np.cumsum(np.exp(ordered.astype(np.float64)))
    at = int(np.searchsorted(mass, top_p))
    return float(ordered[at]) if at < len(ordered) else None
