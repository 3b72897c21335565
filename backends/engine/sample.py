"""Choosing the next token from a row of logits.

The noise of each choice is keyed by (seed, position), never drawn from a running stream: the same seed gives the same
token whatever else the engine does meanwhile, and a later speculation can draw the very token it verifies.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import torch

from .grammar import JsonGrammar
from .request import Choice, Sampling

_Floats = npt.NDArray[np.float32]


def choose(
    logits: torch.Tensor, sampling: Sampling, said: Counter[int], position: int, grammar: JsonGrammar | None = None
) -> Choice:
    """The token at `position` of an answer that has `said` these tokens before."""
    row = logits.reshape(-1)
    scores = _processed(row, sampling, said)
    if sampling.temperature > 0:
        scores = _noisy(scores, sampling, position)
    token = int(scores.argmax()) if grammar is None else _first_accepted(scores, grammar)
    return logprobs(row, token, sampling.logprobs)


def logprobs(row: torch.Tensor, token: int, alternatives: int | None) -> Choice:
    """`token` with the log-probabilities that were asked for."""
    if alternatives is None:
        return Choice(token)
    logs = torch.log_softmax(row.reshape(-1).float(), dim=-1)
    values, ids = logs.topk(min(alternatives, len(logs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Choice(token, float(logs[token]), top)


def _processed(row: torch.Tensor, sampling: Sampling, said: Counter[int]) -> torch.Tensor:
    """Bias and penalties, as OpenAI defines them: over the answer so far, not the prompt."""
    penal = (sampling.frequency_penalty or sampling.presence_penalty) and said
    if not (penal or sampling.logit_bias):
        return row.float().cpu()
    scores = row.float().cpu().clone()
    if penal:
        ids = torch.tensor(list(said))
        counts = torch.tensor([float(n) for n in said.values()])
        scores[ids] -= counts * sampling.frequency_penalty + sampling.presence_penalty
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    return scores


def _noisy(scores: torch.Tensor, sampling: Sampling, position: int) -> torch.Tensor:
    """Scores whose largest is a draw from the nucleus: Gumbel noise on log-probabilities, -inf outside it."""
    logs = torch.log_softmax(scores / max(sampling.temperature, 1e-4), dim=-1)
    floor = _nucleus(logs, sampling)
    if floor is not None:
        logs = logs.masked_fill(logs < floor, -torch.inf)
    return logs + torch.from_numpy(_gumbel(sampling.seed, position, len(logs)))


def _nucleus(logs: torch.Tensor, sampling: Sampling) -> float | None:
    """The least log-probability that top_p, top_k and min_p leave; None when they leave all."""
    floors: list[float] = []
    if 0 < sampling.top_k < len(logs):
        floors.append(float(logs.topk(sampling.top_k).values[-1]))
    if sampling.min_p > 0:
        floors.append(float(logs.max()) + float(np.log(sampling.min_p)))
    if sampling.top_p < 1:
        floors.append(_top_p_floor(logs, sampling.top_p))
    return max(floors) if floors else None


def _top_p_floor(logs: torch.Tensor, top_p: float) -> float:
    # The likeliest few nearly always hold top_p of the mass; a whole sort costs thirty times more.
    for depth in (10.0, torch.inf):
        values = logs[logs >= logs.max() - depth].sort(descending=True).values
        mass = values.exp().cumsum(0)
        if float(mass[-1]) >= top_p:
            break
    return float(values[min(int((mass < top_p).sum()), len(values) - 1)])


def _gumbel(seed: int, position: int, size: int) -> _Floats:
    generator = np.random.Generator(np.random.Philox(key=seed & (1 << 64) - 1, counter=[0, 0, 0, position]))
    noise = generator.standard_exponential(size, dtype=np.float32)
    np.maximum(noise, np.float32(1e-30), out=noise)
    return -np.log(noise, out=noise)


def _first_accepted(scores: torch.Tensor, grammar: JsonGrammar) -> int:
    """The best-scored token that the grammar accepts: with noisy scores, a draw from the masked law."""
    for width in (32, 1024):
        top = scores.topk(min(width, len(scores)))
        for token, score in zip(top.indices.tolist(), top.values.tolist(), strict=True):
            if score > -torch.inf and grammar.accepts(token):
                return int(token)
    return grammar.way_out()
